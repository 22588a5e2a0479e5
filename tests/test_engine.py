import dataclasses
import random
import sys
import threading

import formula
import numpy as np
import pytest

from anser.errors import CheckpointError
from anser.rwkv7 import checkpoint as checkpoints
from anser.rwkv7.checkpoint import Checkpoint, dequantize, quantize
from anser.rwkv7.dims import ModelDims
from anser.rwkv7.engine import Engine, State, instruction_sets
from anser.rwkv7.reference import ReferenceState, forward

SETS = instruction_sets()
ODD = ModelDims(3, 60, 37, 20, 101, 7, 3, 1, 13)  # nothing here is a multiple of a register
SHAPES = [
    ODD,
    ModelDims(1, 16, 5, 16, 16, 1, 1, 1, 1),
    ModelDims(2, 33, 29, 33, 70, 5, 4, 2, 9),
    ModelDims(2, 96, 700, 48, 200, 17, 8, 8, 33),
    ModelDims(2, 128, 64, 128, 512, 32, 24, 16, 40),
    ModelDims(2, 192, 130, 64, 300, 32, 32, 64, 96),
    ModelDims(1, 77, 12, 11, 40, 3, 3, 3, 3),
]


def random_tensors(dims, seed=0, *, optional=False):
    rng = np.random.default_rng(seed)
    shapes = dims.shapes()
    if optional:
        wanted = ("ln0", "head.bias", "output.bias")
        shapes |= {n: s for n, s in dims.optional_shapes().items() if any(w in n for w in wanted)}
    tensors = {}
    for name, shape in shapes.items():
        scale = shape[-1] ** -0.5 if len(shape) == 2 else 0.3
        tensors[name] = rng.standard_normal(shape, np.float32) * np.float32(scale)
        if ".ln" in name and name.endswith(".weight"):
            tensors[name] += 1
    return tensors


def engine_of(tensors, **options):
    return Engine(Checkpoint(ModelDims.of(tensors), tensors, {}), **options)


def turned(wkv):
    """The engine's states [key, value] as the specification's [value, key], and back."""
    return wkv.swapaxes(-1, -2)


def random_ids(dims, shape, seed=1):
    return np.random.default_rng(seed).integers(0, dims.n_vocab, shape)


def expected(tensors, ids, state=None):
    """Logits and state by the executable specification, in float64."""
    start = state or ReferenceState.zeros(ModelDims.of(tensors))
    return forward(dequantize(tensors), start, ids)


def assert_same(state, other):
    np.testing.assert_array_equal(state.shift, other.shift)
    np.testing.assert_array_equal(state.wkv, other.wkv)


@pytest.mark.parametrize("instructions", SETS)
@pytest.mark.parametrize("tag", "abc")
def test_parity(parity, parity_weights, tag, instructions):
    stored = parity(tag)
    engine = engine_of(parity_weights(tag), threads=1, instructions=instructions)
    state = engine.new_state()
    logits = engine.logits(state, stored["tokens"][None])[0]
    np.testing.assert_allclose(logits, stored["logits"], rtol=0, atol=5e-5)
    np.testing.assert_allclose(turned(state.wkv[0]), stored["state_wkv"], rtol=0, atol=5e-5)
    np.testing.assert_allclose(state.shift[0], stored["state_shift"], rtol=0, atol=5e-5)


@pytest.mark.parametrize("tag", "abc")
def test_parity_from_an_initial_state(parity, parity_weights, tag):
    stored = parity(tag)
    engine = engine_of(parity_weights(tag), threads=1)
    state = engine.new_state()
    state.wkv[0] = turned(formula.make_initial_state(tag))
    logits = engine.logits(state, stored["tokens"][None])[0]
    np.testing.assert_allclose(logits, stored["logits_S0"], rtol=0, atol=5e-5)


def test_parity_at_full_size(parity, parity_weights):
    stored = parity("d")
    engine = engine_of(parity_weights("d"), threads=1)
    state = engine.new_state()
    logits = engine.logits(state, stored["tokens"][None])[0]
    np.testing.assert_allclose(logits[stored["steps"]], stored["logits"], rtol=0, atol=4e-4)
    np.testing.assert_array_equal(logits.argmax(1), stored["argmax"])


