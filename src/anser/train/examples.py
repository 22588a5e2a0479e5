"""Encoded songs → training examples, made on the fly.

An example is a prompt with the song's own cells as answers, made by the same `prompt.make` as at
inference, from a random selection, random controls and a random window, transposed within each
instrument's range. Same seed and number, same example, whoever makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anser import codec, prompt, vocab
from anser.chords import Chords, recognize
from anser.codec import Encoded
from anser.controls import MEASURED, Controls, likeness, measure_cell
from anser.prompt import Window
from anser.ranges import pitch_range
from anser.selection import Selection
from anser.train.shards import Shard

# How often each source's notes are seen, against their number: clean band music is scarce, and two
# thirds of all clean notes are of one kind.
SOURCE_WEIGHTS: Final[Mapping[str, float]] = {
    "polish": 0.35,
    "pop909": 1.5,
    "freedoom": 3.0,
    "groove": 2.0,
}
MAX_IDS: Final = 4096  # of one example
ALIGN: Final = 16  # sequences in a batch begin at multiples of this, the chunk of the wkv kernel


@dataclass(frozen=True)
class Example:
    """One sequence: what is read, and which of its ids the model is to answer."""

    ids: NDArray[np.uint16]
    is_answer: NDArray[np.bool_]

    @property
    def n_notes(self) -> int:
        """Notes to be answered."""
        is_note = (self.ids >= vocab.PITCH) & (self.ids < vocab.DRUM + 128)
        return int((is_note & self.is_answer).sum())


Spell = Callable[[Encoded, Selection, "Request"], Example]


@dataclass(frozen=True)
class Request:
    """What surrounds a selection in one example."""

    controls: Mapping[prompt.Cell, Controls]
    window: Window
    held: Mapping[prompt.Cell, NDArray[np.uint16]] = field(default_factory=dict)


def spell(song: Encoded, selection: Selection, request: Request) -> Example:
    """Lay an example out as Anser's own prompt with the song's cells as answers."""
    made = prompt.make(song, selection, request.controls, request.window, request.held)
    return Example(*prompt.with_answers(made, song))


def draw_selection(song: Encoded, rng: np.random.Generator) -> Selection:
    """Draw a selection of one of the kinds that composers make, where something plays."""
    kind = rng.choice(6, p=[0.36, 0.28, 0.14, 0.12, 0.07, 0.03])
    n_bars = int(rng.choice([1, 2, 4, 8], p=[0.2, 0.2, 0.4, 0.2]))
    if kind == 4:
        n_bars = int(rng.integers(12, 25))  # a whole track, as far as a window shows it
    n_bars = min(n_bars, song.n_bars)
    per_bar = song.n_notes.sum(axis=0, dtype=np.int64)
    anchor = int(rng.choice(song.n_bars, p=per_bar / per_bar.sum()))
    first = int(np.clip(anchor - rng.integers(n_bars), 0, song.n_bars - n_bars))
    bars = range(first, first + n_bars)
    near = song.n_notes[:, max(first - 8, 0) : first + n_bars + 8].sum(axis=1, dtype=np.int64)
    playing = np.flatnonzero(near)
    inside = np.flatnonzero(song.n_notes[:, first : first + n_bars].sum(axis=1, dtype=np.int64))
    if kind in (0, 4):  # one track, mostly one that plays in these bars
        tracks = [int(rng.choice(inside if rng.random() < 0.9 else playing))]
    elif kind == 5:  # every track
        tracks = playing[: vocab.N_TRACKS].tolist()
    else:
        n_tracks = min(int(rng.integers(1 if kind in (2, 3) else 2, 5)), len(playing))
        tracks = rng.choice(playing, n_tracks, replace=False).tolist()
    cells = [(int(t), int(b)) for t in tracks for b in bars]
    if kind == 2 and len(cells) > 1:  # scattered
        spread = range(first, min(first + 3 * n_bars, song.n_bars))
        cells = [(int(t), int(b)) for t in tracks for b in spread if rng.random() < 0.4] or cells
    return Selection(frozenset(cells))


def draw_window(rng: np.random.Generator) -> Window:
    """Draw how much is shown around a selection: mostly both sides and all tracks."""
    before = 0 if rng.random() < 0.06 else int(rng.integers(1, 41))
    after = 0 if rng.random() < 0.25 else int(rng.integers(1, 17))
    tracks = int(rng.integers(1, 9)) if rng.random() < 0.35 else vocab.N_TRACKS
    return Window(tokens=int(rng.integers(300, 2200)), before=before, after=after, tracks=tracks)


def draw_controls(
    song: Encoded, selection: Selection, rng: np.random.Generator
) -> dict[prompt.Cell, Controls]:
    """Ask for some of what the cells are like: for none of them, for all, or for some.

    Every subset of controls occurs, so that the absence of one means "you choose".
    """
    if rng.random() < 0.4:
        return {}
    share_of_cells = 1.0 if rng.random() < 0.6 else 0.5
    share_of_controls = rng.choice([0.12, 0.4, 1.0], p=[0.5, 0.35, 0.15])
    names = [name for name in MEASURED if rng.random() < share_of_controls]
    names += ["density"] if rng.random() < 0.4 and "density" not in names else []
    is_like = rng.random() < 0.3
    harmony = _harmony(song, selection) if rng.random() < 0.3 else {}
    asked: dict[prompt.Cell, Controls] = {}
    for track, bar in sorted(selection.cells):
        if rng.random() >= share_of_cells:
            continue
        wish = measure_cell(song, (track, bar)).only(names)
        if is_like:
            reference = _draw_reference(song, (track, bar), rng)
            pair = (codec.decode(song.cell(track, b)) for b in (bar, reference))
            wish = replace(wish, reference=reference, likeness=likeness(*pair))
        if song.programs[track] != vocab.DRUMS and bar in harmony:
            wish = replace(wish, chords=harmony[bar])
        asked[track, bar] = wish
    return asked


def _harmony(song: Encoded, selection: Selection) -> dict[int, Chords]:
    """Return the chords that sound in the selected bars, the cells to be answered included."""
    bars = range(selection.bars[0], selection.bars[-1] + 1)
    return dict(zip(bars, recognize(song, bars), strict=True))


def _draw_reference(song: Encoded, cell: prompt.Cell, rng: np.random.Generator) -> int:
    """Draw a bar of the cell's track to be like, as a rule one of the sixteen on either side.

    One in four is the cell itself, so that asking for a copy, or a variation of it, is learnt.
    """
    track, bar = cell
    if rng.random() < 0.25:
        return bar
    near = np.arange(max(bar - 16, 0), min(bar + 17, song.n_bars))
    playing = near[song.n_notes[track, near] > 0]
    return int(rng.choice(playing if len(playing) else near))


def draw_held(
    song: Encoded, selection: Selection, rng: np.random.Generator
) -> dict[prompt.Cell, NDArray[np.uint16]]:
    """Let some notes of the cells stand already, as locks and parts of bars leave them.

    Seven examples in eight have none.
    """
    if rng.random() >= 0.125:
        return {}
    kind = rng.choice(3, p=[0.5, 0.3, 0.2])
    start, stop = np.sort(rng.random(2))
    held = {}
    for track, bar in sorted(selection.cells):
        notes = codec.decode(song.cell(track, bar))
        if not len(notes):
            continue
        if kind == 0:  # what lies outside some part of the bar
            at = notes["position"] / song.lengths[bar]
            stands = (at < start) | (at >= stop)
        elif kind == 1:  # what lies on one side of a pitch
            stands = notes["pitch"] <= rng.choice(notes["pitch"])
            stands = stands if start < 0.5 else ~stands
        else:  # any notes
            stands = rng.random(len(notes)) < start
        is_drum = bool(song.programs[track] == vocab.DRUMS)
        held[track, bar] = codec.encode_cell(notes[stands], is_drum=is_drum)
    return held


def transposition_range(song: Encoded) -> tuple[int, int]:
    """Return how far down and up the song can go with every track inside its instrument's range."""
    down, up = -6, 6
    for track, program in enumerate(song.programs):
        if program == vocab.DRUMS:
            continue
        at = track * song.n_bars
        ids = song.ids[song.offsets[at] : song.offsets[at + song.n_bars]]
        pitches = ids[(ids >= vocab.PITCH) & (ids < vocab.PITCH + 128)].astype(int) - vocab.PITCH
        if len(pitches):
            low, high = pitch_range(int(program))
            down = max(down, min(low - int(pitches.min()), 0))
            up = min(up, max(high - int(pitches.max()), 0))
    return down, up


