"""The selective scan of Mamba: a diagonal state space whose decay, input and output depend on the token.

    h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t,   y_t = h_t C_t + D x_t

    x dt y  B T D    the state size N is small, and every channel D has a state of its own
    A       D N      negative; exp(dt_t A) is the decay
    B C     B T N    shared by all channels
    D       D
    h       B D N
    reset   B T      True forgets h before the token is read

`reference` is the definition. B T D N numbers are never in memory at once: the torch form makes the decays of a chunk,
walks through it, reads y and goes on. It keeps the state with which each chunk begins, and its gradient makes the rest
again. The channels D are innermost, so that a step of the walk is one fused multiplication of B N D contiguous numbers:
less than a fifth of the time at B N D = 16384, where the exponentials alone take a third. Nothing is divided, and decays
of 0 and 1 are exact.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ostinato.kernels import cpu as kernels
from ostinato.ops.choice import Forms, choose
from ostinato.registry import register


def reference(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor, reset: Tensor | None, D: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The recurrence as it is written above."""
    y = []
    for t in range(x.shape[1]):
        decay = (dt[:, t, :, None] * A).exp()
        if reset is not None:
            decay = decay.masked_fill(reset[:, t, None, None], 0)
        h = decay * h + (dt[:, t] * x[:, t])[..., None] * B[:, t, None]
        y.append((h * C[:, t, None]).sum(-1))
    return _with_skip(torch.stack(y, 1), D, x), h


def _with_skip(y: Tensor, D: Tensor | None, x: Tensor) -> Tensor:
    return y if D is None else y + D * x


CHUNK = 32
"""Tokens of a chunk: the states that are kept amount to N / 32 numbers for each number of x."""


def _states(dt: Tensor, u: Tensor, A: Tensor, B: Tensor, kept: Tensor | None, h: Tensor, a: Tensor, s: Tensor) -> None:
    """Write the decays of a chunk into a and its states into s, both C B N D; everything comes time first."""
    torch.mul(dt[:, :, None], A, out=a).exp_()
    if kept is not None:
        a.mul_(kept[..., None, None])
    torch.mul(B[..., None], u[:, :, None], out=s)
    for decay, state in zip(a.unbind(), s.unbind()):
        h = state.addcmul_(decay, h)


