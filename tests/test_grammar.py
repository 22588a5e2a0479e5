import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anser import codec, vocab
from anser.grammar import CellGrammar
from anser.ranges import pitch_range
from anser.rules import MOST_NOTES as MAX_NOTES
from songs import band


def write(grammar, rng, patience=4000):
    """Draw allowed ids uniformly until the end."""
    ids = []
    while not grammar.done:
        allowed = np.flatnonzero(grammar.allowed())
        assert len(allowed), "the grammar left no way out"
        ids.append(int(rng.choice(allowed)))
        grammar.advance(ids[-1])
        assert len(ids) < patience
    return ids


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from([1, 2, 36, 96, 143, 144, 145, 288, 500]),
    st.sampled_from([0, 33, 47, 73, 128]),
)
def test_whatever_is_allowed_is_well_formed(seed, length, program):
    rng = np.random.default_rng(seed)
    sounding = rng.integers(0, 60, 128) * (rng.random(128) < 0.3)
    ids = write(CellGrammar(length, program, sounding), rng)
    assert ids[-1] == vocab.END
    notes = codec.decode(ids)
    low, high = pitch_range(program)
    assert (notes["position"] >= 0).all()
    assert (notes["position"] < length).all()
    assert ((notes["pitch"] >= low) & (notes["pitch"] <= high)).all()
    assert len(notes) <= MAX_NOTES
    until = sounding.copy()
    for note in notes:
        assert until[note["pitch"]] <= note["position"], "struck while it sounds"
        until[note["pitch"]] = note["position"] + note["duration"]
    spelled = codec.encode_cell(notes, is_drum=program == vocab.DRUMS)
    assert spelled.tolist() == ids[:-1], "not the spelling that training shows"


def test_every_cell_of_real_spelling_is_allowed():
    song = band(24, seed=3)
    encoded = codec.encode(song)
    for track in range(encoded.n_tracks):
        for bar in range(encoded.n_bars):
            grammar = CellGrammar(
                int(encoded.lengths[bar]), int(encoded.programs[track]), None, (0, 127)
            )
            for token in [*encoded.cell(track, bar).tolist(), vocab.END]:
                assert grammar.allowed()[token], vocab.name(token)
                grammar.advance(token)


def test_a_full_cell_can_only_end():
    grammar = CellGrammar(96, 0)
    grammar.advance(vocab.POSITION)
    grammar.advance(vocab.VELOCITY + 10)
    grammar.advance(vocab.DURATION)
    for i in range(MAX_NOTES):
        grammar.advance(vocab.PITCH + i % 128)
    assert np.flatnonzero(grammar.allowed()).tolist() == [vocab.END]


def test_notes_sound_on_into_the_next_bar():
    grammar = CellGrammar(96, 0)
    for token in (vocab.POSITION + 90, vocab.VELOCITY + 10, vocab.DURATION + 19, vocab.PITCH + 60):
        grammar.advance(token)
    assert grammar.sounding()[60] == 14
    assert grammar.sounding().sum() == 14


def test_ranges_are_ordered_and_wide_enough_to_play():
    for program in range(129):
        low, high = pitch_range(program)
        assert 0 <= low < high <= 127
        assert high - low >= 24
    with pytest.raises(ValueError, match="program"):
        pitch_range(129)
