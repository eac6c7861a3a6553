"""The diagonal scan: every channel forgets and adds, on its own.

    h_t = a_t h_{t-1} + x_t                              scan, real or complex
    log h_t = logaddexp(log a_t + log h_{t-1}, log x_t)  log_scan, for quantities that are positive

    a x h  B T *N   the decay a broadcasts against x (a constant decay is (1, 1, N)); a = 0 forgets (a reset)
    state  B *N     h before the first and after the last of the T steps

`reference` and `log_reference` are the definitions. The torch forms cut time in about sqrt(T) chunks and walk all of
them at once: a first walk finds how a chunk ends when it begins at zero, a walk over the chunks what each one begins
with, a second walk the values. Nothing is divided and no product of decays leaves [0, 1], so a = 0 and a = 1 are exact.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ostinato.kernels import cpu as kernels
from ostinato.ops.choice import Forms, choose
from ostinato.registry import register


def reference(decay: Tensor, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence as it is written above."""
    h, outputs = state, []
    decay = decay.expand(*torch.broadcast_shapes(decay.shape, x.shape)[:2], *decay.shape[2:])
    for t in range(x.shape[1]):
        h = decay[:, t] * h + x[:, t]
        outputs.append(h)
    return torch.stack(outputs, 1), h


def _walk(decay: Tensor, x: Tensor, h: Tensor, out: Tensor, reverse: bool) -> None:
    """Write the scan of x that begins with h into out; `reverse` walks from the last step to the first."""
    T = x.shape[1]
    order = range(T - 1, -1, -1) if reverse else range(T)
    if T <= 32:
        for t in order:
            h = torch.addcmul(x[:, t], decay[:, t if decay.shape[1] > 1 else 0], h, out=out[:, t])
        return
    C = math.isqrt(T)
    rest = slice(0, T % C) if reverse else slice(T - T % C, T)
    body = slice(T % C, T) if reverse else slice(0, T - T % C)
    a, x_, y = (
        part[:, body].unflatten(1, (-1, C)) if part.shape[1] > 1 else part[:, :, None] for part in (decay, x, out)
    )
    # of these B M C *N the walk goes along C, over all M chunks at once
    end, product = torch.zeros_like(x_[:, :, 0]), torch.ones_like(a[:, :, 0])
    steps = range(C - 1, -1, -1) if reverse else range(C)
    for i in steps:
        a_i = a[:, :, i if a.shape[2] > 1 else 0]
        end = torch.addcmul(x_[:, :, i], a_i, end)
        product = a_i * product
    begin = torch.empty_like(end)
    M = end.shape[1]
    for m in range(M - 1, -1, -1) if reverse else range(M):
        begin[:, m] = h
        h = torch.addcmul(end[:, m], product[:, m if product.shape[1] > 1 else 0], h)
    h_ = begin
    for i in steps:
        h_ = torch.addcmul(x_[:, :, i], a[:, :, i if a.shape[2] > 1 else 0], h_, out=y[:, :, i])
    if rest.start != rest.stop:
        last = y[:, 0, 0] if reverse else y[:, -1, -1]
        _walk(decay[:, rest] if decay.shape[1] > 1 else decay, x[:, rest], last, out[:, rest], reverse)


def _sum_to(gradient: Tensor, like: Tensor) -> Tensor:
    """Undo broadcasting: the gradient in the shape (and realness) of what was broadcast."""
    gradient = gradient.sum_to_size(like.shape)
    return gradient if like.is_complex() else gradient.real if gradient.is_complex() else gradient


