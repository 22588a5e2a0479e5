import json

import pytest

from anser import bench, demo
from anser.selection import Selection
from anser.song import Song
from tiny_model import write_model


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    model = write_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")
    told = []
    measured = bench.measure(str(model), 1, long=False, tell=told.append)
    return measured, told


def test_the_reference_song_is_a_file_of_64_bars_and_six_tracks():
    song = bench.reference_song()
    again = Song.from_bytes(song.to_bytes())
    assert (song.n_bars, again.n_bars, len(again.tracks)) == (64, 64, 6)
    assert song.to_bytes() == bench.reference_song().to_bytes()
    once = demo.song()
    for part, whole in zip(once.tracks, again.tracks, strict=True):
        assert len(whole.notes) > 2.4 * len(part.notes)


@pytest.mark.parametrize(
    ("cells", "n_tracks"), [(bench.JOBS["1 track"], 1), (bench.JOBS["3 tracks"], 3)]
)
def test_the_jobs_fill_four_bars_where_something_plays(cells, n_tracks):
    song = bench.reference_song()
    selection = Selection.parse(cells, song)
    assert (len(selection.tracks), len(selection.bars)) == (n_tracks, 4)
    for track, bar in selection.cells:
        onset = song.tracks[track].notes["onset"]
        assert ((onset >= song.bars.starts[bar]) & (onset < song.bars.starts[bar + 1])).any()


def test_the_report_has_every_figure_and_is_json(report):
    measured, told = report
    json.dumps(measured)
    assert [row["batch"] for row in measured["decode"]] == [1, 4, 16]
    assert [row["length"] for row in measured["prefill"]] == [512, 4096]
    for row in (*measured["decode"], *measured["prefill"]):
        assert row["ms"] > 0
        assert row["tokens_per_second"] > 0
    jobs = {(row["cells"], row["takes"], row["call"]): row for row in measured["jobs"]}
    assert len(jobs) == 8
    assert all(0 < row["first_note"] <= row["done"] for row in jobs.values())
    assert jobs["1 track", 8, "re-roll"]["first_note"] < jobs["1 track", 8, "first call"]["done"]
    assert measured["load"]["ms"] > 0
    assert measured["position"]["ratio"] > 0
    assert told


def test_the_table_shows_what_the_report_holds(report):
    text = bench.table(report[0])
    assert "decode, 16 at once" in text
    assert "takes: 8, re-roll" in text
    assert max(len(line) for line in text.splitlines()) <= 100


def test_memory_counts_what_a_process_holds():
    before = bench.memory()
    if before is None:
        pytest.skip("this system does not say")
    held = bytearray(32 << 20)
    after = bench.memory()
    assert after.resident - before.resident >= 0.9 * len(held)
    assert after.peak >= after.resident


def test_ratios_and_medians_are_of_times():
    assert bench.seconds(lambda: None, budget=0.0) < 1e-3
    assert bench.ratio(lambda: sum(range(20000)), lambda: None, pairs=5) > 10
