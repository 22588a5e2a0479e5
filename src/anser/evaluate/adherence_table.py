"""Outcomes of controls → the tables of docs/control.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from anser.errors import AnserError

BEGIN: Final = "<!-- written by anser.evaluate.adherence -->"
END: Final = "<!-- end -->"
Row = dict[str, Any]  # an Outcome, as JSON keeps it


def tables(rows: Sequence[Row]) -> str:
    """Return three tables as Markdown: alone, as the peer asks, in subsets; then by bar."""
    parts = []
    for group, title in (
        ("alone", "One control alone"),
        ("peer", "Density, polyphony and durations of every bar, as MIDI-RWKV is given them"),
        ("subset", "Random subsets of all controls"),
    ):
        chosen = [row for row in rows if row["group"] == group]
        if chosen:
            parts.append(f"{title}:\n\n{_table(chosen, _by_control(chosen))}")
    bars = [row for row in rows if row["control"] in _BY_BAR]
    if bars:
        names = {f"{c}, bar {b + 1}": _is(c, b) for c in _BY_BAR for b in range(4)}
        parts.append(f"By position in the selection, all requests:\n\n{_table(bars, names)}")
    return "\n\n".join(parts) + "\n"


def write_into(page: Path, text: str) -> None:
    """Put the tables between their marks on a page; raises AnserError if it has none."""
    whole = page.read_text(encoding="utf-8")
    before, begin, rest = whole.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise AnserError(f"{page}: expected the marks {BEGIN} and {END}, found none.")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")


_SAID: Final = {"fewest": "polyphony, fewest", "most": "polyphony, most"}
_BY_BAR: Final = ("density", "polyphony")


def _is(control: str, bar: int) -> Callable[[Row], bool]:
    return lambda row: row["control"] == control and row["bar"] == bar


def _by_control(rows: Sequence[Row]) -> dict[str, Callable[[Row], bool]]:
    found: dict[str, Callable[[Row], bool]] = {}
    for control in dict.fromkeys(row["control"] for row in rows):
        name = _SAID.get(control, control.replace("_", " "))
        found[name] = lambda row, control=control: row["control"] == control  # type: ignore[misc]  # mypy infers no lambda with a default
        if control == "density":
            found["density, up to 12"] = lambda row: (
                row["control"] == "density" and row["asked"] <= 12
            )
    return found


def _table(rows: Sequence[Row], kinds: dict[str, Callable[[Row], bool]]) -> str:
    conditions = list(dict.fromkeys(c for row in rows for c in row["error"]))
    lines = [
        f"| | cells | {' | '.join(conditions)} |",
        f"|---|---|{'---|' * len(conditions)}",
    ]
    for name, belongs in kinds.items():
        chosen = [row for row in rows if belongs(row)]
        if chosen:
            cells = [_figures([row for row in chosen if c in row["error"]], c) for c in conditions]
            lines.append(f"| {name} | {len(chosen)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _figures(rows: Sequence[Row], condition: str) -> str:
    """Return mean error, correlation (of numbers) and share as asked."""
    errors = [row["error"][condition] for row in rows if row["error"][condition] is not None]
    if not errors:
        return "–"
    met = np.mean([row["met"][condition] for row in rows])
    said = f"{np.mean(errors):.2f}"
    pairs = [
        (row["asked"], row["realised"][condition])
        for row in rows
        if row["asked"] is not None and row["realised"][condition] is not None
    ]
    if len(pairs) > 2:
        asked, found = np.array(pairs).T
        if asked.std() and found.std():
            said += f", r {np.corrcoef(asked, found)[0, 1]:.2f}"
    return f"{said}, {100 * met:.0f} %"
