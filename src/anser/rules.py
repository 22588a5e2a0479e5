"""What a musician writes ("D dorian", "C2-C4", "1/16") → rules that bind a cell's new notes.

Says what a rule is, not how it is kept: that is the grammar's. Rules bind the notes that are
written; what stays is exempt, but sounds and counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any, Final, Literal

from anser import vocab
from anser.errors import ControlError

MOST_NOTES: Final = 192  # in one written cell

_STEPS: Final = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_PITCH: Final = re.compile(r"([A-Ga-g])([#♯b♭]*)(-?\d)|(\d{1,3})")
_CLASS: Final = re.compile(r"([A-Ga-g])([#♯b♭]*)")
_MODES: Final = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "ionian": (0, 2, 4, 5, 7, 9, 11),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
    "lydian": (0, 2, 4, 6, 7, 9, 11),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "aeolian": (0, 2, 3, 5, 7, 8, 10),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "locrian": (0, 1, 3, 5, 6, 8, 10),
    "harmonic minor": (0, 2, 3, 5, 7, 8, 11),
    "melodic minor": (0, 2, 3, 5, 7, 9, 11),
    "pentatonic": (0, 2, 4, 7, 9),
    "major pentatonic": (0, 2, 4, 7, 9),
    "minor pentatonic": (0, 3, 5, 7, 10),
    "blues": (0, 3, 5, 6, 7, 10),
    "whole tone": (0, 2, 4, 6, 8, 10),
    "octatonic": (0, 2, 3, 5, 6, 8, 9, 11),
    "chromatic": tuple(range(12)),
}


@dataclass(frozen=True)
class Lock:
    """Notes of the cell that stay: those of these pitches (inclusive) in these beats (half-open).

    None means any; beats count from 0, in units of the meter's denominator.
    """

    pitches: tuple[int, int] | None = None
    beats: tuple[int, int] | None = None

    def holds(self, pitch: int, beat: int) -> bool:
        """Say whether a note that begins in this beat stays."""
        low, high = self.pitches or (0, 127)
        return low <= pitch <= high and (
            self.beats is None or self.beats[0] <= beat < self.beats[1]
        )


@dataclass(frozen=True)
class Rules:
    """What the new notes of one cell must keep to; None (or nothing) where there is no rule.

    Every value out of range raises `ControlError`. Whether rules contradict each other depends on
    the song too, and is found before anything is written.
    """

    scale: frozenset[int] | None = None  # pitch classes, C = 0; does not bind drums
    pitches: tuple[int, int] | None = None  # lowest and highest, in place of the instrument's
    # of the track's notes, where a new one sounds; up to a selected bar with another limit
    max_polyphony: int | None = None
    grid: int | None = None  # onsets are multiples of this from the bar line, 24 a quarter
    keep: Literal["rhythm", "pitch"] | None = None  # of what stood in the cell
    notes: tuple[int, int] | None = None  # least and most that begin in the cell, with what stays
    within_bar: bool = False  # no new note sounds across the bar line
    no_repeat: int | None = None  # so many notes in a row are none of the track's other bars'
    locks: tuple[Lock, ...] = ()
    beats: tuple[int, int] | None = None  # new notes begin in these, half-open; the others stay

    def __post_init__(self) -> None:
        if self.scale is not None and not (self.scale and self.scale <= set(range(12))):
            raise ControlError("scale: expected pitch classes 0..11, found none or others.")
        _check_span("range", self.pitches, 0, 127)
        _check_span("notes", self.notes, 0, MOST_NOTES)
        for beats in (self.beats, *(lock.beats for lock in self.locks)):
            if beats is not None and not 0 <= beats[0] < beats[1]:
                raise ControlError(f"beats: expected rising beats, found {beats[0]}..{beats[1]}.")
        for lock in self.locks:
            _check_span("lock", lock.pitches, 0, 127)
        for name, least in (("max_polyphony", 1), ("grid", 1), ("no_repeat", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ControlError(f"{name}: expected {least} or more, found {value}.")
        if self.keep not in (None, "rhythm", "pitch"):
            raise ControlError(f"keep: expected rhythm or pitch, found {self.keep}.")

    @property
    def named(self) -> dict[str, str]:
        """Return the rules that are set, by field, as messages and reports say them."""
        said: dict[str, Callable[[Any], str]] = {
            "scale": lambda v: "scale " + " ".join(CLASS_NAMES[c] for c in sorted(v)),
            "pitches": lambda v: f"range {pitch_name(v[0])}-{pitch_name(v[1])}",
            "max_polyphony": lambda v: f"max-polyphony {v}",
            "grid": lambda v: f"grid {Fraction(v, 4 * vocab.GRID)}",
            "keep": lambda v: f"keep {v}",
            "notes": lambda v: f"notes {v[0]}" if v[0] == v[1] else f"notes {v[0]}-{v[1]}",
            "within_bar": lambda _: "within-bar",
            "no_repeat": lambda v: f"no-repeat {v}",
            "locks": lambda _: "lock",
            "beats": lambda v: f"beats {v[0] + 1}-{v[1]}",
        }
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        unset = {f.name: f.default for f in fields(self)}
        return {name: said[name](v) for name, v in values.items() if v != unset[name]}

    @classmethod
    def parse(cls, **words: str) -> Rules:
        """Read rules as they are typed in a terminal; raises ControlError.

        `Rules.parse(scale="D dorian", range="C2-C4", grid="1/16", notes="2-6")`; the names are
        NAMES.
        """
        rules = cls()
        for name, text in words.items():
            rules = rules.including(name, text)
        return rules

    def including(self, name: str, text: str) -> Rules:
        """Return these rules and another one, as typed; raises ControlError."""
        if name not in _READERS:
            raise ControlError(f"rules: expected one of {', '.join(NAMES)}, found {name}.")
        field, read = _READERS[name]
        return replace(self, **{field: read(text)})

    def only(self, names: tuple[str, ...]) -> Rules:
        """Return these rules with those fields alone."""
        dropped: dict[str, Any] = {f.name: f.default for f in fields(self) if f.name not in names}
        return replace(self, **dropped)

    def stays(self, pitch: int, beat: int) -> bool:
        """Say whether a note of the cell stays: it is locked, or begins outside `beats`."""
        outside = self.beats is not None and not self.beats[0] <= beat < self.beats[1]
        return outside or any(lock.holds(pitch, beat) for lock in self.locks)


CLASS_NAMES: Final = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")


def pitch_name(pitch: int) -> str:
    """Return a pitch as musicians write it; middle C is C4 = 60."""
    return f"{CLASS_NAMES[pitch % 12]}{pitch // 12 - 1}"


def parse_scale(text: str) -> frozenset[int]:
    """Read "D dorian", "A minor pentatonic" or a list of notes such as "C Eb G"; ControlError."""
    words = text.replace(",", " ").split()
    classes = [pitch_class(word) for word in words]
    if words and None not in classes:
        if len(words) == 1:
            raise ControlError(f'scale "{text}": expected a mode too. Write "{text} major".')
        return frozenset(c for c in classes if c is not None)
    mode = _MODES.get(" ".join(words[1:]).casefold())
    if not words or classes[0] is None or mode is None:
        known = ", ".join(_MODES)
        raise ControlError(
            f'scale "{text}": expected a note and one of {known}, or a list of notes. '
            'Write "D dorian" or "C Eb F G Bb".'
        )
    return frozenset((classes[0] + step) % 12 for step in mode)


def parse_pitches(text: str) -> tuple[int, int]:
    """Read "C2-C4", "36-60" or one pitch into the lowest and highest; raises ControlError."""
    found = list(_PITCH.finditer(text))
    low_high = [_pitch(match) for match in found]
    rest = _PITCH.sub("", text).strip()
    if rest != "-" * (len(found) - 1) or len(found) not in (1, 2) or low_high[0] > low_high[-1]:
        raise ControlError(f'pitches "{text}": expected one like C2 or 36, or a range like C2-C4.')
    if low_high[0] < 0 or low_high[-1] > 127:
        raise ControlError(f'pitches "{text}": expected MIDI pitches 0..127, C-1 to G9.')
    return low_high[0], low_high[-1]


def parse_grid(text: str) -> int:
    """Read "1/16", or "1/8t" for triplets, into positions at 24 a quarter; raises ControlError."""
    whole = 4 * vocab.GRID
    match = re.fullmatch(r"\s*1/(\d{1,2})(t?)\s*", text)
    parts = int(match[1]) * (3 if match[2] else 2) if match else 0
    if not match or not parts or 2 * whole % parts:
        raise ControlError(
            f'grid "{text}": expected 1/1, 1/2, 1/4, 1/8, 1/16 or 1/32, with a t for triplets.'
        )
    return 2 * whole // parts


def parse_span(rule: str, text: str) -> tuple[int, int]:
    """Read "N" or "A-B" into the least and most; raises ControlError."""
    match = re.fullmatch(r"\s*(\d{1,4})\s*(?:[-–]\s*(\d{1,4})\s*)?", text)
    if not match or int(match[1]) > int(match[2] or match[1]):
        raise ControlError(f'{rule} "{text}": expected a number like 4, or two like 2-6.')
    return int(match[1]), int(match[2] or match[1])


def parse_beats(text: str) -> tuple[int, int]:
    """Read "3" or "3-4", counted from 1, into half-open beats from 0; raises ControlError."""
    first, last = parse_span("beats", text)
    if first < 1:
        raise ControlError(f'beats "{text}": expected beats from 1.')
    return first - 1, last


def parse_locks(text: str) -> tuple[Lock, ...]:
    """Read "C2", "C2+D2", "C2-E2" or "beat 1", "beats 1-2+4"; raises ControlError."""
    if match := re.fullmatch(r"\s*beats?\s+(.*)", text):
        return tuple(Lock(beats=parse_beats(part)) for part in match[1].split("+"))
    return tuple(Lock(pitches=parse_pitches(part)) for part in text.split("+"))


def pairs(rules: Rules) -> Iterator[tuple[str, ...]]:
    """Yield the fields that are set, each alone, then two by two, first what is kept."""
    names = sorted(rules.named, key=lambda name: name != "keep")
    yield from ((name,) for name in names)
    for i, name in enumerate(names):
        yield from ((name, other) for other in names[i + 1 :])


def pitch_class(word: str) -> int | None:
    """Return the pitch class, C = 0, of a note's name without an octave; None if it is none."""
    match = _CLASS.fullmatch(word)
    return (_STEPS[match[1].upper()] + _shift(match[2])) % 12 if match else None


