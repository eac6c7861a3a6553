"""A corpus is split once and for all, and tokenised exactly."""

import io
import logging
import lzma
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from ostinato.data import BPETokenizer, documents, load_tokenizer, prepare
from ostinato.data import build as build_module
from ostinato.data import sources as sources_module
from ostinato.data.split import Text, split
from tests.data.corpora import texts_of, write_jsonl

REPOSITORY = Path(__file__).parents[2]


# the split


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:270"])
def test_every_document_is_on_one_side(many, tokenizer):
    corpus = prepare(many, tokenizer=tokenizer)
    train, valid = texts_of(corpus, "train"), texts_of(corpus, "valid")
    assert corpus.split == "by document"
    assert 5 <= len(valid) <= 45
    texts = list(documents(many))
    assert set(train) | set(valid) == set(texts)
    assert len(train) + len(valid) == len(texts)
    assert [text for text in texts if text in set(valid)] == valid, "the order of documents stays"


def test_the_split_stays_when_documents_come_or_move(many, tmp_path):
    texts = list(documents(many))
    before = set(texts_of(prepare(many), "valid"))
    more = write_jsonl(tmp_path / "more.jsonl", [f"new {i}" for i in range(100)] + texts[::-1])
    assert set(texts_of(prepare(more), "valid")) & set(texts) == before


def test_another_seed_and_fraction_make_another_split(many):
    valid = set(texts_of(prepare(many), "valid"))
    assert set(texts_of(prepare(many, seed=1), "valid")) != valid
    larger = set(texts_of(prepare(many, valid_fraction=0.3), "valid"))
    assert valid < larger
    assert 80 <= len(larger) <= 160


def test_copies_are_on_one_side(many, tmp_path):
    texts = list(documents(many))
    corpus = prepare(write_jsonl(tmp_path / "twice.jsonl", texts + texts))
    assert not set(texts_of(corpus, "train")) & set(texts_of(corpus, "valid"))


def test_one_document_is_cut_between_characters(tmp_path):
    text = "\u65e5\u672c" * 100
    (tmp_path / "one.txt").write_text(text)
    corpus = prepare(tmp_path / "one.txt", valid_fraction=0.1)
    (train,), (valid,) = texts_of(corpus, "train"), texts_of(corpus, "valid")
    assert corpus.split == "cut"
    assert train + valid == text
    assert len(valid) == 20


def test_a_few_documents_are_cut_so_that_the_share_is_right(tmp_path):
    """Whichever of the two was kept, it would be half of the text."""
    corpus = prepare(write_jsonl(tmp_path / "two.jsonl", ["a" * 1000, "b" * 1000]))
    assert corpus.split == "cut"
    assert texts_of(corpus, "train") == ["a" * 1000, "b" * 900]
    assert texts_of(corpus, "valid") == ["b" * 100]


@pytest.mark.parametrize("sizes", [(1000, 1000), (1, 5000)])
def test_a_share_that_is_far_from_the_one_asked_for_is_not_accepted(sizes):
    """By document, some of these seeds would keep nothing, some one of the documents, and some both."""
    text = Text(np.full(sum(sizes), 97, np.uint8), np.array([0, sizes[0], sum(sizes)]), np.array([1, 2], np.uint64))
    for seed in range(200):
        train, valid, way = split(text, 0.05, seed)
        assert way == "cut"
        assert train.size == sum(sizes) - valid.size
        assert valid.size == round(sum(sizes) * 0.05)


def test_validation_may_be_given(many, tmp_path, caplog):
    (tmp_path / "valid.txt").write_text("to be judged on")
    corpus = prepare(many, valid=tmp_path / "valid.txt")
    assert corpus.split == "given"
    assert texts_of(corpus, "valid") == ["to be judged on"]
    assert texts_of(corpus, "train") == list(documents(many))
    assert not caplog.records
    prepare(many, valid=[tmp_path / "valid.txt", many])
    assert "400 of 401 validation documents are in the training text too" in caplog.text


# tokens


