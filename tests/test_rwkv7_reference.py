import re
from pathlib import Path

import formula
import numpy as np
import pytest

from anser.rwkv7 import reference
from anser.rwkv7.reference import ReferenceState, forward

ROOT = Path(__file__).parents[1]
GATES = {np.float64: 1e-10, np.float32: 5e-5}
GATES_D = {np.float64: 1e-6, np.float32: 4e-4}  # d is stored in float32


def zeros(tag, dtype=np.float64):
    return ReferenceState.zeros(formula.DIMS[tag], dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("tag", "abc")
def test_parity(parity, parity_weights, tag, dtype):
    stored = parity(tag)
    logits, state = forward(parity_weights(tag), zeros(tag, dtype), stored["tokens"])
    assert logits.dtype == dtype
    np.testing.assert_allclose(logits, stored["logits"], rtol=0, atol=GATES[dtype])
    np.testing.assert_allclose(state.wkv, stored["state_wkv"], rtol=0, atol=GATES[dtype])
    np.testing.assert_allclose(state.shift, stored["state_shift"], rtol=0, atol=GATES[dtype])


@pytest.mark.parametrize("dtype", [pytest.param(np.float64, marks=pytest.mark.slow), np.float32])
def test_parity_at_full_size(parity, parity_weights, dtype):
    stored = parity("d")
    logits, _ = forward(parity_weights("d"), zeros("d", dtype), stored["tokens"])
    difference = np.abs(logits[stored["steps"]] - stored["logits"]).max()
    assert difference < GATES_D[dtype]
    np.testing.assert_array_equal(logits.argmax(1), stored["argmax"])


@pytest.mark.parametrize("tag", "abc")
def test_parity_from_an_initial_state(parity, parity_weights, tag):
    stored = parity(tag)
    start = zeros(tag)
    start.wkv[:] = formula.make_initial_state(tag)
    before = start.wkv.copy()
    logits, _ = forward(parity_weights(tag), start, stored["tokens"])
    np.testing.assert_allclose(logits, stored["logits_S0"], rtol=0, atol=1e-10)
    np.testing.assert_array_equal(start.wkv, before)


def test_inner_values(parity, parity_weights, monkeypatch):
    stored, seen = parity("a"), []
    plain, mix, channel = reference.wkv7, reference.time_mix, reference.channel_mix

    def wkv7(r, w, k, v, a, b, state):
        y, state = plain(r, w, k, v, a, b, state)
        log_log = np.log(-np.log(w))
        seen.append({"r": r, "w_loglog": log_log, "k": k, "v": v, "kk": -a, "y": y, "b": b})
        return y, state

    def time_mix(*args):
        result = mix(*args)
        seen[-1]["att_out"] = result[0]
        return result

    def channel_mix(*args):
        seen[-1]["ffn_out"] = channel(*args)
        return seen[-1]["ffn_out"]

    for function in (wkv7, time_mix, channel_mix):
        monkeypatch.setattr(reference, function.__name__, function)
    forward(parity_weights("a"), zeros("a"), stored["tokens"])
    for layer, values in enumerate(seen):
        b = values.pop("b").reshape(50, -1)
        for name, value in values.items():
            expected = stored[f"mid/{layer}/{name}"]
            np.testing.assert_allclose(value.reshape(50, -1), expected.reshape(50, -1), atol=2e-6)
        learning_rate = stored[f"mid/{layer}/a"].reshape(50, -1)
        kk = stored[f"mid/{layer}/kk"].reshape(50, -1)
        np.testing.assert_allclose(b, kk * learning_rate, atol=1e-6)


@pytest.mark.parametrize("cut", [1, 16, 49])
def test_a_run_may_be_split_anywhere(parity, parity_weights, cut):
    weights, tokens = parity_weights("a"), parity("a")["tokens"]
    whole, last = forward(weights, zeros("a"), tokens)
    first, state = forward(weights, zeros("a"), tokens[:cut])
    second, state = forward(weights, state, tokens[cut:])
    np.testing.assert_allclose(np.concatenate([first, second]), whole, atol=1e-12)
    np.testing.assert_allclose(state.wkv, last.wkv, atol=1e-12)
    np.testing.assert_allclose(state.shift, last.shift, atol=1e-12)


def test_the_full_files_hold_the_weights_of_the_formula(parity_dir, parity_weights):
    for tag in "abc":
        stored = np.load(parity_dir / f"rwkv7_parity_{tag}.npz")
        weights = parity_weights(tag)
        assert {f"w/{n}" for n in weights} == {n for n in stored.files if n.startswith("w/")}
        assert all(np.array_equal(stored[f"w/{n}"], w) for n, w in weights.items())
        assert np.array_equal(stored["S0"], formula.make_initial_state(tag))
        assert np.array_equal(stored["tokens"], formula.make_tokens(tag))


def test_the_glossary_is_the_one_of_the_documentation():
    spoken = re.search(r"Glossary:\n(.+?)\n\n", reference.__doc__, re.S).group(1)
    written = re.search(
        r"## Glossary\n\n```\n(.+?)\n```", (ROOT / "docs/model.md").read_text(), re.S
    )
    assert [line.strip() for line in spoken.splitlines()] == [
        line.strip() for line in written.group(1).splitlines()
    ]
