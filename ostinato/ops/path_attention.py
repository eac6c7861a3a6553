"""PaTH attention: between a key and a query stand the transitions of all tokens after the key.

    H_t = I - beta_t w_t w_t^T,   s_ij = scale k_j^T H_{j+1} H_{j+2} ... H_i q_i,   y_i = sum_j softmax_j(s_ij) v_j

    q  B T H K    k  B S G K    v  B S G V    w  B T G K    beta  B T G    y  B T H V    G heads of keys, each shared by H/G of q's

over the j <= i that i sees (`ops/sight.py`). The last T of the S keys belong to the T queries. Those before them come from a
cache, where they stand as the tokens after them have left them: H_t ... H_{j+1} k_j, carried to the last token t. So a step
turns all keys of the cache by one H, and is softmax attention then.

`reference` is the definition. The torch form cuts time in chunks (Yang, Shen, Wen, Tan, Mishra, Ren, Panda, Kim 2025,
https://arxiv.org/abs/2505.16381). A product of C transitions is I minus a matrix of rank C: with the vectors w of a chunk in
the rows of W, and L the part of diag(beta) W W^T below the diagonal, H_C ... H_1 = I - W^T A, A = (I + L)^-1 diag(beta) W. Keys
are carried to the end of their chunk, queries to the beginning of theirs, and then from chunk to chunk backwards.
"""

import torch
from torch import Tensor, einsum

from ostinato.ops.choice import Forms, choose
from ostinato.ops.chunks import chunk_length, chunks, unchunked
from ostinato.ops.delta_rule import _Inverse
from ostinato.ops.scored_attention import softmax
from ostinato.ops.sight import Sight, in_blocks, sight
from ostinato.registry import register


def reference(
    q: Tensor, k: Tensor, v: Tensor, w: Tensor, beta: Tensor, see: Sight, scale: float
) -> tuple[Tensor, Tensor]:
    """Token by token, as it is written above; the keys are carried along."""
    T, past, shared = q.shape[1], k.shape[1] - q.shape[1], q.shape[2] // k.shape[2]
    keys, y = k[:, :past], []
    for t in range(T):
        w_t, beta_t = w[:, t : t + 1], beta[:, t : t + 1, :, None]
        keys = keys - beta_t * (keys * w_t).sum(-1, keepdim=True) * w_t
        keys = torch.cat([keys, k[:, past + t : past + t + 1]], 1)
        seen = past + t + 1
        scores = scale * einsum("bhk,bjhk->bhj", q[:, t], keys.repeat_interleave(shared, 2))
        p = softmax(scores[:, :, None], see.pairs(t, t + 1, 0, seen)[1])
        y.append(einsum("bhij,bjhv->bihv", p, v[:, :seen].repeat_interleave(shared, 2)))
    return torch.cat(y, 1), keys


def chunked(
    q: Tensor, k: Tensor, v: Tensor, w: Tensor, beta: Tensor, see: Sight, scale: float, C: int = 128
) -> tuple[Tensor, Tensor]:
    """The same in matrix products over chunks of C tokens, a power of two."""
    (T, H, K), (S, G) = q.shape[1:], k.shape[1:3]
    past, shared = S - T, H // G
    C = chunk_length(T, C)
    # B M G C K, and queries B M G R C K for the R heads of queries that share one of keys
    cached, (k, w, beta) = k[:, :past].transpose(1, 2), (chunks(x, C) for x in (k[:, past:], w, beta[..., None]))
    q = chunks(q * scale, C).unflatten(2, (G, shared))
    writes = beta * w
    inverse = _Inverse.apply((writes @ w.mT).tril(-1))
    A = inverse @ writes
    met = inverse @ (writes @ k.mT).tril(-1)  # what each w of the chunk takes from the keys before it
    reads = (q @ w[:, :, :, None].mT).tril()
    inside = (q @ k[:, :, :, None].mT).tril() - reads @ met[:, :, :, None]
    q = q - reads @ A[:, :, :, None]
    carried = k - met.mT @ w
    M = k.shape[1]

    def block(start: int, stop: int) -> Tensor:
        m = start // C
        low, _ = see.keys(start, stop)
        asking, scores = q[:, m].flatten(2, 3), [inside[:, m]]
        for n in range(m - 1, -1, -1):
            if past + (n + 1) * C <= low:
                break
            scores.append((asking @ carried[:, n].mT).unflatten(2, (shared, C)))
            asking = asking - (asking @ w[:, n].mT) @ A[:, n]
        else:
            if past and low < past:
                scores.append((asking @ cached.mT).unflatten(2, (shared, C)))
        s = torch.cat(scores[::-1], -1)[..., : stop - start, :]
        s = s[..., : s.shape[-1] - (C - stop + start)].flatten(1, 2)  # the last chunk may be filled up
        first = past + stop - s.shape[-1]
        p = softmax(s, see.pairs(start, stop, first, past + stop)[1])
        values = v[:, first : past + stop]
        return einsum("bgrij,bjgv->bigrv", p.unflatten(1, (G, shared)), values).flatten(2, 3)

    y = in_blocks(block, T, C, again=T > 2 * C)
    # the keys, carried to the last token
    kept, after = [], None
    for n in range(M - 1, -1, -1):
        kept.append(carried[:, n] if after is None else carried[:, n] @ after)
        through = torch.eye(K, dtype=w.dtype, device=w.device) - A[:, n].mT @ w[:, n]
        after = through if after is None else through @ after
    keys = unchunked(torch.stack(kept[::-1], 1), T)
    if past and after is not None:
        keys = torch.cat([(cached @ after).transpose(1, 2), keys], 1)
    return y, keys


FORMS: Forms = {"reference": reference, "torch": chunked}


@register("op:path_attention")
def path_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    beta: Tensor,
    *,
    live: Tensor | None = None,
    reset: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Softmax attention whose queries meet keys through products of I - beta w w^T.

    q: (B, T, H, K)
    k: (B, S, G, K), the keys of a cache, carried to the token before the first, and then those of the T queries
    v: (B, S, G, V)
    w: (B, T, G, K), of length 1 where the products are not to grow
    beta: (B, T, G), from 0 to 2
    live: (B, S) bool, True where a key may be seen
    reset: (B, T) bool, True where a document begins: nothing is seen across it
    scale: of the scores; by default 1 / sqrt(K)

    Computed in float32 or better. Returns y (B, T, H, V) in the type of q, and the keys (B, S, G, K) carried to the last token.
    """
    (T, H, K), (S, G) = q.shape[1:], k.shape[1:3]
    if H % G or w.shape[2] != G:
        raise ValueError(f"heads of keys are shared evenly by those of queries, and have a w each; got {H} and {G}")
    if S < T:
        raise ValueError(f"path attention has a key for each of its {T} queries; got {S} keys")
    kind = torch.promote_types(q.dtype, torch.float32)
    see = sight(q, S, True, live, reset, None)
    form = choose(FORMS, suits="torch")
    y, keys = form(*(x.to(kind) for x in (q, k, v, w, beta)), see, K**-0.5 if scale is None else scale)
    return y.to(q.dtype), keys
