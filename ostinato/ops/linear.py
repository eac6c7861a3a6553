"""A linear map of every token, y = W x + b.

    x  ... K    W  N K    b  N    y  ... N

Most of a training step is this. torch multiplies float32 matrices on a CPU with MKL, which uses half the width of the vector
units on processors of another maker: on an AMD EPYC with AVX-512, 118 GFLOP/s a core where oneDNN, which torch carries too,
reaches 268. So there, and for enough rows, oneDNN multiplies, forwards and backwards.
"""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ostinato.ops.choice import forced

FEWEST_ROWS = 16
"""Rows from which oneDNN is quicker; below, its call costs more than the product."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = W x + b, under autocast in its type.

    x: (..., K)
    weight: (N, K)
    bias: (N,) or None
    """
    wide = (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and x.numel() >= FEWEST_ROWS * x.shape[-1]
        and not torch.is_autocast_enabled("cpu")
        and forced() not in ("reference", "torch")
        and onednn_is_quicker()
    )
    return _Product.apply(x, weight, bias) if wide else functional.linear(x, weight, bias)


def linear_of(function: Callable[..., Tensor], inputs: Sequence[Tensor], weight: Tensor, bias: Tensor | None) -> Tensor:
    """y = W f(inputs) + b, of which the gradient keeps the inputs and not f(inputs): it makes that again.

    For an f that costs little beside the product, a gate for instance, whose result is as large as what it reads.

    function: f, differentiable, of the inputs alone
    inputs: tensors; f(inputs) is (..., K)
    weight: (N, K)
    bias: (N,) or None
    """
    plain = (
        not torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or any(torch.is_autocast_enabled(each.device.type) for each in inputs)
        # vmap and the like follow plain operations
        or torch._C._functorch.maybe_current_level() is not None  # pyright: ignore[reportAttributeAccessIssue]
    )
    return linear(function(*inputs), weight, bias) if plain else _Remade.apply(function, weight, bias, *inputs)


@cache
def onednn_is_quicker() -> bool:
    """Whether this processor has AVX-512 that MKL does not use; a fixed rule, so that a run repeats bit for bit."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"):
        return False
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _times(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (M, K) times weight (N, K) transposed."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Remade(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, function: Callable[..., Tensor], weight: Tensor, bias: Tensor | None, *inputs: Tensor
    ) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(weight, *inputs)
        return linear(function(*inputs), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, *inputs = ctx.saved_tensors
        wanted = ctx.needs_input_grad[3:]
        again = [each.detach().requires_grad_(each_wanted) for each, each_wanted in zip(inputs, wanted, strict=True)]
        with torch.enable_grad():
            hidden = ctx.function(*again)
        d_hidden, d_weight, d_bias = _gradients(
            gradient, hidden.detach(), weight, any(wanted), *ctx.needs_input_grad[1:3]
        )
        found: Any = iter(())
        if d_hidden is not None:
            found = iter(torch.autograd.grad(hidden, [each for each in again if each.requires_grad], d_hidden))
        return None, d_weight, d_bias, *(next(found) if each_wanted else None for each_wanted in wanted)


def _gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, of_x: bool, of_weight: bool, of_bias: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Those of a linear map, of what is wanted: x, weight, bias."""
    # of rows that lie apart, as those of a part of a wider map, the product of transposes takes a hundred times as long
    d_y, rows = (part.reshape(-1, part.shape[-1]).contiguous() for part in (gradient, x))
    product = (
        _times if x.dtype == torch.float32 and x.device.type == "cpu" and onednn_is_quicker() else functional.linear
    )
    d_x = product(d_y, weight.t()).view(x.shape) if of_x else None
    d_weight = product(d_y.t(), rows.t()) if of_weight else None
    return d_x, d_weight, d_y.sum(0) if of_bias else None


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        weight = (
            weight.contiguous()
        )  # a strided one, such as one tap of a convolution's, takes a thousand times as long
        ctx.save_for_backward(x, weight)
        rows = x.reshape(-1, x.shape[-1])
        return _times(rows, weight, bias).view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return _gradients(gradient, x, weight, *ctx.needs_input_grad)
