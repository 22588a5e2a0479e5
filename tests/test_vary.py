"""Variations keep as many notes as the amount leaves, and no take the same ones."""

from functools import partial

import pytest

from anser.errors import ControlError
from anser.infill import Request, infill
from anser.selection import Selection
from anser.vary import likeness_kept, variation, varied
from fakes import FakeEngine
from songs import band

CELLS = Selection.of([0, 1], [4, 5])


def kept(request):
    """Return how many of the notes of each cell stay, and how many there are."""
    from anser import room

    counts = []
    for cell in sorted(request.selection.cells):
        notes, starts = request.song.tracks[cell[0]].notes, request.song.bars.starts
        inside = (notes["onset"] >= starts[cell[1]]) & (notes["onset"] < starts[cell[1] + 1])
        rules = request.rules.get(cell)
        n_stay = len(room.staying(request.song, cell, rules)) if rules else 0
        counts.append((n_stay, int(inside.sum())))
    return counts


@pytest.mark.parametrize("amount", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_the_amount_is_the_share_of_notes_written_anew(amount):
    for n_stay, n_notes in kept(variation(Request(band(), CELLS), amount)):
        assert n_notes
        assert n_stay <= round((1 - amount) * n_notes)
        assert n_stay >= round((1 - amount) * n_notes) - 1


def test_nothing_changes_at_0_and_all_is_free_at_1():
    request = Request(band(), CELLS)
    (same,) = varied(partial(infill, FakeEngine()), request, 0)
    assert same.song.to_bytes() == band().to_bytes()
    assert likeness_kept(same) == 1
    assert variation(request, 1) == request


def test_more_amount_is_less_likeness():
    write = partial(infill, FakeEngine())
    shares = []
    for amount in (0.0, 0.3, 0.6, 1.0):
        takes = varied(write, Request(band(), Selection.of([0], [4]), takes=2), amount)
        shares.append(sum(likeness_kept(take) for take in takes) / 2)
    assert shares == sorted(shares, reverse=True)


def test_each_take_keeps_other_notes_and_is_the_same_alone():
    write = partial(infill, FakeEngine())
    takes = varied(write, Request(band(), CELLS, takes=4, seed=1), 0.5)
    assert [take.number for take in takes] == [0, 1, 2, 3]
    assert len({str(take.request.rules) for take in takes}) > 1
    (third,) = varied(write, Request(band(), CELLS, seed=1, first=2), 0.5)
    assert third.song.to_bytes() == takes[2].song.to_bytes()


def test_as_many_notes_are_asked_for_and_silence_stays():
    asked = variation(Request(band(), CELLS), 0.5)
    assert {cell: wish.density for cell, wish in asked.controls.items()} == {
        cell: n for cell, (_, n) in zip(sorted(CELLS.cells), kept(asked), strict=True)
    }
    song = band()
    behind = Selection.of([0], [song.n_bars])
    (take,) = varied(partial(infill, FakeEngine()), Request(song.extended(1), behind), 0.5)
    assert take.n_notes == 0


@pytest.mark.parametrize("amount", [-0.1, 1.1])
def test_an_impossible_amount_is_refused(amount):
    with pytest.raises(ControlError, match="amount"):
        variation(Request(band(), CELLS), amount)
