"""Rules as they were typed, `VALUE` or `TRACK=VALUE` → the rules of each selected cell."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from anser.errors import ControlError
from anser.prompt import Cell
from anser.rules import NAMES, NO_RULES, Lock, Rules, parse_locks
from anser.selection import Selection, find_track
from anser.song import Song

_BARS: Final = re.compile(r"\s*(\d{1,6})\s*(?:[-–]\s*(\d{1,6})\s*)?:(.*)")


@dataclass(frozen=True)
class RuleWords:
    """The rules as they were typed; `unlike` are files of earlier takes."""

    scale: Sequence[str] | None = None
    range: Sequence[str] | None = None
    max_polyphony: Sequence[str] | None = None
    grid: Sequence[str] | None = None
    keep: Sequence[str] | None = None
    notes: Sequence[str] | None = None
    no_repeat: Sequence[str] | None = None
    lock: Sequence[str] | None = None  # [TRACK=][BARS:]WHAT
    beats: Sequence[str] | None = None
    within_bar: bool = False
    unlike: Sequence[Path] | None = None


def bind(song: Song, selection: Selection, words: RuleWords) -> dict[Cell, Rules]:
    """Return the rules of the cells that have any; raises ControlError, SelectionError.

    A value for a track goes before one for all; locks add up.
    """
    rules = dict.fromkeys(selection.cells, replace(NO_RULES, within_bar=words.within_bar))
    for name in NAMES:
        values = _values(song, selection, name.replace("_", "-"), getattr(words, name) or ())
        for cell, known in rules.items():
            text = values.get(cell[0], values.get(None))
            if text is not None:
                rules[cell] = known.including(name, text)
    for typed in words.lock or ():
        for track, text in _values(song, selection, "lock", [typed]).items():
            bars, locks = _locks(text)
            for cell, known in rules.items():
                if track in (None, cell[0]) and (bars is None or cell[1] in bars):
                    rules[cell] = replace(known, locks=(*known.locks, *locks))
    return {cell: known for cell, known in rules.items() if known != NO_RULES}


def earlier_takes(words: RuleWords) -> tuple[Song, ...]:
    """Read the files of earlier takes; raises ControlError if no rule heeds them."""
    if words.unlike and not words.no_repeat:
        raise ControlError(
            "unlike: expected --no-repeat N too, which says how many notes in a row."
        )
    return tuple(Song.read(path) for path in words.unlike or ())


def _values(
    song: Song, selection: Selection, option: str, typed: Sequence[str]
) -> Mapping[int | None, str]:
    """Split `VALUE` or `TRACK=VALUE`; the key None holds the value for all tracks."""
    values: dict[int | None, str] = {}
    for text in typed:
        name, equals, value = text.rpartition("=")
        track = find_track(name, song) if equals else None
        if track is not None and track not in selection.tracks:
            raise ControlError(
                f"{option} {text}: expected a track with selected bars, found track {track + 1}."
            )
        values[track] = value
    return values


def _locks(text: str) -> tuple[range | None, tuple[Lock, ...]]:
    """Split `[BARS:]WHAT`."""
    match = _BARS.fullmatch(text)
    if match is None:
        return None, parse_locks(text)
    first, last = int(match[1]), int(match[2] or match[1])
    return range(first - 1, last), parse_locks(match[3].strip())
