"""Words typed in a terminal → calls of the library; what they return → lines, JSON, exit codes.

Nothing heavy is imported before a command runs. Tracks and bars count from 1, inclusively, here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperGroup

from anser import options as typed
from anser.tell import print_json, tell_repairs, write
from anser.wishes import CELLS, Wishes

if TYPE_CHECKING:
    from anser.selection import Selection
    from anser.song import Song

DONE, BUG, WRONG_REQUEST, NO_MUSIC = 0, 1, 2, 3  # exit codes; 130 is Ctrl-C


class _Commands(TyperGroup):
    """Lists the commands in plain text: to load what draws boxes takes as long as all the rest."""

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401  # click's, not public
        super(TyperGroup, self).format_help(ctx, formatter)


app: Final = typer.Typer(
    name="anser",
    cls=_Commands,
    help="You leave bars of a MIDI file empty; Anser answers.",
    epilog="First time here? Run: anser demo",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(version("anser"))
        raise typer.Exit


@app.callback(invoke_without_command=True)
def anser(
    ctx: typer.Context,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show the traceback of an error: anser --debug infill …"),
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_tell_version, is_eager=True),
    ] = False,
) -> None:
    """You leave bars of a MIDI file empty; Anser answers."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to write to.")
    ] = Path("anser-demo"),
    seed: typed.Seed = 0,
    model: typed.ModelOption = None,
) -> None:
    """Fill eight empty cells of the packaged song; takes seconds.

    Writes before.mid and after.mid, with a picture of each, and says what to try next.
    """
    from anser.demo import CELLS, play

    done = play(output, model=model, seed=seed)
    if done.differences:
        raise AssertionError(f"changed outside the selection: {done.differences[0]}")
    n_cells = len(done.selection.cells)
    typer.echo(
        f"{done.before}  a song of {done.n_bars} bars; {n_cells} cells are empty ({CELLS})\n"
        f"{done.after}   the same with {done.n_notes} new notes in them, nothing else changed\n"
        f"Loading took {done.load_seconds:.1f} s, reading and writing music "
        f"{done.infill_seconds:.1f} s. A picture of each lies beside it.\n\n"
        "Try next:\n"
        f"  anser demo --seed 1                     another answer\n"
        f"  anser show {done.before}\n"
        f'  anser infill {done.before} --cells "{CELLS}" --takes 4 -o out.mid\n'
        f"  anser infill {done.before} --track drums --bars 9-16 --density 12 -o out.mid\n"
        f"  anser continue {done.after} --bars 4 -o longer.mid"
    )


@app.command()
def show(
    song: typed.SongFile,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    png: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw a piano roll too: --png roll.png"),
    ] = None,
    cells: Annotated[
        str | None,
        typer.Option(metavar="CELLS", help='Mark these in the picture: --cells "bass:9-12".'),
    ] = None,
    chords: Annotated[
        bool, typer.Option("--chords", help="Show the chords that are heard, bar by bar.")
    ] = False,
    repair: typed.Repair = False,
) -> None:
    """Show tracks, bars, meter and tempo, and what to pass to infill.

    Example: anser show song.mid --png roll.png --cells "bass:9-12, drums:9-16"
    """
    from anser.ask import check_output
    from anser.selection import Selection
    from anser.show import chord_facts, facts, print_chords, print_tables
    from anser.song import Song

    if png is not None:
        check_output(png)
    opened = Song.read(song, repair=repair)
    marked = Selection.parse(cells, opened) if cells is not None else None
    if png is not None:
        from anser import roll

        roll.write(png, opened, marked)
    tell_repairs(opened)
    if as_json:
        print_json(facts(opened) | ({"chords": chord_facts(opened)} if chords else {}))
        return
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    print_tables(opened, console, str(song))
    if chords:
        print_chords(opened, console)


def _chosen(
    song: Path,
    output: Path,
    cells: str | None,
    track: list[str] | None,
    bars: str | None,
    *,
    repair: bool,
) -> tuple[Song, Selection]:
    """Open a song and choose its cells, once it is known that the answer can be written."""
    from anser.ask import check_output, choose
    from anser.song import Song

    check_output(output)
    opened = Song.read(song, repair=repair)
    return opened, choose(opened, cells, track or (), bars)


@app.command(name="infill")
@typed.takes_wishes
def infill_command(  # noqa: PLR0913  # its parameters are the command's options
    song: typed.SongFile,
    output: typed.Output,
    *,
    track: typed.ChosenTracks = None,
    bars: typed.ChosenBars = None,
    cells: typed.ChosenCells = None,
    wishes: Wishes,
    as_json: typed.Json = False,
    quiet: typed.Quiet = False,
    repair: typed.Repair = False,
) -> None:
    """Write the selected cells (tracks × bars) anew, and no others.

    Example: anser infill song.mid --track bass --bars 9-12 --takes 4 -o out.mid
    """
    opened, selection = _chosen(song, output, cells, track, bars, repair=repair)
    write(opened, selection, wishes, output, as_json=as_json, quiet=quiet)


