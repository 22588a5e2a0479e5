"""Wishes as they were typed, `[TRACK=][BARS:]VALUE` → the controls and rules of each selected cell.

Every wish is addressed alike: to all selected cells, to a track's, to some bars', to both. The more
particular goes before the more general, a track before bars; among equals the last one counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from anser import chords
from anser.codec import bar_lengths
from anser.control_words import READERS, parse_like
from anser.controls import Controls
from anser.errors import ControlError
from anser.prompt import Cell
from anser.rules import NAMES, NO_RULES, Rules, parse_locks
from anser.selection import BARS, Selection, find_track, parse_bars
from anser.song import Song
from anser.take_file import opened
from anser.wishes import Wishes, Words

CONTROL_WORDS: Final = (*READERS, "chords", "like")
WORDS: Final = (*CONTROL_WORDS, *NAMES, "lock", "within_bar", "unlike")
PITCHED: Final = ("register", "span", "pitch_classes", "program", "chords")  # drums have none
_ADDRESSED: Final = re.compile(rf"({BARS.pattern}):(.*)", re.DOTALL)


def bind_rules(song: Song, selection: Selection, wishes: Wishes) -> dict[Cell, Rules]:
    """Return the rules of the cells that have any; locks add up. Raises ControlError."""
    rules = dict.fromkeys(selection.cells, replace(NO_RULES, within_bar=wishes.within_bar))
    for name in NAMES:
        for text, cells in _addressed(song, selection, name, getattr(wishes, name)):
            for cell in cells:
                rules[cell] = rules[cell].including(name, text)
    for text, cells in _addressed(song, selection, "lock", wishes.lock):
        locks = parse_locks(text.strip())
        for cell in cells:
            rules[cell] = replace(rules[cell], locks=(*rules[cell].locks, *locks))
    return {cell: known for cell, known in rules.items() if known != NO_RULES}


def bind_controls(song: Song, selection: Selection, wishes: Wishes) -> dict[Cell, Controls]:
    """Return the controls of the cells that have any. Raises ControlError.

    What is said of pitches to all tracks passes drums by.
    """
    asked: dict[Cell, dict[str, Any]] = {cell: {} for cell in selection.cells}
    for name in CONTROL_WORDS:
        for text, cells in _addressed(song, selection, name, getattr(wishes, name)):
            for cell, value in _values(song, name, text, cells).items():
                asked[cell] |= value
    return {cell: Controls(**values) for cell, values in sorted(asked.items()) if values}


def earlier_takes(song: Song, wishes: Wishes) -> tuple[Song, ...]:
    """Read the files of earlier takes; raises ControlError if no rule heeds them."""
    if wishes.unlike and not wishes.no_repeat:
        raise ControlError(
            "unlike: expected --no-repeat N too, which says how many notes in a row."
        )
    return tuple(opened(path, song) for path in wishes.unlike)


def _addressed(
    song: Song, selection: Selection, name: str, words: Words
) -> list[tuple[str, frozenset[Cell]]]:
    """Return each value with the cells it is for, the most particular last."""
    found = []
    for text in words:
        named, equals, rest = text.rpartition("=")
        track = find_track(named, song) if equals else None
        match = _ADDRESSED.fullmatch(rest)
        bars, value = (match[1], match[2]) if match else (None, rest)
        option = f"{name.replace('_', '-')} {text}"
        if track is not None and track not in selection.tracks:
            raise ControlError(
                f"{option}: expected a track with selected bars, found track {track + 1}."
            )
        some_track = selection.tracks[0] if track is None else track
        within = range(song.n_bars) if bars is None else parse_bars(bars, song, some_track)
        cells = {(t, b) for t, b in selection.cells if track in (None, t) and b in within}
        if name in PITCHED:
            cells = _without_drums(song, cells, option, is_named=track is not None)
        if not cells:
            raise ControlError(f"{option}: expected selected bars, found none of them in {bars}.")
        found.append(((track is not None, bars is not None), value, frozenset(cells)))
    found.sort(key=lambda entry: entry[0])
    return [(value, cells) for _, value, cells in found]


def _without_drums(song: Song, cells: set[Cell], option: str, *, is_named: bool) -> set[Cell]:
    drums = {track for track, _ in cells if song.tracks[track].is_drum}
    pitched = {cell for cell in cells if cell[0] not in drums}
    if drums and (is_named or not pitched):
        track = min(drums)
        raise ControlError(
            f"{option}: expected a track with pitches, found track {track + 1} "
            f'"{song.tracks[track].name}", which plays drums.'
        )
    return pitched


def _values(
    song: Song, name: str, text: str, cells: frozenset[Cell]
) -> Mapping[Cell, dict[str, Any]]:
    """Read a value into fields of Controls, for each of its cells."""
    if name == "chords":
        first, last = min(bar for _, bar in cells), max(bar for _, bar in cells)
        by_bar = chords.parse(text, bar_lengths(song)[first : last + 1])
        return {(track, bar): {"chords": by_bar[bar - first]} for track, bar in cells}
    if name == "like":
        reference, likeness = parse_like(text)
        if reference is not None and reference >= song.n_bars:
            raise ControlError(
                f"like {text}: expected a bar of 1 to {song.n_bars}, found {reference + 1}."
            )
        return {
            (track, bar): {"reference": bar if reference is None else reference}
            | {"likeness": likeness}
            for track, bar in cells
        }
    return dict.fromkeys(cells, READERS[name](text))
