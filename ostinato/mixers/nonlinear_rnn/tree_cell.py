"""A recurrent cell that is a binary tree of sums, products and activations: what a search for cells searches.

    a_j = f_j(W_j x_t o_j R_j h_{t-1})                      leaves, o_j a sum or a product
    a_j = f_j(a_left o_j a_right)                           inner nodes, level by level
    a_i = f(a_i o c_{t-1}) at one node i,   c_t = what node k gives to its activation,   h_t = the root

Zoph, Le 2016, https://arxiv.org/abs/1611.01578, section 3.4; the tree of the default is the paper's example. `nas_cell` is the
tree of eight leaves that their search found.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ostinato.contract import width_or
from ostinato.layers.linear import Linear
from ostinato.mixers.nonlinear_rnn.cell import Cell
from ostinato.registry import did_you_mean, register

COMBINATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"add": torch.add, "multiply": torch.mul}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
}


@register("tree_cell", paper="nas_rnn")
class TreeCell(Cell):
    """Recurrent cell that is a tree of sums, products and activations over pairs of input and last output.

    dim: width D of input and output
    hidden: width of the recurrence; by default D; another width is projected back
    nodes: what each node does, leaves first, the root last, as in "add tanh" or "multiply relu"; 3, 7, 15, ... of them
    inject: what is done with the cell of the last step, in the same words
    at: number of the node that hears it
    cell: number of the node whose value, before its activation, is the next cell
    """

    examples = (
        dict(dim=8),
        dict(
            dim=6,
            hidden=5,
            nodes="add sigmoid;add tanh;multiply tanh;add relu;multiply identity;add tanh;multiply tanh".split(";"),
            inject="multiply sigmoid",
            at=5,
            cell=4,
        ),
    )

    def __init__(
        self,
        dim: int,
        *,
        hidden: int | None = None,
        nodes: Sequence[str] = ("add tanh", "multiply relu", "multiply sigmoid"),
        inject: str = "add relu",
        at: int = 0,
        cell: int = 1,
    ):
        self.hidden = width_or(dim, hidden)
        super().__init__(dim, state=[self.hidden, self.hidden])
        leaves = (len(nodes) + 1) // 2
        if len(nodes) < 3 or len(nodes) % 2 == 0 or leaves & (leaves - 1):
            raise ValueError(f"nodes is a full tree of 3, 7, 15, ... nodes; got {len(nodes)}")
        if not (0 <= at < len(nodes) and 0 <= cell < len(nodes)):
            raise ValueError(f"at and cell are numbers of nodes, 0 to {len(nodes) - 1}; got {at} and {cell}")
        self.leaves, self.at, self.cell = leaves, at, cell
        self.nodes, self.inject = [read_node(node) for node in nodes], read_node(inject)
        self.project_in = Linear(dim, leaves * self.hidden, bias=False)
        self.recurrent = nn.Parameter(torch.empty(self.hidden, leaves * self.hidden))
        wide = self.hidden != dim
        self.project_out: nn.Module = Linear(self.hidden, dim, bias=False) if wide else nn.Identity()
        for weight in (self.project_in.weight, self.recurrent):
            nn.init.uniform_(weight, -(self.hidden**-0.5), self.hidden**-0.5)

    def prepare(self, x: Tensor) -> Tensor:
        return self.project_in(x)

    def step(self, state: tuple[Tensor, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        h, c = state
        pairs = list(zip(x.chunk(self.leaves, -1), (h @ self.recurrent).chunk(self.leaves, -1)))
        after = c
        values: list[Tensor] = []
        for j, (combine, activation) in enumerate(self.nodes):
            if j >= self.leaves:
                first = 2 * (j - self.leaves)
                pairs.append((values[first], values[first + 1]))
            before = COMBINATIONS[combine](*pairs[j])
            if j == self.cell:
                after = before
            value = ACTIVATIONS[activation](before)
            if j == self.at:
                value = ACTIVATIONS[self.inject[1]](COMBINATIONS[self.inject[0]](value, c))
            values.append(value)
        return values[-1], after


def read_node(words: str) -> tuple[str, str]:
    """Combination and activation of "add tanh"."""
    combine, _, activation = str(words).partition(" ")
    if combine not in COMBINATIONS or activation not in ACTIVATIONS:
        known = [f"{one} {other}" for one in COMBINATIONS for other in ACTIVATIONS]
        raise ValueError(f"a node is one of {', '.join(known)}{did_you_mean(str(words), known)}; got {words!r}")
    return combine, activation
