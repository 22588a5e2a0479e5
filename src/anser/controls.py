"""Notes of a cell → what they are like; and what is asked of a cell → its tokens.

One function, `measure`, defines every control: training asks for what it measures, reports compare
what was asked with what it measures. A cell is measured for itself, so that every bar is treated
alike, the first of a selection too. Knows nothing of prompts beyond the order of control tokens.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anser import codec, vocab
from anser.chords import Chords
from anser.chords import spell as spell_chords
from anser.codec import Encoded
from anser.errors import ControlError

# Classes of durations by their upper edges, grid units (24 a quarter).
LENGTHS: Final = ("1/32", "1/16", "1/8", "1/4", "1/2", "1/1")
_LENGTH_EDGES: Final = (4, 9, 18, 36, 72)
# Grids from coarse to fine, grid units between two lines; the last class is everything else.
GRIDS: Final = ("1/4", "1/8", "1/16", "1/8t", "1/16t", "1/32", "free")
_GRID_STEPS: Final = (24, 12, 6, 8, 4, 3, 1)
_SPAN_EDGES: Final = (0, 2, 4, 7, 12, 16, 24, 36)
_LIKENESS_EDGES: Final = (0.0, 0.25, 0.5, 0.75, 0.999)


def _within(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise ControlError(f"{name}: expected {low} to {high}, found {value:g}.")


def _among(name: str, values: Collection[str | int] | None, known: Collection[str | int]) -> None:
    unknown = [str(value) for value in values or () if value not in known]
    if unknown:
        expected, found = ", ".join(str(k) for k in known), ", ".join(sorted(unknown))
        raise ControlError(f"{name}: expected some of {expected}, found {found}.")


@dataclass(frozen=True)
class Controls:
    """What is asked of a cell, or what it is like; None means "you choose", or does not apply."""

    density: float | None = None  # notes that begin in the cell; exact up to 16, then in bins
    program: int | None = None  # General MIDI 0..127 in place of the track's own; 128 = drums
    fewest: int | None = None  # notes sounding at an onset, 1..8 (8 = 8 or more)
    most: int | None = None
    lengths: frozenset[str] | None = None  # the classes of durations present, of LENGTHS
    register: float | None = None  # mean pitch; bins of six semitones
    span: int | None = None  # semitones from the lowest to the highest pitch
    pitch_classes: frozenset[int] | None = None  # the pitch classes present, C = 0
    silence: float | None = None  # share of the bar in which no note of the cell sounds, 0..1
    loudness: float | None = None  # mean velocity, 1..127; bins of sixteen
    subdivision: str | None = None  # the coarsest of GRIDS that holds every onset
    syncopation: float | None = None  # share of notes off the beat that sound over the next, 0..1
    likeness: float | None = None  # to a reference cell, 0..1; common of all (position, pitch)
    reference: int | None = None  # the bar of the same track that the answer is to be like
    chords: Chords | None = None  # (position, name) from the bar's beginning; see `chords`

    def __post_init__(self) -> None:
        _within("density", self.density, 0, 1000)
        _within("program", self.program, 0, vocab.DRUMS)
        _within("fewest", self.fewest, 1, 128)
        _within("most", self.most, 1, 128)
        _within("register", self.register, 0, 127)
        _within("span", self.span, 0, 127)
        _within("silence", self.silence, 0, 1)
        _within("loudness", self.loudness, 1, 127)
        _within("syncopation", self.syncopation, 0, 1)
        _within("likeness", self.likeness, 0, 1)
        _among("lengths", self.lengths, LENGTHS)
        _among("subdivision", None if self.subdivision is None else {self.subdivision}, GRIDS)
        _among("pitch_classes", self.pitch_classes, range(12))
        if (self.likeness is None) != (self.reference is None):
            raise ControlError("likeness: expected together with a reference bar, found one alone.")
        if self.fewest is not None and self.most is not None and self.fewest > self.most:
            raise ControlError(f"fewest: expected at most most = {self.most}, found {self.fewest}.")

    def asked(self) -> tuple[str, ...]:
        """Return the names of the controls that are given."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) is not None)

    def only(self, names: Collection[str]) -> Controls:
        """Return the same without the controls that are not named."""
        return Controls(**{name: getattr(self, name) for name in self.asked() if name in names})

    def spell(self) -> list[int]:
        """Return the control tokens in their order, without program and likeness.

        Those two stand elsewhere in an answer; see `prompt`.
        """
        ids = [] if self.chords is None else spell_chords(self.chords)
        if self.loudness is not None:
            ids.append(_binned("loudness", self.loudness / 16))
        if self.register is not None:
            ids.append(_binned("register", self.register / 6))
        if self.span is not None:
            ids.append(vocab.FIRST["span"] + bisect_left(_SPAN_EDGES, self.span))
        if self.pitch_classes is not None:
            ids += [vocab.FIRST["class"] + c for c in sorted(self.pitch_classes)]
        if self.subdivision is not None:
            ids.append(vocab.FIRST["grid"] + GRIDS.index(self.subdivision))
        if self.syncopation is not None:
            ids.append(_binned("syncopation", self.syncopation * 4 + 0.5))
        if self.lengths is not None:
            ids += [vocab.FIRST["length"] + i for i, n in enumerate(LENGTHS) if n in self.lengths]
        if self.silence is not None:
            ids.append(_binned("silence", self.silence * 8 + 0.5))
        if self.fewest is not None:
            ids.append(_binned("fewest", self.fewest - 1))
        if self.most is not None:
            ids.append(_binned("most", self.most - 1))
        if self.density is not None:
            ids.append(vocab.density_token(self.density))
        return ids


