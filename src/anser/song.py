"""Raw events → a song of tracks, bars and notes; and new notes in selected cells → raw events.

Time is in ticks. A song never changes: `splice` and `extended` return another.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from anser import meter, midi_edit
from anser.errors import MidiError, SelectionError
from anser.fitting import NEVER, Obstacles
from anser.meter import Bars
from anser.midi import MidiFile, read, read_file, write_file
from anser.notes import NOTE, parts_of, sounded_notes
from anser.repair import repaired
from anser.tracks import Track, gather_tracks

__all__ = ["NOTE", "Bars", "Song", "Track", "fitted", "splice"]


class Cells(Protocol):
    """A set of cells (track, bar), counted from 0; `Selection` is one."""

    @property
    def cells(self) -> frozenset[tuple[int, int]]:
        """The cells."""


@dataclass(frozen=True, eq=False)
class Song:
    """A MIDI file opened for work.

    `tempos`: TEMPO [n] (tick, microseconds a quarter), the first at tick 0; `name`: what messages
    call it; `repairs`: what was changed to make a damaged file readable, one sentence each.
    """

    midi: MidiFile
    ticks_per_quarter: int
    tracks: tuple[Track, ...]
    bars: Bars = field(repr=False)
    tempos: NDArray[np.void] = field(repr=False)
    name: str
    repairs: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: str | os.PathLike[str], *, repair: bool = False) -> "Song":
        """Read a MIDI file; see `from_bytes`. Raises AnserError if there is no such file."""
        return cls.from_bytes(read_file(path), name=Path(path).name, repair=repair)

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "song", *, repair: bool = False) -> "Song":
        """Read a song from the bytes of a MIDI file.

        Raises MidiError if they are damaged; with `repair`, salvages what can be and says in
        `repairs` what it changed.
        """
        repairs: tuple[str, ...] = ()
        if repair:
            data, repairs = repaired(data, name)
        return _song(read(data, name), name, repairs)

    def to_bytes(self) -> bytes:
        """Return the MIDI file: for a song as read, the bytes it was read from."""
        return self.midi.data

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the MIDI file, whole or not at all; raises AnserError if it cannot be."""
        write_file(path, self.midi.data)

    @property
    def n_bars(self) -> int:
        """The number of bars: to the end of the last note, and those that were added."""
        return len(self.bars)

    @cached_property
    def sounded(self) -> NDArray[np.void]:
        """All notes with the events that begin and end them (SOUNDED)."""
        return sounded_notes(self.midi)

    def notes_in(self, track: int, bar: int) -> NDArray[np.void]:
        """Return the notes (NOTE) of a track that begin in a bar."""
        notes, (start, end) = self.tracks[track].notes, self.bars.starts[bar : bar + 2]
        here: NDArray[np.void] = notes[(notes["onset"] >= start) & (notes["onset"] < end)]
        return here

    def extended(self, n_bars: int) -> "Song":
        """Return the song with that many bars more to select, in its last meter; no event changes.

        Time signatures that the file has behind its last note count.
        """
        if n_bars < 0:
            raise ValueError(f"expected bars to add, found {n_bars}")
        return replace(self, bars=_bars(self.midi, self.tracks, self.n_bars + n_bars))


def splice(
    song: Song,
    selection: Cells,
    notes: Mapping[int, NDArray[np.void]],
    locked: Mapping[int, NDArray[np.void]] | None = None,
) -> Song:
    """Return the song with the notes that begin in the selected cells replaced by new ones.

    `locked` maps a track's index to notes (NOTE) of selected cells that stay.

    `notes` maps a track's index to its new notes (NOTE). They go on the track's MTrk and channel,
    fitted between the notes that stay (see `fitted`). All other events stay the same at the same
    tick; end-of-track alone moves, if a new note ends behind it, and with it the end of a note for
    which the file has no note-off. The tracks of the result are those of `song` in the same order,
    even if emptied; notes under another program of their channel may add one. Raises
    SelectionError for a cell that does not exist, ValueError for a note that is none or begins
    outside the selected cells.
    """
    sounded = song.sounded
    removed = _selected_notes(song, selection, sounded) & ~_locked_notes(song, sounded, locked)
    gone = _events_of(sounded[removed], song.midi)
    inserted: dict[int, list[midi_edit.Insertion]] = {}
    for track, fitting in _fitted(song, selection, notes, sounded, ~removed).items():
        home = song.tracks[track]
        inserted.setdefault(home.chunk, []).extend(_messages(fitting, home.channel))
    edited = midi_edit.edited(song.midi, gone, inserted)
    return _song(edited, song.name, song.repairs, song)


def fitted(
    song: Song, selection: Cells, notes: Mapping[int, NDArray[np.void]]
) -> dict[int, NDArray[np.void]]:
    """Return the new notes as `splice` will write them, so that equal pitches never overlap.

    A note that lasts into the next one of its pitch on the channel is shortened to end there; one
    that begins while such a note sounds that must stay, or together with one, is left out.
    Raises as `splice` does.
    """
    sounded = song.sounded
    removed = _selected_notes(song, selection, sounded)
    return _fitted(song, selection, notes, sounded, ~removed)


