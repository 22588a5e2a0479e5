from dataclasses import replace

from anser.controls import Controls
from anser.infill import CellReport, Request, infill
from anser.rank import best_first, n_silent, ranked
from anser.selection import Selection
from anser.song import splice
from fakes import FakeEngine
from songs import band

SELECTION = Selection.of([0], [4, 5])


def take_of(*cells):
    """Return a take whose cells have so many notes and so much log-likelihood."""
    take = infill(FakeEngine(), Request(band(), SELECTION))[0]
    report = take.cells[0]
    assert isinstance(report, CellReport)
    made = [replace(report, n_notes=n, log_likelihood=x) for n, x in cells]
    return replace(take, cells=tuple(made))


def test_the_likelier_per_note_comes_first():
    dull, good = take_of((2, -8.0), (2, -8.0)), take_of((8, -16.0), (8, -16.0))
    assert best_first([dull, good]) == [good, dull]


def test_silence_comes_last_however_likely():
    silent, half, full = (
        take_of((0, -0.1), (0, -0.1)),
        take_of((0, -0.1), (4, -4.0)),
        take_of((4, -20.0), (4, -20.0)),
    )
    assert [n_silent(t) for t in (silent, half, full)] == [2, 1, 0]
    assert best_first([silent, half, full]) == [full, half, silent]


def test_silence_that_was_asked_for_is_none_to_blame():
    take = take_of((0, -0.1), (4, -4.0))
    quiet = replace(take.cells[0], asked=Controls(density=0))
    assert n_silent(replace(take, cells=(quiet, take.cells[1]))) == 0


def test_controls_that_came_out_count():
    song = band()
    controls = {cell: Controls(density=3) for cell in SELECTION.cells}
    takes = infill(FakeEngine(), Request(song, SELECTION, controls, takes=4))
    for one in ranked(takes):
        n_met = sum(cell.n_notes == 3 for cell in one.take.cells)
        assert one.facts["controls_met"] == n_met
        assert one.n_asked == 2
        assert ("all controls met" in one.why) == (n_met == 2)


def test_a_bar_of_the_song_is_found_again():
    song = band()
    notes, starts = song.tracks[0].notes, song.bars.starts
    bar_of_1 = notes[(notes["onset"] >= starts[1]) & (notes["onset"] < starts[2])].copy()
    assert len(bar_of_1)
    bar_of_1["onset"] += starts[4] - starts[1]
    cells = Selection.of([0], [4])
    (take,) = infill(FakeEngine(), Request(song, cells))
    copy = replace(take, song=splice(song, cells, {0: bar_of_1}), notes={0: bar_of_1})
    (judged,) = ranked([copy])
    assert judged.n_copies == 1
    assert "as in other bars" in judged.why
    assert judged.agreement is None


def test_every_take_says_why_it_stands_where_it_does():
    takes = infill(FakeEngine(), Request(band(), SELECTION, takes=4))
    judged = ranked(takes)
    assert [one.score for one in judged] == sorted((one.score for one in judged), reverse=True)
    for one in judged:
        assert "nats a note" in one.why
        assert "the others" in one.why
        assert one.facts["why"] == one.why
    assert ranked([]) == []


def test_ties_keep_their_order():
    takes = [take_of((3, -6.0)) for _ in range(3)]
    assert [id(t) for t in best_first(takes)] == [id(t) for t in takes]
