"""Encoded songs ↔ shards on disk.

A shard is one compressed `.npz` with the songs of one split laid end to end. Knows nothing of MIDI,
examples or the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anser.codec import Encoded


@dataclass(frozen=True)
class Shard:
    """Encoded songs of one split with the source and name of each."""

    songs: tuple[Encoded, ...]
    sources: tuple[str, ...]
    files: tuple[str, ...]

    @property
    def n_notes(self) -> NDArray[np.int64]:
        """Notes of each song."""
        return np.array([s.n_notes.sum(dtype=np.int64) for s in self.songs])


def save(path: Path, shard: Shard) -> None:
    """Write a shard; cells are kept as lengths, which compress better than offsets."""
    songs = shard.songs
    columns = {
        "ids": np.concatenate([s.ids for s in songs]),
        "cell_lengths": np.concatenate([np.diff(s.offsets).astype(np.uint16) for s in songs]),
        "n_notes": np.concatenate([s.n_notes.ravel() for s in songs]),
        "programs": np.concatenate([s.programs for s in songs]),
        "numerators": np.concatenate([s.numerators for s in songs]),
        "denominators": np.concatenate([s.denominators for s in songs]),
        "lengths": np.concatenate([s.lengths for s in songs]),
        "tempos": np.concatenate([s.tempos for s in songs]),
        "n_tracks": np.array([s.n_tracks for s in songs], dtype=np.int32),
        "n_bars": np.array([s.n_bars for s in songs], dtype=np.int32),
        "sources": np.array(shard.sources),
        "files": np.array(shard.files),
    }
    temporary = path.with_suffix(".partial.npz")
    np.savez_compressed(temporary, **columns)  # type: ignore[arg-type]
    temporary.replace(path)


def load(path: Path) -> Shard:
    """Read a shard back; the songs are views into one array a column."""
    with np.load(path) as file:
        columns = {key: file[key] for key in file.files}
    songs: list[Encoded] = []
    at_id = at_cell = at_track = at_bar = 0
    for n_tracks, n_bars in zip(columns["n_tracks"], columns["n_bars"], strict=True):
        n_cells = int(n_tracks) * int(n_bars)
        cells, tracks = slice(at_cell, at_cell + n_cells), slice(at_track, at_track + n_tracks)
        bars = slice(at_bar, at_bar + n_bars)
        lengths = columns["cell_lengths"][cells].astype(np.int32)
        offsets = np.concatenate(([0], np.cumsum(lengths, dtype=np.int32)), dtype=np.int32)
        songs.append(
            Encoded(
                ids=columns["ids"][at_id : at_id + offsets[-1]],
                offsets=offsets,
                n_notes=columns["n_notes"][cells].reshape(n_tracks, n_bars),
                programs=columns["programs"][tracks],
                numerators=columns["numerators"][bars],
                denominators=columns["denominators"][bars],
                lengths=columns["lengths"][bars],
                tempos=columns["tempos"][bars],
            )
        )
        at_id += int(offsets[-1])
        at_cell, at_track, at_bar = cells.stop, tracks.stop, bars.stop
    return Shard(tuple(songs), tuple(columns["sources"]), tuple(columns["files"]))
