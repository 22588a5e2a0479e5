"""Encoded song + selection + controls → prompt; the only maker of prompts.

Training and inference both call `make`, so they cannot differ. Knows the layout of a prompt,
nothing of models or sampling.

A recurrent model recalls best what is recent, so a prompt is rotated, and replays the other tracks
right before each answer:

    song tempo (track program)…              what plays
    after  (bar (track cell)…)…              the bars after the last selected one
    before (bar (track cell)…)…              the bars before the first selected one
    fill   (bar (track cell)… (answer)…)…    from the first to the last selected bar: what the
                                             unselected cells play in this bar, then its answers

    bar    = bar [numerator denominator]     the meter where it changes
    answer = answer track program [held cell] [reference cell likeness] [controls] cell end

Silent cells are left out, except in answers. Where unselected bars between two selected ones are
many, only the last few are played through, after a `jump`. The model writes the cell and its `end`
of each answer; all else is given. What stands in an answered cell already is held: it is shown
before, and written again in its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from anser import vocab
from anser.codec import Encoded
from anser.controls import NO_CONTROLS, Controls, likeness_token
from anser.errors import SelectionError
from anser.selection import Selection

Cell = tuple[int, int]  # (track, bar)


@dataclass(frozen=True)
class Window:
    """How much of the song the model is shown around a selection."""

    tokens: int = 1800  # stop adding bars before and after the selection at this many ids
    before: int = 32  # bars before the first selected one, at most
    after: int = 12  # bars after the last selected one, at most
    gap: int = 8  # unselected bars played through before a selected one, at most
    tracks: int = vocab.N_TRACKS  # tracks shown, at most; selected ones first, then the busiest

    def __post_init__(self) -> None:
        if not 1 <= self.tracks <= vocab.N_TRACKS:
            raise ValueError(f"tracks: expected 1..{vocab.N_TRACKS}, found {self.tracks}.")
        if min(self.tokens, self.before, self.after, self.gap) < 0:
            raise ValueError("a window's sizes must not be negative.")


@dataclass(frozen=True)
class Segment:
    """Given ids, then one cell to be answered."""

    given: NDArray[np.uint16]
    cell: Cell


@dataclass(frozen=True)
class Prompt:
    """The given parts of a prompt in order, each followed by an answer, and what it shows."""

    segments: tuple[Segment, ...]
    tracks: tuple[int, ...]  # the song's tracks that are shown; their place is their track token
    bars: range  # the song's bars from the first to the last one shown

    @property
    def n_given(self) -> int:
        """Number of given ids, without any answer."""
        return sum(len(s.given) for s in self.segments)


@dataclass
class _Layout:
    """Appends ids part by part, remembering the meter that was last spelled."""

    song: Encoded
    tracks: tuple[int, ...]
    selected: frozenset[Cell]
    parts: list[NDArray[np.uint16]] = field(default_factory=list)
    meter: tuple[int, int] | None = None

    def add(self, *ids: int) -> None:
        self.parts.append(np.array(ids, dtype=np.uint16))

    def bar(self, bar: int) -> None:
        """Spell a bar's unselected cells."""
        meter = int(self.song.numerators[bar]), int(self.song.denominators[bar])
        self.add(vocab.BAR, *(vocab.meter_tokens(*meter) if meter != self.meter else ()))
        self.meter = meter
        for place, track in enumerate(self.tracks):
            if self.song.n_notes[track, bar] and (track, bar) not in self.selected:
                self.add(vocab.TRACK + place)
                self.parts.append(self.song.cell(track, bar))

    def take(self) -> NDArray[np.uint16]:
        """Return what was appended since the last time."""
        given = np.concatenate(self.parts)
        self.parts.clear()
        return given


