"""The runner against numbers that are known beforehand and against losses computed one by one."""

import json
import math

import numpy as np
import pytest
import torch

from ostinato import LanguageModel
from ostinato.data import ByteTokenizer, TokenStore
from ostinato.evaluate import evaluate, has_bounded_state
from ostinato.evaluate.metrics import position_edges
from ostinato.tasks.next_token import bits_per_byte

ONE_BYTE = np.ones(17, np.int64)


def store_of(*sizes, vocab_size=17, seed=0):
    """Documents of these sizes, of random tokens."""
    generator = np.random.default_rng(seed)
    starts = np.cumsum([0, *sizes[:-1]])
    return TokenStore(generator.integers(vocab_size, size=sum(sizes)).astype(np.uint8), starts)


def small_model(pattern="gla", vocab_size=17, seed=0):
    torch.manual_seed(seed)
    model = LanguageModel(vocab_size, 16, layers=2, pattern=pattern, tie=False).double().eval()
    with torch.no_grad():
        model.embedding.weight.mul_(50)
        model.head.weight.mul_(50)
    return model


class Rigged(torch.nn.Module):
    """Predicts by a rule: the logits of the next token are a function of the token before."""

    causal = True

    def __init__(self, rule, vocab_size=17):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.rule, self.vocab_size = rule, vocab_size

    def state_bytes(self, tokens):
        return 0

    def forward(self, tokens, state=None, reset=None):
        return self.rule(tokens), (torch.zeros(len(tokens)),)


def uniform(tokens):
    return torch.zeros(*tokens.shape, 17, dtype=torch.float64)


def test_a_model_that_knows_nothing_needs_the_log_of_the_vocabulary():
    result = evaluate(Rigged(uniform), store_of(40, 1, 59), ONE_BYTE, [8, 16])
    for part in (result["overall"], *result["lengths"]):
        assert part["bits_per_byte"] == pytest.approx(math.log2(17), rel=1e-7)
        assert part["loss"] == pytest.approx(math.log(17), rel=1e-7)
        assert part["perplexity"] == pytest.approx(17, rel=1e-6)
        assert part["standard_error"] == pytest.approx(0, abs=1e-7)
        assert part["tokens"] == part["bytes"] == 97, "the first token of each of three documents is not predicted"


def test_bytes_are_those_of_the_tokens_that_are_predicted():
    store = store_of(40, 1, 59)
    sizes = np.arange(1, 18)
    result = evaluate(Rigged(uniform), store, sizes, [8])
    expected = int(sizes[np.delete(store.tokens, store.starts)].sum())
    assert result["overall"]["bytes"] == result["lengths"][0]["bytes"] == expected
    assert result["overall"]["bits_per_byte"] == pytest.approx(97 * math.log2(17) / expected, rel=1e-7)
    assert sum(part["bytes"] for part in result["lengths"][0]["by_position"]) == expected


def test_a_model_that_knows_everything_needs_nothing():
    tokens = (np.arange(200) * 3 % 17).astype(np.uint8)
    model = Rigged(lambda tokens: 1e9 * torch.nn.functional.one_hot((tokens + 3) % 17, 17).double())
    result = evaluate(model, TokenStore(tokens, np.array([0])), ONE_BYTE, [8, 64])
    for part in (result["overall"], *result["lengths"]):
        assert (part["loss"], part["bits_per_byte"], part["perplexity"]) == (0, 0, 1)


