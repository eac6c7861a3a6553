"""The Children's Book Test in its published format, on small files made here; and window memories that answer it."""

import random
import re

import pytest
import torch
from torch.testing import assert_close

from ostinato.models.kneser_ney import KneserNey
from ostinato.registry import create
from ostinato.tasks.childrens_book_test import (
    Question,
    accuracy,
    by_frequency,
    by_language_model,
    childrens_book_test,
    vocabulary,
    windows,
)

STORY = ["the king saw the queen .", "the queen laughed .", "a baby cried ."]


def written(questions):
    """Questions as their published files have them."""
    blocks = []
    for question in questions:
        lines = [f"{n} {' '.join(sentence)}" for n, sentence in enumerate(question.context, start=1)]
        last = f"{len(lines) + 1} {' '.join(question.query)}\t{question.answer}\t\t{'|'.join(question.candidates)}"
        blocks.append("\n".join([*lines, last]))
    return "\n\n".join(blocks) + "\n\n"


def by_hand():
    context = [sentence.split() for sentence in STORY]
    return Question(context, "then the XXXXX laughed .".split(), "queen", ["baby", "king", "queen"])


def stories(number, seed=0, people=12):
    """Who does what is told in one verb and asked for with another one, so that similar words have to be learned."""
    dice = random.Random(seed)
    names = [f"name{n}" for n in range(people)]
    found = []
    for _ in range(number):
        here = dice.sample(names, 5)
        verbs = dice.sample(range(8), 5)
        context = [f"then {name} did{verb} it .".split() for name, verb in zip(here, verbs)]
        context += [f"and {dice.choice(here)} slept well .".split() for _ in range(3)]
        dice.shuffle(context)
        which = dice.randrange(5)
        found.append(Question(context, f"so XXXXX does{verbs[which]} it .".split(), here[which], dice.sample(here, 5)))
    return found


def test_a_file_is_read_as_it_was_written(tmp_path):
    questions = [by_hand(), *stories(3)]
    (tmp_path / "cbtest.txt").write_text(written(questions))
    assert childrens_book_test(tmp_path / "cbtest.txt") == questions
    (tmp_path / "end.txt").write_text(written(questions).rstrip())
    assert childrens_book_test(tmp_path / "end.txt") == questions


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no question"),
        ("1 a b .\n3 c .\n", "line 2: the sentence has the number 2; got '3 c .'"),
        ("1 a b .\n\n", "line 2: a question ends without a line that has candidates"),
        ("1 a b .", "ends within a question"),
        ("1 a b .\n2 the b\tb\t\ta|b\n", "line 2: a sentence with one XXXXX"),
        ("1 a b .\n2 the XXXXX\tc\t\ta|b\n", "the answer 'c' is one of different candidates; got 'a|b'"),
        ("1 a b .\n2 the XXXXX\ta\t\ta|a\n", "one of different candidates"),
    ],
)
def test_other_files_are_refused_with_a_sentence(text, message, tmp_path):
    (tmp_path / "bad.txt").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        childrens_book_test(tmp_path / "bad.txt")


def test_the_best_score_answers():
    question = by_hand()
    assert accuracy([question, question], lambda one: [0, 1, 2]) == 1
    assert accuracy([question], lambda one: [2.0, 1.0, 2.0]) == 0  # of equal ones the first
    scores = iter([[0, 1, 2], [1, 0, 0]])
    assert accuracy([question, question], lambda one: next(scores)) == 0.5
    assert by_frequency(question) == [1, 1, 2]
    with pytest.raises(ValueError, match="3 candidates, and 2 scores"):
        accuracy([question], lambda one: [0, 1])
    with pytest.raises(ValueError, match="there is no question"):
        accuracy([], by_frequency)


def test_a_language_model_scores_the_sentence_with_each_candidate_in_its_gap():
    question = by_hand()
    numbers = vocabulary([question])

    def encode(words):
        return [numbers[word] for word in words]

    model = KneserNey(len(numbers) + 1, order=2, discount=0.5).fit([encode("then the queen laughed .".split())])
    for context in (True, False):
        scores = by_language_model(model.losses, encode, context=context)(question)
        before = [word for sentence in question.context for word in sentence] if context else []
        for candidate, score in zip(question.candidates, scores, strict=True):
            whole = encode([*before, "then", "the", candidate, "laughed", "."])
            assert score == pytest.approx(-float(model.losses(whole)[len(before) :].sum()))
        assert accuracy([question], lambda one, scores=scores: scores) == 1


