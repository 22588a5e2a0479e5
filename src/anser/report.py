"""Finished song + what was asked of each cell → what came out, control by control, rule by rule.

Controls are measured by the one function that defines them, in the song as it will be written;
rules are checked by `rules_check`, which shares nothing with what kept them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from anser import codec
from anser.chords import recognize
from anser.codec import Encoded
from anser.control_words import said
from anser.controls import NO_CONTROLS, Controls, likeness, likeness_token, measure_cell
from anser.prompt import Cell
from anser.rules import NO_RULES, Rules
from anser.rules_check import Violation, violations
from anser.selection import Selection
from anser.song import Song

# asked, but no property of what came out: the bar to be like, and what the notes are written for
UNMEASURED: Final = ("reference", "program")


@dataclass(frozen=True)
class CellReport:
    """What was asked of a cell, and what came out."""

    track: int
    bar: int
    asked: Controls
    n_notes: int
    log_likelihood: float  # of the cell's ids among the allowed ones, nats
    rules: Rules = NO_RULES
    realised: Controls = NO_CONTROLS  # of the controls asked; None where a silent cell has none
    broken: tuple[Violation, ...] = ()  # of the rules; none, unless there is a bug

    @property
    def facts(self) -> dict[str, Any]:
        """Return the report ready for JSON; tracks and bars from 1."""
        asked = self.asked.asked()
        return {
            "track": self.track + 1,
            "bar": self.bar + 1,
            "notes": self.n_notes,
            "asked": {name: said(name, getattr(self.asked, name)) for name in asked},
            "realised": {
                name: said(name, getattr(self.realised, name))
                for name in asked
                if name not in UNMEASURED
            },
            "rules": list(self.rules.named.values()),
            "broken": [str(violation) for violation in self.broken],
        }


def measured(before: Encoded, after: Encoded, cell: Cell, asked: Controls) -> Controls:
    """Return what a cell of the finished song is like, of the controls that were asked."""
    track, bar = cell
    realised = measure_cell(after, cell).only(asked.asked())
    if asked.chords is not None:
        realised = replace(realised, chords=recognize(after, range(bar, bar + 1))[0])
    if asked.reference is not None:
        pair = codec.decode(after.cell(*cell)), codec.decode(before.cell(track, asked.reference))
        realised = replace(realised, likeness=likeness(*pair), reference=asked.reference)
    return realised


def is_met(name: str, asked: Controls, realised: Controls) -> bool:
    """Say whether a control came out as asked: the model would be told the same of both."""
    if name == "likeness" and asked.likeness is not None and realised.likeness is not None:
        return likeness_token(asked.likeness) == likeness_token(realised.likeness)
    if name in UNMEASURED:
        return True
    return asked.only((name,)).spell() == realised.only((name,)).spell()


def checked(
    before: tuple[Song, Encoded],
    after: Song,
    selection: Selection,
    cells: Sequence[CellReport],
    earlier: Sequence[Song],
) -> tuple[CellReport, ...]:
    """Complete the reports of a take by what is found in its song.

    `earlier` are the takes whose repetition was forbidden too.
    """
    song, encoded = before
    if any(cell.asked != NO_CONTROLS for cell in cells):
        written = codec.encode(after)
        cells = [
            replace(c, realised=measured(encoded, written, (c.track, c.bar), c.asked))
            if c.asked != NO_CONTROLS
            else c
            for c in cells
        ]
    rules: Mapping[Cell, Rules] = {(c.track, c.bar): c.rules for c in cells if c.rules != NO_RULES}
    broken = violations(song, after, selection, rules, earlier) if rules else []
    return tuple(
        replace(c, broken=tuple(v for v in broken if (v.track, v.bar) == (c.track, c.bar)))
        for c in cells
    )


def lines(song: Song, cells: Sequence[CellReport]) -> list[str]:
    """Return what was asked and what came out as a musician reads it, a line for each wish."""
    wishes: dict[tuple[int, str, str], dict[int, object]] = {}  # what came out, bar by bar
    for cell in sorted(cells, key=lambda cell: (cell.track, cell.bar)):
        facts = cell.facts
        for name, value in facts["asked"].items():
            if name in facts["realised"]:
                wish = wishes.setdefault((cell.track, name, str(value)), {})
                wish[cell.bar] = facts["realised"][name]
    found = []
    for (track, name, asked), out in wishes.items():
        where = f"{song.tracks[track].name}:{Selection.of([0], out).spelled()[2:]}"
        came = "  ".join("–" if value is None else str(value) for value in out.values())
        found.append(f"  {where}  asked {name.replace('_', ' ')} {asked}, came out {came}")
    ruled = [cell for cell in cells if cell.rules != NO_RULES]
    if ruled:
        broken = [str(violation) for cell in ruled for violation in cell.broken]
        where = "1 cell" if len(ruled) == 1 else f"{len(ruled)} cells"
        kept = f"rules checked in {where}, all kept"
        found.append(f"  {'; '.join(broken) if broken else kept}")
    return found