def test_parity_with_a_published_model(parity_dir):
    from anser.rwkv7.convert import read_weights

    stored = stored_arrays(parity_dir / "real_tiny7v0_expected.npz")
    engine = engine_of(read_weights(parity_dir / "real" / "tiny-rwkv-7v0-834K-FP32.bin"), threads=1)
    state = engine.new_state()
    logits = engine.logits(state, stored["tokens"][None])[0]
    np.testing.assert_allclose(logits, stored["logits"], rtol=0, atol=5e-5)
    np.testing.assert_allclose(turned(state.wkv[0]), stored["state_wkv"], rtol=0, atol=5e-5)
    state = engine.new_state()
    published = stored["published_logits_after_3"]
    np.testing.assert_allclose(engine.prefill(state, [[*b'"in']])[0], published, rtol=0, atol=5e-5)


def stored_arrays(path):
    with np.load(path) as file:
        return dict(file)


def reverse_engine(reverse_path):
    pytest.importorskip("torch")  # the file is torch's own
    from anser.rwkv7.convert import read_weights

    return engine_of(read_weights(reverse_path), threads=1)


def test_parity_with_a_model_of_heads_of_sixteen(reverse_path):
    stored = stored_arrays(reverse_path.with_name("real_reverse_L2_expected.npz"))
    engine = reverse_engine(reverse_path)
    state = engine.new_state(6)
    logits = engine.logits(state, stored["tokens"])
    np.testing.assert_allclose(logits, stored["logits"], rtol=0, atol=2e-3)
    np.testing.assert_allclose(turned(state.wkv), stored["state_wkv"], rtol=0, atol=2e-3)


def test_the_reverse_task_is_solved_as_published(reverse_path):
    engine = reverse_engine(reverse_path)
    draw = random.Random(42)
    right = total = 0
    for n_digits in range(1, 61):
        numbers = [list(map(int, draw.choices("0123456789", k=n_digits))) for _ in range(10)]
        ids = np.array([[*digits, 10, *digits[::-1], 11] for digits in numbers])
        answers = engine.logits(engine.new_state(10), ids[:, :-1])[:, n_digits:].argmax(2)
        right += int((answers == ids[:, n_digits + 1 :]).sum())
        total += answers.size
    assert (right, total) == (18_900, 18_900)


