"""The wkv operator in chunks of tokens: matrix products on any device, exact gradients.

Within a chunk of C tokens, with G the running sum of log w (this token included) and rows for
tokens (r~ = r e^G, a~ = a e^(G of the token before), k^ = k e^-G, b^ = b e^-G, E = e^(last G)):

    M  = (I - stril(a~ b^T))^-1         U0 = M stril(a~ k^T) V          W = M a~
    R  = r~ + tril(r~ b^T) W            Y0 = tril(r~ k^T) V + tril(r~ b^T) U0
    P  = W^T b^                         K  = V^T k^ + U0^T b^
    Y  = Y0 + R S^T                     S_next = (S + S P + K) diag(E)

Everything but S_next is computed for all chunks at once. The backward direction runs the same
scan in reverse and then again treats all chunks at once. Letters: reference.py.
Source: the delta rule in WY form (arXiv 2406.06484, section 3) with RWKV-7's transition.
Differs: gradients are written out by hand, so that nothing but the inputs and the states at chunk
starts is kept for them.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor


@torch.library.custom_op("anser::wkv7_chunked", mutates_args=())
def wkv7_chunked(  # noqa: PLR0913  an operator takes its tensors one by one
    r: Tensor,
    log_w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
    offsets: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y [B, T, H, N], final states [n_seq, H, N, N], and the state before every chunk.

    Arguments as for `wkv7.wkv7`; arithmetic is in the dtype of `state`.
    """
    chunks = _Chunks.of(r, offsets, chunk)
    x = _Products.of(chunks, (r, log_w, k, v, a, b), chunk, state.dtype)
    starts, final = _scan(chunks, x, state)
    y = x.r_k @ x.v + x.r_b @ x.answers + (x.r + x.r_b @ x.removal) @ starts.mT
    kept = state.new_empty(_n_chunk_bound(r, state, chunk), *state.shape[1:])
    kept[: len(starts)], kept[len(starts) :] = starts, 0
    return chunks.scatter(y, r), final, kept


