"""Associative treecall: strings have one tree of the grammar, and who knows it knows whose child each word is."""

from collections import Counter, defaultdict

import pytest

from ostinato.registry import create
from ostinato.tasks.treecall import WORD


def task(**arguments):
    return create("task:associative_treecall", **arguments)


def grown(made, row, nonterminal=None, begin=0):
    """The trees of a string by trying every rule, top down: for each place, the place of its head; head on the left."""

    def tree(place, kind):
        """(end, {place: head}) of the tree of a kind that begins here, or None."""
        if place >= len(row):
            return None
        token = row[place]
        if kind == WORD:
            return (place + 1, {}) if token >= made.first_word else None
        for number, rule in enumerate(made.rules):
            if rule.nonterminal != kind or not number * made.heads <= token < (number + 1) * made.heads:
                continue
            end, heads = place + 1, {}
            for child in rule.children:
                found = tree(end, child)
                if found is None:
                    break
                heads |= {end: place} | found[1]
                end = found[0]
            else:
                return end, heads
        return None

    place, heads = 0, {}
    while place < len(row):
        ends = [found for kind in (WORD, *range(len(made.start))) if (found := tree(place, kind)) is not None]
        assert len(ends) == 1, "every string has one tree"
        heads |= ends[0][1]
        place = ends[0][0]
    return [heads.get(place) for place in range(len(row))]


@pytest.mark.parametrize("grammar", range(3))
def test_strings_are_of_the_grammar_and_have_one_tree(grammar):
    made = task(length=21, words=20, grammar=grammar)
    for row in made.batch(20).inputs[:, :-1].tolist():
        assert made.parents(row) == grown(made, row)


# 0 and 1 are heads of A -> B C word, 2 and 3 of B -> C, 4 and 5 of C -> word; words are 6 to 10
@pytest.mark.parametrize(
    ("head", "row", "parents", "wrong"),
    [
        ("left", [9, 1, 3, 4, 7, 5, 8, 6], [None, None, 1, 2, 3, 1, 5, 1], ([1, 5, 8, 6], [1, 3, 4, 7], [4, 1])),
        ("right", [9, 7, 4, 3, 8, 5, 6, 1], [None, 2, 3, 7, 5, 7, 7, None], ([6, 8, 5, 1], [6, 1], [1, 4])),
    ],
)
def test_a_string_by_hand(head, row, parents, wrong):
    made = task(length=8, nonterminals=3, rules=1, heads=2, words=5, head=head, grammar=19)
    assert [rule.children for rule in made.rules] == [(1, 2, WORD), (2,), (WORD,)]
    assert made.parents(row) == parents
    assert made.solve([*row, 8]) == {8: 5}
    assert made.solve([*row, 4]) == {8: 3}
    for other in wrong:
        with pytest.raises(ValueError, match="has no such tree"):
            made.parents(other)


@pytest.mark.parametrize("head", ["left", "right"])
def test_what_is_asked_for_occurs_once_and_its_parent_answers(head):
    made = task(length=40, head=head)
    batch = made.batch(50, split="test")
    beside = 0
    for row, answer in zip(batch.inputs.tolist(), batch.targets[:, -1].tolist()):
        *tokens, item = row
        assert tokens.count(item) == 1
        place = made.parents(tokens)[tokens.index(item)]
        assert tokens[place] == answer
        assert answer < made.first_word
        beside += abs(place - tokens.index(item)) == 1
    assert 10 < beside < 45, "some parents stand beside their child, some do not"
    assert made.score(made.oracle(batch), batch) == 1


def test_guessing_is_what_the_best_guess_from_the_word_alone_is_right():
    made = task(words=40, heads=4)
    batch = made.batch(2000)
    rules = defaultdict(Counter)
    for row, answer in zip(batch.inputs.tolist(), batch.targets[:, -1].tolist()):
        kind = WORD if row[-1] >= made.first_word else made.rules[row[-1] // made.heads].nonterminal
        rules[kind][answer // made.heads] += 1
    best = sum(counts.most_common(1)[0][1] for counts in rules.values()) / len(batch.inputs) / made.heads
    assert made.chance == pytest.approx(best, rel=0.1)


def test_grammars_differ_and_are_the_same_for_the_same_seed():
    assert task(grammar=1).rules == task(grammar=1).rules
    assert task(grammar=1).rules != task(grammar=2).rules
    assert all(child == WORD or child > rule.nonterminal for rule in task(grammar=1).rules for child in rule.children)


def test_a_grammar_in_which_no_word_occurs_once_is_refused():
    with pytest.raises(ValueError, match=r"with 1 words .* give it more words or heads"):
        task(length=8, nonterminals=1, rules=1, heads=8, words=1, grammar=1).batch(2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(head="lefft"), "head is left or right; got 'lefft' .did you mean left"),
        (dict(words=0), "are at least 1"),
        (dict(length=600), "it has up to 512 tokens with 256 words; got 600"),
    ],
)
def test_refused_with_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        task(**arguments)
