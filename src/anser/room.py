"""Song + rules → what a cell may hold, as far as that is settled before anything is written.

Knows ticks, pitches and positions, nothing of ids. Three kinds of notes are settled beforehand:
those that stand (outside the selection, or locked), those whose rhythm is kept, and a plan for what
a cell owes: as long as nothing stands in the way of the plan, the cell can be finished.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anser import codec, vocab
from anser.rules import MOST_NOTES, Rules
from anser.song import Song

Cell = tuple[int, int]  # (track, bar)
Place = tuple[int, int]  # (position in the bar, pitch)
Places = NDArray[np.int64]  # [n, 2] of position and pitch
Sounds = NDArray[np.int64]  # [n, 3] of start, end (ticks) and pitch

ANY_NUMBER: Final = 1 << 20  # of notes at once, where no rule limits them
NEVER: Final = 1 << 62


@dataclass(frozen=True)
class Item:
    """A note whose onset, duration and velocity are settled; its pitch only if it stays."""

    position: int
    duration: int  # grid units
    velocity: int  # bin
    note: tuple[int, int, int, int]  # as a NOTE, in ticks
    stays: bool

    @property
    def pitch(self) -> int:
        """The pitch it had in the song."""
        return self.note[2]

    @property
    def end(self) -> int:
        """The tick at which it ends; a note of no duration lasts a tick."""
        return self.note[0] + max(self.note[1], 1)


@dataclass(frozen=True)
class Room:
    """What one cell may hold.

    `playable` and `onsets` are the pitches and positions that rules leave; `enders` [length, 128]
    are the places that would end a repetition, `banned` what may not follow some notes in a row.
    """

    rules: Rules
    first: int  # id of pitch 0
    ticks: NDArray[np.int64]  # [length]; the onset of each position
    lasting: NDArray[np.int64]  # [codec.MAX_DURATION]; ticks that each duration, from 1, lasts
    keys: NDArray[np.int64]  # [length]; where a reader of the file finds each position
    playable: NDArray[np.bool_]  # [128]
    onsets: NDArray[np.bool_]  # [length]
    enders: NDArray[np.bool_]
    banned: Mapping[tuple[Place, ...], Places]
    cap: int  # no new note ends later than this tick
    items: tuple[Item, ...]  # by position and pitch
    melody: tuple[int, ...]  # pitches that are kept, in order
    least: int  # new notes, where neither rhythm nor pitches are kept
    most: int
    fits: bool  # whether what is settled keeps the rules by itself

    @property
    def owes(self) -> bool:
        """Whether the cell cannot just stay empty."""
        kept = self.melody or not all(item.stays for item in self.items)
        return bool(kept) or self.least > 0

    @property
    def voices(self) -> int:
        """How many notes may sound at once."""
        return self.rules.max_polyphony or ANY_NUMBER

    def floor(self, at: int) -> int:
        """Return the lowest pitch of an item, above those that stay and are spelled before it."""
        position = self.items[at].position
        below = [i.pitch for i in self.items[:at] if i.stays and i.position == position]
        return max(below, default=-1) + 1

    def at(self, places: Places) -> NDArray[np.bool_]:
        """Return [length, 128] where a reader of the file finds one of these places."""
        marked = np.zeros(self.enders.shape, dtype=bool)
        here = places[places[:, 0] < len(marked)]
        marked[here[:, 0], here[:, 1]] = True
        found: NDArray[np.bool_] = marked[self.keys]
        return found

    def rows(self, start: int, end: int) -> slice:
        """Return the positions at which even the shortest note would meet one of these ticks."""
        since = int(np.searchsorted(self.ticks, start - self.lasting[0], "right"))
        return slice(since, int(np.searchsorted(self.ticks, max(end, start + 1), "left")))

    def open_spots(self, strikes: Sounds) -> NDArray[np.bool_]:
        """Return the spots at which no note of the same pitch is in the way."""
        spots: NDArray[np.bool_] = self.onsets[:, None] & self.playable
        for start, end, pitch in _near(strikes, self).tolist():
            spots[self.rows(start, end), pitch] = False
        return spots

    def load(self, own: Sounds) -> NDArray[np.int64]:
        """Return how many of the track's notes the shortest note at each position would meet."""
        load = np.zeros(len(self.ticks), dtype=np.int64)
        for start, end, _ in _near(own, self).tolist():
            if end > start:
                load[self.rows(start, end)] += 1
        return load

    def apart(self) -> NDArray[np.bool_]:
        """Choose positions so far apart that the shortest notes do not meet, though ticks round."""
        chosen = np.zeros(len(self.ticks), dtype=bool)
        free = -1
        for row, tick in enumerate(self.ticks.tolist()):
            if tick >= free:
                chosen[row], free = True, tick + int(self.lasting[0])
        return chosen


