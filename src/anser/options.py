"""The declarations of wishes → options of the commands; and the options that stand alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

import typer

from anser.wishes import CELLS, RUN, Wishes

SongFile = Annotated[Path, typer.Argument(metavar="SONG", help="A MIDI file.", show_default=False)]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Where the answer goes; several takes go to FILE.1.mid, FILE.2.mid …, best first.",
        show_default=False,
    ),
]
ChosenTracks = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="T",
        help="A track, by number or name, with --bars; may be repeated: --track bass.",
        rich_help_panel=CELLS,
    ),
]
ChosenBars = Annotated[
    str | None,
    typer.Option(
        "--bars",
        metavar="A-B",
        help="The bars of these tracks, by default all: --bars 9-12, --bars 1-2+5.",
        rich_help_panel=CELLS,
    ),
]
ChosenCells = Annotated[
    str | None,
    typer.Option(
        "--cells",
        metavar="CELLS",
        help='Any pattern of cells: --cells "bass:9-12, drums:9-16".',
        rich_help_panel=CELLS,
    ),
]
Repair = Annotated[
    bool,
    typer.Option("--repair", help="Salvage what can be of a damaged file, and say what changed."),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print a report as JSON on stdout.", rich_help_panel=RUN)
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Print nothing but errors.", rich_help_panel=RUN),
]

_HINTS: Final = get_type_hints(Wishes, include_extras=True)


def _shown(name: str) -> Any:  # noqa: ANN401  # what typer.Option returns
    """Return the option that a wish is declared to be."""
    option = get_args(_HINTS[name])[1]
    return typer.Option(
        *(option.flags or (f"--{name.replace('_', '-')}",)),
        metavar=option.metavar,
        help=option.help,
        rich_help_panel=option.panel,
    )


# wishes that other commands have too
Seed = Annotated[int, _shown("seed")]
ModelOption = Annotated[str | None, _shown("model")]
Threads = Annotated[int | None, _shown("threads")]


def takes_wishes(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each wish, in place of its parameter `wishes`."""
    own = inspect.signature(command, eval_str=True).parameters
    declared = [f.name for f in fields(Wishes)]
    options: list[inspect.Parameter] = []
    for name, parameter in own.items():
        options += [_parameter(w) for w in declared] if name == "wishes" else [parameter]
    options = [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options]

    @wraps(command)
    def called(**typed: Any) -> None:  # noqa: ANN401  # of each option its own type
        given = {name: typed.pop(name) for name in declared}
        lists = {name: tuple(value or ()) for name, value in given.items() if _is_list(name)}
        command(wishes=Wishes(**given | lists), **typed)

    called.__annotations__ = {option.name: option.annotation for option in options}
    called.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]  # typer reads it
    return called


def _parameter(name: str) -> inspect.Parameter:
    kind = get_args(_HINTS[name])[0]
    default = None if _is_list(name) else getattr(Wishes, name)
    hint = list[get_args(kind)[0]] | None if _is_list(name) else kind  # type: ignore[misc]  # built at run time
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[hint, _shown(name)],
    )


def _is_list(name: str) -> bool:
    return get_origin(get_args(_HINTS[name])[0]) is tuple
