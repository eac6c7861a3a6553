"""Lists of nouns that come twice: what surprisal says of who remembers them, and of who remembers their kind."""

import math

import pytest
import torch
from torch.nn.functional import one_hot

from ostinato.registry import create


def make(**arguments):
    return create("task:verbatim_recall", length=7, items=4, nouns=30, kinds=3, **arguments)


def test_a_list_by_hand():
    task = make()
    colon, stop = 50, 51
    row = [31, 32, 33, 34, colon, 3, 9, 27, 4, stop, 40, 41, 42, 43, 44, 45, 46, colon, 3, 9, 27]
    assert task.solve(row) == {17: 3, 18: 9, 19: 27, 20: 4}
    assert task.batch(3).inputs.shape == (3, len(row))


def lists(batch):
    return batch.inputs[:, 5:9], batch.targets[:, -4:]


@pytest.mark.parametrize("second", ["repeated", "permuted", "novel"])
@pytest.mark.parametrize("coherent", [False, True])
def test_second_lists_are_what_they_are_called(second, coherent):
    task = make(second=second, coherent=coherent)
    first, again = lists(task.batch(200))
    common = (first[:, :, None] == again[:, None]).sum((1, 2))
    assert (common == (0 if second == "novel" else 4)).all()
    assert torch.equal(first, again) == (second == "repeated")
    kinds = torch.cat([first, again], 1) % 3
    assert bool((kinds == kinds[:, :1]).all()) == coherent


def test_surprisal_of_a_copier_of_one_who_knows_nothing_and_of_one_who_knows_the_gist():
    task = make(coherent=True)
    batch = task.batch(50)
    nothing = torch.zeros(*batch.inputs.shape, task.vocab_size)
    first, again = task.surprisal(nothing, batch)
    assert first.shape == again.shape == (50, 4)
    torch.testing.assert_close(first, torch.full_like(first, math.log(task.vocab_size)))
    torch.testing.assert_close(first, again)
    assert task.surprisal(100 * task.oracle(batch), batch)[1].max() < 1e-6
    kind = batch.targets[:, -1:] % 3
    gist = torch.where(torch.arange(task.vocab_size) % 3 == kind, 0.0, -torch.inf)
    gist[:, 30:] = -torch.inf
    surprisal = task.surprisal(gist[:, None].expand_as(nothing), batch)[1]
    torch.testing.assert_close(surprisal, torch.full_like(surprisal, math.log(10)))


def test_surprisal_is_of_the_tokens_in_their_places():
    task = make()
    batch = task.batch(20)
    whole = torch.cat([batch.inputs, batch.targets[:, -1:]], 1)
    sure = 100.0 * one_hot(whole[:, 1:], task.vocab_size)
    assert max(float(part.max()) for part in task.surprisal(sure, batch)) < 1e-6


def test_lists_that_have_no_room_are_refused():
    with pytest.raises(ValueError, match="got 6 items, 30 nouns of 3 kinds"):
        create("task:verbatim_recall", items=6, nouns=30, kinds=3, coherent=True)
    with pytest.raises(ValueError, match="second is one of repeated, permuted, novel"):
        make(second="other")
    with pytest.raises(NotImplementedError, match="which noun is next in a novel list"):
        make(second="novel").solve([1, 2])