class _SelectiveScan(torch.autograd.Function):
    """Saves its inputs and the states between chunks; everything else is made again, chunk by chunk, backwards."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor, kept: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        T = x.shape[1]
        chunks = [slice(i, min(i + CHUNK, T)) for i in range(0, T, CHUNK)]
        A_, h_ = A.T.contiguous(), h.mT.contiguous()
        begins = h_.new_empty(len(chunks), *h_.shape)
        a, s = (h_.new_empty(min(CHUNK, T), *h_.shape) for _ in range(2))
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        for chunk, begin in zip(chunks, begins):
            begin.copy_(h_)
            length = chunk.stop - chunk.start
            dt_, x_, B_, C_ = (part[:, chunk].transpose(0, 1) for part in (dt, x, B, C))
            kept_ = None if kept is None else kept[:, chunk].T
            _states(dt_, dt_ * x_, A_, B_, kept_, begin, a[:length], s[:length])
            y[:, chunk] = (C_.unsqueeze(2) @ s[:length]).squeeze(2).transpose(0, 1)
            h_ = s[length - 1]
        ctx.save_for_backward(x, dt, A, B, C, kept, begins)
        return y, h_.mT.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor, d_h: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(d_y.device.type, enabled=False):
            return *_gradients(d_y, d_h, *ctx.saved_tensors), None


def _gradients(
    d_y: Tensor,
    d_h: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    kept: Tensor | None,
    begins: Tensor,
) -> tuple[Tensor, ...]:
    """The gradients of x, dt, A, B, C and h."""
    T = x.shape[1]
    A_ = A.T.contiguous()
    d_x, d_dt, d_B, d_C = (torch.empty_like(part) for part in (x, dt, B, C))
    d_A = torch.zeros_like(A_)
    a, s, g = (begins.new_empty(min(CHUNK, T), *begins.shape[1:]) for _ in range(3))
    later = d_h.mT  # the gradient that comes from the tokens after the chunk
    for m in range(len(begins) - 1, -1, -1):
        chunk = slice(m * CHUNK, min((m + 1) * CHUNK, T))
        length = chunk.stop - chunk.start
        dt_, x_, B_, C_, d_y_ = (part[:, chunk].transpose(0, 1) for part in (dt, x, B, C, d_y))
        u = dt_ * x_
        a_, s_, g_ = a[:length], s[:length], g[:length]
        _states(dt_, u, A_, B_, None if kept is None else kept[:, chunk].T, begins[m], a_, s_)
        torch.mul(C_[..., None], d_y_[:, :, None], out=g_)  # to be the gradient of the states, last to first
        g_[-1].add_(later)
        for i in range(length - 2, -1, -1):
            g_[i].addcmul_(a_[i + 1], g_[i + 1])
        # a row times a matrix: the product with a column is ten times slower on a CPU
        d_C[:, chunk] = (d_y_.unsqueeze(2) @ s_.mT).squeeze(2).transpose(0, 1)
        d_B[:, chunk] = (u.unsqueeze(2) @ g_.mT).squeeze(2).transpose(0, 1)
        d_u = (B_.unsqueeze(2) @ g_).squeeze(2)
        a_.mul_(g_)
        later = a_[0].clone()
        a_[0].mul_(begins[m])
        a_[1:].mul_(s_[:-1])  # now the gradient of the log decays dt A
        d_x[:, chunk] = (d_u * dt_).transpose(0, 1)
        d_dt[:, chunk] = (torch.mul(a_, A_, out=s_).sum(2) + d_u * x_).transpose(0, 1)
        d_A += a_.mul_(dt_[:, :, None]).sum((0, 1))
    return d_x, d_dt, d_A.T, d_B, d_C, later.mT


def chunked(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor, reset: Tensor | None, D: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same, chunk by chunk."""
    y, after = _SelectiveScan.apply(x, dt, A, B, C, h, None if reset is None else (~reset).to(h.dtype))
    return _with_skip(y, D, x), after


def kernel(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor, reset: Tensor | None, D: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same with the states in registers: `ostinato.kernels.cpu.selective_scan`."""
    if not kernels.suits(x, dt, A, B, C, h):
        raise ValueError(f"the cpu form of the selective scan reads float32 on a CPU; got {h.dtype} on {h.device}")
    from ostinato.kernels.cpu.selective_scan import selective_scan as run

    y, after, _ = run(x, dt, A, B, C, D, h, reset)
    return y, after


FORMS: Forms = {"reference": reference, "torch": chunked, "cpu": kernel}


@register("op:selective_scan", paper="mamba")
def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    state: Tensor,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mamba's selective scan h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t, y_t = h_t C_t + D x_t.

    x: (B, T, D)
    dt: (B, T, D), step sizes, not negative
    A: (D, N), negative
    B: (B, T, N), how a token is written
    C: (B, T, N), how it is read
    D: (D,), what of x goes straight to y, or None
    state: (B, D, N), h before the first token; everything is computed in its type
    reset: (B, T) bool, True where a document begins

    Returns y (B, T, D) in the type of x and h after the last token.
    """
    suits = "reference" if x.shape[1] == 1 else "cpu" if kernels.suits(state) else "torch"
    form, kind = choose(FORMS, suits), state.dtype
    skip = None if D is None else D.to(kind)
    with torch.autocast(x.device.type, enabled=False):
        y, after = form(x.to(kind), dt.to(kind), A.to(kind), B.to(kind), C.to(kind), state, reset, skip)
    return y.to(x.dtype), after
