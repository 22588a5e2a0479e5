"""What the commands' options are called, and what their help says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

CELLS, SOUND, ASKED, RUN = "Which cells", "How it may sound", "What is asked of them", "Run"
RULES = "Rules, never broken; each VALUE for all tracks, or TRACK=VALUE for one"

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
Scale = Annotated[
    list[str] | None,
    typer.Option(
        metavar="D dorian",
        help='Only notes of this scale (drums are free): --scale "D dorian", --scale "C Eb F G".',
        rich_help_panel=RULES,
    ),
]
Range = Annotated[
    list[str] | None,
    typer.Option(
        "--range",
        metavar="C2-C4",
        help="Lowest and highest pitch, middle C is C4: --range C2-C4, --range bass=E1-G3.",
        rich_help_panel=RULES,
    ),
]
MaxPolyphony = Annotated[
    list[str] | None,
    typer.Option(
        metavar="N",
        help="Notes of the track at once, at most; 1 is one voice: --max-polyphony 1.",
        rich_help_panel=RULES,
    ),
]
OnsetGrid = Annotated[
    list[str] | None,
    typer.Option(
        "--grid",
        metavar="1/N",
        help="Where notes may begin: --grid 1/16, or 1/8t for triplets.",
        rich_help_panel=RULES,
    ),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        metavar="rhythm|pitch",
        help="Keep the rhythm that stands there, with new pitches, or the reverse: --keep rhythm.",
        rich_help_panel=RULES,
    ),
]
Notes = Annotated[
    list[str] | None,
    typer.Option(
        metavar="N|A-B",
        help="Notes in each bar, exactly or from A to B: --notes 4, --notes bass=2-6.",
        rich_help_panel=RULES,
    ),
]
NoRepeat = Annotated[
    list[str] | None,
    typer.Option(
        metavar="N",
        help="No N notes in a row as in the track's other bars: --no-repeat 4.",
        rich_help_panel=RULES,
    ),
]
LockNotes = Annotated[
    list[str] | None,
    typer.Option(
        "--lock",
        metavar="WHAT",
        help="Notes that stay, by pitch or beat: --lock C2, --lock drums=36+38, "
        '--lock "bass=9:beat 1".',
        rich_help_panel=RULES,
    ),
]
Beats = Annotated[
    list[str] | None,
    typer.Option(
        metavar="A-B",
        help="Write in these beats of each bar only: --beats 3-4.",
        rich_help_panel=RULES,
    ),
]
WithinBar = Annotated[
    bool,
    typer.Option("--within-bar", help="No note sounds across a bar line.", rich_help_panel=RULES),
]
Unlike = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        help="An earlier take that --no-repeat heeds too: --unlike out.mid.",
        rich_help_panel=RULES,
    ),
]
