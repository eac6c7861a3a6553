"""A corpus: documents read once, split, tokenised, and kept in a cache of memory-mapped files.

    corpus = prepare("notes/", tokenizer="bpe:4096")
    corpus.train, corpus.valid, corpus.tokenizer

The cache has a folder for each set of settings and files (names, sizes, times; standard input by its content):

    <cache>/corpora/<key>/corpus.json         how it was made, and the size of every other file
                          tokenizer.json
                          train/ valid/       tokens.bin and starts.npy

A folder is written beside and renamed, by one process while others wait, so it is whole or absent.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from io import BufferedIOBase
from pathlib import Path
from typing import Any, cast

from filelock import FileLock

from ostinato.data.build import build
from ostinato.data.sources import BLOCK, STANDARD_INPUT, Source, Sources, find
from ostinato.data.store import TOKENS, TokenStore
from ostinato.data.tokenizer import Recipe, Tokenizer, load_tokenizer, recipe
from ostinato.files import folder_atomically, sha256, sha256_of_file

MANIFEST = "corpus.json"
FORMAT = 1  # to be raised when the same settings begin to give other files
DAY = 24 * 60 * 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Corpus:
    """Tokens to learn from, tokens to validate on, and the tokenizer between them and text.

    train, valid: the two sides
    tokenizer: what made the tokens
    fingerprint: a checksum of text, split and tokenizer: it stays when files are only moved or touched
    split: how the sides were told apart: "by document", "cut" (the last part of the text is kept), or "given"
    folder: where all this is in the cache
    info: numbers for people: bytes, documents and tokens of each side
    """

    train: TokenStore
    valid: TokenStore
    tokenizer: Tokenizer
    fingerprint: str
    split: str
    folder: Path
    info: dict[str, Any] = field(repr=False)

    def __str__(self) -> str:
        parts = [f"split {self.split}, vocabulary {self.tokenizer.vocab_size:,}"]
        for name in ("train", "valid"):
            side = self.info[name]
            parts.append(f"{name} {side['documents']:,} documents, {side['bytes']:,} bytes, {side['tokens']:,} tokens")
        return "; ".join(parts)

    @classmethod
    def open(cls, folder: str | Path) -> "Corpus":
        """The corpus in a folder of the cache; ValueError if a file is missing or damaged."""
        folder = Path(folder)
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            for name, (size, checksum) in manifest["files"].items():
                if (actual := (folder / name).stat().st_size) != size:
                    raise ValueError(f"{name} has {actual} of {size} bytes")
                if checksum and sha256_of_file(folder / name) != checksum:
                    raise ValueError(f"{name} is not what was written")
            train, valid = (TokenStore.open(folder / side, manifest["dtype"]) for side in ("train", "valid"))
            tokenizer = load_tokenizer(folder)
        except FileNotFoundError as error:
            raise ValueError(
                f"{folder}: a corpus has the file {Path(error.filename).name}, and it is not there"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{folder}: the corpus is damaged ({error})") from None
        return cls(train, valid, tokenizer, manifest["fingerprint"], manifest["split"], folder, manifest["info"])


def prepare(
    data: Sources | None = None,
    *,
    tokenizer: str | Path | Tokenizer = "bytes",
    column: str = "text",
    valid: Sources | None = None,
    valid_fraction: float = 0.05,
    cache_dir: str | Path | None = None,
    max_bytes: int | None = None,
    seed: int = 0,
) -> Corpus:
    """Read, split and tokenise documents, or find them in the cache.

    data: files and folders, "-" for standard input; the source of Python's standard library if nothing is named
    tokenizer: "bytes", "bpe:N" to train one of N tokens on the training text, "words" or "words:N" for its (most frequent)
        words, a saved one, or a tokenizer itself
    column: what holds the text in jsonl and parquet files
    valid: files and folders to validate on; otherwise a part of the data is kept for that
    valid_fraction: how large a part, as a share of the text
    cache_dir: where to keep the tokens; otherwise $OSTINATO_CACHE or ~/.cache/ostinato
    max_bytes: read no more than that many bytes of text from the data
    seed: another one keeps other documents for validation
    """
    if not 0 < valid_fraction < 1:
        raise ValueError(f"valid_fraction is between 0 and 1; got {valid_fraction}")
    if max_bytes is not None and max_bytes < 1:
        raise ValueError(f"max_bytes is at least 1; got {max_bytes}")
    made = tokenizer if isinstance(tokenizer, Tokenizer) else recipe(tokenizer) or load_tokenizer(tokenizer)
    wanted = [find(data), [] if valid is None else find(valid)]
    if all(any(source.path == STANDARD_INPUT for source in side) for side in wanted):
        raise ValueError("standard input ('-') can be read only once")
    corpora = _cache(cache_dir)

    with ExitStack() as stack:
        sides = [[_identified(source, corpora, stack) for source in side] for side in wanted]
        splits = {"valid_fraction": valid_fraction, "seed": seed} if valid is None else {}
        settings = {
            "format": FORMAT,
            # Another version of the library may learn other merges.
            "tokenizer": f"{made} {version('tokenizers')}" if isinstance(made, Recipe) else sha256(made.to_json()),
            "column": column,
            "max_bytes": max_bytes,
            "files": [[identity for _, identity in side] for side in sides],
        } | splits
        folder = corpora / sha256(json.dumps(settings))[:24]
        try:
            return Corpus.open(folder)
        except ValueError:
            pass  # absent or damaged: looked at again when nobody else is at work on it
        sources, valid_sources = ([source for source, _ in side] for side in sides)
        arguments = {"column": column, "max_bytes": max_bytes, "valid_fraction": valid_fraction, "seed": seed}
        return _made(folder, settings, sources, valid_sources or None, made, arguments)


def _cache(folder: str | Path | None) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(folder or os.environ.get("OSTINATO_CACHE") or Path(home, "ostinato")).expanduser()
    try:
        (root / "corpora").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror
    else:
        if os.access(root / "corpora", os.R_OK | os.X_OK):
            return root / "corpora"
        reason = "it may not be read"
    raise ValueError(f"no cache in {root} ({reason}); name another folder in $OSTINATO_CACHE or cache_dir")


def _identified(source: Source, corpora: Path, stack: ExitStack) -> tuple[Source, list[Any]]:
    """What a file is known by in the cache. What can be read only once is copied, to be known by its content."""
    if source.file is None:
        stat = source.path.stat()
        return source, [str(source.path.resolve()), stat.st_size, stat.st_mtime_ns]
    copy = stack.enter_context(tempfile.TemporaryFile(dir=corpora))  # noqa: SIM115
    checksum = hashlib.sha256()
    while block := source.file.read(BLOCK):
        checksum.update(block)
        copy.write(block)
    copy.seek(0)
    if source.path != STANDARD_INPUT:
        source.file.close()
    return replace(source, file=cast(BufferedIOBase, copy)), [checksum.hexdigest()]


def _made(
    folder: Path,
    settings: dict[str, Any],
    sources: list[Source],
    valid_sources: list[Source] | None,
    tokenizer: Tokenizer | Recipe,
    arguments: dict[str, Any],
) -> Corpus:
    """The corpus in a folder, made now unless another process has just made it."""
    if not os.access(folder.parent, os.W_OK):
        raise ValueError(
            f"the cache {folder.parent} may not be written; name another folder in $OSTINATO_CACHE or cache_dir"
        )
    with FileLock(folder.with_suffix(".lock")):
        if folder.exists():
            try:
                return Corpus.open(folder)
            except ValueError as error:
                log.warning("%s; it is made again", error)
                shutil.rmtree(folder)
        _remove_abandoned(folder.parent)
        try:
            with folder_atomically(folder) as beside:
                manifest = build(beside, sources, valid_sources, tokenizer, **arguments)
                manifest |= {"settings": settings, "files": _files(beside)}
                (beside / MANIFEST).write_text(json.dumps(manifest, indent=1))
        except OSError as error:
            # Where locks do not work, as on some network folders, another process may have been first.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        return Corpus.open(folder)


def _remove_abandoned(corpora: Path) -> None:
    """Remove what killed processes have begun. Locks may not work here, so only what nobody has touched for a day."""
    for begun in corpora.glob(".*"):
        if begun.is_dir():
            touched = max(path.stat().st_mtime for path in [begun, *begun.rglob("*")])
            if time.time() - touched > DAY:
                shutil.rmtree(begun, ignore_errors=True)


def _files(folder: Path) -> dict[str, tuple[int, str | None]]:
    """The size of every file, and the checksum of all but the tokens, which are too many to read each time."""
    return {
        path.relative_to(folder).as_posix(): (
            path.stat().st_size,
            None if path.name == TOKENS else sha256_of_file(path),
        )
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
