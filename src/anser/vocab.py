"""The table of tokens: name ↔ id.

Knows the spelling of single tokens, nothing of songs or prompts. The table `FAMILIES` is the one
truth; every id, name and slice below is derived from it. A model is trained for one table only.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

GRID: Final = 24  # positions per quarter: holds 32nds (3) and 32nd triplets (2) exactly
PAGE: Final = 144  # positions per page; bars longer than six quarters turn pages
LONG: Final = 96  # what one `long` token adds to a duration, in grid units
N_TRACKS: Final = 16  # tracks that one prompt can name
DRUMS: Final = 128  # the "program" of a drum track

VELOCITY_STEP: Final = 4
# Notes in a cell, upper edges of the bins: exact up to 16, then coarser.
DENSITY_EDGES: Final = (*range(17), 18, 20, 24, 28, 32, 40, 48, 64, 1 << 30)
# Quarters per minute, upper edges of the bins: about 8 % apart.
TEMPO_EDGES: Final = (*(round(32 * 1.08**i) for i in range(31)), 1 << 30)
JUMPS: Final = 32  # bars left out of a prompt, counted up to this

# family, how many; a token's name tells its value (see _value), its id is first[family] + i
FAMILIES: Final = (
    ("pad", 1),  # id 0; fills batches, never seen by a trained model
    ("song", 1),  # begins every prompt
    ("after", 1),  # begins the bars after the selection
    ("before", 1),  # begins the bars before the selection
    ("fill", 1),  # begins the bars from the first to the last selected one
    ("bar", 1),  # begins a bar
    ("answer", 1),  # begins a cell to be written; its track, program and controls follow
    ("end", 1),  # ends a written cell
    ("page", 1),  # adds PAGE to the positions that follow in this cell
    ("long", 1),  # adds LONG to the duration that follows
    ("jump", JUMPS),  # i + 1 bars are left out here
    ("numerator", 32),  # of the meter, from 1
    ("denominator", 7),  # of the meter, 2 ** i
    ("tempo", len(TEMPO_EDGES)),
    ("track", N_TRACKS),
    ("program", 129),  # General MIDI 0..127; 128 = drums
    ("position", PAGE),  # of an onset in its bar, grid units
    ("velocity", 128 // VELOCITY_STEP),
    ("duration", LONG),  # i + 1 grid units
    ("pitch", 128),
    ("drum", 128),  # pitch on a drum track
    ("density", len(DENSITY_EDGES)),
    # From here on controls; their meanings and bins: controls.
    ("fewest", 8),  # notes sounding at an onset
    ("most", 8),
    ("length", 6),  # a class of durations that is present
    ("register", 22),  # of the mean pitch, six semitones each
    ("span", 9),  # from the lowest to the highest pitch
    ("class", 12),  # a pitch class that is present
    ("silence", 9),  # share of the bar in which nothing sounds, eighths
    ("loudness", 8),  # of the mean velocity
    ("grid", 7),  # the coarsest grid that holds every onset
    ("syncopation", 5),
    ("reference", 1),  # begins the cell that an answer is to be like; its likeness follows
    ("likeness", 6),
    ("chord", 97),  # root + 12 * quality; the last is "no chord"
    ("held", 1),  # begins the notes of the answered cell that stand already
)


def _first_ids() -> dict[str, int]:
    first, total = {}, 0
    for family, count in FAMILIES:
        first[family] = total
        total += count
    return first


FIRST: Final = _first_ids()
COUNT: Final = dict(FAMILIES)
N_USED: Final = sum(COUNT.values())
N_VOCAB: Final = 1024  # rows of the embedding; ids from N_USED on are room for more controls

PAD: Final = FIRST["pad"]
SONG: Final = FIRST["song"]
AFTER: Final = FIRST["after"]
BEFORE: Final = FIRST["before"]
FILL: Final = FIRST["fill"]
BAR: Final = FIRST["bar"]
ANSWER: Final = FIRST["answer"]
END: Final = FIRST["end"]
TURN_PAGE: Final = FIRST["page"]
ADD_LONG: Final = FIRST["long"]
JUMP: Final = FIRST["jump"]
NUMERATOR: Final = FIRST["numerator"]
DENOMINATOR: Final = FIRST["denominator"]
TEMPO: Final = FIRST["tempo"]
TRACK: Final = FIRST["track"]
PROGRAM: Final = FIRST["program"]
POSITION: Final = FIRST["position"]
VELOCITY: Final = FIRST["velocity"]
DURATION: Final = FIRST["duration"]
PITCH: Final = FIRST["pitch"]
DRUM: Final = FIRST["drum"]
DENSITY: Final = FIRST["density"]
REFERENCE: Final = FIRST["reference"]
HELD: Final = FIRST["held"]


def _value(family: str, i: int) -> int:
    """Return what the i-th token of a family stands for; bins are numbered."""
    if family in ("jump", "numerator", "duration"):
        return i + 1
    if family == "denominator":
        return 1 << i
    return i * VELOCITY_STEP if family == "velocity" else i


_NAMES: Final = tuple(
    family if count == 1 else f"{family}_{_value(family, i)}"
    for family, count in FAMILIES
    for i in range(count)
)
_IDS: Final = {name: i for i, name in enumerate(_NAMES)}


def name(token_id: int) -> str:
    """Return the token's name, such as `pitch_60` or `bar`; unused ids are `spare_<id>`."""
    if not 0 <= token_id < N_VOCAB:
        raise ValueError(f"token id: expected 0..{N_VOCAB - 1}, found {token_id}.")
    return _NAMES[token_id] if token_id < N_USED else f"spare_{token_id}"


def id_of(token: str) -> int:
    """Return the id of a token's name; `KeyError` when there is no such token."""
    return _IDS[token]


def density_token(n_notes: float) -> int:
    """Return the token that asks for `n_notes` notes in a cell (rounded; bins above 16)."""
    return DENSITY + bisect_left(DENSITY_EDGES, round(n_notes))


def tempo_token(quarters_per_minute: float) -> int:
    """Return the token of a tempo, in bins about 8 % wide from 32 to 320 quarters per minute."""
    return TEMPO + bisect_left(TEMPO_EDGES, quarters_per_minute)


def meter_tokens(numerator: int, denominator: int) -> tuple[int, int]:
    """Return the two tokens of a meter; numerators above 32 share the last token."""
    n = min(max(numerator, 1), COUNT["numerator"])
    d = min(max(denominator, 1).bit_length() - 1, COUNT["denominator"] - 1)
    return NUMERATOR + n - 1, DENOMINATOR + d


def jump_token(n_bars: int) -> int:
    """Return the token that says how many bars are left out, at least 1; above 32 share one."""
    return JUMP + min(n_bars, JUMPS) - 1


def fingerprint() -> str:
    """Return the table as one line, kept in checkpoints so that a wrong pairing is refused."""
    return " ".join(f"{family}:{count}" for family, count in FAMILIES)
