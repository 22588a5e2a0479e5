"""Takes of one call differ, and stay what their numbers make them."""

from dataclasses import replace

import numpy as np
import pytest

from anser.apart import ROUNDS, Apart, Heard, heard, takes_apart
from anser.infill import Request, infill
from anser.rules import Lock, Rules
from anser.sampling import Sampling
from anser.selection import Selection
from anser.song import NOTE, splice
from fakes import FakeEngine
from songs import band

CELLS = Selection.of([0], [4])


def from_script(script):
    """Return a writer whose n-th take has these pitches, one a beat."""
    asked = []

    def write(request):
        asked.append((request.first, request.takes))
        takes = infill(FakeEngine(), request)
        song, made = request.song, []
        start = int(song.bars.starts[4])
        for take in takes:
            pitches = script[take.number]
            notes = [(start + 480 * i, 240, pitch, 80) for i, pitch in enumerate(pitches)]
            by_track = {0: np.array(notes, NOTE)}
            spliced = splice(song, CELLS, by_track)
            made.append(type(take)(spliced, by_track, 0, take.number, take.cells, request))
        return made

    return write, asked


def numbers(takes):
    return [take.number for take in takes]


def test_takes_that_differ_are_left_as_they_are():
    write, asked = from_script([(60,), (62,), (64,)])
    assert numbers(takes_apart(write, Request(band(), CELLS, takes=3))) == [0, 1, 2]
    assert asked == [(0, 3)]


def test_a_take_that_is_there_already_gives_way_to_the_next_number():
    write, asked = from_script([(60,), (60,), (62,), (62,), (64,), (65,)])
    assert numbers(takes_apart(write, Request(band(), CELLS, takes=3))) == [0, 2, 4]
    assert asked == [(0, 3), (3, 1), (4, 1)]


def test_takes_may_be_asked_to_have_little_in_common():
    write, _ = from_script([(60, 62, 64), (60, 62, 65), (70, 71, 72)])
    takes = takes_apart(write, Request(band(), CELLS, takes=2), Apart(0.6))
    assert numbers(takes) == [0, 2]


def test_earlier_takes_are_avoided():
    write, _ = from_script([(60,), (62,), (64,)])
    earlier = write(Request(band(), CELLS))[0].song
    takes = takes_apart(write, Request(band(), CELLS, takes=2), Apart(avoid=[earlier]))
    assert numbers(takes) == [1, 2]


def test_it_ends_with_the_least_alike_where_nothing_else_comes():
    write, asked = from_script([(60, 61), (60, 61), (60, 62), *[(60, 61)] * 20])
    takes = takes_apart(write, Request(band(), CELLS, takes=2), Apart(0.9))
    assert numbers(takes) == [0, 2]
    assert len(asked) == ROUNDS


def test_the_choice_is_widened_only_when_the_model_goes_on_repeating_itself():
    drawn = []

    def write(request):
        drawn.append(request.sampling)
        return from_script([(60,)] * 20)[0](request)

    takes_apart(write, Request(band(), CELLS, takes=2))
    temperatures = [sampling.temperature for sampling in drawn]
    assert temperatures[:2] == [1, 1]
    assert temperatures[2:] == sorted(set(temperatures[2:]))
    assert drawn[2].min_p == 0
    drawn.clear()
    takes_apart(write, Request(band(), CELLS, takes=2, sampling=Sampling(temperature=0)))
    assert len(drawn) == 1


def test_a_take_is_the_same_alone_and_kept_apart():
    request = Request(band(), CELLS, takes=4, seed=3)
    takes = takes_apart(lambda asked: infill(FakeEngine(), asked), request, Apart(0.3))
    for take in takes:
        alone = replace(take.request, takes=1, first=take.number)
        assert infill(FakeEngine(), alone)[0].song.to_bytes() == take.song.to_bytes()
    pairs = [a.alike(b) for a in map(heard, takes) for b in map(heard, takes) if a is not b]
    assert len({take.number for take in takes}) == 4
    assert min(pairs) <= 0.7


def test_what_stays_in_both_does_not_count():
    one = Heard(frozenset({(0, 0, 60), (0, 24, 62)}), frozenset({(0, 0, 60)}))
    other = Heard(frozenset({(0, 0, 60), (0, 24, 64)}), frozenset({(0, 0, 60)}))
    assert one.alike(other) == 0
    free = Heard(other.notes, frozenset())
    assert one.alike(free) == pytest.approx(1 / 3)
    rules = {(0, 4): Rules(locks=(Lock(beats=(0, 2)),))}
    take = infill(FakeEngine(), Request(band(), CELLS, rules=rules))[0]
    assert heard(take).stays
    assert heard(take).stays <= heard(take).notes


@pytest.mark.parametrize("least", [-0.1, 1.0])
def test_an_impossible_distance_is_refused(least):
    with pytest.raises(ValueError, match="apart"):
        Apart(least)
