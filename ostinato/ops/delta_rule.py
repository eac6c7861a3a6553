"""The delta rule: a matrix memory that corrects what it recalls, instead of adding to it.

    S_t = diag(exp g_t) S_{t-1},  then  S_t += beta_t k_t (v_t - S_t^T k_t)^T,   y_t = S_t^T q_t        delta_rule
    S_t = (diag(exp g_t) + b_t a_t^T) S_{t-1} + k_t v_t^T,                       y_t = S_t^T q_t        dplr

    q k a b  B T H K    v y  B T H V    beta  B T H    S  B H K V
    g        B T H K or B T H, the log decay, at most 0, or None; g = -inf forgets, before the token is read (a reset)

Diagonal plus low rank is the more general form: the delta rule is a = -exp(g) k, b = beta k and key beta k. The letters are
those of RWKV-7: a reads S_{t-1}, before it decays, and b writes what was read; in its layout, V x K, the transition is
diag(exp g) + a b^T on the right of S.

`reference` and `dplr_reference` are the definitions. The torch forms cut time in chunks (Yang, Wang, Zhang, Shen, Kim 2024,
https://arxiv.org/abs/2406.06484). What token i writes, u_i, depends on what the tokens before it wrote: u = beta v - A u - W S,
with A strictly lower triangular and S the state before the chunk. So u = (I + A)^-1 (beta v - W S), and one inverse of a
triangular C x C matrix a chunk turns the loop over tokens into matrix products. Only S goes from chunk to chunk in a loop.
"""

from typing import Any

import torch
from torch import Tensor, einsum
from torch.autograd.function import once_differentiable

from ostinato.kernels import cpu as kernels
from ostinato.ops.choice import Forms, choose
from ostinato.ops.chunks import Decay, chunk_length, chunks, unchunked
from ostinato.registry import register


def _per_channel(g: Tensor) -> Tensor:
    """g with an axis for channels: B T H K or B T H 1."""
    return g[..., None] if g.ndim == 3 else g


