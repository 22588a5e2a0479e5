"""An answer → what is said of it in the terminal, in lines or as JSON.

Nothing heavy is imported before there is an answer to tell.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from anser.ask import Answer
    from anser.selection import Selection
    from anser.song import Song
    from anser.wishes import Wishes


def write(
    song: Song,
    selection: Selection,
    wishes: Wishes,
    output: Path,
    *,
    as_json: bool,
    quiet: bool,
    amount: float | None = None,
) -> None:
    """Answer, and say what came out."""
    from anser.ask import answer

    if not quiet:
        tell_repairs(song)
    shown = not quiet and sys.stderr.isatty()
    done = answer(song, selection, wishes, output, amount=amount, shows_progress=shown)
    if as_json:
        print_json(done.report)
    elif not quiet:
        _tell_takes(done)


def _tell_takes(done: Answer) -> None:
    from anser.report import lines

    several = len(done.delivered) > 1
    for delivered in done.delivered:
        take, why = delivered.take, delivered.ranked.why
        which = f"take {take.number + 1} of seed {take.seed}: " if several else ""
        typer.echo(
            f"{delivered.path}: {take.n_notes} notes in {len(take.cells)} cells, {which}{why}"
        )
        for line in lines(take.song, take.cells):
            typer.echo(line)
    if several:
        typer.echo("Best first: the model is surest of what its takes have in common.")


def tell_repairs(song: Song) -> None:
    """Say what was changed to make a damaged file readable."""
    for repaired in song.repairs:
        typer.echo(f"repaired: {repaired}", err=True)


def print_json(report: dict[str, Any]) -> None:
    """Print a report."""
    import json

    typer.echo(json.dumps(report, indent=2, ensure_ascii=False))
