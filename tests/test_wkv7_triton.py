"""The Triton recurrence against a float64 token loop: on a GPU, or in Triton's interpreter."""

import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
NAMES = ("r", "log_w", "k", "v", "a", "b", "state")
MAX_ERROR = {torch.bfloat16: 5e-3, torch.float32: 2e-5}


def loop(inputs, state, bounds):
    """S_t = S_{t-1} diag(w) + (S_{t-1} a) b^T + v k^T, y_t = S_t r_t over [tokens, H, N]."""
    r, log_w, k, v, a, b = inputs
    y, final = [], []
    for s, (first, end) in enumerate(bounds):
        S = state[s]
        for t in range(first, end):
            Sa = torch.einsum("hij,hj->hi", S, a[t])
            S = S * log_w[t].exp()[:, None, :] + Sa[:, :, None] * b[t][:, None, :]
            S = S + v[t][:, :, None] * k[t][:, None, :]
            y.append(torch.einsum("hij,hj->hi", S, r[t]))
        final.append(S)
    return torch.stack(y), torch.stack(final)


def make_inputs(shape, n_seq, dtype, decay="mixed", seed=0):
    """Random leaf tensors of realistic size; decay 'mixed', 'fast' or 'slow'; keys partly alike."""
    g = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=g, dtype=torch.float64)

    _, _, H, N = shape
    shift = {"mixed": 0.0, "fast": 9.0, "slow": -9.0}[decay]
    log_w = -0.6065306597 * torch.sigmoid(2 * normal(*shape) + shift)
    kk = torch.nn.functional.normalize(normal(*shape) + 0.5 * normal(H, N), dim=-1)
    iclr = torch.sigmoid(1.5 * normal(*shape))
    x = (normal(*shape), log_w, normal(*shape), normal(*shape), -kk, kk * iclr)
    x = [t.to(torch.float32 if i == 1 else dtype) for i, t in enumerate(x)]
    x.append(normal(n_seq, H, N, N).float())
    return [t.to(DEVICE).requires_grad_() for t in x]


def measure(inputs, bounds, offsets):
    """Relative errors of y, the final state and every gradient; and y alone without a state."""
    from anser.rwkv7.torch.wkv7_triton import wkv7_triton

    *x, state = inputs
    y, final = wkv7_triton(*x, state, offsets)
    g = torch.Generator().manual_seed(9)
    dy = torch.randn(y.shape, generator=g).to(y)
    dfinal = torch.randn(final.shape, generator=g).to(final)
    got = torch.autograd.grad((y, final), inputs, (dy, dfinal))
    ref = [t.detach().double().cpu().requires_grad_() for t in inputs]
    flat = [t.flatten(0, 1) for t in ref[:-1]]
    y64, final64 = loop(flat, ref[-1], bounds)
    want = torch.autograd.grad(
        (y64, final64), ref, (dy.double().cpu().flatten(0, 1), dfinal.double().cpu())
    )
    pairs = [("y", y, y64), ("final", final, final64)]
    pairs += [("d" + name, p, q) for name, p, q in zip(NAMES, got, want, strict=True)]
    errors = {}
    for name, p, q in pairs:
        p, q = p.detach().double().cpu().reshape(q.shape), q.detach()
        errors[name] = ((p - q).norm() / q.norm()).item()
    return errors


def even(B, T):
    return [(s * T, (s + 1) * T) for s in range(B)]


def check(errors, dtype):
    print({k: f"{e:.2e}" for k, e in errors.items()})
    bad = {k: e for k, e in errors.items() if not e <= MAX_ERROR[dtype]}
    assert not bad, bad


@pytest.fixture
def bfloat16_arithmetic(monkeypatch):
    """Mend Triton 3.6's interpreter: it truncates to bfloat16 and multiplies bit patterns."""
    import triton.language as tl
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    cast, dot = builder.cast_impl, builder.create_dot

    def widen(x):
        if x.dtype.scalar != tl.bfloat16:
            return x
        bits = x.data.astype("uint32") << 16
        return interpreter.TensorHandle(bits.view("float32"), tl.float32)

    def cast_impl(self, x, dtype):
        if (x.dtype.scalar, dtype.scalar) != (tl.float32, tl.bfloat16):
            return cast(self, x, dtype)
        bits = torch.tensor(x.data).bfloat16().view(torch.uint16).numpy()
        return interpreter.TensorHandle(bits, tl.bfloat16)

    def create_dot(self, x, y, *rest):
        return dot(self, widen(x), widen(y), *rest)

    monkeypatch.setattr(builder, "cast_impl", cast_impl)
    monkeypatch.setattr(builder, "create_dot", create_dot)


def where(test):
    """On a GPU, or, where this file runs inside `test_in_the_interpreter`, on the CPU."""
    if not INTERPRETED:
        return pytest.mark.gpu(test)
    quiet = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")
    return pytest.mark.usefixtures("bfloat16_arithmetic")(quiet(test))


@where
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("decay", ["mixed", "fast", "slow"])
def test_batch_agrees_with_token_loop(dtype, decay):
    for T in (16, 48):
        inputs = make_inputs((2, T, 1, 64), 2, dtype, decay, seed=T)
        check(measure(inputs, even(2, T), None), dtype)


