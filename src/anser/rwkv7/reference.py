"""Weights, state, token ids → logits: RWKV-7 in numpy, the executable specification.

Glossary:
    L   layers                          D   width of the residual stream
    V   vocabulary                      H   heads, D / N
    N   head size                       F   hidden width of the channel mix
    T   tokens                          R   LoRA rank, one for each of w, a, v, g
    u   layer-normed input [T, D]       u'  the same one token earlier [T, D]
    r   receptance [T, D]               w   decay in (0.545, 1) [T, D]
    k   key [T, D]                      v   value [T, D]
    a   in-context learning rate in (0, 1) [T, D]
    g   gate [T, D]                     kk  removal key, unit length per head [T, H, N]
    S   wkv state [H, N value, N key]   y   what the state answers to r [T, H, N]
    v_first  the values of layer 0, which later layers mix into theirs [T, D]
    shift    the last u of time mix (0) and channel mix (1) [L, 2, D]

Source: BlinkDL/RWKV-LM, RWKV-v7/rwkv_v7_numpy.py; arXiv 2503.14456, equations 3-25.
Differs: the value residual follows the code, v + (v_first - v) s, not the paper's equation 10;
tensors are found by name, so their order in a file does not matter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anser.rwkv7.dims import ModelDims

Array = NDArray[Any]

LOG_W_MIN = -0.6065306597126334  # -exp(-1/2): log w lies between this and 0
LAYER_NORM_EPS = 1e-5
GROUP_NORM_EPS = 64e-5  # of ln_x, whatever the head size


@dataclass(frozen=True)
class ReferenceState:
    """What the model remembers of one sequence; its dtype is the one all is computed in."""

    shift: Array  # [L, 2, D]
    wkv: Array  # [L, H, N value, N key]

    @classmethod
    def zeros(cls, dims: ModelDims, dtype: type[np.floating[Any]] = np.float64) -> "ReferenceState":
        """Return the state before the first token."""
        wkv = (dims.n_layer, dims.n_head, dims.head_size, dims.head_size)
        return cls(np.zeros((dims.n_layer, 2, dims.d_model), dtype), np.zeros(wkv, dtype))


def forward(
    tensors: Mapping[str, Array], state: ReferenceState, ids: Sequence[int] | Array
) -> tuple[Array, ReferenceState]:
    """Return logits [T, V] after each of the T tokens, and the state after the last.

    `tensors` are float arrays under official names; `state` is left as it was.
    """
    shift, wkv = state.shift.copy(), state.wkv.copy()
    weights = _Weights(tensors, "", shift.dtype)
    x = weights["emb.weight"][np.asarray(ids, np.int64)]
    if "blocks.0.ln0.weight" in tensors:
        x = _layer_norm(x, weights, "blocks.0.ln0")
    v_first = None
    for i in range(len(wkv)):
        block = weights.below(f"blocks.{i}.")
        u = _layer_norm(x, block, "ln1")
        out, v_first, wkv[i] = time_mix(block.below("att."), u, shift[i, 0], v_first, wkv[i])
        x = x + out
        shift[i, 0] = u[-1]
        u = _layer_norm(x, block, "ln2")
        x = x + channel_mix(block.below("ffn."), u, shift[i, 1])
        shift[i, 1] = u[-1]
    logits = _linear(_layer_norm(x, weights, "ln_out"), weights, "head")
    return logits, ReferenceState(shift, wkv)


def time_mix(
    p: "_Weights", u: Array, u_last: Array, v_first: Array | None, state: Array
) -> tuple[Array, Array, Array]:
    """Return the output [T, D], v_first [T, D], and the wkv state after the last token."""
    xx = np.concatenate([u_last[None], u[:-1]]) - u
    xr, xw, xk, xv, xa, xg = (u + xx * p[f"x_{c}"].reshape(-1) for c in "rwkvag")
    r, k, v = (_linear(x, p, name) for x, name in zip((xr, xk, xv), _RKV, strict=True))
    w = np.exp(LOG_W_MIN * _sigmoid(p["w0"].reshape(-1) + np.tanh(xw @ p["w1"]) @ p["w2"]))
    if v_first is None:
        v_first = v
    else:
        v = v + (v_first - v) * _sigmoid(p["v0"].reshape(-1) + xv @ p["v1"] @ p["v2"])
    a = _sigmoid(p["a0"].reshape(-1) + xa @ p["a1"] @ p["a2"])
    g = _sigmoid(xg @ p["g1"]) @ p["g2"]
    heads = (len(u), *p["r_k"].shape)  # [T, H, N]
    kk = (k * p["k_k"].reshape(-1)).reshape(heads)
    kk = kk / np.maximum(np.sqrt((kk * kk).sum(-1, keepdims=True)), 1e-12)
    k = k * (1 + (a - 1) * p["k_a"].reshape(-1))
    r, w, k, v_heads, a = (z.reshape(heads) for z in (r, w, k, v, a))
    y, state = wkv7(r, w, k, v_heads, -kk, kk * a, state)
    y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + GROUP_NORM_EPS)
    y = y.reshape(u.shape) * p["ln_x.weight"] + p["ln_x.bias"]
    y = y + ((r * k * p["r_k"]).sum(-1, keepdims=True) * v_heads).reshape(u.shape)
    return _linear(y * g, p, "output"), v_first, state


_RKV = ("receptance", "key", "value")


def wkv7(
    r: Array, w: Array, k: Array, v: Array, a: Array, b: Array, state: Array
) -> tuple[Array, Array]:
    """Return y [T, H, N] and the last state: S = S diag(w) + (S a) b^T + v k^T, y = S r."""
    y = np.empty_like(r)
    for t in range(len(r)):
        removed = state @ a[t, :, :, None]
        state = state * w[t, :, None, :] + removed * b[t, :, None, :]
        state = state + v[t, :, :, None] * k[t, :, None, :]
        y[t] = (state @ r[t, :, :, None])[..., 0]
    return y, state


def channel_mix(p: "_Weights", u: Array, u_last: Array) -> Array:
    """Return the output [T, D]: W_v relu(W_k z)^2 with z between u and u'."""
    z = u + (np.concatenate([u_last[None], u[:-1]]) - u) * p["x_k"].reshape(-1)
    return _linear(np.maximum(_linear(z, p, "key"), 0) ** 2, p, "value")


class _Weights:
    """Tensors by name below a prefix, as one dtype."""

    def __init__(self, tensors: Mapping[str, Array], prefix: str, dtype: np.dtype[Any]) -> None:
        self.tensors, self.prefix, self.dtype = tensors, prefix, dtype

    def __getitem__(self, name: str) -> Array:
        return np.asarray(self.tensors[self.prefix + name], self.dtype)

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self.tensors

    def below(self, prefix: str) -> "_Weights":
        return _Weights(self.tensors, self.prefix + prefix, self.dtype)


def _linear(x: Array, p: _Weights, name: str) -> Array:
    y: Array = x @ p[f"{name}.weight"].T
    return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def _layer_norm(x: Array, p: _Weights, name: str) -> Array:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + LAYER_NORM_EPS)
    y: Array = x * p[f"{name}.weight"] + p[f"{name}.bias"]
    return y


def _sigmoid(x: Array) -> Array:
    y: Array = 0.5 * (np.tanh(0.5 * x) + 1)  # cannot overflow, as 1 / (1 + exp(-x)) can
    return y