def test_windows_are_centred_on_mentions_of_candidates():
    question = by_hand()
    numbers = vocabulary([question])
    words = {number: word for word, number in numbers.items()} | {0: "-"}
    read = windows([question], numbers, 5)
    shown = [" ".join(words[token] for token in row) for row in read.memories[0].tolist()]
    assert shown == ["- the king saw the", "saw the queen . the", ". the queen laughed .", ". a baby cried ."]
    assert read.mentions.tolist() == [[1, 2, 2, 0]]
    assert [words[token] for token in read.query[0].tolist()] == ["then", "the", "XXXXX", "laughed", "."]
    assert read.answer.tolist() == [2]
    with pytest.raises(ValueError, match="width is odd"):
        windows([question], numbers, 4)


def test_scores_and_loss_by_hand():
    questions = [by_hand(), *stories(1)]  # stories of different length: rows are padded
    numbers = vocabulary(questions)
    read = windows(questions, numbers, 3)
    torch.manual_seed(0)
    model = create("model:window_memory_network", vocab_size=len(numbers) + 1, dim=6, width=3).double()
    scores, losses = model(read, 5), []
    for n, question in enumerate(questions):
        query = sum(model.tables[j, token] for j, token in enumerate(read.query[n].tolist()))
        similar = [[] for _ in range(5)]
        for window, mention in zip(read.memories[n].tolist(), read.mentions[n].tolist(), strict=True):
            if mention >= 0:
                memory = sum(model.tables[j, token] for j, token in enumerate(window) if token)
                similar[mention].append(memory @ query)
        expected = [max(part) if part else torch.tensor(-torch.inf).double() for part in similar]
        assert_close(scores[n], torch.stack(expected))
        every = torch.stack([one for part in similar for one in part])
        losses.append(every.exp().sum().log() - max(similar[question.candidates.index(question.answer)]))
    assert_close(model.loss(read), torch.stack(losses).mean())


def test_questions_whose_answer_is_not_in_the_story_are_left_out_of_the_loss():
    question = by_hand()
    without = Question(question.context, question.query, "dog", ["dog", "king", "queen"])
    numbers = vocabulary([question, without])
    model = create("model:window_memory_network", vocab_size=len(numbers) + 1, dim=4)
    alone = model.loss(windows([question], numbers))
    assert_close(model.loss(windows([question, without], numbers)), alone)
    assert model(windows([without], numbers), 3)[0, 0] == -torch.inf
    with pytest.raises(ValueError, match="no story mentions the answer"):
        model.loss(windows([without], numbers))


def test_a_window_memory_names_who_it_was_where_an_n_gram_model_guesses():
    """Names are as likely as each other everywhere, so that only the story says who it was."""
    train, test = stories(150, seed=1), stories(100, seed=2)
    numbers = vocabulary(train)
    torch.manual_seed(0)
    model = create("model:window_memory_network", vocab_size=len(numbers) + 1, dim=16)
    read, asked = windows(train, numbers), windows(test, numbers)

    def solved():
        scores = model(asked, 5).tolist()
        answers = dict(zip(map(id, test), scores, strict=True))
        return accuracy(test, lambda question: answers[id(question)])

    before = solved()
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(read).backward()
        optimizer.step()

    def encode(words):
        return [numbers.get(word, 0) for word in words]

    texts = [encode([w for s in one.context for w in s] + one.filled(one.answer)) for one in train]
    ngram = KneserNey(len(numbers) + 1, order=4).fit(texts)
    guessed = accuracy(test, by_language_model(ngram.losses, encode))
    assert before < 0.5
    assert guessed < 0.5
    assert accuracy(test, by_frequency) < 0.5
    assert solved() > 0.95


@pytest.mark.parametrize("arguments", [dict(vocab_size=0), dict(vocab_size=5, width=4), dict(vocab_size=5, dim=0)])
def test_sizes_that_are_none_are_refused(arguments):
    with pytest.raises(ValueError, match="at least 1, width odd"):
        create("model:window_memory_network", **arguments)
    model = create("model:window_memory_network", vocab_size=30, width=3)
    with pytest.raises(ValueError, match="windows have 3 words here; got 5"):
        model(windows([by_hand()], vocabulary([by_hand()])))
