"""BIG LSTM: words read from characters, told by a softmax that looks at some of them; against torch and closed forms."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

import ostinato
from ostinato.layers.char_cnn import spelled
from ostinato.layers.losses import IGNORED
from ostinato.models.sampled_softmax import draw_log_uniform, log_uniform
from ostinato.train import train

WORDS = ["the", "of", "chat", "chats", "théâtre", "a", "chat"]


def made(name, **arguments):
    torch.manual_seed(0)
    return ostinato.create(name, **arguments).double()


def char_cnn(**arguments):
    given = dict(dim=5, vocab_size=7, words=WORDS, filters=[[1, 3], [2, 4], [6, 2]], characters=4)
    return made("embedding:char_cnn", **(given | arguments))


class TestCharCNN:
    def test_it_equals_a_loop_over_words_filters_and_places(self):
        model = char_cnn()
        expected = []
        for word in WORDS:
            letters = [1, *(byte + 3 for byte in word.encode()), 2]
            x = model.characters.weight[letters]
            x = torch.cat([x, x.new_zeros(9, 4)])
            found = []
            for (width, number), filters in zip([(1, 3), (2, 4), (6, 2)], model.filters):
                for j in range(number):
                    heard = [
                        (x[t : t + width].T * filters.weight[j]).sum() + filters.bias[j] for t in range(len(letters))
                    ]
                    found.append(max(max(heard), torch.zeros((), dtype=torch.float64)))
            y = torch.stack(found)
            for highway in model.highways:
                W, b = highway.project.weight, highway.project.bias
                t = (W[9:] @ y + b[9:]).sigmoid()
                y = t * (W[:9] @ y + b[:9]).relu() + (1 - t) * y
            expected.append(model.project_out.weight @ y + model.project_out.bias)
        assert_close(model(torch.arange(7)), torch.stack(expected))

    def test_words_that_are_spelled_alike_are_alike(self):
        y = char_cnn()(torch.tensor([[2, 6], [3, 2]]))
        assert_close(y[0, 0], y[0, 1], rtol=0, atol=0)
        assert not torch.allclose(y[0, 0], y[1, 0])

    def test_room_for_longer_words_changes_nothing(self):
        short, long = char_cnn(longest=11), char_cnn(longest=50)
        assert_close(short(torch.arange(7)), long(torch.arange(7)))
        cut = char_cnn(longest=6)(torch.arange(7))
        assert_close(cut[2], cut[3], msg="of chats only chat is read")

    def test_what_is_learned_of_no_character_is_not_heard(self):
        model = char_cnn()
        before = model(torch.arange(7))
        with torch.no_grad():
            model.characters.weight[0] = 9.0
        assert_close(model(torch.arange(7)), before)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (dict(words=["a"]), "each of 7 words is spelled; got 1"),
            (dict(filters=[[0, 3]]), "pairs of a width and a number"),
            (dict(longest=2), "longest at least 3"),
        ],
    )
    def test_refused_with_a_sentence(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            char_cnn(**arguments)


class TestSampledSoftmax:
    def head(self, samples, V=7):
        head = made("head:sampled_softmax", dim=4, vocab_size=V, samples=samples)
        with torch.no_grad():
            head.weight.mul_(10)
            head.bias.normal_()
        return head.train()

    def test_log_uniform_is_a_distribution_that_draws_follow(self):
        q = log_uniform(7, torch.arange(7)).exp()
        assert_close(q.sum().item(), 1.0)
        assert_close(q[0].item(), math.log(2) / math.log(8))
        torch.manual_seed(0)
        drawn = draw_log_uniform(7, 100_000).bincount(minlength=7) / 100_000
        assert_close(drawn, q.float(), rtol=0, atol=5e-3)

    def test_the_sum_is_unbiased_for_a_single_draw(self):
        """Every possible draw, weighted by its probability: the mean of exp(loss) is that of the softmax."""
        head, x, targets = self.head(1), torch.randn(3, 4, dtype=torch.float64), torch.tensor([0, 3, 6])
        q = log_uniform(7, torch.arange(7)).exp()
        found = sum(q[s] * head.sampled(x, targets, torch.tensor([s])).exp() for s in range(7))
        assert_close(found, cross_entropy(head(x), targets, reduction="none").exp())

    def test_a_draw_that_is_the_target_does_not_count(self):
        head, x, targets = self.head(2), torch.randn(2, 4, dtype=torch.float64), torch.tensor([3, 5])
        losses = head.sampled(x, targets, torch.tensor([3, 3]))
        assert losses[0] == 0, "nothing is left to be told apart from"
        assert losses[1] > 0

    def test_the_gradient_goes_to_that_of_the_softmax(self):
        head, x, targets = self.head(1), torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 6, 2, 2, IGNORED])

        def gradients(loss):
            return torch.cat([part.flatten() for part in torch.autograd.grad(loss, [head.weight, head.bias])])

        exact = gradients(cross_entropy(head(x), targets, ignore_index=IGNORED))
        errors = []
        for samples in (2, 20, 200):
            torch.manual_seed(1)
            draws = [draw_log_uniform(7, samples) for _ in range(100)]
            mean = sum(gradients(head.sampled(x, targets, each).sum() / 4) for each in draws) / 100
            errors.append(((mean - exact).norm() / exact.norm()).item())
        assert errors[0] > 3 * errors[1] > 9 * errors[2]
        assert errors[2] < 0.02

    def test_exact_outside_of_training_and_for_small_vocabularies(self):
        head, x = self.head(3), torch.randn(2, 3, 4, dtype=torch.float64)
        targets = torch.tensor([[0, 6, IGNORED], [2, 2, 1]])
        expected = cross_entropy(head(x).flatten(0, 1), targets.flatten(), reduction="none").view(2, 3)
        head.eval()
        assert_close(head.loss(x, targets, "none"), expected, check_dtype=False)
        assert_close(head.loss(x, targets), expected.sum() / 5, check_dtype=False)
        assert_close(self.head(7).loss(x, targets, "sum"), expected.sum(), check_dtype=False)
        assert self.head(3).loss(x, targets, "none")[0, 2] == 0
        with pytest.raises(ValueError, match="reduction is mean, sum or none"):
            head.loss(x, targets, "max")


def test_char_softmax_is_a_softmax_over_what_a_char_cnn_says_and_a_correction():
    head = made("head:char_softmax", dim=5, vocab_size=7, words=WORDS, correction=2, samples=3, filters=[[2, 4]])
    x = torch.randn(3, 5, dtype=torch.float64)
    words = torch.arange(7)
    assert_close(head(x), x @ head.cnn(words).T + head.bias)
    assert (head(x)[:, 2] == head(x)[:, 6]).all(), "a fresh one tells words apart by their spelling only"
    with torch.no_grad():
        head.correction.weight.normal_()
    corrected = head.cnn(words) + head.correction.weight @ head.project_correction.weight.T
    assert_close(head(x), x @ corrected.T + head.bias)
    assert (head(x)[:, 2] != head(x)[:, 6]).all()
    with torch.no_grad():
        assert head.vectors() is head.vectors(), "kept while nothing is learned"
        head.project_correction.weight.mul_(2)
        assert_close(head.vectors(), 2 * corrected - head.cnn(words), msg="and made again after that")
    targets = torch.tensor([1, 2, 6])
    assert_close(head.train().sampled(x, targets, words[:3]), head.sampled(x, targets, words[:3].flip(0)))
    head.loss(x, targets).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def big_lstm(**arguments):
    return made("model:big_lstm", **(dict(vocab_size=11, dim=5, hidden=9, drop=0.0) | arguments))


def test_it_is_a_stack_of_torch_lstms_with_projections():
    model = big_lstm().eval()
    tokens = torch.randint(11, (2, 20))
    x = model.embedding.weight[tokens]
    for layer in model.stack.lstms:
        other = nn.LSTM(5, 9, proj_size=5, batch_first=True).double()
        with torch.no_grad():
            other.weight_ih_l0.copy_(layer.project_in.weight)
            other.weight_hh_l0.copy_(layer.recurrent[0].T)
            other.weight_hr_l0.copy_(layer.project_out.weight)
            other.bias_ih_l0.copy_(layer.project_in.bias)
            other.bias_hh_l0.zero_()
        x = other(x)[0]
    assert_close(model(tokens)[0], x @ model.head.weight.T + model.head.bias)


def test_the_loss_samples_in_training_only():
    model = big_lstm(vocab_size=40, head={"sampled_softmax": {"samples": 4}})
    tokens = torch.randint(40, (2, 20))
    exact = cross_entropy(model(tokens[:, :-1])[0].flatten(0, 1), tokens[:, 1:].flatten())
    assert_close(model.eval().loss(tokens), exact, check_dtype=False)
    model.train()
    assert model.loss(tokens) != model.loss(tokens)


def test_a_projection_needs_fewer_parameters_for_the_same_width():
    wide, narrow = big_lstm(dim=32, hidden=32, layers=1), big_lstm(dim=8, hidden=32, layers=1)
    assert narrow.stack.lstms[0].hidden == wide.stack.lstms[0].hidden
    # 4 K (2 D + 1) + K D against 4 K (2 K + 1)
    assert sum(p.numel() for p in narrow.stack.parameters()) == 4 * 32 * 17 + 32 * 8
    assert sum(p.numel() for p in wide.stack.parameters()) == 4 * 32 * 65


def test_words_learned_from_characters_carry_over_to_words_never_read():
    """A word is followed by <one> or, with an s at its end, by <many>: stems not read in training obey, from characters."""
    stems = [a + b for a in "bdfgklmnprtvz" for b in "aeiou"]
    words = ["<one>", "<many>", *stems, *(stem + "s" for stem in stems)]
    held, seen = ([i for i in range(len(stems)) if (i % 7 == 0) == kept] for kept in (True, False))

    def pairs(numbers):
        one = torch.tensor([[2 + i, 0] for i in numbers])
        return torch.cat([one, torch.tensor([[2 + len(stems) + i, 1] for i in numbers])])

    def accuracy(embedding):
        torch.manual_seed(0)
        model = ostinato.create(
            "model:big_lstm", vocab_size=len(words), dim=8, hidden=16, layers=1, drop=0.0, embedding=embedding
        )
        with torch.no_grad():
            model.head.bias[2:] = -5.0  # only these two follow a word
        optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
        for _ in range(70):
            optimizer.zero_grad()
            loss = model.loss(pairs(seen))
            loss.backward()
            optimizer.step()
        assert loss.item() < 0.1, "what is read in training is learned"
        text = pairs(held)
        logits, _ = model(text[:, :1])
        return (logits[:, 0, :2].argmax(-1) == text[:, 1]).double().mean().item()

    assert accuracy({"char_cnn": {"words": words, "filters": [[1, 8], [2, 16]]}}) == 1.0
    assert accuracy("table") < 0.8


def test_in_a_run_words_are_spelled_as_the_tokenizer_spells_them(tmp_path, monkeypatch):
    monkeypatch.setenv("OSTINATO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("the cat sat on the mat\n" * 60)
    model = {
        "name": "big_lstm",
        "dim": 4,
        "hidden": 6,
        "embedding": "char_cnn",
        "head": {"char_softmax": {"correction": 2, "samples": 3}},
    }
    config = {
        "model": model,
        "data": {"paths": [str(tmp_path / "text.txt")], "tokenizer": "words"},
        "train": {"steps": 2, "batch_size": 2, "length": 8, "tensorboard": False, "device": "cpu"},
    }
    run = train(config, tmp_path / "run")
    trained, words = run.model(), run.tokenizer().pieces
    assert b" cat" in words
    assert (trained.embedding.spelling == spelled(words, 50)).all()
    assert (trained.head.cnn.spelling == trained.embedding.spelling).all()
