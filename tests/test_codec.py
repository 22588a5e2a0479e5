import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anser import codec, vocab
from songs import Part, band, make_song


def notes_of(song, encoded, track):
    """Decode a whole track back into (onset, duration, pitch, velocity) tuples."""
    cells = [
        codec.to_ticks(song, bar, codec.decode(encoded.cell(track, bar)))
        for bar in range(encoded.n_bars)
    ]
    return [tuple(int(x) for x in note) for note in np.concatenate(cells)]


# On the grid: 20 ticks at 480 a quarter; velocities at the middle of their bins.
grid_notes = st.lists(
    st.tuples(
        st.integers(0, 24 * 4 * 6 - 1).map(lambda x: 20 * x),
        st.integers(1, 400).map(lambda x: 20 * x),
        st.integers(0, 127),
        st.integers(0, 31).map(lambda x: 4 * x + 2),
    ),
    max_size=40,
)


def without_overlaps(notes):
    """Keep the longest of equal onsets and cut each note where its pitch is struck again."""
    longest = {}
    for onset, duration, pitch, velocity in notes:
        key = (pitch, onset)
        if key not in longest or duration > longest[key][0]:
            longest[key] = (duration, velocity)
    result = []
    for (pitch, onset), (duration, velocity) in longest.items():
        later = [o for p, o in longest if p == pitch and o > onset]
        cut = min([duration, *(o - onset for o in later)])
        result.append((onset, cut, pitch, velocity))
    return sorted(result, key=lambda n: (n[0], n[2]))


@given(grid_notes, st.sampled_from([0, 9]))
def test_decode_undoes_encode_on_the_grid(notes, channel):
    expected = without_overlaps(notes)
    song = make_song([Part(expected, channel=channel)])
    encoded = codec.encode(song)
    found = notes_of(song, encoded, 0) if song.tracks else []
    assert found == expected
    assert encoded.n_notes.sum() == len(expected)


def test_a_bar_is_spelled_in_running_status():
    song = make_song([Part([(0, 240, 60, 82), (0, 240, 64, 82), (240, 240, 62, 82)])])
    names = [vocab.name(int(i)) for i in codec.encode(song).cell(0, 0)]
    assert names == [
        *["position_0", "velocity_80", "duration_12", "pitch_60", "pitch_64"],
        *["position_12", "pitch_62"],
    ]


def test_long_bars_turn_pages_and_long_notes_add_up():
    song = make_song([Part([(0, 480 * 9, 60, 82), (480 * 13, 480, 62, 82)])], [(0, 16, 4)])
    encoded = codec.encode(song)
    names = [vocab.name(int(i)) for i in encoded.cell(0, 0)]
    assert names[:5] == ["position_0", "velocity_80", "long", "long", "duration_24"]
    assert names[6:9] == ["page", "page", "position_24"]
    assert notes_of(song, encoded, 0) == [(0, 4320, 60, 82), (6240, 480, 62, 82)]


def test_an_onset_that_rounds_to_the_bar_line_belongs_to_the_next_bar():
    song = make_song([Part([(1915, 100, 60, 80), (3000, 100, 62, 80)])])
    encoded = codec.encode(song)
    assert encoded.n_notes.tolist() == [[0, 2]]
    assert vocab.name(int(encoded.cell(0, 1)[0])) == "position_0"


def test_odd_meters_and_changes():
    song = make_song(
        [Part([(0, 10, 60, 80), (1680, 10, 61, 80), (1680 + 720, 10, 62, 80)])],
        [(0, 7, 8), (1680, 3, 8)],
    )
    encoded = codec.encode(song)
    assert encoded.lengths[:3].tolist() == [84, 36, 36]
    assert encoded.n_notes[0].tolist()[:3] == [1, 1, 1]
    assert (encoded.numerators[0], encoded.denominators[0]) == (7, 8)


def test_an_empty_song_encodes():
    encoded = codec.encode(make_song([]))
    assert encoded.n_tracks == 0
    assert encoded.n_bars >= 1


def test_drums_have_pitches_of_their_own():
    encoded = codec.encode(make_song([Part([(0, 10, 38, 80)], channel=9)]))
    assert vocab.name(int(encoded.cell(0, 0)[-1])) == "drum_38"
    assert encoded.programs.tolist() == [vocab.DRUMS]


def test_transposing_moves_pitches_and_leaves_drums():
    ids = np.array([vocab.PITCH + 60, vocab.DRUM + 38, vocab.BAR], dtype=np.uint16)
    assert codec.transpose(ids, -3).tolist() == [vocab.PITCH + 57, vocab.DRUM + 38, vocab.BAR]


def test_ids_that_spell_no_cell_are_refused():
    with pytest.raises(ValueError, match="pitch_60 cannot stand here"):
        codec.decode([vocab.PITCH + 60])
    with pytest.raises(ValueError, match="bar cannot stand here"):
        codec.decode([vocab.BAR])


def test_encoding_again_gives_the_same_cells():
    song = band()
    encoded = codec.encode(song)
    for track in range(encoded.n_tracks):
        for bar in range(encoded.n_bars):
            cell = encoded.cell(track, bar)
            again = codec.encode_cell(codec.decode(cell), is_drum=song.tracks[track].is_drum)
            assert again.tolist() == cell.tolist()


def test_onsets_that_meet_on_the_grid_become_the_longest():
    song = make_song([Part([(0, 4, 60, 82), (6, 900, 60, 82), (966, 100, 60, 82)])])
    encoded = codec.encode(song)
    assert notes_of(song, encoded, 0) == [(0, 900, 60, 82), (960, 100, 60, 82)]
