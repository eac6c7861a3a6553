"""Documents out of files: text, jsonl and parquet, compressed or not, in folders, or from standard input.

    notes.txt, story.md, main.py    the whole file is one document, in UTF-8
    talks.jsonl, talks.ndjson       each line is an object, and its `column` is a document
    talks.parquet                   each row's `column` is a document
    anything.gz .bz2 .xz .zst       the same, compressed
    a folder                        its files in sorted order, deeply, without hidden and binary ones
    -                               standard input: one document

A document comes in pieces, so that none of them has to fit into memory. What cannot be read is refused in one line.
"""

import os
import sys
import sysconfig
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any, TypeAlias, cast

from ostinato.data.compression import decompressed, name_inside

BLOCK = 1 << 20
STANDARD_INPUT = Path("-")
LINES = (".jsonl", ".ndjson")
NO_LIBRARY = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test"}
)  # in the standard library's folder

Sources: TypeAlias = str | Path | Iterable[str | Path]
Pieces: TypeAlias = Generator[tuple[bool, bytes], None, None]
"""Pieces of UTF-8, never empty and never ending inside a character; True where a document begins."""


@dataclass(frozen=True)
class Source:
    """One file to read.

    name: what messages call it
    path: where it is; "-" for standard input
    file: the open file, for what can be read only once
    found: it was found in a folder, so it may be binary or empty and is then passed over
    """

    name: str
    path: Path
    file: BufferedIOBase | None = None
    found: bool = False


def documents(sources: Sources | None = None, column: str = "text") -> Iterator[str]:
    """Every document of some files and folders, in order; None stands for the source of Python's standard library."""
    parts: list[bytes] = []
    for begins, piece in read(find(sources), column):
        if begins and parts:
            yield b"".join(parts).decode()
            parts = []
        parts.append(piece)
    if parts:
        yield b"".join(parts).decode()


def find(sources: Sources | None) -> list[Source]:
    """The files that sources stand for. Nothing is opened yet."""
    if sources is None:
        return standard_library()
    found: list[Source] = []
    for name in [sources] if isinstance(sources, (str, Path)) else sources:
        path = Path(name).expanduser()
        if str(name) == "-":
            if any(source.path == STANDARD_INPUT for source in found):
                raise ValueError("standard input ('-') can be read only once")
            found.append(Source("standard input", STANDARD_INPUT, cast(BufferedIOBase, sys.stdin.buffer)))
        elif path.is_dir():
            inside = [Source(str(file), file, found=True) for file in _files_in(path)]
            if not inside:
                raise ValueError(f"{path}: no files in this folder")
            found += inside
        elif path.exists():
            # A pipe such as <(command) has a path, but can be opened only once, like standard input.
            found.append(Source(str(path), path) if path.is_file() else Source(str(path), path, _open(path)))
        else:
            raise FileNotFoundError(f"no file or folder '{path}'")
    if not found:
        raise ValueError("no files to read documents from")
    return found