def _fitted(
    song: Song,
    selection: Cells,
    notes: Mapping[int, NDArray[np.void]],
    sounded: NDArray[np.void],
    staying: NDArray[np.bool_],
) -> dict[int, NDArray[np.void]]:
    """Fit the new notes between those of the sounded ones (SOUNDED) that stay."""
    fitting: dict[int, NDArray[np.void]] = {}
    new = np.concatenate([np.zeros(0, NOTE), *notes.values()])
    first, last = new["onset"].min(initial=NEVER), (new["onset"] + new["duration"]).max(initial=0)
    begin, end = sounded["onset"], sounded["onset"] + sounded["duration"]
    meets = (begin <= last) & ((end >= first) | (sounded["off"] < 0))
    heard = np.isin(sounded["channel"], [song.tracks[track].channel for track in notes])
    obstacles = Obstacles(song.midi, sounded, staying & meets & heard)
    for track in sorted(notes):
        _check_notes(song, selection, track, notes[track])
        home = song.tracks[track]
        fitting[track] = obstacles.fit(notes[track], home.chunk, home.channel)
    return fitting


def _check_notes(song: Song, selection: Cells, track: int, notes: NDArray[np.void]) -> None:
    """Raise ValueError for notes that MIDI cannot hold or that begin outside the selected cells."""
    for column, least, most in (("pitch", 0, 127), ("velocity", 1, 127), ("duration", 0, None)):
        values = notes[column]
        if (values < least).any() or (most is not None and (values > most).any()):
            raise ValueError(f"track {track}: {column} of a new note is outside {least}..{most}")
    bars = np.unique(song.bars.at(notes["onset"])).tolist()
    outside = [bar for bar in bars if (track, bar) not in selection.cells]
    if outside:
        raise ValueError(f"track {track}: new notes begin in bars {outside}, not in the selection")


def _selected_notes(song: Song, selection: Cells, sounded: NDArray[np.void]) -> NDArray[np.bool_]:
    """Say of each sounded note whether it begins in a selected cell; raises SelectionError."""
    chosen = np.zeros((len(song.tracks), song.n_bars + 1), np.bool_)
    for track, bar in selection.cells:
        if not (0 <= track < len(song.tracks) and 0 <= bar < song.n_bars):
            raise SelectionError(
                f"{song.name}: expected tracks 1-{len(song.tracks)} and bars 1-{song.n_bars}, "
                f"found track {track + 1}, bar {bar + 1}."
            )
        chosen[track, bar] = True
    selected = np.zeros(len(sounded), np.bool_)
    bars = song.bars.at(sounded["onset"])
    parts = parts_of(sounded)
    for track in np.flatnonzero(chosen.any(axis=1)).tolist():
        selected |= (parts == song.tracks[track].part) & chosen[track, bars]
    return selected


def _locked_notes(
    song: Song, sounded: NDArray[np.void], locked: Mapping[int, NDArray[np.void]] | None
) -> NDArray[np.bool_]:
    """Say of each sounded note whether it is one of the locked ones."""
    stay = np.zeros(len(sounded), np.bool_)
    columns = ["onset", "duration", "pitch", "velocity"]
    for track, notes in (locked or {}).items():
        own = np.flatnonzero(parts_of(sounded) == song.tracks[track].part)
        stays = set(notes.tolist())
        contents = zip(*(sounded[name][own].tolist() for name in columns), strict=True)
        stay[own] = [content in stays for content in contents]
    return stay


def _events_of(notes: NDArray[np.void], midi: MidiFile) -> NDArray[np.bool_]:
    """Mark (bool [n_events]) the events that begin and end some notes (SOUNDED)."""
    marked = np.zeros(len(midi.events), np.bool_)
    marked[notes["on"]] = True
    marked[notes["off"][notes["off"] >= 0]] = True
    return marked


def _messages(notes: NDArray[np.void], channel: int) -> list[midi_edit.Insertion]:
    """Return the note-ons and note-offs of some notes (NOTE).

    A note-off goes before what else happens at its tick, a note-on behind it, so that a pitch
    struck again at once is heard, and a program change or a pedal at this tick holds.
    """
    messages = []
    for onset, duration, pitch, velocity in notes.tolist():
        on, off = bytes([0x90 | channel, pitch, velocity]), bytes([0x80 | channel, pitch, 64])
        messages.append(midi_edit.Insertion(onset, on))
        messages.append(midi_edit.Insertion(onset + duration, off, before=duration > 0))
    return messages


def _song(midi: MidiFile, name: str, repairs: tuple[str, ...], like: Song | None = None) -> Song:
    """Make a song of a MIDI file; `like` one before an edit: its tracks in order, and its bars."""
    sounded = sounded_notes(midi)
    tracks = gather_tracks(midi, sounded, like.tracks if like else ())
    try:
        bars = _bars(midi, tracks, like.n_bars if like else 1)
    except MidiError as error:
        raise MidiError(f"{name}, {error}") from None
    ticks_per_quarter = meter.ticks_per_quarter(midi.division)
    return Song(midi, ticks_per_quarter, tracks, bars, meter.read_tempos(midi), name, repairs)


def _bars(midi: MidiFile, tracks: tuple[Track, ...], n_least: int) -> Bars:
    """Return the bars to the end of the last note, at least `n_least`."""
    ends = [
        int((track.notes["onset"] + np.maximum(track.notes["duration"], 1)).max())
        for track in tracks
        if len(track.notes)
    ]
    ticks_quarter = meter.ticks_per_quarter(midi.division)
    meters = meter.read_meters(midi, ticks_quarter)
    return meter.make_bars(meters, ticks_quarter, max(ends, default=0), n_least)
