"""Token ids, state → logits, state: RWKV-7 as a torch module, for training.

Parameters bear the official names, so that `state_dict` is a checkpoint. Letters and equations:
reference.py. Differs: a matrix product may run in bfloat16 from float32 weights; what is sensitive
stays at the weights' precision: the residual stream, decay, removal key, norms and wkv state.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from anser.rwkv7.dims import MIXES, ModelDims
from anser.rwkv7.reference import GROUP_NORM_EPS, LAYER_NORM_EPS, LOG_W_MIN
from anser.rwkv7.torch.wkv7 import Form, wkv7

# Of the tensors that published files may lack or carry, those a model of ours has.
OPTIONAL = ("blocks.0.ln0.weight", "blocks.0.ln0.bias")


class State(NamedTuple):
    """What the model remembers of each sequence."""

    shift: Tensor  # [S, L, 2, D]: 0 = time mix, 1 = channel mix
    wkv: Tensor  # [S, L, H, N value, N key], float32 or float64


class Layout(NamedTuple):
    """How tokens hang together, worked out once for all layers; tensors None where not needed.

    Without any of them: B sequences of T tokens each.
    """

    mask: Tensor | None = None  # [B, T] true at tokens that count
    before: Tensor | None = None  # [B, T] the last token that counts before this one, -1 if none
    last: Tensor | None = None  # [S] the last token of each sequence, -1 if it has none
    offsets: Tensor | None = None  # [S + 1] int32, B = 1
    starts: Tensor | None = None  # [1, T, 1] true at the first token of a sequence
    sequence: Tensor | None = None  # [T] which sequence a token belongs to


class RWKV7(nn.Module):
    """The model, with float32 weights that `compute_dtype` (None: as they are) rounds in use."""

    def __init__(
        self,
        dims: ModelDims,
        optional: Collection[str] = OPTIONAL,
        *,
        compute_dtype: torch.dtype | None = None,
        dropout: float = 0.0,
        form: Form = "auto",
    ) -> None:
        """Allocate the weights, uninitialised; `optional` names the extra tensors to have.

        `dropout` is the share of each layer's two outputs that is zeroed in training.
        """
        super().__init__()
        self.dims = dims
        self.optional = frozenset(optional)
        self.compute_dtype = compute_dtype
        self.emb = nn.Embedding(dims.n_vocab, dims.d_model, _weight=_empty(dims.n_vocab, dims))
        self.blocks = nn.ModuleList(
            Block(dims, i, self.optional, form, dropout) for i in range(dims.n_layer)
        )
        self.ln_out = LayerNorm(dims.d_model)
        self.head = _linear(dims.d_model, dims.n_vocab, "head.bias" in self.optional)

    @classmethod
    def of(
        cls,
        tensors: Mapping[str, NDArray[np.floating]],
        *,
        compute_dtype: torch.dtype | None = None,
        form: Form = "auto",
    ) -> "RWKV7":
        """Copy full-precision tensors under official names (see `checkpoint.dequantize`)."""
        dims = ModelDims.of(tensors)
        optional = [n for n in dims.optional_shapes() if n in tensors and "time_state" not in n]
        model = cls(dims, optional, compute_dtype=compute_dtype, form=form)
        names = [*dims.shapes(), *optional]
        model.load_state_dict({n: torch.from_numpy(np.array(tensors[n])) for n in names})
        return model

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Return the weights as float32 arrays under official names, for `checkpoint.save`."""
        return {n: p.detach().float().cpu().numpy() for n, p in self.state_dict().items()}

    def new_state(self, n_seq: int) -> State:
        """Return the state before the first token of each sequence: zeros."""
        d = self.dims
        full = self.emb.weight
        return State(
            full.new_zeros(n_seq, d.n_layer, 2, d.d_model),
            full.new_zeros(n_seq, d.n_layer, d.n_head, d.head_size, d.head_size),
        )

    def forward(
        self, ids: Tensor, state: State | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Return logits [B, T, V] after each of `ids` [B, T], and the states after the last.

        `mask` [B, T] is true at tokens that count: the others, on whichever side, change neither
        the states nor the logits of those that do.
        """
        layout = Layout() if mask is None else _masked(mask.bool())
        x, state = self._blocks(ids, state, layout)
        return self.read_out(x), state

    def packed(
        self,
        ids: Tensor,
        offsets: Tensor,
        state: State | None = None,
        positions: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Run sequences of unequal lengths, laid one behind the other.

        Sequence s is the tokens offsets[s]:offsets[s + 1] of `ids` [T]; `offsets` int32 [S + 1]
        rises from 0 to T, empty sequences allowed (so that its length can be kept constant), and
        multiples of 16 where the GPU kernel runs. `state` has a row for each sequence.
        Returns logits [T, V], or [len(positions), V] for the tokens at `positions`, and the states
        after the last token of each. Nothing here waits for the device.
        """
        x, state = self._blocks(ids[None], state, _packed(offsets, len(ids)))
        x = x[0] if positions is None else x[0].index_select(0, positions)
        return self.read_out(x), state

    def read_out(self, x: Tensor) -> Tensor:
        """Return logits [..., V] of the last block's output [..., D], in the compute dtype."""
        x = self.ln_out(x).to(self.compute_dtype or x.dtype)
        return _apply(self.head, x)

    def _blocks(self, ids: Tensor, state: State | None, layout: Layout) -> tuple[Tensor, State]:
        x = self.emb(ids)
        compute = self.compute_dtype or x.dtype
        v_first: Tensor | None = None
        shifts, wkvs = [], []
        for i, block in enumerate(self.blocks):
            start = (None, None) if state is None else (state.shift[:, i], state.wkv[:, i])
            x, v_first, shift, wkv = block(x, v_first, *start, layout, compute)
            shifts.append(shift)
            wkvs.append(wkv)
        return x, State(torch.stack(shifts, 1), torch.stack(wkvs, 1))


class Block(nn.Module):
    """One layer: x + TimeMix(LN1(x)), then x + ChannelMix(LN2(x))."""

    def __init__(
        self, dims: ModelDims, layer: int, optional: Collection[str], form: Form, dropout: float
    ) -> None:
        super().__init__()
        name = f"blocks.{layer}"
        self.ln0 = LayerNorm(dims.d_model) if f"{name}.ln0.weight" in optional else None
        self.ln1 = LayerNorm(dims.d_model)
        self.ln2 = LayerNorm(dims.d_model)
        lora_v = layer > 0 or f"{name}.att.v1" in optional
        self.att = TimeMix(dims, lora_v, f"{name}.att.output.bias" in optional, form)
        self.ffn = ChannelMix(dims)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        v_first: Tensor | None,
        shift: Tensor | None,
        wkv: Tensor | None,
        layout: Layout,
        compute: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return x and v_first [B, T, D], and the shift [S, 2, D] and wkv states at the end.

        v_first is None in layer 0; a shift or wkv state of None means zeros.
        """
        if self.ln0 is not None:
            x = self.ln0(x)
        att_shift, ffn_shift = (None, None) if shift is None else shift.unbind(1)
        u = self.ln1(x).to(compute)
        out, v_first, wkv = self.att(u, _previous(u, att_shift, layout), v_first, wkv, layout)
        x = x + self.dropout(out)
        att_shift = _last(u, att_shift, layout)
        u = self.ln2(x).to(compute)
        x = x + self.dropout(self.ffn(u, _previous(u, ffn_shift, layout)))
        shift = torch.stack([att_shift, _last(u, ffn_shift, layout)], 1).to(x.dtype)
        return x, v_first, shift, wkv


class TimeMix(nn.Module):
    """The recurrent half of a layer."""

    w0: nn.Parameter
    w1: nn.Parameter
    w2: nn.Parameter
    a0: nn.Parameter
    a1: nn.Parameter
    a2: nn.Parameter
    v0: nn.Parameter
    v1: nn.Parameter
    v2: nn.Parameter
    g1: nn.Parameter
    g2: nn.Parameter

    def __init__(self, dims: ModelDims, lora_v: bool, bias: bool, form: Form) -> None:
        super().__init__()
        self.form: Form = form
        d = dims.d_model
        for mix in MIXES:
            self.register_parameter(mix, _parameter(1, 1, d))
        ranks = {"w": dims.rank_w, "a": dims.rank_a, "g": dims.rank_g}
        for c, rank in (ranks | ({"v": dims.rank_v} if lora_v else {})).items():
            if c != "g":
                self.register_parameter(f"{c}0", _parameter(1, 1, d))
            self.register_parameter(f"{c}1", _parameter(d, rank))
            self.register_parameter(f"{c}2", _parameter(rank, d))
        self.k_k = _parameter(1, 1, d)
        self.k_a = _parameter(1, 1, d)
        self.r_k = _parameter(dims.n_head, dims.head_size)
        self.receptance = _linear(d, d)
        self.key = _linear(d, d)
        self.value = _linear(d, d)
        self.output = _linear(d, d, bias)
        self.ln_x = LayerNorm(d)

    def forward(
        self,
        u: Tensor,
        previous: Tensor,
        v_first: Tensor | None,
        wkv: Tensor | None,
        layout: Layout,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output [B, T, D], v_first [B, T, D] and the last wkv states."""
        full, compute, heads = self.w0.dtype, u.dtype, (*u.shape[:2], *self.r_k.shape)
        xx = previous - u
        xr, xw, xk, xv, xa, xg = (u + xx * getattr(self, m).to(compute) for m in MIXES)
        r, k, v = _apply(self.receptance, xr), _apply(self.key, xk), _apply(self.value, xv)
        d = self.w0 + torch.tanh(xw @ self.w1.to(compute)) @ self.w2.to(compute)
        log_w = LOG_W_MIN * torch.sigmoid(d.to(full))
        if v_first is None:
            v_first = v
        else:
            residual = self.v0 + (xv @ self.v1.to(compute)) @ self.v2.to(compute)
            v = v + (v_first - v) * torch.sigmoid(residual).to(compute)
        a = torch.sigmoid(self.a0 + (xa @ self.a1.to(compute)) @ self.a2.to(compute))
        g = torch.sigmoid(xg @ self.g1.to(compute)) @ self.g2.to(compute)
        kk = functional.normalize((k * self.k_k).view(heads), dim=-1, eps=1e-12)
        k = (k * (1 + (a - 1) * self.k_a)).to(compute)
        r, log_w, k, v, a = (z.view(heads) for z in (r, log_w, k, v, a))
        removed, inserted = -kk.to(compute), (kk * a).to(compute)
        if layout.mask is not None:
            counts = layout.mask[:, :, None, None]
            log_w, k, v, removed, inserted = (z * counts for z in (log_w, k, v, removed, inserted))
        y, wkv = wkv7(r, log_w, k, v, removed, inserted, wkv, layout.offsets, self.form)
        y = functional.layer_norm(y.to(full), heads[-1:], eps=GROUP_NORM_EPS).view(u.shape)
        y = y * self.ln_x.weight + self.ln_x.bias
        bonus = (r * k * self.r_k).sum(-1, keepdim=True) * v
        y = (y + bonus.view(u.shape)).to(compute)
        return _apply(self.output, y * g), v_first, wkv


class ChannelMix(nn.Module):
    """The other half of a layer: two matrices with a squared ReLU between."""

    def __init__(self, dims: ModelDims) -> None:
        super().__init__()
        self.x_k = _parameter(1, 1, dims.d_model)
        self.key = _linear(dims.d_model, dims.d_ffn)
        self.value = _linear(dims.d_ffn, dims.d_model)

    def forward(self, u: Tensor, previous: Tensor) -> Tensor:
        """Return the output [B, T, D]."""
        z = u + (previous - u) * self.x_k.to(u.dtype)
        return _apply(self.value, torch.relu(_apply(self.key, z)).square())


class LayerNorm(nn.LayerNorm):
    """Layer norm at the weights' precision, whatever comes in."""

    def __init__(self, d_model: int) -> None:
        super().__init__(d_model, eps=LAYER_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Return x [..., D] normalised, scaled and moved."""
        return functional.layer_norm(
            x.to(self.weight.dtype), self.normalized_shape, self.weight, self.bias, self.eps
        )


def _packed(offsets: Tensor, n_token: int) -> Layout:
    ends = offsets[1:].contiguous()
    token = torch.arange(n_token, device=offsets.device, dtype=offsets.dtype)
    sequence = torch.searchsorted(ends, token, right=True)
    starts = token == offsets[sequence]
    last = torch.where(ends > offsets[:-1], ends - 1, -1)
    return Layout(offsets=offsets, starts=starts[None, :, None], sequence=sequence, last=last)


def _masked(mask: Tensor) -> Layout:
    token = torch.arange(mask.shape[1], device=mask.device)
    latest = torch.where(mask, token, -1).cummax(1).values
    before = functional.pad(latest[:, :-1], (1, 0), value=-1)
    return Layout(mask=mask, before=before, last=latest[:, -1])


def _previous(u: Tensor, shift: Tensor | None, layout: Layout) -> Tensor:
    """Return u' [B, T, D]: u one token earlier, the shift state [S, D] before the first."""
    if layout.before is not None:
        start = u.new_zeros(u.shape[0], u.shape[2]) if shift is None else shift.to(u.dtype)
        table = torch.cat([start[:, None], u], 1)
        return table.gather(1, (layout.before + 1)[:, :, None].expand_as(u))
    if layout.starts is None:
        start = u.new_zeros(u.shape[0], u.shape[2]) if shift is None else shift.to(u.dtype)
        return torch.cat([start[:, None], u[:, :-1]], 1)
    earlier = functional.pad(u[:, :-1], (0, 0, 1, 0))
    if shift is None:
        return earlier.masked_fill(layout.starts, 0)
    return torch.where(layout.starts, shift.to(u.dtype)[layout.sequence], earlier)


def _last(u: Tensor, shift: Tensor | None, layout: Layout) -> Tensor:
    """Return the u of each sequence's last token [S, D], or its shift state if it has none."""
    if layout.last is None:
        return u[:, -1]
    row = torch.arange(len(u), device=u.device)  # packed: one row, many sequences
    found = u[row, layout.last.clamp(min=0)]
    start = torch.zeros_like(found) if shift is None else shift.to(u.dtype)
    return torch.where(layout.last[:, None] >= 0, found, start)


def _apply(linear: nn.Linear, x: Tensor) -> Tensor:
    bias = None if linear.bias is None else linear.bias.to(x.dtype)
    return functional.linear(x, linear.weight.to(x.dtype), bias)


def _parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape))


def _empty(n_vocab: int, dims: ModelDims) -> Tensor:
    return torch.empty(n_vocab, dims.d_model)


def _linear(n_in: int, n_out: int, bias: bool = False) -> nn.Linear:
    linear = nn.utils.skip_init(nn.Linear, n_in, n_out, bias=bias)
    assert isinstance(linear, nn.Linear)
    return linear