def _near(sounds: Sounds, room: Room) -> Sounds:
    last = room.ticks[-1] + room.lasting[0]
    near: Sounds = sounds[(sounds[:, 0] < last) & (sounds[:, 1] >= room.ticks[0])]
    return near


def make(song: Song, cell: Cell, rules: Rules, instrument: tuple[bool, tuple[int, int]]) -> Room:
    """Return the room of a cell whose track is (drums or not, its range), without repetitions."""
    bar = cell[1]
    is_drum, own_range = instrument
    length = int(codec.bar_lengths(song)[bar])
    start, end = int(song.bars.starts[bar]), int(song.bars.starts[bar + 1])
    n = max(length, codec.MAX_DURATION)
    grid = np.zeros(n, dtype=codec.GRID_NOTE)
    grid["position"], grid["duration"] = np.arange(n), np.arange(1, n + 1)
    timed = codec.to_ticks(song, bar, grid)
    ticks = timed["onset"][:length].astype(np.int64)
    lasting = timed["duration"][: codec.MAX_DURATION].astype(np.int64)
    cap = end if rules.within_bar else NEVER
    items = _items(song, cell, rules, length)
    staying = [item for item in items if item.stays]
    kept = [item for item in items if not item.stays]
    low, high = rules.pitches or own_range
    playable = np.zeros(128, dtype=bool)
    playable[low : high + 1] = True
    if rules.scale is not None and not is_drum:
        playable &= np.isin(np.arange(128) % 12, list(rules.scale))
    onsets = _onsets(song, bar, rules, ticks)
    least, most = rules.notes or (0, MOST_NOTES)
    least, most = max(least - len(staying), 0), most - len(staying)
    fits = least <= most and bool(playable.any()) and _kept_fits(rules, kept, end, playable, ticks)
    if rules.keep:
        fits &= least <= len(kept) <= most
        least = 0
    else:
        fits &= bool(onsets.any()) or rules.only(("grid", "beats")) == Rules()
    settled = _once(staying) + (kept if rules.keep == "rhythm" else [])
    most = min(most, MOST_NOTES - len(settled))
    return Room(
        rules=rules,
        first=vocab.DRUM if is_drum else vocab.PITCH,
        ticks=ticks,
        lasting=lasting,
        keys=_keys(ticks - start, song.ticks_per_quarter, length),
        playable=playable,
        onsets=onsets,
        enders=np.broadcast_to(np.False_, (length, 128)),
        banned={},
        cap=cap,
        items=tuple(sorted(settled, key=lambda item: (item.position, item.pitch))),
        melody=tuple(item.pitch for item in kept) if rules.keep == "pitch" else (),
        least=least,
        most=most,
        fits=fits and least <= most,
    )


def _items(song: Song, cell: Cell, rules: Rules, length: int) -> list[Item]:
    """Return the notes of a cell, by position and pitch, and whether they stay."""
    bar = cell[1]
    start, notes = int(song.bars.starts[bar]), song.notes_in(*cell)
    positions = _keys(notes["onset"] - start, song.ticks_per_quarter, length)
    durations = _keys(notes["duration"], song.ticks_per_quarter, codec.MAX_DURATION + 1)
    items = []
    for note, position, duration in zip(notes.tolist(), positions, durations, strict=True):
        stays = rules.stays(note[2], beat_of(song, bar, note[0] - start))
        velocity = note[3] // vocab.VELOCITY_STEP
        items.append(Item(int(position), max(int(duration), 1), velocity, note, stays))
    return sorted(items, key=lambda item: (item.position, item.pitch, item.note))


def beat_of(song: Song, bar: int, offset: int) -> int:
    """Return the beat (from 0, in units of the meter's denominator) of ticks from the bar line."""
    return offset * int(song.bars.denominators[bar]) // (4 * song.ticks_per_quarter)