@app.command(name="vary")
@typed.takes_wishes
def vary_command(  # noqa: PLR0913  # its parameters are the command's options
    song: typed.SongFile,
    output: typed.Output,
    *,
    track: typed.ChosenTracks = None,
    bars: typed.ChosenBars = None,
    cells: typed.ChosenCells = None,
    amount: Annotated[
        float,
        typer.Option(
            metavar="0..1",
            help="How much is written anew: 0 leaves all as it is, 1 is free. --amount 0.3",
            rich_help_panel=CELLS,
        ),
    ] = 0.5,
    wishes: Wishes,
    as_json: typed.Json = False,
    quiet: typed.Quiet = False,
    repair: typed.Repair = False,
) -> None:
    """Write variations of what stands in the selected cells.

    Some notes stay, others are new.

    Example: anser vary song.mid --track bass --bars 9-12 --amount 0.3 --takes 4 -o out.mid
    """
    opened, selection = _chosen(song, output, cells, track, bars, repair=repair)
    write(opened, selection, wishes, output, as_json=as_json, quiet=quiet, amount=amount)


@app.command(name="continue")
@typed.takes_wishes
def continue_command(  # noqa: PLR0913  # its parameters are the command's options
    song: typed.SongFile,
    output: typed.Output,
    *,
    bars: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="How many bars to add: --bars 8.",
            show_default=False,
            rich_help_panel=CELLS,
        ),
    ],
    tracks: Annotated[
        list[str] | None,
        typer.Option(
            "--tracks",
            "--track",
            metavar="T",
            help="Who goes on, by default all that play near the end: --tracks bass --tracks 2.",
            rich_help_panel=CELLS,
        ),
    ] = None,
    wishes: Wishes,
    as_json: typed.Json = False,
    quiet: typed.Quiet = False,
    repair: typed.Repair = False,
) -> None:
    """Add bars behind the end of a song.

    Example: anser continue song.mid --bars 8 -o longer.mid
    """
    from anser.ask import check_output, closing_tracks, lengthened
    from anser.selection import Selection, find_track
    from anser.song import Song

    check_output(output)
    opened = Song.read(song, repair=repair)
    named = [find_track(name, opened) for name in tracks or ()]
    longer = lengthened(opened, bars)
    new_bars = range(opened.n_bars, longer.n_bars)
    selection = Selection.of(named or closing_tracks(opened), new_bars)
    write(longer, selection, wishes, output, as_json=as_json, quiet=quiet)


@app.command(name="apply")
def apply_command(
    take: Annotated[
        Path,
        typer.Argument(metavar="TAKE", help="A file that --save-takes wrote.", show_default=False),
    ],
    song: typed.SongFile,
    output: typed.Output,
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="Also if the song has changed, bar lines and tracks apart."),
    ] = False,
    quiet: typed.Quiet = False,
    repair: typed.Repair = False,
) -> None:
    """Put a kept take into its song again.

    It gives the same bytes, and needs no model.

    Example: anser apply out.1.take.json song.mid -o out.mid
    """
    from anser.ask import check_output
    from anser.song import Song
    from anser.take_file import TakeFile

    check_output(output)
    kept = TakeFile.load(take)
    kept.replay(Song.read(song, repair=repair), anyway=anyway).write(output)
    if not quiet:
        typer.echo(
            f"{output}: take {kept.take} of seed {kept.seed} by {kept.maker.model}, "
            f"{sum(len(cell.notes) for cell in kept.cells)} notes in {len(kept.cells)} cells"
        )


@app.command()
def verify(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The file to check.")],
    against: Annotated[
        Path, typer.Option(metavar="SONG", help="What it was made from.", show_default=False)
    ],
    cells: Annotated[
        str,
        typer.Option(
            metavar="CELLS",
            help='What was to change: --cells "bass:9-12, drums:9-16".',
            show_default=False,
        ),
    ],
) -> None:
    """Prove that nothing outside the cells changed.

    Exits with 0, or with 2 and a list of what did.

    Example: anser verify out.mid --against song.mid --cells "bass:9-12"
    """
    from anser.selection import Selection
    from anser.song import Song
    from anser.verify import differences

    before, after = Song.read(against), Song.read(output)
    longer = before.extended(max(after.n_bars - before.n_bars, 0))
    selection = Selection.parse(cells, longer)
    found = differences(longer, after, selection)
    if found:
        for difference in found:
            typer.echo(str(difference))
        raise typer.Exit(WRONG_REQUEST)
    typer.echo(f"{output}: outside {selection.spelled()}, nothing differs from {against}.")


@app.command()
def bench(
    long: Annotated[
        bool, typer.Option("--long", help="Also read 32768 ids, and go to position 1,000,000.")
    ] = False,
    model: typed.ModelOption = None,
    threads: typed.Threads = None,
    as_json: typed.Json = False,
) -> None:
    """Measure the model's speed and memory on this machine.

    Decoding, reading, loading, and answers for four bars of a song of 64; takes half a minute.
    """
    from anser.bench import measure, table

    report = measure(model, threads, long=long, tell=lambda what: typer.echo(what, err=True))
    print_json(report) if as_json else typer.echo(table(report))


def main() -> None:
    """Run the command line and exit: 0 done, 1 a bug of ours, 2 wrong request or file, 3 rules."""
    try:
        app()
    except Exception as error:  # the one door: whatever it is, it is said in one line
        if "--debug" in sys.argv[1:]:
            raise
        from anser.errors import AnserError, RuleError

        if isinstance(error, AnserError):
            typer.echo(f"anser: {error}", err=True)
            sys.exit(NO_MUSIC if isinstance(error, RuleError) else WRONG_REQUEST)
        typer.echo(
            f"anser: {type(error).__name__}: {error}. This is a bug of ours; "
            "`anser --debug` before the command shows where. Please report it.",
            err=True,
        )
        sys.exit(BUG)
