"""Programs mean what they say, and compiled networks say the same."""

import math

import pytest
import torch
from torch.nn.functional import one_hot
from torch.testing import assert_close

from ostinato.analyze.lsrl import (
    both,
    concat,
    function_lookup,
    interpret,
    linear,
    multiply,
    order,
    relu,
    state,
    step,
    token,
    token_lookup,
    where,
)
from ostinato.analyze.lsrl_compiler import lsrl_compiler
from ostinato.mixers.nonlinear_rnn.gru import GRU
from ostinato.mixers.nonlinear_rnn.lstm import LSTM
from ostinato.mixers.nonlinear_rnn.rnn import RNN
from ostinato.tasks.prompted_function import PromptedFunctionLookup

EXACT, NEARLY = ("rnn", "linear"), ("lstm", "gru")
VOCABULARY = 7


def problems(length=14, size=20, split="test"):
    task = PromptedFunctionLookup(length, vocabulary=VOCABULARY)
    return task, task.batch(size, split=split)


def table(cells=8, rows=5):
    """Arguments and cells of a function of one number, in any order: dyadic, so that sums have no rounding."""
    torch.manual_seed(0)
    left, values = torch.arange(cells) / cells, torch.randint(-8, 9, (cells,)) / 4
    x = torch.zeros(rows, cells + 1, 2, dtype=torch.float64)
    x[:, 0, 0] = torch.randint(cells * 16, (rows,)) / (cells * 16)
    for row in x:
        shuffled = torch.randperm(cells)
        row[1:] = torch.stack([left[shuffled], values[shuffled]], 1)
    return x, values[(x[:, 0, 0] * cells).long()].double()


def test_programs_by_hand():
    x = torch.tensor([[[1.0, -2.0], [0.5, 3.0], [-4.0, 1.0]]], dtype=torch.float64)
    a = token(2)
    assert interpret(2 * a - 1, x)[0].tolist() == [[1, -5], [0, 5], [-9, 1]]
    assert interpret(relu(a), x)[0].tolist() == [[1, 0], [0.5, 3], [0, 1]]
    assert interpret(a[1], x)[0].tolist() == [[-2], [3], [1]]
    assert interpret(multiply(a[0], a), x)[0].tolist() == [[1, -2], [0.25, 1.5], [16, -4]]
    assert interpret(state(a), x)[0].tolist() == [[1, -2], [1.5, 1], [-2.5, 2]]
    assert interpret(state(a, [[0, 1], [1, 0]]), x)[0].tolist() == [[1, -2], [-1.5, 4], [0, -0.5]]
    assert interpret(concat(a, 1 - a[0]), x)[0].tolist() == [[1, -2, 0], [0.5, 3, 0.5], [-4, 1, 5]]
    steps = interpret(step(token(1), 4.0), torch.tensor([[[-1.0], [-0.25], [-0.125], [0.0], [2.0]]]))
    assert steps.flatten().tolist() == [0, 0, 0.5, 1, 1]


@pytest.mark.parametrize("gated", [False, True])
def test_functions_are_looked_up(gated):
    task, batch = problems()
    answers = interpret(token_lookup(VOCABULARY, gated=gated), one_hot(batch.inputs, VOCABULARY))
    assert task.score(answers, batch) == 1
    assert_close(answers[:, -1].float(), one_hot(batch.targets[:, -1], VOCABULARY).float(), rtol=0, atol=0)
    x, values = table()
    assert_close(interpret(function_lookup(1 / 8, sharpness=1024.0, gated=gated), x)[:, -1, 0], values, rtol=0, atol=0)


@pytest.mark.parametrize("target", EXACT)
@pytest.mark.parametrize("gated", [False, True])
def test_compiled_networks_say_exactly_what_the_interpreter_says(target, gated):
    if target == "rnn" and gated:
        with pytest.raises(ValueError, match="an rnn with relu does not multiply"):
            lsrl_compiler(token_lookup(VOCABULARY, gated=True), "rnn")
        return
    task, batch = problems()
    x = one_hot(batch.inputs, VOCABULARY).double()
    program = token_lookup(VOCABULARY, gated=gated)
    y, _ = lsrl_compiler(program, target)(x)
    assert torch.equal(y, interpret(program, x))
    assert task.score(y, batch) == 1
    x, _ = table()
    program = function_lookup(1 / 8, sharpness=1024.0, gated=gated)
    assert torch.equal(lsrl_compiler(program, target)(x)[0], interpret(program, x))


