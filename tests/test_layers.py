"""Who may import whom, and what stays unloaded until it is needed."""

import ast
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "anser"

# A module imports only what stands to its left; a new one has to be given its place.
ORDER = (
    "errors instruments midi notes meter midi_edit repair tracks fitting song selection verify "
    "vocab rules rules_check ranges codec room ground chords controls control_words "
    "prompt implied grammar ruling sampling steering reading report infill plain "
    "take_file apart vary rank wishes bind models "
    "show roll ask demo bench options tell cli"
).split()
FOLDERS = {
    "rwkv7": {"errors"},  # knows nothing of music
    "train": {*takewhile(lambda name: name != "infill", ORDER), "rwkv7"},
    "evaluate": {*takewhile(lambda name: name != "ask", ORDER), "rwkv7", "train"},
    "data": set(),
}


def _modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).with_suffix("").parts, path


def _imports(path):
    """Yield the parts of our own that a module imports: ("song",), ("rwkv7", "engine") …"""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            words = (node.module or "").split(".")
            if words == ["anser"]:
                yield from ((alias.name,) for alias in node.names)
            elif words[0] == "anser":
                yield tuple(words[1:])
        elif isinstance(node, ast.Import):
            named = [alias.name.split(".") for alias in node.names]
            yield from (tuple(words[1:]) for words in named if words[0] == "anser")


@pytest.mark.parametrize(
    ("parts", "path"), [pytest.param(*pair, id=".".join(pair[0])) for pair in _modules()]
)
def test_modules_import_only_what_stands_to_their_left(parts, path):
    top = parts[0]
    if top in ("__init__", "__main__"):
        return
    if top in FOLDERS:
        allowed = FOLDERS[top] | {top}
    else:
        assert top in ORDER, f"{top}: give the new module its place in ORDER"
        allowed = {*takewhile(lambda name: name != top, ORDER), "rwkv7"}
    allowed.add("_engine" if parts == ("rwkv7", "engine") else top)
    found = {target[0] for target in _imports(path)}
    assert found <= allowed, f"{'.'.join(parts)} may not import {sorted(found - allowed)}"


def test_only_the_torch_folders_name_torch_at_the_top():
    for parts, path in _modules():
        if parts[0] == "train" or parts[:2] == ("rwkv7", "torch"):
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "torch" for name in names), ".".join(parts)


def _loaded_by(program):
    """Return the top-level names of what a fresh interpreter has loaded after a program."""
    code = f"{program}\nimport sys\nprint(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_library_loads_neither_torch_nor_anything_of_terminal_or_web():
    loaded = _loaded_by("import anser\nfor name in anser.__all__: getattr(anser, name)")
    assert "numpy" in loaded
    unwanted = {"torch", "typer", "rich", "PIL", "starlette", "uvicorn", "http", "mido"}
    assert not loaded & unwanted


def test_the_command_line_loads_nothing_heavy_before_a_command_runs():
    assert not _loaded_by("import anser, anser.cli") & {"torch", "numpy", "PIL", "safetensors"}


def test_commands_run_without_torch(tmp_path):
    song = PACKAGE / "data" / "demo.mid"
    words = ["anser", "show", str(song), "--png", str(tmp_path / "roll.png")]
    program = f"import sys; sys.argv = {words!r}\nfrom anser.cli import main\n"
    program += "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code"
    assert "torch" not in _loaded_by(program)
