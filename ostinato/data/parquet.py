"""Documents out of parquet files, one for each row, a few rows at a time."""

import io
import shutil
import tempfile
from collections.abc import Iterator
from io import BufferedIOBase
from typing import cast


def read_parquet(stream: BufferedIOBase, name: str, column: str) -> Iterator[tuple[str, str | None]]:
    """Where each row is, and its text."""
    try:
        import pyarrow
        from pyarrow import parquet, types
    except ImportError:
        raise ValueError(
            f"{name}: reading parquet files needs the package pyarrow: pip install 'ostinato[data]'"
        ) from None

    with tempfile.TemporaryFile() as copy:
        if not _can_seek(stream):  # compressed once more, or a pipe: parquet is read from its end
            shutil.copyfileobj(stream, copy)
            stream = cast(BufferedIOBase, copy)
        try:
            file = parquet.ParquetFile(stream, pre_buffer=False)
            schema = file.schema_arrow
            if column not in schema.names:
                raise ValueError(f"{name}: no column '{column}'; it has {', '.join(schema.names) or 'none'}")
            kind = schema.field(column).type
            if types.is_dictionary(kind):
                kind = kind.value_type
            if not (types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind)):
                raise ValueError(f"{name}: column '{column}' holds {kind}; text is needed")
            number = 0
            for batch in file.iter_batches(batch_size=256, columns=[column]):
                for text in batch.column(0).to_pylist():
                    number += 1
                    yield f"{name} row {number}", text
        except (pyarrow.ArrowException, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{name}: not a parquet file that can be read ({reason})") from None


def _can_seek(stream: BufferedIOBase) -> bool:
    # gzip and its like say that they can, and decompress again from the beginning each time.
    return isinstance(stream, io.BufferedReader) and isinstance(stream.raw, io.FileIO) and stream.seekable()
