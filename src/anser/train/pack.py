"""Corpus packs of MIDI files → shards of encoded songs.

A pack is a `.tar.zst` or `.tar` that begins with `manifest.jsonl`, one JSON object a piece (file,
source, split). As a command:

    python -m anser.train.pack PACK... -o FOLDER
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path

import zstandard
from rich.progress import track as progress

from anser.codec import Encoded, encode
from anser.errors import AnserError
from anser.song import Song
from anser.train.shards import Shard, save

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Piece:
    """One file of a pack with its line of the manifest."""

    file: str
    source: str
    split: str
    data: bytes


def pieces(pack: Path) -> Iterator[Piece]:
    """Yield the pieces of a corpus pack; the manifest comes first in the archive."""
    manifest: dict[str, dict[str, object]] = {}
    with pack.open("rb") as raw:
        zstd = zstandard.ZstdDecompressor(max_window_size=2**31)
        stream = zstd.stream_reader(raw) if pack.suffix == ".zst" else raw
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                content = archive.extractfile(member)
                if content is None:
                    continue
                name = member.name.removeprefix("./")
                if name == "manifest.jsonl":
                    rows = [json.loads(line) for line in content.read().splitlines()]
                    manifest = {row["file"]: row for row in rows}
                elif name in manifest:
                    row = manifest[name]
                    yield Piece(name, str(row["source"]), str(row["split"]), content.read())


def _encode(piece: Piece) -> tuple[Piece, Encoded | str]:
    try:
        return piece, encode(Song.from_bytes(piece.data, name=piece.file))
    except AnserError as error:
        return piece, str(error)


def build(packs: Iterable[Path], folder: Path, processes: int, left_out: Sequence[str]) -> None:
    """Encode the pieces of the packs into `train.npz`, `valid.npz` and `test.npz`.

    Sources in `left_out` are not taken.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[tuple[Piece, Encoded]]] = {split: [] for split in SPLITS}
    digest = hashlib.sha256()
    everything = (p for pack in packs for p in pieces(pack) if p.source not in left_out)
    with Pool(processes) as pool:
        results = pool.imap(_encode, everything, chunksize=16)
        for piece, result in progress(results, description="encoding", total=None):
            if isinstance(result, str):
                sys.stderr.write(f"left out: {result}\n")
                continue
            digest.update(piece.data)
            found[piece.split].append((Piece(piece.file, piece.source, piece.split, b""), result))
    for split, rows in found.items():
        if not rows:
            continue
        shard = Shard(
            tuple(e for _, e in rows),
            tuple(p.source for p, _ in rows),
            tuple(p.file for p, _ in rows),
        )
        save(folder / f"{split}.npz", shard)
        n_ids = sum(len(s.ids) for s in shard.songs)
        sys.stderr.write(
            f"{split}: {len(rows)} songs, {shard.n_notes.sum()} notes, "
            f"{n_ids / max(shard.n_notes.sum(), 1):.3f} ids a note\n"
        )
    (folder / "sha256.txt").write_text(digest.hexdigest() + "\n")


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packs", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--leave-out", nargs="*", default=[], metavar="SOURCE")
    given = parser.parse_args()
    build(given.packs, given.output, given.processes, given.leave_out)


if __name__ == "__main__":
    main()