class _Scan(torch.autograd.Function):
    """The gradient of a scan is the scan backwards in time: only its inputs and outputs are kept."""

    @staticmethod
    def forward(ctx: Any, decay: Tensor, x: Tensor, state: Tensor) -> Tensor:
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        _walk(decay, x, state, out, reverse=False)
        ctx.save_for_backward(decay, state, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        decay, state, out = ctx.saved_tensors
        d_x = torch.empty_like(out)
        d_x[:, -1] = gradient[:, -1]
        if out.shape[1] > 1:
            later = decay[:, 1:] if decay.shape[1] > 1 else decay
            _walk(later.conj(), gradient[:, :-1], d_x[:, -1], d_x[:, :-1], reverse=True)
        d_decay = None
        if ctx.needs_input_grad[0]:
            d_decay = torch.empty(out.shape, dtype=out.dtype, device=out.device)
            torch.mul(d_x[:, 0], state.conj(), out=d_decay[:, 0])
            torch.mul(d_x[:, 1:], out[:, :-1].conj(), out=d_decay[:, 1:])
            d_decay = _sum_to(d_decay, decay)
        return d_decay, d_x, _sum_to(d_x[:, 0] * decay[:, 0].conj(), state)


def chunked(decay: Tensor, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The same in about 3 sqrt(T) steps over all channels and chunks at once."""
    kind = torch.promote_types(torch.promote_types(decay.dtype, x.dtype), state.dtype)
    shape = torch.broadcast_shapes(decay.shape, x.shape)
    h = _Scan.apply(decay.to(kind), x.to(kind).expand(shape), state.to(kind).expand(shape[0], *shape[2:]))
    return h, h[:, -1].clone()  # a view would keep every h alive


def kernel(decay: Tensor, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The same, row by row, as fast as memory is read and written: `ostinato.kernels.cpu.scan`."""
    kind = torch.promote_types(torch.promote_types(decay.dtype, x.dtype), state.dtype)
    if not _suits_kernel(decay, x, state):
        raise ValueError(f"the cpu form of the scan reads float32 or complex64 on a CPU; got {kind} on {x.device}")
    from ostinato.kernels.cpu.scan import scan as run

    return run(decay.to(kind), x.to(kind), state.to(kind))


def _suits_kernel(*parts: Tensor) -> bool:
    return kernels.suits(*(part.real if part.is_complex() else part for part in parts))


FORMS: Forms = {"reference": reference, "torch": chunked, "cpu": kernel}


@register("op:scan", paper=("lru", "griffin", "min_gru"))
def scan(decay: Tensor, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Diagonal linear recurrence h_t = decay_t h_{t-1} + x_t, real or complex.

    decay: (B, T, *N), or anything that broadcasts to x; 0 forgets what came before
    x: (B, T, *N), what is added at each step
    state: (B, *N), h before the first step; everything is computed in its type

    Returns every h (B, T, *N) and the last one.
    """
    real = state.real.dtype if state.is_complex() else state.dtype
    decay, x = (part if part.is_complex() else part.to(real) for part in (decay, x))
    suits = "reference" if x.shape[1] == 1 else "cpu" if _suits_kernel(decay, x, state) else "torch"
    return choose(FORMS, suits)(decay, x, state)


def log_reference(log_decay: Tensor, log_x: Tensor, log_state: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence of logarithms, step by step."""
    h, outputs = log_state, []
    for t in range(log_x.shape[1]):
        h = torch.logaddexp(log_decay[:, t] + h, log_x[:, t])
        outputs.append(h)
    return torch.stack(outputs, 1), h


class _LogScan(torch.autograd.Function):
    """log h_t is a soft maximum, so its gradient is shared out by weights in [0, 1] that sum to 1."""

    @staticmethod
    def forward(ctx: Any, log_decay: Tensor, log_x: Tensor, log_state: Tensor) -> Tensor:
        T = log_x.shape[1]
        C = math.isqrt(T)
        out = torch.empty_like(log_x, memory_format=torch.contiguous_format)
        body = slice(0, T - T % C)
        a, x, y = (part[:, body].unflatten(1, (-1, C)) for part in (log_decay, log_x, out))
        end, product = x[:, :, 0], a[:, :, 0]
        for i in range(1, C):
            end = torch.logaddexp(a[:, :, i] + end, x[:, :, i])
            product = product + a[:, :, i]
        begin, h = torch.empty_like(end), log_state
        for m in range(end.shape[1]):
            begin[:, m] = h
            h = torch.logaddexp(product[:, m] + h, end[:, m])
        for i in range(C):
            begin = torch.logaddexp(a[:, :, i] + begin, x[:, :, i], out=y[:, :, i])
        for t in range(body.stop, T):
            before = out[:, t - 1]
            torch.logaddexp(log_decay[:, t] + before, log_x[:, t], out=out[:, t])
        ctx.save_for_backward(log_decay, log_x, log_state, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        log_decay, log_x, log_state, out = ctx.saved_tensors
        before = torch.cat([log_state[:, None], out[:, :-1]], 1)
        nothing = out == -torch.inf  # log 0: no gradient reaches what is not there
        from_past = (log_decay + before - out).masked_fill(nothing, -torch.inf).exp()
        d = torch.empty_like(out)
        d[:, -1] = gradient[:, -1]
        if out.shape[1] > 1:
            _walk(from_past[:, 1:], gradient[:, :-1], d[:, -1], d[:, :-1], reverse=True)
        d_decay = d * from_past
        return d_decay, d * (log_x - out).masked_fill(nothing, -torch.inf).exp(), d_decay[:, 0]


def log_chunked(log_decay: Tensor, log_x: Tensor, log_state: Tensor) -> tuple[Tensor, Tensor]:
    """The same in about 3 sqrt(T) steps over all channels and chunks at once."""
    h = _LogScan.apply(log_decay.expand_as(log_x), log_x, log_state)
    return h, h[:, -1].clone()  # a view would keep every h alive


LOG_FORMS: Forms = {"reference": log_reference, "torch": log_chunked}


@register("op:log_scan", paper="min_gru")
def log_scan(log_decay: Tensor, log_x: Tensor, log_state: Tensor) -> tuple[Tensor, Tensor]:
    """The diagonal scan of positive quantities, in logarithms (Heinsen 2023, https://arxiv.org/abs/2311.06281).

    log_decay: (B, T, N); -inf forgets what came before
    log_x: (B, T, N), logarithm of what is added; -inf adds nothing
    log_state: (B, N), log h before the first step; everything is computed in its type

    Returns every log h (B, T, N) and the last one.
    """
    form = choose(LOG_FORMS, suits="reference" if log_x.shape[1] == 1 else "torch")
    return form(log_decay.to(log_state.dtype), log_x.to(log_state.dtype), log_state)
