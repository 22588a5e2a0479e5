from dataclasses import replace

from anser.infill import CellReport, Request, infill
from anser.rank import best_first, n_silent
from anser.selection import Selection
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


def test_ties_keep_their_order():
    takes = [take_of((3, -6.0)) for _ in range(3)]
    assert [id(t) for t in best_first(takes)] == [id(t) for t in takes]
