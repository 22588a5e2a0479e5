"""Songs × random rules → how often a rule is broken; the answer has to be never.

Each request draws a song, a selection and a mixture of rules for each of its tracks. It is either
refused before anything is written, or written and then checked by `rules_check`, which shares no
code with the grammar, and by `verify`. By default the ids are drawn from noise instead of a model:
quicker, and harder on the rules, for a trained model seldom tries to break them.

Every request has to end. Its seconds (of processor time, so that neighbours do not count) are set
against its length: the notes of the song, each read a few times, and the notes written, for each of
which the model would be asked about four times. As a command:

    python -m anser.evaluate.rule_requests SONGS --requests 10000
    python -m anser.evaluate.rule_requests SONGS --requests 1000 --first 4000    (a piece of it)
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track as progress

from anser import models, vocab
from anser.errors import RuleError
from anser.evaluate.invariants import random_selection
from anser.evaluate.midi_files import midi_files
from anser.infill import Request, infill
from anser.rules import Lock, Rules
from anser.rules_check import violations
from anser.rwkv7.engine import Engine, State
from anser.sampling import Sampling
from anser.selection import Selection
from anser.song import Song
from anser.verify import differences

SCALES = (
    *((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9), (0, 3, 5, 7, 10)),
    *((0, 2, 4, 6, 8, 10), (0, 4, 7), (0,)),
)
GRIDS = (24, 12, 6, 3, 8, 4)
CHANCE = 0.25  # of each rule in a mixture


class Noise:
    """Stands in for an engine: logits are drawn at random, `end` somewhat likelier."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def new_state(self, batch: int = 1) -> State:
        """Return a state of no size to speak of."""
        return State(
            np.zeros((batch, 1, 2, 1), np.float32), np.zeros((batch, 1, 1, 1, 1), np.float32)
        )

    def prefill(self, state: State, ids: NDArray[Any]) -> NDArray[np.float32]:
        """Return logits [B, N_VOCAB]."""
        return self.step(state, ids[:, -1])

    def step(self, state: State, ids: NDArray[Any]) -> NDArray[np.float32]:
        """Return logits [B, N_VOCAB]."""
        logits = self._rng.normal(size=(len(ids), vocab.N_VOCAB)).astype(np.float32)
        logits[:, vocab.END] += 1
        return logits


def random_rules(song: Song, track: int, rng: np.random.Generator) -> Rules:
    """Draw a mixture of rules for a track; every one has the same chance to be in it."""

    def drawn() -> bool:
        return bool(rng.random() < CHANCE)

    pitches = song.tracks[track].notes["pitch"]
    middle = int(np.median(pitches)) if len(pitches) else 60
    root, least = int(rng.integers(12)), int(rng.integers(0, 7))
    scale = SCALES[int(rng.integers(len(SCALES)))]
    low, high = (
        max(middle - int(rng.integers(2, 20)), 0),
        min(middle + int(rng.integers(2, 20)), 127),
    )
    first_beat = int(rng.integers(3))
    locked = int(rng.choice(pitches)) if len(pitches) else 60
    return Rules(
        scale=frozenset((root + step) % 12 for step in scale) if drawn() else None,
        pitches=(low, high) if drawn() else None,
        max_polyphony=int(rng.integers(1, 5)) if drawn() else None,
        grid=int(rng.choice(GRIDS)) if drawn() else None,
        keep=("rhythm" if rng.random() < 0.5 else "pitch") if drawn() else None,
        notes=(least, least + int(rng.integers(0, 6))) if drawn() else None,
        within_bar=drawn(),
        no_repeat=int(rng.integers(1, 6)) if drawn() else None,
        locks=(Lock(pitches=(locked, locked)),) if drawn() else (),
        beats=(first_beat, first_beat + int(rng.integers(1, 4))) if drawn() else None,
    )


def check(engine: Any, song: Song, selection: Selection, seed: int, counts: Counter[str]) -> int:  # noqa: ANN401  Engine or Noise
    """Make one request, count what became of it, and return how many notes were written."""
    rng = np.random.default_rng((seed, 1))
    by_track = {track: random_rules(song, track, rng) for track in selection.tracks}
    rules = {cell: by_track[cell[0]] for cell in selection.cells if by_track[cell[0]] != Rules()}
    wild = Sampling(temperature=1, top_p=1, min_p=0)
    request = Request(song, selection, rules=rules, seed=seed, sampling=wild)
    counts["requests"] += 1
    try:
        take = infill(engine, request)[0]
    except RuleError:
        counts["refused beforehand"] += 1
        return 0
    counts["written"] += 1
    counts["notes written"] += take.n_notes
    for broken in violations(song, take.song, selection, rules):
        counts["violations"] += 1
        counts[f"violations of {broken.rule}"] += 1
    counts["events changed outside"] += len(differences(song, take.song, selection))
    return take.n_notes


@dataclass(frozen=True)
class Timed:
    """How long a request took, and how long it was."""

    request: int
    seconds: float  # of processor time: reading, writing, checking
    song_notes: int
    notes: int  # that were written

    @property
    def per_length(self) -> float:
        """Seconds for each 10,000 notes of the song and each 100 written, and one for the rest."""
        return self.seconds / (1 + self.song_notes / 10_000 + self.notes / 100)

    def __str__(self) -> str:
        return (
            f"request {self.request}: {self.seconds:.2f} s, "
            f"a song of {self.song_notes} notes, {self.notes} written"
        )


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("songs", type=Path, nargs="+", help="MIDI files, or folders of them")
    parser.add_argument("--model", help="a model in place of noise; much slower")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first request")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    paths = midi_files(given.songs)
    engine: Engine | Noise = models.load(given.model).engine if given.model else Noise(given.seed)
    counts: Counter[str] = Counter({"crashes": 0, "violations": 0, "events changed outside": 0})
    timed = []
    pieces = range(given.first, given.first + given.requests)
    for i in progress(pieces, console=Console(stderr=True)):
        rng = np.random.default_rng((given.seed, i))
        path = paths[int(rng.integers(len(paths)))]
        begun = time.process_time()
        try:
            song = Song.read(path)
            if song.tracks:
                written = check(engine, song, random_selection(song, rng), given.seed + i, counts)
                n_notes = sum(len(track.notes) for track in song.tracks)
                timed.append(Timed(i, time.process_time() - begun, n_notes, written))
        except Exception:  # noqa: BLE001  a crash is a row of the report, and fails the run
            counts["crashes"] += 1
            sys.stderr.write(f"{path}, request {i}:\n{traceback.format_exc()}")
    report: dict[str, object] = {**counts}
    if timed:
        relative = max(timed, key=lambda one: one.per_length)
        report |= {
            "median seconds": round(float(np.median([one.seconds for one in timed])), 3),
            "slowest": str(max(timed, key=lambda one: one.seconds)),
            "slowest for its length": f"{relative}; {relative.per_length:.2f} s per length",
        }
    print(json.dumps(report, indent=1))
    sys.exit(any(counts[name] for name in ("crashes", "violations", "events changed outside")))


if __name__ == "__main__":
    main()
