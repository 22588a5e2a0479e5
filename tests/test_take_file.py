"""A take kept in a file comes back to the byte, and is refused where it does not fit."""

import json
from dataclasses import replace

import pytest

from anser.controls import Controls
from anser.errors import AnserError, TakeError
from anser.infill import Request, infill
from anser.rules import Lock, Rules
from anser.sampling import Sampling
from anser.selection import Selection
from anser.song import NOTE, Song, splice
from anser.take_file import TakeFile, opened
from fakes import FakeEngine
from songs import Part, band, make_song

CELLS = Selection.of([0, 1], [4, 5])


def asked(**changes):
    controls = {(0, 4): Controls(density=3, lengths=frozenset({"1/8"}))}
    rules = {(1, 5): Rules(max_polyphony=2, locks=(Lock(beats=(0, 1)),))}
    made = Request(band(), CELLS, controls, rules, takes=3, seed=7, sampling=Sampling(1, 0.9))
    return replace(made, **changes)


@pytest.fixture
def kept(tmp_path):
    """A function that makes takes, keeps one, and reads it again; returns both."""

    def keep(request, number=2):
        take = infill(FakeEngine(), request)[number]
        path = tmp_path / "out.take.json"
        TakeFile.of(take, "tiny", "0" * 64).save(path)
        return take, TakeFile.load(path)

    return keep


def test_replaying_gives_the_same_bytes_without_a_model(kept):
    take, file = kept(asked())
    assert file.replay(band()).to_bytes() == take.song.to_bytes()


def test_a_file_that_is_read_is_the_one_that_was_written(kept):
    take, file = kept(asked())
    assert file == TakeFile.of(take, "tiny", "0" * 64)
    assert (file.seed, file.take, file.selection) == (7, 3, CELLS)


def test_the_recipe_gives_the_same_notes_again(kept):
    take, file = kept(asked())
    again = file.request(band())
    assert again.sampling == Sampling(1, 0.9)
    assert again.controls == asked().controls
    (same,) = infill(FakeEngine(), again)
    assert same.song.to_bytes() == take.song.to_bytes()
    assert same.number == take.number


def test_bars_that_were_added_are_added_again(kept):
    song = band()
    longer = song.extended(2)
    cells = Selection.of([0], [song.n_bars, song.n_bars + 1])
    take, file = kept(Request(longer, cells, takes=1), 0)
    assert file.replay(song).to_bytes() == take.song.to_bytes()
    assert file.request(song).song.n_bars == longer.n_bars


def test_earlier_takes_have_to_be_there_to_write_it_again(kept):
    first = infill(FakeEngine(), asked(rules={}))[0].song
    rules = dict.fromkeys(CELLS.cells, Rules(no_repeat=2))
    take, file = kept(asked(rules=rules, earlier=(first,)))
    assert file.replay(band()).to_bytes() == take.song.to_bytes()
    assert file.request(band(), [first]).earlier == [first]
    with pytest.raises(TakeError, match="1 earlier takes"):
        file.request(band())


def changed(track, bar):
    """Return the song with a bar of a track emptied."""
    return splice(band(), Selection.of([track], [bar]), {})


def test_a_song_that_has_changed_is_refused_unless_told_anyway(kept):
    take, file = kept(asked())
    with pytest.raises(TakeError, match="track 1, bar 5: expected the notes"):
        file.replay(changed(0, 4))
    with pytest.raises(TakeError, match="outside the selected bars"):
        file.replay(changed(2, 0))
    with pytest.raises(TakeError, match="expected the song"):
        file.request(changed(2, 0))
    played = file.replay(changed(2, 0), anyway=True)
    assert played.tracks[0].notes.tolist() == take.song.tracks[0].notes.tolist()
    assert len(played.tracks[2].notes) < len(take.song.tracks[2].notes)


def test_another_song_is_refused_even_then(kept):
    _, file = kept(asked())
    other = make_song([Part([(0, 480, 60, 80)], name="Flute")])
    with pytest.raises(TakeError, match="another song"):
        file.replay(other, anyway=True)
    four, three = b"\xff\x58\x04\x04\x02", b"\xff\x58\x04\x03\x02"
    waltz = Song.from_bytes(band().to_bytes().replace(four, three))
    with pytest.raises(TakeError, match="bar 5: expected it from tick"):
        file.replay(waltz, anyway=True)


DAMAGED = {
    "no JSON": (lambda plain: "{", "no JSON"),
    "another JSON": (lambda plain: "[1]", "no \"anser take\""),
    "newer": (lambda plain: json.dumps(plain | {"anser take": 99}), "newer version"),
    "cut short": (lambda plain: json.dumps({k: plain[k] for k in list(plain)[:3]}), "damaged"),
    "of another field": (lambda plain: json.dumps(plain | {"colour": 1}), "colour"),
    "of no number": (lambda plain: json.dumps(plain | {"seed": "x"}), "damaged"),
    "cut": (lambda plain: json.dumps(plain)[:-9], "no JSON"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "said"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_is_refused_in_one_line(damage, said, kept, tmp_path):
    kept(asked())
    path = tmp_path / "out.take.json"
    path.write_text(damage(json.loads(path.read_text(encoding="utf-8"))))
    with pytest.raises(TakeError, match=said) as error:
        TakeFile.load(path)
    assert "\n" not in str(error.value)
    with pytest.raises(AnserError):
        TakeFile.load(tmp_path / "none.take.json")


def test_an_earlier_take_is_read_from_its_file_or_from_midi(kept, tmp_path):
    take, _ = kept(asked())
    take.song.write(tmp_path / "out.mid")
    for name in ("out.mid", "out.take.json"):
        assert opened(tmp_path / name, band()).to_bytes() == take.song.to_bytes()


def test_notes_come_back_as_notes(kept):
    take, file = kept(asked(rules={}))
    notes = [note for cell in file.cells if cell.track == 1 for note in cell.notes]
    assert notes == take.notes[0].tolist()
    assert take.notes[0].dtype == NOTE
