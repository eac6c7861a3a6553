"""A file is wholly there or not at all."""

import hashlib
import os

import pytest

from ostinato.files import folder_atomically, sha256, sha256_of_file, write_atomically


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_content_is_written_and_replaced(tmp_path):
    path = tmp_path / "new" / "a"
    for content in (b"one", "zw\u00f6lf"):
        write_atomically(path, content)
        assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert names(path.parent) == ["a"]


def test_a_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()
    write_atomically(tmp_path / "a", "x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_error_leaves_the_old_content_and_nothing_else(step, tmp_path, monkeypatch):
    write_atomically(tmp_path / "a", "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_folder_appears_when_it_is_filled(tmp_path):
    with folder_atomically(tmp_path / "a") as folder:
        (folder / "b").mkdir()
        (folder / "b" / "c").write_text("x")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a" / "b" / "c").read_text() == "x"
    assert names(tmp_path) == ["a"]


def test_a_folder_that_failed_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), folder_atomically(tmp_path / "a") as folder:
        (folder / "b").write_text(str(1 / 0))
    assert names(tmp_path) == []


def test_a_folder_does_not_replace_another(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    with pytest.raises(OSError), folder_atomically(tmp_path / "a") as folder:  # noqa: PT011
        (folder / "new").touch()
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == ["old"]


def test_checksums(tmp_path):
    content = os.urandom(3_000_000)
    (tmp_path / "a").write_bytes(content)
    assert sha256_of_file(tmp_path / "a") == sha256(content) == hashlib.sha256(content).hexdigest()
    assert sha256("\u00e9") == sha256(b"\xc3\xa9")
