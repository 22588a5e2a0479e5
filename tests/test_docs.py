"""README and docs: examples run, outputs are what the pages say, links lead somewhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from anser import models

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
SETS_UP = ("make ", "pip ")  # lines that prepare a machine


def _examples(language):
    """Yield each example in a language, with the output (text) that the page shows for it."""
    for page in PAGES:
        blocks = FENCE.findall(page.read_text(encoding="utf-8"))
        for number, (kind, text) in enumerate(blocks):
            following = blocks[number + 1] if number + 1 < len(blocks) else ("", "")
            expected = following[1] if following[0] == "text" else None
            if kind == language:
                yield pytest.param(text, expected, id=f"{page.stem}-{number}")


@pytest.fixture
def folder(tmp_path):
    """A folder with a song in it, as the examples call it."""
    shutil.copy(ROOT / "src" / "anser" / "data" / "demo.mid", tmp_path / "song.mid")
    return tmp_path


def _run(words, folder):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    return subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def _needs_model(text):
    return re.search(r"anser\.load|anser (demo|infill|continue)", text) and not models.packaged()


def test_the_packaged_model_is_there():
    assert models.DEFAULT in models.packaged()


@pytest.mark.parametrize(("text", "expected"), list(_examples("python")))
def test_python_examples_run(text, expected, folder):
    if _needs_model(text):
        pytest.skip("no packaged model")
    done = _run([sys.executable, "-W", "error", "-c", text], folder)
    assert done.returncode == 0, done.stderr
    if expected is not None:
        assert _words(done.stdout) == _words(expected)


def test_the_commands_of_the_readme_run_one_after_the_other(folder):
    text = "".join(example.values[0] for example in _examples("sh"))
    lines = [line for line in text.splitlines() if not line.startswith(SETS_UP)]
    if _needs_model(text):
        pytest.skip("no packaged model")
    done = _run(["bash", "-euo", "pipefail", "-c", "\n".join(lines)], folder)
    assert done.returncode == 0, done.stderr


def _words(text):
    """Return the words of an output; pages may break its lines."""
    return text.split()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_readme_names_every_command():
    from anser.cli import app

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in app.registered_commands:
        name = command.name or command.callback.__name__
        assert f"anser {name}" in readme


def test_make_help_lists_what_there_is():
    done = subprocess.run(["make", "-s", "-C", ROOT], capture_output=True, text=True, check=True)
    for target in ("demo", "test", "check", "bench"):
        assert f"make {target}" in done.stdout
