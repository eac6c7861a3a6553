"""Programs of LSRL as weights: the same numbers from a stack of recurrent mixers as from the interpreter.

    z_0 = x,   z_l = P_l cell_l(z_{l-1}),   y = C z_L + c

z_l are the numbers that somebody still needs after level l. Linear operations disappear into the weights; each other one is a
few units of the cell of its level, and so is every number that is only handed on:

             x                          max(x, 0)                          a b                        s_t = A s_{t-1} + x
    rnn      relu(x) - relu(-x)         relu(x)                            -                          of units for x, that hear A
    lstm     tanh(e x) / e              sigma(L x) tanh(e x) / e           sigma(e b) tanh(e a) less sigma(0) tanh(e a), times 4 / e^2
    gru      tanh(e x) / e              tanh(e x - r M) + tanh(r M) with   tanh at (k + e (a + b)), (k - e (a + b)),
                                        r = sigma(-L x), over e            (k + e (a - b)), (k - e (a - b)): second differences
    linear   x                          relu and products beside a recurrence that is linear

with e small, L and M large, and gates that stand fully open or closed. `rnn` and `linear` are exact; in float64 `lstm` and `gru`
are so to about e^2.

Petrov, Lamb, Paren, Torr, Bibi 2024, https://arxiv.org/abs/2406.01424.
"""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ostinato.analyze.lsrl import Concat, Linear, LinearState, Multiply, Node, Relu, Token, order
from ostinato.contract import Mixer, SequenceModule
from ostinato.mixers.nonlinear_rnn.cell import Cell, PartsState
from ostinato.registry import create, did_you_mean, register

SMALL = 1e-5
"""e, for numbers that are handed on: tanh is a line there."""
SMALLER_PRODUCT = 3e-4
"""e, for products: the square of it has to stand out from rounding."""
LARGE = 1e9
"""L and M; gates at +-OPEN are 0 and 1 to the last bit."""
OPEN = 1e3
CURVED = 0.5
"""k: where tanh is curved."""

Unit = tuple[int, float]
"""A unit of a cell, and what its output is multiplied by."""


class Units:
    """The units of one level, as rows of weights: what a gate reads of z, with its bias last."""

    cell = "rnn"
    parts, heard = 1, 0  # gates, and which of them hears the units of the token before

    def __init__(self, width: int):
        self.width = width
        self.rows: list[Tensor] = []
        self.hears: list[tuple[int, int, float]] = []  # from, to, weight

    def unit(self, *gates: Tensor | float) -> int:
        """A new unit; a number stands for a gate that reads nothing and has this bias."""
        row = torch.zeros(self.parts, self.width + 1, dtype=torch.float64)
        for part, gate in zip(row, gates, strict=True):
            if isinstance(gate, Tensor):
                part += gate
            else:
                part[-1] = gate
        self.rows.append(row)
        return len(self.rows) - 1

    def kept(self, x: Tensor) -> list[tuple[int, float, float]]:
        """x itself: units, what they are multiplied by, and what units multiply what they hear by."""
        return [(self.unit(x), 1.0, 1.0), (self.unit(-x), -1.0, -1.0)]

    def relu(self, x: Tensor) -> list[Unit]:
        return [(self.unit(x), 1.0)]

    def product(self, a: Tensor, b: Tensor) -> list[Unit]:
        raise ValueError(
            "an rnn with relu does not multiply; compile for lstm, gru or linear, or write it without products"
        )

    def states(self, x: Tensor, A: Tensor) -> list[list[Unit]]:
        """Of s_t = A s_{t-1} + x_t."""
        units = [self.kept(row) for row in x]
        for i, own in enumerate(units):
            for j, others in enumerate(units):
                for to, _, scale in own:
                    self.hears += [(back, to, scale * float(A[i, j]) * out) for back, out, _ in others if A[i, j]]
        return [[(unit, out) for unit, out, _ in own] for own in units]

    def build(self, dim: int, outputs: list[list[Unit]]) -> SequenceModule:
        """The mixer with these weights."""
        while len(self.rows) in (0, dim):
            self.unit(*[0.0] * self.parts)  # mixers project a width other than dim, and have no width of 0
        hidden = len(self.rows)
        mixer: Any = self.made(dim, hidden)
        rows = torch.stack(self.rows, 1).flatten(0, 1)
        with torch.no_grad():
            for parameter in mixer.parameters():
                parameter.zero_()
            mixer.project_in.weight[:, : self.width] = rows[:, :-1]
            mixer.project_in.bias.copy_(rows[:, -1])
            recurrent = mixer.recurrent.view(hidden, self.parts, hidden)
            for back, to, weight in self.hears:
                recurrent[back, self.heard, to] += weight
            for column, units in enumerate(outputs):
                for unit, out in units:
                    mixer.project_out.weight[column, unit] += out
        return mixer

    def made(self, dim: int, hidden: int) -> Mixer:
        options = {"activation": "relu"} if self.cell == "rnn" else {}
        return create(f"mixer:{self.cell}", dim=dim, hidden=hidden, **options).double()