def standard_library() -> list[Source]:
    """The default corpus, which every machine has: the source of Python's standard library, without its tests."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [file for file in _files_in(root, NO_LIBRARY) if file.suffix == ".py"]
    # The build writes this one for the machine that it runs on; it says nothing about Python.
    files = [file for file in files if not file.name.startswith("_sysconfigdata")]
    if not files:
        raise ValueError(f"Python's standard library has no source here ({root}); name a file or folder to read")
    return [Source(str(file), file, found=True) for file in files]


def read(sources: Iterable[Source], column: str = "text") -> Pieces:
    """The documents of files, in pieces."""
    empty = True
    names = []
    for source in sources:
        names.append(source.name)
        nothing = True
        with closing(_read_file(source, column)) as pieces:
            for begins, piece in pieces:
                nothing = empty = False
                yield begins, piece
        if nothing and not source.found:
            raise ValueError(f"{source.name}: no text in it; it is empty")
    if empty:
        raise ValueError(f"no text in any of {len(names)} files, the first of which is {names[0]}")


def _read_file(source: Source, column: str) -> Pieces:
    file = source.file or _open(source.path)
    try:
        inside = name_inside(source.name)
        with decompressed(file, source.name) as stream:
            if inside.endswith(".parquet"):
                from ostinato.data.parquet import read_parquet

                texts = read_parquet(stream, source.name, column)
            elif inside.endswith(LINES):
                texts = _read_lines(stream, source.name, column)
            else:
                yield from _read_text(stream, source)
                return
            for where, text in texts:
                if text:
                    yield from _as_pieces(text, where)
    except OSError as error:
        raise ValueError(f"{source.name}: cannot be read ({error.strerror or error})") from None
    finally:
        if source.path != STANDARD_INPUT:
            file.close()


def _open(path: Path) -> BufferedIOBase:
    try:
        return open(path, "rb")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None


def _files_in(folder: Path, without: frozenset[str] = frozenset()) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in without)
        for name in sorted(files):
            path = Path(root, name)
            if not name.startswith(".") and path.is_file():
                yield path


def _read_text(stream: BufferedIOBase, source: Source) -> Pieces:
    """A document from a whole file. Line ends stay as they are; a byte order mark is not text and goes."""
    offset, rest, begins = 0, b"", True
    while True:
        block = stream.read(BLOCK)
        data = rest + block
        if not offset and data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise ValueError(
                f"{source.name}: text in UTF-16; only UTF-8 is read, so convert it: iconv -f UTF-16 -t UTF-8"
            )
        if (zero := data.find(0)) >= 0:
            if source.found and not offset:
                return
            raise ValueError(f"{source.name}: not a text file (byte {offset + zero} is zero)")
        piece, rest = _whole_characters(data, offset, source.name, last=not block)
        text = piece.removeprefix(b"\xef\xbb\xbf") if not offset else piece
        if text:
            yield begins, text
            begins = False
        offset += len(data) - len(rest)
        if not block:
            return


def _whole_characters(data: bytes, offset: int, name: str, *, last: bool) -> tuple[bytes, bytes]:
    """The data up to the last whole character, and what is left of it."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data" and not last:
            return data[: error.start], data[error.start :]
        raise ValueError(_not_utf8(name, offset, error)) from None
    return data, b""


def _not_utf8(where: str, offset: int, error: UnicodeDecodeError) -> str:
    wrong = error.object[error.start]
    return (
        f"{where}: not UTF-8 (0x{wrong:02x} at byte {offset + error.start}); convert it, as in iconv -f LATIN1 -t UTF-8"
    )


def _read_lines(stream: BufferedIOBase, name: str, column: str) -> Iterator[tuple[str, str | None]]:
    import json

    for number, line in enumerate(stream, 1):
        where = f"{name} line {number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            if text.isspace() or not text:
                continue
            row = json.loads(text)
        except UnicodeDecodeError as error:
            raise ValueError(_not_utf8(where, 0, error)) from None
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: not JSON ({error.msg} at character {error.colno})") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: not JSON that can be read ({error})") from None
        if not isinstance(row, dict):
            raise ValueError(f"{where}: {_kind(row)}; each line is an object with a column '{column}'")
        if column not in row:
            raise ValueError(f"{where}: no column '{column}'; it has {', '.join(row) or 'none'}")
        if not isinstance(row[column], str | None):
            raise ValueError(f"{where}: column '{column}' holds {_kind(row[column])}; text is needed")
        yield where, row[column]


def _kind(value: Any) -> str:
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "null")


def _as_pieces(text: str, where: str) -> Pieces:
    try:
        yield True, text.encode()
    except UnicodeEncodeError as error:
        wrong = text[error.start]
        raise ValueError(
            f"{where}: character {error.start} is {wrong!r}, half of a pair, which no UTF-8 holds"
        ) from None
