"""Files that are either wholly there or not there at all: written beside under a temporary name, flushed, renamed."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: str | Path, data: bytes | str) -> None:
    """Write a whole file, so that a reader, or a crash at any moment, finds the old content or the new and no other."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = _beside(path)
    try:
        with open(beside, "xb") as file:
            file.write(_bytes(data))
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _flush(path.parent)


@contextmanager
def folder_atomically(path: str | Path) -> Iterator[Path]:
    """A temporary folder to fill, which takes the name `path` at the end, and vanishes after an error.

    If `path` exists then, and is not an empty folder, that is an error: a folder cannot be replaced in one step.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = _beside(path)
    beside.mkdir()
    try:
        yield beside
        for part in sorted(beside.rglob("*")):
            _flush(part)
        _flush(beside)
        os.rename(beside, path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    _flush(path.parent)


def sha256(data: bytes | str) -> str:
    """The checksum of bytes, or of text in UTF-8, in hexadecimal."""
    return hashlib.sha256(_bytes(data)).hexdigest()


def sha256_of_file(path: str | Path) -> str:
    """The checksum of what a file holds, in hexadecimal; the file may be larger than memory."""
    checksum = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            checksum.update(block)
    return checksum.hexdigest()


def _bytes(data: bytes | str) -> bytes:
    return data.encode() if isinstance(data, str) else data


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def _flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot flush a folder
    # Windows flushes only what is open for writing.
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
