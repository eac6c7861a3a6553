"""How a corpus is made: documents are read once into one file of text, split, and turned into tokens side by side.

Only pieces of the text are in memory at any time, and 24 bytes for each document.
"""

import hashlib
import logging
import random
import sys
from array import array
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from ostinato.data.sources import Source, read
from ostinato.data.split import Spans, Text, split, whole
from ostinato.data.store import TOKENS, save_starts, smallest_dtype, write_store
from ostinato.data.tokenizer import ByteTokenizer, Recipe, Tokenizer, cut

SAMPLE = 1 << 25  # bytes of text that a tokenizer is trained on, drawn from the whole of a longer training text
GROUP = 1 << 20  # bytes that are encoded together, so that the encoder can use several threads

log = logging.getLogger(__name__)


def build(
    folder: Path,
    sources: list[Source],
    valid_sources: list[Source] | None,
    tokenizer: Tokenizer | Recipe,
    *,
    column: str,
    valid_fraction: float,
    max_bytes: int | None,
    seed: int,
) -> dict[str, Any]:
    """Write the stores and the tokenizer of a corpus into a folder; returns what is known about them.

    tokenizer: one that exists, or what is to be trained
    """
    text = valid_text = spool(sources, column, folder / "text", max_bytes)
    log.info("read %s bytes of text in %s documents", f"{len(text.data):,}", f"{len(text.digests):,}")
    if valid_sources is None:
        train, valid, way = split(text, valid_fraction, seed)
    else:
        valid_text = spool(valid_sources, column, folder / "valid_text")
        train, valid, way = whole(text), whole(valid_text), "given"
        if shared := int(np.isin(valid_text.digests, text.digests).sum()):
            log.warning("%d of %d validation documents are in the training text too", shared, len(valid.begins))

    if isinstance(tokenizer, Recipe):
        size = tokenizer.size or 0
        tokenizer = tokenizer.train(_sample(text, train))
        log.info("trained a tokenizer of %d tokens", tokenizer.vocab_size)
        if tokenizer.vocab_size < size:
            log.warning(
                "the training text has frequent sequences for %d tokens only, not %d", tokenizer.vocab_size, size
            )
    tokenizer.save(folder)

    dtype = smallest_dtype(tokenizer.vocab_size)
    info: dict[str, Any] = {"files": len(sources), "first_file": sources[0].name}
    for name, source, spans in (("train", text, train), ("valid", valid_text, valid)):
        if isinstance(tokenizer, ByteTokenizer):
            _copy(folder / name, source, spans)
        else:
            write_store(folder / name, _encode(tokenizer, source, spans), dtype)
        tokens = (folder / name / TOKENS).stat().st_size // np.dtype(dtype).itemsize
        info[name] = {"documents": len(spans.begins), "bytes": spans.size, "tokens": tokens}
        if tokens < 2:
            what = "training" if name == "train" else "validation"
            raise ValueError(f"the corpus is too small: {tokens} tokens for {what}, and each side needs at least 2")
    log.info("wrote %s tokens", f"{info['train']['tokens'] + info['valid']['tokens']:,}")
    for path in (folder / "text", folder / "valid_text"):
        path.unlink(missing_ok=True)
    fingerprint = _fingerprint(tokenizer, (text, train), (valid_text, valid))
    return {"dtype": dtype, "split": way, "fingerprint": fingerprint, "info": info}


def spool(sources: Iterable[Source], column: str, path: Path, max_bytes: int | None = None) -> Text:
    """Write the text of documents into one file, the first max_bytes of it at most, and map that."""
    starts, digests = array("q"), array("Q")
    size, limit = 0, sys.maxsize if max_bytes is None else max_bytes
    digest = hashlib.blake2b(digest_size=8)
    with open(path, "wb", buffering=1 << 20) as file, closing(read(sources, column)) as pieces:
        for begins, piece in pieces:
            enough = size + len(piece) >= limit
            if enough:
                piece = piece[: limit - size].decode(errors="ignore").encode()  # whole characters only
                if not piece:
                    break
            if begins:
                if starts:
                    digests.append(int.from_bytes(digest.digest(), "little"))
                starts.append(size)
                digest = hashlib.blake2b(digest_size=8)
            digest.update(piece)
            size += file.write(piece)
            if enough:
                break
    if not size:
        raise ValueError(f"max_bytes={max_bytes} leaves no text")
    digests.append(int.from_bytes(digest.digest(), "little"))
    starts.append(size)
    data = np.asarray(np.memmap(path, np.uint8, mode="r"))
    return Text(data, np.frombuffer(starts, np.int64), np.frombuffer(digests, np.uint64))


def _cuts(text: Text, spans: Spans) -> Iterator[tuple[bool, int, int]]:
    """The pieces in which documents are encoded; True where a document begins."""
    for begin, end in zip(spans.begins, spans.ends, strict=True):
        for i, j in cut(text.data, int(begin), int(end)):
            yield i == begin, i, j


def _sample(text: Text, spans: Spans) -> Iterator[str]:
    """Pieces from all over the training text, about SAMPLE bytes."""
    share = SAMPLE / max(spans.size, 1)
    draw = random.Random(0)
    for _, i, j in _cuts(text, spans):
        if draw.random() < share:
            yield text.data[i:j].tobytes().decode()


def _encode(tokenizer: Tokenizer, text: Text, spans: Spans) -> Iterator[tuple[bool, np.ndarray]]:
    begins: list[bool] = []
    parts: list[bytes] = []
    size = 0
    for begin, i, j in _cuts(text, spans):
        begins.append(begin)
        parts.append(text.data[i:j].tobytes())
        size += j - i
        if size >= GROUP:
            yield from zip(begins, tokenizer.encode_many(parts), strict=True)
            begins, parts, size = [], [], 0
    yield from zip(begins, tokenizer.encode_many(parts), strict=True)


def _copy(folder: Path, text: Text, spans: Spans) -> None:
    """Bytes are tokens as they are: neighbouring documents are copied together."""
    folder.mkdir()
    gaps = np.flatnonzero(spans.begins[1:] != spans.ends[:-1]) + 1
    with open(folder / TOKENS, "wb") as file:
        for first, end in zip(np.append(0, gaps), np.append(gaps, len(spans.begins)), strict=True):
            if first < end:
                file.write(text.data[spans.begins[first] : spans.ends[end - 1]].data)
    sizes = spans.ends - spans.begins
    save_starts(folder, np.cumsum(sizes) - sizes)


def _fingerprint(tokenizer: Tokenizer, *sides: tuple[Text, Spans]) -> str:
    """A checksum of everything that the tokens follow from."""
    checksum = hashlib.sha256(tokenizer.to_json().encode())
    for text, spans in sides:
        for numbers in (text.digests, text.starts, spans.begins, spans.ends):
            checksum.update(len(numbers).to_bytes(8, "little") + numbers.tobytes())
    return checksum.hexdigest()
