"""What every synthetic task promises: answers that a solver finds too, two splits that share nothing, the same again."""

import pytest
import torch

from ostinato.registry import entries
from ostinato.tasks.task import TEST_SHARE, Task, TokenTask, in_test

FOUND = {entry.name: entry.target for entry in entries("task") if isinstance(entry.target, type)}
UNSOLVED = {"mackey_glass", "sequential_digits"}
UNCERTAIN = {"piecewise_stationary", "in_context_language_learning"}  # what is likely is known, not what comes
SMALL = {
    "state_tracking": dict(length=9, group="S4"),
    "mqar": dict(length=26, pairs=5, vocabulary=21),
    "associative_recall": dict(length=14),
    "listops": dict(length=30),
    "mackey_glass": dict(length=9),
}


def make(name: str) -> Task:
    if name == "sequential_digits":
        pytest.importorskip("sklearn")
    return FOUND[name](**SMALL.get(name, {}))


def expected(batch, row):
    return {place: int(batch.targets[row, place]) for place in batch.scored[row].nonzero().flatten().tolist()}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", sorted(FOUND))
def test_answers_are_those_of_the_solver(name, split):
    """The generator is vectorised and knows what it made; the solver is plain Python and sees the inputs only."""
    task = make(name)
    for length in sorted({task.length, task.nearest_length(task.length + task.length // 2)}):
        batch = task.batch(7, length, split=split, seed=3)
        assert len(batch.inputs) == len(batch.targets) == len(batch.scored) == 7
        assert batch.scored.any(1).all()
        if task.vocab_size:
            assert batch.inputs.shape == batch.targets.shape == batch.scored.shape
            assert 0 <= int(batch.inputs.min()) <= int(batch.inputs.max()) < task.vocab_size
        else:
            assert batch.inputs.shape == (*batch.scored.shape, task.width)
        if name in UNSOLVED:
            continue
        if isinstance(task, TokenTask) and name not in UNCERTAIN:
            for row in range(7):
                assert dict(task.solve(batch.inputs[row].tolist())) == expected(batch, row)
        score = task.score(task.oracle(batch), batch)
        assert score == pytest.approx(1, abs=1e-6) or name == "in_context_regression"


@pytest.mark.parametrize("name", sorted(FOUND))
def test_no_problem_is_in_both_splits(name):
    task = make(name)
    train = [task.batch(64, split="train", seed=seed, number=n).inputs for seed in range(2) for n in range(2)]
    test = [task.batch(64, split="test", seed=seed).inputs for seed in range(2)]
    seen = {row.numpy().tobytes() for row in torch.cat(train)}
    asked = {row.numpy().tobytes() for row in torch.cat(test)}
    assert not seen & asked
    assert len(asked) > 16


@pytest.mark.parametrize("name", sorted(FOUND))
def test_the_same_arguments_give_the_same_problems_and_others_give_others(name):
    task = make(name)
    first, again = task.batch(5, seed=1, number=2), make(name).batch(5, seed=1, number=2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for other in (task.batch(5, seed=2, number=2), task.batch(5, seed=1, number=3)):
        assert not torch.equal(first.inputs, other.inputs)


@pytest.mark.parametrize("name", sorted(FOUND))
def test_a_length_that_it_cannot_have_is_refused_in_a_sentence(name):
    task = make(name)
    with pytest.raises(ValueError, match=r"length|pixels"):
        task.batch(2, task.shortest - 1)
    nearest = task.nearest_length(task.length)
    assert nearest == task.length


@pytest.mark.parametrize("name", sorted(set(FOUND) - {"nth_farthest"}))
def test_guessing_scores_what_chance_says(name):
    """The score of one answer that is always the same, or of random ones, is about chance where answers are even."""
    task = make(name)
    uneven = {"stack_manipulation", "binary_addition", "binary_multiplication", "listops", "modular_arithmetic"}
    uneven |= {"modular_arithmetic_brackets", "solve_equation", "compute_sqrt", "dyck", "cross_serial_dependencies"}
    uneven |= {"associative_treecall"}  # its own test says what guessing is worth
    if not isinstance(task, TokenTask) or name in uneven | UNCERTAIN:
        return
    batch = task.batch(400, split="test", seed=1)
    answers, counts = batch.targets[batch.scored].unique(return_counts=True)
    assert len(answers) == task.answers
    commonest = counts.max().item() / counts.sum().item()
    assert commonest == pytest.approx(task.chance, abs=0.09)


def test_the_test_split_has_its_share():
    inputs = torch.randint(3, (20000, 11), generator=torch.Generator().manual_seed(0))
    assert in_test(inputs).double().mean().item() == pytest.approx(1 / TEST_SHARE, abs=0.01)
    numbers = torch.rand(20000, 3, 2, generator=torch.Generator().manual_seed(0))
    assert in_test(numbers).double().mean().item() == pytest.approx(1 / TEST_SHARE, abs=0.01)


def test_the_split_follows_from_the_problem_alone():
    inputs = torch.randint(9, (50, 7))
    assert torch.equal(in_test(inputs), torch.cat([in_test(row[None]) for row in inputs]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(split="valid"), "split is train or test; got 'valid'"),
        (dict(number=-1), "number at least 0"),
        (dict(size=0), "size is at least 1"),
    ],
)
def test_batches_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make("copying").batch(**{"size": 2, **arguments})


def test_a_split_without_problems_is_an_error_not_a_hang():
    class Same(FOUND["t_maze"]):
        def draw(self, size, length, generator):
            batch = super().draw(size, length, generator)
            return batch._replace(inputs=torch.zeros_like(batch.inputs))

    (empty,) = {"train", "test"} - {"test" if in_test(Same().draw(1, 9, torch.Generator()).inputs) else "train"}
    with pytest.raises(ValueError, match=f"too few different problems of length 9 for a {empty} split"):
        Same().batch(2, 9, split=empty)


def test_loss_and_score_count_scored_places_only():
    task = make("copying")
    batch = task.batch(3)
    right = task.oracle(batch) * 20
    wrong = right.roll(1, -1)
    mixed = torch.where(batch.scored[..., None], right, wrong)
    assert task.score(mixed, batch) == 1
    assert task.loss(mixed, batch).item() < 1e-6 < task.loss(wrong, batch).item()
    assert task.score(wrong, batch) == 0