def test_tokens_are_those_of_the_tokenizer(many):
    corpus = prepare(many, tokenizer="bpe:300")
    assert corpus.tokenizer.vocab_size == 300
    assert corpus.train.tokens.dtype == np.uint16
    for i, text in enumerate(texts_of(corpus, "train")):
        assert corpus.train.document(i).tolist() == corpus.tokenizer.encode(text).tolist()
    side = corpus.info["train"]
    assert side["tokens"] == len(corpus.train)
    assert side["documents"] == corpus.train.documents
    assert side["bytes"] == corpus.tokenizer.token_bytes[corpus.train.tokens].sum()


def test_long_documents_are_encoded_in_pieces_as_the_tokenizer_does(tmp_path, monkeypatch):
    monkeypatch.setattr(build_module, "GROUP", 100_000)
    text = "".join(f"line {i} of z\u00f6lf\n" for i in range(20_000))
    (tmp_path / "long.txt").write_text(text)
    corpus = prepare(tmp_path / "long.txt", tokenizer="bpe:300")
    assert corpus.train.documents == 1
    train, valid = texts_of(corpus, "train")[0], texts_of(corpus, "valid")[0]
    assert train + valid == text
    assert corpus.train.tokens.tolist() == corpus.tokenizer.encode(train).tolist()


def test_bytes_are_memory_mapped_one_byte_each(many):
    tokens = prepare(many).train.tokens
    assert tokens.dtype == np.uint8
    assert isinstance(tokens.base, np.memmap)
    assert not tokens.flags.writeable


def test_a_tokenizer_learns_from_training_text_only(tmp_path):
    (tmp_path / "train.txt").write_text("abab " * 50)
    (tmp_path / "valid.txt").write_text("xyxy " * 50)
    pieces = prepare(tmp_path / "train.txt", valid=tmp_path / "valid.txt", tokenizer="bpe:260").tokenizer.pieces
    assert b"ab" in pieces
    assert b"xy" not in pieces


def test_a_tokenizer_learns_from_a_sample_of_long_text(tmp_path, monkeypatch):
    monkeypatch.setattr(build_module, "SAMPLE", 3000)
    seen = []
    train = BPETokenizer.train
    monkeypatch.setattr(BPETokenizer, "train", lambda texts, size: train(seen_by(texts, seen), size))
    texts = [f"{i:03} " + "word " * 20 for i in range(300)]
    prepare(write_jsonl(tmp_path / "a.jsonl", texts), tokenizer="bpe:260")
    numbers = [int(text[:3]) for text in seen]
    assert 10 <= len(seen) <= 60
    assert min(numbers) < 75, "from all over the text"
    assert max(numbers) > 225


def seen_by(texts, seen):
    for text in texts:
        seen.append(text)
        yield text


def test_a_tokenizer_may_be_given_by_path_or_as_itself(many, tmp_path):
    trained = prepare(many, tokenizer="bpe:280")
    trained.tokenizer.save(tmp_path / "tokenizer")
    for tokenizer in (tmp_path / "tokenizer", str(tmp_path / "tokenizer"), load_tokenizer(tmp_path / "tokenizer")):
        assert prepare(many, tokenizer=tokenizer).fingerprint == trained.fingerprint


def test_a_vocabulary_that_the_text_cannot_fill_is_said(tmp_path, caplog):
    (tmp_path / "a.txt").write_text("some words, other words\n" * 10)
    assert prepare(tmp_path, tokenizer="bpe:4096").tokenizer.vocab_size < 300
    assert "has frequent sequences for" in caplog.text
    assert "not 4096" in caplog.text


def test_max_bytes_are_whole_characters(tmp_path):
    (tmp_path / "a.txt").write_text("\u65e5" * 10)
    (tmp_path / "b.txt").write_text("b" * 10)
    corpus = prepare(tmp_path, max_bytes=20)
    assert "".join(texts_of(corpus, "train") + texts_of(corpus, "valid")) == "\u65e5" * 6
    corpus = prepare(tmp_path, max_bytes=33)
    assert "".join(texts_of(corpus, "train") + texts_of(corpus, "valid")) == "\u65e5" * 10 + "bbb"


