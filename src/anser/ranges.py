"""Program → the lowest and highest pitch that its instrument plays."""

from __future__ import annotations

from typing import Final

from anser.vocab import DRUMS

# First program of a run of General MIDI programs → sounding range, inclusive, MIDI pitches
# (C4 = 60), as orchestration handbooks give them; keyboards, pads and effects keep the keyboard's.
_RANGES: Final = (
    (0, 21, 108),  # pianos
    (6, 29, 89),  # harpsichord
    (7, 29, 100),  # clavinet
    (8, 60, 108),  # celesta
    (9, 72, 108),  # glockenspiel
    (10, 48, 96),  # music box
    (11, 41, 96),  # vibraphone
    (12, 36, 96),  # marimba
    (13, 60, 108),  # xylophone
    (14, 48, 84),  # tubular bells
    (15, 40, 88),  # dulcimer
    (16, 24, 108),  # organs
    (21, 29, 101),  # accordion
    (22, 48, 96),  # harmonica
    (23, 36, 101),  # bandoneon
    (24, 36, 91),  # guitars
    (32, 21, 72),  # basses
    (38, 12, 84),  # synth basses
    (40, 55, 105),  # violin
    (41, 48, 93),  # viola
    (42, 36, 84),  # cello
    (43, 23, 67),  # contrabass
    (44, 23, 105),  # string sections
    (46, 23, 104),  # harp
    (47, 36, 60),  # timpani
    (48, 21, 108),  # ensembles
    (52, 33, 91),  # voices
    (55, 24, 96),  # orchestra hit
    (56, 50, 89),  # trumpet
    (57, 34, 79),  # trombone
    (58, 24, 67),  # tuba
    (59, 50, 89),  # muted trumpet
    (60, 33, 79),  # French horn
    (61, 24, 96),  # brass sections
    (64, 54, 91),  # soprano saxophone
    (65, 47, 86),  # alto saxophone
    (66, 42, 81),  # tenor saxophone
    (67, 35, 74),  # baritone saxophone
    (68, 57, 93),  # oboe
    (69, 50, 86),  # English horn
    (70, 33, 77),  # bassoon
    (71, 48, 96),  # clarinet
    (72, 72, 110),  # piccolo
    (73, 59, 98),  # flute
    (74, 48, 98),  # recorder
    (75, 54, 98),  # other pipes
    (80, 12, 120),  # synths
    (104, 33, 96),  # plucked and bowed strings of the world
    (108, 45, 96),  # kalimba
    (109, 36, 96),  # bagpipe, fiddle, shanai
    (112, 24, 108),  # pitched percussion
    (120, 0, 127),  # sound effects
    (DRUMS, 27, 87),  # the General MIDI 2 percussion map
)


def pitch_range(program: int) -> tuple[int, int]:
    """Return (lowest, highest) pitch, inclusive, of a program; 128 = drums."""
    if not 0 <= program <= DRUMS:
        raise ValueError(f"program: expected 0..{DRUMS}, found {program}.")
    return next((low, high) for first, low, high in reversed(_RANGES) if first <= program)
