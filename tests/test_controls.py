import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anser import codec, prompt, vocab
from anser.codec import GRID_NOTE
from anser.controls import GRIDS, LENGTHS, Controls, likeness, measure
from anser.errors import ControlError
from anser.selection import Selection
from songs import Part, make_song


def cell(*notes):
    """Build GRID_NOTEs from (position, duration, pitch[, velocity bin])."""
    rows = [(p, d, pitch, *(v or (16,))) for p, d, pitch, *v in notes]
    return np.array(rows, dtype=GRID_NOTE)


def test_a_known_bar():
    # a C major triad held for a half, then two eighths, the second off the beat and tied over
    measured = measure(
        cell((0, 48, 60), (0, 48, 64), (0, 48, 67), (48, 12, 72), (60, 24, 74)), length=96
    )
    assert measured.density == 5
    assert (measured.fewest, measured.most) == (1, 3)
    assert measured.lengths == {"1/2", "1/8", "1/4"}
    assert measured.register == pytest.approx((60 + 64 + 67 + 72 + 74) / 5)
    assert measured.span == 14
    assert measured.pitch_classes == {0, 4, 7, 2}
    assert measured.silence == pytest.approx(12 / 96)
    assert measured.loudness == pytest.approx(66)
    assert measured.subdivision == "1/8"
    assert measured.syncopation == pytest.approx(1 / 5)


def test_silence():
    assert measure(cell(), length=96) == Controls(density=0, silence=1.0)


def test_drums_have_no_register():
    measured = measure(cell((0, 6, 36), (24, 6, 38)), length=96, is_drum=True)
    assert measured.register is measured.span is measured.pitch_classes is None
    assert measured.density == 2


@pytest.mark.parametrize(
    ("positions", "grid"),
    [((0, 72), "1/4"), ((0, 12), "1/8"), ((6,), "1/16"), ((0, 8, 16), "1/8t"), ((4,), "1/16t"),
     ((3,), "1/32"), ((0, 5), "free"), ((6, 8), "free")],
)  # fmt: skip
def test_the_grid_is_the_coarsest_that_holds_all(positions, grid):
    assert measure(cell(*((p, 6, 60) for p in positions)), length=96).subdivision == grid


@pytest.mark.parametrize(
    ("duration", "name"),
    [(3, "1/32"), (6, "1/16"), (12, "1/8"), (18, "1/8"), (24, "1/4"), (48, "1/2"), (96, "1/1")],
)
def test_lengths_have_classes(duration, name):
    assert measure(cell((0, duration, 60)), length=96).lengths == {name}


def test_every_bar_is_measured_for_itself():
    """The first bar of a selection too: nothing is added up from bar to bar."""
    notes = [(1920 * b + 480 * i, 480, 60 + i, 66) for b in range(4) for i in range(b + 1)]
    song = codec.encode(make_song([Part(notes)]))
    counts = [measure(codec.decode(song.cell(0, b)), 96).density for b in range(4)]
    assert counts == [1, 2, 3, 4]
    asked = {(0, b): Controls(density=counts[b]) for b in range(4)}
    made = prompt.make(song, Selection.of([0], range(4)), asked)
    spelled = [vocab.name(int(s.given[-1])) for s in made.segments]
    assert spelled == ["density_1", "density_2", "density_3", "density_4"]


notes_of_a_cell = st.lists(
    st.tuples(st.integers(0, 95), st.integers(1, 200), st.integers(0, 127), st.integers(0, 31)),
    min_size=1,
    max_size=20,
    unique_by=lambda n: (n[0], n[2]),
).map(lambda notes: cell(*sorted(notes, key=lambda n: (n[0], n[2]))))


@given(notes_of_a_cell)
def test_whatever_is_measured_can_be_asked_for(notes):
    measured = measure(notes, 96)
    ids = measured.spell()
    assert all(vocab.DENSITY <= i < vocab.N_USED for i in ids)
    assert len(set(ids)) == len(ids)
    assert measured.fewest <= measured.most <= len(notes)
    assert 0 <= measured.silence < 1
    assert measured.subdivision in GRIDS
    assert measured.lengths <= set(LENGTHS)


@given(notes_of_a_cell, notes_of_a_cell)
def test_likeness_is_symmetric_and_one_for_the_same(one, other):
    assert likeness(one, one) == 1
    assert 0 <= likeness(one, other) == likeness(other, one) <= 1


def test_a_reference_stands_before_its_likeness():
    song = codec.encode(make_song([Part([(1920 * b, 480, 60 + b, 66) for b in range(4)])]))
    asked = {(0, 3): Controls(reference=1, likeness=0.3, density=2)}
    made = prompt.make(song, Selection.of([0], [3]), asked)
    names = [vocab.name(int(i)) for i in made.segments[0].given]
    assert names[names.index("answer") :] == [
        *["answer", "track_0", "program_0"],
        *["reference", "position_0", "velocity_64", "duration_24", "pitch_61", "likeness_2"],
        "density_2",
    ]


@pytest.mark.parametrize(
    "wrong",
    [{"density": -1}, {"program": 129}, {"silence": 1.1}, {"subdivision": "1/5"},
     {"lengths": {"2/1"}}, {"pitch_classes": {12}}, {"fewest": 4, "most": 2},
     {"likeness": 0.5}, {"loudness": 0}],
)  # fmt: skip
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ControlError, match=next(iter(wrong))):
        Controls(**wrong)