@where
@pytest.mark.parametrize("N", [16, 32, 128])
def test_other_head_sizes(N):
    inputs = make_inputs((1, 48, 2, N), 1, torch.bfloat16)
    check(measure(inputs, even(1, 48), None), torch.bfloat16)


@where
def test_long_sequence_of_like_keys():
    inputs = make_inputs((1, 160, 1, 64), 1, torch.bfloat16, "slow")
    with torch.no_grad():
        inputs[4][:] = inputs[4][:, :1]
        inputs[5][:] = -0.99 * inputs[4]
    errors = measure(inputs, even(1, 160), None)
    # Removing almost all of each value cancels digits: da and db keep fewer of bfloat16's.
    check({k: e * (5 / 8 if k in ("da", "db") else 1) for k, e in errors.items()}, torch.bfloat16)


@where
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_packed_sequences_and_empty_ones(dtype):
    offsets = [0, 16, 16, 80, 128, 160, 160, 160]
    inputs = make_inputs((1, 160, 2, 64), 7, dtype)
    bounds = list(pairwise(offsets))
    device_offsets = torch.tensor(offsets, dtype=torch.int32, device=DEVICE)
    check(measure(inputs, bounds, device_offsets), dtype)


@where
def test_no_state_is_zero_state():
    from anser.rwkv7.torch.wkv7_triton import wkv7_triton

    *x, state = make_inputs((2, 32, 2, 64), 2, torch.bfloat16)
    y, final = wkv7_triton(*x)
    y0, final0 = wkv7_triton(*x, torch.zeros_like(state))
    assert torch.equal(y, y0)
    assert torch.equal(final, final0)
    got = torch.autograd.grad(y.sum() + final.sum(), x)
    want = torch.autograd.grad(y0.sum() + final0.sum(), x)
    assert all(torch.equal(p, q) for p, q in zip(got, want, strict=True))


@where
def test_only_the_final_state_is_used():
    from anser.rwkv7.torch.wkv7_triton import wkv7_triton

    *x, state = make_inputs((1, 32, 1, 64), 1, torch.bfloat16)
    _, final = wkv7_triton(*x, state)
    grads = torch.autograd.grad(final.sum(), [*x[1:], state])
    assert all(g.isfinite().all() for g in grads)


class Mixer(torch.nn.Module):
    """Linear layers around the recurrence."""

    def __init__(self, H=2, N=64):
        super().__init__()
        self.H, self.N = H, N
        self.inner = torch.nn.ModuleList(torch.nn.Linear(H * N, H * N) for _ in range(6))
        self.outer = torch.nn.Linear(H * N, H * N)

    def forward(self, x, state, offsets):
        from anser.rwkv7.torch.wkv7_triton import wkv7_triton

        r, d, k, v, kk, iclr = (f(x).unflatten(-1, (self.H, self.N)) for f in self.inner)
        kk = torch.nn.functional.normalize(kk, dim=-1)
        log_w = -0.6065306597 * d.float().sigmoid()
        y, final = wkv7_triton(r, log_w, k, v, -kk, kk * iclr.sigmoid(), state, offsets)
        return self.outer(y.flatten(2)), final


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")
def test_compiled_module_agrees_with_eager():
    torch.manual_seed(0)
    mixer = Mixer().to("cuda", torch.bfloat16)
    compiled = torch.compile(mixer, fullgraph=True)
    state = torch.randn(3, 2, 64, 64, device="cuda", requires_grad=True)
    for ends in ([0, 64, 64, 160], [0, 16, 160, 160]):
        x = torch.randn(1, 160, 128, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        offsets = torch.tensor(ends, dtype=torch.int32, device="cuda")
        leaves = [x, state, *mixer.parameters()]
        results = []
        for run in (mixer, compiled):
            y, final = run(x, state, offsets)
            loss = y.float().square().sum() + final.square().sum()
            results.append([y, final, *torch.autograd.grad(loss, leaves)])
        for p, q in zip(*results, strict=True):
            assert (p.float() - q.float()).norm() <= 1e-2 * q.float().norm()


def test_wrong_inputs_are_named():
    from anser.rwkv7.torch.wkv7_triton import wkv7_triton

    x = [torch.zeros(1, 16, 1, 64) for _ in range(6)]
    with pytest.raises(ValueError, match="multiple of 16"):
        wkv7_triton(*(t[:, :15] for t in x))
    with pytest.raises(TypeError, match="log_w"):
        wkv7_triton(*(t.double() if i == 1 else t for i, t in enumerate(x)))
    with pytest.raises(TypeError, match="one dtype"):
        wkv7_triton(*(t.bfloat16() if i == 2 else t for i, t in enumerate(x)))
    with pytest.raises(ValueError, match="expected float32"):
        wkv7_triton(*x, torch.zeros(2, 1, 64, 64))
    with pytest.raises(ValueError, match="offsets"):
        wkv7_triton(*x, offsets=torch.zeros(2))


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="this is the process inside")
def test_in_the_interpreter():
    pytest.importorskip("triton")
    if tuple(map(int, np.__version__.split(".")[:2])) >= (2, 4):
        pytest.skip("Triton 3.6's interpreter needs numpy < 2.4")
    paths = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
