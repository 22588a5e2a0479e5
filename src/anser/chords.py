"""Notes of bars → chords, and chords as musicians write them → tokens.

A chord is spelled `C`, `Am`, `F#dim`, `Ebaug`, `Gsus4`, `G7`, `Cmaj7`, `Dm7`, or `N` for none; its
number is root + 12 × quality, `N` the last. Recognition compares, beat by beat, how long each pitch
class sounds with the chords' tones; a change of chord has to be worth its while.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anser import codec, vocab
from anser.codec import Encoded
from anser.errors import ControlError

ROOTS: Final = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
_SHARPS: Final = {"C#": 1, "D#": 3, "E#": 5, "F#": 6, "G#": 8, "A#": 10, "B#": 0, "Cb": 11, "Fb": 4}
# suffix, semitones above the root
_QUALITIES: Final = (
    ("", (0, 4, 7)),
    ("m", (0, 3, 7)),
    ("dim", (0, 3, 6)),
    ("aug", (0, 4, 8)),
    ("sus4", (0, 5, 7)),
    ("7", (0, 4, 7, 10)),
    ("maj7", (0, 4, 7, 11)),
    ("m7", (0, 3, 7, 10)),
)
NAMES: Final = (*(root + suffix for suffix, _ in _QUALITIES for root in ROOTS), "N")
_SPELLING: Final = re.compile(r"([A-Ga-g])([#b]?)(.*)")
_SUFFIXES: Final = {"maj": "", "M": "", "min": "m", "-": "m", "o": "dim", "+": "aug", "sus": "sus4"}
_SUFFIXES_OF_SEVENTHS: Final = {"M7": "maj7", "min7": "m7", "-7": "m7"}

Chords = tuple[tuple[int, str], ...]  # (position in the bar, name), the first at 0

_CHANGE: Final = 0.25  # what a change of chord costs, in shares of a beat's sound
_STRANGE: Final = 0.7  # what a tone outside the chord costs
_MISSING: Final = 0.1  # what a tone of the chord that does not sound costs
_BASS: Final = 0.15  # what the lowest pitch being the root is worth
_LOOK_BACK: Final = 2  # bars before, whose notes may still sound


def _templates() -> NDArray[np.float64]:
    tones = np.zeros((len(NAMES) - 1, 12))
    for quality, (_, steps) in enumerate(_QUALITIES):
        for root in range(12):
            tones[12 * quality + root, [(root + s) % 12 for s in steps]] = 1
    return tones


_TONES: Final = _templates()


def number(name: str) -> int:
    """Return the number of a chord by its name, in sharps or flats.

    Raises `ControlError` for a name that is none.
    """
    if name == "N":
        return len(NAMES) - 1
    found = _SPELLING.fullmatch(name)
    if found:
        letter, accidental, suffix = found.groups()
        root = letter.upper() + accidental
        suffix = _SUFFIXES.get(suffix, _SUFFIXES_OF_SEVENTHS.get(suffix, suffix))
        flat = ROOTS.index(root) if root in ROOTS else _SHARPS.get(root)
        if flat is not None and ROOTS[flat] + suffix in NAMES:
            return NAMES.index(ROOTS[flat] + suffix)
    suffixes = ", ".join(suffix for suffix, _ in _QUALITIES if suffix)
    raise ControlError(f"chord '{name}': expected a root, then nothing or one of {suffixes}; or N.")


def parse(text: str, lengths: NDArray[np.integer]) -> list[Chords]:
    """Read "Am F | C G": bars between `|`, a bar's chords sharing it equally; one list a bar.

    Without any `|` every chord has a bar of its own; "Am F |" is one bar of two. `lengths` are the
    bars' grid positions; where there are fewer bars in the text, it begins again. Raises
    `ControlError`.
    """
    inner = text.strip().removeprefix("|").removesuffix("|")
    bars = [bar.split() for bar in inner.split("|")] if "|" in text else [[n] for n in text.split()]
    if not bars or not all(bars):
        raise ControlError(f"chords '{text}': expected at least one chord in every bar.")
    result = []
    for i, length in enumerate(lengths):
        names = [NAMES[number(name)] for name in bars[i % len(bars)]]
        result.append(tuple((int(length) * k // len(names), n) for k, n in enumerate(names)))
    return result


def spell(chords: Chords) -> list[int]:
    """Return the tokens of a bar's chords: each with its position, but for one at the beginning."""
    ids = []
    for position, name in chords:
        ids += [vocab.POSITION + position] if 0 < position < vocab.PAGE else []
        ids.append(vocab.FIRST["chord"] + number(name))
    return ids


