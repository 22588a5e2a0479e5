"""What a musician writes ("bass:9-12, drums:9-16") → the cells to fill.

The grammar, with tracks and bars counted from 1 and ranges inclusive:

    selection = item { ("," | ";") item }
    item      = track [ ":" bars ]              no bars: all of them
    track     = number | name | quoted name     quotes for names with , ; or :
    bars      = range { ("+" | ",") range }
    range     = bar | bar "-" bar

A number or range alone after a comma belongs to the bars before it ("2:5, 7" is bars 5 and 7 of
track 2); after a semicolon it is a track. A name is found whatever its case, whole first, then as
a part of a track's name; it must be the only one.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from anser.errors import SelectionError
from anser.song import Song
from anser.tracks import Track

FORM = 'Write tracks and bars like "bass:9-12, drums:9-16", "2:5" or "bass:1-2+5-6".'
MOST_LISTED = 12  # tracks named in a message

_RANGE = r"\s*\d{1,9}\s*(?:[-–]\s*\d{1,9}\s*)?"
BARS = re.compile(rf"{_RANGE}(?:[+,]{_RANGE})*")
_BARS_ALONE = re.compile(rf"{_RANGE}(?:\+{_RANGE})*")
# A quoted name, or a run of what neither quotes nor separates.
_PIECE = re.compile(r"""(?:\s*(?:"[^"]*"|'[^']*')[^,;]*|[^,;]*)""")
_QUOTED = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)')\s*(?::(.*))?""", re.DOTALL)


@dataclass(frozen=True)
class Selection:
    """A set of cells: (track, bar), both counted from 0."""

    cells: frozenset[tuple[int, int]]

    @property
    def tracks(self) -> tuple[int, ...]:
        """The tracks that have a selected cell, ascending."""
        return tuple(sorted({track for track, _ in self.cells}))

    @property
    def bars(self) -> tuple[int, ...]:
        """The bars that have a selected cell, ascending."""
        return tuple(sorted({bar for _, bar in self.cells}))

    @classmethod
    def of(cls, tracks: Iterable[int], bars: Iterable[int]) -> "Selection":
        """Select every one of the bars on every one of the tracks, counted from 0."""
        all_bars = list(bars)
        return cls(frozenset((track, bar) for track in tracks for bar in all_bars))

    @classmethod
    def parse(cls, text: str, song: Song) -> "Selection":
        """Select what the text says, counted from 1.

        Raises SelectionError if it is malformed, or names a track or bar that does not exist or a
        track that could be several.
        """
        cells = {
            (track, bar)
            for name, bars in _items(text)
            for track in [find_track(name, song)]
            for bar in parse_bars(bars, song, track)
        }
        return cls(frozenset(cells))

    @classmethod
    def parse_options(cls, tracks: Iterable[str], bars: str | None, song: Song) -> "Selection":
        """Select the bars (like "9-12" or "1-2+5-6"; None for all) of each track named.

        Raises SelectionError as `parse` does.
        """
        found = [find_track(name, song) for name in tracks]
        if not found:
            raise SelectionError(f"{song.name}: expected a track, found none. {_listed(song)}")
        if bars is not None and not BARS.fullmatch(bars):
            raise SelectionError(f'bars "{bars}": expected bars like "9-12" or "1-2+5-6".')
        cells = {(track, bar) for track in found for bar in parse_bars(bars, song, track)}
        return cls(frozenset(cells))

    def spelled(self) -> str:
        """Return the selection as `parse` reads it, with tracks by their numbers."""
        items = []
        for track in self.tracks:
            bars = sorted(bar for other, bar in self.cells if other == track)
            ranges = []
            for _, run in groupby(enumerate(bars), key=lambda pair: pair[1] - pair[0]):
                members = [bar for _, bar in run]
                first, last = members[0] + 1, members[-1] + 1
                ranges.append(f"{first}" if first == last else f"{first}-{last}")
            items.append(f"{track + 1}:{'+'.join(ranges)}")
        return "; ".join(items)