def _pitch(match: re.Match[str]) -> int:
    if match[4]:
        return int(match[4])
    return 12 * (int(match[3]) + 1) + _STEPS[match[1].upper()] + _shift(match[2])


def _shift(accidentals: str) -> int:
    return sum(1 if sign in "#♯" else -1 for sign in accidentals)


def _check_span(name: str, span: tuple[int, int] | None, least: int, most: int) -> None:
    if span is not None and not least <= span[0] <= span[1] <= most:
        raise ControlError(
            f"{name}: expected {least}..{most} in rising order, found {span[0]}..{span[1]}."
        )


def _parse_number(rule: str, text: str) -> int:
    low, high = parse_span(rule, text)
    if low != high:
        raise ControlError(f'{rule} "{text}": expected one number.')
    return low


NO_RULES: Final = Rules()

# what a rule is called in a terminal: the field of Rules, and what reads its value
_READERS: Final[dict[str, tuple[str, Callable[[str], Any]]]] = {
    "scale": ("scale", parse_scale),
    "range": ("pitches", parse_pitches),
    "max_polyphony": ("max_polyphony", lambda text: _parse_number("max-polyphony", text)),
    "grid": ("grid", parse_grid),
    "keep": ("keep", lambda text: text.strip()),
    "notes": ("notes", lambda text: parse_span("notes", text)),
    "no_repeat": ("no_repeat", lambda text: _parse_number("no-repeat", text)),
    "beats": ("beats", parse_beats),
}
NAMES: Final = tuple(_READERS)
