"""What an architecture of another library is to ours: arguments of the language model, and a table of weights."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ostinato.convert.settings import Settings, pick
from ostinato.convert.table import Row, joined_linear, linear, parts_of, same


class Architecture(ABC):
    """An architecture of transformers: its config as arguments of the language model, and its weights as ours."""

    kind: ClassVar[str] = "convert"

    model_type: ClassVar[str]
    """What config.json calls it."""

    class_name: ClassVar[str]
    """The class of transformers that has the head."""

    model: ClassVar[str] = "model:language_model"
    """What it becomes."""

    prefix: ClassVar[str] = "model."
    """What the names of all weights but the head begin with; checkpoints of the model without its head may lack it."""

    head: ClassVar[str] = "lm_head.weight"
    """The head, where it has weights of its own."""

    head_may_lack: ClassVar[bool] = False
    """Whether a checkpoint without a head has that of the embedding, whatever its config says."""

    ignored: ClassVar[tuple[str, ...]] = (r".*rotary_emb\.inv_freq",)
    """Regular expressions for tensors that follow from the config."""

    @abstractmethod
    def arguments(self, settings: Settings) -> dict[str, Any]:
        """Arguments of the language model; refuses by name what it does not have."""

    @abstractmethod
    def layer(self, i: int, arguments: Mapping[str, Any]) -> list[Row]:
        """The weights of layer i of theirs."""

    @abstractmethod
    def ends(self, arguments: Mapping[str, Any]) -> list[Row]:
        """The weights of embeddings and of the norms outside of layers, without the head."""

    def canonical(self, name: str) -> str:
        """The name in the table of a tensor that older checkpoints call otherwise."""
        return name

    def repeated(self, name: str, arguments: Mapping[str, Any]) -> str | None:
        """The tensor that a tensor, which is not in the table, has to be equal to; None where it is no repetition."""
        return None

    def count(self, arguments: Mapping[str, Any]) -> int:
        """Layers of theirs."""
        return arguments["layers"]

    def rows(self, arguments: Mapping[str, Any]) -> list[Row]:
        """The whole table for a model with these arguments."""
        rows = self.ends(arguments)
        for i in range(self.count(arguments)):
            rows += self.layer(i, arguments)
        return rows if arguments.get("tie", True) else [*rows, same(self.head, "head.weight")]

    def settings(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """A config of theirs for a model that was not imported."""
        raise ValueError(f"only imported models can be exported as {self.model_type}; this one was trained here")


def check_types(settings: Settings, types: Sequence[str], layers: int, known: Sequence[str]) -> list[str]:
    """The kind of each layer, one of those that are known."""
    if not isinstance(types, (list, tuple)) or len(types) != layers or not set(types) <= set(known):
        each = f"each of its {layers} layers is {' or '.join(known)}"
        raise ValueError(f"the {settings.model_type} model asks for layers of types {types}; {each}")
    return list(types)


def attention_sizes(options: Mapping[str, Any], dim: int) -> tuple[int, int, int]:
    """Heads of queries, heads of keys and values, and their width, as attention derives them."""
    heads = options.get("heads", 4)
    return heads, options.get("kv_heads") or heads, options.get("head_dim") or dim // heads


def attention_rows(
    theirs: str,
    ours: str,
    options: Mapping[str, Any],
    dim: int,
    *,
    out: str = "o_proj",
    norms: Sequence[str] = ("q_norm", "k_norm"),
) -> list[Row]:
    """Attention with a matrix for each of queries, keys and values."""
    H, G, K = attention_sizes(options, dim)
    bias, out_bias = options.get("bias", False), options.get("out_bias")
    rows = joined_linear([f"{theirs}.{part}_proj" for part in "qkv"], f"{ours}.project_in", [H * K, G * K, G * K], bias)
    rows += linear(f"{theirs}.{out}", f"{ours}.project_out", bias if out_bias is None else out_bias)
    if options.get("qk_norm"):
        rows += [same(f"{theirs}.{x}.weight", f"{ours}.{y}.weight") for x, y in zip(norms, ("q_norm", "k_norm"))]
    return rows


def gated_mlp_rows(
    theirs: str,
    ours: str,
    arguments: Mapping[str, Any],
    i: int,
    names: Sequence[str] = ("gate_proj", "up_proj", "down_proj"),
) -> list[Row]:
    """A channel mixer of a gate, a map up and a map down."""
    _, options = pick(arguments["mlp"], i)
    gate, up, down = (f"{theirs}.{name}" for name in names)
    rows = joined_linear([gate, up], f"{ours}.project_in", [options["hidden"]] * 2, options.get("bias", False))
    return rows + linear(down, f"{ours}.project_out", options.get("bias", False))


def expert_rows(
    theirs: str,
    ours: str,
    options: Mapping[str, Any],
    router: str,
    names: Sequence[str] = ("gate_proj", "up_proj", "down_proj"),
) -> list[Row]:
    """A mixture of experts, each with three matrices of its own."""
    N, gate_up, down = options["experts"], names[:2], names[2]

    def stacked(*parts: Tensor) -> list[Tensor]:
        return [torch.stack([torch.cat(pair) for pair in zip(parts[::2], parts[1::2])])]

    inward = tuple(f"{theirs}.experts.{e}.{name}.weight" for e in range(N) for name in gate_up)
    outward = tuple(f"{theirs}.experts.{e}.{down}.weight" for e in range(N))
    return [
        same(f"{theirs}.{router}.weight", f"{ours}.router.weight"),
        Row(inward, (f"{ours}.project_in",), stacked, lambda x: [part for both in x for part in both.chunk(2)]),
        Row(outward, (f"{ours}.project_out",), lambda *parts: [torch.stack(parts)], lambda x: list(x)),
    ]


def norm_rows(theirs: str, ours: str, bias: bool = False) -> list[Row]:
    """A norm: a weight, and for a layer norm a bias."""
    return [same(f"{theirs}.{part}", f"{ours}.{part}") for part in parts_of(bias)]


def uniform(parts: list[Any]) -> list[Any]:
    """A pattern in its shortest form: one element where all layers are alike."""
    return parts[:1] if all(part == parts[0] for part in parts) else parts
