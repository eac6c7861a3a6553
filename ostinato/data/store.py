"""Tokens in memory-mapped files: a corpus larger than memory costs none.

tokens.bin   all tokens, one document after another, in the smallest unsigned type that holds the vocabulary
starts.npy   where each document begins
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TOKENS = "tokens.bin"
STARTS = "starts.npy"


@dataclass(frozen=True, eq=False)
class TokenStore:
    """Documents as one long row of tokens.

    tokens: all documents, one after another
    starts: where each of them begins; the first begins at 0
    """

    tokens: np.ndarray
    starts: np.ndarray

    def __post_init__(self) -> None:
        starts = self.starts
        # Blockwise, because a comparison of all starts at once would need memory for all of them.
        increase = all((np.diff(starts[i : i + 2**20 + 1]) > 0).all() for i in range(0, len(starts), 2**20))
        if not len(starts) or starts[0] != 0 or not increase or starts[-1] >= len(self.tokens):
            raise ValueError(f"the starts of documents begin at 0 and increase below {len(self.tokens)}; these do not")

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.tokens)

    @property
    def documents(self) -> int:
        """Number of documents."""
        return len(self.starts)

    def document(self, index: int) -> np.ndarray:
        """The tokens of one document."""
        if not 0 <= index < self.documents:
            raise IndexError(f"there are documents 0 to {self.documents - 1}; got {index}")
        end = self.starts[index + 1] if index + 1 < self.documents else len(self)
        return self.tokens[self.starts[index] : end]

    @classmethod
    def open(cls, folder: Path, dtype: str) -> "TokenStore":
        """The store that was written into a folder."""
        tokens = np.memmap(folder / TOKENS, dtype, mode="r")
        starts = np.load(folder / STARTS, mmap_mode="r")
        # The same mapped memory without numpy's memmap class, which makes every slice slower.
        return cls(np.asarray(tokens), np.asarray(starts))


def smallest_dtype(vocab_size: int) -> str:
    """The smallest type for that many tokens, little-endian on every machine."""
    return "<u1" if vocab_size <= 2**8 else "<u2" if vocab_size <= 2**16 else "<u4"


def write_store(folder: Path, parts: Iterable[tuple[bool, np.ndarray]], dtype: str) -> None:
    """Write a store from parts of documents as they come; True where a document begins."""
    folder.mkdir()
    starts = array("q")
    size = 0
    with open(folder / TOKENS, "wb", buffering=1 << 20) as file:
        for begins, part in parts:
            if begins:
                starts.append(size)
            file.write(part.astype(dtype, copy=False).data)
            size += len(part)
    save_starts(folder, np.frombuffer(starts, np.int64))


def save_starts(folder: Path, starts: np.ndarray) -> None:
    np.save(folder / STARTS, starts)