@pytest.mark.parametrize("target", NEARLY)
@pytest.mark.parametrize("gated", [False, True])
def test_gated_cells_say_nearly_what_the_interpreter_says(target, gated):
    task, batch = problems()
    x = one_hot(batch.inputs, VOCABULARY).double()
    program = token_lookup(VOCABULARY, gated=gated)
    y, _ = lsrl_compiler(program, target)(x)
    assert_close(y, interpret(program, x), rtol=0, atol=2e-6 if gated else 2e-8)
    assert task.score(y, batch) == 1
    x, _ = table()
    program = function_lookup(1 / 8, sharpness=128.0, bound=2.0, gated=gated)
    assert_close(lsrl_compiler(program, target)(x)[0], interpret(program, x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("target", [*EXACT, *NEARLY])
def test_random_programs(target):
    """Graphs of all operations, with states that turn and shrink, over numbers of no grid."""
    generator = torch.Generator().manual_seed(1)

    def matrix(rows, columns):
        return torch.randn(rows, columns, generator=generator) / math.sqrt(2 * columns)

    for width in (1, 3):
        x = token(width)
        a = state(relu(linear(x, matrix(4, width), [0.5, -0.5, 0.0, 1.0])), matrix(4, 4), matrix(4, 4))
        b = state(concat(a, x), matrix(4 + width, 4 + width) * 0.5)
        c = relu(linear(b, matrix(4, 4 + width))) + a
        if target != "rnn":
            c = multiply(c, relu(a) - 1) + multiply(x[0], c)
        program = concat(both(c[0], c[1]), where(step(x[0], 2.0), c, 4.0))
        read = torch.randn(3, 9, width, generator=generator, dtype=torch.float64)
        expected = interpret(program, read)
        assert expected.std() > 0.1
        tolerance = 1e-12 if target in EXACT else 3e-6
        assert_close(lsrl_compiler(program, target)(read)[0], expected, rtol=tolerance, atol=tolerance)


def test_they_are_made_of_the_mixers_of_this_library():
    program = token_lookup(VOCABULARY)
    for target, kind in (("rnn", RNN), ("lstm", LSTM), ("gru", GRU)):
        levels = lsrl_compiler(program, target).levels
        assert len(levels) > 3
        assert all(type(level) is kind for level in levels)


@pytest.mark.parametrize("target", [*EXACT, *NEARLY])
def test_compiled_networks_obey_the_contract(target):
    """Pieces, packed documents, float64 throughout."""
    _, batch = problems()
    x = one_hot(batch.inputs, VOCABULARY).double()
    network = lsrl_compiler(token_lookup(VOCABULARY), target)
    whole, last = network(x)
    first, middle = network(x[:, :6])
    second, after = network(x[:, 6:], middle)
    assert_close(torch.cat([first, second], 1), whole)
    assert_close(after, last)
    packed, reset = torch.cat([x[:10], x[10:]], 1), torch.zeros(10, 2 * x.shape[1], dtype=torch.bool)
    reset[:, [0, x.shape[1]]] = True
    assert_close(network(packed, None, reset)[0], torch.cat([whole[:10], whole[10:]], 1))


def test_noise_in_the_weights_hurts_less_where_conditions_multiply():
    """The paper's comparison, at a noise of one percent of each weight, over twelve draws."""
    _, batch = problems(size=64)
    x = one_hot(batch.inputs, VOCABULARY).double()

    def mean_error(gated, sigma):
        program, errors = token_lookup(VOCABULARY, gated=gated), []
        for seed in range(12):
            network, generator = lsrl_compiler(program, "linear"), torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for weight in network.parameters():
                    weight.mul_(1 + sigma * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
                errors.append((network(x)[0] - interpret(program, x))[:, -1].abs().mean().item())
        return sum(errors) / len(errors)

    sums, products = (mean_error(gated, 0.01) for gated in (False, True))
    assert products < 0.7 * sums
    assert mean_error(True, 0.001) < 0.2 * products
    assert mean_error(True, 0.0) == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: lsrl_compiler(relu(token(1)), "lstn"), "target is one of rnn, lstm, gru, linear \\(did you mean lstm"),
        (lambda: linear(token(2), [[1.0]]), "A has a column for each of the 2 numbers that it reads; got \\(1, 1\\)"),
        (lambda: linear(token(1), [[1.0]], [1.0, 2.0]), "b has a number for each of the 1 rows of A; got \\(2,\\)"),
        (lambda: state(token(2), [[1.0]]), "A is 2 by 2, as wide as B x; got \\(1, 1\\)"),
        (lambda: token(2) + token(3), "vectors of one width are added; got 2 and 3"),
        (lambda: multiply(token(2), token(3)), "vectors of one width are multiplied; got 2 and 3"),
        (lambda: order(token(1) + token(1)), "a program reads one token; this one has 2"),
        (
            lambda: PromptedFunctionLookup(3),
            "prompted_function_lookup has even lengths, up to 32 with 16 tokens; got 3",
        ),
        (
            lambda: PromptedFunctionLookup(vocabulary=1),
            "vocabulary is the number of different tokens, at least 2; got 1",
        ),
    ],
)
def test_what_is_no_program_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_a_program_without_memory_or_levels():
    x = torch.randn(2, 3, 2, dtype=torch.float64)
    for program in (relu(token(2)), state(token(2)) * 2.0):
        for target in EXACT:
            assert_close(lsrl_compiler(program, target)(x)[0], interpret(program, x))
    program = 2 * token(2) + 1
    assert_close(lsrl_compiler(program)(x)[0], interpret(program, x))
