"""Songs × random selections → how often a promise is broken.

For each song a random selection (1 to 4 tracks, 1 to 8 bars, scattered ones too) is filled twice
with the same seed, written to bytes and read back. Counted are:

    crashes
    events changed outside the selection, by `verify` on raw events
    malformed bars: with a note too many, outside MIDI's range, without duration, or struck while
        its pitch sounds
    takes that differ although their seed is the same
    cells answered with silence where the original plays

As a command:

    python -m anser.evaluate.invariants FOLDER --limit 200
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track as progress

from anser import models
from anser.evaluate.midi_files import midi_files
from anser.infill import Request, Take, infill
from anser.rwkv7.engine import Engine
from anser.selection import Selection
from anser.song import Song
from anser.verify import differences


def random_selection(song: Song, rng: np.random.Generator) -> Selection:
    """Draw 1 to 4 tracks × 1 to 8 bars, one in three of them scattered."""
    n_tracks = min(int(rng.integers(1, 5)), len(song.tracks))
    tracks = [int(t) for t in rng.choice(len(song.tracks), n_tracks, replace=False)]
    n_bars = min(int(rng.integers(1, 9)), song.n_bars)
    first = int(rng.integers(song.n_bars - n_bars + 1))
    cells = [(t, b) for t in tracks for b in range(first, first + n_bars)]
    if rng.random() < 1 / 3:
        spread = range(first, min(first + 4 * n_bars, song.n_bars))
        cells = [(t, b) for t in tracks for b in spread if rng.random() < 0.3] or cells
    return Selection(frozenset(cells))


def malformed_bars(take: Take, selection: Selection) -> int:
    """Return how many selected cells hold a wrong note, in the file as written."""
    song = Song.from_bytes(take.song.to_bytes(), name=take.song.name)
    parts = {(t.chunk, t.channel, t.program): t for t in song.tracks}  # emptied tracks are gone
    starts = song.bars.starts
    wrong = 0
    for track, bar in selection.cells:
        asked = take.song.tracks[track]
        part = parts.get((asked.chunk, asked.channel, asked.program))
        if part is None:
            continue
        notes = part.notes
        inside = notes[(notes["onset"] >= starts[bar]) & (notes["onset"] < starts[bar + 1])]
        new = take.notes.get(track, notes[:0])
        written = new[(new["onset"] >= starts[bar]) & (new["onset"] < starts[bar + 1])]
        is_bad = len(inside) > len(written) or bool((inside["duration"] < 1).any())
        is_bad |= bool(((inside["pitch"] < 0) | (inside["pitch"] > 127)).any())
        is_bad |= bool(((inside["velocity"] < 1) | (inside["velocity"] > 127)).any())
        for note in inside:
            same = notes[(notes["pitch"] == note["pitch"]) & (notes["onset"] < note["onset"])]
            is_bad |= bool((same["onset"] + same["duration"] > note["onset"]).any())
        wrong += int(is_bad)
    return wrong


def silent_answers(song: Song, take: Take) -> tuple[int, int]:
    """Return how many cells that play in the original are now silent, and how many play."""
    silent = playing = 0
    for cell in take.cells:
        onsets = song.tracks[cell.track].notes["onset"]
        start, end = song.bars.starts[cell.bar], song.bars.starts[cell.bar + 1]
        if ((onsets >= start) & (onsets < end)).any():
            playing += 1
            silent += int(cell.n_notes == 0)
    return silent, playing


def check(engine: Engine, path: Path, seed: int, counts: Counter[str]) -> None:
    """Fill one random selection of the song and count what went wrong."""
    song = Song.read(path)
    if not song.tracks:
        counts["songs without tracks"] += 1
        return
    selection = random_selection(song, np.random.default_rng((seed, len(path.name))))
    counts["songs"] += 1
    counts["cells"] += len(selection.cells)
    request = Request(song, selection, seed=seed)
    take, again = infill(engine, request)[0], infill(engine, request)[0]
    counts["notes written"] += take.n_notes
    counts["events changed outside"] += len(differences(song, take.song, selection))
    counts["malformed bars"] += malformed_bars(take, selection)
    counts["takes not reproduced"] += int(take.song.to_bytes() != again.song.to_bytes())
    silent, playing = silent_answers(song, take)
    counts["cells that play in the original"] += playing
    counts["of these answered with silence"] += silent


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("songs", type=Path, nargs="+", help="MIDI files, or folders of them")
    parser.add_argument("--model", default=models.DEFAULT)
    parser.add_argument("--limit", type=int, default=200, help="how many songs, drawn by the seed")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    paths = midi_files(given.songs)
    rng = np.random.default_rng(given.seed)
    paths = [paths[i] for i in rng.permutation(len(paths))[: given.limit]]
    engine = models.load(given.model).engine
    counts: Counter[str] = Counter({"crashes": 0})
    begun = time.perf_counter()
    for i, path in enumerate(progress(paths, console=Console(stderr=True))):
        try:
            check(engine, path, given.seed + i, counts)
        except Exception:  # noqa: BLE001  a crash is a row of the report, and fails the run
            counts["crashes"] += 1
            sys.stderr.write(f"{path}:\n{traceback.format_exc()}")
    counts["seconds"] = round(time.perf_counter() - begun)
    print(json.dumps(counts, indent=1))
    broken = ("crashes", "events changed outside", "malformed bars", "takes not reproduced")
    sys.exit(any(counts[name] for name in broken))


if __name__ == "__main__":
    main()
