"""(r, log_w, k, v, a, b, S) → (y, S) on a GPU: the Triton kernels of the RWKV-7 recurrence.

Only one small product chain a chunk of 16 tokens is sequential; all else runs in parallel over
(chunk, head). Forward: `prepare` (parallel), `scan` (sequential), `readout` (parallel). Backward:
`prepare_backward` (parallel), the same `scan` in reverse on dS, `gradients` (parallel).

Notation, per head, rows are the 16 tokens t of a chunk, G = running sum of log w inside the chunk
(inclusive), E = exp(G_last):

    r~ = r e^G   a~ = a e^(G - log w)   k^ = k e^-G   b^ = b e^-G
    A_ab = stril(a~ b^T)   A_ak = stril(a~ k^T)   Q_k = tril(r~ k^T)   Q_b = tril(r~ b^T)
    M = (I - A_ab)^-1      u = M (A_ak V + a~ S0^T)
    Y = Q_k V + Q_b u + r~ S0^T         S_end = (S0 + V^T k^ + u^T b^) diag(E)

With W = M a~, U = M A_ak V the scan needs only  u = U + W S^T,  S <- S E + u^T (b^ E) + V^T (k^ E).
The gradient of S obeys the same recurrence backward in time, with M^T (b^ E) in the place of W,
M^T Q_b^T dY in that of U, a~ in that of b^ E, r~ in that of k^ E and dY in that of V.
log w > -0.6066, so e^-G <= 1.6e4 over 16 tokens: safe in every type used here.
Products inside a chunk that feed W, U and Y use tf32, since bfloat16 there costs most accuracy.

Intermediates that only these kernels read are laid out [chunk, head, ...]: `rows` [16, N]
or `columns` [N, 16] (value-major, the operand order of the scan).
"""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202, PLR0913

import triton
import triton.language as tl

CHUNK = 16


@triton.jit
def _token_tile(chunk, head, n_head, N: tl.constexpr):
    """Offsets of the [16, N] tile of one (chunk, head) in a [tokens, H, N] array."""
    t = tl.arange(0, 16)
    row = (chunk * 16 + t).to(tl.int64) * n_head + head
    return row[:, None] * N + tl.arange(0, N)[None, :]


@triton.jit
def _row_tile(pid, N: tl.constexpr):
    """Offsets of the [16, N] tile of one (chunk, head) in a [chunk, head, 16, N] array."""
    t = tl.arange(0, 16)
    return pid.to(tl.int64) * (16 * N) + t[:, None] * N + tl.arange(0, N)[None, :]


@triton.jit
def _column_tile(pid, N: tl.constexpr):
    """Offsets of the [N, 16] tile of one (chunk, head) in a [chunk, head, N, 16] array."""
    t = tl.arange(0, 16)
    return pid.to(tl.int64) * (16 * N) + tl.arange(0, N)[:, None] * 16 + t[None, :]


@triton.jit
def _square_tile(pid, N: tl.constexpr):
    """Offsets of the [N, N] tile of one (chunk, head) in a [chunk, head, N, N] array."""
    n = tl.arange(0, N)
    return pid.to(tl.int64) * (N * N) + n[:, None] * N + n[None, :]


