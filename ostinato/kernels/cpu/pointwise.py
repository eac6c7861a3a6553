"""Norms and gates on a CPU, each in one pass over the numbers forwards and one backwards.

    y = x / rms(x) * w [* silu(g)]     rms_norm, rows of N numbers
    y = silu(g) * u                    swiglu, rows of 2 N numbers: g, then u

torch runs these as six to ten operations, each of which reads and writes everything.
"""

from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor

from ostinato.kernels.cpu.launch import VERSION, kernel, threads
from ostinato.kernels.cpu.simd import OPERATIONS, scalar

SLABS = 16
"""Rows are shared out in so many slabs, whatever the number of threads: sums over rows are added in this order."""

_op = OPERATIONS[16]
_load, _store, _splat, _fma, _mul = _op.load, _op.store, _op.splat, _op.fma, _op.mul
_sub, _sigmoid, _total = _op.sub, _op.sigmoid, _op.total


def _make_rms_norm(gated: bool) -> Any:
    version = VERSION
    with_gate = int(gated)

    @kernel
    def forward(x, w, g, y, r, rows, inner, N, outer_stride, inner_stride, eps):
        # the gate is a slice of a projection: its row i is at (i // inner) outer_stride + (i % inner) inner_stride
        for slab in prange(SLABS):
            for i in range(rows * slab // SLABS, rows * (slab + 1) // SLABS):
                at, g_at = i * N, (i // inner) * outer_stride + (i % inner) * inner_stride
                squares = _splat(np.float32(0))
                for n in range(0, N, 16):
                    x_n = _load(x, at + n)
                    squares = _fma(x_n, x_n, squares)
                scale = np.float32(1) / np.sqrt(_total(squares) / np.float32(N) + np.float32(eps))
                r[i] = scale
                for n in range(0, N, 16):
                    value = _mul(_mul(_load(x, at + n), _splat(scale)), _load(w, n))
                    if with_gate:
                        g_n = _load(g, g_at + n)
                        value = _mul(value, _mul(g_n, _sigmoid(g_n)))
                    _store(y, at + n, value)
        return version

    @kernel
    def backward(x, w, g, r, d_y, d_x, d_w, d_g, rows, inner, N, outer_stride, inner_stride):
        for slab in prange(SLABS):
            u = np.empty(N, np.float32)
            w_at = slab * N
            for i in range(rows * slab // SLABS, rows * (slab + 1) // SLABS):
                at, g_at = i * N, (i // inner) * outer_stride + (i % inner) * inner_stride
                scale = _splat(scalar(r, i))
                along = _splat(np.float32(0))
                for n in range(0, N, 16):
                    hat = _mul(_load(x, at + n), scale)
                    d_n, w_n = _load(d_y, at + n), _load(w, n)
                    if with_gate:
                        g_n = _load(g, g_at + n)
                        s = _sigmoid(g_n)
                        silu = _mul(g_n, s)
                        # silu' = s (1 + g (1 - s))
                        slope = _mul(s, _fma(g_n, _sub(_splat(np.float32(1)), s), _splat(np.float32(1))))
                        _store(d_g, at + n, _mul(_mul(d_n, _mul(hat, w_n)), slope))
                        d_n = _mul(d_n, silu)
                    _store(d_w, w_at + n, _fma(d_n, hat, _load(d_w, w_at + n)))
                    d_hat = _mul(d_n, w_n)
                    _store(u, n, d_hat)
                    along = _fma(d_hat, hat, along)
                mean = _splat(-_total(along) / np.float32(N))
                for n in range(0, N, 16):
                    hat = _mul(_load(x, at + n), scale)
                    _store(d_x, at + n, _mul(scale, _fma(hat, mean, _load(u, n))))
        return version

    return forward, backward


_norms = {gated: _make_rms_norm(gated) for gated in (False, True)}


def _gate_layout(gate: Tensor) -> tuple[np.ndarray, int, int, int]:
    """A gate (..., N) as flat numbers, rows in an inner group, and the strides of groups and of rows in them."""
    gate = gate.detach()
    if gate.stride(-1) != 1:
        gate = gate.contiguous()
    inner = gate.shape[-2] if gate.ndim > 1 else 1
    outer = gate if gate.ndim <= 2 else gate.flatten(0, -3) if _even(gate) else gate.contiguous().flatten(0, -3)
    if gate.ndim <= 2:
        return _span(gate), max(inner, 1), 0, gate.stride(0) if gate.ndim > 1 else 0
    return _span(outer), inner, outer.stride(0), outer.stride(1)


def _even(x: Tensor) -> bool:
    """Whether all axes but the last two can be walked with one stride."""
    return all(x.stride(i) == x.stride(i + 1) * x.shape[i + 1] for i in range(x.ndim - 3))


def _span(x: Tensor) -> np.ndarray:
    length = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return x.as_strided((length,), (1,)).numpy()


@torch.library.custom_op("ostinato::rms_norm", mutates_args=(), device_types="cpu")
def rms_norm(x: Tensor, weight: Tensor, gate: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """The form "cpu" of op:rms_norm: float32, N a multiple of 16. Returns y and 1 / rms of each row."""
    x = x.contiguous()
    N, rows = x.shape[-1], x.numel() // x.shape[-1]
    y, r = torch.empty_like(x), torch.empty(rows, dtype=torch.float32)
    g, inner, outer_stride, inner_stride = (_span(x), 1, 0, 0) if gate is None else _gate_layout(gate)
    with threads():
        _norms[gate is not None][0](
            x.view(-1).numpy(), weight.detach().contiguous().numpy(), g, y.view(-1).numpy(), r.numpy(),
            rows, inner, N, outer_stride, inner_stride, eps,
        )  # fmt: skip
    return y, r


@rms_norm.register_fake
def _(x: Tensor, weight: Tensor, gate: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.numel() // x.shape[-1])


@torch.library.custom_op("ostinato::rms_norm_backward", mutates_args=(), device_types="cpu")
def rms_norm_backward(
    x: Tensor, weight: Tensor, gate: Tensor | None, r: Tensor, d_y: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `rms_norm`; that of the gate is empty where there is none."""
    x, d_y = x.contiguous(), d_y.contiguous()
    N, rows = x.shape[-1], len(r)
    d_x, d_w = torch.empty_like(x), torch.zeros(SLABS, N, dtype=torch.float32)
    d_g = torch.empty(0, dtype=torch.float32) if gate is None else torch.empty(gate.shape, dtype=torch.float32)
    g, inner, outer_stride, inner_stride = (_span(x), 1, 0, 0) if gate is None else _gate_layout(gate)
    with threads():
        _norms[gate is not None][1](
            x.view(-1).numpy(), weight.detach().contiguous().numpy(), g, r.numpy(), d_y.view(-1).numpy(),
            d_x.view(-1).numpy(), d_w.view(-1).numpy(), d_g.view(-1).numpy(),
            rows, inner, N, outer_stride, inner_stride,
        )  # fmt: skip
    return d_x, d_w.sum(0), d_g


@rms_norm_backward.register_fake
def _(x: Tensor, weight: Tensor, gate: Tensor | None, r: Tensor, d_y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), x.new_empty(0 if gate is None else gate.shape)


def _save_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, gate, _ = inputs
    ctx.save_for_backward(x, weight, gate, output[1])


def _norm_gradients(ctx: Any, d_y: Tensor, d_r: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, gate, r = ctx.saved_tensors
    d_x, d_w, d_g = rms_norm_backward(x, weight, gate, r, d_y)
    return d_x, d_w, None if gate is None else d_g, None


rms_norm.register_autograd(_norm_gradients, setup_context=_save_norm)


@kernel
def _swiglu_forward(x, y, rows, N):
    for slab in prange(SLABS):
        for i in range(rows * slab // SLABS, rows * (slab + 1) // SLABS):
            for n in range(0, N, 16):
                g = _load(x, i * 2 * N + n)
                _store(y, i * N + n, _mul(_mul(g, _sigmoid(g)), _load(x, i * 2 * N + N + n)))


@kernel
def _swiglu_backward(x, d_y, d_x, rows, N):
    for slab in prange(SLABS):
        for i in range(rows * slab // SLABS, rows * (slab + 1) // SLABS):
            for n in range(0, N, 16):
                at = i * 2 * N + n
                g, u, d = _load(x, at), _load(x, at + N), _load(d_y, i * N + n)
                s = _sigmoid(g)
                slope = _mul(s, _fma(g, _sub(_splat(np.float32(1)), s), _splat(np.float32(1))))
                _store(d_x, at, _mul(_mul(d, u), slope))
                _store(d_x, at + N, _mul(d, _mul(g, s)))


@torch.library.custom_op("ostinato::swiglu", mutates_args=(), device_types="cpu")
def swiglu(x: Tensor) -> Tensor:
    """The form "cpu" of op:swiglu: float32 (..., 2 N) with N a multiple of 16."""
    x = x.contiguous()
    N = x.shape[-1] // 2
    y = torch.empty(*x.shape[:-1], N, dtype=torch.float32)
    with threads():
        _swiglu_forward(x.detach().view(-1).numpy(), y.view(-1).numpy(), x.numel() // (2 * N), N)
    return y


@swiglu.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], x.shape[-1] // 2)


@torch.library.custom_op("ostinato::swiglu_backward", mutates_args=(), device_types="cpu")
def swiglu_backward(x: Tensor, d_y: Tensor) -> Tensor:
    """Gradient of `swiglu`."""
    x, d_y = x.contiguous(), d_y.contiguous()
    N = x.shape[-1] // 2
    d_x = torch.empty_like(x)
    with threads():
        _swiglu_backward(x.view(-1).numpy(), d_y.view(-1).numpy(), d_x.view(-1).numpy(), x.numel() // (2 * N), N)
    return d_x


@swiglu_backward.register_fake
def _(x: Tensor, d_y: Tensor) -> Tensor:
    return x.new_empty(x.shape)


swiglu.register_autograd(
    lambda ctx, d_y: swiglu_backward(ctx.saved_tensors[0], d_y),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
)