def make(
    song: Encoded,
    selection: Selection,
    controls: Mapping[Cell, Controls] | None = None,
    window: Window = Window(),
    held: Mapping[Cell, NDArray[np.uint16]] | None = None,
) -> Prompt:
    """Lay out what the model reads before and between its answers.

    `controls` may name any selected cell, and so may `held`: the ids of notes that the answer will
    have for certain. Raises `SelectionError` when the selection is empty,
    names cells that the song has not, or has more tracks than a prompt can name.
    """
    _check(song, selection)
    controls, held = controls or {}, held or {}
    bars = selection.bars
    first, last = bars[0], bars[-1]
    tracks = _shown_tracks(song, selection, window)
    before, after = _shown_bars(song, tracks, (first, last), window)
    layout = _Layout(song, tracks, selection.cells)
    layout.add(vocab.SONG, vocab.tempo_token(float(song.tempos[first])))
    for place, track in enumerate(tracks):
        layout.add(vocab.TRACK + place, vocab.PROGRAM + int(song.programs[track]))
    for section, shown in ((vocab.AFTER, after), (vocab.BEFORE, before)):
        layout.add(section)
        for bar in shown:
            layout.bar(bar)
    layout.add(vocab.FILL)
    segments, previous = [], first - 1
    for bar in bars:
        played = range(max(previous + 1, bar - window.gap), bar)
        if played.start > previous + 1:
            layout.add(vocab.jump_token(played.start - previous - 1))
        for unselected in played:
            layout.bar(unselected)
        layout.bar(bar)
        for place, track in enumerate(tracks):
            if (track, bar) in selection.cells:
                wish = controls.get((track, bar), NO_CONTROLS)
                program = int(song.programs[track]) if wish.program is None else wish.program
                layout.add(vocab.ANSWER, vocab.TRACK + place, vocab.PROGRAM + program)
                if len(held.get((track, bar), ())):
                    layout.add(vocab.HELD)
                    layout.parts.append(held[track, bar])
                if wish.likeness is not None and wish.reference is not None:
                    layout.add(vocab.REFERENCE)
                    layout.parts.append(song.cell(track, wish.reference))
                    layout.add(likeness_token(wish.likeness))
                layout.add(*wish.spell())
                segments.append(Segment(layout.take(), (track, bar)))
        previous = bar
    shown_bars = range(before.start if before else first, (after.stop if after else last + 1))
    return Prompt(tuple(segments), tracks, shown_bars)


def with_answers(prompt: Prompt, song: Encoded) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """Return the prompt with the song's own cells as answers, and which ids are the answers'.

    This is what a model is trained and scored on.
    """
    ids: list[NDArray[np.uint16]] = []
    is_answer: list[NDArray[np.bool_]] = []
    end = np.array([vocab.END], dtype=np.uint16)
    for segment in prompt.segments:
        answer = song.cell(*segment.cell)
        ids += [segment.given, answer, end]
        is_answer.append(np.repeat([False, True], [len(segment.given), len(answer) + 1]))
    return np.concatenate(ids), np.concatenate(is_answer)


def _check(song: Encoded, selection: Selection) -> None:
    if not selection.cells:
        raise SelectionError("selection: expected at least one cell, found none.")
    if selection.tracks[0] < 0 or selection.tracks[-1] >= song.n_tracks:
        found = selection.tracks[-1] + 1
        raise SelectionError(f"selection: track {found} asked for, the song has {song.n_tracks}.")
    if selection.bars[0] < 0 or selection.bars[-1] >= song.n_bars:
        found = selection.bars[-1] + 1
        raise SelectionError(f"selection: bar {found} asked for, the song has {song.n_bars}.")
    if len(selection.tracks) > vocab.N_TRACKS:
        raise SelectionError(
            f"selection: at most {vocab.N_TRACKS} tracks at once, found {len(selection.tracks)}. "
            "Fill them in several calls."
        )


def _shown_tracks(song: Encoded, selection: Selection, window: Window) -> tuple[int, ...]:
    """Choose the selected tracks and those that play most around the selection."""
    near = slice(max(selection.bars[0] - window.before, 0), selection.bars[-1] + window.after + 1)
    n_notes = song.n_notes[:, near].sum(axis=1, dtype=np.int64)
    n_notes[list(selection.tracks)] = np.iinfo(np.int64).max
    busiest = np.argsort(-n_notes, kind="stable")[: max(window.tracks, len(selection.tracks))]
    return tuple(int(t) for t in np.sort(busiest) if n_notes[t])


def _shown_bars(
    song: Encoded, tracks: Sequence[int], selected: Cell, window: Window
) -> tuple[range, range]:
    """Grow the bars before and after (first, last), two before for one after, within the window."""
    first, last = selected
    low = max(first - window.before, 0)
    high = min(last + 1 + window.after, song.n_bars)
    cells = np.array(tracks)[:, None] * song.n_bars + np.arange(low, high)
    cost = (song.offsets[cells + 1] - song.offsets[cells]).sum(axis=0) + 1
    cost = cost + (song.n_notes[list(tracks), low:high] > 0).sum(axis=0)
    start, stop, left = first, last + 1, window.tokens
    while True:
        before_is_next = start > low and (first - start < 2 * (stop - last) or stop == high)
        bar = start - 1 if before_is_next else stop
        if not low <= bar < high or cost[bar - low] > left:
            return range(start, first), range(last + 1, stop)
        left -= int(cost[bar - low])
        start, stop = (bar, stop) if before_is_next else (start, bar + 1)
