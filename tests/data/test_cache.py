"""A corpus is made once, whoever asks for it, and a damaged cache heals."""

import contextlib
import gzip
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ostinato.data import Corpus, prepare
from ostinato.data import build as build_module
from ostinato.data import corpus as corpus_module
from tests.data.corpora import write_jsonl

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def forbid_reading(monkeypatch):
    def forbidden(*_):
        raise AssertionError("the sources are read again")

    return lambda: monkeypatch.setattr(build_module, "read", forbidden)


def test_a_corpus_is_read_once(many, forbid_reading):
    first = prepare(many)
    forbid_reading()
    again = prepare(many)
    assert again.folder == first.folder
    assert again.fingerprint == first.fingerprint
    assert np.array_equal(again.train.tokens, first.train.tokens)
    assert str(again) == str(first)
    with pytest.raises(AssertionError, match="read again"):
        prepare(many, seed=1)


def test_a_changed_file_is_read_again(many):
    first = prepare(many)
    write_jsonl(many, ["another text"] * 9)
    assert prepare(many).fingerprint != first.fingerprint


def test_the_fingerprint_is_of_content(many, tmp_path):
    first = prepare(many)
    moved = tmp_path / "moved.jsonl.gz"
    moved.write_bytes(gzip.compress(many.read_bytes()))
    assert prepare(moved).fingerprint == first.fingerprint
    others = [prepare(many, seed=1), prepare(many, tokenizer="bpe:270"), prepare(many, max_bytes=5000)]
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_the_same_corpus_gives_the_same_files(many, cache):
    def content(folder):
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    first = prepare(many, tokenizer="bpe:280")
    files = content(first.folder)
    assert len(files) == 6
    shutil.rmtree(cache)
    assert content(prepare(many, tokenizer="bpe:280").folder) == files


DAMAGE = {
    "train/tokens.bin": r"train/tokens.bin has 3 of \d+ bytes",
    "valid/tokens.bin": r"valid/tokens.bin has 3 of \d+ bytes",
    "train/starts.npy": r"train/starts.npy has 3 of \d+ bytes",
    "tokenizer.json": r"tokenizer.json has 3 of \d+ bytes",
    "corpus.json": "the corpus is damaged",
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_file_cut_short_is_seen_and_made_again(name, many, caplog):
    first = prepare(many)
    files = {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file()}
    os.truncate(first.folder / name, 3)
    with pytest.raises(ValueError, match=DAMAGE[name]):
        Corpus.open(first.folder)
    assert prepare(many).fingerprint == first.fingerprint
    assert len(caplog.records) == 1
    assert caplog.text.rstrip().endswith("it is made again")
    assert {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file()} == files


def test_a_file_changed_or_missing_is_seen_and_made_again(many, caplog):
    first = prepare(many)
    starts = first.folder / "train" / "starts.npy"
    content = bytearray(starts.read_bytes())
    content[-1] ^= 1
    starts.write_bytes(content)
    with pytest.raises(ValueError, match=r"train/starts.npy is not what was written"):
        Corpus.open(first.folder)
    assert prepare(many).fingerprint == first.fingerprint
    starts.unlink()
    with pytest.raises(ValueError, match=r"a corpus has the file starts.npy, and it is not there"):
        Corpus.open(first.folder)
    assert prepare(many).fingerprint == first.fingerprint


def test_little_is_left_of_a_corpus_that_failed_or_was_killed(many, cache):
    bad = many.with_name("bad.jsonl")
    bad.write_bytes(many.read_bytes() + b'{"text": ')
    with pytest.raises(ValueError, match=r"bad.jsonl line 401: not JSON"):
        prepare(bad)
    assert not [path for path in (cache / "corpora").iterdir() if path.is_dir()]
    first = prepare(many)
    shutil.rmtree(first.folder)
    killed, at_work = (cache / "corpora" / f".{first.folder.name}.{number}" for number in (1, 2))
    for folder in (killed, at_work):
        folder.mkdir()
        (folder / "text").touch()
    two_days_ago = time.time() - 2 * 24 * 60 * 60
    for path in (killed, killed / "text", at_work):
        os.utime(path, (two_days_ago, two_days_ago))
    prepare(many)
    assert {path for path in (cache / "corpora").iterdir() if path.is_dir()} == {first.folder, at_work}


def test_two_processes_make_a_corpus_once(many, cache):
    """The second waits for the first and finds what it made."""
    script = f"""
import logging, sys
from ostinato.data import prepare
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
print("ready", flush=True)
sys.stdin.readline()
print(prepare({str(many)!r}, tokenizer="bpe:400").fingerprint)
"""
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": REPOSITORY}
    processes = [subprocess.Popen([sys.executable, "-c", script], **options) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    fingerprints = {output.splitlines()[-1] for output in outputs}
    assert fingerprints == {prepare(many, tokenizer="bpe:400").fingerprint}
    assert "".join(outputs).count("trained a tokenizer") == 1
    assert len([path for path in (cache / "corpora").iterdir() if path.is_dir()]) == 1


def test_where_locks_do_not_work_the_first_to_finish_wins(many, monkeypatch):
    """As two processes on a network folder without locks: both build, the second keeps what the first made."""
    build = corpus_module.build
    monkeypatch.setattr(corpus_module, "FileLock", lambda _: contextlib.nullcontext())
    first = []

    def build_slowly(*arguments, **options):
        if not first:
            first.append(None)
            first[0] = prepare(many)
        return build(*arguments, **options)

    monkeypatch.setattr(corpus_module, "build", build_slowly)
    assert prepare(many).fingerprint == first[0].fingerprint


def test_the_cache_may_be_elsewhere(many, tmp_path, monkeypatch):
    assert prepare(many, cache_dir=tmp_path / "here").folder.parents[1] == tmp_path / "here"
    monkeypatch.delenv("OSTINATO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert prepare(many).folder.parents[2] == tmp_path / "xdg"
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"no cache in .*file .*name another folder in \$OSTINATO_CACHE or cache_dir"):
        prepare(many, cache_dir=tmp_path / "file")
