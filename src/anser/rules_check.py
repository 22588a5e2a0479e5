"""A song before and after + the rules asked for → what breaks them; nothing, if all are kept.

Reads notes alone, by plain loops, and shares no code with what keeps the rules while writing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from anser.rules import Rules
from anser.selection import Selection
from anser.song import Song

Note = tuple[int, int, int, int]  # onset, duration (ticks), pitch, velocity
GRID = 24  # positions a quarter


@dataclass(frozen=True)
class Violation:
    """A rule that a cell (track and bar from 0) breaks, and how."""

    track: int
    bar: int
    rule: str
    what: str

    def __str__(self) -> str:
        return f"track {self.track + 1}, bar {self.bar + 1}, {self.rule}: {self.what}"


@dataclass(frozen=True)
class _Cell:
    """The notes of one cell: those that had to stay, those that went, those that came."""

    song: Song
    track: int
    bar: int
    staying: list[Note]
    old: list[Note]
    new: list[Note]

    @property
    def start(self) -> int:
        return int(self.song.bars.starts[self.bar])

    @property
    def end(self) -> int:
        return int(self.song.bars.starts[self.bar + 1])

    def beat(self, onset: int) -> int:
        quarter = self.song.ticks_per_quarter
        return (onset - self.start) * int(self.song.bars.denominators[self.bar]) // (4 * quarter)


@dataclass
class _Notes:
    """The notes of songs, in order of onset; each track is read once."""

    read: dict[tuple[int, int], list[Note]] = field(default_factory=dict)

    def of(self, song: Song, track: int) -> list[Note]:
        at = id(song), track
        if at not in self.read:
            self.read[at] = sorted(song.tracks[track].notes.tolist())
        return self.read[at]

    def within(self, song: Song, track: int, bar: int) -> list[Note]:
        notes, starts = self.of(song, track), song.bars.starts
        first, stop = (bisect_left(notes, (int(starts[b]),)) for b in (bar, bar + 1))
        return notes[first:stop]


def violations(
    before: Song,
    after: Song,
    selection: Selection,
    rules: Mapping[tuple[int, int], Rules],
    earlier: Sequence[Song] = (),
) -> list[Violation]:
    """Check every cell that has rules; `earlier` are takes whose repetition was forbidden too.

    The tracks and bars of `after` must be those of `before`.
    """
    found: list[Violation] = []
    notes = _Notes()
    known: dict[tuple[int, int], set[tuple[tuple[int, int], ...]]] = {}
    for (track, bar), wish in sorted(rules.items()):
        here = notes.within(before, track, bar), notes.within(after, track, bar)
        cell, missing = _compare(before, (track, bar), wish, *here)
        found += [Violation(track, bar, "lock", f"{note} is gone") for note in missing]
        broken = [*_broken(cell, wish), *_unkept(cell, wish)]
        if wish.max_polyphony is not None:
            others = {
                other
                for at, other in selection.cells
                if at == track
                and rules.get((at, other), Rules()).max_polyphony != wish.max_polyphony
            }
            broken += _crowds(cell, wish.max_polyphony, notes.of(after, track), others)
        found += [Violation(track, bar, rule, what) for rule, what in broken]
        if wish.no_repeat is not None:
            at = track, wish.no_repeat
            if at not in known:
                bars = {bar for other, bar in selection.cells if other == track}
                known[at] = _known_runs(notes, [before, *earlier], bars, *at)
            for run in _runs(cell, wish.no_repeat) & known[at]:
                found.append(Violation(track, bar, "no-repeat", f"{run} was there"))
    return found


def _compare(
    before: Song, at: tuple[int, int], rules: Rules, old: list[Note], written: list[Note]
) -> tuple[_Cell, list[Note]]:
    """Sort the notes of a cell, and name those that had to stay but did not."""
    track, bar = at
    now = Counter(written)
    probe = _Cell(before, track, bar, [], [], [])
    staying: list[Note] = []
    gone: list[Note] = []
    for note in old:
        beat = probe.beat(note[0])
        outside = rules.beats is not None and not rules.beats[0] <= beat < rules.beats[1]
        locked = False
        for lock in rules.locks:
            low, high = lock.pitches if lock.pitches is not None else (0, 127)
            first, stop = lock.beats if lock.beats is not None else (0, beat + 1)
            locked = locked or (low <= note[2] <= high and first <= beat < stop)
        (staying if outside or locked else gone).append(note)
    now -= Counter(staying) & now
    missing = list((Counter(staying) - Counter(written)).elements())
    end_of_track = _end_of_track(before, track)
    for note in [note for note in missing if note[0] + note[1] == end_of_track]:
        # a note that is never ended lasts to the end of the track, which may have moved
        moved = [other for other in now if (other[0], *other[2:]) == (note[0], *note[2:])]
        if moved:
            missing.remove(note)
            now[moved[0]] -= 1
    new = sorted(now.elements())
    return _Cell(before, track, bar, staying, gone, new), missing


def _broken(cell: _Cell, rules: Rules) -> Iterator[tuple[str, str]]:
    """Yield what breaks the rules that look at notes one by one, or at their number."""
    is_drum = cell.song.tracks[cell.track].is_drum
    for note in cell.new:
        onset, duration, pitch, _ = note
        if rules.scale is not None and not is_drum and pitch % 12 not in rules.scale:
            yield "scale", f"pitch {pitch}"
        if rules.pitches is not None and not rules.pitches[0] <= pitch <= rules.pitches[1]:
            yield "range", f"pitch {pitch}"
        if rules.grid is not None and not _is_on_grid(cell, onset, rules.grid):
            yield "grid", f"onset {onset - cell.start} ticks behind the bar line"
        if rules.within_bar and onset + duration > cell.end:
            yield "within-bar", f"{note} sounds {onset + duration - cell.end} ticks too long"
        if rules.beats is not None:
            if not rules.beats[0] <= cell.beat(onset) < rules.beats[1]:
                yield "beats", f"{note} begins in beat {cell.beat(onset) + 1}"
    n_notes = len(cell.new) + len(cell.staying)
    if rules.notes is not None and not rules.notes[0] <= n_notes <= rules.notes[1]:
        yield "notes", f"{n_notes} notes"


def _unkept(cell: _Cell, rules: Rules) -> Iterator[tuple[str, str]]:
    """Yield what was to be kept of the notes that went, but is not."""
    if rules.keep == "rhythm":
        old, new = (
            sorted((onset, lasts, loud) for onset, lasts, _, loud in notes)
            for notes in (cell.old, cell.new)
        )
        if old != new:
            yield "keep rhythm", f"expected {old}, found {new}"
    if rules.keep == "pitch":
        melodies = [[pitch for _, pitch in _places(cell, notes)] for notes in (cell.old, cell.new)]
        if melodies[0] != melodies[1]:
            yield "keep pitch", f"expected {melodies[0]}, found {melodies[1]}"


def _end_of_track(song: Song, track: int) -> int:
    chunk = song.midi.chunks[song.tracks[track].chunk]
    return int(song.midi.events["tick"][chunk.end_event - 1])


def _is_on_grid(cell: _Cell, onset: int, step: int) -> bool:
    """Say whether an onset is the tick nearest to a multiple of the step from the bar line."""
    quarter, offset = cell.song.ticks_per_quarter, onset - cell.start
    nearest = round(offset * GRID / (quarter * step))
    return any(
        abs(offset - multiple * step * quarter / GRID) <= 0.5
        for multiple in (nearest - 1, nearest, nearest + 1)
    )


def _crowds(
    cell: _Cell, most: int, track: list[Note], others: set[int]
) -> Iterator[tuple[str, str]]:
    """Yield the moments at which a new note sounds among too many of its track.

    It counts up to the next selected bar with another limit, or none.
    """
    spans = [(note[0], note[0] + note[1]) for note in track]
    last = max((onset + duration for onset, duration, _, _ in cell.new), default=0)
    near = [(start, end) for start, end in spans if start < last and end > cell.start]
    stop = min((int(cell.song.bars.starts[bar]) for bar in others if bar > cell.bar), default=last)
    for onset, duration, _, _ in cell.new:
        moments = {onset} | {start for start, _ in near if onset <= start < onset + duration}
        for moment in sorted(moments):
            together = sum(start <= moment < end for start, end in near)
            if together > most and moment < stop:
                yield "max-polyphony", f"{together} notes at tick {moment}"
                break


def _places(cell: _Cell, notes: Sequence[Note]) -> list[tuple[int, int]]:
    """Return (position on the grid, pitch) of notes, in order; the last position takes the rest."""
    quarter = cell.song.ticks_per_quarter
    last = -(-(cell.end - cell.start) * GRID // quarter) - 1
    return sorted(
        (min((2 * (onset - cell.start) * GRID + quarter) // (2 * quarter), max(last, 0)), pitch)
        for onset, _, pitch, _ in notes
    )


def _runs(cell: _Cell, n: int) -> set[tuple[tuple[int, int], ...]]:
    """Return the runs of n new notes, none of those that stay between them."""
    marked = [(place, True) for place in _places(cell, cell.new)]
    marked += [(place, False) for place in _places(cell, cell.staying)]
    runs, row = set(), list[tuple[int, int]]()
    for place, is_new in sorted(marked):
        row = [*row, place] if is_new else []
        if len(row) >= n:
            runs.add(tuple(row[-n:]))
    return runs


def _known_runs(
    notes: _Notes, songs: Sequence[Song], selected: set[int], track: int, n: int
) -> set[tuple[tuple[int, int], ...]]:
    """Return the runs of n notes in the first song's other bars, and in these bars of the rest."""
    before, *earlier = songs
    context = [(before, bar) for bar in range(before.n_bars) if bar not in selected]
    context += [(song, bar) for song in earlier for bar in selected if bar < song.n_bars]
    runs = set()
    for song, bar in context:
        here = notes.within(song, track, bar)
        places = sorted(set(_places(_Cell(song, track, bar, [], [], []), here)))
        runs |= {tuple(places[i : i + n]) for i in range(len(places) - n + 1)}
    return runs
