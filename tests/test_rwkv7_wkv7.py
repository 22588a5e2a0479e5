from itertools import pairwise

import pytest
import torch

from anser.rwkv7.torch.wkv7 import wkv7

torch.set_num_threads(1)
LENGTHS = [1, 15, 16, 17, 31, 50, 129, 1000]


def make_inputs(n_batch, n_token, n_head, n, n_seq=None, seed=0):
    """Inputs as RWKV-7 makes them, in float64: kk of unit length, decay and rate in range."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shape = (n_batch, n_token, n_head, n)
    log_w = -0.6065306597 * torch.sigmoid(3 * normal(*shape))
    kk = torch.nn.functional.normalize(normal(*shape), dim=-1)
    rate = torch.sigmoid(normal(*shape))
    state = normal(n_seq or n_batch, n_head, n, n)
    return [normal(*shape), log_w, normal(*shape) / 2, normal(*shape), -kk, kk * rate, state]


def run(inputs, form, *, with_state=True, offsets=None, dtype=torch.float64, chunk=32):
    """Outputs and all gradients, for random gradients of both outputs."""
    inputs = [x.to(dtype, copy=True).requires_grad_() for x in inputs]
    state = inputs[6] if with_state else None
    y, final = wkv7(*inputs[:6], state, offsets, form, chunk)
    generator = torch.Generator().manual_seed(1)
    dy, dfinal = (
        torch.randn(z.shape, generator=generator, dtype=torch.float64) for z in (y, final)
    )
    torch.autograd.backward([y, final], [dy.to(y.dtype), dfinal.to(final.dtype)])
    return [y.detach(), final.detach(), *(x.grad for x in inputs[: 7 if with_state else 6])]


def worst(found, expected):
    pairs = zip(found, expected, strict=True)
    return max(
        float((f.double() - e.double()).abs().max() / e.double().abs().max().clamp(min=1))
        for f, e in pairs
    )


@pytest.mark.parametrize("with_state", [True, False])
@pytest.mark.parametrize("n_token", LENGTHS)
def test_chunked_equals_loop_with_all_gradients(n_token, with_state):
    inputs = make_inputs(2 if n_token < 1000 else 1, n_token, 2, 16)
    expected = run(inputs, "loop", with_state=with_state)
    assert worst(run(inputs, "chunked", with_state=with_state), expected) < 1e-12
    found = run(inputs, "chunked", with_state=with_state, dtype=torch.float32)
    assert worst(found, expected) < 5e-6


@pytest.mark.parametrize(("n", "chunk"), [(1, 32), (5, 16), (64, 64), (128, 128), (32, 1)])
def test_any_head_size_and_chunk(n, chunk):
    inputs = make_inputs(1, 150, 1, n)
    assert worst(run(inputs, "chunked", chunk=chunk), run(inputs, "loop")) < 1e-11


def test_decay_at_its_limit_stays_finite_in_float32():
    inputs = make_inputs(1, 256, 1, 64)
    inputs[1].fill_(-0.6065306597)
    expected = run(inputs, "loop")
    assert worst(run(inputs, "chunked", dtype=torch.float32, chunk=64), expected) < 5e-6


def test_unequal_lengths_are_exact():
    ends = [0, 0, 5, 70, 70, 71, 103, 200, 200, 200]
    offsets = torch.tensor(ends, dtype=torch.int32)
    inputs = make_inputs(1, 200, 2, 16, n_seq=9)
    packed = run(inputs, "chunked", offsets=offsets)
    assert worst(packed, run(inputs, "loop", offsets=offsets)) < 1e-12
    for s, (i, j) in enumerate(pairwise(ends)):
        alone = [x[:, i:j] for x in inputs[:6]]
        y, final = wkv7(*alone, inputs[6][s : s + 1], form="loop")
        torch.testing.assert_close(packed[0][:, i:j], y)
        torch.testing.assert_close(packed[1][s : s + 1], final)


def test_random_edge_lengths():
    generator = torch.Generator().manual_seed(3)
    for seed in range(10):
        lengths = torch.randint(0, 40, (6,), generator=generator)
        offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
        inputs = make_inputs(1, int(lengths.sum()), 1, 8, n_seq=6, seed=seed)
        expected = run(inputs, "loop", offsets=offsets)
        assert worst(run(inputs, "chunked", offsets=offsets, chunk=16), expected) < 1e-12


def test_no_tokens_hand_the_state_on():
    inputs = make_inputs(2, 0, 1, 8)
    y, final = wkv7(*inputs[:6], inputs[6], form="chunked")
    assert y.shape == (2, 0, 1, 8)
    torch.testing.assert_close(final, inputs[6])


def test_bfloat16_in_bfloat16_out_with_a_float32_state():
    inputs = make_inputs(1, 40, 2, 16)
    half = [x.bfloat16() for x in inputs[:6]]
    half[1] = inputs[1].float()
    y, final = wkv7(*half, inputs[6].float(), form="chunked")
    assert y.dtype == torch.bfloat16
    assert final.dtype == torch.float32
    assert worst([y], [wkv7(*inputs[:6], inputs[6], form="loop")[0]]) < 0.05


def test_offsets_need_one_row():
    with pytest.raises(ValueError, match="batch must be 1, found 2"):
        wkv7(*make_inputs(2, 4, 1, 8), torch.tensor([0, 4], dtype=torch.int32))


@pytest.mark.slow
def test_the_operator_keeps_the_rules_of_torch():
    inputs = [x.requires_grad_() for x in make_inputs(1, 20, 2, 16, n_seq=8)]
    offsets = torch.tensor([0, 0, 5, 7, 7, 17, 20, 20, 20], dtype=torch.int32)
    torch.library.opcheck(torch.ops.anser.wkv7_chunked, (*inputs, offsets, 16))
