"""Density and polyphony held to what is asked, where notes can do it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anser import codec, vocab
from anser.controls import Controls, measure, measure_cell
from anser.errors import ControlError
from anser.grammar import CellGrammar
from anser.infill import Request, infill, same_for_all
from anser.rules import Lock, Rules
from anser.sampling import Sampling
from anser.selection import Selection
from anser.steering import Steering
from anser.verify import differences
from fakes import FakeEngine
from songs import band

SELECTION = Selection.of([0, 2], range(4, 7))
WILD = Sampling(temperature=1, top_p=1, min_p=0)


def written(asked, seed, length=96, program=0):
    """Write a cell of noise as steered; returns its notes (GRID_NOTE)."""
    rng = np.random.default_rng(seed)
    grammar, steering = CellGrammar(length, program), Steering(asked, length)
    for _ in range(5000):
        allowed = grammar.allowed()
        narrowed = steering.narrowed(allowed)
        assert narrowed.any()
        assert not (narrowed & ~allowed).any()
        # durations of a written bar, not of noise: the shorter the likelier
        weight = narrowed.astype(float)
        weight[vocab.DURATION + 24 : vocab.DURATION + vocab.LONG] *= 0.05
        weight[vocab.ADD_LONG] *= 0.01
        token = int(rng.choice(vocab.N_VOCAB, p=weight / weight.sum()))
        grammar.advance(token)
        steering.advance(token)
        if grammar.done:
            return grammar.notes()
    raise AssertionError("no end")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 16), st.integers(0, 10_000))
def test_density_is_exact_up_to_sixteen(density, seed):
    assert len(written(Controls(density=density), seed)) == density


def test_polyphony_is_exact_but_for_a_few_that_noise_leads_astray():
    astray = 0
    for seed in range(90):
        fewest = 1 + seed % 3
        most = fewest + seed // 3 % 3
        measured = measure(written(Controls(fewest=fewest, most=most), seed), 96)
        assert measured.most <= most
        astray += (measured.fewest, measured.most) != (fewest, most)
    assert astray <= 2


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 16), st.integers(0, 10_000))
def test_one_voice_of_so_many_notes(density, seed):
    measured = measure(written(Controls(density=density, fewest=1, most=1), seed), 96)
    assert (measured.density, measured.fewest, measured.most) == (density, 1, 1)


@pytest.mark.parametrize("density", [17, 30, 60])
def test_bins_are_kept_as_bins(density):
    n_notes = len(written(Controls(density=density), 1))
    assert vocab.density_token(n_notes) == vocab.density_token(density)


def test_what_notes_cannot_do_gives_way():
    notes = written(Controls(density=2, fewest=3, most=3), 0)
    assert len(notes) == 2
    assert len(written(Controls(density=16, fewest=1, most=1), 0, length=6)) > 0


@pytest.mark.parametrize("length", [36, 288])
def test_short_bars_and_pages(length):
    measured = measure(written(Controls(density=8, fewest=1, most=2), 3, length), length)
    assert (measured.density, measured.fewest, measured.most) == (8, 1, 2)


def test_density_is_held_to_unless_loosely():
    song = band()
    asked = same_for_all(SELECTION, Controls(density=5))
    take = infill(FakeEngine(), Request(song, SELECTION, asked, sampling=WILD))[0]
    assert differences(song, take.song, SELECTION) == []
    assert [cell.n_notes for cell in take.cells] == [5] * 6
    assert all(cell.realised.density == 5 for cell in take.cells)
    loosely = replace(WILD, loosely=True)
    free = infill(FakeEngine(), Request(song, SELECTION, asked, sampling=loosely))[0]
    assert [cell.n_notes for cell in free.cells] != [5] * 6


def test_nothing_else_is_narrowed():
    allowed = CellGrammar(96, 0).allowed()
    assert (Steering(Controls(register=60), 96).narrowed(allowed) == allowed).all()
    with pytest.raises(ControlError):
        Controls(fewest=0)


@pytest.mark.parametrize(
    "rules",
    [
        Rules(keep="rhythm"),
        Rules(keep="pitch"),
        Rules(notes=(2, 3), max_polyphony=1, grid=12),
        Rules(locks=(Lock(beats=(1, 2)),), within_bar=True),
        Rules(beats=(2, 4), no_repeat=2),
    ],
)
def test_rules_go_first(rules):
    song = band()
    asked = same_for_all(SELECTION, Controls(density=5, fewest=2, most=3))
    bound = dict.fromkeys(SELECTION.cells, rules)
    take = infill(FakeEngine(), Request(song, SELECTION, asked, bound, sampling=WILD))[0]
    assert all(cell.broken == () for cell in take.cells)
    assert differences(song, take.song, SELECTION) == []


@pytest.mark.parametrize("density", [5, 6, 9])
def test_notes_that_stay_count(density):
    song = band()
    asked = same_for_all(SELECTION, Controls(density=density))
    bound = dict.fromkeys(SELECTION.cells, Rules(locks=(Lock(beats=(2, 4)),)))
    take = infill(FakeEngine(), Request(song, SELECTION, asked, bound, sampling=WILD))[0]
    assert all(cell.broken == () for cell in take.cells)
    stood = [measure_cell(codec.encode(song), (cell.track, cell.bar)) for cell in take.cells]
    assert min(cell.density for cell in stood) > 2
    assert [cell.realised.density for cell in take.cells] == [density] * len(take.cells)