def reference(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor | None, S: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence as it is written above."""
    y = []
    for t in range(q.shape[1]):
        if g is not None:
            S = _per_channel(g)[:, t, ..., None].exp() * S
        error = v[:, t] - einsum("bhkv,bhk->bhv", S, k[:, t])
        S = S + (beta[:, t, :, None] * k[:, t])[..., None] * error[..., None, :]
        y.append(einsum("bhkv,bhk->bhv", S, q[:, t]))
    return torch.stack(y, 1), S


def dplr_reference(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, g: Tensor | None, S: Tensor
) -> tuple[Tensor, Tensor]:
    """The recurrence as it is written above."""
    y = []
    for t in range(q.shape[1]):
        seen = S
        if g is not None:
            g_t = _per_channel(g)[:, t, ..., None]
            seen = S.masked_fill(g_t == -torch.inf, 0)
            S = g_t.exp() * S
        found = einsum("bhkv,bhk->bhv", seen, a[:, t])
        S = S + b[:, t, ..., None] * found[..., None, :] + k[:, t, ..., None] * v[:, t, ..., None, :]
        y.append(einsum("bhkv,bhk->bhv", S, q[:, t]))
    return torch.stack(y, 1), S


class _Inverse(torch.autograd.Function):
    """(I + A)^-1 for the part of A below the diagonal: inverses of blocks on the diagonal, which double.

    Every intermediate is an inverse itself. The series I - A + A^2 - ... has the same result, with terms that overflow.
    """

    @staticmethod
    def forward(ctx: Any, A: Tensor) -> Tensor:
        C = A.shape[-1]
        inverse = torch.eye(C, dtype=A.dtype, device=A.device).expand_as(A).clone()
        half = 1
        while half < C:
            known, below = (
                x.unflatten(-1, (-1, 2 * half)).unflatten(-3, (-1, 2 * half)).diagonal(dim1=-4, dim2=-2).movedim(-1, -3)
                for x in (inverse, A)
            )
            upper, lower = known[..., :half, :half], known[..., half:, half:]
            known[..., half:, :half] = -(lower @ below[..., half:, :half] @ upper)
            half *= 2
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (inverse,) = ctx.saved_tensors
        with torch.autocast(inverse.device.type, enabled=False):
            return -(inverse.mT @ gradient @ inverse.mT).tril(-1)


class _Carry(torch.autograd.Function):
    """The state from chunk to chunk: u_m = u0_m - W_m S_m,  S_{m+1} = kept_m S_m + added_m + E_m^T u_m.

    W E  M N C K    u0  M N C V    kept  M N K 1 or M N 1 1, or None    added  M N K V or None    S  N K V
    """

    @staticmethod
    def forward(
        ctx: Any, W: Tensor, u0: Tensor, E: Tensor, kept: Tensor | None, added: Tensor | None, S: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        u, begins = torch.empty_like(u0), u0.new_empty(len(W), *S.shape)
        for m in range(len(W)):
            begins[m] = S
            torch.baddbmm(u0[m], W[m], S, alpha=-1, out=u[m])
            S = S if kept is None else kept[m] * S
            S = S if added is None else S + added[m]
            S = torch.baddbmm(S, E[m].mT, u[m])
        ctx.save_for_backward(W, E, kept, u, begins)
        ctx.adds = added is not None
        return u, begins, S

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_u: Tensor, d_begins: Tensor, d_S: Tensor) -> tuple[Tensor | None, ...]:
        W, E, kept, u, begins = ctx.saved_tensors
        d_written, d_ends = torch.empty_like(u), torch.empty_like(begins)
        with torch.autocast(u.device.type, enabled=False):
            for m in reversed(range(len(W))):
                d_ends[m] = d_S
                torch.baddbmm(d_u[m], E[m], d_S, out=d_written[m])
                d_S = d_begins[m] + (d_S if kept is None else kept[m] * d_S)
                d_S = torch.baddbmm(d_S, W[m].mT, d_written[m], alpha=-1)
            d_kept = None if kept is None else (d_ends * begins).sum_to_size(kept.shape)
            d_W, d_E = -(d_written @ begins.mT), u @ d_ends.mT
        return d_W, d_written, d_E, d_kept, d_ends if ctx.adds else None, d_S


def _carry(
    W: Tensor, u0: Tensor, E: Tensor, kept: Tensor | None, added: Tensor | None, S: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`_Carry` for tensors M B H ...: what is written (M B H C V), the state before each chunk (M B H K V), the last one."""
    merged = (None if x is None else x.flatten(1, 2).contiguous() for x in (W, u0, E, kept, added))
    u, begins, end = _Carry.apply(*merged, S.flatten(0, 1))
    return u.unflatten(1, S.shape[:2]), begins.unflatten(1, S.shape[:2]), end.unflatten(0, S.shape[:2])


def _in_chunks(C: int, *tensors: Tensor) -> list[Tensor]:
    """B T H ... -> M B H C ...: chunks first, for the loop over them."""
    return [chunks(x, C).transpose(0, 1).contiguous() for x in tensors]


def chunked(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor | None, S: Tensor, C: int = 64
) -> tuple[Tensor, Tensor]:
    """The same in matrix products over chunks of C tokens, a power of two."""
    T = q.shape[1]
    C = chunk_length(T, C)
    q, k, v, beta = _in_chunks(C, q, k, v, beta[..., None])
    decay = Decay(None if g is None else _in_chunks(C, _per_channel(g))[0])
    writes = beta * k
    inverse = _Inverse.apply(decay.scores(writes, k))
    u, begins, end = _carry(
        inverse @ decay.from_start(writes), inverse @ (beta * v), decay.to_end(k), decay.kept, None, S
    )
    y = decay.scores(q, k) @ u + decay.from_start(q) @ begins
    return unchunked(y.transpose(0, 1), T), end


def dplr_chunked(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, g: Tensor | None, S: Tensor, C: int = 64
) -> tuple[Tensor, Tensor]:
    """The same in matrix products over chunks of C tokens, a power of two."""
    T = q.shape[1]
    C = chunk_length(T, C)
    q, k, v, a, b = _in_chunks(C, q, k, v, a, b)
    decay = Decay(None if g is None else _in_chunks(C, _per_channel(g))[0], before=True)
    inverse = _Inverse.apply(-decay.scores(a, b, before=True))
    found = inverse @ (decay.scores(a, k, before=True) @ v)
    reads = -(inverse @ decay.from_start(a, before=True))
    u, begins, end = _carry(reads, found, decay.to_end(b), decay.kept, decay.to_end(k).mT @ v, S)
    y = decay.scores(q, k) @ v + decay.scores(q, b) @ u + decay.from_start(q) @ begins
    return unchunked(y.transpose(0, 1), T), end


def kernel(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor | None, S: Tensor) -> tuple[Tensor, Tensor]:
    """The sweep over time of `ostinato.kernels.cpu.delta_rule`."""
    return _run_kernel(q, k, v, None, None, beta, g, S)


def dplr_kernel(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, g: Tensor | None, S: Tensor
) -> tuple[Tensor, Tensor]:
    """The sweep over time of `ostinato.kernels.cpu.delta_rule`."""
    return _run_kernel(q, k, v, a, b, None, g, S)


def _run_kernel(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor | None, b: Tensor | None, beta: Tensor | None, g: Tensor | None, S: Tensor
) -> tuple[Tensor, Tensor]:  # fmt: skip
    (B, T, H, _), (K, V) = q.shape, S.shape[-2:]
    if not _suits_kernel(S):
        raise ValueError(
            "the cpu form of the delta rule reads float32 on a CPU, K and V that nearly fill vectors of 16; "
            f"got {S.dtype} on {S.device}, K = {K}, V = {V}"
        )
    from ostinato.kernels.cpu.delta_rule import delta_rule as run

    # the kernel trusts shapes; these change nothing, or say which of them is wrong
    q, k = q.expand(B, T, H, K), k.expand(B, T, H, K)
    a, b = (x if x is None else x.expand(B, T, H, K) for x in (a, b))
    v, S = v.expand(B, T, H, V), S.expand(B, H, K, V)
    beta = beta if beta is None else beta.expand(B, T, H)
    g = g if g is None else g.expand(B, T, H) if g.ndim == 3 else g.expand(B, T, H, K)
    q, k, v = (kernels.fill(x) for x in (q, k, v))
    a, b = (x if x is None else kernels.fill(x) for x in (a, b))
    g = g if g is None or g.ndim == 3 else kernels.fill(g)
    arguments = q, k, v, a, b, beta, g, kernels.fill(S, 2)
    save = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in arguments)
    y, after, *_ = run(*arguments, save)
    return y[..., :V], after[..., :K, :V]


