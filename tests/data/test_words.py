"""Words are tokens, line ends too, and one token stands for all other words."""

import gzip

import pytest

from ostinato.data import load_tokenizer, prepare
from ostinato.data.words import WordTokenizer

TEXT = " the cat sat \n the dog saw the cat \n <unk> ran N times \n"


def test_words_and_line_ends():
    tokenizer = WordTokenizer.train([TEXT])
    assert tokenizer.pieces[:3] == [
        b"\n",
        b" the",
        b" cat",
    ]  # the most frequent first; equals in the order of the alphabet
    assert sorted(tokenizer.pieces[3:]) == sorted(f" {w}".encode() for w in "<unk> N dog ran sat saw times".split())
    ids = tokenizer.encode("the  cow\tsat\u3000the\r\n\n cat")
    assert [tokenizer.pieces[i] for i in ids] == [b" the", b" <unk>", b" sat", b" the", b"\n", b"\n", b" cat"]
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT.replace(" \n", "\n")
    assert tokenizer.token_bytes[tokenizer.encode(TEXT)].sum() == len(TEXT) - 3


def test_the_most_frequent_words_are_kept():
    tokenizer = WordTokenizer.train([TEXT, TEXT], 4)
    assert tokenizer.vocab_size == 4
    assert set(tokenizer.pieces) == {b"\n", b" the", b" cat", b" <unk>"}
    assert WordTokenizer.train(["a b"], 3).vocab_size == 3
    assert (
        WordTokenizer.train([" the cat \n", " the dog \n"]).to_json()
        == WordTokenizer.train([" the dog \n", " the cat \n"]).to_json()
    )
    with pytest.raises(ValueError, match="at least 3 tokens; got 2"):
        WordTokenizer.train([TEXT], 2)


def test_it_is_saved_loaded_and_asked_for(tmp_path):
    with gzip.open(tmp_path / "train.txt.gz", "wt") as file:
        file.write(TEXT * 5)
    (tmp_path / "valid.txt").write_text(TEXT)
    files = dict(valid=tmp_path / "valid.txt", cache_dir=tmp_path / "cache")
    corpus = prepare(tmp_path / "train.txt.gz", tokenizer="words:5", **files)
    assert corpus.tokenizer.vocab_size == 5
    assert prepare(tmp_path / "train.txt.gz", tokenizer="words", **files).tokenizer.vocab_size == 10
    corpus.tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert isinstance(again, WordTokenizer)
    assert again.to_json() == corpus.tokenizer.to_json()
    assert len(corpus.valid) == len(again.encode(TEXT)) == 15
    for spec in ("words:2", "words:many", "words:"):
        with pytest.raises(ValueError, match="words:N needs a vocabulary size N of at least 3"):
            prepare(tmp_path / "train.txt.gz", tokenizer=spec, **files)


def test_another_tokenizer_is_refused(tmp_path):
    import json

    content = json.loads(WordTokenizer.train([TEXT]).to_json())
    vocabulary = content["model"]["vocab"]
    gap = {word: number for word, number in vocabulary.items() if word != " cat" and number != 2}
    for change, message in [
        ({"pre_tokenizer": None}, "cuts text at blanks and line ends, and changes nothing"),
        ({"normalizer": {"type": "Lowercase"}}, "cuts text at blanks and line ends, and changes nothing"),
        ({"model": content["model"] | {"vocab": gap}}, "numbers without gaps"),
    ]:
        (tmp_path / "tokenizer.json").write_text(json.dumps(content | change))
        with pytest.raises(ValueError, match=message):
            load_tokenizer(tmp_path)
