"""What can be done with a state: a NamedTuple of tensors, batch first, or of further states.

A field that grows with the tokens read (a cache) grows along its second axis, newest last; zeros in front of it mean
nothing. A state is a value. These helpers never write to the one given; they walk nested states, so that one for a layer, a
stack or a whole model is handled alike.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor
from torch.nn.functional import pad

from ostinato.files import write_atomically

State = tuple[Any, ...]  # of tensors and of states; None where a part has nothing to remember


def map_state(function: Callable[..., Tensor], *states: State) -> Any:
    """The state with `function` applied to each tensor (of several states: to the tensors at the same place)."""
    first = states[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return function(*states)
    parts = [map_state(function, *fields) for fields in zip(*states, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)


def named_leaves(state: State | None, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor with its readable name: ``layers.0.mixer.S``."""
    if state is None:
        return
    if isinstance(state, Tensor):
        yield prefix, state
        return
    names = getattr(state, "_fields", None) or [str(i) for i in range(len(state))]
    for name, part in zip(names, state, strict=True):
        yield from named_leaves(part, f"{prefix}.{name}" if prefix else name)


def leaves(state: State | None) -> Iterator[Tensor]:
    """Every tensor of the state."""
    if isinstance(state, Tensor):
        yield state
    elif state is not None:
        for part in state:
            yield from leaves(part)


def detach(state: State) -> State:
    """The same numbers, without the history that gradients would follow."""
    return map_state(Tensor.detach, state)


def clone(state: State) -> State:
    """An independent copy."""
    return map_state(Tensor.clone, state)


def select(state: State, rows: Tensor | Sequence[int]) -> State:
    """The states of these rows of the batch, in this order: reorders beams, repeats a prompt, drops what has ended."""
    first = next(leaves(state))
    rows = torch.as_tensor(rows, dtype=torch.long, device=first.device)
    if rows.ndim != 1 or (len(rows) and (rows.min() < 0 or rows.max() >= len(first))):
        raise ValueError(f"rows are a list of numbers from 0 to {len(first) - 1}; got {rows.tolist()}")
    return map_state(lambda leaf: leaf.index_select(0, rows), state)


def stack(states: Sequence[State]) -> State:
    """One batch made of several: rows of the first state, then of the second, and so on.

    A cache of another length is filled up in front with zeros, which mean nothing there (its flags are False).
    """

    if not states:
        raise ValueError("a batch is made of at least one state; got none")

    def join(*parts: Tensor) -> Tensor:
        shapes = {part.shape[2:] for part in parts}
        if len(shapes) > 1 or len({part.ndim for part in parts}) > 1:
            raise ValueError(
                f"states of one kind of module can be stacked; got {' and '.join(str(tuple(p.shape)) for p in parts)}"
            )
        if parts[0].ndim > 1:
            longest = max(part.shape[1] for part in parts)
            parts = tuple(pad(part, [0, 0] * (part.ndim - 2) + [longest - part.shape[1], 0]) for part in parts)
        return torch.cat(parts)

    return map_state(join, *states)


def replace(state: State, rows: Tensor, other: State) -> State:
    """`state` with its rows `rows` (n,) replaced by the n rows of `other`."""
    first = next(leaves(state))
    place = torch.arange(len(first), device=first.device)
    place[rows] = torch.arange(len(first), len(first) + len(rows), device=first.device)
    return select(stack([state, other]), place)


def where(rows: Tensor, state: State, other: State) -> State:
    """Row by row: `state` where `rows` (B,) is True, `other` elsewhere."""
    return map_state(lambda a, b: torch.where(rows.view(-1, *[1] * (a.ndim - 1)), a, b), state, other)


def to(state: State, device: torch.device | str) -> State:
    """The state on another device."""
    return map_state(lambda leaf: leaf.to(device), state)


def nbytes(state: State) -> int:
    """Bytes that the tensors of the state hold."""
    return sum(leaf.nbytes for leaf in leaves(state))


def save(state: State, path: str | Path) -> None:
    """Write the state as safetensors under readable keys (beside, then renamed: never a half-written file)."""
    tensors = {name: leaf.detach().contiguous().cpu() for name, leaf in named_leaves(state)}
    # two names for one storage (a prompt shared by rows) are refused by safetensors: each gets its own copy
    write_atomically(path, to_safetensors({name: leaf.clone() for name, leaf in tensors.items()}))


def load(path: str | Path, like: State) -> State:
    """Read a state that has the structure of `like` (any state of that module: ``module.initial_state(1)``).

    The number of rows and the length of caches come from the file. A file of another module is refused by name.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no saved state at {path}")
    try:
        with safe_open(path, "pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except SafetensorError as error:
        raise ValueError(f"{path} holds no readable state: {error}") from None
    expected = dict(named_leaves(like))
    if found.keys() != expected.keys():
        odd = sorted(found.keys() ^ expected.keys())
        raise ValueError(f"{path} holds the state of another module; they differ in {', '.join(odd[:4])}")
    for name, leaf in expected.items():
        if found[name].ndim != leaf.ndim or found[name].dtype != leaf.dtype:
            raise ValueError(
                f"{path}: {name} is {found[name].dtype} {tuple(found[name].shape)}; this module's is {leaf.dtype} with {leaf.ndim} axes"
            )
    names = iter(expected)
    # a view into the file may begin where complex numbers or vectors cannot: every tensor gets memory of its own
    return map_state(lambda leaf: found[next(names)].clone().to(leaf.device), like)
