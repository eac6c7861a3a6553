"""Rows that go on with the state handed on, lengths that vary, averaged weights: AWD-LSTM from a config."""

import pytest
import torch
from torch.testing import assert_close

from ostinato.cli.__main__ import main
from ostinato.data import Corpus, Streams
from ostinato.runs import Run
from ostinato.train import Config, train
from ostinato.train.loop import Trainer
from tests.train.test_resume import Stop

AWD = {"name": "awd_lstm", "dim": 6, "hidden": 9, "layers": 2}
AVERAGED = {
    "optimizer": "nt_asgd",
    "learning_rate": 3.0,
    "schedule": "constant",
    "patience": 1,
    "evaluate_every": 1,
    "stream": True,
    "vary_length": True,
}


@pytest.fixture
def awd(config):
    """awd(steps=5): a small config of AWD-LSTM, instead of one of the usual language model."""

    def make(**settings):
        return config(**{**AVERAGED, **settings}) | {"model": AWD}

    return make


@pytest.mark.parametrize("stops", [(5,), (3, 8)], ids=str)
def test_a_stopped_run_continues_while_it_averages(awd, tmp_path, same, stops):
    values = awd(steps=12, learning_rate=60.0)
    for at in stops:
        with pytest.raises(KeyboardInterrupt):
            train(values, tmp_path / "run", callbacks=[Stop(at)])
    run = train(None, tmp_path / "run")
    same(run, train(values, tmp_path / "other"))
    rates = {line["learning_rate"] for line in run.metrics() if "learning_rate" in line}
    assert len(rates) > 3, "the rate is that of the length"


def test_what_is_used_is_the_average(awd, tmp_path, monkeypatch):
    """The weights of the last checkpoint are a running mean of those since averaging began, and were validated so."""
    from ostinato.train.nt_asgd import NTASGD

    seen, usual = [], NTASGD.step

    def step(self, closure=None):
        usual(self)
        if self.averages:
            seen.append(self.param_groups[0]["params"][0].detach().clone())

    monkeypatch.setattr(NTASGD, "step", step)
    run = train(awd(steps=14, learning_rate=100.0), tmp_path / "run")
    assert len(seen) > 2
    mean, weights = torch.stack(seen).mean(0), run.model().state_dict()
    assert any(w.shape == mean.shape and torch.allclose(w, mean, atol=1e-5) for w in weights.values())
    assert not any(w.shape == mean.shape and torch.equal(w, seen[-1]) for w in weights.values())


def test_rows_go_on_with_the_state(config, tmp_path, monkeypatch):
    """What a row's model remembers at the end is what one reading of all its text gives, with weights that stay."""
    trainers = []
    usual = Trainer.__init__
    monkeypatch.setattr(Trainer, "__init__", lambda self, *rest: [usual(self, *rest), trainers.append(self)][0])
    run = train(config(stream=True, steps=3, learning_rate=1e-12, warmup=0, weight_decay=0.0), tmp_path / "run")
    corpus = Corpus.open(run.info["corpus"]["folder"])
    batch, _ = Streams(corpus.train, 3, 3 * 17)()
    _, state = run.model()(batch.tokens[:, :-1], None, batch.reset[:, :-1])
    assert_close(trainers[0].memory, state, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("lengths", [(7, 7, 7, 7, 7, 7), (5, 9, 1, 12, 8, 7)], ids=str)
def test_a_row_is_the_text_from_its_part_on(config, tmp_path, lengths):
    corpus = Corpus.open(train(config(steps=1), tmp_path / "run").info["corpus"]["folder"])
    supply, position, parts = Streams(corpus.train, 2, 7, rank=1, world=2), None, []
    for length in lengths:
        batch, position = supply(position, length)
        assert batch.tokens.shape == batch.reset.shape == (2, length + 1)
        if parts:
            assert torch.equal(batch.tokens[:, 0], parts[-1].tokens[:, -1])
            assert torch.equal(batch.reset[:, 0], parts[-1].reset[:, -1])
        parts.append(batch)
    assert position == sum(lengths)
    whole, _ = Streams(corpus.train, 4, sum(lengths))()
    for joined, expected in zip(zip(*[(p.tokens[:, :-1], p.reset[:, :-1]) for p in parts]), whole):
        assert torch.equal(torch.cat(joined, 1), expected[2:, :-1])
    assert supply.epoch(len(corpus.train) // 4) == pytest.approx(1, abs=0.01)


def test_after_its_share_a_store_was_read_once(config, tmp_path):
    corpus = Corpus.open(train(config(steps=1), tmp_path / "run").info["corpus"]["folder"])
    size = len(corpus.train)
    batch, _ = Streams(corpus.train, 2, size // 2)()
    read = batch.tokens[:, :-1].flatten().bincount(minlength=256)
    everything = torch.from_numpy(corpus.train.tokens.astype("int64")).bincount(minlength=256)
    assert (everything - read).abs().sum() == size % 2


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"train": {"vary_length": True}}, "train.vary_length: lengths vary where each row goes on"),
        ({"train": {"optimizer": "nt_asgd", "evaluate_every": None}}, "train.optimizer: nt_asgd averages when"),
        ({"train": {"stream": True}, "model": {"mixer": "attention"}}, "train.stream: the state of this model grows"),
        ({"model": {**AWD, "pattern": ["gla"]}}, "model.pattern: no such key; model has dim, hidden, layers"),
        ({"model": {**AWD, "drop_weight": 0.1}}, "model.drop_weight: no such key (did you mean drop_weights"),
        ({"model": {**AWD, "drop_weights": 1.0}}, "model: drop_weights is the share that is dropped"),
        ({"model": {"name": "hdt", "dim": 8}}, "model.name: hdt sees the whole sequence, so it cannot learn"),
        ({"model": {"name": "awd_lstn"}}, "model.name: there is no model 'awd_lstn' (did you mean awd_lstm"),
    ],
    ids=str,
)
def test_what_cannot_be_is_said(section, message):
    with pytest.raises(ValueError, match=r"\S") as caught:
        Config.read(section).resolve(50)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "model", [AWD, {"name": "sha_rnn", "dim": 8, "layers": 2, "window": 9, "expansion": 2}], ids=str
)
def test_a_model_of_its_own_is_trained_evaluated_and_continued_from_the_command_line(tmp_path, text, capsys, model):
    import yaml

    values = {
        "model": model,
        "data": {"paths": [str(text)], "tokenizer": "words"},
        "train": {**AVERAGED, "steps": 4, "batch_size": 2, "length": 9, "threads": 1, "tensorboard": False},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    folder = str(tmp_path / "run")
    assert main(["train", str(tmp_path / "config.yaml"), "--out", folder]) == 0
    run = Run.open(folder)
    assert type(run.model()).__name__ in ("AWDLSTM", "SHARNN")
    assert run.config["model"]["name"] == model["name"]
    assert Config.read(run.config) == Config.read(run.config).resolve(run.tokenizer().vocab_size)
    assert main(["generate", folder, "--prompt", "the cat", "--tokens", "5"]) == 0
    capsys.readouterr()
    assert main(["train", "--resume", folder]) == 0
    assert "validation:" in capsys.readouterr().out


def test_a_budget_picks_the_width_of_a_model_of_its_own():
    config = Config.read({"model": {"name": "awd_lstm", "params": "100k", "layers": 2}}).resolve(100)
    built = ostinato_parameters(config.model)
    assert abs(built - 100_000) < 15_000
    assert config.model["name"] == "awd_lstm"
    assert config.model["hidden"] is None


def ostinato_parameters(model):
    from ostinato.models.budget import parameter_count

    return parameter_count(100, **model)
