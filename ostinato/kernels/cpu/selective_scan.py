"""The selective scan on a CPU: states in registers, decays made where they are used.

    forwards    a_t = exp(dt_t A),   h_t = a_t h_{t-1} + u_t B_t,   y_t = h_t C_t + D x_t                with u = dt x
    backwards   g_t = a_{t+1} g_{t+1} + C_t dy_t                            the gradient of h_t, from the last to the first
                dB_t = u_t g_t,   dC_t = h_t dy_t                                          summed over all channels
                du_t = B_t g_t,   d(dt)_t = A a_t h_{t-1} g_t + x_t du_t                   summed over the states of a channel
                dA = dt_t a_t h_{t-1} g_t                                                  summed over time

A tile is one of the N states of `LANES` channels for a chunk of time. What it reads and adds to stays in the first cache
while the tiles of all N states pass over it. Kept for the backward pass are the states with which chunks begin: it makes
the states and decays of a chunk again and walks back through them.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from ostinato.kernels.cpu.launch import VERSION, flat, kernel, threads
from ostinato.kernels.cpu.simd import OPERATIONS, scalar

LANES = 32
"""Channels of a tile."""

BLOCK = 64
"""Channels of a work item. A sum over channels is made in blocks of so many, then over the blocks in their order."""

CHUNK = 32
"""Steps of a chunk, a multiple of 16."""

LOG2_E, LOG_2 = np.float32(1.4426950408889634), np.float32(0.6931471805599453)
"""Powers of 2 are quicker: A is multiplied by log2(e) at the beginning, and a sum over its multiples by log(2) at the end."""

_op, _op_16 = OPERATIONS[LANES], OPERATIONS[16]
_load, _store, _load_some, _store_some = _op.load, _op.store, _op.load_some, _op.store_some
_splat, _fma, _mul, _add, _exp2, _totals = _op.splat, _op.fma, _op.mul, _op.add, _op.exp2, _op.totals
_load_16, _store_16, _splat_16, _add_16 = _op_16.load, _op_16.store, _op_16.splat, _op_16.add


@njit
def _room(count):
    """Zeros that begin with a cache line: a vector that lies across two takes twice as long."""
    room = np.zeros(count + 16, np.float32)
    start = -(room.ctypes.data // 4) % 16
    return room[start : start + count]


@njit
def _read(dt, u, A, kept, B, b_at, b_step, C, c_at, c_step, h, y, steps):
    """Walk through a tile and add what is read to y; returns the state after it."""
    zero = _splat(np.float32(0))
    for i in range(steps):
        at = i * LANES
        written = _mul(_load(u, at), _splat(scalar(B, b_at + i * b_step)))
        a = _exp2(_mul(_load(dt, at), A)) if scalar(kept, i) > 0 else zero
        h = _fma(a, h, written)
        _store(y, at, _fma(h, _splat(scalar(C, c_at + i * c_step)), _load(y, at)))
    return h


@njit
def _remember(dt, u, A, kept, B, b_at, b_step, h, decays, states, steps):
    """Walk through a tile and write down its decays, and its states from the one before on."""
    zero = _splat(np.float32(0))
    _store(states, 0, h)
    for i in range(steps):
        at = i * LANES
        a = _exp2(_mul(_load(dt, at), A)) if scalar(kept, i) > 0 else zero
        h = _fma(a, h, _mul(_load(u, at), _splat(scalar(B, b_at + i * b_step))))
        _store(decays, at, a)
        _store(states, at + LANES, h)


@njit
def _back(dt, u, d_y, A, B, b_at, b_step, C, c_at, c_step, decays, states, g, d_A, d_u, d_dt, d_B, d_C, steps):
    """Walk back through a tile; d_u and d_dt are added to. Returns the gradient of the state before, and that of A."""
    h = _load(states, steps * LANES)
    for i in range(steps - 1, -1, -1):
        at = i * LANES
        d = _load(d_y, at)
        g = _fma(_splat(scalar(C, c_at + i * c_step)), d, g)
        _store(d_C, at, _mul(h, d))
        _store(d_B, at, _mul(_load(u, at), g))
        _store(d_u, at, _fma(_splat(scalar(B, b_at + i * b_step)), g, _load(d_u, at)))
        g = _mul(_load(decays, at), g)
        h = _load(states, at)
        d_log = _mul(g, h)
        _store(d_dt, at, _fma(d_log, A, _load(d_dt, at)))
        d_A = _fma(d_log, _load(dt, at), d_A)
    return g, d_A


@cache
def _forward() -> Callable[..., None]:
    version = VERSION

    @kernel
    def forward(x, dt, A, B, C, D, h, reset, y, begins, after, strides, rows, T, width, N):
        # strides: for x dt B C the distance between rows of the batch and steps
        blocks, chunks = (width + LANES - 1) // LANES, (T + CHUNK - 1) // CHUNK
        for item in prange(rows * blocks):
            b, first = item // blocks, item % blocks * LANES
            count = min(LANES, width - first)
            A_, h_ = _room(N * LANES), _room(N * LANES)
            for i in range(count):
                for n in range(N):
                    A_[n * LANES + i] = LOG2_E * A[(first + i) * N + n]
                    h_[n * LANES + i] = h[(b * width + first + i) * N + n]
            D_ = _load_some(D, first, count) if len(D) > 0 else _splat(np.float32(0))
            dt_, u_ = _room(CHUNK * LANES), _room(CHUNK * LANES)
            y_, kept = _room(CHUNK * LANES), np.ones(CHUNK, np.float32)
            for m in range(chunks):
                t = m * CHUNK
                steps = min(CHUNK, T - t)
                if len(reset) > 0:
                    for i in range(steps):
                        kept[i] = 0 if reset[b * T + t + i] else 1
                for i in range(steps):
                    x_i = _load_some(x, b * strides[0, 0] + (t + i) * strides[0, 1] + first, count)
                    dt_i = _load_some(dt, b * strides[1, 0] + (t + i) * strides[1, 1] + first, count)
                    _store(dt_, i * LANES, dt_i)
                    _store(u_, i * LANES, _mul(dt_i, x_i))
                    _store(y_, i * LANES, _mul(D_, x_i) if len(D) > 0 else D_)
                b_at, c_at = b * strides[2, 0] + t * strides[2, 1], b * strides[3, 0] + t * strides[3, 1]
                for n in range(N):
                    before = _load(h_, n * LANES)
                    _store_some(begins, ((b * chunks + m) * N + n) * width + first, before, count)
                    state = _read(
                        dt_, u_, _load(A_, n * LANES), kept,
                        B, b_at + n, strides[2, 1], C, c_at + n, strides[3, 1], before, y_, steps,
                    )  # fmt: skip
                    _store(h_, n * LANES, state)
                for i in range(steps):
                    _store_some(y, (b * T + t + i) * width + first, _load(y_, i * LANES), count)
            for i in range(count):
                for n in range(N):
                    after[(b * width + first + i) * N + n] = h_[n * LANES + i]
        return version

    return forward


@cache
def _backward() -> Callable[..., None]:
    version = VERSION

    @kernel
    def backward(
        x, dt, A, B, C, D, reset, begins, d_y, d_after,
        d_x, d_dt, d_A, d_B, d_C, d_D, d_h, part_B, part_C, strides, rows, T, width, N,
    ):  # fmt: skip
        # strides: for x dt B C d_y the distance between rows of the batch and steps
        blocks, chunks = (width + BLOCK - 1) // BLOCK, (T + CHUNK - 1) // CHUNK
        for item in prange(rows * blocks):
            b, block = item // blocks, item % blocks
            size = CHUNK * LANES
            A_, g_, d_A_ = _room(N * BLOCK), _room(N * BLOCK), _room(N * BLOCK)
            for i in range(min(BLOCK, width - block * BLOCK)):
                for n in range(N):
                    A_[n * BLOCK + i] = LOG2_E * A[(block * BLOCK + i) * N + n]
                    g_[n * BLOCK + i] = d_after[(b * width + block * BLOCK + i) * N + n]
            dt_, u_, d_y_ = _room(size), _room(size), _room(size)
            d_u_, d_dt_ = _room(size), _room(size)
            decays, states = _room(size), _room(size + LANES)
            d_B_, d_C_ = _room(size), _room(size)
            sums_B, sums_C = _room(N * CHUNK), _room(N * CHUNK)
            kept, zero, log_2 = np.ones(CHUNK, np.float32), _splat(np.float32(0)), _splat(LOG_2)
            for m in range(chunks - 1, -1, -1):
                t = m * CHUNK
                steps = min(CHUNK, T - t)
                if len(reset) > 0:
                    for i in range(steps):
                        kept[i] = 0 if reset[b * T + t + i] else 1
                b_at, c_at = b * strides[2, 0] + t * strides[2, 1], b * strides[3, 0] + t * strides[3, 1]
                for i in range(N * CHUNK):
                    sums_B[i] = sums_C[i] = 0
                for part in range(0, min(BLOCK, width - block * BLOCK), LANES):
                    first = block * BLOCK + part
                    count = min(LANES, width - first)
                    for i in range(steps):
                        x_i = _load_some(x, b * strides[0, 0] + (t + i) * strides[0, 1] + first, count)
                        dt_i = _load_some(dt, b * strides[1, 0] + (t + i) * strides[1, 1] + first, count)
                        d_i = _load_some(d_y, b * strides[4, 0] + (t + i) * strides[4, 1] + first, count)
                        _store(dt_, i * LANES, dt_i)
                        _store(u_, i * LANES, _mul(dt_i, x_i))
                        _store(d_y_, i * LANES, d_i)
                        _store(d_u_, i * LANES, zero)
                        _store(d_dt_, i * LANES, zero)
                    for n in range(N):
                        own = n * BLOCK + part
                        A_n = _load(A_, own)
                        before = _load_some(begins, ((b * chunks + m) * N + n) * width + first, count)
                        _remember(dt_, u_, A_n, kept, B, b_at + n, strides[2, 1], before, decays, states, steps)
                        g, d_A_n = _back(
                            dt_, u_, d_y_, A_n, B, b_at + n, strides[2, 1], C, c_at + n, strides[3, 1],
                            decays, states, _load(g_, own), zero, d_u_, d_dt_, d_B_, d_C_, steps,
                        )  # fmt: skip
                        _store(g_, own, g)
                        _store(d_A_, own, _add(_load(d_A_, own), d_A_n))
                        for i in range(0, CHUNK, 16):
                            at = n * CHUNK + i
                            _store_16(sums_B, at, _add_16(_load_16(sums_B, at), _totals(d_B_, i * LANES)))
                            _store_16(sums_C, at, _add_16(_load_16(sums_C, at), _totals(d_C_, i * LANES)))
                    D_ = _load_some(D, first, count) if len(D) > 0 else zero
                    d_D_n = zero
                    for i in range(steps):
                        at = (b * T + t + i) * width + first
                        x_i = _load_some(x, b * strides[0, 0] + (t + i) * strides[0, 1] + first, count)
                        d_i, d_u = _load(d_y_, i * LANES), _load(d_u_, i * LANES)
                        d_x_i = _mul(d_u, _load(dt_, i * LANES))
                        if len(D) > 0:
                            d_x_i = _fma(D_, d_i, d_x_i)
                            d_D_n = _fma(d_i, x_i, d_D_n)
                        _store_some(d_x, at, d_x_i, count)
                        _store_some(d_dt, at, _fma(d_u, x_i, _mul(log_2, _load(d_dt_, i * LANES))), count)
                    if len(D) > 0:
                        at = b * width + first
                        _store_some(d_D, at, _add(_load_some(d_D, at, count), d_D_n), count)
                at = ((b * chunks + m) * blocks + block) * N * CHUNK
                for i in range(0, N * CHUNK, 16):
                    _store_16(part_B, at + i, _load_16(sums_B, i))
                    _store_16(part_C, at + i, _load_16(sums_C, i))
            for i in range(min(BLOCK, width - block * BLOCK)):
                for n in range(N):
                    at = (b * width + block * BLOCK + i) * N + n
                    d_A[at], d_h[at] = d_A_[n * BLOCK + i], g_[n * BLOCK + i]
        for item in prange(rows * chunks):
            b, t = item // chunks, item % chunks * CHUNK
            sums_B, sums_C = _room(N * CHUNK), _room(N * CHUNK)
            for i in range(0, N * CHUNK, 16):
                total_B, total_C = _splat_16(np.float32(0)), _splat_16(np.float32(0))
                for block in range(blocks):
                    at = (item * blocks + block) * N * CHUNK + i
                    total_B = _add_16(total_B, _load_16(part_B, at))
                    total_C = _add_16(total_C, _load_16(part_C, at))
                _store_16(sums_B, i, total_B)
                _store_16(sums_C, i, total_C)
            for i in range(min(CHUNK, T - t)):
                for n in range(N):
                    at = (b * T + t + i) * N + n
                    d_B[at], d_C[at] = sums_B[n * CHUNK + i], sums_C[n * CHUNK + i]
        return version

    return backward


def _numbers(x: Tensor | None, kind: torch.dtype = torch.float32) -> np.ndarray:
    """The numbers of a contiguous tensor; none for None."""
    return (torch.empty(0, dtype=kind) if x is None else x.detach().contiguous().view(-1)).numpy()


@torch.library.custom_op("ostinato::selective_scan", mutates_args=(), device_types="cpu")
def selective_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, h: Tensor, reset: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The form "cpu" of op:selective_scan, float32: y, the last h, and the states with which chunks begin (B, M, N, D)."""
    (rows, T, width), N = x.shape, A.shape[1]
    y, after = x.new_empty(x.shape), x.new_empty(h.shape)
    begins = x.new_empty(rows, -(-T // CHUNK), N, width)
    parts = [flat(part) for part in (x, dt, B, C)]
    x_, dt_, B_, C_ = (array for array, _ in parts)
    with threads():
        _forward()(
            x_, dt_, _numbers(A), B_, C_, _numbers(D), _numbers(h), _numbers(reset, torch.bool),
            _numbers(y), _numbers(begins), _numbers(after), np.array([stride[:2] for _, stride in parts]), rows, T, width, N,
        )  # fmt: skip
    return y, after, begins


@selective_scan.register_fake
def _(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, h: Tensor, reset: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), h.new_empty(h.shape), x.new_empty(x.shape[0], -(-x.shape[1] // CHUNK), *A.mT.shape)


@torch.library.custom_op("ostinato::selective_scan_backward", mutates_args=(), device_types="cpu")
def selective_scan_backward(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, reset: Tensor | None, begins: Tensor,
    d_y: Tensor, d_after: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients with respect to x, dt, A, B, C, D (empty for None) and h."""
    (rows, T, width), N = x.shape, A.shape[1]
    d_x, d_dt, d_B, d_C, d_h = (part.new_empty(part.shape) for part in (x, dt, B, C, d_after))
    d_A, d_D = x.new_empty(rows, width, N), x.new_zeros(rows, 0 if D is None else width)
    parts_B, parts_C = x.new_empty(2, rows, -(-T // CHUNK), -(-width // BLOCK), N, CHUNK)
    parts = [flat(part) for part in (x, dt, B, C, d_y)]
    x_, dt_, B_, C_, d_y_ = (array for array, _ in parts)
    with threads():
        _backward()(
            x_, dt_, _numbers(A), B_, C_, _numbers(D), _numbers(reset, torch.bool), _numbers(begins),
            d_y_, _numbers(d_after), *(_numbers(part) for part in (d_x, d_dt, d_A, d_B, d_C, d_D, d_h, parts_B, parts_C)),
            np.array([stride[:2] for _, stride in parts]), rows, T, width, N,
        )  # fmt: skip
    return d_x, d_dt, d_A.sum(0), d_B, d_C, d_D.sum(0), d_h


@selective_scan_backward.register_fake
def _(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, reset: Tensor | None, begins: Tensor,
    d_y: Tensor, d_after: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return (
        *(part.new_empty(part.shape) for part in (x, dt, A, B, C)),
        x.new_empty(0 if D is None else D.shape),
        x.new_empty(d_after.shape),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, dt, A, B, C, D, _, reset = inputs
    ctx.save_for_backward(x, dt, A, B, C, D, reset, output[2])


def _gradients(ctx: Any, d_y: Tensor, d_after: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # asked for once: what is computed again can be unpacked once
    d_x, d_dt, d_A, d_B, d_C, d_D, d_h = selective_scan_backward(*saved, d_y, d_after)
    return d_x, d_dt, d_A, d_B, d_C, None if saved[5] is None else d_D, d_h, None


selective_scan.register_autograd(_gradients, setup_context=_save)
