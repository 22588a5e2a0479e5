"""Take ↔ a small file: all that decided it, and its notes.

`replay` needs neither model nor chance, and gives the same bytes; `request` is what a model needs
to write the same notes again. In the file, JSON, tracks and bars count from 1; notes are
[onset, duration, pitch, velocity], in ticks.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, get_type_hints

import numpy as np
from numpy.typing import NDArray

from anser import room
from anser.controls import NO_CONTROLS, Controls
from anser.errors import TakeError
from anser.infill import Request, Take
from anser.midi import read_file, write_file
from anser.plain import from_plain, to_plain
from anser.prompt import Cell
from anser.rules import NO_RULES, Rules
from anser.selection import Selection
from anser.song import NOTE, Song, splice

FORMAT: Final = 1
SUFFIX: Final = ".take.json"
_HERE: Final = "anser take"  # the key that says what the file is, and its format

Note = tuple[int, int, int, int]  # onset, duration (ticks), pitch, velocity

# fields of a request that stand elsewhere in the file, or in other files
_APART: Final = ("song", "selection", "controls", "rules", "earlier", "takes", "first", "seed")


@dataclass(frozen=True)
class CellNotes:
    """What was asked of a cell, and what was written in it."""

    track: int  # from 1, as in all of the file
    bar: int
    ticks: tuple[int, int]  # where the bar begins and ends
    stood: str  # fingerprint of the notes that were there before
    notes: tuple[Note, ...] = ()
    stays: tuple[Note, ...] = ()  # of those that were there
    controls: Controls = NO_CONTROLS
    rules: Rules = NO_RULES


@dataclass(frozen=True)
class SongMark:
    """How the song is known again."""

    name: str
    sha256: str  # of its bytes
    bars: int  # those added to be written in included
    tracks: tuple[str, ...]  # their names


@dataclass(frozen=True)
class Maker:
    """What wrote the take."""

    anser: str  # version of the package
    model: str
    weights: str  # their fingerprint


@dataclass(frozen=True)
class TakeFile:
    """A take as it is kept in a file."""

    song: SongMark
    cells: tuple[CellNotes, ...]
    maker: Maker
    seed: int
    take: int  # number of the take, from 1
    sha256: str  # of the song with the take in it
    earlier: tuple[str, ...] = ()  # fingerprints of the songs that it was not to repeat
    asked: Mapping[str, Any] = field(default_factory=dict)  # all else in the request

    @classmethod
    def of(cls, take: Take, model: str, weights: str) -> TakeFile:
        """Describe a take, written by the model of this name and fingerprint."""
        request = take.request
        if request is None:
            raise ValueError("a take is kept with its request, found one without.")
        song = request.song
        cells = [_cell(song, request, take, cell) for cell in sorted(request.selection.cells)]
        asked = to_plain(request_settings(request))
        return cls(
            song=SongMark(
                song.name,
                _sha256(song.to_bytes()),
                song.n_bars,
                tuple(track.name for track in song.tracks),
            ),
            cells=tuple(cells),
            maker=Maker(version("anser"), model, weights),
            seed=take.seed,
            take=take.number + 1,
            sha256=_sha256(take.song.to_bytes()),
            earlier=tuple(_sha256(other.to_bytes()) for other in request.earlier),
            asked=asked,
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TakeFile:
        """Read a file; raises TakeError where it is damaged, or newer than this version."""
        return cls.parse(read_file(path), str(path))

    @classmethod
    def parse(cls, data: bytes, name: str) -> TakeFile:
        """Read the bytes of a file; see `load`."""
        try:
            given = json.loads(data)
        except ValueError as error:
            raise TakeError(
                f"{name}: expected the file of a take, found no JSON: {error}."
            ) from None
        found = given.pop(_HERE, None) if isinstance(given, dict) else None
        if not isinstance(found, int):
            raise TakeError(f'{name}: expected the file of a take, found no "{_HERE}" in it.')
        if found > FORMAT:
            raise TakeError(
                f"{name}: expected format {FORMAT} or older, found {found}. "
                "Use a newer version of Anser."
            )
        asked = given.pop("asked", {})
        try:
            return cls(asked=asked, **_fields(cls, given))
        except (ValueError, TypeError) as error:
            raise TakeError(f"{name}: expected a whole take, found it damaged: {error}.") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, whole or not at all; raises AnserError if it cannot be."""
        plain = {_HERE: FORMAT, **to_plain(self), "asked": dict(self.asked)}
        write_file(path, (json.dumps(plain, ensure_ascii=False) + "\n").encode())

    @property
    def selection(self) -> Selection:
        """The cells that were written."""
        return Selection(frozenset((cell.track - 1, cell.bar - 1) for cell in self.cells))

    def replay(self, song: Song, *, anyway: bool = False) -> Song:
        """Return the song with the take in it: for the song it was made for, the same bytes.

        Raises TakeError for another song, or one that has changed; `anyway` lets changes pass as
        long as the tracks and the lines of the selected bars are where they were.
        """
        longer = song.extended(max(self.song.bars - song.n_bars, 0))
        is_same = _sha256(song.to_bytes()) == self.song.sha256
        if not is_same:
            self._refuse_another(longer, anyway=anyway)
        notes: dict[int, list[Note]] = {}
        stays: dict[int, list[Note]] = {}
        for cell in self.cells:
            notes.setdefault(cell.track - 1, []).extend(cell.notes)
            stays.setdefault(cell.track - 1, []).extend(cell.stays)
        played = splice(longer, self.selection, _arrays(notes), _arrays(stays))
        if is_same and _sha256(played.to_bytes()) != self.sha256:
            raise TakeError(
                f"{song.name}: expected the same bytes as when the take was made by version "
                f"{self.maker.anser} of Anser, found others. Use that version."
            )
        return played

    def request(self, song: Song, earlier: Sequence[Song] = ()) -> Request:
        """Return the request that this take answers, for the model to write it again.

        `earlier` are the songs it was not to repeat, in their order. Raises TakeError where one of
        the songs is another.
        """
        found = tuple(_sha256(other.to_bytes()) for other in (song, *earlier))
        if found != (self.song.sha256, *self.earlier):
            raise TakeError(
                f"{song.name}: expected the song, and the {len(self.earlier)} earlier takes, that "
                "this one was made for; found others."
            )
        cells = {(cell.track - 1, cell.bar - 1): cell for cell in self.cells}
        hints = get_type_hints(Request)
        return Request(
            song.extended(max(self.song.bars - song.n_bars, 0)),
            self.selection,
            {at: cell.controls for at, cell in cells.items() if cell.controls != NO_CONTROLS},
            {at: cell.rules for at, cell in cells.items() if cell.rules != NO_RULES},
            earlier,
            first=self.take - 1,
            seed=self.seed,
            **{name: from_plain(hints[name], value) for name, value in self.asked.items()},
        )

    def _refuse_another(self, song: Song, *, anyway: bool) -> None:
        """Say what about a song is not as it was; `anyway` lets pass what can be written over."""
        remedy = "Give the song that the take was made for"
        for cell in self.cells:
            track, bar = cell.track - 1, cell.bar - 1
            if track >= len(song.tracks) or song.tracks[track].name != self.song.tracks[track]:
                raise TakeError(
                    f"{song.name}: expected {self.song.name} with track {cell.track} "
                    f'"{self.song.tracks[track]}", found another song. {remedy}.'
                )
            lines = tuple(int(tick) for tick in song.bars.starts[bar : bar + 2])
            if lines != cell.ticks:
                raise TakeError(
                    f"{song.name}, bar {cell.bar}: expected it from tick {cell.ticks[0]} to "
                    f"{cell.ticks[1]} as in {self.song.name}, found {lines}. {remedy}."
                )
        if anyway:
            return
        remedy += ", or write over the changes with --anyway."
        for cell in self.cells:
            if _fingerprint(song.notes_in(cell.track - 1, cell.bar - 1)) != cell.stood:
                raise TakeError(
                    f"{song.name}, track {cell.track}, bar {cell.bar}: expected the notes that "
                    f"stood there when the take was made, found others. {remedy}"
                )
        raise TakeError(
            f"{song.name}: expected {self.song.name} as it was when the take was made, found "
            f"changes outside the selected bars. {remedy}"
        )


