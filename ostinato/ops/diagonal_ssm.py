"""A diagonal state space that does not change with time: a recurrence, and a convolution.

    h_t = a h_{t-1} + x_t,   y_t = Re sum_n w_n h_{t,n}          recurrence, each channel drives N complex numbers
    y_t = sum_j k_j x_{t-j},   k_j = Re sum_n w_n a_n^j          convolution

    x y    B T D    real
    a w    D N      complex, |a| <= 1
    h      B D N    complex
    reset  B T      True forgets h before the token is read

`reference` is the recurrence. The torch form cuts time in chunks. In a chunk y is a product with the triangular matrix
of k_{i-j}, what a chunk leaves behind is one with the powers of a, and so is what its tokens read of the h with which it
begins; those h are a scan over chunks. All of these matrices are real, belong to a channel, and serve every chunk of
every row, which is quicker on a CPU than a Fourier transform and needs neither kernels of length T nor B T D N numbers.
Powers of a come from products by repeated doubling, so a = 0 is exact. A document that begins within a chunk would need
matrices of its own: tokens are moved apart instead, until every document begins with a chunk.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from ostinato.ops.choice import Forms, choose
from ostinato.ops.scan import chunked as scan
from ostinato.registry import register


def reference(x: Tensor, a: Tensor, w: Tensor, h: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """The recurrence as it is written above."""
    y = []
    for t in range(x.shape[1]):
        if reset is not None:
            h = h.masked_fill(reset[:, t, None, None], 0)
        h = a * h + x[:, t, :, None]
        y.append((w * h).real.sum(-1))
    return torch.stack(y, 1), h


def powers(a: Tensor, count: int) -> Tensor:
    """a^0, a^1, ... a^(count - 1), stacked in front."""
    found, next_power = torch.ones_like(a)[None], a
    while len(found) < count:
        found = torch.cat([found, found * next_power])
        next_power = next_power * next_power
    return found[:count]


def _apart(reset: Tensor, C: int) -> tuple[Tensor, int]:
    """Where each token goes (B, T), so that documents begin with a chunk, and the tokens of the longest row then."""
    B, T = reset.shape
    document = reset.cumsum(1)
    lengths = document.new_zeros(B, T + 1).scatter_add_(1, document, torch.ones_like(document))
    gaps = -lengths % C
    before = gaps.cumsum(1) - gaps  # how much longer the documents before have become
    place = torch.arange(T, device=reset.device) + before.gather(1, document)
    return place, int(place[:, -1].max()) + 1


def chunked(
    x: Tensor, a: Tensor, w: Tensor, h: Tensor, reset: Tensor | None, C: int | None = None
) -> tuple[Tensor, Tensor]:
    """The same in real matrix products over chunks of C tokens."""
    B, T, D = x.shape
    C = min(T, C or 64)
    place, longest = None, T
    if reset is not None:
        C = min(C, max(1, T // (int(reset.sum(1).max()) + 1)))  # so that at most half of the places stay empty
        place, longest = _apart(reset, C)
    filled = x
    if place is not None:
        filled = x.new_zeros(B, longest, D).scatter(1, place[..., None].expand_as(x), x)
    filled = pad(filled, (0, 0, 0, -longest % C))
    M = filled.shape[1] // C
    X = filled.unflatten(1, (M, C)).permute(3, 2, 0, 1).reshape(D, C, B * M)

    p = powers(a, C + 1)
    kernel = (w * p[:C]).real.sum(-1).T  # D C
    toeplitz = pad(kernel, (C - 1, 0)).unfold(1, C, 1).flip(2)  # D i j: k_{i-j}, 0 where j > i
    to_end = torch.view_as_real(p[:C].flip(0)).permute(1, 2, 3, 0).reshape(D, -1, C)
    from_begin = torch.view_as_real((w * p[1:]).conj().resolve_conj()).permute(1, 0, 2, 3).reshape(D, C, -1)

    added = (to_end @ X).view(D, -1, 2, B, M).permute(3, 4, 0, 1, 2).contiguous()
    kept, starts = p[C].expand(1, 1, *p[C].shape), None
    if reset is not None and place is not None:
        starts = torch.zeros(B, M, dtype=torch.bool, device=x.device)
        rows, tokens = reset.nonzero(as_tuple=True)
        starts[rows, place[rows, tokens] // C] = True
        kept = kept * ~starts[..., None, None]
    ends, last = scan(kept, torch.view_as_complex(added), h)
    begins = torch.cat([h[:, None], ends[:, :-1]], 1)  # B M D N
    if starts is not None:
        begins = begins.masked_fill(starts[..., None, None], 0)
    past = torch.view_as_real(begins).permute(2, 3, 4, 0, 1).reshape(D, -1, B * M)
    y = (toeplitz @ X + from_begin @ past).view(D, C, B, M).permute(2, 3, 1, 0).flatten(1, 2)
    if place is None:
        y = y[:, :T]
        if T % C == 0:
            return y, last
        tokens_of_last, begin = torch.full((B,), T % C, device=x.device), begins[:, -1]
    else:
        y = y.gather(1, place[..., None].expand_as(x))
        tokens_of_last = place[:, -1] % C + 1
        begin = begins[torch.arange(B, device=x.device), place[:, -1] // C]
    # where the last chunk is not full, what it leaves behind is made from its tokens, moved to its end
    recent = pad(x, (0, 0, max(0, C - T), 0))[:, -C:]
    recent = recent * (torch.arange(C, device=x.device) >= C - tokens_of_last[:, None])[..., None]
    left = (to_end @ recent.permute(2, 1, 0)).view(D, -1, 2, B).permute(3, 0, 1, 2).contiguous()
    return y, p[tokens_of_last] * begin + torch.view_as_complex(left)


FORMS: Forms = {"reference": reference, "torch": chunked}


@register("op:diagonal_ssm", paper="s4")
def diagonal_ssm(
    x: Tensor, decay: Tensor, weight: Tensor, state: Tensor, reset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Time-invariant diagonal state space h_t = a h_{t-1} + x_t, y_t = Re sum_n w_n h_{t,n}.

    x: (B, T, D), real
    decay: (D, N), complex: a
    weight: (D, N), complex: w; twice the readout where a mode stands for itself and its conjugate
    state: (B, D, N), complex, h before the first token; everything is computed in its precision
    reset: (B, T) bool, True where a document begins

    Returns y (B, T, D) in the type of x and h after the last token.
    """
    form = choose(FORMS, suits="reference" if x.shape[1] == 1 else "torch")
    with torch.autocast(x.device.type, enabled=False):
        y, after = form(x.to(state.real.dtype), decay.to(state.dtype), weight.to(state.dtype), state, reset)
    return y.to(x.dtype), after