def recognize(song: Encoded, bars: range) -> list[Chords]:
    """Return the chords of consecutive bars, one tuple a bar, changes on beats only."""
    beats, bass, owner = _beats(song, bars)
    total = beats.sum(axis=1, keepdims=True)
    share = beats / np.maximum(total, 1e-9)
    score = share @ _TONES.T - _STRANGE * (share @ (1 - _TONES.T))
    score -= _MISSING * ((share < 0.05).astype(float) @ _TONES.T)
    is_root = bass[:, None] == np.arange(len(NAMES) - 1) % 12
    score += _BASS * is_root
    score = np.where(total > 0, score, -1.0)
    score = np.concatenate([score, np.full((len(score), 1), 0.2)], axis=1)  # N
    path = _cheapest(score)
    result: list[Chords] = []
    for bar in bars:
        mine = np.flatnonzero(owner == bar)
        changes = [i for i in mine if i == mine[0] or path[i] != path[i - 1]]
        chords = tuple((int(i - mine[0]) * vocab.GRID, NAMES[path[i]]) for i in changes)
        result.append(chords)
    return result


def _beats(
    song: Encoded, bars: range
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return for each beat how long each pitch class sounds, the lowest one, and its bar.

    A bar's last beat may be short; the lowest is -1 where nothing sounds.
    """
    per_bar = -(-song.lengths[bars.start : bars.stop].astype(np.int64) // vocab.GRID)
    owner = np.repeat(np.arange(bars.start, bars.stop), per_bar)
    in_bar = np.arange(len(owner)) - np.repeat(np.cumsum(per_bar) - per_bar, per_bar)
    line = np.concatenate(([0], np.cumsum(song.lengths, dtype=np.int64)))
    starts = line[owner] + in_bar * vocab.GRID
    stops = np.minimum(starts + vocab.GRID, line[owner + 1])
    beats = np.zeros((len(owner), 12))
    lowest = np.full(len(owner), 128)
    for bar in range(max(bars.start - _LOOK_BACK, 0), bars.stop):
        for track in np.flatnonzero((song.programs != vocab.DRUMS) & (song.n_notes[:, bar] > 0)):
            notes = codec.decode(song.cell(int(track), bar))
            onset = line[bar] + notes["position"].astype(np.int64)
            overlap = np.minimum(onset + notes["duration"], stops[:, None]) - np.maximum(
                onset, starts[:, None]
            )
            overlap = np.maximum(overlap, 0)
            for i, pitch in enumerate(notes["pitch"]):
                beats[:, pitch % 12] += overlap[:, i]
                lowest = np.where(overlap[:, i] > 0, np.minimum(lowest, pitch), lowest)
    return beats, np.where(lowest < 128, lowest % 12, -1), owner


def _cheapest(score: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the best chord of each beat when every change costs `_CHANGE` (Viterbi)."""
    best = score[0].copy()
    came_from = np.zeros(score.shape, dtype=np.int64)
    for i in range(1, len(score)):
        top = int(best.argmax())
        stays = best >= best[top] - _CHANGE
        came_from[i] = np.where(stays, np.arange(len(best)), top)
        best = np.where(stays, best, best[top] - _CHANGE) + score[i]
    path = np.zeros(len(score), dtype=np.int64)
    path[-1] = best.argmax()
    for i in range(len(score) - 1, 0, -1):
        path[i - 1] = came_from[i, path[i]]
    return path
