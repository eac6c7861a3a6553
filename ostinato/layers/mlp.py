"""Channel mixers: what a block does to each token on its own, (B, T, D) -> (B, T, D)."""

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, relu

from ostinato.layers.linear import Linear, after
from ostinato.ops.pointwise import swiglu
from ostinato.registry import did_you_mean


class SwiGLU(nn.Module):
    """y = W_out (silu(W_gate x) * W_up x). Shazeer 2020, https://arxiv.org/abs/2002.05202.

    dim: width D
    expansion: hidden width as a multiple of D; 8/3 gives the parameters of a plain MLP of expansion 4
    hidden: hidden width itself; by default what expansion says, rounded up to a multiple of 8
    bias: whether the projections have biases
    gate_scale: what the gate is multiplied by before its silu
    """

    def __init__(
        self,
        dim: int,
        expansion: float = 8 / 3,
        *,
        hidden: int | None = None,
        bias: bool = False,
        gate_scale: float = 1.0,
    ):
        super().__init__()
        hidden = hidden or round_up(dim * expansion, 8)
        self.gate_scale = gate_scale
        self.project_in = Linear(dim, 2 * hidden, bias=bias)
        self.project_out = Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        both = self.project_in(x)
        if self.gate_scale != 1:
            gate, up = both.chunk(2, -1)
            both = torch.cat([gate * self.gate_scale, up], -1)
        return after(self.project_out, swiglu, both)


class GeGLU(SwiGLU):
    """y = W_out (gelu(W_gate x) * W_up x), the feed-forward network of Griffin and Gemma. Shazeer 2020, as above."""

    def forward(self, x: Tensor) -> Tensor:
        return after(self.project_out, self._gated, self.project_in(x))

    def _gated(self, both: Tensor) -> Tensor:
        gate, up = both.chunk(2, -1)
        return gelu(self.gate_scale * gate, approximate="tanh") * up


class GELU(nn.Module):
    """y = W_out gelu(W_in x), the feed-forward network of GPT-NeoX.

    dim: width D
    expansion: hidden width as a multiple of D
    hidden: hidden width itself; by default what expansion says, rounded up to a multiple of 8
    bias: whether the projections have biases
    """

    approximate = "none"

    def __init__(self, dim: int, expansion: float = 4.0, *, hidden: int | None = None, bias: bool = False):
        super().__init__()
        hidden = hidden or round_up(dim * expansion, 8)
        self.project_in = Linear(dim, hidden, bias=bias)
        self.project_out = Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return after(self.project_out, partial(gelu, approximate=self.approximate), self.project_in(x))


class TanhGELU(GELU):
    """The same with the approximation of gelu by a tanh, the feed-forward network of GPT-2."""

    approximate = "tanh"


class ReLU(GELU):
    """The same with relu, the feed-forward network of the first Transformer and of T5."""

    def forward(self, x: Tensor) -> Tensor:
        return self.project_out(relu(self.project_in(x)))


class Experts(nn.Module):
    """y = sum_{e in the k largest of p} p_e W_out^e (silu(W_gate^e x) * W_up^e x),   p = softmax(W x).

    Each token goes to the few of the experts whose probability is largest, and to a shared one where there is one, times
    sigmoid(w x). The form is that of Mixtral, https://arxiv.org/abs/2401.04088; nothing keeps the load of experts even.

    dim: width D
    expansion: hidden width of an expert as a multiple of D
    hidden: hidden width itself; by default what expansion says, rounded up to a multiple of 8
    experts: number of experts
    active: how many of them a token goes to
    normalised: whether the probabilities of those are divided by their sum
    shared: hidden width of the expert that every token goes to; None for none
    """

    def __init__(
        self,
        dim: int,
        expansion: float = 8 / 3,
        *,
        hidden: int | None = None,
        experts: int = 8,
        active: int = 2,
        normalised: bool = True,
        shared: int | None = None,
    ):
        super().__init__()
        if not 1 <= active <= experts:
            raise ValueError(f"active is how many of the {experts} experts a token goes to; got {active}")
        hidden = hidden or round_up(dim * expansion, 8)
        self.active, self.normalised = active, normalised
        self.router = Linear(dim, experts, bias=False)
        self.project_in = nn.Parameter(torch.randn(experts, 2 * hidden, dim) * dim**-0.5)
        self.project_out = nn.Parameter(torch.randn(experts, dim, hidden) * hidden**-0.5)
        self.shared = None if shared is None else SwiGLU(dim, hidden=shared)
        self.share = None if shared is None else Linear(dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, -2)
        weights, chosen = self.router(tokens).softmax(-1, dtype=at_least_float32(x.dtype)).topk(self.active)
        if self.normalised:
            weights = weights / weights.sum(-1, keepdim=True)
        # a few tokens take the matrices of their experts with them; of many, each expert reads its own
        few = chosen.numel() <= len(self.project_in)
        y = (self._few if few else self._many)(tokens, chosen, weights.to(x.dtype))
        if self.shared is not None and self.share is not None:
            y = y + torch.sigmoid(self.share(tokens)) * self.shared(tokens)
        return y.view_as(x)

    def _few(self, tokens: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        h = swiglu(torch.einsum("nkfd,nd->nkf", self.project_in[chosen], tokens))
        return torch.einsum("nkdf,nkf,nk->nd", self.project_out[chosen], h, weights)

    def _many(self, tokens: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        y = torch.zeros_like(tokens)
        for expert in chosen.unique().tolist():
            token, place = (chosen == expert).nonzero(as_tuple=True)
            made = linear(swiglu(linear(tokens[token], self.project_in[expert])), self.project_out[expert])
            y = y.index_add(0, token, made * weights[token, place, None])
        return y


def at_least_float32(kind: torch.dtype) -> torch.dtype:
    """The type in which probabilities are."""
    return torch.promote_types(kind, torch.float32)


def round_up(width: float, multiple: int) -> int:
    """The next multiple, so that widths stay friendly to vector units."""
    return -int(-width // multiple) * multiple


MLPS: dict[str, type[nn.Module]] = {
    "swiglu": SwiGLU,
    "geglu": GeGLU,
    "gelu": GELU,
    "gelu_tanh": TanhGELU,
    "relu": ReLU,
    "experts": Experts,
}


def make_mlp(part: str | Mapping[str, Any], dim: int, expansion: float | None = None) -> nn.Module:
    """The channel mixer that a name, or {name: {argument: value}}, describes, of that width."""
    name, arguments = part, {}
    if isinstance(part, Mapping) and len(part) == 1:
        name, arguments = next(iter(part.items()))
    if not isinstance(name, str) or name not in MLPS:
        raise ValueError(f"mlp is one of {', '.join(MLPS)} or null; got {name!r}{did_you_mean(str(name), MLPS)}")
    known = [each for each in inspect.signature(MLPS[name]).parameters if each != "dim"]
    if not isinstance(arguments or {}, Mapping) or set(arguments or {}) - set(known):
        takes = f"{{{name}: {{argument: value}}}}, of {', '.join(known)}"
        raise ValueError(f"the arguments of mlp {name} are written as {takes}; got {arguments!r}")
    given = {} if expansion is None else {"expansion": expansion}
    return MLPS[name](dim, **(given | dict(arguments or {})))
