"""Batches whose rows go on: row r reads the text from its r-th part on, and the next batch begins where this one stopped.

    row r of R    stream[r N / R + position : ... + T + 1]             its last token is the first of the next batch
    position      tokens that each row has read, an int

N is the size of the store, and the stream that of `Batches`: its documents, in a new order for each epoch. Who hands the
state on reads every row as one text, with gradients that reach back to the beginning of the batch (truncated
backpropagation through time). After N / R tokens all of the store was read once.
"""

from ostinato.data.batches import Batch, Batches


class Streams(Batches):
    """An endless supply of batches that continue each other, the same for the same arguments.

    store: documents to learn from
    batch_size: rows B of a batch
    length: inputs T of a row, where a call does not say otherwise
    seed: another one gives another order
    rank, world: this process and how many there are; each reads rows of its own

    Positions are tokens of a row, so reading may continue with another length, but not with another number of rows.
    """

    def __call__(self, position: int | None = None, length: int | None = None) -> tuple[Batch, int]:
        """The batch at a position (None at the beginning), and the position after it."""
        position, length = self._checked(position), self.length if length is None else length
        batch, rows = self._empty(length), self.world * self.batch_size
        for i in range(self.batch_size):
            begin = (self.rank * self.batch_size + i) * len(self.store) // rows
            self._read(begin + position, batch.tokens[i].numpy(), batch.reset[i].numpy())
        return batch, position + length

    def epoch(self, position: int | None) -> float:
        """How often the store has been read at a position."""
        return (position or 0) * self.world * self.batch_size / len(self.store)
