"""What training does to a model: it learns, in any precision and with any optimizer, and says where it broke."""

import math

import pytest
import torch

from ostinato import LanguageModel, create
from ostinato.contract import Mixer
from ostinato.registry import forget, register
from ostinato.runs import Run
from ostinato.train import Callback, NotFiniteError, train
from ostinato.train.diagnose import diagnose


def losses(run):
    return [line["loss"] for line in run.metrics() if "loss" in line]


@pytest.mark.parametrize(
    "settings",
    [
        dict(optimizer="adamw"),
        dict(optimizer="muon", schedule="wsd"),
        dict(optimizer="adamw", precision="bf16", schedule="constant", clip=None),
        dict(optimizer="muon", accumulate=2, schedule="noam", weight_decay=0),
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_a_text_with_a_rule_is_learned(config, tmp_path, settings):
    values = config(steps=150, length=32, batch_size=4, learning_rate=1e-2, checkpoint_every=150, **settings)
    run = train(values, tmp_path / "run")
    found = losses(run)
    assert math.log(256) - 0.1 < found[0] < math.log(256) + 0.1  # a fresh model knows nothing
    assert found[-1] < 1.2
    assert run.metrics()[-1]["valid_bits_per_byte"] < 1.8
    assert all(parameter.dtype == torch.float32 for parameter in run.model().parameters())


def test_the_precision_and_the_optimizer_are_what_was_asked_for(config, tmp_path):
    runs = {
        name: train(config(**settings), tmp_path / name)
        for name, settings in {"plain": {}, "bf16": {"precision": "bf16"}, "muon": {"optimizer": "muon"}}.items()
    }
    plain, bf16, muon = (losses(run) for run in runs.values())
    assert plain[0] == muon[0] != bf16[0]
    assert bf16 == pytest.approx(plain, abs=0.02)
    assert plain[-1] != muon[-1]


def test_accumulated_gradients_are_those_of_the_large_batch(config, tmp_path):
    large = train(config(batch_size=6, steps=4), tmp_path / "large")
    small = train(config(batch_size=2, accumulate=3, steps=4), tmp_path / "small")
    assert losses(small) == pytest.approx(losses(large), rel=1e-6)
    # AdamW divides by the size of the gradient, so where that is nothing but rounding the steps may differ
    for name, weight in large.model().named_parameters():
        torch.testing.assert_close(small.model().get_parameter(name), weight, rtol=0, atol=1e-4)


def test_the_first_step_is_what_torch_would_do(config, tmp_path):
    """One update by hand: seeded model, mean loss, clipped gradient, learning rate of the warmup."""
    from ostinato.data import Batches
    from ostinato.train.begin import corpus_of

    run = train(config(steps=1, clip=0.5, learning_rate=0.01, warmup=1, seed=3), tmp_path / "run")
    torch.manual_seed(3)
    model = LanguageModel(256, **run.config["model"])
    batch, _ = Batches(corpus_of(run).train, 3, 17, seed=3)()
    loss = model.loss(*batch)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    plain = [p for p in model.parameters() if p.ndim < 2 or p is model.embedding.weight]
    rest = [p for p in model.parameters() if p.ndim >= 2 and p is not model.embedding.weight]
    groups = [dict(params=rest, weight_decay=0.1), dict(params=plain, weight_decay=0.0)]
    torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95)).step()
    line = run.metrics()[0]
    assert line["loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert line["gradient_norm"] == pytest.approx(norm.item(), rel=1e-5)
    assert line["learning_rate"] == 0.01
    for name, weight in model.named_parameters():
        torch.testing.assert_close(run.model().get_parameter(name), weight, rtol=0, atol=1e-5)


def test_random_numbers_of_the_caller_stay(config, tmp_path):
    torch.manual_seed(1)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    train(config(steps=1), tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_the_seed_decides(config, tmp_path, same):
    runs = [train(config(seed=seed, steps=3), tmp_path / str(i)) for i, seed in enumerate((0, 0, 1))]
    same(runs[0], runs[1])
    with pytest.raises(AssertionError):
        same(runs[0], runs[2])


class Breaks(Mixer):
    """Passes its input through a gain, and breaks when a token that only its rule knows is read.

    dim: width
    """

    examples = ({"dim": 8},)

    def __init__(self, dim: int):
        super().__init__(dim)
        self.gain = torch.nn.Linear(dim, dim)
        self.calls = 0

    def initial_state(self, batch):
        return (torch.zeros(batch, 1, **self.state_like),)

    def state_bytes(self, tokens):
        return 4

    def mix(self, x, state, reset):
        y = self.gain(x)
        self.calls += self.training
        return (torch.log(y * 0 - 1) if self.calls >= 4 else y), state


@pytest.fixture
def breaks():
    register("breaks_at_4")(Breaks)
    yield
    forget("mixer:breaks_at_4")


def test_a_loss_that_is_not_a_number_stops_with_the_step_and_the_part(config, tmp_path, breaks):
    values = config(model={"pattern": ["gla", "breaks_at_4"], "layers": 2})
    with pytest.raises(NotFiniteError) as caught:
        train(values, tmp_path / "run")
    message = str(caught.value)
    assert message.startswith("step 4: the loss is nan; first not finite: the output of stack.layers.1.mixer (Breaks)")
    assert "with stack.layers.1.mixer.gain.weight, stack.layers.1.mixer.gain.bias" in message
    assert "the checkpoint of step 2 is kept" in message
    run = Run.open(tmp_path / "run")
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [2]
    assert run.model().embedding.weight.isfinite().all()


def test_what_is_not_finite_is_named():
    torch.manual_seed(0)
    model = LanguageModel(11, 8, layers=2, pattern=[{"gla": {"heads": 2}}])
    tokens = torch.randint(11, (2, 9))
    again = lambda: model.loss(tokens)  # noqa: E731
    again().backward()
    weight = model.stack.layers[1].mlp_norm.weight
    weight.grad[3] = math.inf
    message = diagnose(model, again, 7, 2.5, math.inf)
    assert (
        message
        == "step 7: the loss is 2.5 and its gradient inf; not finite: stack.layers.1.mlp_norm.weight (gradients)"
    )
    weight.grad.zero_()
    assert "their sum of squares is not" in diagnose(model, again, 7, 2.5, math.inf)
    with torch.no_grad():
        weight[0] = math.nan
    message = diagnose(model, again, 7, math.nan, math.nan)
    assert message == "step 7: the loss is nan; not finite: stack.layers.1.mlp_norm.weight (values)"


def test_callbacks_are_told_and_change_nothing(config, tmp_path, same):
    class Watch(Callback):
        def __init__(self):
            self.told = []

        def begin(self, run, step, steps):
            self.told.append(("begin", step, steps))
            torch.rand(5)

        def step(self, step):
            self.told.append(step)

        def metrics(self, line):
            self.told.append("valid" if "valid_loss" in line else "loss")

        def end(self):
            self.told.append("end")

    watch = Watch()
    run = train(config(steps=3, log_every=2, evaluate_every=2), tmp_path / "run", callbacks=[watch])
    assert watch.told == [("begin", 0, 3), 1, 2, "loss", "valid", 3, "loss", "valid", "end"]
    same(run, train(config(steps=3, log_every=2, evaluate_every=2), tmp_path / "other"))


def test_metrics_are_means_over_the_steps_since_the_last_line(config, tmp_path):
    each = losses(train(config(steps=7), tmp_path / "each"))
    some = train(config(steps=7, log_every=3), tmp_path / "some")
    assert losses(some) == pytest.approx([sum(each[:3]) / 3, sum(each[3:6]) / 3, each[6]])
    lines = [line for line in some.metrics() if "loss" in line]
    assert [line["step"] for line in lines] == [3, 6, 7]
    assert [line["tokens"] for line in lines] == [3 * 17 * step for step in (3, 6, 7)]
    passed = [
        (lines[i]["tokens"] - lines[i - 1]["tokens"], lines[i]["seconds"] - lines[i - 1]["seconds"]) for i in (1, 2)
    ]
    assert [line["tokens_per_second"] for line in lines[1:]] == pytest.approx([n / t for n, t in passed], rel=1e-2)


def test_tensorboard_has_the_metrics(config, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(config(steps=2, tensorboard=True), tmp_path / "run")
    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(losses(run))
    assert [event.step for event in events.Scalars("valid/bits_per_byte")] == [2]


def test_mixers_of_other_families_train(config, tmp_path):
    for name in ("attention", "gated_deltanet", "min_gru"):
        found = losses(train(config(model={"pattern": [name]}, steps=5, learning_rate=0.01), tmp_path / name))
        assert found[-1] < found[0]
    assert create("gla", dim=8).dim == 8
