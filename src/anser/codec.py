"""Song → token ids of its cells, and ids of one cell → notes.

Encodes every cell (one track × one bar) for itself, so that a prompt is a matter of laying cells in
a row. Knows the spelling of a cell, nothing of selections or prompts.

A cell is spelled in running status: notes ordered by position, then pitch; for each note
`position` if it changed (`page` first, where a bar is longer than six quarters), `velocity` and
`duration` if they differ from the note before (`long` tokens first, where a duration exceeds 96
grid units), and the `pitch` or `drum` token, which completes the note.

The grid: 24 positions per quarter counted from each bar line, velocities in steps of 4, durations
from 1 to 1632 grid units; an onset that rounds to the next bar line belongs to the next bar. A note
ends where the same track strikes its pitch again; of several equal onsets the longest stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anser import vocab
from anser.song import NOTE, Song

MAX_DURATION: Final = 17 * vocab.LONG  # grid units

# A note on the grid: bar-relative position, duration, pitch 0..127, velocity bin 0..31.
GRID_NOTE: Final = np.dtype(
    [("position", "<i4"), ("duration", "<i4"), ("pitch", "<i2"), ("velocity", "<i2")]
)


@dataclass(frozen=True)
class Encoded:
    """The cells of a song as token ids, with what a prompt says about its tracks and bars."""

    ids: NDArray[np.uint16]  # all cells in a row: track after track, bar after bar
    offsets: NDArray[np.int32]  # [n_tracks * n_bars + 1]; where each cell begins in `ids`
    n_notes: NDArray[np.uint16]  # [n_tracks, n_bars]
    programs: NDArray[np.uint8]  # [n_tracks]; 128 = drums
    numerators: NDArray[np.uint8]  # [n_bars]
    denominators: NDArray[np.uint8]  # [n_bars]
    lengths: NDArray[np.int32]  # [n_bars], grid units
    tempos: NDArray[np.float32]  # [n_bars], quarters per minute at the bar line

    @property
    def n_tracks(self) -> int:
        """Number of tracks."""
        return len(self.programs)

    @property
    def n_bars(self) -> int:
        """Number of bars."""
        return len(self.lengths)

    def cell(self, track: int, bar: int) -> NDArray[np.uint16]:
        """Return the ids of one cell, without its `end`; empty when nothing begins there."""
        at = track * self.n_bars + bar
        return self.ids[self.offsets[at] : self.offsets[at + 1]]


def bar_lengths(song: Song) -> NDArray[np.int64]:
    """Return the number of grid positions of each bar, at least 1."""
    ticks = np.diff(song.bars.starts)
    lengths: NDArray[np.int64] = np.maximum(-(-ticks * vocab.GRID // song.ticks_per_quarter), 1)
    return lengths


def encode(song: Song) -> Encoded:
    """Encode every cell of the song."""
    lengths = bar_lengths(song)
    n_tracks, n_bars = len(song.tracks), song.n_bars
    track, onset, notes = _on_grid(song, lengths)
    bar_starts = np.concatenate(([0], np.cumsum(lengths)))
    bar = np.searchsorted(bar_starts, onset, side="right") - 1
    notes["position"] = onset - bar_starts[bar]
    cell = track * n_bars + bar
    is_drum = np.array([t.is_drum for t in song.tracks], dtype=bool)
    first = np.where(is_drum[track], vocab.DRUM, vocab.PITCH) if n_tracks else track
    ids, ends = _spell(notes, cell, first)
    n_notes = np.bincount(cell, minlength=n_tracks * n_bars)
    offsets = np.concatenate(([0], ends))[np.concatenate(([0], np.cumsum(n_notes)))]
    return Encoded(
        ids=ids,
        offsets=offsets.astype(np.int32),
        n_notes=n_notes.reshape(n_tracks, n_bars).astype(np.uint16),
        programs=np.array(
            [vocab.DRUMS if t.is_drum else t.program for t in song.tracks], dtype=np.uint8
        ),
        numerators=np.minimum(song.bars.numerators, 255).astype(np.uint8),
        denominators=np.minimum(song.bars.denominators, 128).astype(np.uint8),
        lengths=lengths.astype(np.int32),
        tempos=_tempos(song),
    )


def encode_cell(notes: NDArray[np.void], *, is_drum: bool) -> NDArray[np.uint16]:
    """Spell the GRID_NOTEs of one cell, sorted by position and pitch, without `end`."""
    cell = np.zeros(len(notes), dtype=np.int64)
    first = np.full(len(notes), vocab.DRUM if is_drum else vocab.PITCH)
    return _spell(notes, cell, first)[0]


def decode(ids: NDArray[np.integer] | list[int]) -> NDArray[np.void]:
    """Read the ids of one cell (an `end` is optional) back into GRID_NOTEs.

    Raises `ValueError` where the ids are not the spelling of a cell.
    """
    notes: list[tuple[int, int, int, int]] = []
    position, page, duration, velocity, long = -1, 0, 0, -1, 0
    for at, token in enumerate(int(i) for i in ids):
        if vocab.POSITION <= token < vocab.POSITION + vocab.PAGE:
            position = page + token - vocab.POSITION
        elif vocab.VELOCITY <= token < vocab.VELOCITY + vocab.COUNT["velocity"]:
            velocity = token - vocab.VELOCITY
        elif vocab.DURATION <= token < vocab.DURATION + vocab.LONG:
            duration, long = long + token - vocab.DURATION + 1, 0
        elif vocab.PITCH <= token < vocab.DRUM + 128 and position >= 0 < duration and velocity >= 0:
            notes.append((position, duration, (token - vocab.PITCH) % 128, velocity))
        elif token == vocab.TURN_PAGE:
            page += vocab.PAGE
        elif token == vocab.ADD_LONG:
            long += vocab.LONG
        elif token != vocab.END:
            raise ValueError(f"cell, token {at}: {vocab.name(token)} cannot stand here.")
    return np.array(notes, dtype=GRID_NOTE)


def to_ticks(song: Song, bar: int, notes: NDArray[np.void]) -> NDArray[np.void]:
    """Turn GRID_NOTEs of a bar into the song's NOTEs, in ticks from the song's beginning."""
    per_quarter, start, end = (
        song.ticks_per_quarter,
        song.bars.starts[bar],
        song.bars.starts[bar + 1],
    )
    ticks = np.empty(len(notes), dtype=NOTE)
    onset = start + _rescale(notes["position"].astype(np.int64), per_quarter, vocab.GRID)
    ticks["onset"] = np.minimum(onset, end - 1)
    duration = _rescale(notes["duration"].astype(np.int64), per_quarter, vocab.GRID)
    ticks["duration"] = np.maximum(duration, 1)
    ticks["pitch"] = notes["pitch"]
    ticks["velocity"] = notes["velocity"] * vocab.VELOCITY_STEP + vocab.VELOCITY_STEP // 2
    return ticks


def transpose(ids: NDArray[np.uint16], semitones: int) -> NDArray[np.uint16]:
    """Move the pitches (not the drums) in a run of ids; the caller keeps them within 0..127."""
    is_pitch = (ids >= vocab.PITCH) & (ids < vocab.PITCH + 128)
    return np.where(is_pitch, ids + np.uint16(semitones % 65536), ids)


def _rescale(values: NDArray[np.int64], numerator: int, denominator: int) -> NDArray[np.int64]:
    """Multiply by a fraction, rounding halves up."""
    return (2 * values * numerator + denominator) // (2 * denominator)


def _on_grid(
    song: Song, lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.void]]:
    """Return track, absolute grid onset and GRID_NOTE of each note, in the order of spelling."""
    ticks = np.concatenate([t.notes for t in song.tracks] or [np.empty(0, dtype=NOTE)])
    track = np.repeat(np.arange(len(song.tracks)), [len(t.notes) for t in song.tracks])
    bar_starts = np.concatenate(([0], np.cumsum(lengths)))
    starts = song.bars.starts
    bar = np.clip(np.searchsorted(starts, ticks["onset"], side="right") - 1, 0, len(lengths) - 1)
    position = _rescale(ticks["onset"] - starts[bar], vocab.GRID, song.ticks_per_quarter)
    onset = bar_starts[bar] + np.minimum(position, lengths[bar])
    onset = np.minimum(onset, bar_starts[-1] - 1)
    duration = _rescale(ticks["duration"], vocab.GRID, song.ticks_per_quarter)
    duration = np.clip(duration, 1, MAX_DURATION)

    # Per track and pitch: the longest of equal onsets, and none longer than to the next onset.
    voice = track * 128 + ticks["pitch"]
    order = np.lexsort((-duration, onset, voice))
    voice, sorted_onset = voice[order], onset[order]
    same_voice = voice[1:] == voice[:-1]
    gap = sorted_onset[1:] - sorted_onset[:-1]
    keep = np.ones(len(order), dtype=bool)
    keep[1:] = ~(same_voice & (gap == 0))
    order, voice, sorted_onset = order[keep], voice[keep], sorted_onset[keep]
    gap = np.full(len(order), MAX_DURATION)
    same_voice = voice[1:] == voice[:-1]
    gap[:-1][same_voice] = (sorted_onset[1:] - sorted_onset[:-1])[same_voice]
    duration = np.minimum(duration[order], gap)

    by_time = np.lexsort((ticks["pitch"][order], sorted_onset, track[order]))
    order, duration = order[by_time], duration[by_time]
    notes = np.empty(len(order), dtype=GRID_NOTE)
    notes["duration"] = duration
    notes["pitch"] = ticks["pitch"][order]
    notes["velocity"] = ticks["velocity"][order] // vocab.VELOCITY_STEP
    return track[order], onset[order], notes


def _spell(
    notes: NDArray[np.void], cell: NDArray[np.int64], first: NDArray[np.int64]
) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """Spell GRID_NOTEs sorted by cell, position, pitch; return the ids and where each note ends.

    `first` is the id of pitch 0 in the note's track.
    """
    n = len(notes)
    new_cell = np.ones(n, dtype=bool)
    new_cell[1:] = cell[1:] != cell[:-1]

    def changed(values: NDArray[np.integer]) -> NDArray[np.bool_]:
        result: NDArray[np.bool_] = new_cell.copy()
        result[1:] |= values[1:] != values[:-1]
        return result

    page, position = np.divmod(notes["position"].astype(np.int64), vocab.PAGE)
    n_page = page - np.where(new_cell, 0, np.concatenate(([0], page[:-1])) if n else page)
    long, duration = np.divmod(notes["duration"].astype(np.int64) - 1, vocab.LONG)
    has_position = changed(notes["position"])
    has_velocity = changed(notes["velocity"])
    has_duration = changed(notes["duration"])
    n_long = np.where(has_duration, long, 0)
    ends = np.cumsum(n_page + has_position + has_velocity + n_long + has_duration + 1)
    ids = np.full(ends[-1] if n else 0, vocab.TURN_PAGE, dtype=np.uint16)
    at = ends - 1
    ids[at] = first + notes["pitch"]
    ids[(at - 1)[has_duration]] = (vocab.DURATION + duration)[has_duration]
    at = at - has_duration
    for i in range(1, int(n_long.max(initial=0)) + 1):
        ids[(at - i)[n_long >= i]] = vocab.ADD_LONG
    at = at - n_long
    ids[(at - 1)[has_velocity]] = (vocab.VELOCITY + notes["velocity"])[has_velocity]
    at = at - has_velocity
    ids[(at - 1)[has_position]] = (vocab.POSITION + position)[has_position]
    return ids, ends


def _tempos(song: Song) -> NDArray[np.float32]:
    """Return the tempo at each bar line; 120 quarters per minute before the first tempo event."""
    if not len(song.tempos):
        return np.full(song.n_bars, 120.0, dtype=np.float32)
    at = np.searchsorted(song.tempos["tick"], song.bars.starts[:-1], side="right") - 1
    microseconds = np.where(at < 0, 500_000, song.tempos["microseconds"][np.maximum(at, 0)])
    return (60e6 / np.maximum(microseconds, 1)).astype(np.float32)