@pytest.mark.parametrize("instructions", SETS)
@pytest.mark.parametrize("optional", [False, True])
@pytest.mark.parametrize("dims", SHAPES, ids=str)
def test_any_shape_agrees_with_the_specification(dims, optional, instructions):
    tensors = random_tensors(dims, optional=optional)
    engine = engine_of(tensors, threads=1, instructions=instructions)
    ids = random_ids(dims, (2, 40))  # more than one chunk
    state = engine.new_state(2)
    logits = engine.logits(state, ids)
    for row in range(2):
        wanted, last = expected(tensors, ids[row])
        np.testing.assert_allclose(logits[row], wanted, rtol=0, atol=1e-4)
        np.testing.assert_allclose(turned(state.wkv[row]), last.wkv, rtol=0, atol=1e-4)
        np.testing.assert_allclose(state.shift[row], last.shift, rtol=0, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
@pytest.mark.parametrize("instructions", SETS)
@pytest.mark.parametrize("dims", SHAPES[:6], ids=str)
def test_step_prefill_batch_and_threads_give_the_same_bits(dims, instructions, precision):
    tensors = quantize(random_tensors(dims, optional=True), precision)
    engine = engine_of(tensors, threads=1, instructions=instructions)
    ids = random_ids(dims, (9, 67))
    state = engine.new_state(9)
    logits = engine.logits(state, ids)

    alone = engine.new_state()
    for t in range(67):
        np.testing.assert_array_equal(engine.step(alone, ids[4, t : t + 1])[0], logits[4, t])
    assert_same(alone, state.select([4]))

    both = engine_of(tensors, threads=2, instructions=instructions)
    for n in (2, 3, 5, 8, 9):
        group, cut = both.new_state(n), 5 * n + 1
        first = both.logits(group, ids[:n, :cut])
        last = both.prefill(group, ids[:n, cut:])
        np.testing.assert_array_equal(first, logits[:n, :cut])
        np.testing.assert_array_equal(last, logits[:n, -1])
        assert_same(group, state.rows(n))
    group = both.new_state(9)
    for t in range(20):
        np.testing.assert_array_equal(both.step(group, ids[:, t]), logits[:, t])


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_prompt_in_pieces_leaves_the_same_bits(precision, threads):
    tensors, ids = quantize(random_tensors(ODD), precision), random_ids(ODD, (1, 261))
    engine = engine_of(tensors, threads=threads)
    state = engine.new_state()
    stepped = [(engine.step(state, ids[:, t]), state.copy()) for t in range(261)]
    for length in (1, 2, 3, 4, 63, 64, 127, 128, 129, 130, 255, 256, 257, 261):
        for cut in {0, 1, 2, length // 2, length - 2, length - 1} & set(range(length)):
            state = engine.new_state()
            if cut:
                engine.prefill(state, ids[:, :cut])
            logits = engine.prefill(state, ids[:, cut:length])
            np.testing.assert_array_equal(logits, stepped[length - 1][0])
            assert_same(state, stepped[length - 1][1])


@pytest.mark.skipif("avx2" not in SETS, reason="needs two sets with fused multiply-add")
def test_wider_registers_give_the_same_bits():
    tensors, ids = random_tensors(ODD), random_ids(ODD, (1, 40))
    fused = [s for s in SETS if s != "portable"]
    engines = [engine_of(tensors, threads=1, instructions=s) for s in fused]
    first, *others = [e.logits(e.new_state(), ids) for e in engines]
    for other in others:
        np.testing.assert_array_equal(other, first)


@pytest.mark.parametrize("instructions", SETS)
@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
@pytest.mark.parametrize("dims", SHAPES, ids=str)
def test_a_stored_precision_agrees_with_the_specification(dims, precision, instructions):
    tensors = quantize(random_tensors(dims), precision)
    engine = engine_of(tensors, threads=1, instructions=instructions)
    ids = random_ids(dims, 50)
    error = engine.logits(engine.new_state(), ids[None])[0] - expected(tensors, ids)[0]
    # the logits have a deviation of 0.4; int8 rounds its inputs to 127 steps, int4 to 255
    bound = {"fp16": 1e-5, "int8": 0.03, "int4": 0.015}[precision]
    assert np.sqrt((error**2).mean()) < bound


@pytest.mark.parametrize("instructions", SETS)
@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("width", [16, 48, 60, 77, 384, 1536])
def test_sums_of_integers_are_exact(width, precision, extreme, instructions):
    """What the head reads is chosen so that rounding leaves it as it is."""
    tensors = quantize(random_tensors(ModelDims(1, width, 37, width, 16, 1, 1, 1, 1)), precision)
    most = {"int8": 63, "int4": 127}[precision]
    inputs = np.random.default_rng(2).integers(-most, most + 1, width)
    inputs[0] = most
    head = tensors["head.weight"]
    if extreme:  # the greatest products, all of one sign
        inputs[:] = most
        tensors["head.weight"] = np.full_like(head, {"int8": -128, "int4": 0x88}[precision])
        if precision == "int4":
            tensors["head.weight.factor"] = np.full_like(tensors["head.weight.factor"], 15)
    tensors["ln_out.weight"] = np.zeros(width, np.float32)
    tensors["ln_out.bias"] = (inputs / most).astype(np.float32)
    wanted = dequantize(tensors)["head.weight"].astype(np.float64) @ (inputs / most)
    engine = engine_of(tensors, threads=1, instructions=instructions)
    for n_tokens in (1, 2, 5, 8, 9, 40):
        logits = engine.logits(engine.new_state(), np.zeros((1, n_tokens), int))[0]
        np.testing.assert_allclose(logits, np.tile(wanted, (n_tokens, 1)), rtol=1e-5, atol=1e-6)


def test_small_half_precision_numbers_are_read_exactly():
    tensors = random_tensors(ODD)
    tensors["head.weight"] = np.arange(37 * 60, dtype=np.uint16).reshape(37, 60).view(np.float16)
    tensors["ln_out.bias"] = tensors["ln_out.bias"] + np.float32(3000)  # makes subnormals count
    ids = random_ids(ODD, 3)
    wanted = expected(tensors, ids)[0]
    for instructions in SETS:
        engine = engine_of(tensors, threads=1, instructions=instructions)
        logits = engine.logits(engine.new_state(), ids[None])[0]
        np.testing.assert_allclose(logits, wanted, rtol=1e-5)


@pytest.mark.parametrize("instructions", SETS)
def test_extreme_activations_stay_finite(instructions):
    tensors = random_tensors(ODD)
    for name in tensors:
        if name.endswith(("w0", "a0", "v0")):
            tensors[name][:] = np.where(np.arange(60) % 2, 1e4, -1e4).astype(np.float32)
        if name.endswith(("w1", "g1")):
            tensors[name] *= 1e4
    engine = engine_of(tensors, threads=1, instructions=instructions)
    ids = random_ids(ODD, 40)
    state = engine.new_state()
    logits = engine.logits(state, ids[None])[0]
    assert np.isfinite(logits).all()
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(logits, expected(tensors, ids)[0], rtol=0, atol=1e-3)


@pytest.mark.slow
def test_a_million_tokens_do_not_drift():
    """The state after 1,000,000 tokens is that of float64, which reads the last 60,000 only.

    Half of the channels forget with a time constant of 5,000 tokens, so what came before the last
    60,000 counts for less than 1e-5 of them; an error that grew with the position would show.
    """
    tensors = random_tensors(ModelDims(2, 32, 50, 16, 64, 8, 8, 8, 8))
    for name in tensors:
        if name.endswith(".w0"):
            tensors[name].reshape(-1)[::2] = -8
    engine = engine_of(tensors, threads=1)
    ids = random_ids(engine.dims, (1, 1_000_000))
    state = engine.new_state()
    logits = engine.prefill(state, ids)[0]
    wanted, last = expected(tensors, ids[0, -60_000:])
    found = (turned(state.wkv[0]), state.shift[0], logits)
    for array, exact in zip(found, (last.wkv, last.shift, wanted[-1]), strict=True):
        np.testing.assert_allclose(array, exact, rtol=0, atol=2e-5 * np.abs(exact).max())


def test_a_state_is_copied_repeated_and_selected():
    engine = engine_of(random_tensors(ODD), threads=1)
    ids = random_ids(ODD, (1, 30))
    state = engine.new_state()
    engine.prefill(state, ids)
    kept, three = state.copy(), state.repeat(3)
    assert three.batch == 3
    logits = engine.step(three, [1, 2, 1])
    np.testing.assert_array_equal(logits[0], logits[2])
    np.testing.assert_array_equal(engine.step(kept.copy(), [2])[0], logits[1])
    assert_same(state, kept)
    swapped = three.select([1, 0])
    np.testing.assert_array_equal(swapped.wkv, three.wkv[[1, 0]])
    with pytest.raises(ValueError, match="expected one sequence to repeat, found 3"):
        three.repeat(2)


def test_two_callers_of_one_engine_take_turns():
    engine = engine_of(random_tensors(SHAPES[3]), threads=2)
    ids = random_ids(engine.dims, (1, 200))
    wanted = engine.logits(engine.new_state(), ids)
    found = {}

    def read(caller):
        found[caller] = engine.logits(engine.new_state(), ids)

    callers = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 4
    assert all(np.array_equal(logits, wanted) for logits in found.values())


def test_a_checkpoint_file_is_read_in_place(tmp_path):
    tensors = random_tensors(ODD)
    ids = random_ids(ODD, (1, 20))
    path = tmp_path / "model.safetensors"
    for precision in ("fp32", "fp16", "int8", "int4"):
        stored = quantize(tensors, precision)
        checkpoints.save(path, stored, {})
        engine = Engine(checkpoints.load(path), threads=1)  # which keeps what it needs alive
        direct = engine_of(stored, threads=1)
        np.testing.assert_array_equal(
            engine.logits(engine.new_state(), ids), direct.logits(direct.new_state(), ids)
        )


def test_the_gate_before_the_engine():
    engine = engine_of(random_tensors(ODD), threads=1)
    state = engine.new_state(2)
    before = state.copy()
    for ids, message in [
        ([37, 0], "expected 0 to 36, found 37"),
        ([0, -1], "expected 0 to 36, found -1"),
        ([0.0, 1.0], r"expected integers \[B\], found float64"),
        ([True, False], r"expected integers \[B\], found bool"),
        ([[0, 1]], r"expected integers \[B\], found int64 of shape \(1, 2\)"),
        ([0], r"state.shift: expected shape \(1, 3, 2, 60\), found \(2, 3, 2, 60\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            engine.step(state, ids)
    with pytest.raises(ValueError, match=r"at least one token, found shape \(2, 0\)"):
        engine.prefill(state, np.empty((2, 0), int))
    for wkv in (state.wkv.astype(np.float64), state.wkv.swapaxes(3, 4)):
        with pytest.raises(ValueError, match=r"state\.wkv: expected a writable float32 array"):
            engine.step(State(state.shift, wkv), [0, 1])
    assert_same(state, before)


def test_the_engine_itself_refuses_what_would_be_undefined():
    engine = engine_of(random_tensors(ODD), threads=1)
    state = engine.new_state()
    model, logits = engine._model, np.empty((1, 1, 37), np.float32)
    for ids, shift, out, error, message in [
        (np.array([[37]]), state.shift, logits, ValueError, "expected 0 to 36, found 37"),
        (np.array([[-1]]), state.shift, logits, ValueError, "expected 0 to 36, found -1"),
        (np.array([[1]]), state.shift[:, :2].copy(), logits, ValueError, "shift: axis 1 has 2"),
        (np.array([[1]]), state.shift, logits[..., :3].copy(), ValueError, "logits: axis 2 has 3"),
        (np.array([[1]]), state.shift.astype(np.float64), logits, TypeError, "incompatible"),
        (np.array([[1]], np.int32), state.shift, logits, TypeError, "incompatible"),
        (np.empty((1, 0), np.int64), state.shift, logits, ValueError, "at least one"),
    ]:
        with pytest.raises(error, match=message):
            model.forward(ids, shift, state.wkv, out)


def test_weights_that_do_not_fit_are_named():
    good = random_tensors(ODD)
    name = "blocks.1.att.key.weight"
    for tensor, message in [
        (good[name][:, :5], r"'blocks.1.att.key.weight' has shape \(60, 5\), expected \(60, 60\)"),
        (good[name].astype(np.float64), "'blocks.1.att.key.weight' has type float64"),
        (good[name].astype(np.int8), "'blocks.1.att.key.weight.scale' is missing"),
        (np.zeros((60, 32), np.uint8), "'blocks.1.att.key.weight.scale' is missing"),
        (np.zeros((60, 60), np.uint8), r"has shape \(60, 60\), expected \(60, 32\)"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            engine_of({**good, name: tensor}, threads=1)
    without = {n: t for n, t in good.items() if n != name}
    with pytest.raises(CheckpointError, match=r"'blocks\.1\.att\.key\.weight' is missing"):
        engine_of(without, threads=1)
    with pytest.raises(CheckpointError, match=r"'blocks.2.att.w0' is float32 \(59\), expected"):
        engine_of({**good, "blocks.2.att.w0": np.zeros(59, np.float32)}, threads=1)
    halves = {name: np.zeros((60, 32), np.uint8), f"{name}.scale": np.ones(60, np.float32)}
    halves[f"{name}.factor"] = np.full((60, 2), 16, np.uint8)
    with pytest.raises(CheckpointError, match=rf"'{name}.factor' is not of bytes up to 15"):
        engine_of({**good, **halves}, threads=1)
    wide = quantize(random_tensors(ModelDims(1, 16, 5, 16, 65_537, 1, 1, 1, 1)), "int8")
    with pytest.raises(CheckpointError, match=r"'blocks.0.ffn.value.weight' has more than 65536"):
        engine_of(wide, threads=1)
    lora = "blocks.0.att.w1"
    with pytest.raises(CheckpointError, match=rf"'{lora}.scale' is missing"):
        engine_of({**good, lora: np.zeros((60, 7), np.int8)}, threads=1)
    with pytest.raises(CheckpointError, match=rf"'{lora}' is int4"):
        engine_of({**good, lora: np.zeros((60, 7), np.uint8)}, threads=1)
    wrong = dataclasses.replace(ODD, head_size=7)
    with pytest.raises(CheckpointError, match="head size does not divide the width"):
        Engine(Checkpoint(wrong, good, {}), threads=1)


def test_options_are_checked():
    tensors = random_tensors(ODD)
    with pytest.raises(ValueError, match="threads: expected at least 1, found 0"):
        engine_of(tensors, threads=0)
    with pytest.raises(ValueError, match=r"expected one of .*portable, found 'mmx'"):
        engine_of(tensors, instructions="mmx")
    engine = engine_of(tensors)
    assert 1 <= engine.threads <= 4
    assert engine.instructions == SETS[0]


def test_a_missing_extension_says_how_to_build(monkeypatch):
    monkeypatch.setitem(sys.modules, "anser._engine", None)
    monkeypatch.delitem(sys.modules, "anser.rwkv7.engine")
    monkeypatch.delattr("anser._engine", raising=False)
    with pytest.raises(ImportError, match=r"pip install -e \."):
        import anser.rwkv7.engine  # noqa: F401
