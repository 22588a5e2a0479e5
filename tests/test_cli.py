"""The command line, from words to files, lines and exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from anser import cli, demo
from anser.errors import RuleError
from anser.song import Song
from tiny_model import write_model


@dataclass
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Run the command line in an empty folder; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["anser", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture
def song(tmp_path):
    folder = tmp_path / "given"
    folder.mkdir()
    path = folder / "song.mid"
    demo.song().write(path)
    return path


@pytest.fixture
def fill(call, song, model):
    """Fill bars 13-14 of the bass."""

    def run(*words):
        return call(
            "infill", song, "--cells", "bass:13-14", "--model", model, "-o", "out.mid", *words
        )

    return run


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_without_a_command_all_of_them_are_listed(call, words):
    done = call(*words)
    assert done.code == 0
    listed = [line.split()[0] for line in done.out.splitlines() if line.startswith("  ")]
    assert {"demo", "show", "infill", "vary", "continue", "apply", "verify", "bench"} <= {*listed}
    assert "..." not in done.out.replace("[ARGS]...", "")


def test_demo_needs_no_argument_but_weights(call, model):
    done = call("demo", "--model", model)
    assert done.code == 0
    assert "Try next" in done.out
    folder = Path("anser-demo")
    names = {path.name for path in folder.iterdir()}
    assert names == {"before.mid", "before.png", "after.mid", "after.png"}
    before = Song.read(folder / "before.mid")
    bars = before.bars.at(before.tracks[4].notes["onset"])
    assert not set(bars.tolist()) & {12, 13, 14, 15}
    verified = call(
        "verify", folder / "after.mid", "--against", folder / "before.mid", "--cells", demo.CELLS
    )
    assert (verified.code, verified.err) == (0, "")


def test_infill_writes_the_cells_and_reports(fill, call, song):
    done = fill("--json", "--density", "4")
    report = json.loads(done.out)
    assert (done.code, done.err) == (0, "")
    assert report["selection"] == "5:13-14"
    assert report["model"] == "tiny"
    (take,) = report["takes"]
    assert take["file"] == "out.mid"
    assert [cell["bar"] for cell in take["cells"]] == [13, 14]
    assert all(cell["asked"] == {"density": 4.0} for cell in take["cells"])
    assert call("verify", "out.mid", "--against", song, "--cells", "bass:13-14").code == 0


def test_equal_words_give_equal_bytes(fill):
    fill("--seed", "3", "--quiet")
    first = Path("out.mid").read_bytes()
    fill("--seed", "3", "--quiet", "--threads", "1")
    assert Path("out.mid").read_bytes() == first
    fill("--seed", "4", "--quiet")
    assert Path("out.mid").read_bytes() != first


def test_several_takes_go_to_several_files_best_first(fill):
    report = json.loads(fill("--takes", "3", "--json").out)
    files = [take["file"] for take in report["takes"]]
    assert files == ["out.1.mid", "out.2.mid", "out.3.mid"]
    assert all(Path(file).exists() for file in files)
    assert not Path("out.mid").exists()
    scores = [take["ranking"]["score"] for take in report["takes"]]
    assert scores == sorted(scores, reverse=True)
    assert sorted(take["take"] for take in report["takes"]) == [1, 2, 3]


def test_a_take_that_is_kept_is_applied_again_to_the_byte(fill, call, song):
    report = json.loads(fill("--takes", "2", "--save-takes", "--density", "3", "--json").out)
    files = [(take["file"], take["take_file"]) for take in report["takes"]]
    assert files == [("out.1.mid", "out.1.take.json"), ("out.2.mid", "out.2.take.json")]
    done = call("apply", "out.2.take.json", song, "-o", "again.mid")
    assert (done.code, done.err) == (0, "")
    assert Path("again.mid").read_bytes() == Path("out.2.mid").read_bytes()
    changed = call("apply", "out.2.take.json", "out.1.mid", "-o", "again.mid")
    assert changed.code == 2
    assert "--anyway" in changed.err
    assert call("apply", "out.2.take.json", "out.1.mid", "-o", "b.mid", "--anyway").code == 0
    assert Path("b.mid").read_bytes() == Path("out.2.mid").read_bytes()


def test_takes_differ_from_each_other_and_from_earlier_ones(fill):
    fill("--save-takes", "--quiet")
    again = json.loads(fill("--avoid", "out.take.json", "--json").out)["takes"][0]
    assert again["take"] == 2
    several = json.loads(fill("--takes", "3", "--apart", "0.2", "--json").out)["takes"]
    assert all(take["ranking"]["common_with_other_takes"] < 1 for take in several)
    assert all("the others" in take["ranking"]["why"] for take in several)


def test_vary_keeps_as_much_as_it_is_told(call, song, model):
    words = ("--track", "bass", "--bars", "9-10", "--model", model, "--json", "-o", "out.mid")
    kept = []
    for amount in (0, 0.3, 0.7, 1):
        report = json.loads(call("vary", song, *words, "--amount", amount).out)
        kept.append(report["takes"][0]["likeness_kept"])
        assert call("verify", "out.mid", "--against", song, "--cells", "bass:9-10").code == 0
    assert kept[0] == 1
    assert kept == sorted(kept, reverse=True)


def test_it_says_which_take_is_where(fill):
    lines = fill("--takes", "2").out.splitlines()
    assert lines[0].startswith("out.1.mid: ")
    assert lines[1].startswith("out.2.mid: ")
    assert "of seed 0" in lines[0]


def test_quiet_prints_nothing(fill):
    done = fill("--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_controls_go_to_the_track_they_name(call, song, model):
    words = ("--cells", "bass:13, drums:13", "--density", "3", "--density", "drums=9")
    done = call("infill", song, *words, "--model", model, "--json", "-o", "out.mid")
    cells = json.loads(done.out)["takes"][0]["cells"]
    asked = {cell["track"]: cell["asked"] for cell in cells}
    assert asked == {5: {"density": 3.0}, 6: {"density": 9.0}}


def test_track_and_bars_are_the_same_as_cells(call, fill, song, model):
    fill("--quiet")
    words = ("--track", "bass", "--bars", "13-14", "--model", model, "--quiet")
    assert call("infill", song, *words, "-o", "same.mid").code == 0
    assert Path("same.mid").read_bytes() == Path("out.mid").read_bytes()


def test_progress_goes_to_stderr_when_that_is_a_terminal(fill, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    done = fill("--json")
    assert done.code == 0
    json.loads(done.out)


def test_continue_adds_bars_to_what_plays_at_the_end(call, song, model):
    words = ("--bars", "2", "--model", model, "--json", "-o", "longer.mid")
    report = json.loads(call("continue", song, *words).out)
    assert report["selection"] == "; ".join(f"{track}:25-26" for track in range(1, 7))
    assert Song.read("longer.mid").n_bars >= 25
    cells = report["selection"]
    assert call("verify", "longer.mid", "--against", song, "--cells", cells).code == 0


def test_continue_with_one_track(call, song, model):
    words = ("--bars", "1", "--tracks", "bass", "--model", model, "--json", "-o", "longer.mid")
    assert json.loads(call("continue", song, *words).out)["selection"] == "5:25"


def test_verify_lists_what_differs_outside(call, fill, song):
    fill("--quiet")
    done = call("verify", "out.mid", "--against", song, "--cells", "bass:14")
    assert done.code == 2
    assert '"Bass"' in done.out
    assert "bar 13" in done.out


def test_show_prints_a_table_and_an_example(call, song):
    done = call("show", song)
    assert done.code == 0
    assert "Rhythm guitar" in done.out
    assert "G1 to F2" in done.out
    assert f"anser infill {song} --track 2" in done.out


def test_show_as_json(call, song):
    facts = json.loads(call("show", song, "--json").out)
    assert facts["bars"] == 24
    assert facts["meters"] == [{"bar": 1, "meter": "4/4"}]
    assert facts["tracks"][0]["bars"] == "9-24"


def test_show_hears_chords(call, song):
    assert "chords, as far as they are heard" in call("show", song, "--chords").out
    heard = json.loads(call("show", song, "--chords", "--json").out)["chords"]
    assert [row["bar"] for row in heard] == list(range(1, 25))


def test_show_draws_a_picture(call, song):
    assert call("show", song, "--png", "roll.png", "--cells", "bass:9-12").code == 0
    assert Path("roll.png").read_bytes().startswith(b"\x89PNG")


def test_repair_says_what_was_changed(call, song, model):
    data = song.read_bytes()
    song.write_bytes(data[: len(data) // 2])
    words = ("--track", "1", "--bars", "9", "--model", model, "-o", "out.mid")
    assert call("infill", song, *words).code == 2
    done = call("infill", song, *words, "--repair")
    assert done.code == 0
    assert "repaired: " in done.err
    assert Path("out.mid").exists()


WRONG = {
    "no such song": ("infill", "none.mid", "--track", "1", "-o", "out.mid"),
    "not MIDI": ("infill", "text.mid", "--track", "1", "-o", "out.mid"),
    "cut short": ("infill", "cut.mid", "--track", "1", "-o", "out.mid"),
    "no tracks": ("infill", "empty.mid", "--track", "1", "-o", "out.mid"),
    "nothing to continue": ("continue", "silent.mid", "--bars", "2", "-o", "out.mid"),
    "a folder": ("show", "given"),
    "no cells": ("infill", "SONG", "-o", "out.mid"),
    "cells twice": ("infill", "SONG", "--cells", "1:1", "--track", "1", "-o", "out.mid"),
    "no such bar": ("infill", "SONG", "--track", "1", "--bars", "24-25", "-o", "out.mid"),
    "no such track": ("infill", "SONG", "--track", "7", "-o", "out.mid"),
    "ambiguous": ("infill", "SONG", "--track", "guitar", "-o", "out.mid"),
    "no such folder": ("infill", "SONG", "--track", "1", "-o", "none/out.mid"),
    "output is a folder": ("infill", "SONG", "--track", "1", "-o", "given"),
    "no folder for a picture": ("show", "SONG", "--png", "none/roll.png"),
    "no folder for the demo": ("demo", "-o", "none/demo"),
    "no such model": ("infill", "SONG", "--track", "1", "--model", "nope", "-o", "out.mid"),
    "model is a song": ("infill", "SONG", "--track", "1", "--model", "SONG", "-o", "out.mid"),
    "another's model": ("infill", "SONG", "--track", "1", "--model", "OTHER", "-o", "out.mid"),
    "no takes": ("infill", "SONG", "--track", "1", "--takes", "0", "-o", "out.mid"),
    "seed": ("infill", "SONG", "--track", "1", "--seed", "-1", "-o", "out.mid"),
    "top-p": ("infill", "SONG", "--track", "1", "--top-p", "0", "-o", "out.mid"),
    "threads": ("infill", "SONG", "--track", "1", "--threads", "0", "-o", "out.mid"),
    "density": ("infill", "SONG", "--track", "1", "--density", "many", "-o", "out.mid"),
    "density nan": ("infill", "SONG", "--track", "1", "--density", "nan", "-o", "out.mid"),
    "density of another": ("infill", "SONG", "--track", "1", "--density", "2=4", "-o", "out.mid"),
    "program": ("infill", "SONG", "--track", "1", "--program", "128", "-o", "out.mid"),
    "program of drums": ("infill", "SONG", "--track", "6", "--program", "1", "-o", "out.mid"),
    "no take": ("apply", "text.mid", "SONG", "-o", "out.mid"),
    "amount": ("vary", "SONG", "--track", "1", "--amount", "2", "-o", "out.mid", "--model", "TINY"),
    "apart": ("infill", "SONG", "--track", "1", "--apart", "1", "-o", "out.mid"),
    "avoid what is none": ("infill", "SONG", "--track", "1", "--avoid", "no.mid", "-o", "out.mid"),
    "no new bars": ("continue", "SONG", "--bars", "0", "-o", "out.mid"),
    "too many new bars": ("continue", "SONG", "--bars", "1001", "-o", "out.mid"),
    "verify nothing": ("verify", "none.mid", "--against", "SONG", "--cells", "1:1"),
}


@pytest.mark.parametrize("words", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_request_is_one_clear_line_and_writes_nothing(words, call, song, model, tmp_path):
    data = song.read_bytes()
    Path(tmp_path / "text.mid").write_text("no music")
    Path(tmp_path / "cut.mid").write_bytes(data[: len(data) // 2])
    Path(tmp_path / "empty.mid").write_bytes(b"MThd\0\0\0\6\0\1\0\0\1\xe0")
    end = b"MTrk\0\0\0\4\0\xff\x2f\0"
    Path(tmp_path / "silent.mid").write_bytes(b"MThd\0\0\0\6\0\1\0\1\1\xe0" + end)
    other = write_model(tmp_path / "other.safetensors", vocab="of another kind")
    places = {"SONG": song, "OTHER": other, "TINY": model}
    given = sorted(tmp_path.rglob("*"))
    model_words = ("--model", model) if "--model" not in words and words[0] == "infill" else ()
    done = call(*(places.get(word, word) for word in words), *model_words)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("anser: ")
    assert done.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == given


def test_the_output_folder_is_checked_before_any_work(call, monkeypatch):
    monkeypatch.setattr(Song, "read", lambda *_, **__: pytest.fail("read the song"))
    for command in (
        ("infill", "song.mid", "--track", "1"),
        ("continue", "song.mid", "--bars", "1"),
    ):
        done = call(*command, "-o", "none/out.mid")
        assert done.code == 2
        assert "existing folder" in done.err


def test_rules_that_allow_no_music_are_exit_3(fill, monkeypatch):
    def contradict(*_, **__):
        raise RuleError("rules: the scale and the range share no pitch.")

    monkeypatch.setattr("anser.ask.answer", contradict)
    done = fill()
    assert (done.code, done.err) == (3, "anser: rules: the scale and the range share no pitch.\n")


def test_a_bug_of_ours_is_exit_1_and_says_so(fill, call, monkeypatch):
    def break_down(*_, **__):
        raise KeyError("x")

    monkeypatch.setattr("anser.ask.answer", break_down)
    done = fill()
    assert done.code == 1
    assert "bug of ours" in done.err
    assert "--debug" in done.err
    with pytest.raises(KeyError):
        call("--debug", "infill", "given/song.mid", "--track", "1", "-o", "out.mid")


def test_interrupting_is_exit_130_and_writes_nothing(fill, monkeypatch, tmp_path):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("anser.ask.infill", interrupt)
    assert fill("--takes", "2").code == 130
    assert {path.name for path in tmp_path.iterdir()} == {"given"}


@pytest.mark.slow
def test_ctrl_c_in_a_real_process(song, model, tmp_path):
    words = ["continue", str(song), "--bars", "1000", "--model", str(model), "-o", "out.mid"]
    process = subprocess.Popen([sys.executable, "-m", "anser", *words], cwd=tmp_path)
    time.sleep(3)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(10) == 130
    assert {path.name for path in tmp_path.iterdir()} == {"given"}


def test_the_version_is_that_of_the_package(call):
    from importlib.metadata import version

    assert call("--version").out.strip() == version("anser")
