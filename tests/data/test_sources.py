"""Documents come out of every kind of file, and what cannot be read is refused in one line."""

import bz2
import gzip
import io
import json
import lzma
import os
import sys
import threading

import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from ostinato.data import documents
from ostinato.data.sources import BLOCK, standard_library

COMPRESS = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}
TEXTS = ["one\r\nline", "zw\u00f6lf", "\u65e5\u672c\n"]


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table(columns, **options):
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file, **options)
    return file.getvalue()


KINDS = {
    "a.txt": ("\n".join(TEXTS).encode(), ["\n".join(TEXTS)]),
    "a.md": (b"# x", ["# x"]),
    "a": (b"no suffix", ["no suffix"]),
    "A.JSONL": (jsonl({"text": text, "id": 1} for text in TEXTS), TEXTS),
    "a.ndjson": (b'\n{"text": "x"}\n\n{"text": null}\n{"text": ""}\n{"text": "y"}', ["x", "y"]),
    "a.parquet": (table({"id": [1, 2, 3], "text": TEXTS}, row_group_size=2), TEXTS),
}


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file(name, suffix, tmp_path):
    content, texts = KINDS[name]
    (tmp_path / (name + suffix)).write_bytes(COMPRESS[suffix](content))
    assert list(documents(tmp_path / (name + suffix))) == texts


@pytest.mark.parametrize("suffix", COMPRESS)
def test_long_files_come_whole(suffix, tmp_path):
    text = "\u65e5\u672c\U0001f3b5x" * (BLOCK // 5)  # more than two blocks, whose edges are inside characters
    (tmp_path / ("a.txt" + suffix)).write_bytes(COMPRESS[suffix](text.encode()))
    assert list(documents(tmp_path / ("a.txt" + suffix))) == [text]


def test_compressed_parts_one_after_another(tmp_path):
    for suffix, compress in list(COMPRESS.items())[1:]:
        path = tmp_path / ("a.txt" + suffix)
        path.write_bytes(compress(b"one ") + compress(b"two"))
        assert list(documents(path)) == ["one two"]


@pytest.mark.parametrize(
    "column",
    [
        pyarrow.array(TEXTS, pyarrow.large_string()),
        pyarrow.array(TEXTS).dictionary_encode(),
        pyarrow.array([*TEXTS, None, ""]),
    ],
    ids=["large", "dictionary", "null"],
)
def test_kinds_of_text_in_parquet(column, tmp_path):
    (tmp_path / "a.parquet").write_bytes(table({"text": column}))
    assert list(documents(tmp_path / "a.parquet")) == TEXTS


def test_another_column(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"text": "no", "body": "yes"}]))
    (tmp_path / "b.parquet").write_bytes(table({"text": ["no"], "body": ["yes"]}))
    assert list(documents(tmp_path, column="body")) == ["yes", "yes"]


def test_a_byte_order_mark_is_not_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfx\xef\xbb\xbf")
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "y"}')
    assert list(documents(tmp_path)) == ["x\ufeff", "y"]


