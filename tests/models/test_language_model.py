"""The language model: its loss, its patterns, and what it refuses."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

import ostinato
from ostinato.layers.losses import chunked_cross_entropy


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ostinato.LanguageModel(vocab_size=17, dim=16, layers=2, pattern=["min_gru"])


def tokens_of(batch=2, length=20):
    return torch.randint(17, (batch, length), generator=torch.Generator().manual_seed(1))


def test_loss_is_the_cross_entropy_of_each_next_token(model):
    tokens = tokens_of()
    logits, _ = model(tokens[:, :-1])
    assert_close(model.loss(tokens), cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))


def test_first_tokens_of_documents_are_not_predicted(model):
    tokens, reset = tokens_of(), torch.zeros(2, 20, dtype=torch.bool)
    reset[:, [0, 7]] = True
    losses = model.loss(tokens, reset, reduction="none")
    assert losses.shape == (2, 19)
    assert (losses[:, 6] == 0).all()
    assert_close(losses[:, :6], model.loss(tokens[:, :7], reduction="none"))
    assert_close(losses[:, 7:], model.loss(tokens[:, 7:], reduction="none"))
    assert_close(model.loss(tokens, reset), losses.sum() / 36)


def test_loss_continues_from_a_state(model):
    tokens = tokens_of()
    _, state = model(tokens[:, :10])
    whole = model.loss(tokens, reduction="none")
    assert_close(model.loss(tokens[:, 10:], state=state, reduction="none"), whole[:, 10:])


def test_a_fresh_model_knows_nothing(model):
    assert_close(model.loss(tokens_of(8, 60)).item(), math.log(17), atol=0.05, rtol=0)


@pytest.mark.parametrize("largest", [1, 17 * 3, 10**9])
def test_loss_in_pieces_is_the_loss(largest):
    torch.manual_seed(0)
    hidden, weight = torch.randn(3, 7, 5, requires_grad=True), torch.randn(17, 5, requires_grad=True)
    targets = torch.randint(17, (3, 7))
    targets[0, 2] = -100
    loss = chunked_cross_entropy(hidden, weight, targets, largest=largest)
    expected = cross_entropy((hidden @ weight.T).flatten(0, 1), targets.flatten())
    assert_close(loss, expected)
    assert_close(torch.autograd.grad(loss, [hidden, weight]), torch.autograd.grad(expected, [hidden, weight]))


def test_a_large_vocabulary_never_costs_all_its_logits():
    """No tensor that autograd keeps is larger than the pieces that were asked for."""
    hidden, weight = torch.randn(1, 400, 4, requires_grad=True), torch.randn(1000, 4, requires_grad=True)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        chunked_cross_entropy(hidden, weight, torch.randint(1000, (1, 400)), largest=20_000)
    assert max(sizes) <= 20_000
    assert sum(sizes) < 100_000


def test_pattern_repeats_over_the_layers():
    model = ostinato.LanguageModel(17, 16, layers=5, pattern=["min_gru", {"attention": {"window": 3, "heads": 2}}])
    names = [type(layer.mixer).__name__ for layer in model.stack.layers]
    assert names == ["MinGRU", "Attention", "MinGRU", "Attention", "MinGRU"]
    assert model.stack.layers[1].mixer.window == 3


def test_tied_weights_are_counted_once():
    tied, free = (ostinato.LanguageModel(17, 16, layers=1, pattern="min_gru", tie=tie) for tie in (True, False))
    assert free.parameter_count() - tied.parameter_count() == 17 * 16
    assert tied.head.weight is tied.embedding.weight


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(pattern=["glaa"]), r"no 'glaa' in ostinato \(did you mean gla"),
        (dict(pattern=[{"gla": {"head": 2}}]), r"mixer:gla has no argument 'head' \(did you mean heads"),
        (dict(pattern=[{"gla": 3}]), "arguments of gla are written as"),
        (dict(pattern=[{"gla": {}, "mamba": {}}]), "an element of pattern is a name or"),
        (dict(pattern=[]), "at least one mixer"),
        (
            dict(pattern="gla", mlp="swigl"),
            "mlp is one of swiglu, geglu, gelu, gelu_tanh, relu, experts or null; got 'swigl'",
        ),
        (dict(pattern="gla", layers=0), "layers is the number of blocks, at least 1; got 0"),
        (dict(pattern=[{"gla": {"heads": 3}}]), "16 is no multiple of heads=3"),
        (dict(pattern=["min_gru", "bidirectional"]), "causal or it is not"),
    ],
)
def test_what_cannot_be_built_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ostinato.LanguageModel(17, 16, **{"layers": 2, **arguments})


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(2, 3), "reads integers"),
        (torch.zeros(3, dtype=torch.long), "reads integers"),
        (torch.full((1, 3), 17), "tokens are 0 to 16; got 17 to 17"),
        (torch.full((1, 3), -1), "tokens are 0 to 16; got -1 to -1"),
        (torch.zeros(0, 3, dtype=torch.long), "neither of them 0"),
    ],
)
def test_what_cannot_be_read_is_refused(model, tokens, message):
    with pytest.raises(ValueError, match=message):
        model(tokens)


def test_one_token_has_no_next():
    model = ostinato.LanguageModel(17, 16, layers=1, pattern="min_gru")
    with pytest.raises(ValueError, match="at least 2 tokens"):
        model.loss(torch.zeros(1, 1, dtype=torch.long))
