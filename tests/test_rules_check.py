"""The checker finds what breaks each rule, in songs made by hand."""

import pytest

from anser.rules import Lock, Rules
from anser.rules_check import violations
from anser.selection import Selection
from songs import Part, make_song

CELL = Selection.of([0], [0])
BEFORE = [(0, 480, 60, 80), (480, 480, 64, 80), (1920, 480, 60, 80), (2400, 480, 64, 80)]
AFTER = [(0, 480, 60, 80), (480, 480, 64, 80)]


def check(new, earlier=(), before=BEFORE, **rules):
    standing = [note for note in before if note[0] >= 1920]
    songs = [make_song([Part(notes)]) for notes in (before, [*new, *standing])]
    longer = [song.extended(2 - song.n_bars) for song in songs]
    found = violations(*longer, CELL, {(0, 0): Rules(**rules)}, earlier)
    return [(v.rule, v.what) for v in found]


@pytest.mark.parametrize(
    ("rules", "good", "bad"),
    [
        ({"scale": frozenset([0, 4])}, [(0, 9, 64, 80)], [(0, 9, 65, 80)]),
        ({"pitches": (60, 62)}, [(0, 9, 62, 80)], [(0, 9, 63, 80)]),
        ({"grid": 8}, [(320, 9, 60, 80)], [(240, 9, 60, 80)]),
        ({"max_polyphony": 1}, [(0, 9, 60, 80), (9, 9, 61, 80)], [(0, 9, 60, 80), (8, 9, 61, 80)]),
        ({"max_polyphony": 1}, [(0, 1920, 60, 80)], [(0, 1921, 61, 80)]),
        ({"within_bar": True}, [(1910, 10, 60, 80)], [(1910, 11, 61, 80)]),
        ({"notes": (1, 2)}, [(0, 9, 60, 80)], []),
        ({"notes": (0, 1)}, [(0, 9, 60, 80)], [(0, 9, 60, 80), (9, 9, 60, 80)]),
        ({"keep": "rhythm"}, [(0, 480, 70, 80), (480, 480, 71, 80)], [(0, 480, 70, 80)]),
        ({"keep": "rhythm"}, AFTER, [(0, 480, 60, 80), (480, 480, 64, 81)]),
        ({"keep": "pitch"}, [(3, 9, 60, 1), (9, 99, 64, 1)], [(0, 9, 64, 80), (480, 9, 60, 80)]),
        ({"no_repeat": 2}, [(0, 9, 60, 80), (960, 9, 64, 80)], AFTER),
        ({"no_repeat": 3}, AFTER, None),
        ({"beats": (1, 3)}, [BEFORE[0], (480, 9, 1, 1)], [BEFORE[0], (470, 9, 1, 1)]),
        ({"beats": (1, 3)}, [BEFORE[0]], [(480, 9, 1, 1)]),
        ({"locks": (Lock(pitches=(64, 64)),)}, [BEFORE[1]], [(480, 480, 64, 79)]),
        ({"locks": (Lock(beats=(0, 1)),)}, [BEFORE[0], (0, 9, 1, 1)], [(0, 9, 60, 80)]),
    ],
)
def test_each_rule_is_checked(rules, good, bad):
    assert check(good, **rules) == []
    if bad is not None:
        assert check(bad, **rules)


def test_what_stays_is_exempt_but_counts():
    lock = (Lock(pitches=(60, 60)),)
    assert check([BEFORE[0]], locks=lock, scale=frozenset([1])) == []
    assert check([BEFORE[0], (0, 9, 61, 9)], locks=lock, max_polyphony=1)
    assert check([BEFORE[0]], locks=lock, notes=(2, 2))


def test_earlier_takes_are_heeded():
    new = [(0, 9, 70, 80), (480, 9, 71, 80)]
    earlier = make_song([Part(new)])
    assert check(new, no_repeat=2) == []
    assert check(new, [earlier], no_repeat=2)


def test_violations_count_from_1():
    found = violations(
        make_song([Part(AFTER)]), make_song([Part(AFTER)]), CELL, {(0, 0): Rules(notes=(9, 9))}
    )
    assert str(found[0]) == "track 1, bar 1, notes: 2 notes"