def _suits_kernel(S: Tensor) -> bool:
    return kernels.fills_vectors(*S.shape[-2:]) and kernels.suits(S)


def _suits(q: Tensor, S: Tensor) -> str:
    """The quickest form."""
    return "reference" if q.shape[1] == 1 else "cpu" if _suits_kernel(S) else "torch"


FORMS: Forms = {"reference": reference, "torch": chunked, "cpu": kernel}
DPLR_FORMS: Forms = {"reference": dplr_reference, "torch": dplr_chunked, "cpu": dplr_kernel}


@register("op:gated_delta_rule", paper="gated_deltanet")
@register("op:delta_rule", paper="gated_deltanet")
def delta_rule(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The delta rule, with decay or without: S_t = (I - beta_t k_t k_t^T) diag(exp g_t) S_{t-1} + beta_t k_t v_t^T, y_t = S_t^T q_t.

    q: (B, T, H, K), already scaled
    k: (B, T, H, K), of length 1 at most: the memory of a longer key grows where beta |k|^2 > 2
    v: (B, T, H, V)
    beta: (B, T, H), write strength: 0 leaves the memory, 1 / |k|^2 replaces what the key recalls, more overshoots
    log_decay: (B, T, H, K), (B, T, H) or None for no decay; at most 0, -inf forgets before the token is read
    state: (B, H, K, V), S before the first token; everything is computed in its type

    Returns y (B, T, H, V) in the type of v and S after the last token.
    """
    form = choose(FORMS, _suits(q, state))
    kind = state.dtype
    g = None if log_decay is None else log_decay.to(kind)
    y, after = form(q.to(kind), k.to(kind), v.to(kind), beta.to(kind), g, state)
    return y.to(v.dtype), after


@register("op:dplr")
def dplr(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, log_decay: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Diagonal plus low rank: S_t = (diag(exp g_t) + b_t a_t^T) S_{t-1} + k_t v_t^T, y_t = S_t^T q_t.

    q: (B, T, H, K), already scaled
    k: (B, T, H, K)
    v: (B, T, H, V)
    a: (B, T, H, K), reads the state before it decays (RWKV-7: -k normalised)
    b: (B, T, H, K), writes what a reads (RWKV-7: k normalised times its rate)
    log_decay: (B, T, H, K), (B, T, H) or None for no decay; at most 0, -inf forgets before a reads
    state: (B, H, K, V), S before the first token; everything is computed in its type

    Returns y (B, T, H, V) in the type of v and S after the last token.
    """
    form = choose(DPLR_FORMS, _suits(q, state))
    kind = state.dtype
    g = None if log_decay is None else log_decay.to(kind)
    y, after = form(*(x.to(kind) for x in (q, k, v, a, b)), g, state)
    return y.to(v.dtype), after
