"""(r, log_w, k, v, a, b, state) → (y, state) on a GPU: the RWKV-7 recurrence as two torch ops.

`anser::wkv7_forward` and `anser::wkv7_backward` launch the kernels of `wkv7_kernels`. They are
custom ops, so `torch.compile` keeps them whole; nothing here waits for the device.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

CHUNK = 16
HEAD_SIZES = (16, 32, 64, 128)

# Warps of each kernel, and the rows of S and the pipeline depth of one scan program: the fastest
# on one H200 over batches and packed sequences (`benchmarks/wkv7.py --sweep`). Nothing is tuned
# at run time.
LAUNCH = {
    "prepare": 2,
    "scan": 4,
    "scan_rows": 64,
    "scan_stages": 4,
    "readout": 1,
    "prepare_backward": 1,
    "gradients": 2,
}


def wkv7_triton(  # noqa: PLR0913  the operator's own operands
    r: Tensor,
    log_w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor | None = None,
    offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run S_t = S_{t-1} diag(w) + (S_{t-1} a) b^T + v k^T; y_t = S_t r_t, per sequence and head.

    r, k, v, a, b: [B, T, H, N], bfloat16 or float32, one dtype; log_w: float32 [B, T, H, N], the
    natural logarithm of the decay, in (-0.6066, 0]. N in (16, 32, 64, 128); T a multiple of 16.
    state: float32 [S, H, N (value), N (key)], None for zeros. offsets: int32 [S + 1] with B = 1:
    sequence s holds tokens offsets[s]:offsets[s + 1]; the values rise from 0 to T, all multiples
    of 16 (not checked: that would wait for the device); empty sequences hand their state on.
    Returns (y [B, T, H, N] in r's dtype, final state float32 [S, H, N, N]). All inputs but
    `offsets` have gradients. Chunked form of arXiv 2503.14456, section 4; see `wkv7_kernels`.
    Raises ValueError on a wrong shape, TypeError on a wrong dtype, ImportError without Triton.
    """
    _check(r, log_w, (k, v, a, b), state, offsets)
    y, final, *_ = torch.ops.anser.wkv7_forward(r, log_w, k, v, a, b, state, offsets)
    return y, final


def _check(
    r: Tensor,
    log_w: Tensor,
    others: tuple[Tensor, ...],
    state: Tensor | None,
    offsets: Tensor | None,
) -> None:
    if r.ndim != 4 or r.shape[3] not in HEAD_SIZES or r.shape[1] % CHUNK:
        raise ValueError(
            f"wkv7: r has shape {tuple(r.shape)}, expected [B, T, H, N] with T a multiple of "
            f"{CHUNK} and N in {HEAD_SIZES}"
        )
    if any(x.shape != r.shape for x in (log_w, *others)):
        raise ValueError(f"wkv7: all six inputs must have r's shape {tuple(r.shape)}")
    if r.dtype not in (torch.bfloat16, torch.float32) or any(x.dtype != r.dtype for x in others):
        raise TypeError("wkv7: r, k, v, a, b must share one dtype, bfloat16 or float32")
    if log_w.dtype != torch.float32:
        raise TypeError(f"wkv7: log_w is {log_w.dtype}, expected float32")
    if offsets is not None and (
        r.shape[0] != 1 or offsets.ndim != 1 or offsets.dtype != torch.int32
    ):
        raise ValueError("wkv7: offsets must be int32 [S + 1], and then B must be 1")
    if state is not None:
        shape = (_n_seq(r, offsets), r.shape[2], r.shape[3], r.shape[3])
        if tuple(state.shape) != shape or state.dtype != torch.float32:
            raise ValueError(
                f"wkv7: state is {state.dtype} {tuple(state.shape)}, expected float32 {shape}"
            )


def _n_seq(r: Tensor, offsets: Tensor | None) -> int:
    return int(r.shape[0] if offsets is None else offsets.shape[0] - 1)


