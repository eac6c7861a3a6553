"""Text becomes tokens and comes back, whatever the text."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from ostinato.data import BPETokenizer, ByteTokenizer, load_tokenizer

TEXTS = [
    "the cat sat on the mat\n" * 3,
    "na\u00efve caf\u00e9, na\u00efve caf\u00e9",
    "\u65e5\u672c\u8a9e\u65e5\u672c\u8a9e",
    "    return x\n    return y\n",
]
BPE = BPETokenizer.train(TEXTS, 290)
BOTH = pytest.mark.parametrize("tokenizer", [ByteTokenizer(), BPE], ids=["bytes", "bpe"])
strings = st.text(st.characters(exclude_categories=["Cs"])) | st.text("the cat\n\t\r \u65e5\u0301\U0001f3b5\x00\ufeff")


@BOTH
@given(text=strings)
@settings(deadline=None)
def test_every_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int64
    assert tokenizer.decode(ids) == text
    assert tokenizer.token_bytes[ids].sum() == len(text.encode())


@BOTH
@given(data=st.data())
@settings(deadline=None)
def test_a_stream_writes_what_decoding_at_once_writes(tokenizer, data):
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=12))
    stream = tokenizer.stream()
    assert "".join([*map(stream.add, ids), stream.finish()]) == tokenizer.decode(ids)


def test_a_stream_holds_back_half_a_character():
    stream = ByteTokenizer().stream()
    assert [stream.add(byte) for byte in "\u65e5x".encode()] == ["", "", "\u65e5", "x"]
    assert stream.add(0xE6) == ""
    assert stream.finish() == "\ufffd"


@BOTH
def test_long_texts_are_cut_between_characters(tokenizer):
    text = "\u65e5\U0001f3b5" * 40_000  # no line ends, and characters of 3 and 4 bytes
    assert tokenizer.decode(tokenizer.encode(text)) == text


@BOTH
def test_tokens_may_come_in_any_container(tokenizer):
    ids = tokenizer.encode(TEXTS[1])
    for container in (ids.astype(np.uint16), ids.tolist(), torch.from_numpy(ids), iter(ids)):
        assert tokenizer.decode(container) == TEXTS[1]
    assert tokenizer.stream().add(torch.tensor(97)) == tokenizer.decode([97])


def test_bytes_are_bytes():
    tokenizer = ByteTokenizer()
    assert tokenizer.vocab_size == 256
    assert tokenizer.encode("a\u00e9").tolist() == [97, 0xC3, 0xA9]
    assert tokenizer.token_bytes.tolist() == [1] * 256


def test_bpe_has_all_bytes_and_frequent_sequences():
    assert BPE.vocab_size == 290
    assert {bytes([byte]) for byte in range(256)} < set(BPE.pieces)
    assert b" the" in BPE.pieces
    assert len(BPE.encode(TEXTS[0])) < len(TEXTS[0].encode()) / 2


def test_bpe_decodes_as_its_library_does():
    backend = Tokenizer.from_str(BPE.to_json())
    ids = BPE.encode("".join(TEXTS)).tolist()
    assert backend.encode("".join(TEXTS)).ids == ids
    assert backend.decode(ids) == BPE.decode(ids)


def test_training_does_not_depend_on_the_order_of_texts():
    assert BPETokenizer.train(TEXTS[::-1], 290).to_json() == BPE.to_json()


@BOTH
def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    for source in (tmp_path, tmp_path / "tokenizer.json", str(tmp_path)):
        again = load_tokenizer(source)
        assert type(again) is type(tokenizer)
        assert again.to_json() == tokenizer.to_json()
        assert again.encode(TEXTS[1]).tolist() == tokenizer.encode(TEXTS[1]).tolist()


def test_bytes_load_by_name():
    assert isinstance(load_tokenizer("bytes"), ByteTokenizer)


def foreign(model=None, **parts):
    tokenizer = Tokenizer(model or models.BPE())
    tokenizer.pre_tokenizer = parts.get("pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.decoder = decoders.ByteLevel()
    if "normalizer" in parts:
        tokenizer.normalizer = parts["normalizer"]
    if model is None:
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        tokenizer.train_from_iterator(
            TEXTS,
            trainers.BpeTrainer(
                vocab_size=280, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
            ),
        )
    return tokenizer


def test_a_foreign_tokenizer_is_read_as_plain_text(tmp_path):
    """Special tokens in a document are text, and truncation, padding and dropout are off."""
    tokenizer = foreign()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=50)
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str())
    loaded = load_tokenizer(tmp_path)
    text = "a cat<|endoftext|>the mat"
    special = tokenizer.token_to_id("<|endoftext|>")
    assert loaded.decode(loaded.encode(text)) == text
    assert special not in loaded.encode(text)
    assert loaded.pieces[special] == b"<|endoftext|>"


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (foreign(models.WordLevel({"the": 0}, unk_token="the")), "a vocabulary of words has the tokens '<unk>'"),
        (foreign(models.BPE()), "a token for each of the 256 bytes"),
        (foreign(normalizer=normalizers.NFC()), "the tokenizer changes text: .* comes back as"),
        (foreign(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)), "the tokenizer changes text"),
    ],
    ids=["words", "no bytes", "normalises", "adds a space"],
)
def test_a_foreign_tokenizer_that_loses_text_is_refused(tokenizer, message, tmp_path):
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str())
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (
            "nowhere",
            FileNotFoundError,
            "no tokenizer 'nowhere'; a tokenizer is 'bytes', 'bpe:4096', 'words', or a folder",
        ),
        ("bpe:4096", ValueError, "bpe:4096 is a tokenizer to be trained on a corpus"),
        ("bpe:256", ValueError, "'bpe:256' is not a tokenizer; bpe:N needs a vocabulary size N above 256"),
        ("bpe:many", ValueError, "'bpe:many' is not a tokenizer"),
        ("bpe", ValueError, "'bpe' is not a tokenizer"),
        ("words", ValueError, "words is a tokenizer to be trained on a corpus"),
    ],
)
def test_what_is_not_a_tokenizer_is_refused(source, error, message):
    with pytest.raises(error, match=message):
        load_tokenizer(source)


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"model": {}}), "\x00"])
def test_a_damaged_file_is_refused_by_name(content, tmp_path):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer.json: ") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


@BOTH
def test_an_unknown_token_is_refused(tokenizer):
    size = tokenizer.vocab_size
    for token in (-1, size):
        with pytest.raises(ValueError, match=f"token {token} is not in this vocabulary; it has 0 to {size - 1}"):
            tokenizer.decode([token])
        with pytest.raises(ValueError, match="is not in this vocabulary"):
            tokenizer.stream().add(token)


@BOTH
def test_half_a_surrogate_pair_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"character 1 is '\\ud800', half of a pair"):
        tokenizer.encode("a\ud800")


def test_a_vocabulary_without_merges_is_refused():
    with pytest.raises(ValueError, match="larger than the 256 bytes; got 256"):
        BPETokenizer.train(TEXTS, 256)