class LSTMUnits(Units):
    cell, parts, heard = "lstm", 4, 2  # i f g o

    def gated(self, x: Tensor, gate: Tensor | float) -> int:
        return self.unit(OPEN, -OPEN, x, gate)

    def kept(self, x: Tensor) -> list[tuple[int, float, float]]:
        return [(self.gated(SMALL * x, OPEN), 1 / SMALL, SMALL)]

    def relu(self, x: Tensor) -> list[Unit]:
        return [(self.gated(SMALL * x, LARGE * x), 1 / SMALL)]

    def product(self, a: Tensor, b: Tensor) -> list[Unit]:
        e, out = SMALLER_PRODUCT, 4 / SMALLER_PRODUCT**2
        return [(self.gated(e * a, e * b), out), (self.gated(e * a, 0.0), -out)]


class GRUUnits(Units):
    cell, parts, heard = "gru", 3, 2  # r z n

    def __init__(self, width: int):
        super().__init__(width)
        self.biases: list[tuple[int, float]] = []  # of what n hears

    def kept(self, x: Tensor) -> list[tuple[int, float, float]]:
        return [(self.unit(OPEN, -OPEN, SMALL * x), 1 / SMALL, SMALL)]

    def relu(self, x: Tensor) -> list[Unit]:
        own, less = self.unit(-LARGE * x, -OPEN, SMALL * x), self.unit(-LARGE * x, -OPEN, 0.0)
        self.biases += [(own, -OPEN), (less, -OPEN)]
        return [(own, 1 / SMALL), (less, -1 / SMALL)]

    def product(self, a: Tensor, b: Tensor) -> list[Unit]:
        e, at = SMALLER_PRODUCT, torch.zeros(self.width + 1, dtype=torch.float64)
        at[-1] = CURVED
        tanh = float(at[-1].tanh())
        out = 1 / (4 * e**2 * -2 * tanh * (1 - tanh**2))  # the second derivative of tanh
        return [
            (self.unit(OPEN, -OPEN, at + sign * e * x), side * out)
            for x, side in ((a + b, 1), (a - b, -1))
            for sign in (1, -1)
        ]

    def build(self, dim: int, outputs: list[list[Unit]]) -> SequenceModule:
        mixer: Any = super().build(dim, outputs)
        with torch.no_grad():
            for unit, bias in self.biases:
                mixer.recurrent_bias[0, unit] = bias
        return mixer


class LinearRecurrence(Cell):
    """h_t = R h_{t-1} + W x_t + b, read by a projection.

    dim: width D of input and output
    hidden: width of the state
    """

    def __init__(self, dim: int, hidden: int):
        super().__init__(dim, state=hidden)
        self.project_in, self.project_out = nn.Linear(dim, hidden), nn.Linear(hidden, dim, bias=False)
        self.recurrent = nn.Parameter(torch.empty(hidden, hidden))

    def prepare(self, x: Tensor) -> Tensor:
        return self.project_in(x)

    def step(self, state: Tensor, x: Tensor) -> Tensor:
        return x + state @ self.recurrent


