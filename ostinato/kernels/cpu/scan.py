"""The diagonal scan on a CPU, at the speed at which memory is read and written.

    forwards    h_t = a_t h_{t-1} + x_t
    backwards   g_{t-1} = d h_{t-1} + conj(a_t) g_t,   d x_t = g_t,   d a_t = g_t conj(h_{t-1})

Rows are read as they lie in memory, one step after the other: half of the speed is in that, since the processor fetches
ahead what lies ahead. The row of h before is still in the first cache. A decay that is the same at all steps, or for all
channels, is read as it is, and its gradient is summed on the way. Complex numbers are pairs of lanes.
"""

from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any

import numba
import numpy as np
import torch
from numba import prange
from torch import Tensor

from ostinato.kernels.cpu.launch import VERSION, flat, kernel, threads
from ostinato.kernels.cpu.simd import OPERATIONS, scalar

FOLD = 64
"""Steps whose gradients are summed before that sum is added to the sum over all steps, so that no digits are lost."""

NONE, EACH, CONSTANT, SHARED = range(4)
"""A decay for each number of x, the same at all steps, or the same for all channels; NONE where no gradient is wanted."""

_op = OPERATIONS[16]
_load, _store, _splat, _fma, _total = _op.load_some, _op.store_some, _op.splat, _op.fma, _op.total
_complex_fma, _conjugate_fma = _op.complex_fma, _op.conjugate_fma


@cache
def _forward(decays: int, pairs: bool) -> Callable[..., None]:
    """The compiled steps 1 to T - 1; the first one is in h already."""
    version, shared, complex_ = VERSION, int(decays == SHARED), int(pairs)

    @kernel
    def forward(a, x, h, strides, B, T, P, Q, width):
        # strides: for a and x the distance between rows of the batch, steps and parts
        blocks = (Q + width - 1) // width
        for item in prange(B * P * blocks):
            b, p, block = item // (P * blocks), item // blocks % P, item % blocks
            begin, end = block * width, min(Q, (block + 1) * width)
            for t in range(1, T):
                a_t = b * strides[0, 0] + t * strides[0, 1] + p * strides[0, 2]
                x_t = b * strides[1, 0] + t * strides[1, 1] + p * strides[1, 2]
                now = ((b * T + t) * P + p) * Q
                decay = _splat(scalar(a, a_t))
                for j in range(begin, end, 16):
                    n = end - j
                    if not shared:
                        decay = _load(a, a_t + j, n)
                    before, x_j = _load(h, now - P * Q + j, n), _load(x, x_t + j, n)
                    _store(h, now + j, _complex_fma(decay, before, x_j) if complex_ else _fma(decay, before, x_j), n)
        return version

    return forward


@cache
def _backward(decays: int, wanted: int, pairs: bool) -> Callable[..., None]:
    """The compiled steps T - 1 to 1; the gradient of the last h is in d_x already."""
    version, shared, complex_ = VERSION, int(decays == SHARED), int(pairs)

    @kernel
    def backward(a, d_h, h, d_a, d_x, strides, B, T, P, Q, width):
        # strides: for a and d_h the distance between rows of the batch, steps and parts
        blocks = (Q + width - 1) // width
        for item in prange(B * P * blocks):
            b, p, block = item // (P * blocks), item // blocks % P, item % blocks
            begin, end = block * width, min(Q, (block + 1) * width)
            last, zero = begin + (end - begin - 1) // 16 * 16, _splat(np.float32(0))
            sums = np.zeros(end - begin if wanted == CONSTANT else 0, np.float32)
            for t in range(T - 1, 0, -1):
                a_t = b * strides[0, 0] + t * strides[0, 1] + p * strides[0, 2]
                d_t = b * strides[1, 0] + (t - 1) * strides[1, 1] + p * strides[1, 2]
                now = ((b * T + t) * P + p) * Q
                before = now - P * Q
                decay, along = _splat(scalar(a, a_t)), zero
                for back in range(0, end - begin, 16):
                    j = last - back  # backwards in memory too: half as fast again
                    n = end - j
                    if not shared:
                        decay = _load(a, a_t + j, n)
                    g, d_j = _load(d_x, now + j, n), _load(d_h, d_t + j, n)
                    _store(d_x, before + j, _conjugate_fma(decay, g, d_j) if complex_ else _fma(decay, g, d_j), n)
                    if wanted != NONE:
                        h_j, others = _load(h, before + j, n), zero
                        if wanted == CONSTANT:
                            others = _load(sums, j - begin, n)
                        if wanted == SHARED:
                            others = along
                        along = _conjugate_fma(h_j, g, others) if complex_ else _fma(h_j, g, others)
                        if wanted == CONSTANT:
                            _store(sums, j - begin, along, n)
                        if wanted == EACH:
                            _store(d_a, now + j, along, n)
                if wanted == SHARED:
                    d_a[(b * T + t) * P + p] = _total(along)
                if wanted == CONSTANT and (t % FOLD == 0 or t == 1):
                    for j in range(begin, end):
                        d_a[(b * P + p) * Q + j] += sums[j - begin]
                        sums[j - begin] = 0
        return version

    return backward


