"""Softmax attention: every token looks back, and takes the mean of the values by the likeness of the keys.

    s_ij = scale q_i^T k_j + b_ij + sum_{l=j+1..i} log f_l,   y_i = sum_j softmax_j(s_ij) v_j     over the j that i sees

    q    B T H K    k  B S G K    v  B S G V    y  B T H V    G heads of keys and values, each shared by H/G of q's
    f    B S H, a forget gate per token (log f at most 0; -inf forgets everything before)
    b    a number for each pair, or a function of the distance i - j

The last T of the S keys belong to the T queries; those before them come from a cache. Token i sees key j if j is not
after i, i - j < window, j is live, and no document begins between them. A query that sees nothing gives 0.

`reference` is the definition. The torch form goes through blocks of queries, each against the keys that any of them can
see, so that no T x S tensor exists: a window costs what it sees. Where documents are all there is to hide, they are taken
apart instead. It is torch's scaled_dot_product_attention inside. The sum of log f is c_i - c_j with running sums c; c_i does not change a softmax, so
-c_j enters as one more key channel, counted from the beginning of the block. Its known weakness, in float32: after
a gate of e^-1000 the digits of mild gates in the same block are lost below 6e-5.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, einsum
from torch.nn.functional import pad, scaled_dot_product_attention

from ostinato.kernels import cpu as kernels
from ostinato.ops.choice import Forms, choose
from ostinato.ops.sight import in_blocks, sight
from ostinato.registry import register

Bias = Tensor | Callable[[Tensor], Tensor]


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    live: Tensor | None,
    reset: Tensor | None,
    window: int | None,
    log_forget: Tensor | None,
    bias: Bias | None,
    scale: float,
) -> Tensor:
    """Token by token, as it is written above."""
    (B, T, H, _), (S, G) = q.shape, k.shape[1:3]
    k, v = (x.repeat_interleave(H // G, 2) for x in (k, v))
    past = S - T if causal or S == T else 0
    j = torch.arange(S, device=q.device)
    # what is in the cache, before any reset, is in document 0
    document = None if reset is None else torch.cat([reset.new_zeros(B, past), reset], 1).cumsum(1)
    y = []
    for t in range(T):
        i = past + t
        scores = scale * einsum("bhk,bjhk->bhj", q[:, t], k)
        if bias is not None:
            scores = scores + (bias(i - j) if callable(bias) else bias[..., t, :])
        if log_forget is not None:
            later = log_forget[:, 1 : i + 1].flip(1).cumsum(1).flip(1)  # of l = j+1 .. i, for each j < i
            scores = scores + pad(later.transpose(1, 2), (0, S - i))
        sees = torch.ones(B, S, dtype=torch.bool, device=q.device)
        if causal:
            sees = sees & (j <= i)
        if window is not None:
            sees = sees & ((i - j).abs() < window)
        if live is not None:
            sees = sees & live
        if document is not None:
            sees = sees & (document == document[:, i : i + 1])
        nothing = ~sees.any(1, keepdim=True)  # a softmax over nothing is no number, and neither is its gradient
        weights = scores.masked_fill(~(sees | nothing)[:, None], -torch.inf).softmax(-1)
        y.append(einsum("bhj,bjhv->bhv", weights.masked_fill(nothing[:, None], 0), v))
    return torch.stack(y, 1)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, causal: bool = False) -> Tensor:
    """torch's attention over B T H K; its quick forms want values as wide as keys."""
    T, K, V = q.shape[1], q.shape[-1], v.shape[-1]
    if 1 < T < 32 and T % 16 and q.device.type == "cpu":
        # torch gives each thread a piece of one buffer, T rows long; where the pieces are not aligned, the last bits
        # of the result depend on the number of threads
        q = pad(q, (0, 0, 0, 0, 0, -T % 16))
        mask = mask if mask is None else pad(mask, (0, 0, 0, -T % 16))
    if V < K:
        v = pad(v, (0, K - V))
    elif K < V:
        q, k = (pad(x, (0, V - K)) for x in (q, k))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    shared = q.shape[1] != k.shape[1]
    y = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=shared)
    return y.transpose(1, 2)[:, :T, :, :V]


