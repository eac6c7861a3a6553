"""Tables of weights: which tensors of another library are which of ours, and what is done to them on the way.

    Row(theirs, ours, read, write):   ours = read(theirs),   theirs = write(ours)

An architecture is a list of rows, made for the arguments of a model. Import reads it from left to right, export from right
to left, and the shapes that a file must have are those that export would give.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Move = Callable[..., Sequence[Tensor]]


@dataclass(frozen=True)
class Row:
    """Tensors that belong together: `read` takes theirs, in this order, and returns ours; `write` the other way.

    A row without ours is of tensors that follow from the config: they are written, and not read.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    read: Move
    write: Move


def same(theirs: str, ours: str) -> Row:
    """A tensor that both have."""
    return Row((theirs,), (ours,), lambda x: [x], lambda x: [x])


def derived(theirs: Sequence[str], make: Callable[[], Sequence[Tensor]]) -> Row:
    """Tensors of theirs that follow from the config."""
    return Row(tuple(theirs), (), lambda *given: [], make)


def joined(theirs: Sequence[str], ours: str, sizes: Sequence[int], axis: int = 0) -> Row:
    """Tensors of theirs that are one of ours, behind each other along an axis."""
    return Row(tuple(theirs), (ours,), lambda *parts: [torch.cat(parts, axis)], lambda x: x.split(list(sizes), axis))


def squeezed(theirs: str, ours: str, axis: int = 1) -> Row:
    """A tensor of theirs that has an axis of length 1 more, such as the filters of a depthwise convolution."""
    return Row((theirs,), (ours,), lambda x: [x.squeeze(axis)], lambda x: [x.unsqueeze(axis)])


def transposed(theirs: str, ours: str) -> Row:
    """A matrix of theirs that is multiplied from the other side."""
    return Row((theirs,), (ours,), lambda x: [x.T], lambda x: [x.T])


def regrouped(theirs: str, ours: str, heads: int, parts: int) -> Row:
    """Rows that theirs keeps head by head, all parts of a head together, and ours part by part."""
    return Row((theirs,), (ours,), lambda x: [by_part(x, heads, parts)], lambda x: [by_part(x, parts, heads)])


def by_part(x: Tensor, heads: int, parts: int) -> Tensor:
    """Rows in the order (head, part, channel) in the order (part, head, channel); with the numbers swapped, the way back."""
    return x.unflatten(0, (heads, parts, -1)).transpose(0, 1).flatten(0, 2)


def linear(theirs: str, ours: str, bias: bool = False) -> list[Row]:
    """A linear map, with its bias if it has one."""
    return [same(f"{theirs}.{part}", f"{ours}.{part}") for part in parts_of(bias)]


def joined_linear(theirs: Sequence[str], ours: str, sizes: Sequence[int], bias: bool = False) -> list[Row]:
    """Linear maps of theirs that are one of ours."""
    return [joined([f"{name}.{part}" for name in theirs], f"{ours}.{part}", sizes) for part in parts_of(bias)]


def convolution(theirs: str, ours: str, bias: bool = False) -> list[Row]:
    """A depthwise convolution."""
    rows = [squeezed(f"{theirs}.weight", f"{ours}.weight")]
    return rows + [same(f"{theirs}.bias", f"{ours}.bias")] * bias


def parts_of(bias: bool) -> tuple[str, ...]:
    """The tensors of a linear map or a norm."""
    return ("weight", "bias") if bias else ("weight",)


def read(rows: Sequence[Row], get: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """Our tensors by name, from theirs."""
    ours: dict[str, Tensor] = {}
    for row in rows:
        ours |= zip(row.ours, row.read(*(get(name) for name in row.theirs)), strict=True)
    return ours


def write(rows: Sequence[Row], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors by name, from ours."""
    theirs: dict[str, Tensor] = {}
    for row in rows:
        theirs |= zip(row.theirs, row.write(*(ours[name] for name in row.ours)), strict=True)
    return theirs