def _numbers(x: Tensor) -> Tensor:
    """Complex numbers as pairs of real ones; the last axis is contiguous."""
    x = torch.view_as_real(x.resolve_conj()).flatten(-2) if x.is_complex() else x.resolve_neg()
    return x if x.stride(-1) == 1 else x.contiguous()


def _kind(decay: Tensor, x: Tensor) -> int:
    return SHARED if decay.shape[3] < x.shape[3] else CONSTANT if decay.shape[1] < x.shape[1] else EACH


def _launch(run: Callable[..., None], decay: Tensor, read: Tensor, *others: Tensor, whole: bool) -> None:
    """Run over the others, contiguous, with the decay and what is read; rows may be `whole`, or cut for more threads."""
    B, T, P, Q = read.shape
    parts = [flat(_numbers(x).expand(B, T, -1, -1)) for x in (decay, read)]
    arrays = [array for array, _ in parts] + [_numbers(x).view(-1).numpy() for x in others]
    Q = 2 * Q if read.is_complex() else Q
    with threads():
        cuts = 1 if whole else -(-numba.get_num_threads() // (B * P))
        width = 64 * max(1, -(-Q // (64 * cuts)))
        run(*arrays, np.array([stride for _, stride in parts]), B, T, P, Q, width)


@torch.library.custom_op("ostinato::scan", mutates_args=(), device_types="cpu")
def scan_op(decay: Tensor, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Every h and the last one, for x (B, T, P, Q), a decay ([B or 1], [T or 1], P, [Q or 1]) and a state (B, P, Q)."""
    h = torch.empty_like(x, memory_format=torch.contiguous_format)
    torch.addcmul(x[:, 0], decay[:, 0], state, out=h[:, 0])
    kind = _kind(decay, x)
    _launch(_forward(kind, x.is_complex()), decay, x, h, whole=kind == SHARED)
    return h, h[:, -1].clone()


@scan_op.register_fake
def _(decay: Tensor, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(state.shape)


@torch.library.custom_op("ostinato::scan_backward", mutates_args=(), device_types="cpu")
def scan_backward(
    decay: Tensor, state: Tensor, h: Tensor, d_h: Tensor, d_last: Tensor, wanted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to the decay (empty unless wanted), x and the state."""
    B, T, P, Q = h.shape
    d_x = torch.empty_like(h)
    torch.add(d_h[:, -1], d_last, out=d_x[:, -1])
    kind = _kind(decay, h)
    shape = {EACH: (B, T, P, Q), CONSTANT: (B, 1, P, Q), SHARED: (B, T, P, 1)}[kind]
    make = torch.zeros if kind == CONSTANT else torch.empty
    d_decay = make(shape if wanted else 0, dtype=h.dtype)
    sweep = _backward(kind, kind if wanted else NONE, h.is_complex())
    _launch(sweep, decay, d_h, h, d_decay, d_x, whole=kind == SHARED)
    d_state = decay[:, 0].conj() * d_x[:, 0]
    if not wanted:
        return h.new_empty(0), d_x, d_state
    first = d_x[:, 0] * state.conj()
    if kind == CONSTANT:
        d_decay[:, 0] += first
    else:
        d_decay[:, 0] = first.sum(-1, keepdim=True) if kind == SHARED else first
    return d_decay.sum_to_size(decay.shape), d_x, d_state


@scan_backward.register_fake
def _(
    decay: Tensor, state: Tensor, h: Tensor, d_h: Tensor, d_last: Tensor, wanted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return h.new_empty(decay.shape if wanted else 0), h.new_empty(h.shape), h.new_empty(state.shape)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    decay, _, state = inputs
    ctx.save_for_backward(decay, state, output[0])


def _gradients(ctx: Any, d_h: Tensor, d_last: Tensor) -> tuple[Tensor | None, ...]:
    wanted = ctx.needs_input_grad[0]
    d_decay, d_x, d_state = scan_backward(*ctx.saved_tensors, d_h, d_last, wanted)
    return d_decay if wanted else None, d_x, d_state


scan_op.register_autograd(_gradients, setup_context=_save)


def scan(decay: Tensor, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The form "cpu" of op:scan, in the shapes of the op: all three float32, or all three complex64."""
    shape = torch.broadcast_shapes(decay.shape, x.shape)
    B, T, *channels = shape
    # the channels are P parts of Q, a decay for each number or one for the Q numbers of a part
    own = max((i + 1 for i in range(len(channels)) if decay.shape[2 + i] > 1), default=0)
    P, Q = prod(channels[:own]), prod(channels[own:])
    shared = Q >= 16 and not x.is_complex() and decay.shape[1] > 1 and list(decay.shape[2 : 2 + own]) == channels[:own]
    if not shared:
        decay, P, Q = decay.expand(*decay.shape[:2], *channels), 1, P * Q
    h, last = scan_op(
        decay.reshape(*decay.shape[:2], P, -1),
        x.expand(shape).reshape(B, T, P, Q),
        state.expand(B, *channels).reshape(B, P, Q),
    )
    return h.view(shape), last.view(B, *channels)
