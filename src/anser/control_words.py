"""A control as a musician types it → its value, and back to words for reports.

Knows one value at a time; which cells it is for is `bind`'s part. What needs the song to be read
(chords, the bar to be like) is read there too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from anser.chords import Chords
from anser.controls import GRIDS, LENGTHS
from anser.errors import ControlError
from anser.rules import CLASS_NAMES, parse_pitches, parse_scale, parse_span, pitch_class, pitch_name

# What players read, by the middle of the velocities that notation programs give them.
DYNAMICS: Final = {
    **{"ppp": 16, "pp": 33, "p": 49, "mp": 64},
    **{"mf": 80, "f": 96, "ff": 112, "fff": 126},
}
DEFAULT_LIKENESS: Final = 0.8  # of "like bar 5", without a share
_LIKE: Final = re.compile(r"\s*(same|\d{1,6})\s*(?:@(.*))?")


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ControlError(
            f"{name} {text}: expected a number, found {text!r}. "
            f"Write --{name} 6 for all tracks, or --{name} bass=6 for one."
        )
    return number


def _whole(name: str, text: str) -> int:
    number = _number(name, text)
    if number % 1:
        raise ControlError(f"{name} {text}: expected a whole number, found {text!r}.")
    return int(number)


def _share(name: str, text: str) -> float:
    percent = text.strip().endswith("%")
    number = _number(name, text.strip().removesuffix("%")) / (100 if percent else 1)
    if not 0 <= number <= 1:
        raise ControlError(f"{name} {text}: expected a share from 0 to 1, or 0% to 100%.")
    return number


def _polyphony(text: str) -> dict[str, Any]:
    fewest, most = parse_span("polyphony", text)
    return {"fewest": fewest, "most": most}


def _lengths(text: str) -> dict[str, Any]:
    names = frozenset(text.replace(",", " ").replace("+", " ").split())
    if not names or not names <= set(LENGTHS):
        known = ", ".join(LENGTHS)
        raise ControlError(f'lengths "{text}": expected some of {known}. Write 1/8,1/4.')
    return {"lengths": names}


def _register(text: str) -> dict[str, Any]:
    low, high = parse_pitches(text)
    if low != high:
        raise ControlError(f'register "{text}": expected one pitch like C4. A range is a rule.')
    return {"register": float(low)}


def _pitch_classes(text: str) -> dict[str, Any]:
    found = [pitch_class(word) for word in text.replace(",", " ").split()]
    named = [c for c in found if c is not None]
    classes = frozenset(named) if named and len(named) == len(found) else parse_scale(text)
    return {"pitch_classes": classes}


def _loudness(text: str) -> dict[str, Any]:
    known = DYNAMICS.get(text.strip())
    return {"loudness": _number("loudness", text) if known is None else float(known)}


def _subdivision(text: str) -> dict[str, Any]:
    if text.strip() not in GRIDS:
        raise ControlError(f'subdivision "{text}": expected one of {", ".join(GRIDS)}.')
    return {"subdivision": text.strip()}


def _program(text: str) -> dict[str, Any]:
    number = _whole("program", text)
    if not 0 <= number <= 127:
        raise ControlError(f"program: expected 0..127, found {number}.")
    return {"program": number}


def parse_like(text: str) -> tuple[int | None, float]:
    """Read "5", "5@0.7" or "same@0.7" into a bar from 0 (None: the cell's own) and a likeness."""
    match = _LIKE.fullmatch(text)
    if match is None or match[1].strip("0") == "":
        raise ControlError(
            f'like "{text}": expected a bar, or same, and how like: 5, 5@0.7, same@0.5.'
        )
    bar = None if match[1] == "same" else int(match[1]) - 1
    return bar, DEFAULT_LIKENESS if match[2] is None else _share("like", match[2])


# What a control is called in a terminal, and what reads its value into fields of Controls.
READERS: Final[Mapping[str, Callable[[str], dict[str, Any]]]] = {
    "density": lambda text: {"density": _number("density", text)},
    "polyphony": _polyphony,
    "lengths": _lengths,
    "register": _register,
    "span": lambda text: {"span": _whole("span", text)},
    "pitch_classes": _pitch_classes,
    "silence": lambda text: {"silence": _share("silence", text)},
    "loudness": _loudness,
    "subdivision": _subdivision,
    "syncopation": lambda text: {"syncopation": _share("syncopation", text)},
    "program": _program,
}


def said(name: str, value: Any) -> str | float | int | None:  # noqa: ANN401  # a field of Controls
    """Return the value of a field of Controls as reports say it, ready for JSON."""
    if value is None:
        return None
    if name == "chords":
        chords: Chords = value
        return " ".join(chord for _, chord in chords)
    if name == "pitch_classes":
        return " ".join(CLASS_NAMES[c] for c in sorted(value))
    if name == "lengths":
        return ",".join(n for n in LENGTHS if n in value)
    if name == "reference":
        return int(value) + 1
    if name == "register":
        return f"{pitch_name(round(value))}"
    return round(value, 3) if isinstance(value, float) else value