def vary(song: Encoded, semitones: int, rng: np.random.Generator) -> Encoded:
    """Transpose the song, and jitter its loudness and tempo as a whole.

    Loudness moves by up to three steps, as far as no velocity leaves the scale.
    """
    ids = codec.transpose(song.ids, semitones)
    n = vocab.COUNT["velocity"]
    is_velocity = (ids >= vocab.VELOCITY) & (ids < vocab.VELOCITY + n)
    found = ids[is_velocity].astype(int) - vocab.VELOCITY
    if len(found):
        softest, loudest = int(found.min()), int(found.max())
        steps = int(np.clip(rng.integers(-3, 4), min(1 - softest, 0), n - 1 - loudest))
        ids = np.where(is_velocity, ids + np.uint16(steps % 65536), ids)
    tempos = song.tempos * np.float32(1.08 ** rng.integers(-1, 2))
    return replace(song, ids=ids, tempos=tempos)


class Examples:
    """Draws examples from a shard; songs are seen in proportion to their notes and weights."""

    def __init__(self, shard: Shard, weights: Mapping[str, float] = SOURCE_WEIGHTS) -> None:
        self._songs = shard.songs
        mass = shard.n_notes * np.array([weights.get(s, 1.0) for s in shard.sources])
        self.shares = mass / mass.sum()  # how often each song is drawn
        self._ranges = [transposition_range(song) for song in shard.songs]

    def draw(
        self, rng: np.random.Generator, *, augment: bool = True, layout: Spell = spell
    ) -> Example:
        """Draw one example of at most MAX_IDS ids."""
        index = int(rng.choice(len(self._songs), p=self.shares))
        song = self._songs[index]
        if augment:
            down, up = self._ranges[index]
            song = vary(song, int(rng.integers(down, up + 1)), rng)
        while True:
            selection = draw_selection(song, rng)
            controls, window = draw_controls(song, selection, rng), draw_window(rng)
            request = Request(controls, window, draw_held(song, selection, rng))
            example = layout(song, selection, request)
            if len(example.ids) <= MAX_IDS:
                return example