def find_track(name: str, song: Song) -> int:
    """Return the index of the track with a number (from 1) or a name; raises SelectionError."""
    wanted = " ".join(name.split()).casefold()
    if not song.tracks:
        raise SelectionError(f'{song.name}: expected track "{name}", the song has no tracks.')
    names = [track.name.casefold() for track in song.tracks]
    if len(wanted) < 10 and wanted.isdecimal() and 1 <= int(wanted) <= len(names):
        return int(wanted) - 1
    candidates = [track for track, known in enumerate(names) if known == wanted]
    if not candidates and wanted:
        candidates = [track for track, known in enumerate(names) if wanted in known]
    if not candidates:
        raise SelectionError(f'{song.name}: expected a track, found "{name}". {_listed(song)}')
    if len(candidates) > 1:
        could = ", ".join(_shown(track, song.tracks[track]) for track in candidates[:MOST_LISTED])
        more = ", …" if len(candidates) > MOST_LISTED else ""
        raise SelectionError(
            f'{song.name}: expected one track, "{name}" could be {could}{more}. Use its number.'
        )
    return candidates[0]


def _items(text: str) -> list[tuple[str, str | None]]:
    """Split a selection into pairs of a track and its bars, None for all of them."""
    items: list[tuple[str, str | None]] = []
    at = 0
    separator = ";"
    while at <= len(text):
        piece = _PIECE.match(text, at)
        assert piece is not None  # the pattern matches nothing at all, too
        part = piece.group()
        if separator == "," and items[-1][1] is not None and _BARS_ALONE.fullmatch(part):
            items[-1] = (items[-1][0], f"{items[-1][1]},{part}")
        else:
            items.append(_item(part, text))
        separator = text[piece.end() : piece.end() + 1]
        at = piece.end() + 1
    return items


def _item(part: str, text: str) -> tuple[str, str | None]:
    """Split one item into a track and its bars."""
    bars: str | None
    if quoted := _QUOTED.fullmatch(part):
        name = quoted[1] if quoted[1] is not None else quoted[2]
        bars = quoted[3]
    else:
        name, colon, tail = part.rpartition(":")
        bars = tail if colon else None
        name = name if colon else tail
    if not name.strip():
        raise SelectionError(f'selection "{text}": expected a track, found "{part}". {FORM}')
    if bars is not None and not BARS.fullmatch(bars):
        raise SelectionError(
            f'selection "{text}": expected bars after "{name.strip()}:", found "{bars.strip()}". '
            f"{FORM}"
        )
    return name.strip(), bars


def parse_bars(bars: str | None, song: Song, track: int) -> range | set[int]:
    """Return the bars, counted from 0, that a well-formed text names; raises SelectionError."""
    if bars is None:
        return range(song.n_bars)
    chosen: set[int] = set()
    for span in re.split("[+,]", bars):
        ends = [int(number) for number in re.findall(r"\d+", span)]
        first, last = ends[0], ends[-1]
        where = f"{song.name}, track {_shown(track, song.tracks[track])}"
        if last < first:
            raise SelectionError(
                f"{where}: expected bars in rising order, found {first}-{last}. "
                f"Write {last}-{first}."
            )
        if first < 1 or last > song.n_bars:
            asked = f"bar {first}" if first == last else f"bars {first}-{last}"
            have = "1 bar" if song.n_bars == 1 else f"{song.n_bars} bars"
            raise SelectionError(
                f"{where}: {asked} asked for, but the song has {have}. "
                f"Use bars 1-{song.n_bars}, or continue the song to add bars."
            )
        chosen.update(range(first - 1, last))
    return chosen


def _shown(track: int, known: Track) -> str:
    return f'{track + 1} "{known.name}"'


def _listed(song: Song) -> str:
    """Say which tracks there are, the first few of them."""
    shown = [_shown(track, known) for track, known in enumerate(song.tracks[:MOST_LISTED])]
    more = f", … ({len(song.tracks)} in all)" if len(song.tracks) > MOST_LISTED else ""
    return f"Tracks are {', '.join(shown)}{more}."