def staying(song: Song, cell: Cell, rules: Rules) -> list[tuple[int, int, int, int]]:
    """Return the notes of a cell (as NOTEs) that stay."""
    length = int(codec.bar_lengths(song)[cell[1]])
    return [item.note for item in _items(song, cell, rules, length) if item.stays]


def held(here: Room, *, is_drum: bool) -> NDArray[np.uint16]:
    """Return the ids of the notes that stay, as the cell will spell them."""
    notes = [(i.position, i.duration, i.pitch, i.velocity) for i in here.items if i.stays]
    return codec.encode_cell(np.array(notes, dtype=codec.GRID_NOTE), is_drum=is_drum)


def _once(staying: list[Item]) -> list[Item]:
    """Leave out all but the longest of the notes that are one on the grid."""
    longest: dict[Place, Item] = {}
    for item in staying:
        place = item.position, item.pitch
        if place not in longest or longest[place].duration < item.duration:
            longest[place] = item
    return list(longest.values())


def _onsets(song: Song, bar: int, rules: Rules, ticks: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return the positions at which rules let a note begin; only those that exist in ticks."""
    start, per_quarter = int(song.bars.starts[bar]), song.ticks_per_quarter
    n = np.arange(len(ticks))
    onsets = 2 * n * per_quarter + vocab.GRID < 2 * vocab.GRID * (song.bars.starts[bar + 1] - start)
    if rules.grid is not None:
        onsets &= n % rules.grid == 0
    if rules.beats is not None:
        beat = (ticks - start) * song.bars.denominators[bar] // (4 * per_quarter)
        onsets &= (beat >= rules.beats[0]) & (beat < rules.beats[1])
    return np.asarray(onsets, dtype=bool)


def _kept_fits(
    rules: Rules,
    kept: list[Item],
    end: int,
    playable: NDArray[np.bool_],
    ticks: NDArray[np.int64],
) -> bool:
    """Say whether what is kept of a cell keeps the rules that bind it by itself."""
    if rules.keep == "pitch":
        return all(playable[item.pitch] for item in kept)
    if rules.keep == "rhythm":
        step = rules.grid or 1
        off_grid = [item.position % step or ticks[item.position] != item.note[0] for item in kept]
        on_grid = rules.grid is None or not any(off_grid)
        return on_grid and not (rules.within_bar and any(item.end > end for item in kept))
    return True


def _keys(ticks: NDArray[np.int64], per_quarter: int, length: int) -> NDArray[np.int64]:
    """Return the grid positions of ticks from the bar line, rounded, at most the last one."""
    rounded = (2 * ticks.astype(np.int64) * vocab.GRID + per_quarter) // (2 * per_quarter)
    return np.minimum(rounded, length - 1)


def grams(song: Song, track: int, bars: Iterable[int], n: int) -> set[tuple[Place, ...]]:
    """Return the runs of n notes, as places, within these bars of a track."""
    found: set[tuple[Place, ...]] = set()
    notes, lengths = song.tracks[track].notes, codec.bar_lengths(song)
    edges = np.searchsorted(notes["onset"], song.bars.starts)
    for bar in bars:
        here = notes[edges[bar] : edges[bar + 1]]
        offsets = here["onset"] - song.bars.starts[bar]
        keys = _keys(offsets, song.ticks_per_quarter, int(lengths[bar]))
        places = sorted(set(zip(keys.tolist(), here["pitch"].tolist(), strict=True)))
        found.update(tuple(places[i : i + n]) for i in range(len(places) - n + 1))
    return found


@dataclass(frozen=True)
class Repetitions:
    """Runs of notes that may not be repeated: `ends` of each, and which `follow` what."""

    ends: Places
    follow: Mapping[tuple[Place, ...], Places]

    @classmethod
    def of(cls, runs: set[tuple[Place, ...]]) -> Repetitions:
        """Sort runs by what comes before their last note."""
        follow: dict[tuple[Place, ...], list[Place]] = defaultdict(list)
        for run in runs:
            follow[run[:-1]].append(run[-1])
        ends = np.array(sorted({run[-1] for run in runs}), dtype=np.int64).reshape(-1, 2)
        return cls(ends, {run: np.array(places) for run, places in follow.items()})


def without(room: Room, repetitions: Repetitions) -> Room:
    """Return the room with runs of notes that may not be repeated."""
    return replace(room, banned=repetitions.follow, enders=room.at(repetitions.ends))


def plan(room: Room, strikes: Sounds, own: Sounds) -> Sounds | None:
    """Return notes that would finish what the cell owes, or None if none are found.

    `strikes` are the notes in the way of equal pitches, `own` those of the track, which count for
    polyphony. The plan holds a note for each item whose pitch is open, or for each kept pitch, in
    their order, or as many as are owed.
    """
    if not room.fits:
        return None
    if room.rules.keep == "rhythm":
        return _plan_pitches(room, strikes, own)
    spots = room.open_spots(strikes) & room.apart()[:, None] & ~room.enders
    spots &= (room.ticks + room.lasting[0] <= room.cap)[:, None]
    load = room.load(own)
    if room.rules.keep == "pitch":
        return _plan_positions(room, spots, load)
    voices = np.minimum(np.maximum(room.voices - load, 0), spots.sum(axis=1))
    if voices.sum() < room.least:
        return None
    planned: list[tuple[int, int, int]] = []
    for row in np.flatnonzero(voices).tolist():
        if len(planned) >= room.least:
            break
        pitches = np.flatnonzero(spots[row])[: voices[row]].tolist()
        start = int(room.ticks[row])
        planned += [(start, start + int(room.lasting[0]), pitch) for pitch in pitches]
    return sounds(planned[: room.least])


def _plan_positions(room: Room, spots: NDArray[np.bool_], load: NDArray[np.int64]) -> Sounds | None:
    """Place each kept pitch as late as those behind it leave room."""
    load, planned = load.copy(), []
    row, above = len(room.ticks) - 1, 128
    for pitch in reversed(room.melody):
        last = row if pitch < above else row - 1
        fitting = np.flatnonzero(spots[: last + 1, pitch] & (load[: last + 1] < room.voices))
        if not len(fitting):
            return None
        row, above = int(fitting[-1]), pitch
        load[row] += 1
        start = int(room.ticks[row])
        planned.append((start, start + int(room.lasting[0]), pitch))
    return sounds(planned[::-1])


def _plan_pitches(room: Room, strikes: Sounds, own: Sounds) -> Sounds | None:
    """Find a pitch for each item whose rhythm is kept: the highest ones that are free."""
    planned: dict[int, tuple[int, int, int]] = {}
    position, above = -1, 128
    by_group = sorted(range(len(room.items)), key=lambda at: (room.items[at].position, -at))
    for at in by_group:
        item = room.items[at]
        if item.position != position:
            position, above = item.position, 128
        if item.stays:
            above = item.pitch
            continue
        free = room.playable & free_pitches(strikes, item) & ~room.enders[position]
        free[above:] = False
        free[: room.floor(at)] = False
        if not free.any() or _voices(own, item) > room.voices:
            return None
        above = int(np.flatnonzero(free)[-1])
        planned[at] = (item.note[0], item.end, above)
        strikes = np.concatenate([strikes, sounds([planned[at]])])
    return sounds([planned[at] for at in sorted(planned)])


def _voices(own: Sounds, item: Item) -> int:
    """Return how many of the track's notes sound at once, at most, while an item does."""
    starts = own[(own[:, 0] > item.note[0]) & (own[:, 0] < item.end), 0]
    ticks = np.append(starts, item.note[0])[:, None]
    return int(((own[:, 0] <= ticks) & (own[:, 1] > ticks)).sum(axis=1).max())


def free_pitches(strikes: Sounds, item: Item) -> NDArray[np.bool_]:
    """Return [128] which pitches no other note is in the way of for the item's whole duration."""
    free = np.ones(128, dtype=bool)
    ends = np.maximum(strikes[:, 1], strikes[:, 0] + 1)
    meets = (strikes[:, 0] < item.end) & (ends > item.note[0])
    free[strikes[meets, 2]] = False
    return free


def sounds(notes: list[tuple[int, int, int]]) -> Sounds:
    """Return (start, end, pitch) of notes as an array."""
    return np.array(notes, dtype=np.int64).reshape(-1, 3)
