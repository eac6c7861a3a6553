"""Decoding against the whole forward pass, rows against rows alone, and continuation from any state."""

import pytest
import torch
from torch.testing import assert_close

from ostinato import LanguageModel
from ostinato import state as states
from ostinato.generate import Sampler, prefill, stream
from tests.generate.conftest import small_model

GREEDY = Sampler(temperature=0)


def prompt(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(256, (length,), generator=generator).tolist() for length in lengths]


def tokens(steps):
    return torch.stack([token for token, _ in steps], 1)


def test_each_token_is_the_likeliest_after_all_before_it(model):
    start = torch.tensor(prompt(13, 13))
    added = tokens(stream(model, start, 12, GREEDY))
    whole = torch.cat([start, added], 1)
    likeliest = model(whole[:, :-1])[0].argmax(-1)
    assert torch.equal(added, likeliest[:, 12:])
    assert len(added.unique()) > 3, "a test of argmax needs tokens that differ"


@pytest.mark.parametrize("chunk", [1, 5, 12, 13, 1024])
def test_a_prompt_may_be_read_in_chunks(model, chunk):
    start = torch.tensor(prompt(13))
    assert torch.equal(tokens(stream(model, start, 8, GREEDY, chunk=chunk)), tokens(stream(model, start, 8, GREEDY)))


@pytest.mark.parametrize("sampler", [GREEDY, Sampler(seed=3), Sampler(0.8, top_k=40, top_p=0.9, min_p=0.01, seed=1)])
def test_rows_of_unequal_length_are_as_alone(model, sampler):
    prompts = prompt(9, 1, 14, 2)
    together = tokens(stream(model, prompts, 10, sampler))
    for row, start in enumerate(prompts):
        alone = Sampler(sampler.temperature, sampler.top_k, sampler.top_p, sampler.min_p, sampler.seed + row)
        assert torch.equal(together[row : row + 1], tokens(stream(model, [start], 10, alone)))
    assert len({tuple(row) for row in together.tolist()}) == 4


@pytest.mark.parametrize("sampler", [GREEDY, Sampler(seed=3)])
def test_any_state_continues_bit_for_bit(model, sampler):
    steps = list(stream(model, prompt(7, 3), 20, sampler))
    token, state = steps[7]
    again = list(stream(model, token[:, None], 12, sampler, state, drawn=8))
    assert torch.equal(tokens(again), tokens(steps[8:]))
    assert_close(list(states.leaves(again[-1][1])), list(states.leaves(steps[-1][1])), rtol=0, atol=0)


def test_a_state_is_not_changed_by_going_on(model):
    steps = stream(model, prompt(7), 5, GREEDY)
    _, state = next(steps)
    before = states.clone(state)
    list(steps)
    assert_close(list(states.leaves(state)), list(states.leaves(before)), rtol=0, atol=0)


def test_the_state_of_a_prompt_continues_it(model):
    start = torch.tensor(prompt(9, 9))
    state = prefill(model, start[:, :6], chunk=4)
    assert torch.equal(tokens(stream(model, start[:, 6:], 8, GREEDY, state)), tokens(stream(model, start, 8, GREEDY)))
    assert_close(list(states.leaves(state)), list(states.leaves(model(start[:, :6])[1])))


def test_a_state_can_be_cloned_to_learn_from(model):
    _, state = next(stream(model, prompt(7), 1, GREEDY))
    model.loss(torch.tensor(prompt(5)), state=states.clone(state)).backward()
    assert model.embedding.weight.grad.abs().sum() > 0


def test_the_same_seed_gives_the_same_tokens():
    model, start = small_model(), prompt(5)
    one, same, other = (tokens(stream(model, start, 20, Sampler(seed=seed))) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_model_in_training_is_used_without_dropout_and_goes_back():
    model = small_model()
    model.norm = torch.nn.Sequential(model.norm, torch.nn.Dropout(0.9)).eval()
    expected = tokens(stream(model, prompt(5), 6, GREEDY))
    model.train()
    steps = stream(model, prompt(5), 6, GREEDY)
    first, _ = next(steps)
    assert model.training
    assert torch.equal(torch.cat([first[:, None], tokens(steps)], 1), expected)
    assert model.norm[1].training


def test_tokens_come_as_they_are_made():
    steps = stream(small_model(), prompt(5), 10**9, GREEDY)
    assert next(steps)[0].shape == (1,)


def test_no_steps_give_no_tokens():
    assert list(stream(small_model(), prompt(5), 0, GREEDY)) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(prompts=[]), "at least 1 prompt"),
        (dict(prompts=[[]]), "at least 1 token"),
        (dict(prompts=torch.zeros(2, 0, dtype=torch.long)), "at least 1 token"),
        (dict(prompts=[[1, 2], []]), "at least 1 token"),
        (dict(prompts=[[0.5]]), "are integers; got torch.float32"),
        (dict(prompts=[1, 2]), "a sequence of at least 1 token"),
        (dict(prompts=[[3, 256]]), "tokens are 0 to 255; got"),
        (dict(prompts=[[3, -1, 2]]), "tokens are 0 to 255; got"),
        (dict(steps=-1), "at least 0; got -1"),
        (dict(drawn=-1), "at least 0; got"),
        (dict(chunk=0), "at least 1; got 0"),
        (dict(state=()), "continues from a LanguageModelState; got a tuple"),
        (dict(prompts=[[1, 2], [3]], state=()), "unequal length"),
    ],
)
def test_what_cannot_be_continued_is_refused(arguments, message):
    defaults = dict(prompts=[[1, 2, 3]], steps=4, sampler=GREEDY)
    with pytest.raises(ValueError, match=message):
        list(stream(small_model(), **defaults | arguments))


def test_a_state_of_other_rows_is_refused():
    model = small_model()
    state = prefill(model, torch.tensor(prompt(4, 4)))
    with pytest.raises(ValueError, match="holds 2 sequences and x 1"):
        list(stream(model, prompt(3), 1, GREEDY, state))


def test_a_model_that_sees_everything_cannot_continue():
    from ostinato.registry import find

    find("wrapper:bidirectional")
    model = LanguageModel(11, 8, layers=1, pattern=[{"bidirectional": {"mixer": "gla"}}])
    with pytest.raises(ValueError, match="causal model"):
        list(stream(model, [[1, 2]], 1, GREEDY))
