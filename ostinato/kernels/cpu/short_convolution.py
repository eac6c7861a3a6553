"""The short causal convolution on a CPU, row by row.

    forwards    y_t = sum_k w_k x_{t-k}                                       no term reaches over a reset
    backwards   dx_p = sum_k w_k dy_{p+k},   dw_k = sum_p dy_{p+k} x_p        the inputs from before have p < 0

Rows are read as they lie in memory; the W rows that one step needs are still in the first cache. Four steps are made at
once where no document begins, so that filters are read, and their gradients added to, once for four. The gradient of the
filters is summed in slabs of time, then over the slabs in their order.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from ostinato.kernels.cpu.launch import VERSION, flat, kernel, threads
from ostinato.kernels.cpu.simd import OPERATIONS

SLAB = 256
"""Steps of a work item; filters are not longer."""

LANES = 32
"""Channels that are read at once."""

_op = OPERATIONS[LANES]
_load, _store, _splat, _fma, _mul = _op.load_some, _op.store_some, _op.splat, _op.fma, _op.mul


@njit
def _seen(reset, row, t, W):
    """How many inputs step t reads, its own the first: W, or those since its document began."""
    if len(reset) > 0:
        for k in range(min(W, t + 1)):
            if reset[row + t - k]:
                return k + 1
    return W


@njit
def _readers(reset, row, p, T, W):
    """How many steps would read the input of step p, itself the first: W, or those until a document begins."""
    if len(reset) > 0:
        for k in range(max(1, -p), min(W, T - p)):
            if reset[row + p + k]:
                return k
    return W


@njit
def _read(x, x_at, step, w, reset, row, y, begin, end, D, W):
    """The rows of y from begin to end; x_at is where the input of step `begin` is, W - 1 others lie before it."""
    t = begin
    while t < end:
        now, to = x_at + (t - begin) * step, (row + t) * D
        if t + 4 <= end and _seen(reset, row, t + 3, W + 3) == W + 3:
            for j in range(0, D, LANES):
                n = D - j
                at, w_0 = now + j, _load(w, j, n)
                y_0, y_1 = _mul(w_0, _load(x, at, n)), _mul(w_0, _load(x, at + step, n))
                y_2, y_3 = _mul(w_0, _load(x, at + 2 * step, n)), _mul(w_0, _load(x, at + 3 * step, n))
                for k in range(1, W):
                    at -= step
                    w_k = _load(w, k * D + j, n)
                    y_0, y_1 = _fma(w_k, _load(x, at, n), y_0), _fma(w_k, _load(x, at + step, n), y_1)
                    y_2 = _fma(w_k, _load(x, at + 2 * step, n), y_2)
                    y_3 = _fma(w_k, _load(x, at + 3 * step, n), y_3)
                _store(y, to + j, y_0, n)
                _store(y, to + D + j, y_1, n)
                _store(y, to + 2 * D + j, y_2, n)
                _store(y, to + 3 * D + j, y_3, n)
            t += 4
            continue
        taps = _seen(reset, row, t, W)
        for j in range(0, D, LANES):
            n = D - j
            y_0 = _mul(_load(w, j, n), _load(x, now + j, n))
            for k in range(1, taps):
                y_0 = _fma(_load(w, k * D + j, n), _load(x, now - k * step + j, n), y_0)
            _store(y, to + j, y_0, n)
        t += 1


@njit
def _back(
    x, x_at, step, d_x, d_at, begin, end, w, d_w, w_at, reset, row, d_y, y_at, y_step, d_after, after_at, T, D, W
):
    """The gradients of inputs begin to end, the first of which is at x_at and its gradient at d_at; d_w is added to."""
    p = begin
    while p < end:
        now, to = x_at + (p - begin) * step, d_at + (p - begin) * D
        if p >= 0 and p + 4 <= end and p + W + 3 <= T and _readers(reset, row, p, T, W + 3) == W + 3:
            for j in range(0, D, LANES):
                n = D - j
                x_0, x_1 = _load(x, now + j, n), _load(x, now + step + j, n)
                x_2, x_3 = _load(x, now + 2 * step + j, n), _load(x, now + 3 * step + j, n)
                d_0 = d_1 = d_2 = d_3 = _splat(np.float32(0))
                for k in range(W):
                    at, from_ = k * D + j, y_at + (p + k) * y_step + j
                    w_k, sum_ = _load(w, at, n), _load(d_w, w_at + at, n)
                    y_0, y_1 = _load(d_y, from_, n), _load(d_y, from_ + y_step, n)
                    y_2, y_3 = _load(d_y, from_ + 2 * y_step, n), _load(d_y, from_ + 3 * y_step, n)
                    d_0, d_1 = _fma(w_k, y_0, d_0), _fma(w_k, y_1, d_1)
                    d_2, d_3 = _fma(w_k, y_2, d_2), _fma(w_k, y_3, d_3)
                    sum_ = _fma(y_3, x_3, _fma(y_2, x_2, _fma(y_1, x_1, _fma(y_0, x_0, sum_))))
                    _store(d_w, w_at + at, sum_, n)
                _store(d_x, to + j, d_0, n)
                _store(d_x, to + D + j, d_1, n)
                _store(d_x, to + 2 * D + j, d_2, n)
                _store(d_x, to + 3 * D + j, d_3, n)
            p += 4
            continue
        readers = _readers(reset, row, p, T, W)
        for j in range(0, D, LANES):
            n = D - j
            x_0, d_0 = _load(x, now + j, n), _splat(np.float32(0))
            if p + W > T and readers > T - 1 - p:  # it is among the last W - 1, and no document begins after it
                d_0 = _load(d_after, after_at + (p + W - 1 - T) * D + j, n)
            for k in range(max(0, -p), min(readers, T - p)):
                y_0, at = _load(d_y, y_at + (p + k) * y_step + j, n), k * D + j
                d_0 = _fma(_load(w, at, n), y_0, d_0)
                _store(d_w, w_at + at, _fma(y_0, x_0, _load(d_w, w_at + at, n)), n)
            _store(d_x, to + j, d_0, n)
        p += 1


@cache
def _forward() -> Callable[..., None]:
    version = VERSION

    @kernel
    def forward(x, w, state, reset, y, after, x_row, x_step, B, T, D, W):
        slabs = (T + SLAB - 1) // SLAB
        for item in prange(B * slabs):
            b, begin = item // slabs, item % slabs * SLAB
            end, x_at, state_at = min(T, begin + SLAB), b * x_row, b * (W - 1) * D
            if begin == 0:
                # the first steps read a copy of the inputs from before and their own
                first = min(W - 1, T)
                near = np.empty((W - 1 + first) * D, np.float32)
                for i in range((W - 1) * D):
                    near[i] = state[state_at + i]
                for t in range(first):
                    for j in range(D):
                        near[(W - 1 + t) * D + j] = x[x_at + t * x_step + j]
                _read(near, (W - 1) * D, D, w, reset, b * T, y, 0, first, D, W)
                begin = first
            _read(x, x_at + begin * x_step, x_step, w, reset, b * T, y, begin, end, D, W)
            if end == T:
                for p in range(T - W + 1, T):
                    at, kept = state_at + (p + W - 1 - T) * D, _readers(reset, b * T, p, T, W) >= T - p
                    for j in range(D):
                        value = state[state_at + (p + W - 1) * D + j] if p < 0 else x[x_at + p * x_step + j]
                        after[at + j] = value if kept else np.float32(0)
        return version

    return forward


@cache
def _backward() -> Callable[..., None]:
    version = VERSION

    @kernel
    def backward(x, w, state, reset, d_y, d_after, d_x, d_w, d_state, parts, strides, B, T, D, W):
        # strides: for x and d_y the distance between rows of the batch and steps
        slabs = (T + SLAB - 1) // SLAB
        for item in prange(B * slabs):
            b, begin = item // slabs, item % slabs * SLAB
            state_at = b * (W - 1) * D
            x_at, y_at, x_step, y_step = b * strides[0, 0], b * strides[1, 0], strides[0, 1], strides[1, 1]
            if begin == 0:
                _back(
                    state, state_at, D, d_state, state_at, 1 - W, 0, w, parts, item * W * D,
                    reset, b * T, d_y, y_at, y_step, d_after, state_at, T, D, W,
                )  # fmt: skip
            _back(
                x, x_at + begin * x_step, x_step, d_x, (b * T + begin) * D, begin, min(T, begin + SLAB), w, parts, item * W * D,
                reset, b * T, d_y, y_at, y_step, d_after, state_at, T, D, W,
            )  # fmt: skip
        for item in range(B * slabs):
            for i in range(W * D):
                d_w[i] += parts[item * W * D + i]
        return version

    return backward


def _numbers(x: Tensor) -> np.ndarray:
    return x.detach().contiguous().view(-1).numpy()


def _taps(weight: Tensor) -> Tensor:
    """Filters (D, W), the newest tap last, as rows (W, D), the newest tap first; and back."""
    return weight.flip(1).T.contiguous()


def _resets(reset: Tensor | None) -> np.ndarray:
    return np.zeros(0, np.bool_) if reset is None else _numbers(reset)


@torch.library.custom_op("ostinato::short_convolution", mutates_args=(), device_types="cpu")
def short_convolution(x: Tensor, weight: Tensor, state: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """The form "cpu" of op:short_convolution, float32."""
    (B, T, D), W = x.shape, weight.shape[1]
    y, after = x.new_empty(x.shape), state.new_empty(state.shape)
    x_, (row, step, _) = flat(x)
    arrays = (_numbers(_taps(weight)), _numbers(state), _resets(reset), _numbers(y), _numbers(after))
    with threads():
        _forward()(x_, *arrays, row, step, B, T, D, W)
    return y, after


@short_convolution.register_fake
def _(x: Tensor, weight: Tensor, state: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), state.new_empty(state.shape)


@torch.library.custom_op("ostinato::short_convolution_backward", mutates_args=(), device_types="cpu")
def short_convolution_backward(
    x: Tensor, weight: Tensor, state: Tensor, reset: Tensor | None, d_y: Tensor, d_after: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to x, weight and state."""
    (B, T, D), W = x.shape, weight.shape[1]
    d_x, d_w, d_state = x.new_empty(x.shape), x.new_zeros(W, D), state.new_empty(state.shape)
    parts = x.new_zeros(B, -(-T // SLAB), W, D)
    (x_, x_strides), (d_y_, y_strides) = flat(x), flat(d_y)
    with threads():
        _backward()(
            x_, _numbers(_taps(weight)), _numbers(state), _resets(reset), d_y_, _numbers(d_after),
            *(_numbers(part) for part in (d_x, d_w, d_state, parts)), np.array([x_strides[:2], y_strides[:2]]), B, T, D, W,
        )  # fmt: skip
    return d_x, d_w.T.flip(1).contiguous(), d_state


@short_convolution_backward.register_fake
def _(
    x: Tensor, weight: Tensor, state: Tensor, reset: Tensor | None, d_y: Tensor, d_after: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), state.new_empty(state.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, d_y: Tensor, d_after: Tensor) -> tuple[Tensor | None, ...]:
    return *short_convolution_backward(*ctx.saved_tensors, d_y, d_after), None


short_convolution.register_autograd(_gradients, setup_context=_save)