def _kernels() -> ModuleType:
    try:
        from anser.rwkv7.torch import wkv7_kernels
    except ImportError as error:
        raise ImportError(
            "wkv7_triton needs the package triton, which comes with torch on Linux with CUDA; "
            "use the plain torch implementation elsewhere"
        ) from error
    return wkv7_kernels


def _empty(r: Tensor, *tile: int, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised array [chunks, H, *tile], in r's dtype unless told."""
    n_chunk = r.shape[0] * (r.shape[1] // CHUNK)
    return r.new_empty((n_chunk, r.shape[2], *tile), dtype=dtype or r.dtype)


def _warps(name: str, r: Tensor) -> int:
    """Warps of a kernel: more where its tiles take more registers."""
    if r.dtype == torch.bfloat16 and r.shape[3] <= 64:
        return LAUNCH[name]
    return LAUNCH[name] * (4 if name == "gradients" else 2)


def _precision(r: Tensor) -> str:
    """The matrix units' mode for float32 operands; bfloat16 operands ignore it."""
    return "tf32x3" if r.dtype == torch.float32 else "tf32"


def _scan(
    operands: tuple[Tensor, ...],
    start: Tensor | None,
    r: Tensor,
    offsets: Tensor | None,
    *,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the scan; operands as in its signature. Returns (last S, S before each chunk, u)."""
    n_seq, n_head, n = _n_seq(r, offsets), r.shape[2], r.shape[3]
    stop = r.new_empty((n_seq, n_head, n, n), dtype=torch.float32)
    states, u = _empty(r, n, n), _empty(r, n, CHUNK)
    rows = min(n, LAUNCH["scan_rows"])
    _kernels().scan[(n_seq * n_head * (n // rows),)](
        *operands,
        stop if start is None else start.contiguous(),
        stop,
        states,
        u,
        stop if offsets is None else offsets,
        r.shape[1],
        n_head,
        N=n,
        ROWS=rows,
        HAS_START=start is not None,
        PACKED=offsets is not None,
        REVERSE=reverse,
        STAGES=LAUNCH["scan_stages"],
        PRECISION=_precision(r),
        num_warps=max(1, LAUNCH["scan"] * rows // LAUNCH["scan_rows"]),
    )
    return stop, states, u


@torch.library.custom_op(
    "anser::wkv7_forward",
    mutates_args=(),
    schema="(Tensor r, Tensor log_w, Tensor k, Tensor v, Tensor a, Tensor b, Tensor? state, "
    "Tensor? offsets) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _forward(  # noqa: PLR0913  the operator's own operands
    r: Tensor,
    log_w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor | None,
    offsets: Tensor | None,
) -> tuple[Tensor, ...]:
    """Return y, the final state, and for the backward pass S before each chunk, u and M."""
    r, log_w, k, v, a, b = (x.contiguous() for x in (r, log_w, k, v, a, b))
    kernels = _kernels()
    n_head, n = r.shape[2:]
    w, be, ke = (_empty(r, CHUNK, n) for _ in range(3))
    u = _empty(r, n, CHUNK)
    e = _empty(r, n, dtype=torch.float32)
    m = _empty(r, CHUNK, CHUNK, dtype=torch.float32)
    grid = (e.shape[0] * n_head,)
    kinds: dict[str, Any] = {"N": n, "PRECISION": _precision(r)}
    kernels.prepare[grid](
        log_w, k, v, a, b, w, u, be, ke, e, m, n_head, **kinds, num_warps=_warps("prepare", r)
    )
    final, states, u = _scan((w, u, be, ke, v, e), state, r, offsets, reverse=False)
    y = torch.empty_like(r)
    kernels.readout[grid](
        r, log_w, k, v, b, states, u, y, n_head, **kinds, num_warps=_warps("readout", r)
    )
    return y, final, states, u, m


@_forward.register_fake
def _forward_fake(  # noqa: PLR0913  the operator's own operands
    r: Tensor,
    log_w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor | None,
    offsets: Tensor | None,
) -> tuple[Tensor, ...]:
    n_seq = r.shape[0] if offsets is None else offsets.shape[0] - 1
    n_head, n = r.shape[2:]
    final = r.new_empty((n_seq, n_head, n, n), dtype=torch.float32)
    m = _empty(r, CHUNK, CHUNK, dtype=torch.float32)
    return r.new_empty(r.shape), final, _empty(r, n, n), _empty(r, n, CHUNK), m


@torch.library.custom_op(
    "anser::wkv7_backward",
    mutates_args=(),
    schema="(Tensor dy, Tensor? dfinal, Tensor r, Tensor log_w, Tensor k, Tensor v, Tensor a, "
    "Tensor b, Tensor? offsets, Tensor states, Tensor u, Tensor m) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _backward(  # noqa: PLR0913  the operator's own operands
    dy: Tensor,
    dfinal: Tensor | None,
    r: Tensor,
    log_w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    offsets: Tensor | None,
    states: Tensor,
    u: Tensor,
    m: Tensor,
) -> tuple[Tensor, ...]:
    """Return the gradients of r, log_w, k, v, a, b and of the initial state."""
    dy, r, log_w, k, v, a, b = (x.contiguous() for x in (dy, r, log_w, k, v, a, b))
    kernels = _kernels()
    n_head, n = r.shape[2:]
    w, at, rt = (_empty(r, CHUNK, n) for _ in range(3))
    z = _empty(r, n, CHUNK)
    e = _empty(r, n, dtype=torch.float32)
    grid = (e.shape[0] * n_head,)
    kinds: dict[str, Any] = {"N": n, "PRECISION": _precision(r)}
    kernels.prepare_backward[grid](
        r, log_w, a, b, dy, m, w, z, at, rt, e, n_head,
        **kinds, num_warps=_warps("prepare_backward", r),
    )  # fmt: skip
    dstate, d_states, dz = _scan((w, z, at, rt, dy, e), dfinal, r, offsets, reverse=True)
    dr, dk, dv, da, db = (torch.empty_like(r) for _ in range(5))
    dlog_w = torch.empty_like(log_w)
    kernels.gradients[grid](
        r, log_w, k, v, a, b, dy, states, u, d_states, dz, dr, dlog_w, dk, dv, da, db, n_head,
        **kinds, num_warps=_warps("gradients", r),
    )  # fmt: skip
    return dr, dlog_w, dk, dv, da, db, dstate


@_backward.register_fake
def _backward_fake(  # noqa: PLR0913  the operator's own operands
    dy: Tensor,
    dfinal: Tensor | None,
    r: Tensor,
    log_w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    offsets: Tensor | None,
    states: Tensor,
    u: Tensor,
    m: Tensor,
) -> tuple[Tensor, ...]:
    n_seq = r.shape[0] if offsets is None else offsets.shape[0] - 1
    n_head, n = r.shape[2:]
    grads = (x.new_empty(x.shape) for x in (r, log_w, k, v, a, b))
    return *grads, r.new_empty((n_seq, n_head, n, n), dtype=torch.float32)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ANN401
    *tensors, state, offsets = inputs
    ctx.save_for_backward(*tensors, offsets, *output[2:])
    ctx.has_state = state is not None
    ctx.set_materialize_grads(False)


def _differentiate(
    ctx: Any,  # noqa: ANN401
    dy: Tensor | None,
    dfinal: Tensor | None,
    *_: Tensor | None,
) -> tuple[Tensor | None, ...]:
    r, log_w, k, v, a, b, offsets, states, u, m = ctx.saved_tensors
    if dy is None:
        dy = torch.zeros_like(r)
    *grads, dstate = torch.ops.anser.wkv7_backward(
        dy, dfinal, r, log_w, k, v, a, b, offsets, states, u, m
    )
    return *grads, dstate if ctx.has_state else None, None


_forward.register_autograd(_differentiate, setup_context=_save)
