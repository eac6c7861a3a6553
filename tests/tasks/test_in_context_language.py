"""Languages of random automata: strings that an independent simulator accepts, and sets that are those of its states."""

import pytest
import torch

from ostinato.registry import create


@pytest.fixture
def task():
    return create("task:in_context_language_learning", length=150, symbols=7, states=6, longest=9)


def simulate(task, label, goal, degree, row):
    """The legal symbols after each token of a row, by a walk over the edges; fails where there is no such edge."""
    found, state = [], 0
    for token in row:
        if token == task.symbols:
            state = 0
        else:
            edges = {int(label[state, e]): int(goal[state, e]) for e in range(int(degree[state]))}
            state = edges[token]
        found.append({int(label[state, e]) for e in range(int(degree[state]))})
    return found


def test_strings_are_those_of_the_automata_by_a_simulator(task):
    batch = task.draw(40, 150, torch.Generator().manual_seed(3))
    label, goal, degree = task.automata(40, torch.Generator().manual_seed(3))  # the first that is drawn
    following, legal = task.symbols_of(batch)
    for r, row in enumerate(batch.inputs.tolist()):
        sets = simulate(task, label[r], goal[r], degree[r], row)
        for t in range(150):
            if batch.scored[r, t]:
                assert {s for s in range(task.vocab_size) if legal[r, t, s]} == sets[t]
                assert int(following[r, t]) in sets[t]
            else:
                assert t == 149 or row[t + 1] == task.symbols
    ends = (batch.inputs == task.symbols).nonzero()
    assert max(int(b - a) for (r, a), (s, b) in zip(ends[:-1], ends[1:]) if r == s) == 10  # nine symbols and the end


def test_automata_are_what_they_are_said_to_be():
    task = create("task:in_context_language_learning", symbols=9, states=7, edges=3)
    label, goal, degree = task.automata(500, torch.Generator().manual_seed(0))
    assert label.shape == goal.shape == (500, 7, 3)
    assert (int(degree.min()), int(degree.max())) == (1, 3)
    assert degree.double().mean().item() == pytest.approx(2, abs=0.05)
    for row, ends in zip(label.flatten(0, 1).tolist(), goal.flatten(0, 1).tolist()):
        assert len(set(row)) == len(set(ends)) == 3
    assert (goal != torch.arange(7)[:, None]).all()
    used = [len(set(row.flatten().tolist())) for row in label]
    assert (min(used), max(used)) == (4, 9)
    assert [len(set(row[0].tolist())) > 2 for row in goal[:5]] == [True] * 5


def test_an_edge_of_a_state_is_as_likely_as_another(task):
    batch = task.batch(600)
    following, legal = task.symbols_of(batch)
    two = batch.scored & (legal.sum(-1) == 2)
    lower = legal[two].long().argmax(-1)
    assert (following[two] == lower).double().mean().item() == pytest.approx(0.5, abs=0.01)


def test_scores_of_who_knows_and_of_who_does_not(task):
    batch = task.batch(300, split="test")
    oracle = task.oracle(batch)
    assert task.score(oracle, batch) == 1
    assert task.distance(oracle, batch) == pytest.approx(0, abs=1e-12)
    sizes = task.symbols_of(batch)[1][batch.scored].sum(-1)
    assert task.loss(oracle, batch).item() == pytest.approx(sizes.double().log().mean().item(), abs=1e-5)
    always = torch.zeros(300, 150, task.vocab_size)
    assert task.distance(always, batch) == pytest.approx((1 - sizes / 7).mean().item())
    always[..., 2] = 1
    assert task.score(always, batch) == pytest.approx(task.chance, abs=0.03)


def test_alphabets_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="symbols is 4 to 50"):
        create("task:in_context_language_learning", symbols=3)
    with pytest.raises(ValueError, match="longest is the most symbols of a string"):
        create("task:in_context_language_learning", longest=0)
