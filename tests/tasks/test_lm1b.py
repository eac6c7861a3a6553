"""The split of the One Billion Word Benchmark: the same for the same sentences, nothing twice, words by their frequency."""

import random
from collections import Counter

import pytest

from ostinato.tasks.lm1b import lm1b, published


def sentences(number=400):
    draw = random.Random(0)
    words = ["the", "of", "a", "cat", "dog", "sat", "ran", "on", "mat", "rare"]
    return [" ".join(draw.choices(words, weights=range(10, 0, -1), k=draw.randrange(3, 12))) for _ in range(number)]


def test_it_is_the_same_in_any_order_and_nothing_is_in_two_parts():
    given = sentences()
    split = lm1b(given, parts=10, held_out=4)
    again = lm1b([f"  {sentence} " for sentence in reversed(given + given[:50])], parts=10, held_out=4)
    assert (split.train, split.held_out, split.words) == (again.train, again.held_out, again.words)
    every = [*split.train, *(sentence for part in split.held_out for sentence in part)]
    assert sorted(every) == sorted(set(given))
    assert sum(map(len, split.held_out)) == len(set(given)) // 10
    assert {len(part) for part in split.held_out} <= {9, 10}
    assert lm1b(given, parts=10, seed=1).train != split.train


def test_words_are_numbered_by_how_often_they_occur_in_what_is_learned_from():
    split = lm1b(sentences(), parts=10, minimum=40)
    counts = Counter(word for sentence in split.train for word in sentence.split())
    known = {word for word, count in counts.items() if count >= 40}
    assert 0 < len(known) < len(counts)
    assert set(split.words) == known | {"<UNK>", "<S>", "</S>"}
    counts["<UNK>"] = sum(count for count in counts.values() if count < 40)
    counts["<S>"] = counts["</S>"] = len(split.train)
    frequencies = [counts[word] for word in split.words]
    assert frequencies == sorted(frequencies, reverse=True)


def test_sentences_become_numbers_and_words_again():
    split = lm1b(sentences(), parts=10)
    tokens = split.encode("the cat xyzzy sat")
    assert [split.words[token] for token in tokens] == ["<S>", "the", "cat", "<UNK>", "sat", "</S>"]
    assert split.decode(tokens) == "the cat <UNK> sat"
    assert split.encode("the")[1] < split.encode("mat")[1], "the frequent word has the smaller number"


def test_the_published_files_are_read_as_they_are_split(tmp_path):
    parts = {"training": ("news.en-", 1, 3), "heldout": ("news.en.heldout-", 0, 2)}
    for name, (begin, first, number) in parts.items():
        (tmp_path / f"{name}-monolingual.tokenized.shuffled").mkdir()
        for n in range(first, first + number):
            file = tmp_path / f"{name}-monolingual.tokenized.shuffled" / f"{begin}{n:05d}-of-00100"
            file.write_text(f"The cat , {name} .\nThe dog {n} .\n", encoding="utf-8")
    read = published(tmp_path)
    assert read.train == [text for n in (1, 2, 3) for text in ("The cat , training .", f"The dog {n} .")]
    assert read.held_out == [["The cat , heldout .", f"The dog {n} ."] for n in (0, 1)]
    assert set(read.words) == {"The", ".", "cat", ",", "training", "dog", "<UNK>", "<S>", "</S>"}
    with pytest.raises(ValueError, match=r"has no news\.en"):
        published(tmp_path / "heldout-monolingual.tokenized.shuffled")


@pytest.mark.parametrize(
    ("given", "arguments", "message"),
    [
        (["a b"], {}, "at least 100 different sentences are split; got 1"),
        (["a <S> b", "c"], {"parts": 2}, "<S> is a word of a sentence already"),
        (["a", "b"], {"parts": 1}, "parts is at least 2"),
    ],
)
def test_refused_with_a_sentence(given, arguments, message):
    with pytest.raises(ValueError, match=message):
        lm1b(given, **arguments)
