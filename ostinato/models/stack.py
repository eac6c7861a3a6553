"""Blocks and stacks: mixers and channel mixers with residual connections, (B, T, D) -> (B, T, D).

x = x + mixer(norm(x));   x = x + mlp(norm(x))          or, in parallel,   x = x + mixer(norm(x)) + mlp(norm'(x))

or, with norms behind the sum,   x = norm(x + mixer(x));   x = norm(x + mlp(x)),   each sum with shares, a x + b f(x).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ostinato.contract import SequenceModule
from ostinato.layers.mlp import make_mlp
from ostinato.layers.norms import make_norm
from ostinato.registry import create, register
from ostinato.state import State

Part = str | Mapping[str, Any]
"""One element of a pattern: "gla", or {"attention": {"window": 512, "heads": 8}}."""


def parse_pattern(pattern: Part | Sequence[Part]) -> list[tuple[str, dict[str, Any]]]:
    """Name and arguments of each element of a pattern; refuses what is neither a name nor a name with arguments."""
    parts = [pattern] if isinstance(pattern, (str, Mapping)) else list(pattern)
    if not parts:
        raise ValueError("pattern names at least one mixer; got none")
    parsed = []
    for part in parts:
        if isinstance(part, str):
            parsed.append((part, {}))
        elif isinstance(part, Mapping) and len(part) == 1:
            name, arguments = next(iter(part.items()))
            if not isinstance(arguments or {}, Mapping):
                raise ValueError(f"the arguments of {name} are written as {{name: value}}; got {arguments!r}")
            parsed.append((name, dict(arguments or {})))
        else:
            raise ValueError(f"an element of pattern is a name or {{name: {{argument: value}}}}; got {part!r}")
    return parsed


def build(part: Part, dim: int) -> SequenceModule:
    """The module that one element of a pattern describes, of that width."""
    (name, arguments), *others = parse_pattern(part)
    if others:
        raise ValueError(f"one module is expected here; got {len(others) + 1}")
    return create(name, **{"dim": dim, **arguments})


ORDERS = ("before", "after")


def residual(x: Tensor, y: Tensor, keep: float, add: float) -> Tensor:
    """keep x + add y."""
    return (x if keep == 1 else keep * x) + (y if add == 1 else add * y)


class BlockState(NamedTuple):
    mixer: State


class Block(SequenceModule):
    """A mixer and a channel mixer, each after a norm and with a residual connection.

    mixer: the module that mixes along time
    mlp: a name of layers/mlp.py or {name: {argument: value}}, or None for a mixer alone
    expansion: hidden width of the mlp as a multiple of dim; None for what suits the kind
    norm: kind of the norms, one of layers/norms.py
    eps: what norms add to the mean square
    parallel: whether the mlp reads what the mixer reads, instead of what it leaves
    order: where the norms are: "before" what reads, or "after" the sum
    shares: what the mixer's sum keeps of x and takes of the mixer, and the same two of the mlp
    """

    recompute: bool
    """Whether gradients compute the inside of mixer and channel mixer again, of which only inputs and outputs are kept
    then: less memory for more time. May be set at any time. Chen et al. 2016, https://arxiv.org/abs/1604.06174."""

    def __init__(
        self,
        mixer: SequenceModule,
        mlp: Part | None = "swiglu",
        expansion: float | None = None,
        *,
        norm: str = "rms",
        eps: float = 1e-5,
        parallel: bool = False,
        order: str = "before",
        shares: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    ):
        super().__init__(mixer.dim)
        if order not in ORDERS:
            raise ValueError(f"order is where the norms are, {' or '.join(ORDERS)}; got {order!r}")
        if len(shares) != 4:
            raise ValueError(f"shares are 4 numbers: of x and of the mixer, of x and of the mlp; got {shares!r}")
        if parallel and (order == "after" or tuple(shares) != (1, 1, 1, 1)):
            raise ValueError("a parallel block has its norms before what reads, and shares of 1")
        self.causal = mixer.causal
        self.recompute = False
        self.parallel, self.order, self.shares = parallel, order, tuple(shares)
        # a few mixers have their norms themselves
        own = getattr(mixer, "normalises", False)
        self.mixer_norm = nn.Identity() if own else make_norm(norm, mixer.dim, eps)
        self.mixer = mixer
        self.mlp = None
        if mlp is not None:
            self.mlp_norm = make_norm(norm, mixer.dim, eps)
            self.mlp = make_mlp(mlp, mixer.dim, expansion)

    def initial_state(self, batch: int) -> BlockState:
        return BlockState(self.mixer.initial_state(batch))

    def state_bytes(self, tokens: int) -> int:
        return self.mixer.state_bytes(tokens)

    def _entered(self, x: Tensor) -> Tensor:
        """What the mixer reads."""
        return x if self.order == "after" else self.mixer_norm(x)

    def _finish(self, x: Tensor, y: Tensor) -> Tensor:
        """x, with which the block began, y, which the mixer made of it, and what the channel mixer adds."""
        z = residual(x, y, *self.shares[:2])
        if self.order == "after":
            z = self.mixer_norm(z)
            return z if self.mlp is None else self.mlp_norm(residual(z, self.mlp(z), *self.shares[2:]))
        if self.mlp is None:
            return z
        return residual(z, self.mlp(self.mlp_norm(x if self.parallel else z)), *self.shares[2:])

    def _mix(self, x: Tensor, state: State | None, reset: Tensor | None, **options: Any) -> tuple[Tensor, State]:
        return self.mixer(self._entered(x), state, reset, **options)

    def _mix_told(self, x: Tensor, state: State, reset: Tensor | None, told: Any) -> tuple[Tensor, State, Any]:
        return cast(Any, self.mixer).mix_told(self._entered(x), state, reset, told)

    def _call(self, part: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if not (self.recompute and torch.is_grad_enabled()):
            return part(*arguments, **options)
        return checkpoint(part, *arguments, **options, use_reentrant=False)

    def read(self, x: Tensor, state: BlockState, reset: Tensor | None) -> tuple[Tensor, BlockState]:
        y, after = self._call(self._mix, x, state.mixer, reset)
        return self._call(self._finish, x, y), BlockState(after)

    def read_told(
        self, x: Tensor, state: BlockState, reset: Tensor | None, told: Mapping[str, Tensor]
    ) -> tuple[Tensor, BlockState, Mapping[str, Tensor]]:
        """The same where the mixer hears what lower layers said of these tokens, and hands it on."""
        if not hasattr(self.mixer, "mix_told"):
            x, after = self(x, state, reset)
            return x, after, told
        y, after, told = self._call(self._mix_told, x, state.mixer, reset, told)
        return self._call(self._finish, x, y), BlockState(after), told

    def encode(self, x: Tensor, mask: Tensor | None, reset: Tensor | None) -> Tensor:
        y, _ = self._call(self._mix, x, None, reset, mask=mask)
        return self._call(self._finish, x, y)


class StackState(NamedTuple):
    layers: tuple[BlockState, ...]


@register("model:stack")
class Stack(SequenceModule):
    """Blocks on top of each other; their mixers repeat a pattern.

    dim: width D of input and output
    layers: number of blocks
    pattern: the mixers, repeated over the blocks: names, or {name: {argument: value}}
    mlp: channel mixer of each block: "swiglu", "geglu", "gelu", "gelu_tanh", {name: {argument: value}} or None; or a list of
        them, repeated over the blocks
    expansion: hidden width of the channel mixer as a multiple of dim; None for what suits the kind
    norm: kind of the norms: "rms", "offset_rms" (times 1 + weight) or "layer"
    eps: what norms add to the mean square
    parallel: whether the channel mixer of a block reads what the mixer reads, instead of what it leaves
    order: where the norms of a block are: "before" what reads, or "after" the sum
    shares: what a block keeps of its input and takes of its mixer, and the same two of its channel mixer; or a list of
        such fours, repeated over the blocks; None for 1
    """

    kind = "model"
    examples = (
        dict(dim=8, layers=2, pattern=[{"gla": {"heads": 2}}]),
        dict(dim=8, layers=3, pattern=[{"gla": {"heads": 2}}, {"gla": {"heads": 2, "gate_rank": 5}}], mlp=None),
        dict(
            dim=8, layers=2, order="after", shares=[[1, 1, 1, 1], [1.5, 0.7, 2, 0.5]],
            pattern=[{"rwkv7": {"heads": 2, "rank": 3}}, {"rwkv7": {"heads": 2, "rank": 3, "value_rank": 2}}],
        ),
    )  # fmt: skip

    def __init__(
        self,
        dim: int,
        *,
        layers: int = 4,
        pattern: Part | Sequence[Part] = "gla",
        mlp: Part | list[Part | None] | None = "swiglu",
        expansion: float | None = None,
        norm: str = "rms",
        eps: float = 1e-5,
        parallel: bool = False,
        order: str = "before",
        shares: list[Any] | None = None,
    ):
        super().__init__(dim)
        if layers < 1:
            raise ValueError(f"layers is the number of blocks, at least 1; got {layers}")
        parts = parse_pattern(pattern)
        mlps: list[Part | None] = mlp if isinstance(mlp, list) and mlp else [mlp]  # pyright: ignore[reportAssignmentType]
        fours = shares if shares and isinstance(shares[0], Sequence) else [shares or [1.0] * 4]
        blocks = []
        for layer in range(layers):
            name, arguments = parts[layer % len(parts)]
            mixer = build({name: arguments}, dim)
            options: Any = dict(norm=norm, eps=eps, parallel=parallel, order=order, shares=fours[layer % len(fours)])
            blocks.append(Block(mixer, mlps[layer % len(mlps)], expansion, **options))
        if len({block.causal for block in blocks}) > 1:
            raise ValueError("a stack is causal or it is not; its pattern mixes both kinds")
        self.layers = nn.ModuleList(blocks)
        self.causal = blocks[0].causal
        self.listens = any(getattr(block.mixer, "listens", False) for block in blocks)
        # some mixers depend on the layer that they are in, or share something over layers: those have a `tie`
        for kind in dict.fromkeys(type(block.mixer) for block in blocks):
            if hasattr(kind, "tie"):
                kind.tie([block.mixer for block in blocks if type(block.mixer) is kind])

    @property
    def recompute(self) -> bool:
        """Whether gradients compute the inside of blocks again, as `Block.recompute`; may be set at any time."""
        return all(block.recompute for block in self.blocks)

    @recompute.setter
    def recompute(self, wanted: bool) -> None:
        for block in self.blocks:
            block.recompute = wanted

    @property
    def blocks(self) -> list[Block]:
        """The layers, as what they are."""
        return cast(list[Block], list(self.layers))

    def initial_state(self, batch: int) -> StackState:
        return StackState(tuple(layer.initial_state(batch) for layer in self.blocks))

    def state_bytes(self, tokens: int) -> int:
        return sum(layer.state_bytes(tokens) for layer in self.blocks)

    def read(self, x: Tensor, state: StackState, reset: Tensor | None) -> tuple[Tensor, StackState]:
        after: list[BlockState] = []
        told: Mapping[str, Tensor] = {"input": x}
        for layer, before in zip(self.blocks, state.layers, strict=True):
            x, layer_state, told = self.through(layer, x, before, reset, told)
            after.append(layer_state)
        return x, StackState(tuple(after))

    def through(
        self, layer: Block, x: Tensor, state: BlockState, reset: Tensor | None, told: Mapping[str, Tensor]
    ) -> tuple[Tensor, BlockState, Mapping[str, Tensor]]:
        """What a block leaves, its state, and what it and those below it told; nothing at the bottom."""
        if self.listens:
            return layer.read_told(x, state, reset, told)
        return *layer(x, state, reset), told

    def encode(self, x: Tensor, mask: Tensor | None, reset: Tensor | None) -> Tensor:
        for layer in self.blocks:
            x, _ = layer(x, None, reset, mask=mask)
        return x


def blocks(model: nn.Module) -> list[Block]:
    """All blocks of a model, wherever they are."""
    return [module for module in model.modules() if isinstance(module, Block)]
