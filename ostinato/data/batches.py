"""Batches of packed documents: no padding, and a position from which reading continues exactly.

Training. The documents of a store, in an order shuffled for each epoch, follow one another in an endless stream, which
is cut into rows of T tokens. Rows are visited in shuffled order too, as many of them together as an epoch fills, so
that a batch from one long document still shows different places of it:

    stream   = documents in order(epoch 0), documents in order(epoch 1), ...
    row r    = stream[r T : r T + T + 1]                  its last token is the first of row r + 1
    batch    = rows visited at position + rank B + (0, 1, ..., B - 1)
    position = number of rows that all ranks have visited, an int

The stream has no gaps, so after every such lap of rows any two tokens have been inputs equally often, or one of them
once more. `reset` is True at the first token of each document and nowhere else: a row that begins inside a document is
not flagged there, since whoever reads a row begins it with state None. A target where `reset` is True begins another
document than its input's.

Evaluation. `sequential` reads the store from front to back and predicts each of its tokens but the first exactly once.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ostinato.data.shuffle import permutation
from ostinato.data.store import TokenStore

IGNORE = -100
"""The target of a position that does not count, as `torch.nn.functional.cross_entropy` expects it."""


class Batch(NamedTuple):
    """Rows to learn from: tokens[:, :-1] are inputs, tokens[:, 1:] are targets."""

    tokens: Tensor  # B T+1, int64
    reset: Tensor  # B T+1, True where a document begins


class EvaluationBatch(NamedTuple):
    """Rows to be judged on. Where a target is not IGNORE it equals the next token."""

    tokens: Tensor  # B T+1, int64
    reset: Tensor  # B T+1, True where a document begins
    targets: Tensor  # B T, int64


class Batches:
    """An endless supply of batches, the same for the same arguments.

    store: documents to learn from
    batch_size: rows B of a batch
    length: inputs T of a row
    seed: another one gives another order
    rank, world: this process and how many there are; each reads rows of its own

    Positions are numbers of rows, so reading may continue with another batch size and another number of processes, but
    not with another length.
    """

    def __init__(
        self, store: TokenStore, batch_size: int, length: int, *, seed: int = 0, rank: int = 0, world: int = 1
    ):
        _check_sizes(store, batch_size, length)
        if not 0 <= rank < world:
            raise ValueError(f"rank is one of 0 to world - 1; got rank {rank} of {world}")
        self.store, self.batch_size, self.length = store, batch_size, length
        self.seed, self.rank, self.world = seed, rank, world
        self.rows = -(-len(store) // length)  # whose order is shuffled together
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._laps: dict[int, np.ndarray] = {}

    def __call__(self, position: int | None = None) -> tuple[Batch, int]:
        """The batch at a position (None at the beginning), and the position after it."""
        position, B, T = self._checked(position), self.batch_size, self.length
        batch = self._empty(T)
        for i in range(B):
            place = self._row(position + self.rank * B + i) * T
            self._read(place, batch.tokens[i].numpy(), batch.reset[i].numpy())
        return batch, position + self.world * B

    def epoch(self, position: int | None) -> float:
        """How often the store has been read at a position."""
        return (position or 0) * self.length / len(self.store)

    def _checked(self, position: int | None) -> int:
        position = 0 if position is None else position
        if position < 0:
            raise ValueError(f"a position is None or what an earlier call returned; got {position!r}")
        return position

    def _empty(self, length: int) -> Batch:
        """Rows to be filled."""
        shape = (self.batch_size, length + 1)
        return Batch(torch.empty(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool))

    def _row(self, visit: int) -> int:
        lap, index = divmod(visit, self.rows)
        order = _remember(self._laps, lap, self._lap)
        return lap * self.rows + int(order[index])

    def _lap(self, lap: int) -> np.ndarray:
        """The order in which the rows of a lap are visited."""
        return permutation(self.rows, self.seed, 1, lap)

    def _read(self, place: int, tokens: np.ndarray, reset: np.ndarray) -> None:
        """Fill a row with the stream from a place on."""
        filled = 0
        while filled < len(tokens):
            epoch, begin = divmod(place + filled, len(self.store))
            order, begins = _remember(self._epochs, epoch, self._order)
            end = min(begin + len(tokens) - filled, len(self.store))
            first, last = np.searchsorted(begins, begin, "right") - 1, np.searchsorted(begins, end)
            starts = begins[first:last]
            reads = np.maximum(starts, begin)  # the first document may have begun before this row
            shifts = self.store.starts[order[first:last]] - starts
            sources = np.arange(begin, end) + np.repeat(shifts, np.diff(reads, append=end))
            tokens[filled : filled + end - begin] = self.store.tokens[sources]
            reset[filled + starts[starts >= begin] - begin] = True
            filled += end - begin

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of documents in an epoch, and where in it they begin."""
        order = permutation(self.store.documents, self.seed, 0, epoch)
        lengths = np.diff(self.store.starts, append=len(self.store))[order]
        return order, np.cumsum(lengths) - lengths


def sequential(store: TokenStore, batch_size: int, length: int) -> Iterator[EvaluationBatch]:
    """A store from front to back, once: each token but the first is a target exactly once.

    Each of the B rows reads a part of its own, and continues in the next batch where it stopped: whoever hands the
    state on from batch to batch sees each part whole, whoever does not sees rows of T. Rows that have come to their
    end are filled with token 0 and IGNORE.
    """
    _check_sizes(store, batch_size, length)
    B, T = batch_size, length
    targets_in_all = len(store) - 1
    share = -(-targets_in_all // B)
    for step in range(0, share, T):
        tokens, reset = np.zeros((B, T + 1), np.int64), np.zeros((B, T + 1), np.bool_)
        targets = np.full((B, T), IGNORE, np.int64)
        for row in range(B):
            begin = row * share + step
            size = min(T, share - step, targets_in_all - begin)
            if size > 0:
                tokens[row, : size + 1] = store.tokens[begin : begin + size + 1]
                targets[row, :size] = tokens[row, 1 : size + 1]
                first, last = np.searchsorted(store.starts, (begin, begin + size + 1))
                reset[row, store.starts[first:last] - begin] = True
        yield EvaluationBatch(torch.from_numpy(tokens), torch.from_numpy(reset), torch.from_numpy(targets))


def _check_sizes(store: TokenStore, batch_size: int, length: int) -> None:
    if batch_size < 1 or length < 1:
        raise ValueError(f"batch_size and length are at least 1; got {batch_size} and {length}")
    if len(store) < 2:
        raise ValueError(f"nothing can be predicted in a store of {len(store)} token; at least 2 are needed")


def _remember(known: dict[int, Any], number: int, make: Callable[[int], Any]) -> Any:
    """known[number], made when it is missing. Few are kept: rows need this epoch and perhaps the next."""
    if number not in known:
        if len(known) > 2:
            del known[max(known, key=lambda other: abs(other - number))]
        known[number] = make(number)
    return known[number]
