"""The delta rule and diagonal plus low rank on a CPU: a sweep over time in which the state is read and written once a step.

    r = p^T S,   S = diag(w) S + k u^T [+ b r^T],   y = S^T q
    delta rule    p = w k,  u = beta (v - r)
    low rank      p = a,    u = v,  and b writes what a read

Columns of S do not see one another, so that a tile of columns is a work item of its own; it stays in the first cache.
While a row of it is in registers, it decays, takes k u, is read by q, and is read by the p of the next step.

The way back is, with x for the gradient of S_t once y_t is part of it,

    x = dS + q dy^T      dq = S_t dy      dk = x u      du = x^T k      [db = x r    dr = x^T b]
    dp = S_{t-1} dr      dw = sum over columns of x S_{t-1}             dS = diag(w) x + p dr^T
    delta rule    dv = beta du,   dr = -beta du,   dbeta = du . (v - r)

S_t is needed from the last step to the first. The states before every STEPS steps are saved, with r; those between are
computed again. The lanes of vectors are keys here, and not columns: three of the four sums are sums over columns.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import njit, prange
from numba.extending import overload, register_jitable
from torch import Tensor

from ostinato.kernels.cpu.launch import VERSION, flat, kernel, threads
from ostinato.kernels.cpu.simd import OPERATIONS, scalar, transpose_16

STEPS = 32
"""Steps between saved states."""

COLUMNS = 16
"""Columns of the state that go back through STEPS steps together: few, so that their states stay in a near cache."""

NOTHING, HEAD, KEY = range(3)
"""What a decay belongs to."""


def sweep_columns(lanes, decays, low_rank, arrays, at, steps, S, s_at, begins, begins_at, tile, T, K, V, save):
    """`lanes` columns of the state over T steps."""
    raise NotImplementedError("only inside a kernel")


@overload(sweep_columns, prefer_literal=True)
def _sweep_columns(lanes, decays, low_rank, arrays, at, steps, S, s_at, begins, begins_at, tile, T, K, V, save):
    op, width = OPERATIONS[lanes.literal_value], lanes.literal_value
    load, store, splat, fma, mul, sub = op.load, op.store, op.splat, op.fma, op.mul, op.sub
    belongs, two = decays.literal_value, low_rank.literal_value

    @njit(inline="always")
    def reads(a: Any, a_at: int, k: Any, k_at: int, w: Any, w_at: int, i: int) -> Any:
        if two:
            return splat(scalar(a, a_at + i))
        if belongs == KEY:
            return splat(scalar(w, w_at + i) * scalar(k, k_at + i))
        if belongs == HEAD:
            return splat(scalar(w, w_at) * scalar(k, k_at + i))
        return splat(scalar(k, k_at + i))

    @njit(inline="always")
    def kept(w: Any, w_at: int, i: int, s: Any) -> Any:
        if belongs == KEY:
            return mul(splat(scalar(w, w_at + i)), s)
        if belongs == HEAD:
            return mul(splat(scalar(w, w_at)), s)
        return s

    def run(lanes, decays, low_rank, arrays, at, steps, S, s_at, begins, begins_at, tile, T, K, V, save):
        q, k, v, a, b, w, beta, y, r = arrays
        q_at, k_at, v_at, a_at, b_at, w_at, beta_at, y_at, r_at = at
        for i in range(K):
            store(tile, i * width, load(S, s_at + i * V))
        nothing = splat(np.float32(0))
        found = nothing
        for t in range(T):
            if t % STEPS == 0:
                found = nothing
                for i in range(K):
                    s = load(tile, i * width)
                    found = fma(reads(a, a_at, k, k_at, w, w_at, i), s, found)
                    if save:
                        store(begins, begins_at + i * V, s)
                begins_at += K * V
            u = load(v, v_at)
            if not two:
                u = mul(splat(scalar(beta, beta_at)), sub(u, found))
            store(r, r_at, found)
            ahead = 0 if t + 1 == T else 1
            a_next, k_next, w_next = a_at + ahead * steps[3], k_at + ahead * steps[1], w_at + ahead * steps[5]
            y_t, found_next = nothing, nothing
            for i in range(K):
                s = kept(w, w_at, i, load(tile, i * width))
                s = fma(splat(scalar(k, k_at + i)), u, s)
                if two:
                    s = fma(splat(scalar(b, b_at + i)), found, s)
                store(tile, i * width, s)
                y_t = fma(splat(scalar(q, q_at + i)), s, y_t)
                found_next = fma(reads(a, a_next, k, k_next, w, w_next, i), s, found_next)
            store(y, y_at, y_t)
            found = found_next
            a_at, k_at, w_at = a_next, k_next, w_next
            q_at, v_at, b_at = q_at + steps[0], v_at + steps[2], b_at + steps[4]
            beta_at, y_at, r_at = beta_at + steps[6], y_at + steps[7], r_at + steps[8]
        for i in range(K):
            store(S, s_at + i * V, load(tile, i * width))

    return run


@register_jitable
def room(size):
    """An array that begins with a line of the cache, so that no vector lies across two."""
    x = np.empty(size + 16, np.float32)
    return x[-(x.ctypes.data // 4) % 16 :]


@cache
def _forward(lanes: int, decays: int, low_rank: bool) -> Callable[..., None]:
    """The compiled sweep of that kind, made at its first use."""
    version = VERSION

    @kernel
    def sweep(q, k, v, a, b, w, beta, y, r, S, begins, strides, B, T, H, K, V, save):
        tiles, saved = V // lanes, (T + STEPS - 1) // STEPS
        for item in prange(B * H * tiles):
            head, j = item // tiles, item % tiles * lanes
            n, h = head // H, head % H
            x = strides[:, 0] * n + strides[:, 2] * h
            d = strides[:, 1]
            sweep_columns(
                lanes, decays, low_rank, (q, k, v, a, b, w, beta, y, r),
                (x[0], x[1], x[2] + j, x[3], x[4], x[5], x[6], x[7] + j, x[8] + j),
                (d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7], d[8]),
                S, head * K * V + j, begins, head * saved * K * V + j, room(K * lanes), T, K, V, save,
            )  # fmt: skip
        return version

    return sweep


def walk_back(lanes, decays, low_rank, inputs, at, steps, out, o_at, states, rooms, d_S, x_at, start, n, j, H, K, V):
    """COLUMNS columns of the state, rows here, through the steps start .. start + n - 1, the last first."""
    raise NotImplementedError("only inside a kernel")


@overload(walk_back, prefer_literal=True)
def _walk_back(lanes, decays, low_rank, inputs, at, steps, out, o_at, states, rooms, d_S, x_at, start, n, j, H, K, V):
    op, width, few = OPERATIONS[lanes.literal_value], lanes.literal_value, OPERATIONS[COLUMNS]
    load, store, splat, fma, mul, add = op.load, op.store, op.splat, op.fma, op.mul, op.add
    total, totals = op.total, op.totals
    load_few, store_few, splat_few, mul_few = few.load, few.store, few.splat, few.mul
    add_few, sub_few, total_few = few.add, few.sub, few.total
    belongs, two = decays.literal_value, low_rank.literal_value

    @njit(inline="always")
    def decay(w: Any, w_at: int, i: int) -> Any:
        if belongs == KEY:
            return load(w, w_at + i)
        if belongs == HEAD:
            return splat(scalar(w, w_at))
        return splat(np.float32(1))

    @njit(inline="always")
    def kept(w: Any, s: Any) -> Any:
        return s if belongs == NOTHING else mul(w, s)

    def run(lanes, decays, low_rank, inputs, at, steps, out, o_at, states, rooms, d_S, x_at, start, n, j, H, K, V):
        q, k, v, a, b, w, beta, r, d_y = inputs
        q_0, k_0, v_0, a_0, b_0, w_0, beta_0, r_0, dy_0 = at
        d_q, d_k, d_v, d_a, d_b, d_w, d_beta = out
        written, by_k, by_b, d_r = rooms
        size = COLUMNS * K
        nothing, nothing_few = splat(np.float32(0)), splat_few(np.float32(0))

        # what was written, and the states after each step: the one before the first step is there
        for t in range(n):
            v_t, r_t, u_t = v_0 + (start + t) * steps[2], r_0 + (start + t) * steps[7], t * COLUMNS
            k_t, b_t, w_t = k_0 + (start + t) * steps[1], b_0 + (start + t) * steps[4], w_0 + (start + t) * steps[5]
            u = load_few(v, v_t)
            if not two:
                u = mul_few(splat_few(scalar(beta, beta_0 + (start + t) * steps[6])), sub_few(u, load_few(r, r_t)))
            store_few(written, u_t, u)
            for i in range(0, K, width):
                k_i, w_i = load(k, k_t + i), decay(w, w_t, i)
                b_i = load(b, b_t + i) if two else nothing
                s_at = t * size + i
                for row in range(COLUMNS):
                    s = fma(splat(scalar(written, u_t + row)), k_i, kept(w_i, load(states, s_at)))
                    if two:
                        s = fma(splat(scalar(r, r_t + row)), b_i, s)
                    store(states, s_at + size, s)
                    s_at += K

        for back in range(n):
            t = n - 1 - back
            q_t, k_t, b_t = q_0 + (start + t) * steps[0], k_0 + (start + t) * steps[1], b_0 + (start + t) * steps[4]
            a_t, w_t, v_t = a_0 + (start + t) * steps[3], w_0 + (start + t) * steps[5], v_0 + (start + t) * steps[2]
            r_t, dy_t = r_0 + (start + t) * steps[7], dy_0 + (start + t) * steps[8]
            u_t, o_t = t * COLUMNS, o_at + (start + t) * H

            du, dr_b = nothing_few, nothing_few
            for i in range(0, K, width):
                q_i, k_i = load(q, q_t + i), load(k, k_t + i)
                b_i = load(b, b_t + i) if two else nothing
                dq, dk = load(d_q, o_t * K + i), load(d_k, o_t * K + i)
                db = load(d_b, o_t * K + i) if two else nothing
                s_at, d_at = (t + 1) * size + i, x_at + i
                for row in range(COLUMNS):
                    dy, u = splat(scalar(d_y, dy_t + row)), splat(scalar(written, u_t + row))
                    x = fma(dy, q_i, load(d_S, d_at))
                    store(d_S, d_at, x)
                    dq = fma(dy, load(states, s_at), dq)
                    dk = fma(u, x, dk)
                    store(by_k, row * width, mul(k_i, x))
                    if two:
                        db = fma(splat(scalar(r, r_t + row)), x, db)
                        store(by_b, row * width, mul(b_i, x))
                    s_at, d_at = s_at + K, d_at + K
                store(d_q, o_t * K + i, dq)
                store(d_k, o_t * K + i, dk)
                if two:
                    store(d_b, o_t * K + i, db)
                du = add_few(du, totals(by_k, 0))
                if two:
                    dr_b = add_few(dr_b, totals(by_b, 0))

            if two:
                store_few(d_v, o_t * V + j, du)
                store_few(d_r, 0, dr_b)
            else:
                dv = mul_few(splat_few(scalar(beta, beta_0 + (start + t) * steps[6])), du)
                store_few(d_v, o_t * V + j, dv)
                store_few(d_r, 0, sub_few(nothing_few, dv))
                d_beta[o_t] += total_few(mul_few(du, sub_few(load_few(v, v_t), load_few(r, r_t))))

            for i in range(0, K, width):
                w_i = decay(w, w_t, i)
                p_i = load(a, a_t + i) if two else kept(w_i, load(k, k_t + i))
                dp, dw = nothing, nothing
                s_at, d_at = t * size + i, x_at + i
                for row in range(COLUMNS):
                    dr, s, x = splat(scalar(d_r, row)), load(states, s_at), load(d_S, d_at)
                    dp = fma(dr, s, dp)
                    if belongs != NOTHING:
                        dw = fma(x, s, dw)
                    store(d_S, d_at, fma(dr, p_i, kept(w_i, x)))
                    s_at, d_at = s_at + K, d_at + K
                if two:
                    store(d_a, o_t * K + i, add(load(d_a, o_t * K + i), dp))
                else:
                    store(d_k, o_t * K + i, add(load(d_k, o_t * K + i), kept(w_i, dp)))
                    if belongs != NOTHING:
                        dw = fma(load(k, k_t + i), dp, dw)
                if belongs == KEY:
                    store(d_w, o_t * K + i, add(load(d_w, o_t * K + i), dw))
                if belongs == HEAD:
                    d_w[o_t] += total(dw)

    return run


@cache
def _backward(lanes: int, decays: int, low_rank: bool) -> Callable[..., None]:
    """The compiled way back of that kind, made at its first use."""
    version = VERSION

    @kernel
    def walk(q, k, v, a, b, w, beta, r, d_y, begins, d_S, d_q, d_k, d_v, d_a, d_b, d_w, d_beta, strides, B, T, H, K, V):
        saved = (T + STEPS - 1) // STEPS
        for head in prange(B * H):
            n, h = head // H, head % H
            x = strides[:, 0] * n + strides[:, 2] * h
            d = strides[:, 1]
            states = room((STEPS + 1) * COLUMNS * K)
            rooms = (room(STEPS * COLUMNS), room(COLUMNS * lanes), room(COLUMNS * lanes), room(COLUMNS))
            for m in range(saved - 1, -1, -1):
                for j in range(0, V, COLUMNS):
                    begin = (head * saved + m) * K * V + j
                    for i in range(0, K, 16):
                        transpose_16(begins, begin + i * V, V, states, i, K)
                    walk_back(
                        lanes, decays, low_rank, (q, k, v, a, b, w, beta, r, d_y),
                        (x[0], x[1], x[2] + j, x[3], x[4], x[5], x[6], x[7] + j, x[8] + j),
                        (d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7], d[8]),
                        (d_q, d_k, d_v, d_a, d_b, d_w, d_beta), n * T * H + h, states, rooms, d_S, (head * V + j) * K,
                        m * STEPS, min(STEPS, T - m * STEPS), j, H, K, V,
                    )  # fmt: skip
        return version

    return walk


def _belongs(w: Tensor | None) -> int:
    return NOTHING if w is None else KEY if w.ndim == 4 else HEAD


def _lanes(N: int) -> int:
    """The widest vectors that N numbers fill."""
    return next(lanes for lanes in (64, 32, 16) if N % lanes == 0)


def _views(*tensors: Tensor) -> tuple[list[np.ndarray], np.ndarray]:
    """Flat arrays and their strides along B, T and H."""
    parts = [flat(x) for x in tensors]
    return [array for array, _ in parts], np.array([stride for _, stride in parts])


def _forgets(a: Tensor | None, g: Tensor | None) -> Tensor | None:
    """Where g is -inf, so that a does not read; None if it reads everywhere."""
    if a is None or g is None or not (forgets := g == -torch.inf).any():
        return None
    return forgets if g.ndim == 4 else forgets[..., None]


@torch.library.custom_op("ostinato::delta_rule", mutates_args=(), device_types="cpu")
def delta_rule(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor | None, b: Tensor | None, beta: Tensor | None, g: Tensor | None,
    S: Tensor, save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The form "cpu" of op:delta_rule (a and b are None) and of op:dplr (beta is None): float32, K and V multiples of 16.

    Returns y and S after the last step; r of every step and the states before every STEPS steps, empty unless saved for
    a way back.
    """
    (B, T, H, K), V = q.shape, v.shape[-1]
    w, forgets = None if g is None else g.exp(), _forgets(a, g)
    a = a if forgets is None else a.masked_fill(forgets, 0)
    y, after = torch.empty(B, T, H, V, dtype=torch.float32), S.clone(memory_format=torch.contiguous_format)
    r = torch.empty(B, T if save else 1, H, V, dtype=torch.float32)
    begins = torch.empty(B, H, -(-T // STEPS) if save else 0, K, V, dtype=torch.float32)
    arrays, strides = _views(q, k, v, *(q if x is None else x for x in (a, b, w, beta)), y, r)
    if not save:  # one room for r, for all steps
        strides[-1, 1] = 0
    with threads():
        _forward(_lanes(V), _belongs(w), b is not None)(
            *arrays, after.view(-1).numpy(), begins.view(-1).numpy(), strides, B, T, H, K, V, save
        )
    return y, after, r if save else torch.empty(0, dtype=torch.float32), begins


@delta_rule.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor | None, b: Tensor | None, beta: Tensor | None, g: Tensor | None,
    S: Tensor, save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    (B, T, H, K), V = q.shape, v.shape[-1]
    begins = S.new_empty(B, H, -(-T // STEPS) if save else 0, K, V)
    return v.new_empty(v.shape), S.new_empty(S.shape), v.new_empty(v.shape if save else 0), begins


@torch.library.custom_op("ostinato::delta_rule_backward", mutates_args=(), device_types="cpu")
def delta_rule_backward(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor | None, b: Tensor | None, beta: Tensor | None, g: Tensor | None,
    r: Tensor, begins: Tensor, d_y: Tensor, d_after: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients with respect to q, k, v, a, b, beta, g and S; empty for those that are None."""
    (B, T, H, K), V = q.shape, v.shape[-1]
    w, forgets = None if g is None else g.exp(), _forgets(a, g)
    a = a if forgets is None else a.masked_fill(forgets, 0)
    arrays, strides = _views(q, k, v, *(q if x is None else x for x in (a, b, w, beta)), r, d_y)
    d_q, d_k, d_a, d_b, d_w, d_beta = (
        torch.zeros(0 if x is None else x.shape, dtype=torch.float32) for x in (q, k, a, b, w, beta)
    )
    d_v, d_S = torch.empty(v.shape, dtype=torch.float32), d_after.mT.clone(memory_format=torch.contiguous_format)
    outputs = (x.view(-1).numpy() for x in (d_S, d_q, d_k, d_v, d_a, d_b, d_w, d_beta))
    with threads():
        _backward(_lanes(K), _belongs(w), b is not None)(
            *arrays, begins.view(-1).numpy(), *outputs, strides, B, T, H, K, V
        )
    if forgets is not None:
        d_a.masked_fill_(forgets, 0)
    if w is not None:
        d_w.mul_(w)
    return d_q, d_k, d_v, d_a, d_b, d_beta, d_w, d_S.mT.contiguous()


@delta_rule_backward.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor | None, b: Tensor | None, beta: Tensor | None, g: Tensor | None,
    r: Tensor, begins: Tensor, d_y: Tensor, d_after: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return tuple(q.new_empty(0 if x is None else x.shape) for x in (q, k, v, a, b, beta, g, d_after))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *inputs, S, _ = inputs
    _, _, r, begins = output
    ctx.set_materialize_grads(False)
    ctx.shape_of_S = S.shape
    ctx.save_for_backward(*inputs, r, begins)


def _gradients(ctx: Any, d_y: Tensor | None, d_after: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    *inputs, r, begins = ctx.saved_tensors
    v = inputs[2]
    d_y = v.new_zeros(v.shape) if d_y is None else d_y
    d_after = v.new_zeros(ctx.shape_of_S) if d_after is None else d_after
    *gradients, d_S = delta_rule_backward(*inputs, r, begins, d_y, d_after)
    return *(None if x is None else d_x for x, d_x in zip(inputs, gradients, strict=True)), d_S, None


delta_rule.register_autograd(_gradients, setup_context=_save)