class GatedLevel(SequenceModule):
    """A linear recurrence, and beside it what has no memory: relu(U z + u), and (V z + v) * (W z + w).

    recurrence: of the same width
    cut: rows of U with u last
    gates: rows of V and W with v and w last, (products, 2, inputs + 1)
    out: where relus and then products are added, (outputs, relus + products)
    """

    def __init__(self, recurrence: LinearRecurrence, cut: Tensor, gates: Tensor, out: Tensor):
        super().__init__(recurrence.dim)
        self.recurrence, self.relus = recurrence, len(cut)
        rows = torch.cat([cut, gates[:, 0], gates[:, 1]])
        self.weight = nn.Parameter(pad(rows[:, :-1], (0, self.dim - rows.shape[1] + 1)))
        self.bias = nn.Parameter(rows[:, -1].clone())
        self.out = nn.Parameter(pad(out, (0, 0, 0, self.dim - len(out))))

    def initial_state(self, batch: int) -> PartsState:
        return self.recurrence.initial_state(batch)

    def read(self, x: Tensor, state: PartsState, reset: Tensor | None) -> tuple[Tensor, PartsState]:
        y, after = self.recurrence(x, state, reset)
        beside = x @ self.weight.T + self.bias
        a, b = beside[..., self.relus :].chunk(2, -1)
        return y + torch.cat([beside[..., : self.relus].relu(), a * b], -1) @ self.out.T, after


