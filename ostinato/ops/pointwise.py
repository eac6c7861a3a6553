"""What every layer does to each token: norms and gates.

y = x / sqrt(mean(x^2) + eps) * w [* silu(g)]     rms_norm
y = silu(g) * u                                   swiglu, of (..., 2 N): g, then u
"""

import torch
from torch import Tensor
from torch.nn.functional import silu

from ostinato.kernels import cpu as kernels
from ostinato.ops.choice import Forms, choose
from ostinato.registry import register


def norm_reference(x: Tensor, weight: Tensor, gate: Tensor | None, eps: float) -> Tensor:
    """The formula, in float32 or better."""
    x_ = x.to(torch.promote_types(x.dtype, torch.float32))
    y = x_ * torch.rsqrt(x_.square().mean(-1, keepdim=True) + eps) * weight
    return (y if gate is None else y * silu(gate.to(y.dtype))).to(x.dtype)


def norm_torch(x: Tensor, weight: Tensor, gate: Tensor | None, eps: float) -> Tensor:
    """torch's own norm."""
    y = torch.nn.functional.rms_norm(x, weight.shape, weight.to(x.dtype), eps)
    return y if gate is None else y * silu(gate)


def norm_kernel(x: Tensor, weight: Tensor, gate: Tensor | None, eps: float) -> Tensor:
    """One pass over the numbers, for float32 rows of a multiple of 16."""
    if not (kernels.suits(x, weight) and x.shape[-1] % 16 == 0):
        raise ValueError(
            f"the cpu form of rms_norm reads float32 rows of a multiple of 16; got {x.dtype} {tuple(x.shape)}"
        )
    from ostinato.kernels.cpu.pointwise import rms_norm as run

    return run(x, weight, gate, eps)[0]


NORM_FORMS: Forms = {"reference": norm_reference, "torch": norm_torch, "cpu": norm_kernel}

WORTH_A_KERNEL = 1 << 14
"""Numbers from which a kernel is quicker than torch: below, the call itself costs more than the passes."""


@register("op:rms_norm")
def rms_norm(x: Tensor, weight: Tensor, gate: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """Root mean square norm of each row, with an optional gate. Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467.

    x: (..., N)
    weight: (N,)
    gate: (..., N), its silu multiplies the result; None for no gate
    eps: added to the mean square
    """
    large = (
        x.numel() >= WORTH_A_KERNEL
        and x.shape[-1] % 16 == 0
        and kernels.suits(x, weight, *([] if gate is None else [gate]))
    )
    return choose(NORM_FORMS, "cpu" if large else "torch")(x, weight, gate, eps)


def swiglu_reference(x: Tensor) -> Tensor:
    """The formula."""
    gate, up = x.chunk(2, -1)
    return silu(gate) * up


def swiglu_kernel(x: Tensor) -> Tensor:
    """One pass over the numbers, for float32 and N a multiple of 16."""
    if not (kernels.suits(x) and x.shape[-1] % 32 == 0):
        raise ValueError(
            f"the cpu form of swiglu reads float32 (..., 2 N), N a multiple of 16; got {x.dtype} {tuple(x.shape)}"
        )
    from ostinato.kernels.cpu.pointwise import swiglu as run

    return run(x)


SWIGLU_FORMS: Forms = {"reference": swiglu_reference, "torch": swiglu_reference, "cpu": swiglu_kernel}


@register("op:swiglu")
def swiglu(x: Tensor) -> Tensor:
    """silu(g) u, for g and u side by side: (..., 2 N) -> (..., N). Shazeer 2020, https://arxiv.org/abs/2002.05202.

    x: (..., 2 N): g, then u
    """
    large = x.numel() >= WORTH_A_KERNEL and x.shape[-1] % 32 == 0 and kernels.suits(x)
    return choose(SWIGLU_FORMS, "cpu" if large else "torch")(x)