def blocked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    live: Tensor | None,
    reset: Tensor | None,
    window: int | None,
    log_forget: Tensor | None,
    bias: Bias | None,
    scale: float,
    C: int = 256,
) -> Tensor:
    """The same for blocks of C queries, each against the keys that any of them can see."""
    (T, H), (S, G) = q.shape[1:3], k.shape[1:3]
    if window is not None and window >= S:
        window = None
    if live is window is log_forget is bias is None and (not causal or S == T):
        if reset is None:
            return _attend(q, k, v, None, scale, causal)
        if causal:
            return _document_by_document(q, k, v, reset, scale)

    see, total = sight(q, S, causal, live, reset, window), None
    if log_forget is not None:
        forgets = log_forget == -torch.inf
        total = log_forget.masked_fill(forgets, 0).double().cumsum(1)
        forgotten = forgets.cumsum(1)  # of each head: documents of its own
        see = replace(see, document=forgotten if see.document is None else forgotten + see.document[..., None])
        k, v = (x.repeat_interleave(H // G, 2) for x in (k, v))
    if window is not None:
        C = min(C, max(64, window))

    def block(start: int, stop: int) -> Tensor:
        low, high = see.keys(start, stop)
        distance, sees = see.pairs(start, stop, low, high)
        q_, k_, v_ = q[:, start:stop], k[:, low:high], v[:, low:high]
        scale_ = scale
        if total is not None:
            rise = (total[:, see.past + start, None] - total[:, low:high]).to(k.dtype)
            q_ = torch.cat([q_ * scale, q_.new_ones(*q_.shape[:3], 1)], -1)
            k_ = torch.cat([k_, rise[..., None]], -1)
            scale_ = 1.0
        if bias is not None:
            added = (bias(distance) if callable(bias) else bias[..., start:stop, low:high]).to(q.dtype)
            sees = torch.where(sees, added, -torch.inf).expand(len(q), H, *distance.shape)
        return _attend(q_, k_, v_, sees, scale_)

    # masks, and the scores that the gradient of a bias needs, would add up to T x S numbers: they are made again instead
    many = T > C if _is_learned(bias, q.device) else T > 8 * C and window is None
    return in_blocks(block, T, C, again=many)


def _is_learned(bias: Bias | None, device: torch.device) -> bool:
    if callable(bias):
        bias = bias(torch.zeros(1, 1, dtype=torch.long, device=device))
    return bias is not None and bias.requires_grad


def _document_by_document(q: Tensor, k: Tensor, v: Tensor, reset: Tensor, scale: float) -> Tensor:
    """Causal attention inside of documents, as batches of those that are about as long: no mask, and only what is seen."""
    begins = reset.clone()
    begins[:, 0] = True
    start = begins.flatten().nonzero()[:, 0]
    length = torch.cat([start[1:], start.new_tensor([reset.numel()])]) - start
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    y, order = [], []
    size = length.log2().ceil()
    for alike in size.unique():
        rows = size == alike
        steps = torch.arange(int(length[rows].amax()), device=q.device)
        token = (start[rows, None] + steps).clamp(max=reset.numel() - 1)  # of shorter ones, too much at the end
        real = steps < length[rows, None]
        q_, k_, v_ = (x.index_select(0, token.flatten()).unflatten(0, token.shape) for x in (q, k, v))
        y.append(_attend(q_, k_, v_, None, scale, causal=True)[real])
        order.append(token[real])
    return torch.cat(y).index_select(0, torch.cat(order).argsort()).unflatten(0, reset.shape)


def kernel(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    live: Tensor | None,
    window: int | None,
    scale: float,
    **others: Any,
) -> Tensor:
    """The same for a step of decoding, in `ostinato.kernels.cpu.attention`: the cache is read once for all heads."""
    if any(other is not None for other in others.values()) or not _suits_kernel(q, k, v, window):
        raise ValueError(
            "the cpu form of attention reads one float32 query on a CPU, whole vectors of 16, without gradients, resets, "
            f"forget gates or biases; got {q.dtype} {tuple(q.shape)} and {tuple(k.shape)} on {q.device}"
        )
    from ostinato.kernels.cpu.attention import attend_one

    return attend_one(q, k, v, live, scale)


def _suits_kernel(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> bool:
    single = q.shape[1] == 1 and (window is None or window >= k.shape[1]) and not torch.compiler.is_compiling()
    if not single or torch.is_grad_enabled() or not kernels.suits(q, k, v):
        return False
    return all(x.stride(3) == 1 and x.stride(2) == x.shape[3] and x.shape[3] % kernels.LANES == 0 for x in (k, v))


LONG = 1 << 16
"""Numbers in the keys of a cache from which one pass over it is worth its start."""

FORMS: Forms = {"reference": reference, "torch": blocked, "cpu": kernel}


@register("op:attention", paper=("transformer", "fox"))
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = True,
    live: Tensor | None = None,
    reset: Tensor | None = None,
    window: int | None = None,
    log_forget: Tensor | None = None,
    bias: Bias | None = None,
    scale: float | None = None,
) -> Tensor:
    """Softmax attention over cached and new keys: y_i = sum_j softmax_j(scale q_i^T k_j + bias_ij) v_j.

    q: (B, T, H, K)
    k: (B, S, G, K), the keys of a cache and then those of the T queries; H is a multiple of G. Or (B, S, 1, K): one for all
    v: (B, S, G, V)
    causal: whether a query sees no key after its own; without it S may be anything (the keys of another sequence)
    live: (B, S) bool, True where a key may be seen
    reset: (B, T) bool, True where a document begins: nothing is seen across it
    window: how many tokens are seen, the current one included; without causal, that many to each side
    log_forget: (B, S, H), log of a forget gate for each key's token: key j fades by the sum of those after it
    bias: added to the scores: a tensor of two axes or more that broadcasts to (B, H, T, S), or a function from distances
        i - j (integers of any shape) to numbers that broadcast to (B, H, *shape)
    scale: of the scores; by default 1 / sqrt(K)

    Everything is computed in the type of q, or in float32 or better with log_forget. Returns y (B, T, H, V) in the type of q.
    """
    (T, H, K), (S, G) = q.shape[1:], v.shape[1:3]
    if k.shape[2] == 1:
        k = k.expand(-1, -1, G, -1)
    if H % G:
        raise ValueError(f"heads of keys are shared evenly by those of queries; {H} is no multiple of {G}")
    if causal and S < T:
        raise ValueError(f"causal attention has a key for each of its {T} queries; got {S} keys")
    if reset is not None and S != T and not causal:
        raise ValueError("reset says where documents of queries and keys begin; here the keys are another sequence's")
    if log_forget is not None and not causal:
        raise ValueError("a forget gate needs causal attention: it fades what came before")
    if window is not None and window < 1:
        raise ValueError(f"window is the number of tokens that are seen, at least 1; got {window}")
    if isinstance(bias, Tensor):
        bias = bias.expand(*bias.shape[:-2], T, S)
    device = q.device.type
    # under autocast in its type, as torch's own is
    kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else q.dtype
    if log_forget is not None:
        kind = torch.promote_types(q.dtype, torch.float32)
    plain = reset is None and log_forget is None and bias is None and q.dtype == k.dtype == v.dtype == kind
    quick = plain and k[0].numel() >= LONG and _suits_kernel(q, k, v, window)
    form = choose(FORMS, suits="cpu" if quick else "torch")
    y = form(
        *(x.to(kind) for x in (q, k, v)),
        causal=causal,
        live=live,
        reset=reset,
        window=window,
        log_forget=log_forget,
        bias=bias,
        scale=K**-0.5 if scale is None else scale,
    )
    return y.to(q.dtype)
