"""Guidance: what the controls change in the logits, counted several times."""

import numpy as np
import pytest

from anser import codec, prompt
from anser.controls import Controls
from anser.infill import Request, infill, same_for_all
from anser.reading import Reading
from anser.rwkv7 import checkpoint
from anser.rwkv7.engine import Engine
from anser.rwkv7.prefix import PrefixCache
from anser.sampling import Sampling
from anser.selection import Selection
from fakes import FakeEngine
from songs import band
from tiny_model import write_model

SELECTION = Selection.of([0, 2], range(4, 7))
ASKED = same_for_all(SELECTION, Controls(density=4, fewest=1, most=2))
SONG = codec.encode(band())
WITH, WITHOUT = prompt.make(SONG, SELECTION, ASKED), prompt.make(SONG, SELECTION)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    path = write_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")
    return Engine(checkpoint.load(path))


def _read(engine, prompts, strength=1.0, n_takes=3):
    """Read three takes through two answers; the last one has ended when the second begins."""
    reading = Reading(engine, PrefixCache(engine, max_bytes=0), prompts, n_takes, strength)
    logits = [reading.begin(), reading.step([40, 50, 60])]
    reading.swap(0, 2)
    logits += [reading.step([41, 51]), reading.go_on(1), reading.step([70, 71, 72])]
    return logits


@pytest.mark.parametrize("strength", [0.0, 1.5, 3.0])
def test_guided_logits_are_those_of_both_prompts_combined(engine, strength):
    asked, free = _read(engine, [WITH]), _read(engine, [WITHOUT])
    guided = _read(engine, [WITH, WITHOUT], strength)
    assert np.abs(asked[0] - free[0]).max() > 1e-3
    for a, f, g in zip(asked, free, guided, strict=True):
        np.testing.assert_allclose(g, f + np.float32(strength) * (a - f), atol=1e-5)


def test_one_prompt_is_read_as_it_is(engine):
    state = engine.new_state(1)
    logits = engine.prefill(state, np.array([WITH.segments[0].given]))
    read = _read(engine, [WITH])
    assert (read[0] == logits).all()


def test_strength_one_and_nothing_asked_read_no_second_prompt():
    def read(strength, controls):
        engine = FakeEngine()
        infill(engine, Request(band(), SELECTION, controls, sampling=Sampling(strength=strength)))
        return max(len(row) for row in engine.read)

    assert [read(1, ASKED), read(2, ASKED), read(2, {})] == [1, 2, 1]


def test_the_part_that_prompts_share_is_read_once():
    engine = FakeEngine()
    Reading(engine, PrefixCache(engine, max_bytes=0), [WITH, WITHOUT], 4, 2.0).begin()
    n_controls = len(WITH.segments[0].given) - len(WITHOUT.segments[0].given)
    assert n_controls == 3
    assert sum(len(row) for row in engine.read) <= len(WITH.segments[0].given) + 2


def test_guided_takes_are_the_same_alone_and_among_others():
    strong = Sampling(strength=2)
    few = infill(FakeEngine(), Request(band(), SELECTION, ASKED, takes=1, sampling=strong))
    many = infill(FakeEngine(), Request(band(), SELECTION, ASKED, takes=5, sampling=strong))
    assert few[0].song.to_bytes() == many[0].song.to_bytes()


def test_strength_has_bounds():
    with pytest.raises(ValueError, match="strength"):
        Sampling(strength=11)