class LinearUnits(Units):
    cell = "linear"

    def __init__(self, width: int):
        super().__init__(width)
        self.cut: list[Tensor] = []
        self.gates: list[Tensor] = []

    def kept(self, x: Tensor) -> list[tuple[int, float, float]]:
        return [(self.unit(x), 1.0, 1.0)]

    # units that are beside the recurrence are told apart by their numbers: relus -1, -3, ..., products -2, -4, ...
    def relu(self, x: Tensor) -> list[Unit]:
        self.cut.append(x)
        return [(1 - 2 * len(self.cut), 1.0)]

    def product(self, a: Tensor, b: Tensor) -> list[Unit]:
        self.gates.append(torch.stack([a, b]))
        return [(-2 * len(self.gates), 1.0)]

    def made(self, dim: int, hidden: int) -> Mixer:
        return LinearRecurrence(dim, hidden).double()

    def build(self, dim: int, outputs: list[list[Unit]]) -> SequenceModule:
        inside = [[(unit, out) for unit, out in units if unit >= 0] for units in outputs]
        recurrence = cast(LinearRecurrence, super().build(dim, inside))
        out = torch.zeros(len(outputs), len(self.cut) + len(self.gates), dtype=torch.float64)
        for column, units in enumerate(outputs):
            for unit, _ in units:
                if unit < 0:
                    out[column, -unit // 2 if unit % 2 else len(self.cut) - unit // 2 - 1] = 1.0
        none = torch.zeros(0, self.width + 1, dtype=torch.float64)
        gates = torch.stack(self.gates) if self.gates else none[:, None].expand(-1, 2, -1)
        return GatedLevel(recurrence, torch.stack(self.cut) if self.cut else none, gates, out)


TARGETS = {units.cell: units for units in (Units, LSTMUnits, GRUUnits, LinearUnits)}


class CompiledState(NamedTuple):
    levels: tuple[Any, ...]


class Compiled(SequenceModule):
    """A program as a network: it reads what the program reads and says what the program says, in float64.

    width: of the input
    levels: recurrent modules, all of one width
    readout: from the last of them
    """

    def __init__(self, width: int, levels: list[SequenceModule], readout: nn.Linear):
        super().__init__(width)
        self.levels, self.readout = nn.ModuleList(levels), readout

    @property
    def modules_in_order(self) -> list[SequenceModule]:
        """The levels, as what they are."""
        return cast(list[SequenceModule], list(self.levels))

    def initial_state(self, batch: int) -> CompiledState:
        return CompiledState(tuple(level.initial_state(batch) for level in self.modules_in_order))

    def read(self, x: Tensor, state: CompiledState, reset: Tensor | None) -> tuple[Tensor, CompiledState]:
        x, after = pad(x, (0, self.readout.in_features - self.dim)), []
        for level, before in zip(self.modules_in_order, state.levels, strict=True):
            x, last = level(x, before, reset)
            after.append(last)
        return self.readout(x), CompiledState(tuple(after))


@register("analyze:lsrl_compiler", paper="lsrl")
def lsrl_compiler(program: Node, target: str = "rnn") -> Compiled:
    """The network that computes what a program of `ostinato.analyze.lsrl` says.

    program: its last node
    target: what the network is made of: "rnn" with relu, "lstm", "gru", or "linear" for a linear recurrence with relus and
        products beside it; an rnn does not multiply
    """
    if target not in TARGETS:
        raise ValueError(f"target is one of {', '.join(TARGETS)}{did_you_mean(target, TARGETS)}; got {target!r}")
    nodes = order(program)
    columns, levels, whole = _columns(nodes)
    forms = _forms(nodes, columns, whole)
    made = [node for node in nodes if node in columns]
    depth = max(levels[node] for node in made)
    level_of = torch.zeros(whole, dtype=torch.long)
    needed = (forms[program][:, :-1] != 0).any(0) * depth  # the last level after which a column is read
    for node in made:
        level_of[columns[node]] = levels[node]
        for argument in node.arguments():
            read = (forms[argument][:, :-1] != 0).any(0)
            needed = torch.where(read, needed.clamp(min=levels[node] - 1), needed)
    alive = [((level_of <= level) & (needed >= level)).nonzero()[:, 0].tolist() for level in range(depth + 1)]
    (source,) = (node for node in nodes if isinstance(node, Token))
    alive[0] = list(range(whole))[columns[source]]
    dim = max(map(len, alive))
    modules = [
        _level(TARGETS[target], made, columns, levels, forms, level, alive, dim) for level in range(1, depth + 1)
    ]
    form = forms[program]
    readout = nn.Linear(dim, program.width).double()
    with torch.no_grad():
        readout.weight.zero_()
        readout.weight[:, : len(alive[-1])] = form[:, alive[-1]]
        readout.bias.copy_(form[:, -1])
    return Compiled(source.width, modules, readout)


def _columns(nodes: list[Node]) -> tuple[dict[Node, slice], dict[Node, int], int]:
    """Where the numbers of each node stand that is no linear one, at which level they are there, and how many there are."""
    columns, levels, whole = {}, {}, 0
    for node in nodes:
        before = max((levels[argument] for argument in node.arguments()), default=0)
        own = isinstance(node, (Relu, Multiply, LinearState))
        levels[node] = before + own
        if own or isinstance(node, Token):
            columns[node] = slice(whole, whole + node.width)
            whole += node.width
    return columns, levels, whole


def _forms(nodes: list[Node], columns: dict[Node, slice], whole: int) -> dict[Node, Tensor]:
    """Each node as a linear form (width, columns + 1) of the columns, its bias last."""
    forms: dict[Node, Tensor] = {}
    for node in nodes:
        if isinstance(node, Linear):
            forms[node] = node.A @ forms[node.x]
            forms[node][:, -1] += node.b
        elif isinstance(node, Concat):
            forms[node] = torch.cat([forms[part] for part in node.parts])
        else:
            forms[node] = torch.eye(whole + 1, dtype=torch.float64)[columns[node]]
    return forms


def _level(
    kind: type[Units],
    made: list[Node],
    columns: dict[Node, slice],
    levels: dict[Node, int],
    forms: dict[Node, Tensor],
    level: int,
    alive: list[list[int]],
    dim: int,
) -> SequenceModule:
    """The module that computes what is alive after a level from what is alive before it."""
    read, units = [*alive[level - 1], -1], kind(len(alive[level - 1]))
    found: dict[int, list[Unit]] = {}
    for node in made:
        place = columns[node].start
        if levels[node] < level:
            for column in range(place, columns[node].stop):
                if column in alive[level]:
                    row = torch.eye(len(read), dtype=torch.float64)[read.index(column)]
                    found[column] = [(unit, out) for unit, out, _ in units.kept(row)]
        elif levels[node] == level:
            rows = [forms[argument][:, read] for argument in node.arguments()]
            if isinstance(node, LinearState):
                new = units.states(rows[0], node.A)
            elif isinstance(node, Multiply):
                new = [units.product(a, b) for a, b in zip(*rows, strict=True)]
            else:
                new = [units.relu(row) for row in rows[0]]
            found |= {place + i: each for i, each in enumerate(new)}
    return units.build(dim, [found[column] for column in alive[level]])
