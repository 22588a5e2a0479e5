import numpy as np
import pytest

from anser import codec, prompt, vocab
from anser.controls import Controls
from anser.errors import ControlError, SelectionError
from anser.prompt import Window
from anser.selection import Selection
from songs import Part, band, make_song


def names(ids):
    return [vocab.name(int(i)) for i in ids]


def one_note_a_bar(n_bars, n_tracks=2):
    parts = [
        Part([(1920 * b, 480, 60 + t, 82) for b in range(n_bars)], channel=t)
        for t in range(n_tracks)
    ]
    return codec.encode(make_song(parts))


def test_the_layout_is_rotated_with_replay():
    song = one_note_a_bar(4)
    made = prompt.make(song, Selection.of([0], [2]), {(0, 2): Controls(density=3)})
    cell = ["position_0", "velocity_80", "duration_24"]
    bar = ["track_0", *cell, "pitch_60", "track_1", *cell, "pitch_61"]
    assert names(made.segments[0].given) == [
        *["song", "tempo_18", "track_0", "program_0", "track_1", "program_0"],
        *["after", "bar", "numerator_4", "denominator_4", *bar],
        *["before", "bar", *bar, "bar", *bar],
        *["fill", "bar", "track_1", *cell, "pitch_61"],
        *["answer", "track_0", "program_0", "density_3"],
    ]
    assert made.bars == range(4)


def test_every_selected_cell_is_asked_once_in_musical_time():
    song = codec.encode(band())
    selection = Selection(frozenset({(2, 3), (0, 3), (0, 9), (1, 12), (2, 0)}))
    made = prompt.make(song, selection)
    asked = [segment.cell for segment in made.segments]
    assert asked == sorted(selection.cells, key=lambda cell: (cell[1], cell[0]))


def test_no_selected_cell_is_shown():
    song = one_note_a_bar(12, 3)
    selection = Selection.of([1], range(2, 9))
    ids, is_answer = prompt.with_answers(prompt.make(song, selection), song)
    shown = names(ids[~is_answer])
    assert shown.count("pitch_61") == 12 - 7
    assert names(ids[is_answer]).count("pitch_61") == 7
    assert names(ids[is_answer]).count("end") == 7


def test_a_long_gap_is_jumped_and_its_last_bars_are_played():
    song = one_note_a_bar(40)
    made = prompt.make(song, Selection.of([0], [1, 30]), window=Window(gap=4))
    between = names(made.segments[1].given)
    assert between[0] == "jump_24"
    assert between.count("bar") == 5


def test_the_window_keeps_to_its_budget():
    song = one_note_a_bar(200)
    small = prompt.make(song, Selection.of([0], [100]), window=Window(tokens=100))
    assert small.n_given < 150
    made = prompt.make(song, Selection.of([0], [100]), window=Window(before=3, after=2))
    assert made.bars == range(97, 103)


def test_more_tracks_than_a_prompt_can_name():
    parts = [Part([(0, 100, 40 + i, 90)] * 1, channel=i % 9, program=i) for i in range(30)]
    song = codec.encode(make_song(parts))
    made = prompt.make(song, Selection.of([29], [0]))
    assert len(made.tracks) == vocab.N_TRACKS
    assert 29 in made.tracks
    with pytest.raises(SelectionError, match="at most 16 tracks"):
        prompt.make(song, Selection.of(range(17), [0]))


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (frozenset(), "at least one cell"),
        (frozenset({(7, 0)}), "track 8 asked for, the song has 3"),
        (frozenset({(0, 99)}), "bar 100 asked for, the song has"),
        (frozenset({(-1, 0)}), "track"),
    ],
)
def test_a_selection_that_does_not_fit_is_refused(cells, message):
    with pytest.raises(SelectionError, match=message):
        prompt.make(codec.encode(band()), Selection(cells))


def test_controls_out_of_range_are_refused():
    with pytest.raises(ControlError, match="density"):
        Controls(density=-1)
    with pytest.raises(ControlError, match="program"):
        Controls(program=129)


def test_the_program_of_an_answer_can_be_chosen():
    song = codec.encode(band())
    made = prompt.make(song, Selection.of([0], [3]), {(0, 3): Controls(program=40)})
    assert names(made.segments[0].given)[-1] == "program_40"


def test_beyond_the_end_nothing_follows():
    song = band(8)
    new_bars = range(song.n_bars, song.n_bars + 4)
    made = prompt.make(codec.encode(song.extended(4)), Selection.of([0, 1, 2], new_bars))
    first = names(made.segments[0].given)
    assert first.index("before") == first.index("after") + 1
    assert len(made.segments) == 12


def test_ids_are_what_the_engine_reads():
    made = prompt.make(codec.encode(band()), Selection.of([0], [3]))
    assert all(s.given.dtype == np.uint16 for s in made.segments)
    assert all(
        (s.given < vocab.N_USED).all() and (s.given != vocab.PAD).all() for s in made.segments
    )


def test_what_is_held_is_shown_before_its_answer():
    song = codec.encode(band())
    held = song.cell(0, 3)[:4]
    made = prompt.make(song, Selection.of([0], [3, 4]), held={(0, 3): held, (0, 4): held[:0]})
    given = made.segments[0].given
    assert names(given)[-5:] == ["held", *names(held)]
    assert "held" not in names(made.segments[1].given)
