"""Speed of codec and prompt against miditok's MMM encoder on the same files, as a ratio.

Both start from a parsed file: ours from a `Song`, miditok's from a symusic `Score`. Ours encodes
the song and makes one prompt for a random selection; MMM tokenises the score (REMI inside, as the
seed does, without BPE). Files are taken in turn by both, and each file's best of three counts.

    pip install miditok && python benchmarks/codec.py FOLDER --files 200
"""

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from miditok import MMM, TokenizerConfig
from symusic import Score

from anser import codec, prompt
from anser.errors import AnserError
from anser.selection import Selection
from anser.song import Song


def best_of_three(task: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        task()
        times.append(time.perf_counter() - begun)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    paths = rng.sample(sorted(given.folder.rglob("*.mid")), given.files)
    config = TokenizerConfig(
        base_tokenizer="REMI", use_programs=True, use_time_signatures=True, use_tempos=True
    )
    mmm = MMM(config)
    ours, theirs, n_notes = [], [], 0
    for path in paths:
        try:
            song, score = Song.read(path), Score(path)
        except AnserError as error:
            print(f"left out: {error}")
            continue
        if not song.tracks:
            continue
        track, bar = rng.randrange(len(song.tracks)), rng.randrange(song.n_bars)
        selection = Selection.of([track], range(bar, min(bar + 4, song.n_bars)))
        ours.append(best_of_three(lambda s=song, c=selection: prompt.make(codec.encode(s), c)))
        theirs.append(
            best_of_three(lambda s=score: mmm.encode(s, concatenate_track_sequences=True))
        )
        n_notes += sum(len(t.notes) for t in song.tracks)
    ratio = np.array(theirs) / np.array(ours)
    print(
        f"{len(ours)} files, {n_notes} notes: ours {sum(ours) / n_notes * 1e6:.2f} us a note, "
        f"miditok MMM {sum(theirs) / n_notes * 1e6:.2f} us a note; "
        f"ratio of sums {sum(theirs) / sum(ours):.1f}, median of files {np.median(ratio):.1f}"
    )


if __name__ == "__main__":
    main()