def test_the_default_corpus(monkeypatch):
    few = sources_module.standard_library()[:40]
    monkeypatch.setattr(sources_module, "standard_library", lambda: few)
    corpus = prepare()
    texts = texts_of(corpus, "train") + texts_of(corpus, "valid")
    sizes = [source.path.stat().st_size for source in few]
    assert sum(len(text.encode()) for text in texts) == sum(sizes)


# standard input


def give_input(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_standard_input_is_known_by_its_content(monkeypatch, cache):
    give_input(monkeypatch, b"some text " * 10)
    first = prepare("-")
    assert "".join(texts_of(first, "train") + texts_of(first, "valid")) == "some text " * 10
    give_input(monkeypatch, b"some text " * 10)
    assert prepare("-").folder == first.folder
    give_input(monkeypatch, b"other text " * 10)
    assert prepare("-").folder != first.folder
    assert sum(path.is_dir() for path in (cache / "corpora").iterdir()) == 2


def test_empty_standard_input_is_refused(monkeypatch):
    give_input(monkeypatch, b"")
    with pytest.raises(ValueError, match="standard input: no text in it; it is empty"):
        prepare("-")


def test_standard_input_is_one_side_only(monkeypatch):
    give_input(monkeypatch, b"x")
    with pytest.raises(ValueError, match=r"standard input .* can be read only once"):
        prepare("-", valid="-")


# what is refused


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("x", {}, "the corpus is too small: 0 tokens for training, and each side needs at least 2"),
        ("xy", {}, "the corpus is too small: 0 tokens for training"),
        ("abc", {}, "the corpus is too small: 1 tokens for training"),
        ("abcd" * 9, {"max_bytes": 3}, "the corpus is too small"),
        ("\u65e5", {"max_bytes": 2}, "max_bytes=2 leaves no text"),
        ("abcd", {"valid_fraction": 0.0}, "valid_fraction is between 0 and 1; got 0.0"),
        ("abcd", {"valid_fraction": 1.0}, "valid_fraction is between 0 and 1; got 1.0"),
        ("abcd", {"max_bytes": 0}, "max_bytes is at least 1; got 0"),
        ("abcd", {"tokenizer": "bpe:1"}, "'bpe:1' is not a tokenizer"),
        ("", {}, "no text in it; it is empty"),
    ],
)
def test_a_corpus_that_cannot_be_made_is_refused(text, arguments, message, tmp_path):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path / "a.txt", **arguments)


def test_an_unknown_tokenizer_or_file_is_refused(many):
    with pytest.raises(FileNotFoundError, match="no tokenizer 'letters'"):
        prepare(many, tokenizer="letters")
    with pytest.raises(FileNotFoundError, match="no file or folder 'nowhere'"):
        prepare("nowhere")


def test_four_bytes_are_enough(tmp_path):
    (tmp_path / "a.txt").write_text("abcd")
    corpus = prepare(tmp_path / "a.txt")
    assert (texts_of(corpus, "train"), texts_of(corpus, "valid")) == (["ab"], ["cd"])


def test_it_says_what_it_does(many, caplog):
    with caplog.at_level(logging.INFO):
        corpus = prepare(many, tokenizer="bpe:270")
    assert [record.getMessage().split()[0] for record in caplog.records] == ["read", "trained", "wrote"]
    assert str(corpus).startswith("split by document, vocabulary 270; train 3")


def test_real_text():
    root = Path(os.environ.get("OSTINATO_DATA", REPOSITORY.parent / "shared" / "data"))
    path = root / "text_lm" / "wikitext2" / "train.txt.xz"
    if not path.exists():
        pytest.skip(f"{path} is not there; $OSTINATO_DATA says where the data sets are")
    text = lzma.decompress(path.read_bytes())
    corpus = prepare(path)
    assert corpus.split == "cut"
    assert len(corpus.valid) == round(len(text) * 0.05)
    assert corpus.train.tokens.tobytes() + corpus.valid.tokens.tobytes() == text
