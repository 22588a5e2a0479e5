"""The packaged song → two of its tracks emptied for four bars, and filled again by the model."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from anser import models, roll
from anser.errors import AnserError
from anser.selection import Selection
from anser.song import Song, splice
from anser.verify import Difference, differences

CELLS: Final = "lead guitar:13-16, bass:13-16"


@dataclass(frozen=True)
class Demo:
    """What the demo did: its files, and figures of the music-making."""

    before: Path
    after: Path
    selection: Selection
    n_notes: int
    n_bars: int
    load_seconds: float
    infill_seconds: float
    differences: tuple[Difference, ...]  # outside the selection; none, unless there is a bug


def song() -> Song:
    """Return the packaged song; `data/README.md` says whose it is."""
    return Song.from_bytes((files("anser.data") / "demo.mid").read_bytes(), "demo.mid")


def play(folder: Path, *, model: str | None = None, seed: int = 0) -> Demo:
    """Write before.mid, with empty bars, and after.mid, with new ones, and a picture of each.

    Makes the folder if need be; raises AnserError if it cannot.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise AnserError(f"{folder}: expected a folder to write to: {error.strerror}.") from error
    whole = song()
    selection = Selection.parse(CELLS, whole)
    emptied = splice(whole, selection, {})
    start = time.perf_counter()
    loaded = models.load(model or models.DEFAULT)
    ready = time.perf_counter()
    take = loaded.infill(emptied, selection, seed=seed)[0]
    end = time.perf_counter()
    before, after = folder / "before.mid", folder / "after.mid"
    emptied.write(before)
    take.song.write(after)
    roll.write(before.with_suffix(".png"), emptied, selection, title="before")
    roll.write(after.with_suffix(".png"), take.song, selection, title="after")
    return Demo(
        before=before,
        after=after,
        selection=selection,
        n_notes=take.n_notes,
        n_bars=whole.n_bars,
        load_seconds=ready - start,
        infill_seconds=end - ready,
        differences=tuple(differences(Song.read(before), Song.read(after), selection)),
    )
