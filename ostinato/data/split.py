"""Which text is learned from and which is kept for validation.

    by document    a document is kept if mix(digest of its text, seed) < valid_fraction 2^64
    cut            the last valid_fraction of all text is kept

By document a text stays on its side whatever is added to the corpus or reordered, and its copies are on the same side.
Where that leaves a share of text far from the one asked for, as with one document or a few, the corpus is cut. The
tokenizer has no say, so that models with different tokenizers are judged on the same text.
"""

from typing import NamedTuple

import numpy as np

from ostinato.data.shuffle import key, mix

FAR = 4  # validation may have between a quarter of and four times the share asked for


class Text(NamedTuple):
    """Documents as one long row of bytes."""

    data: np.ndarray  # uint8, UTF-8
    starts: np.ndarray  # where each document begins, and the end of the last
    digests: np.ndarray  # uint64, a digest of each document


class Spans(NamedTuple):
    """Parts of a text: each is a document, or what was cut from one."""

    begins: np.ndarray
    ends: np.ndarray

    @property
    def size(self) -> int:
        """Number of bytes."""
        return int((self.ends - self.begins).sum())


def whole(text: Text) -> Spans:
    """All documents."""
    return Spans(text.starts[:-1], text.starts[1:])


def split(text: Text, valid_fraction: float, seed: int) -> tuple[Spans, Spans, str]:
    """What to learn from, what to validate on, and how they were told apart."""
    kept = mix(text.digests ^ key(seed)) < np.uint64(int(valid_fraction * 2**64))
    train, valid = (Spans(text.starts[:-1][side], text.starts[1:][side]) for side in (~kept, kept))
    share = valid.size / len(text.data)
    if train.size and valid_fraction / FAR <= share <= valid_fraction * FAR:
        return train, valid, "by document"

    # Two bytes at least; a side of fewer than two tokens is refused later.
    edge = max(len(text.data) - max(round(valid_fraction * len(text.data)), 2), 0)
    while edge and text.data[edge] & 0xC0 == 0x80:
        edge -= 1
    begins, ends = whole(text)
    before, after = begins < edge, ends > edge
    train = Spans(begins[before], np.minimum(ends[before], edge))
    return train, Spans(np.maximum(begins[after], edge), ends[after]), "cut"
