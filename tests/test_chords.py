import numpy as np
import pytest

from anser import chords, codec, vocab
from anser.errors import ControlError
from songs import Part, make_song

TRIADS = {"C": (60, 64, 67), "Am": (57, 60, 64), "F": (53, 57, 60), "G7": (55, 59, 62, 65)}


def song_of(*names, beats=4):
    notes = [
        (480 * beats * i, 480 * beats, pitch, 80)
        for i, name in enumerate(names)
        for pitch in TRIADS[name]
    ]
    return codec.encode(make_song([Part(notes)]))


def test_every_chord_has_one_number_and_one_token():
    assert [chords.number(name) for name in chords.NAMES] == list(range(97))
    assert vocab.COUNT["chord"] == len(chords.NAMES)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [("C", "C"), ("c#m", "Dbm"), ("Bbmaj7", "Bbmaj7"), ("Amin", "Am"), ("G#o", "Abdim"),
     ("F+", "Faug"), ("Dsus", "Dsus4"), ("EM7", "Emaj7"), ("N", "N"), ("Cb", "B")],
)  # fmt: skip
def test_spellings(spelling, name):
    assert chords.NAMES[chords.number(spelling)] == name


@pytest.mark.parametrize("wrong", ["H", "Cxyz", "", "7", "Am9"])
def test_what_is_no_chord_is_refused(wrong):
    with pytest.raises(ControlError, match="chord"):
        chords.number(wrong)


def test_bars_and_what_shares_them():
    lengths = np.array([96, 96, 72])
    assert chords.parse("Am F | C", lengths) == [
        ((0, "Am"), (48, "F")),
        ((0, "C"),),
        ((0, "Am"), (36, "F")),
    ]
    assert chords.parse("Am F C", lengths) == [((0, "Am"),), ((0, "F"),), ((0, "C"),)]
    with pytest.raises(ControlError, match="every bar"):
        chords.parse("Am | | C", lengths)


def test_triads_and_sevenths_are_recognized():
    song = song_of("C", "Am", "F", "G7")
    assert chords.recognize(song, range(4)) == [
        ((0, "C"),), ((0, "Am"),), ((0, "F"),), ((0, "G7"),)
    ]  # fmt: skip


def test_changes_within_a_bar_fall_on_beats():
    song = song_of("C", "F", "C", "G7", beats=2)
    assert chords.recognize(song, range(2)) == [
        ((0, "C"), (48, "F")),
        ((0, "C"), (48, "G7")),
    ]


def test_a_passing_note_changes_nothing():
    held = [(0, 1920, p, 80) for p in TRIADS["C"]]
    song = codec.encode(make_song([Part([*held, (480, 240, 62, 80), (720, 240, 65, 80)])]))
    assert chords.recognize(song, range(1)) == [((0, "C"),)]


def test_notes_held_from_the_bar_before_count():
    notes = [(0, 3840, p, 80) for p in TRIADS["Am"]]
    song = codec.encode(make_song([Part(notes), Part([(1920, 10, 38, 80)], channel=9)]))
    assert chords.recognize(song, range(1, 2)) == [((0, "Am"),)]


def test_drums_and_silence_have_no_chord():
    song = codec.encode(make_song([Part([(0, 480, 36, 80), (960, 480, 40, 80)], channel=9)]))
    assert chords.recognize(song, range(1)) == [((0, "N"),)]


def test_tokens():
    ids = chords.spell(((0, "C"), (48, "Am")))
    assert [vocab.name(i) for i in ids] == ["chord_0", "position_48", "chord_21"]
