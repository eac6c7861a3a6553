"""LSRL, a language for what recurrent networks can compute: a program is a graph of a few operations, run for every token.

    linear      y = A x + b                        relu      y = max(x, 0)
    state       s_t = A s_{t-1} + B x_t            multiply  y = a * b
    concat      y = (a, b, ...)

    x = token(1)
    count = state(x * 0 + 1)                       1, 2, 3, ...
    even = relu(-1 * state(x * 0 + 1, A=[[-1]]) + 1)
    interpret(count, torch.zeros(1, 5, 1))

`ostinato.analyze.lsrl_compiler` turns a program into the weights of recurrent networks; `interpret` is what it means.

Petrov, Lamb, Paren, Torr, Bibi 2024, https://arxiv.org/abs/2406.01424: programs that look up a function which the prompt
describes show that recurrent networks can be prompted to compute any function.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

Matrix: TypeAlias = Tensor | Sequence[Sequence[float]]


class Node:
    """A vector that a program computes at every token."""

    width: int

    def arguments(self) -> tuple["Node", ...]:
        """What it is computed from."""
        return ()

    def __add__(self, other: "Node | float") -> "Node":
        if not isinstance(other, Node):
            return linear(self, torch.eye(self.width), torch.full((self.width,), float(other)))
        if other.width != self.width:
            raise ValueError(f"vectors of one width are added; got {self.width} and {other.width}")
        return linear(concat(self, other), torch.eye(self.width).repeat(1, 2))

    __radd__ = __add__

    def __mul__(self, factor: float) -> "Node":
        return linear(self, torch.eye(self.width) * factor)

    __rmul__ = __mul__

    def __neg__(self) -> "Node":
        return self * -1.0

    def __sub__(self, other: "Node | float") -> "Node":
        return self + (-other)

    def __rsub__(self, other: float) -> "Node":
        return -self + other

    def __getitem__(self, index: int) -> "Node":
        return linear(self, torch.eye(self.width)[index : index + 1])


@dataclass(frozen=True, eq=False)
class Token(Node):
    """What is read."""

    width: int


@dataclass(frozen=True, eq=False)
class Linear(Node):
    """A x + b."""

    x: Node
    A: Tensor
    b: Tensor

    @property
    def width(self) -> int:  # type: ignore[override]
        return len(self.A)

    def arguments(self) -> tuple[Node, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False)
class Concat(Node):
    """Several vectors as one."""

    parts: tuple[Node, ...]

    @property
    def width(self) -> int:  # type: ignore[override]
        return sum(part.width for part in self.parts)

    def arguments(self) -> tuple[Node, ...]:
        return self.parts


@dataclass(frozen=True, eq=False)
class Relu(Node):
    """max(x, 0)."""

    x: Node

    @property
    def width(self) -> int:  # type: ignore[override]
        return self.x.width

    def arguments(self) -> tuple[Node, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False)
class Multiply(Node):
    """a * b, number by number."""

    a: Node
    b: Node

    @property
    def width(self) -> int:  # type: ignore[override]
        return self.a.width

    def arguments(self) -> tuple[Node, ...]:
        return (self.a, self.b)


@dataclass(frozen=True, eq=False)
class LinearState(Node):
    """s_t = A s_{t-1} + x_t, from s_0 = 0."""

    x: Node
    A: Tensor

    @property
    def width(self) -> int:  # type: ignore[override]
        return len(self.A)

    def arguments(self) -> tuple[Node, ...]:
        return (self.x,)


def token(width: int) -> Node:
    """The input of a program: one for each program."""
    return Token(width)


def linear(x: Node, A: Matrix, b: Any = None) -> Node:
    """A x + b."""
    A = torch.as_tensor(A, dtype=torch.float64)
    if A.ndim != 2 or A.shape[1] != x.width:
        raise ValueError(f"A has a column for each of the {x.width} numbers that it reads; got {tuple(A.shape)}")
    b = torch.zeros(len(A)) if b is None else torch.as_tensor(b)
    if b.shape != A.shape[:1]:
        raise ValueError(f"b has a number for each of the {len(A)} rows of A; got {tuple(b.shape)}")
    return Linear(x, A, b.double())


def concat(*parts: Node) -> Node:
    """Several vectors as one."""
    return Concat(parts)


def relu(x: Node) -> Node:
    """max(x, 0)."""
    return Relu(x)


def multiply(a: Node, b: Node) -> Node:
    """a * b, number by number; one number may stand beside a vector."""
    widest = max(a.width, b.width)
    a, b = (linear(each, torch.ones(widest, 1)) if each.width == 1 < widest else each for each in (a, b))
    if a.width != b.width:
        raise ValueError(f"vectors of one width are multiplied; got {a.width} and {b.width}")
    return Multiply(a, b)


def state(x: Node, A: Matrix | None = None, B: Matrix | None = None) -> Node:
    """s_t = A s_{t-1} + B x_t, from s_0 = 0; a sum over time where A and B are left out."""
    x = x if B is None else linear(x, B)
    A = torch.eye(x.width) if A is None else torch.as_tensor(A)
    if A.shape != (x.width, x.width):
        raise ValueError(f"A is {x.width} by {x.width}, as wide as B x; got {tuple(A.shape)}")
    return LinearState(x, A.double())


def step(x: Node, sharpness: float) -> Node:
    """0 where x is at most -1 / sharpness, 1 where it is at least 0, a line between them."""
    return relu(x * sharpness + 1) - relu(x * sharpness)


def both(a: Node, b: Node) -> Node:
    """a and b, where each is 0 or 1; one number may stand beside a vector."""
    widest = max(a.width, b.width)
    a, b = (linear(each, torch.ones(widest, 1)) if each.width == 1 < widest else each for each in (a, b))
    return relu(a + b - 1)


def where(condition: Node, x: Node, bound: float | None) -> Node:
    """x where the condition, one number, is 1, and 0 where it is 0.

    bound: x stays within it, and no product is needed; None multiplies
    """
    if bound is None:
        return multiply(condition, x)
    below = linear(condition, torch.full((x.width, 1), bound)) - bound
    return relu(x + below) - relu(below - x)


def order(program: Node) -> list[Node]:
    """Every node of a program once, what it is computed from before itself."""
    found: dict[Node, None] = {}

    def visit(node: Node) -> None:
        if node not in found:
            for argument in node.arguments():
                visit(argument)
            found[node] = None

    visit(program)
    if len(inputs := [node for node in found if isinstance(node, Token)]) != 1:
        raise ValueError(f"a program reads one token; this one has {len(inputs)}")
    return list(found)


def interpret(program: Node, x: Tensor) -> Tensor:
    """What a program computes, token by token: (B, T, width) -> (B, T, width of the program), in float64."""
    nodes, outputs = order(program), []
    states = {
        node: x.new_zeros(len(x), node.width, dtype=torch.float64) for node in nodes if isinstance(node, LinearState)
    }
    for t in range(x.shape[1]):
        values: dict[Node, Tensor] = {}
        for node in nodes:
            read = [values[argument] for argument in node.arguments()]
            if isinstance(node, Token):
                values[node] = x[:, t].double()
            elif isinstance(node, Linear):
                values[node] = read[0] @ node.A.T + node.b
            elif isinstance(node, Concat):
                values[node] = torch.cat(read, -1)
            elif isinstance(node, Relu):
                values[node] = read[0].relu()
            elif isinstance(node, Multiply):
                values[node] = read[0] * read[1]
            elif isinstance(node, LinearState):
                values[node] = states[node] = states[node] @ node.A.T + read[0]
        outputs.append(values[program])
    return torch.stack(outputs, 1)


def token_lookup(vocabulary: int, *, gated: bool = False) -> Node:
    """The program that looks a function up: it reads q k_1 v_1 k_2 v_2 ... and says v_i with k_i = q, one-hot all of them.

    vocabulary: number of different tokens
    gated: whether it multiplies; otherwise conditions are sums that a relu cuts
    """
    x = token(vocabulary)
    one = linear(x, torch.zeros(1, vocabulary), torch.ones(1))
    choose = multiply if gated else both
    first = relu(2 - state(one))
    odd = state(one, [[-1.0]])  # 1, 0, 1, 0, ...: tokens 3, 5, ... are values
    query = state(choose(first, x))
    same = linear(both(query, x), torch.ones(1, vocabulary))
    match = relu(same - odd)
    late = linear(state(match, [[0.0, 1.0], [0.0, 0.0]], [[0.0], [1.0]]), [[1.0, 0.0]])  # one token later
    return state(choose(late, x))


def function_lookup(cell: float, *, sharpness: float = 1e4, bound: float = 8.0, gated: bool = False) -> Node:
    """The program that looks a function of one number up: it reads (q, 0) (l_1, y_1) (l_2, y_2) ... and says the y_i with
    l_i <= q < l_i + cell.

    cell: how wide the cells are
    sharpness: a q that is less than its inverse below an edge is between two cells
    bound: what numbers stay within
    gated: whether it multiplies
    """
    x = token(2)
    one = linear(x, torch.zeros(1, 2), torch.ones(1))
    first = relu(2 - state(one))
    limit = None if gated else bound
    query = state(where(first, x[0], limit))
    inside = step(query - x[0], sharpness) - step(query - x[0] - cell, sharpness)
    return state(where(relu(inside - first), x[1], limit))
