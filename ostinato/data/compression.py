"""Compressed files as if they were not: gz, bz2, xz and zst. Damaged ones, and ones that end too early, are refused."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any


def name_inside(name: str) -> str:
    """notes.txt for notes.txt.gz, in lower case."""
    name = name.lower()
    suffix = Path(name).suffix
    return name.removesuffix(suffix) if suffix in OPENERS else name


@contextmanager
def decompressed(file: BufferedIOBase, name: str) -> Iterator[BufferedIOBase]:
    """The content of a file, decompressed if its name says so."""
    suffix = Path(name.lower()).suffix
    if suffix not in OPENERS:
        yield file
        return
    try:
        with OPENERS[suffix](file) as stream:
            yield stream
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        # gzip and bz2 raise OSError too; the machine's own errors have a number.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{name}: damaged or incomplete {suffix[1:]} data ({error})") from None


class _Zstandard(io.RawIOBase):
    """Zstandard frames one after another. The library's own stream reader takes a file cut short for its end."""

    def __init__(self, file: BufferedIOBase):
        try:
            import zstandard
        except ImportError:
            raise ValueError("reading zst files needs the package zstandard: pip install 'ostinato[data]'") from None
        self._library = zstandard
        self._file = file
        self._frame: Any = None
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = (self._frame.unused_data if self._frame and self._frame.eof else b"") or self._file.read(1 << 17)
            if not data:
                if self._frame and not self._frame.eof:
                    raise EOFError("it ends inside a frame")
                return 0
            if self._frame is None or self._frame.eof:
                self._frame = self._library.ZstdDecompressor().decompressobj()
            try:
                self._ready = self._frame.decompress(data)
            except self._library.ZstdError as error:
                raise EOFError(str(error)) from None
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size


OPENERS = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".bz2": lambda file: bz2.BZ2File(file),
    ".xz": lambda file: lzma.LZMAFile(file),  # noqa: SIM115
    ".zst": lambda file: io.BufferedReader(_Zstandard(file), 1 << 17),
}
