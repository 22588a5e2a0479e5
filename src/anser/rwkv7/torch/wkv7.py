"""r, log w, k, v, a, b, state → y, state: the wkv operator, in its three forms.

Per head and token: S = S diag(w) + (S a) b^T + v k^T, y = S r, with S [N value, N key].
Shapes: r, log_w, k, v, a, b [B, T, H, N]; state [n_seq, H, N value, N key]. RWKV-7 calls it with
a = -kk and b = kk * learning rate. Letters: reference.py.
"""

from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from anser.rwkv7.torch.wkv7_chunked import wkv7_chunked

Form = Literal["auto", "loop", "chunked", "triton"]
CHUNK = 32  # the fastest on a CPU
_TRITON_MULTIPLE = 16  # the GPU kernel's chunk: sequences begin at multiples of it
_TRITON_HEAD_SIZES = (16, 32, 64, 128)


class Operands(NamedTuple):
    """What the operator reads at every token, [B, T, H, N] each."""

    r: Tensor
    log_w: Tensor
    k: Tensor
    v: Tensor
    a: Tensor
    b: Tensor


def wkv7(  # noqa: PLR0913  the operator's own operands
    r: Tensor,
    log_w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor | None = None,
    offsets: Tensor | None = None,
    form: Form = "auto",
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Return y [B, T, H, N] in the dtype of r, and the final states [n_seq, H, N, N].

    Without `offsets` every row of the batch is a sequence, n_seq = B. With `offsets` (integers
    [n_seq + 1], rising from 0 to T, empty sequences allowed) B must be 1, and sequence s is the
    tokens offsets[s]:offsets[s + 1]. `state` None means zeros.

    States and arithmetic are float32, or float64 if r is. Forms: "loop" is the oracle, one step
    a token; "chunked" runs on any device, for any T and N; "triton" needs CUDA, and offsets that
    are multiples of 16; "auto" takes it there and "chunked" elsewhere. "chunked" raises e^(-log w)
    to the power of a chunk: chunk * |log w| must stay below 88 in float32 (RWKV-7: 0.61 a token).
    """
    n_seq = len(r) if offsets is None else len(offsets) - 1
    if offsets is not None and len(r) != 1:
        raise ValueError(f"wkv7: with offsets the batch must be 1, found {len(r)}.")
    operands = Operands(r, log_w, k, v, a, b)
    full = torch.float64 if r.dtype == torch.float64 else torch.float32
    if form == "auto":
        on_gpu = r.is_cuda and full == torch.float32 and r.shape[3] in _TRITON_HEAD_SIZES
        form = "triton" if on_gpu else "chunked"
    if form == "triton":
        return _triton(operands, state, offsets)
    if state is None:
        state = r.new_zeros(n_seq, r.shape[2], r.shape[3], r.shape[3], dtype=full)
    state = state.to(full)
    if form == "loop":
        return _loop(operands, state, offsets)
    y, final, _ = wkv7_chunked(*operands, state, offsets, min(chunk, max(r.shape[1], 1)))
    return y, final


def _loop(x: Operands, state: Tensor, offsets: Tensor | None) -> tuple[Tensor, Tensor]:
    """One step a token; differentiated by autograd."""
    if offsets is not None:
        ends = offsets.tolist()
        parts = [
            _loop(Operands(*(z[:, i:j] for z in x)), state[s : s + 1], None)
            for s, (i, j) in enumerate(pairwise(ends))
        ]
        return torch.cat([y for y, _ in parts], 1), torch.cat([s for _, s in parts])
    r, log_w, k, v, a, b = (z.to(state.dtype) for z in x)
    w = log_w.exp()
    outputs = []
    for t in range(r.shape[1]):
        removed = state @ a[:, t, :, :, None]
        state = state * w[:, t, :, None, :] + removed * b[:, t, :, None, :]
        state = state + v[:, t, :, :, None] * k[:, t, :, None, :]
        outputs.append((state @ r[:, t, :, :, None])[..., 0])
    y = torch.stack(outputs, 1) if outputs else r
    return y.to(x.r.dtype), state


def _triton(x: Operands, state: Tensor | None, offsets: Tensor | None) -> tuple[Tensor, Tensor]:
    """Hand the GPU kernel a length that it takes: what is added at the end changes no state."""
    from anser.rwkv7.torch.wkv7_triton import wkv7_triton  # needs triton: CUDA machines only

    n_token = x.r.shape[1]
    padding = -n_token % _TRITON_MULTIPLE
    if padding and offsets is None:
        x = Operands(*(functional.pad(z, (0, 0, 0, 0, 0, padding)) for z in x))
    y, final = wkv7_triton(*x, state, offsets)
    return y[:, :n_token], final