def test_folders_are_read_deeply_in_order_without_hidden_and_binary_files(tmp_path):
    for name, content in {
        "b.txt": b"2",
        "a.txt": b"1",
        "c/z.txt.gz": gzip.compress(b"4"),
        "c/a.txt": b"3",
        ".hidden": b"no",
        ".git/config": b"no",
        "image.png": b"\x89PNG\x00\x01\xff",
        "empty.txt": b"",
        "code.bin.gz": gzip.compress(b"\x00\x01"),
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert list(documents(tmp_path)) == ["1", "2", "3", "4"]
    assert list(documents([tmp_path / "c", str(tmp_path / "a.txt")])) == ["3", "4", "1"]


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("zw\u00f6lf\r\n".encode())))
    assert list(documents("-")) == ["zw\u00f6lf\r\n"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are a thing of POSIX")
def test_a_named_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    threading.Thread(target=(tmp_path / "pipe").write_text, args=["through"]).start()
    assert list(documents(tmp_path / "pipe")) == ["through"]


def test_the_default_is_the_standard_library():
    names = [source.path.name for source in standard_library()]
    assert {"argparse.py", "os.py", "decoder.py"} <= set(names)
    assert len(names) > 300
    folders = {part for source in standard_library() for part in source.path.parts}
    assert not folders & {"site-packages", "idle_test", "__pycache__"}
    assert next(documents()) in {source.path.read_text() for source in standard_library()[:1]}


BAD = {
    "empty.txt": (b"", "empty.txt: no text in it; it is empty"),
    "empty.txt.gz": (gzip.compress(b""), "empty.txt.gz: no text in it; it is empty"),
    "mark.txt": (b"\xef\xbb\xbf", "mark.txt: no text in it; it is empty"),
    "blank.jsonl": (b"\n\n", "blank.jsonl: no text in it; it is empty"),
    "nothing.jsonl": (b'{"text": ""}', "nothing.jsonl: no text in it"),
    "nothing.parquet": (table({"text": pyarrow.array([], pyarrow.string())}), "nothing.parquet: no text in it"),
    "binary.txt": (b"text\x00\x01", r"binary.txt: not a text file \(byte 4 is zero\)"),
    "late.txt": (b"x" * BLOCK + b"\x00", rf"late.txt: not a text file \(byte {BLOCK} is zero\)"),
    "latin.txt": ("zw\u00f6lf".encode("latin1"), r"latin.txt: not UTF-8 \(0xf6 at byte 2\); convert it"),
    "latin.jsonl": (b'{"text": "x"}\n{"text": "\xe9"}', r"latin.jsonl line 2: not UTF-8 \(0xe9 at byte 10\)"),
    "far.txt": (b"x" * BLOCK + b"\xe9!", rf"far.txt: not UTF-8 \(0xe9 at byte {BLOCK}\)"),
    "torn.txt": (b"x\xe6\x97", r"torn.txt: not UTF-8 \(0xe6 at byte 1\)"),
    "wide.txt": ("wide".encode("utf-16"), "wide.txt: text in UTF-16; only UTF-8 is read"),
    "brace.jsonl": (b'{"text": "x"}\n{"text": ', r"brace.jsonl line 2: not JSON \(Expecting value at character 10\)"),
    "deep.jsonl": (b"[" * 100_000, "deep.jsonl line 1: not JSON"),
    "list.jsonl": (b"[1]", "list.jsonl line 1: a list; each line is an object with a column 'text'"),
    "other.jsonl": (b'{"title": 1, "body": "x"}', "other.jsonl line 1: no column 'text'; it has title, body"),
    "number.jsonl": (b'{"text": 5}', "number.jsonl line 1: column 'text' holds a number; text is needed"),
    "half.jsonl": (b'{"text": "a\\ud800"}', r"half.jsonl line 1: character 1 is '\\ud800', half of a pair"),
    "other.parquet": (table({"id": [1], "body": ["x"]}), "other.parquet: no column 'text'; it has id, body"),
    "number.parquet": (table({"text": [1]}), "number.parquet: column 'text' holds int64; text is needed"),
    "not.parquet": (b"PAR1 and then not", "not.parquet: not a parquet file that can be read"),
    "not.txt.gz": (b"not gz", "not.txt.gz: damaged or incomplete gz data"),
    "short.txt.gz": (gzip.compress(b"x" * 99)[:-9], "short.txt.gz: damaged or incomplete gz data"),
    "not.txt.bz2": (b"not bz2", "not.txt.bz2: damaged or incomplete bz2 data"),
    "short.txt.bz2": (bz2.compress(b"x" * 99)[:-9], "short.txt.bz2: damaged or incomplete bz2 data"),
    "not.txt.xz": (b"not xz", "not.txt.xz: damaged or incomplete xz data"),
    "short.txt.xz": (lzma.compress(b"x" * 99)[:-9], "short.txt.xz: damaged or incomplete xz data"),
    "not.txt.zst": (b"not zst", "not.txt.zst: damaged or incomplete zst data"),
    "short.txt.zst": (zstandard.compress(os.urandom(999).hex().encode())[:-9], "short.txt.zst: damaged or incomplete"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_refused_in_one_line(name, tmp_path):
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        list(documents(tmp_path / name))
    assert "\n" not in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_nothing_to_read_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file or folder '.*nowhere'"):
        list(documents(tmp_path / "nowhere"))
    (tmp_path / ".hidden").write_text("x")
    with pytest.raises(ValueError, match="no files in this folder"):
        list(documents(tmp_path))
    (tmp_path / "empty").touch()
    (tmp_path / "binary").write_bytes(b"\x00")
    with pytest.raises(ValueError, match=r"no text in any of 2 files, the first of which is .*binary"):
        list(documents(tmp_path))
    with pytest.raises(ValueError, match="no files to read documents from"):
        list(documents([]))


def test_standard_input_is_read_once(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x")))
    with pytest.raises(ValueError, match="can be read only once"):
        list(documents(["-", "-"]))


def test_a_bad_file_in_a_folder_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.txt").write_bytes(b"\xe9!")
    with pytest.raises(ValueError, match=r"b.txt: not UTF-8 \(0xe9 at byte 0\)"):
        list(documents(tmp_path))


@pytest.mark.parametrize(("name", "package"), [("a.parquet", "pyarrow"), ("a.txt.zst", "zstandard")])
def test_a_missing_package_is_named(name, package, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes(b"x")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"needs the package {package}: pip install 'ostinato\[data\]'"):
        list(documents(tmp_path / name))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(ValueError, match=r"a.txt: cannot be read"):
        list(documents(tmp_path / "a.txt"))
