"""What the commands' options are called, and what their help says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

CELLS, SOUND, ASKED, RUN = "Which cells", "How it may sound", "What is asked of them", "Run"

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
Repair = Annotated[
    bool,
    typer.Option("--repair", help="Salvage what can be of a damaged file, and say what changed."),
]
Takes = Annotated[
    int, typer.Option(metavar="N", help="How many answers, 1 to 64.", rich_help_panel=RUN)
]
Seed = Annotated[
    int,
    typer.Option(
        metavar="K", help="Equal seeds give equal answers; try another.", rich_help_panel=RUN
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Below 1 safer, above 1 wilder; 0 is always the likeliest. Say 0.9.",
        rich_help_panel=SOUND,
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Choose among the likeliest that hold this share of chance. Say 0.95.",
        rich_help_panel=SOUND,
    ),
]
MinP = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Leave out what is less likely than this share of the likeliest. Say 0.05.",
        rich_help_panel=SOUND,
    ),
]
Density = Annotated[
    list[str] | None,
    typer.Option(
        metavar="VALUE|TRACK=VALUE",
        help="Notes a bar, for all selected tracks or for one: --density 8 --density bass=4.",
        rich_help_panel=ASKED,
    ),
]
Program = Annotated[
    list[str] | None,
    typer.Option(
        metavar="VALUE|TRACK=VALUE",
        help="Write as for this General MIDI instrument, 0 to 127 (0 = piano): --program 2=33. "
        "The track keeps its sound.",
        rich_help_panel=ASKED,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME|FILE",
        help="A packaged model or a checkpoint, by default the packaged one.",
        rich_help_panel=RUN,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="CPU threads, by default the physical cores up to 4.",
        rich_help_panel=RUN,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print a report as JSON on stdout.", rich_help_panel=RUN)
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Print nothing but errors.", rich_help_panel=RUN),
]
