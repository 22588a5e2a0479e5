import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anser import vocab
from anser.controls import Controls
from anser.infill import Request, infill, same_for_all, stream
from anser.rwkv7.prefix import PrefixCache
from anser.sampling import Sampling
from anser.selection import Selection
from anser.song import Song
from anser.verify import differences
from fakes import FakeEngine
from songs import Part, band, make_song

SELECTION = Selection.of([0, 2], range(4, 7))


def notes_in(song, selection):
    for track, bar in selection.cells:
        notes = song.tracks[track].notes
        start, end = song.bars.starts[bar], song.bars.starts[bar + 1]
        yield notes[(notes["onset"] >= start) & (notes["onset"] < end)]


def test_only_the_selection_changes():
    song = band()
    takes = infill(FakeEngine(), Request(song, SELECTION, takes=3))
    assert len({take.song.to_bytes() for take in takes}) == 3
    for take in takes:
        assert take.song.to_bytes() != song.to_bytes()
        assert differences(song, take.song, SELECTION) == []


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.sets(st.tuples(st.integers(0, 2), st.integers(0, 15)), min_size=1))
def test_any_selection_is_filled_and_nothing_else(seed, cells):
    song, selection = band(seed=seed % 7), Selection(frozenset(cells))
    take = infill(FakeEngine(), Request(song, selection, seed=seed))[0]
    assert differences(song, take.song, selection) == []
    reread = Song.from_bytes(take.song.to_bytes())
    assert sum(len(t.notes) for t in reread.tracks) == sum(len(t.notes) for t in take.song.tracks)
    assert {(c.track, c.bar) for c in take.cells} == set(cells)


def test_the_same_seed_gives_the_same_bytes():
    song = band()
    first, again = (infill(FakeEngine(), Request(song, SELECTION, seed=5))[0] for _ in range(2))
    assert first.song.to_bytes() == again.song.to_bytes()
    assert first.report == again.report
    other = infill(FakeEngine(), Request(song, SELECTION, seed=6))[0]
    assert other.song.to_bytes() != first.song.to_bytes()


def test_a_take_is_the_same_alone_and_among_others():
    song = band()
    few = infill(FakeEngine(), Request(song, SELECTION, takes=2, seed=3))
    many = infill(FakeEngine(), Request(song, SELECTION, takes=7, seed=3))
    for a, b in zip(few, many, strict=False):
        assert a.song.to_bytes() == b.song.to_bytes()
        assert a.log_likelihood == pytest.approx(b.log_likelihood)


def test_each_take_reads_the_prompt_and_its_own_answers():
    """What the engine was fed is the prompt that training would show, with the take's answers."""
    song = band()
    engine = FakeEngine()
    take = infill(engine, Request(song, SELECTION))[0]
    read = [row[0] for row in engine.read]
    assert read.count(vocab.ANSWER) == len(SELECTION.cells) == read.count(vocab.END) + 1
    assert sum(vocab.PITCH <= i for i in read[read.index(vocab.ANSWER) :]) >= take.n_notes


def test_streaming_yields_what_infill_returns():
    song = band()
    events = list(stream(FakeEngine(), Request(song, SELECTION, seed=2)))
    take = infill(FakeEngine(), Request(song, SELECTION, seed=2))[0]
    streamed = np.concatenate([e.notes for e in events if not e.cell_is_done])
    assert len(streamed) == take.n_notes
    assert sum(e.cell_is_done for e in events) == len(SELECTION.cells)
    assert [e.cell for e in events] == sorted((e.cell for e in events), key=lambda c: (c[1], c[0]))


def test_written_notes_do_not_strike_a_pitch_that_sounds():
    long = {vocab.END: -9.0, vocab.ADD_LONG: 1.0}
    take = infill(FakeEngine(long), Request(band(), SELECTION, seed=1))[0]
    for track in SELECTION.tracks:
        notes = take.song.tracks[track].notes
        for pitch in np.unique(notes["pitch"]):
            same = notes[notes["pitch"] == pitch]
            new = [n for n in take.notes.get(track, []) if n["pitch"] == pitch]
            for note in new:
                later = same[same["onset"] > note["onset"]]["onset"]
                if len(later) and note["onset"] in same["onset"]:
                    held = same[same["onset"] == note["onset"]][0]
                    assert held["onset"] + held["duration"] <= later.min()


def test_reports_say_what_was_asked_and_what_came_out():
    controls = {cell: Controls(density=4) for cell in SELECTION.cells if cell[0] == 0}
    take = infill(FakeEngine(), Request(band(), SELECTION, controls))[0]
    cells = take.report["cells"]
    assert {c["track"]: c["asked"] for c in cells} == {1: {"density": 4}, 3: {}}
    assert sum(c["notes"] for c in cells) == take.report["notes"] == take.n_notes
    found = sum(len(notes) for notes in notes_in(take.song, SELECTION))
    assert 0 < found <= take.n_notes


def test_controls_for_all_cells():
    assert same_for_all(SELECTION, Controls()) == {}
    assert set(same_for_all(SELECTION, Controls(density=1))) == set(SELECTION.cells)


def test_new_bars_at_the_end():
    song = band(8)
    longer = song.extended(2)
    selection = Selection.of([0, 1, 2], range(song.n_bars, song.n_bars + 2))
    take = infill(FakeEngine(), Request(longer, selection))[0]
    assert differences(longer, take.song, selection) == []
    assert take.n_notes > 0


def test_an_empty_track_can_be_filled():
    song = make_song([Part([(0, 480, 60, 90)]), Part([(0, 480, 40, 90)], program=32, channel=1)])
    selection = Selection.of([1], [0])
    take = infill(FakeEngine({vocab.END: -5.0}), Request(song, selection))[0]
    assert take.n_notes > 0


def test_instruments_stay_in_their_range():
    song = make_song([Part([(0, 480, 45, 90)], program=32)])
    eager = FakeEngine({vocab.END: -5.0})
    take = infill(eager, Request(song, Selection.of([0], [0]), sampling=Sampling(1, 1, 0)))[0]
    pitches = take.notes[0]["pitch"]
    assert len(pitches) > 5
    assert pitches.min() >= 21
    assert pitches.max() <= 72


@pytest.mark.parametrize(("name", "value"), [("takes", 0), ("takes", 65), ("seed", -1)])
def test_requests_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        Request(band(), SELECTION, **{name: value})


def test_another_seed_reads_nothing_again_and_answers_the_same():
    song, engine = band(), FakeEngine()
    prefixes = PrefixCache(engine)
    plain = [infill(FakeEngine(), Request(song, SELECTION, seed=k))[0] for k in (1, 2)]
    first = infill(engine, Request(song, SELECTION, seed=1), prefixes=prefixes)[0]
    n_read = prefixes.n_read
    second = infill(engine, Request(song, SELECTION, seed=2), prefixes=prefixes)[0]
    assert prefixes.n_read == n_read > 0
    assert [first.song.to_bytes(), second.song.to_bytes()] == [t.song.to_bytes() for t in plain]
    infill(
        engine,
        Request(song, SELECTION, same_for_all(SELECTION, Controls(density=3))),
        prefixes=prefixes,
    )
    assert n_read < prefixes.n_read < 2 * n_read, "a control late in the prompt"