@triton.jit
def _unit_lower_inverse(A, t):
    """(I - A)^-1 for strictly lower triangular A [16, 16].

    Two levels of doubling, 4 x 4 blocks first, keep the terms of the series small: plain doubling
    over 16 rows forms entries of order 10^3 that cancel when neighbouring keys are alike.
    """
    same_block = (t[:, None] // 4) == (t[None, :] // 4)
    eye = tl.where(t[:, None] == t[None, :], 1.0, 0.0)
    D = tl.where(same_block, A, 0.0)
    D2 = tl.dot(D, D, input_precision="tf32x3")
    P = eye + D + tl.dot(D, D2, acc=D2, input_precision="tf32x3")
    Q = tl.dot(P, A - D, input_precision="tf32x3")
    Q2 = tl.dot(Q, Q, input_precision="tf32x3")
    R = eye + Q + tl.dot(Q, Q2, acc=Q2, input_precision="tf32x3")
    return tl.dot(R, P, input_precision="tf32x3")


@triton.jit
def prepare(
    log_w, k, v, a, b,
    W, U, BE, KE, E, M,
    n_head,
    N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One (chunk, head): the scan's operands W, b^ E, k^ E (rows), U (columns), E, and M."""
    pid = tl.program_id(0)
    tile = _token_tile(pid // n_head, pid % n_head, n_head, N)
    rows = _row_tile(pid, N)
    t = tl.arange(0, 16)
    kind = W.dtype.element_ty
    strict = t[:, None] > t[None, :]
    lw = tl.load(log_w + tile)
    G = tl.cumsum(lw, 0)
    total = tl.sum(lw, 0)
    tl.store(E + pid.to(tl.int64) * N + tl.arange(0, N), tl.exp(total))
    down = tl.exp(-G)
    rest = tl.exp(total[None, :] - G)
    at = tl.load(a + tile).to(tl.float32) * tl.exp(G - lw)
    x = tl.load(k + tile).to(tl.float32)
    tl.store(KE + rows, (x * rest).to(kind))
    A_ak = tl.dot(at, tl.trans(x * down), input_precision=PRECISION)
    x = tl.load(b + tile).to(tl.float32)
    tl.store(BE + rows, (x * rest).to(kind))
    A_ab = tl.dot(at, tl.trans(x * down), input_precision=PRECISION)
    inverse = _unit_lower_inverse(tl.where(strict, A_ab, 0.0), t)
    tl.store(M + pid.to(tl.int64) * 256 + t[:, None] * 16 + t[None, :], inverse)
    tl.store(W + rows, tl.dot(inverse, at, input_precision=PRECISION).to(kind))
    MA = tl.dot(inverse, tl.where(strict, A_ak, 0.0), input_precision=PRECISION)
    x = tl.dot(MA, tl.load(v + tile).to(tl.float32), input_precision=PRECISION)
    tl.store(U + _column_tile(pid, N), tl.trans(x.to(kind)))


@triton.jit
def scan(
    W, U, BE, KE, V, E,
    start, stop,
    states, u,
    offsets, n_tokens, n_head,
    N: tl.constexpr, ROWS: tl.constexpr, HAS_START: tl.constexpr, PACKED: tl.constexpr,
    REVERSE: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One (sequence, head, ROWS rows of S): walk the chunks, storing S before each, and u."""
    pid = tl.program_id(0)
    n_slice: tl.constexpr = N // ROWS
    part = pid % n_slice
    head = (pid // n_slice) % n_head
    seq = pid // (n_slice * n_head)
    if PACKED:
        first = tl.load(offsets + seq) // 16
        end = tl.load(offsets + seq + 1) // 16
    else:
        first = seq * (n_tokens // 16)
        end = first + n_tokens // 16
    t = tl.arange(0, 16)
    n = tl.arange(0, N)
    row = part * ROWS + tl.arange(0, ROWS)
    kind = W.dtype.element_ty
    edge = (seq.to(tl.int64) * n_head + head) * (N * N) + row[:, None] * N + n[None, :]
    S = tl.load(start + edge) if HAS_START else tl.zeros((ROWS, N), tl.float32)
    for i in tl.range(0, end - first, num_stages=STAGES):
        chunk = (end - 1 - i if REVERSE else first + i).to(tl.int64)
        base = chunk * n_head + head
        rows = base * (16 * N) + t[:, None] * N + n[None, :]
        columns = base * (16 * N) + row[:, None] * 16 + t[None, :]
        wt = tl.load(W + base * (16 * N) + t[None, :] * N + n[:, None])
        be = tl.load(BE + rows)
        ke = tl.load(KE + rows)
        e = tl.load(E + base * N + n)
        vt = tl.load(V + ((chunk * 16 + t[None, :]) * n_head + head) * N + row[:, None]).to(kind)
        ut = tl.load(U + columns).to(tl.float32)
        Sc = S.to(kind)
        tl.store(states + base * (N * N) + row[:, None] * N + n[None, :], Sc)
        ut = tl.dot(Sc, wt, acc=ut, input_precision=PRECISION)
        uc = ut.to(kind)
        tl.store(u + columns, uc)
        S = tl.dot(vt, ke, acc=S * e[None, :], input_precision=PRECISION)
        S = tl.dot(uc, be, acc=S, input_precision=PRECISION)
    tl.store(stop + edge, S)


@triton.jit
def readout(
    r, log_w, k, v, b,
    states, u, y,
    n_head,
    N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One (chunk, head): Y = Q_k V + Q_b u + r~ S0^T."""
    pid = tl.program_id(0)
    tile = _token_tile(pid // n_head, pid % n_head, n_head, N)
    t = tl.arange(0, 16)
    kind = states.dtype.element_ty
    G = tl.cumsum(tl.load(log_w + tile), 0)
    decay = tl.exp(-G)
    rt = tl.load(r + tile).to(tl.float32) * tl.exp(G)
    kh = tl.load(k + tile).to(tl.float32) * decay
    bh = tl.load(b + tile).to(tl.float32) * decay
    lower = t[:, None] >= t[None, :]
    S = tl.load(states + _square_tile(pid, N))
    Y = tl.dot(rt.to(kind), tl.trans(S), input_precision=PRECISION)
    Q_k = tl.where(lower, tl.dot(rt, tl.trans(kh), input_precision=PRECISION), 0.0).to(kind)
    Y = tl.dot(Q_k, tl.load(v + tile).to(kind), acc=Y, input_precision=PRECISION)
    Q_b = tl.where(lower, tl.dot(rt, tl.trans(bh), input_precision=PRECISION), 0.0).to(kind)
    uc = tl.load(u + _column_tile(pid, N))
    Y = tl.dot(Q_b, tl.trans(uc), acc=Y, input_precision=PRECISION)
    tl.store(y + tile, Y.to(y.dtype.element_ty))


@triton.jit
def prepare_backward(
    r, log_w, a, b, dy, M,
    W, U, AT, RT, E,
    n_head,
    N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One (chunk, head): operands of the scan on dS: M^T (b^ E), M^T Q_b^T dY, a~, r~ and E."""
    pid = tl.program_id(0)
    tile = _token_tile(pid // n_head, pid % n_head, n_head, N)
    rows = _row_tile(pid, N)
    t = tl.arange(0, 16)
    kind = W.dtype.element_ty
    lw = tl.load(log_w + tile)
    G = tl.cumsum(lw, 0)
    total = tl.sum(lw, 0)
    tl.store(E + pid.to(tl.int64) * N + tl.arange(0, N), tl.exp(total))
    tl.store(AT + rows, (tl.load(a + tile).to(tl.float32) * tl.exp(G - lw)).to(kind))
    rt = tl.load(r + tile).to(tl.float32) * tl.exp(G)
    tl.store(RT + rows, rt.to(kind))
    bf = tl.load(b + tile).to(tl.float32)
    bh = bf * tl.exp(-G)
    inverse = tl.load(M + pid.to(tl.int64) * 256 + t[None, :] * 16 + t[:, None])
    be = bf * tl.exp(total[None, :] - G)
    tl.store(W + rows, tl.dot(inverse, be, input_precision=PRECISION).to(kind))
    Q_b = tl.where(
        t[:, None] >= t[None, :], tl.dot(rt, tl.trans(bh), input_precision=PRECISION), 0.0
    )
    MQ = tl.dot(inverse, tl.trans(Q_b), input_precision=PRECISION)
    zz = tl.dot(MQ, tl.load(dy + tile).to(tl.float32), input_precision=PRECISION)
    tl.store(U + _column_tile(pid, N), tl.trans(zz.to(kind)))


@triton.jit
def gradients(
    r, log_w, k, v, a, b, dy,
    states, u, d_states, dz,
    dr, dlog_w, dk, dv, da, db,
    n_head,
    N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One (chunk, head): gradients of all six inputs, from S0, u, dS at the chunk's end, and dz.

    dlog w = reverse running sum of [r.dr - k.dk - b.db + (a.da) of the next token] plus the
    colsum of S_end.dS. The products use the rounded operands of the matrix products, so that the
    terms that must cancel do so to float32 accuracy.
    """
    pid = tl.program_id(0)
    tile = _token_tile(pid // n_head, pid % n_head, n_head, N)
    columns = _column_tile(pid, N)
    t = tl.arange(0, 16)
    kind = states.dtype.element_ty
    out = dr.dtype.element_ty
    lower = t[:, None] >= t[None, :]
    strict = t[:, None] > t[None, :]
    lw = tl.load(log_w + tile)
    G = tl.cumsum(lw, 0)
    total = tl.sum(lw, 0)
    up = tl.exp(G)
    up_before = tl.exp(G - lw)
    down = tl.exp(-G)
    rt = (tl.load(r + tile).to(tl.float32) * up).to(kind)
    at = (tl.load(a + tile).to(tl.float32) * up_before).to(kind)
    kh = (tl.load(k + tile).to(tl.float32) * down).to(kind)
    bh = (tl.load(b + tile).to(tl.float32) * down).to(kind)
    vc = tl.load(v + tile).to(kind)
    dyc = tl.load(dy + tile).to(kind)
    ut = tl.load(u + columns)
    zt = tl.load(dz + columns)
    zc = tl.trans(zt)
    end = tl.exp(total)
    S = tl.load(states + _square_tile(pid, N))
    dS = tl.load(d_states + _square_tile(pid, N))
    colsum = end * tl.sum(S.to(tl.float32) * dS.to(tl.float32), 0)

    dQ_b = tl.where(lower, tl.dot(dyc, ut, input_precision=PRECISION), 0.0).to(kind)
    dQ_k = tl.where(lower, tl.dot(dyc, tl.trans(vc), input_precision=PRECISION), 0.0).to(kind)
    x = tl.dot(dyc, S, input_precision=PRECISION)
    x = tl.dot(dQ_b, bh, acc=x, input_precision=PRECISION)
    x = tl.dot(dQ_k, kh, acc=x, input_precision=PRECISION)
    tl.store(dr + tile, (x * up).to(out))
    Z = x * rt.to(tl.float32)

    dA_ab = tl.where(strict, tl.dot(zc, ut, input_precision=PRECISION), 0.0).to(kind)
    dA_ak = tl.where(strict, tl.dot(zc, tl.trans(vc), input_precision=PRECISION), 0.0).to(kind)
    x = tl.dot(zc, S, input_precision=PRECISION)
    x = tl.dot(dA_ab, bh, acc=x, input_precision=PRECISION)
    x = tl.dot(dA_ak, kh, acc=x, input_precision=PRECISION)
    tl.store(da + tile, (x * up_before).to(out))
    ada = x * at.to(tl.float32)
    Z += ada

    x = tl.dot(vc, dS, input_precision=PRECISION) * end[None, :]
    khf = kh.to(tl.float32)
    colsum += tl.sum(khf * x, 0)
    x = tl.dot(tl.trans(dA_ak), at, acc=x, input_precision=PRECISION)
    x = tl.dot(tl.trans(dQ_k), rt, acc=x, input_precision=PRECISION)
    tl.store(dk + tile, (x * down).to(out))
    Z -= x * khf

    x = tl.dot(tl.trans(ut), dS, input_precision=PRECISION) * end[None, :]
    bhf = bh.to(tl.float32)
    colsum += tl.sum(bhf * x, 0)
    x = tl.dot(tl.trans(dA_ab), at, acc=x, input_precision=PRECISION)
    x = tl.dot(tl.trans(dQ_b), rt, acc=x, input_precision=PRECISION)
    tl.store(db + tile, (x * down).to(out))
    Z -= x * bhf
    tl.store(dlog_w + tile, tl.cumsum(Z, 0, reverse=True) - ada + colsum[None, :])

    Q_k = tl.where(lower, tl.dot(rt, tl.trans(kh), input_precision=PRECISION), 0.0).to(kind)
    A_ak = tl.where(strict, tl.dot(at, tl.trans(kh), input_precision=PRECISION), 0.0).to(kind)
    ke = (khf * end[None, :]).to(kind)
    x = tl.dot(ke, tl.trans(dS), input_precision=PRECISION)
    x = tl.dot(tl.trans(Q_k), dyc, acc=x, input_precision=PRECISION)
    x = tl.dot(tl.trans(A_ak), zc, acc=x, input_precision=PRECISION)
    tl.store(dv + tile, x.to(out))