@wkv7_chunked.register_fake
def _(  # noqa: PLR0913
    r: Tensor,
    log_w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
    offsets: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    kept = state.new_empty(_n_chunk_bound(r, state, chunk), *state.shape[1:])
    return r.new_empty(r.shape), state.new_empty(state.shape), kept


@torch.library.custom_op("anser::wkv7_chunked_backward", mutates_args=())
def wkv7_chunked_backward(  # noqa: PLR0913
    dy: Tensor,
    dfinal: Tensor,
    r: Tensor,
    log_w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    kept: Tensor,
    offsets: Tensor | None,
    chunk: int,
) -> list[Tensor]:
    """Return the gradients of r, log_w, k, v, a, b and of the initial state.

    `kept` is the third result of `wkv7_chunked`; `dy` and `dfinal` are the gradients of the first
    two.
    """
    inputs = (r, log_w, k, v, a, b)
    chunks = _Chunks.of(r, offsets, chunk)
    x = _Products.of(chunks, inputs, chunk, kept.dtype)
    starts = kept[: len(x.r)]
    dy = chunks.gather(dy, chunk, kept.dtype)
    dnext, dstate = _scan_back(chunks, x, dy, dfinal)
    grads = _chunk_gradients(x, starts, dy, dnext)
    return [*(chunks.scatter(g, z) for g, z in zip(grads, inputs, strict=True)), dstate]


@wkv7_chunked_backward.register_fake
def _(  # noqa: PLR0913
    dy: Tensor,
    dfinal: Tensor,
    r: Tensor,
    log_w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    kept: Tensor,
    offsets: Tensor | None,
    chunk: int,
) -> list[Tensor]:
    return [z.new_empty(z.shape) for z in (r, log_w, k, v, a, b, dfinal)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ANN401
    *operands, _, offsets, chunk = inputs
    ctx.save_for_backward(*operands, output[2], offsets)
    ctx.chunk = chunk


def _backward(ctx: Any, dy: Tensor, dfinal: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    *operands, kept, offsets = ctx.saved_tensors
    grads = wkv7_chunked_backward(dy, dfinal, *operands, kept, offsets, ctx.chunk)
    return (*grads, None, None)


wkv7_chunked.register_autograd(_backward, setup_context=_keep)


def _n_chunk_bound(r: Tensor, state: Tensor, chunk: int) -> int:
    """At most so many chunks, whatever the offsets: a number that compilation knows beforehand."""
    return r.shape[0] * r.shape[1] // chunk + len(state)


@dataclass(frozen=True)
class _Chunks:
    """Where each chunk's tokens lie; longer sequences first, so that a step's chunks adjoin.

    Step j of the scan takes the j-th chunk of every sequence that has one: the chunks
    starts[j]:starts[j + 1], of the first sequences in `order`.
    """

    order: Tensor  # [n_seq] sequences, the one with most chunks first
    starts: list[int]  # [n_step + 1] first chunk of each step
    rows: Tensor  # [n_chunk * H * C] row in [T_all * H, N], or T_all * H where there is no token
    n_row: int  # T_all * H
    ragged: bool  # whether any chunk has a place without a token

    @classmethod
    def of(cls, r: Tensor, offsets: Tensor | None, chunk: int) -> "_Chunks":
        n_batch, n_token, n_head = r.shape[:3]
        if offsets is None:
            ends = torch.arange(n_batch + 1) * n_token
        else:
            ends = offsets.to("cpu", torch.int64)
        counts = (ends.diff() + chunk - 1) // chunk
        order = torch.argsort(counts, descending=True, stable=True)
        steps = range(int(counts.max()) if len(counts) else 0)
        active = [int((counts > j).sum()) for j in steps]
        first = [ends[order[:n]] + j * chunk for j, n in enumerate(active)]
        last = [ends[order[:n] + 1] for n in active]
        token = torch.cat([*first, order[:0]])[:, None] + torch.arange(chunk)
        inside = token < torch.cat([*last, order[:0]])[:, None]
        rows = token[:, None, :] * n_head + torch.arange(n_head)[:, None]
        n_row = n_batch * n_token * n_head
        rows = torch.where(inside[:, None, :], rows, n_row).flatten()
        starts = [0]
        for n in active:
            starts.append(starts[-1] + n)
        ragged = not bool(inside.all())
        return cls(order.to(r.device), starts, rows.to(r.device), n_row, ragged)

    def gather(self, x: Tensor, chunk: int, dtype: torch.dtype) -> Tensor:
        """[B, T, H, N] → [n_chunk, H, C, N], zeros where there is no token."""
        flat = x.reshape(self.n_row, x.shape[3])
        rows = self.rows.clamp(max=max(self.n_row - 1, 0)) if self.ragged else self.rows
        taken = flat.index_select(0, rows).to(dtype)
        if self.ragged:
            taken.masked_fill_((self.rows == self.n_row)[:, None], 0)
        return taken.view(-1, x.shape[2], chunk, x.shape[3])

    def scatter(self, x: Tensor, like: Tensor) -> Tensor:
        """[n_chunk, H, C, N] → the shape and dtype of `like`, each token back in its place."""
        flat = like.new_empty(self.n_row + 1, like.shape[3])  # the last row takes what is no token
        flat.index_copy_(0, self.rows, x.reshape(-1, like.shape[3]).to(like.dtype))
        return flat[: self.n_row].reshape(like.shape).clone()


class _Products(NamedTuple):
    """What both directions need of every chunk, [n_chunk, H, C, ...] each; names as above."""

    growth: Tensor  # e^-G
    before: Tensor  # e^G of the token before, 1 at the first
    end: Tensor  # E [n_chunk, H, 1, N]
    r: Tensor  # r~
    a: Tensor  # a~
    k: Tensor  # k^
    b: Tensor  # b^
    v: Tensor
    inverse: Tensor  # M [C, C]
    a_k: Tensor  # stril(a~ k^T)
    r_k: Tensor  # tril(r~ k^T)
    r_b: Tensor  # tril(r~ b^T)
    answers: Tensor  # U0
    removal: Tensor  # W

    @classmethod
    def of(
        cls, chunks: _Chunks, inputs: tuple[Tensor, ...], chunk: int, dtype: torch.dtype
    ) -> "_Products":
        r, log_w, k, v, a, b = (chunks.gather(z, chunk, dtype) for z in inputs)
        total = log_w.cumsum(2)
        decay, before, growth = total.exp(), (total - log_w).exp(), (-total).exp()
        end = decay[:, :, -1:].clone()
        r, a, k, b = r.mul_(decay), a.mul_(before), k.mul_(growth), b.mul_(growth)
        inverse = _inverse((a @ b.mT).tril_(-1))
        a_k, r_k, r_b = (a @ k.mT).tril_(-1), (r @ k.mT).tril_(), (r @ b.mT).tril_()
        answers, removal = inverse @ (a_k @ v), inverse @ a
        return cls(
            growth, before, end, r, a, k, b, v, inverse, a_k, r_k, r_b, answers, removal
        )  # fmt: skip


def _inverse(lower: Tensor) -> Tensor:
    """(I - A)^-1 of strictly lower triangular A [..., C, C]."""
    eye = torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)
    return torch.linalg.solve_triangular(eye - lower, eye, upper=False, unitriangular=True)


def _scan(chunks: _Chunks, x: _Products, state: Tensor) -> tuple[Tensor, Tensor]:
    """Return the state before every chunk [n_chunk, H, N, N] and after the last [n_seq, ...]."""
    carry = x.removal.mT @ x.b  # P
    content = x.v.mT @ x.k + x.answers.mT @ x.b  # K
    current = state[chunks.order]
    before = state.new_empty(content.shape)
    for i, j in pairwise(chunks.starts):
        active = current[: j - i]
        before[i:j] = active
        current[: j - i] = (active + active @ carry[i:j] + content[i:j]) * x.end[i:j]
    final = torch.empty_like(state)
    final[chunks.order] = current
    return before, final


def _scan_back(chunks: _Chunks, x: _Products, dy: Tensor, dfinal: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of the state after every chunk, and of the initial states."""
    carry = x.removal.mT @ x.b
    reads = dy.mT @ (x.r + x.r_b @ x.removal)  # dY^T R
    current = dfinal[chunks.order]
    after = dfinal.new_empty(reads.shape)
    for j, i in pairwise(reversed(chunks.starts)):
        active = current[: j - i]
        after[i:j] = active
        ended = active * x.end[i:j]
        current[: j - i] = ended + ended @ carry[i:j].mT + reads[i:j]
    dstate = torch.empty_like(dfinal)
    dstate[chunks.order] = current
    return after, dstate


def _chunk_gradients(x: _Products, state: Tensor, dy: Tensor, dnext: Tensor) -> list[Tensor]:
    """Gradients of r, log w, k, v, a, b from those of Y and of the state after each chunk."""
    u = x.answers + x.removal @ state.mT
    ended = dnext * x.end
    du = x.r_b.mT @ dy + x.b @ ended.mT
    dz = x.inverse.mT @ du  # of the right-hand side that M is applied to
    dv = x.r_k.mT @ dy + x.k @ ended.mT + x.a_k.mT @ dz
    d_ab, d_ak = (dz @ u.mT).tril_(-1), (dz @ x.v.mT).tril_(-1)
    d_rb, d_rk = (dy @ u.mT).tril_(), (dy @ x.v.mT).tril_()
    dr = dy @ state + d_rb @ x.b + d_rk @ x.k
    da = dz @ state + d_ab @ x.b + d_ak @ x.k
    dk = x.v @ ended + d_ak.mT @ x.a + d_rk.mT @ x.r
    db = u @ ended + d_ab.mT @ x.a + d_rb.mT @ x.r
    # log w enters through G alone: every product with e^(+-G) adds plus or minus x dx, and the
    # state after the chunk, which E scales, adds its own to the last G.
    from_a = x.a * da
    dg = x.r * dr - x.k * dk - x.b * db
    dg[:, :, :-1] += from_a[:, :, 1:]
    after = state + x.v.mT @ x.k + u.mT @ x.b
    dg[:, :, -1] += (after * ended).sum(2)
    dlog_w = dg.flip(2).cumsum(2).flip(2)
    decay = x.growth.reciprocal()
    return [dr * decay, dlog_w, dk * x.growth, dv, da * x.before, db * x.growth]
