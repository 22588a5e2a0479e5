from itertools import pairwise

import formula
import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from anser.rwkv7 import checkpoint
from anser.rwkv7.torch.init import initialise, make_dims
from anser.rwkv7.torch.model import RWKV7, State
from anser.rwkv7.torch.optim import make_optimizer

torch.set_num_threads(1)
GATES = {torch.float64: 1e-10, torch.float32: 5e-5}
GATES_D = {torch.float64: 1e-6, torch.float32: 4e-4}


def make_model(weights, dtype=torch.float64, form="chunked"):
    return RWKV7.of(weights, form=form).to(dtype)


def small_model(form="chunked", dtype=torch.float64, **sizes):
    """Three layers with weights moved off their many initial zeros."""
    model = RWKV7(make_dims(3, 64, 50, 16, **sizes), form=form)
    initialise(model, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.to(dtype)


def random_ids(*shape, seed=0):
    return torch.randint(0, 50, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("form", ["loop", "chunked"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("tag", "abc")
def test_parity(parity, parity_weights, tag, dtype, form):
    stored = parity(tag)
    model = make_model(parity_weights(tag), dtype, form)
    with torch.no_grad():
        logits, state = model(torch.from_numpy(stored["tokens"])[None])
    pairs = ((logits, "logits"), (state.wkv, "state_wkv"), (state.shift, "state_shift"))
    for found, name in pairs:
        np.testing.assert_allclose(found[0].numpy(), stored[name], rtol=0, atol=GATES[dtype])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_parity_at_full_size(parity, parity_weights, dtype):
    stored = parity("d")
    with torch.no_grad():
        logits, _ = make_model(parity_weights("d"), dtype)(torch.from_numpy(stored["tokens"])[None])
    difference = np.abs(logits[0, stored["steps"]].numpy() - stored["logits"]).max()
    assert difference < GATES_D[dtype]


def loss_and_grads(model, tokens, state=None):
    logits, _ = model(tokens[None], state)
    loss = cross_entropy(logits[0, :-1], tokens[1:])
    loss.backward()
    return loss.item(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("form", ["loop", "chunked"])
def test_all_gradients_of_a(parity, parity_weights, form):
    stored = parity("a")
    model = make_model(parity_weights("a"), form=form)
    loss, grads = loss_and_grads(model, torch.from_numpy(stored["tokens"]))
    assert abs(loss - stored["loss"]) < 1e-12
    assert set(grads) == {n[5:] for n in stored.files if n.startswith("grad/")}
    for name, grad in grads.items():
        expected = stored[f"grad/{name}"]  # in float32
        assert np.abs(grad.numpy() - expected).max() <= 1e-6 * np.abs(expected).max(), name
        norm = float(stored[f"gradnorm/{name}"])
        assert abs(float(grad.norm()) - norm) <= 1e-9 * norm, name


@pytest.mark.parametrize("tag", "bc")
def test_gradient_norms(parity, parity_weights, tag):
    stored = parity(tag)
    model = make_model(parity_weights(tag))
    loss, grads = loss_and_grads(model, torch.from_numpy(stored["tokens"]))
    assert abs(loss - stored["loss"]) < 1e-12
    for name, grad in grads.items():
        norm = float(stored[f"gradnorm/{name}"])
        assert abs(float(grad.norm()) - norm) <= 1e-9 * norm, name


@pytest.mark.parametrize("tag", "abc")
def test_gradient_of_the_initial_state(parity, parity_weights, tag):
    stored = parity(tag)
    model = make_model(parity_weights(tag)).requires_grad_(False)
    start = torch.from_numpy(formula.make_initial_state(tag)).double()[None].requires_grad_()
    tokens = torch.from_numpy(stored["tokens"])
    loss, _ = loss_and_grads(model, tokens, State(model.new_state(1).shift, start))
    assert abs(loss - stored["loss_S0"]) < 1e-12
    expected = stored["grad_S0"]
    tolerance = 1e-9 if expected.dtype == np.float64 else 1e-6
    difference = np.abs(start.grad[0].numpy() - expected).max()
    assert difference <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("cut", [1, 13, 32])
def test_a_run_may_be_split_anywhere(cut):
    model, ids = small_model(), random_ids(2, 40)
    with torch.no_grad():
        whole, last = model(ids)
        first, state = model(ids[:, :cut])
        second, state = model(ids[:, cut:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(state, last)


@pytest.mark.parametrize("form", ["loop", "chunked"])
def test_padding_changes_nothing_on_either_side(form):
    model, lengths = small_model(form), (40, 33, 1, 0)
    ids = random_ids(4, 40)
    state = State(*(torch.randn(z.shape, dtype=z.dtype) for z in model.new_state(4)))
    token = torch.arange(40)
    right = token < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        packed_right = model(ids, state, right)
        packed_left = model(ids.flip(1), state, right.flip(1))
        for s, n in enumerate(lengths):
            start = State(state.shift[s : s + 1], state.wkv[s : s + 1])
            backwards = ids.flip(1)[s : s + 1, 40 - n :]
            for (logits, last), where, alone in (
                (packed_right, slice(0, n), ids[s : s + 1, :n]),
                (packed_left, slice(40 - n, 40), backwards),
            ):
                expected, end = model(alone, start) if n else (logits[s : s + 1, :0], start)
                torch.testing.assert_close(logits[s : s + 1, where], expected)
                torch.testing.assert_close(last.wkv[s : s + 1], end.wkv)
                torch.testing.assert_close(last.shift[s : s + 1], end.shift)


def packed_loss(model, ids, ends, state):
    offsets = torch.tensor(ends, dtype=torch.int32)
    logits, final = model.packed(ids, offsets, state)
    return logits.square().sum() + final.wkv.square().sum() + final.shift.sum(), logits, final


@pytest.mark.parametrize("with_state", [True, False])
def test_packed_sequences_equal_each_alone(with_state):
    model, ends = small_model(), [0, 0, 5, 33, 33, 70, 80, 80]
    ids = random_ids(80)
    start = State(*(torch.randn(z.shape, dtype=z.dtype) for z in model.new_state(7)))
    if not with_state:
        start = model.new_state(7)
    for z in start:
        z.requires_grad_()
    loss, logits, final = packed_loss(model, ids, ends, start if with_state else None)
    loss.backward()
    packed = {n: p.grad.clone() for n, p in model.named_parameters()}
    packed_start = [z.grad for z in start]
    model.zero_grad()
    for z in start:
        z.grad = None
    for s, (i, j) in enumerate(pairwise(ends)):
        one = State(start.shift[s : s + 1], start.wkv[s : s + 1])
        if i == j:
            last = one
        else:
            alone, last = model(ids[None, i:j], one)
            torch.testing.assert_close(logits[i:j], alone[0])
            alone.square().sum().backward(retain_graph=True)
        torch.testing.assert_close(final.wkv[s], last.wkv[0])
        torch.testing.assert_close(final.shift[s], last.shift[0])
        (last.wkv.square().sum() + last.shift.sum()).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(packed[name], parameter.grad, msg=name)
    if with_state:
        torch.testing.assert_close(packed_start, [z.grad for z in start])


def test_packed_reads_out_only_where_asked():
    model, ids = small_model(), random_ids(30)
    offsets = torch.tensor([0, 12, 30], dtype=torch.int32)
    positions = torch.tensor([29, 3, 11])
    with torch.no_grad():
        every, _ = model.packed(ids, offsets)
        some, _ = model.packed(ids, offsets, positions=positions)
    torch.testing.assert_close(some, every[positions])


def test_bfloat16_compute_keeps_float32_where_it_matters(parity, parity_weights):
    stored = parity("c")
    model = RWKV7.of(parity_weights("c"), compute_dtype=torch.bfloat16)
    logits, state = model(torch.from_numpy(stored["tokens"])[None])
    assert logits.dtype == torch.bfloat16
    assert state.wkv.dtype == state.shift.dtype == torch.float32
    found = logits[0].detach().float().numpy()
    assert np.sqrt(np.square(found - stored["logits"]).mean()) < 0.05
    assert (found.argmax(1) == stored["logits"].argmax(1)).mean() >= 0.94
    logits.float().square().mean().backward()
    grads = [p.grad for p in model.parameters()]
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in grads)


def test_names_are_the_official_ones_and_survive_a_file(tmp_path):
    model = small_model(dtype=torch.float32)
    assert set(model.dims.shapes()) <= set(model.state_dict())
    checkpoint.save(tmp_path / "m.safetensors", model.tensors(), {})
    again = RWKV7.of(checkpoint.load(tmp_path / "m.safetensors").tensors)
    ids = random_ids(1, 9)
    assert torch.equal(model(ids)[0], again(ids)[0])


def train(form, n_step=50):
    model = RWKV7(make_dims(2, 32, 20, 16), form=form)
    initialise(model, 0)
    optimizer = make_optimizer(model, lr=3e-3, weight_decay=0.1)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 20, (4, 5), generator=generator).repeat(1, 4)
    losses = []
    for _ in range(n_step):
        logits, _ = model(ids[:, :-1])
        loss = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_fifty_steps_of_training_are_the_same_in_both_forms():
    loop, chunked = train("loop"), train("chunked")
    np.testing.assert_allclose(loop, chunked, atol=1e-4)
    assert chunked[-1] < 0.5 * chunked[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of its own innards
def test_a_compiled_block_computes_the_same_without_graph_breaks():
    model, ids = small_model(dtype=torch.float32), random_ids(48)
    offsets = torch.tensor([0, 16, 48, 48], dtype=torch.int32)
    expected, _ = model.packed(ids, offsets)
    for block in model.blocks:
        block.compile(fullgraph=True)
    found, _ = model.packed(ids, offsets)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    found.sum().backward()
    model.packed(ids, torch.tensor([0, 32, 32, 48], dtype=torch.int32))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2
