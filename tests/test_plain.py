"""Values and their plain forms are each other's inverse; what is no value of a type is refused."""

from typing import get_type_hints

import pytest

from anser.controls import NO_CONTROLS, Controls
from anser.plain import from_plain, to_plain
from anser.prompt import Window
from anser.rules import Lock, Rules
from anser.sampling import Sampling

VALUES = {
    "nothing": NO_CONTROLS,
    "controls": Controls(density=4, pitch_classes=frozenset({0, 7}), lengths=frozenset({"1/8"})),
    "chords": Controls(chords=((0, "Am"), (48, "C"))),
    "likeness": Controls(likeness=0.5, reference=3),
    "rules": Rules(scale=frozenset({2, 0}), pitches=(36, 60), keep="rhythm", within_bar=True),
    "locks": Rules(locks=(Lock((36, 36), (0, 1)), Lock(beats=(2, 4)))),
    "sampling": Sampling(temperature=0.5),
    "window": Window(before=3),
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_a_value_comes_back_from_its_plain_form(value):
    assert from_plain(type(value), to_plain(value)) == value


def test_defaults_are_left_out_and_sets_are_sorted():
    assert to_plain(Rules(scale=frozenset({7, 0}))) == {"scale": [0, 7]}


WRONG = {
    "unknown": (Rules, {"colour": "red"}),
    "no number": (Controls, {"density": "many"}),
    "true is no number": (Controls, {"density": True}),
    "out of range": (Controls, {"density": -1}),
    "not one of": (Rules, {"keep": "calm"}),
    "too short": (Rules, {"pitches": [36]}),
    "no list": (Rules, {"locks": 3}),
    "no object": (Rules, 3),
    "a float for an int": (int, 0.5),
}


@pytest.mark.parametrize(("kind", "plain"), WRONG.values(), ids=WRONG.keys())
def test_what_is_none_is_refused(kind, plain):
    with pytest.raises(ValueError):  # noqa: PT011  # each says something else
        from_plain(kind, plain)


def test_every_field_of_controls_and_rules_has_a_type_that_can_be_read():
    for kind in (Controls, Rules):
        for hint in get_type_hints(kind).values():
            try:
                from_plain(hint, "no such value")
            except ValueError:
                continue