@pytest.mark.parametrize("sizes", [(301,), (100, 3, 1, 1, 96, 50, 50)], ids=["one document", "many"])
@pytest.mark.parametrize("batch_size", [1, 3, 50])
@pytest.mark.parametrize("pattern", ["gla", "attention"])
def test_losses_by_position_are_those_of_the_model(pattern, batch_size, sizes):
    model, store, length = small_model(pattern), store_of(*sizes), 20
    # a text that divides evenly among the rows, so that it is plain where each window begins
    rows = min(batch_size, 300 // length)
    begins = [row * (300 // rows) + step for row in range(rows) for step in range(0, 300 // rows, length)]
    size_of = dict(
        zip(begins, [min(length, 300 // rows - step) for _ in range(rows) for step in range(0, 300 // rows, length)])
    )
    found: dict[int, list[float]] = {}
    for begin in begins:
        part = store.tokens[begin : begin + size_of[begin] + 1].astype(np.int64)
        reset = np.isin(np.arange(begin, begin + len(part)), store.starts)
        losses = model.loss(torch.from_numpy(part)[None], torch.from_numpy(reset)[None], reduction="none")[0]
        seen = 0
        for t, loss in enumerate(losses.tolist()):
            seen = 1 if reset[t] else seen + 1
            if not reset[t + 1]:
                found.setdefault(seen, []).append(loss)

    result = evaluate(model, store, ONE_BYTE, [length, 10], batch_size=batch_size)["lengths"][0]
    assert [part["last"] for part in result["by_position"]] == [1, 2, 4, 8, 10, 16, 20] == position_edges(20, (10,))
    for part in result["by_position"]:
        losses = [loss for seen in range(part["first"], part["last"] + 1) for loss in found.get(seen, [])]
        assert part["tokens"] == len(losses)
        assert part["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    everything = [loss for losses in found.values() for loss in losses]
    assert result["tokens"] == len(everything) == 301 - len(sizes)
    assert result["loss"] == pytest.approx(np.mean(everything), rel=1e-6)


def test_a_stream_is_the_whole_text_at_once():
    model, store = small_model(), store_of(90, 1, 110)
    whole = torch.from_numpy(store.tokens.astype(np.int64))[None]
    reset = torch.zeros(whole.shape, dtype=torch.bool)
    reset[0, store.starts] = True
    losses = model.loss(whole, reset, reduction="none")[0].detach()
    result = evaluate(model, store, ONE_BYTE, [16], batch_size=1)["overall"]
    assert result["context"] is None
    assert result["tokens"] == 198
    assert result["loss"] == pytest.approx(float(losses.sum()) / 198, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_stream_is_what_training_validates(batch_size):
    tokenizer = ByteTokenizer()
    model, store = small_model(vocab_size=256), store_of(90, 1, 300, vocab_size=256)
    score = bits_per_byte(model, store, tokenizer, batch_size, 32)
    result = evaluate(model, store, tokenizer.token_bytes, [32], batch_size=batch_size)["overall"]
    assert (result["tokens"], result["bytes"]) == (score.tokens, score.bytes)
    assert result["bits_per_byte"] == pytest.approx(score.bits_per_byte, rel=1e-9)
    assert result["perplexity"] == pytest.approx(score.perplexity, rel=1e-9)


def test_a_state_that_grows_is_not_streamed():
    result = evaluate(small_model("attention"), store_of(200), ONE_BYTE, [16, 32])
    at_training_length = result["lengths"][0]
    assert result["overall"]["context"] == 16
    assert result["overall"]["loss"] == at_training_length["loss"]
    assert "by_position" not in result["overall"]


@pytest.mark.parametrize(
    ("pattern", "bounded"),
    [
        ("gla", True),
        ("attention", False),
        ({"attention": {"window": 7}}, True),
        (["gla", "attention"], False),
    ],
    ids=str,
)
def test_which_states_are_bounded(pattern, bounded):
    assert has_bounded_state(small_model(pattern)) is bounded


def test_the_same_tokens_are_predicted_at_each_length():
    result = evaluate(small_model(), store_of(300, 7, 100), ONE_BYTE, [8, 33, 100], max_tokens=350, batch_size=5)
    assert {part["tokens"] for part in (result["overall"], *result["lengths"])} == {350 - 2}


def test_max_tokens_are_the_first_ones():
    model, store = small_model(), store_of(150, 100)
    first = TokenStore(store.tokens[:201], store.starts)
    one = evaluate(model, store, ONE_BYTE, [8], max_tokens=200)["lengths"]
    other = evaluate(model, first, ONE_BYTE, [8])["lengths"]
    assert one[0]["loss"] == other[0]["loss"]
    assert evaluate(model, store, ONE_BYTE, [8], max_tokens=10**9)["overall"]["tokens"] == 248


def test_a_text_too_short_for_a_length_is_reported():
    result = evaluate(small_model(), store_of(65), ONE_BYTE, [8, 64, 65])
    assert "error" not in result["lengths"][1]
    assert result["lengths"][2] == {"length": 65, "error": "the text has 65 tokens, too few for this length"}


def test_a_length_that_a_model_cannot_read_is_reported():
    class Short(torch.nn.Module):
        causal, vocab_size = True, 17

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def state_bytes(self, tokens):
            return 4 * tokens

        def forward(self, tokens, state=None, reset=None):
            place = (0 if state is None else state[0]) + tokens.shape[1]
            if place > 16:
                raise ValueError(f"this model has 16 positions;\n got {place}")
            return uniform(tokens), (place,)

    result = evaluate(Short(), store_of(200), ONE_BYTE, [16, 32])
    assert result["overall"]["bits_per_byte"] == pytest.approx(math.log2(17))
    assert result["lengths"][1] == {"length": 32, "error": "this model has 16 positions; got 32"}


def test_a_model_that_breaks_down_is_reported():
    def rule(tokens):
        return uniform(tokens) + torch.where(torch.arange(tokens.shape[1]) < 20, 0.0, torch.nan)[:, None]

    result = evaluate(Rigged(rule), store_of(200), ONE_BYTE, [16, 32])
    assert result["lengths"][0]["loss"] == pytest.approx(math.log(17))
    assert result["lengths"][1] == {"length": 32, "error": "the loss is not finite"}


def test_documents_of_one_token_are_reported():
    result = evaluate(small_model(), store_of(*[1] * 40), ONE_BYTE, [8])
    assert "single token" in result["lengths"][0]["error"]


def test_results_are_plain_values():
    result = evaluate(small_model(), store_of(200), ONE_BYTE, [16, 500], batch_size=3)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_progress_is_told():
    heard = []
    evaluate(small_model(), store_of(200), ONE_BYTE, [16], progress=lambda name, share: heard.append((name, share)))
    assert [share for name, share in heard if name == "stream"][-1] == 1.0
    assert [share for name, share in heard if name == "length 16"] == sorted(s for n, s in heard if n == "length 16")


def test_the_model_stays_as_it_was():
    model = small_model().train()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    evaluate(model, store_of(100), ONE_BYTE, [16])
    assert model.training
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    model.loss(torch.zeros(1, 5, dtype=torch.long)).backward()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(store=store_of(1)), "a text of 1 token; at least 2"),
        (dict(lengths=[]), "at least one of them"),
        (dict(lengths=[8, 0]), r"got \[8, 0\]"),
        (dict(batch_size=0), "batch_size is at least 1; got 0"),
        (dict(max_tokens=0), "max_tokens is at least 1; got 0"),
        (dict(token_bytes=np.ones(256)), "17 tokens and the tokenizer 256"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, message):
    defaults = dict(model=small_model(), store=store_of(100), token_bytes=ONE_BYTE, lengths=[8])
    with pytest.raises(ValueError, match=message):
        evaluate(**defaults | arguments)


def test_a_model_that_sees_everything_is_refused():
    model = LanguageModel(17, 8, layers=1, pattern=[{"bidirectional": {"mixer": "gla"}}])
    with pytest.raises(ValueError, match="causal model"):
        evaluate(model, store_of(100), ONE_BYTE, [8])