@dataclass(frozen=True)
class Batch:
    """Examples end to end, padded to a fixed size, each beginning at a multiple of ALIGN."""

    ids: NDArray[np.int32]  # [n_ids]
    targets: NDArray[np.int32]  # [n_ids]; the id that comes next
    is_answer: NDArray[np.bool_]  # [n_ids]; whether the target is the model's to answer
    is_context: NDArray[np.bool_]  # [n_ids]; whether the target is given
    offsets: NDArray[np.int32]  # [n_sequences + 1]; where each begins, padded with n_ids
    n_notes: int  # in the answers


def batch(examples: Examples, seed: tuple[int, ...], n_ids: int, *, layout: Spell = spell) -> Batch:
    """Draw examples until they no longer fit into `n_ids` ids; `seed` decides all."""
    rng = np.random.default_rng(seed)
    drawn: list[Example] = []
    room = n_ids
    while len(drawn) < _n_sequences(n_ids):
        example = examples.draw(rng, layout=layout)
        room -= _aligned(example)
        if room < 0:
            break
        drawn.append(example)
    return lay_out(drawn, n_ids)


def fixed_batches(
    examples: Examples, seed: int, n_examples: int, n_ids: int, *, layout: Spell = spell
) -> list[Batch]:
    """Draw `n_examples` examples without augmentation, in as many batches as they need.

    The examples depend on the seed alone, not on the size of a batch.
    """
    rows: list[list[Example]] = [[]]
    room = n_ids
    for i in range(n_examples):
        rng = np.random.default_rng((seed, i))
        example = examples.draw(rng, augment=False, layout=layout)
        if room < _aligned(example) or len(rows[-1]) == _n_sequences(n_ids):
            rows.append([])
            room = n_ids
        rows[-1].append(example)
        room -= _aligned(example)
    return [lay_out(row, n_ids) for row in rows]


def lay_out(drawn: list[Example], n_ids: int) -> Batch:
    """Lay examples end to end in a batch of `n_ids` ids; they must fit."""
    made = Batch(
        ids=np.zeros(n_ids, dtype=np.int32),
        targets=np.zeros(n_ids, dtype=np.int32),
        is_answer=np.zeros(n_ids, dtype=bool),
        is_context=np.zeros(n_ids, dtype=bool),
        offsets=np.full(_n_sequences(n_ids) + 2, n_ids, dtype=np.int32),
        n_notes=sum(e.n_notes for e in drawn),
    )
    at = 0
    for i, example in enumerate(drawn):
        n = len(example.ids)
        made.offsets[i] = at
        made.ids[at : at + n] = example.ids
        made.targets[at : at + n - 1] = example.ids[1:]
        made.is_answer[at : at + n - 1] = example.is_answer[1:]
        made.is_context[at : at + n - 1] = ~example.is_answer[1:]
        at += _aligned(example)
    made.offsets[len(drawn)] = at
    return made


def _aligned(example: Example) -> int:
    return -(-len(example.ids) // ALIGN) * ALIGN


def _n_sequences(n_ids: int) -> int:
    """Return how many sequences a batch holds at most."""
    return n_ids // 512 + 8
