"""What was typed → a request; its takes → files and a report.

Knows how musicians spell what they want, and where answers go; the flow itself is `infill`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from anser import models, vocab
from anser.apart import Apart, takes_apart
from anser.bind import bind_controls, bind_rules, earlier_takes
from anser.errors import AnserError, ControlError, SelectionError
from anser.infill import Decided, Request, Take, infill
from anser.rank import Ranked, ranked
from anser.sampling import Sampling
from anser.selection import Selection
from anser.song import Song
from anser.take_file import SUFFIX, TakeFile, opened
from anser.vary import likeness_kept, varied
from anser.wishes import Wishes

if TYPE_CHECKING:
    from collections.abc import Iterator

CLOSING_BARS: Final = 8  # a song is continued by the tracks that play in its last so many bars
SAMPLED: Final = tuple(f.name for f in fields(Sampling))
MOST_NEW_BARS: Final = 1000  # in one call; far beyond what holds together, yet a typo ends


@dataclass(frozen=True)
class Delivered:
    """A take and the file it was written to."""

    path: Path
    ranked: Ranked
    kept: Path | None = None  # the file of the take
    amount: float | None = None  # of variation

    @property
    def take(self) -> Take:
        """The take."""
        return self.ranked.take

    @property
    def facts(self) -> dict[str, Any]:
        """Return what `--json` prints of it."""
        kept = {"take_file": str(self.kept)} if self.kept else {}
        like = {} if self.amount is None else {"likeness_kept": round(likeness_kept(self.take), 3)}
        ranking = {"ranking": self.ranked.facts}
        return {"file": str(self.path), **kept, **self.take.report, **like, **ranking}


@dataclass(frozen=True)
class Answer:
    """The takes of a request, best first, where they lie, and how long they took."""

    request: Request
    model: str
    delivered: tuple[Delivered, ...]
    seconds: float  # of prefill and writing, without loading

    @property
    def report(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "song": self.request.song.name,
            "selection": self.request.selection.spelled(),
            "model": self.model,
            "seconds": round(self.seconds, 3),
            "repairs": list(self.request.song.repairs),
            "takes": [delivered.facts for delivered in self.delivered],
        }


def check_output(path: Path) -> None:
    """Raise AnserError unless a file can be written there; called before any work."""
    folder = path.parent
    if not folder.is_dir():
        raise AnserError(f"{path}: expected an existing folder, found none at {folder}.")
    if path.is_dir():
        raise AnserError(f"{path}: expected a file to write, found a folder. Name a file in it.")
    if not os.access(folder, os.W_OK):
        raise AnserError(f"{path}: expected a folder that can be written to: {folder}.")


def choose(song: Song, cells: str | None, tracks: Sequence[str], bars: str | None) -> Selection:
    """Return the cells chosen by --cells, or by --track and --bars; raises SelectionError."""
    if cells is not None:
        if tracks or bars is not None:
            raise SelectionError("selection: expected --cells, or --track and --bars; found both.")
        return Selection.parse(cells, song)
    if not tracks:
        raise SelectionError(
            f"{song.name}: expected cells to fill, found none. "
            'Use --track 2 --bars 9-12, or --cells "bass:9-12, drums:9-16".'
        )
    return Selection.parse_options(tracks, bars, song)


def closing_tracks(song: Song) -> list[int]:
    """Return the tracks that play near the end, the busiest ones if a prompt cannot hold all.

    Raises SelectionError where the song has no track.
    """
    if not song.tracks:
        raise SelectionError(f"{song.name}: expected tracks to continue, the song has none.")
    since = int(song.bars.starts[max(song.n_bars - CLOSING_BARS, 0)])
    n_notes = np.array([(track.notes["onset"] >= since).sum() for track in song.tracks])
    busiest = np.argsort(-n_notes, kind="stable")[: vocab.N_TRACKS]
    playing = [int(track) for track in busiest if n_notes[track]]
    return sorted(playing or [int(track) for track in busiest])


def lengthened(song: Song, n_bars: int) -> Song:
    """Return the song with bars to write behind its end; raises SelectionError for too many."""
    if not 1 <= n_bars <= MOST_NEW_BARS:
        raise SelectionError(f"bars: expected 1 to {MOST_NEW_BARS} to add, found {n_bars}.")
    return song.extended(n_bars)


def answer(
    song: Song,
    selection: Selection,
    wishes: Wishes,
    output: Path,
    *,
    amount: float | None = None,
    shows_progress: bool = False,
) -> Answer:
    """Load the model, write the takes, and put them into files; nothing is written on an error.

    With an `amount` they are variations of what stands there.
    """
    check_output(output)
    request = make_request(song, selection, wishes)
    with _refusing_values():
        apart = Apart(wishes.apart, tuple(opened(path, song) for path in wishes.avoid))
        model = models.load(wishes.model or models.DEFAULT, threads=wishes.threads)
    with _progress(request, shown=shows_progress) as on_event:
        start = time.perf_counter()

        def write(asked: Request) -> list[Take]:
            return infill(model.engine, asked, on_event, model.prefixes)

        def vary(asked: Request) -> list[Take]:
            return varied(write, asked, amount or 0)

        takes = takes_apart(write if amount is None else vary, request, apart)
        seconds = time.perf_counter() - start
    paths = _paths(output, len(takes))
    delivered = []
    for path, one in zip(paths, ranked(takes), strict=True):
        one.take.song.write(path)
        kept = path.with_suffix(SUFFIX) if wishes.save_takes else None
        if kept is not None:
            TakeFile.of(one.take, model.name, model.fingerprint).save(kept)
        delivered.append(Delivered(path, one, kept, amount))
    return Answer(request, model.name, tuple(delivered), seconds)


def make_request(song: Song, selection: Selection, wishes: Wishes) -> Request:
    """Return what was typed as a request; raises ControlError, SelectionError."""
    chosen = {name: getattr(wishes, name) for name in SAMPLED}
    with _refusing_values():
        return Request(
            song,
            selection,
            bind_controls(song, selection, wishes),
            bind_rules(song, selection, wishes),
            earlier_takes(song, wishes),
            takes=wishes.takes,
            seed=wishes.seed,
            sampling=Sampling(**{k: v for k, v in chosen.items() if v is not None}),
        )


def _paths(output: Path, n_takes: int) -> list[Path]:
    """Return where the takes go: `out.mid`, or `out.1.mid`, `out.2.mid` … for several."""
    if n_takes == 1:
        return [output]
    return [output.with_name(f"{output.stem}.{n}{output.suffix}") for n in range(1, n_takes + 1)]


@contextmanager
def _refusing_values() -> Iterator[None]:
    """Turn the ValueErrors of options, such as `takes: expected 1..64`, into user errors."""
    try:
        yield
    except AnserError:
        raise
    except ValueError as error:
        raise ControlError(str(error)) from error


@contextmanager
def _progress(request: Request, *, shown: bool) -> Iterator[Callable[[Decided], None] | None]:
    """Show on stderr how many cells are done; yields what to tell of each event."""
    if not shown:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    n_cells = len(request.selection.cells) * request.takes
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    n_notes = 0
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=n_cells)

        def on_event(event: Decided) -> None:
            nonlocal n_notes
            n_notes += len(event.notes)
            bar.update(task, description=f"{n_notes} notes", advance=event.cell_is_done)

        yield on_event
