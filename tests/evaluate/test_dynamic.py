"""Dynamic evaluation: its two rules by hand, what it leaves alone, and what it is for."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import ostinato
from ostinato.data import TokenStore
from ostinato.data.tokenizer import ByteTokenizer
from ostinato.evaluate.dynamic import dynamic_evaluation, dynamic_score, mean_squares
from ostinato.evaluate.dynamic_of_run import evaluate_run_dynamically
from ostinato.evaluate.of_run import evaluate_run
from ostinato.train import train


def made(vocab_size=7, **arguments):
    torch.manual_seed(0)
    given = dict(vocab_size=vocab_size, dim=6, layers=1, pattern="gru", mlp=None)
    return ostinato.create("model:language_model", **(given | arguments))


def by_hand(model, tokens, rate, decay, piece, squares=None):
    """The equations, one piece after the other, on a copy of the model."""
    own = made().double()
    own.load_state_dict(model.state_dict())
    named = dict(own.named_parameters())
    origin = {name: p.detach().clone() for name, p in named.items()}
    mean = None if squares is None else torch.cat([s.sqrt().flatten() for s in squares.values()]).mean()
    losses, state = [], None
    for begin in range(0, tokens.shape[1] - 1, piece):
        inputs = tokens[:, begin : begin + piece][:, : tokens.shape[1] - 1 - begin]
        targets = tokens[:, begin + 1 : begin + piece + 1]
        logits, state = own(inputs, state)
        found = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        losses.append(found.detach().view(targets.shape))
        gradients = torch.autograd.grad(found.mean(), list(named.values()))
        with torch.no_grad():
            for (name, p), g in zip(named.items(), gradients):
                if squares is None:
                    p.copy_(p - rate * g + decay * (origin[name] - p))
                else:
                    root = squares[name].sqrt()
                    back = torch.clamp(decay * root / mean, max=1)
                    p.copy_(p - rate * g / (root + 1e-5) + back * (origin[name] - p))
        state = ostinato.state.detach(state)
    return torch.cat(losses, 1)


def test_without_a_rate_it_is_the_model():
    model, tokens = made(), torch.randint(7, (2, 33))
    reset = torch.zeros(2, 33, dtype=torch.bool)
    reset[1, 9] = True
    with torch.no_grad():
        expected = model.loss(tokens, reset, reduction="none")
    assert_close(dynamic_evaluation(model, tokens, rate=0.0, piece=7, reset=reset), expected)


@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_the_rules_are_those_of_the_paper(rms, decay):
    model = made().double()
    tokens = torch.randint(7, (2, 25))
    squares = mean_squares(model, [(torch.randint(7, (2, 12)), None) for _ in range(3)]) if rms else None
    rate = 0.01 if rms else 0.5
    found = dynamic_evaluation(model, tokens, rate=rate, decay=decay, piece=6, squares=squares)
    assert_close(found, by_hand(model, tokens, rate, decay, 6, squares), check_dtype=False)


def test_mean_squares_are_those_of_gradients():
    model, batches = made(), [(torch.randint(7, (2, 12)), None) for _ in range(3)]
    found = mean_squares(model, batches)
    expected = torch.zeros(18, 6)
    for tokens, _ in batches:
        model.zero_grad()
        model.loss(tokens).backward()
        expected += model.stack.blocks[0].mixer.project_in.weight.grad.square() / 3
    assert_close(found["stack.layers.0.mixer.project_in.weight"], expected)
    with pytest.raises(ValueError, match="needs at least one batch"):
        mean_squares(model, [])


def test_the_model_is_left_as_it_was_found():
    model = made().train()
    model.head.weight.requires_grad_(False)
    model.loss(torch.randint(7, (1, 9))).backward()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    gradients = {name: p.grad for name, p in model.named_parameters()}
    dynamic_evaluation(model, torch.randint(7, (1, 30)), rate=0.5)
    for name, p in model.named_parameters():
        assert (p == before[name]).all()
        assert p.grad is gradients[name]
    assert model.training
    assert not model.head.weight.requires_grad


def test_a_fresh_model_learns_a_text_that_repeats_itself():
    """And forgets it again where it goes back to where it began."""
    model = made()
    tokens = torch.tensor([[0, 3, 1, 5, 2, 6, 4, 1] * 40])
    static, dynamic, held = (
        dynamic_evaluation(model, tokens, rate=rate, decay=decay, piece=5)[0, -80:].mean().item()
        for rate, decay in ((0.0, 0.0), (0.3, 0.0), (0.3, 0.2))
    )
    assert static > 1.8
    assert dynamic < 0.5
    assert dynamic < held < static


def test_a_store_is_read_as_one_stream():
    model = made(vocab_size=256)
    text = np.frombuffer(b"abcabcabd" * 12, np.uint8)
    store, tokenizer = TokenStore(text.astype(np.int64), np.array([0, 50])), ByteTokenizer()
    found = dynamic_score(model, store, tokenizer, rate=0.5, piece=10)
    reset = torch.zeros(1, 108, dtype=torch.bool)
    reset[0, [0, 50]] = True
    losses = dynamic_evaluation(model, torch.from_numpy(text.astype(np.int64))[None], rate=0.5, piece=10, reset=reset)
    assert found.tokens == found.bytes == 106
    assert_close(found.loss, losses.sum().item() / 106)
    assert_close(found.bits_per_byte, found.loss / np.log(2))
    assert dynamic_score(model, store, tokenizer, rate=0.5, max_tokens=30).tokens == 29


def test_refused_with_a_sentence():
    model, tokens = made(), torch.zeros(1, 5, dtype=torch.long)
    with pytest.raises(ValueError, match="decay from 0 to 1"):
        dynamic_evaluation(model, tokens, rate=0.1, decay=2.0)
    with pytest.raises(ValueError, match="squares are those of another model; they differ in x"):
        dynamic_evaluation(
            model, tokens, rate=0.1, squares={**mean_squares(model, [(tokens, None)]), "x": torch.zeros(1)}
        )


@pytest.mark.parametrize("rule", ["sgd", "rms"])
def test_a_run_predicts_better_while_it_learns(rule, tmp_path, monkeypatch):
    """Trained on one text, judged on another that repeats itself."""
    monkeypatch.setenv("OSTINATO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 100)
    (tmp_path / "other.txt").write_text("zebras jump quickly over vexed wolves, " * 40)
    settings = dict(steps=12, batch_size=2, length=24, tensorboard=False, device="cpu", evaluate_tokens=100)
    model = {"dim": 16, "layers": 1, "pattern": ["gru"], "mlp": None}
    run = train({"model": model, "data": {"paths": [str(tmp_path / "text.txt")]}, "train": settings}, tmp_path / "run")
    options = dict(rule=rule, piece=10, batches=8, decay=0.0, rate=0.2 if rule == "sgd" else 1e-3)
    found = evaluate_run_dynamically(run, tmp_path / "other.txt", max_tokens=1000, **options)
    assert found["static"]["tokens"] == found["dynamic"]["tokens"] == 999
    assert found["dynamic"]["bits_per_byte"] < 0.9 * found["static"]["bits_per_byte"]
    usual = evaluate_run(run, tmp_path / "other.txt", [24], max_tokens=999)
    assert_close(found["static"]["loss"], usual["overall"]["loss"], rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="rule is sgd or rms"):
        evaluate_run_dynamically(run, rule="adam")