def request_settings(request: Request) -> dict[str, Any]:
    """Return all fields of a request that have not their default, but songs, cells and chance."""
    plain = {f.name: getattr(request, f.name) for f in fields(Request) if f.name not in _APART}
    unset = Request(request.song, request.selection)
    return {n: to_plain(v) for n, v in plain.items() if v != getattr(unset, n)}


def _fields(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Read the fields of a dataclass from plain values; ValueError for those it has not."""
    hints = get_type_hints(cls)
    unknown = sorted(set(given) - set(hints))
    if unknown:
        raise ValueError(f"unknown {', '.join(unknown)}")
    return {name: from_plain(hints[name], value) for name, value in given.items()}


def _cell(song: Song, request: Request, take: Take, cell: Cell) -> CellNotes:
    track, bar = cell
    start, end = (int(tick) for tick in song.bars.starts[bar : bar + 2])
    written = take.notes.get(track, np.empty(0, NOTE))
    inside = written[(written["onset"] >= start) & (written["onset"] < end)]
    rules = request.rules.get(cell, NO_RULES)
    return CellNotes(
        track + 1,
        bar + 1,
        (start, end),
        _fingerprint(song.notes_in(*cell)),
        tuple(inside.tolist()),
        tuple(room.staying(song, cell, rules)) if request.rules else (),
        request.controls.get(cell, NO_CONTROLS),
        rules,
    )


def _fingerprint(notes: NDArray[np.void]) -> str:
    return _sha256(np.sort(notes).astype(NOTE).tobytes())[:16]


def _arrays(notes: Mapping[int, list[Note]]) -> dict[int, NDArray[np.void]]:
    return {track: np.array(those, NOTE) for track, those in notes.items() if those}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def opened(path: Path, song: Song) -> Song:
    """Return an earlier take: a MIDI file, or the file of a take of this song."""
    if path.suffix == ".json":
        return TakeFile.load(path).replay(song)
    return Song.read(path)