NO_CONTROLS: Final = Controls()


def likeness_token(likeness: float) -> int:
    """Return the token that says how like its reference an answer is."""
    return vocab.FIRST["likeness"] + bisect_left(_LIKENESS_EDGES, likeness)


def measure(notes: NDArray[np.void], length: int, *, is_drum: bool = False) -> Controls:
    """Return what the GRID_NOTEs of one cell are like, in the units of `Controls`.

    `length` is the bar's number of grid positions. All is counted within the cell: notes that began
    before it do not count, and notes are cut at its end for `silence`. Program and likeness are not
    properties of the notes and stay None, as do all but density and silence for an empty cell, and
    register, span and classes for drums.
    """
    if not len(notes):
        return Controls(density=0, silence=1.0)
    position = notes["position"].astype(np.int64)
    end = position + notes["duration"]
    onsets = np.unique(position)
    sounding = ((position <= onsets[:, None]) & (end > onsets[:, None])).sum(axis=1)
    is_sounding = np.zeros(length + 1, dtype=np.int64)
    np.add.at(is_sounding, position, 1)
    np.add.at(is_sounding, np.minimum(end, length), -1)
    lengths = np.searchsorted(_LENGTH_EDGES, notes["duration"], side="left")
    next_beat = (position // vocab.GRID + 1) * vocab.GRID
    off_beat = (position % vocab.GRID != 0) & (end > next_beat)
    measured = Controls(
        density=len(notes),
        fewest=int(sounding.min()),
        most=int(sounding.max()),
        lengths=frozenset(LENGTHS[i] for i in np.unique(lengths)),
        silence=float((np.cumsum(is_sounding[:length]) == 0).mean()),
        loudness=float(notes["velocity"].mean()) * vocab.VELOCITY_STEP + vocab.VELOCITY_STEP / 2,
        subdivision=_grid(position),
        syncopation=float(off_beat.mean()),
    )
    if is_drum:
        return measured
    pitch = notes["pitch"].astype(np.int64)
    return replace(
        measured,
        register=float(pitch.mean()),
        span=int(pitch.max() - pitch.min()),
        pitch_classes=frozenset(int(c) for c in np.unique(pitch % 12)),
    )


# The controls that follow from a cell's own notes.
MEASURED: Final = (
    *("density", "fewest", "most", "lengths", "register", "span", "pitch_classes"),
    *("silence", "loudness", "subdivision", "syncopation"),
)


def measure_cell(song: Encoded, cell: tuple[int, int]) -> Controls:
    """Return what a cell (track, bar) of a song is like; see `measure`."""
    track, bar = cell
    is_drum = bool(song.programs[track] == vocab.DRUMS)
    return measure(codec.decode(song.cell(track, bar)), int(song.lengths[bar]), is_drum=is_drum)


def likeness(notes: NDArray[np.void], others: NDArray[np.void]) -> float:
    """Return the share of common (position, pitch) pairs among all of both; two silences are 1."""
    one = {(int(n["position"]), int(n["pitch"])) for n in notes}
    other = {(int(n["position"]), int(n["pitch"])) for n in others}
    return len(one & other) / len(one | other) if one or other else 1.0


def _grid(position: NDArray[np.int64]) -> str:
    return next(n for n, s in zip(GRIDS, _GRID_STEPS, strict=True) if not (position % s).any())


def _binned(family: str, value: float) -> int:
    """Return the token of a bin of width 1 from 0; above the last bin, the last."""
    return vocab.FIRST[family] + min(int(value), vocab.COUNT[family] - 1)
