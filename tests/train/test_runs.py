"""The run folder: what is refused, what is kept, and how damage is found."""

import json

import pytest
import torch

from ostinato.data import load_tokenizer
from ostinato.runs import Run
from ostinato.train import train


@pytest.fixture
def run(config, tmp_path):
    return train(config(), tmp_path / "run")


def test_a_run_holds_all_that_is_needed_to_use_it(run):
    assert sorted(path.name for path in run.folder.iterdir() if path.name[0] != ".") == [
        "checkpoints",
        "config.yaml",
        "info.json",
        "metrics.jsonl",
        "tokenizer",
    ]
    again = Run.open(run.folder)
    assert again.config["model"]["dim"] == 16
    assert again.tokenizer().vocab_size == again.info["vocab_size"] == 256
    model = again.model()
    assert not model.training
    assert model.parameter_count() == again.info["parameters"]
    assert model(torch.tensor([[1, 2, 3]]))[0].shape == (1, 3, 256)


def test_the_last_checkpoints_are_kept(run, config, tmp_path):
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [4, 6]
    assert run.newest().step == 6
    assert not torch.equal(run.model(4).embedding.weight, run.model().embedding.weight)
    with pytest.raises(ValueError, match="has no checkpoint of step 2; it has 4, 6"):
        run.model(2)
    more = train(config(steps=7, keep=3), tmp_path / "more")
    assert [checkpoint.step for checkpoint in more.checkpoints()] == [4, 6, 7]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "model.safetensors is not what was written"),
        (lambda folder: (folder / "optimizer.safetensors").unlink(), "optimizer.safetensors is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json cannot be read"),
        (lambda folder: flip(folder / "state.json"), "state.json is not what was written"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_and_said_so(run, caplog, damage, message):
    newest = run.checkpoints()[-1]
    damage(newest.folder)
    assert run.newest().step == 4
    assert f"{newest.folder} is damaged and passed over: {message}" in caplog.text
    with pytest.raises(ValueError, match=message):
        run.model(6)
    assert torch.equal(run.model().embedding.weight, run.model(4).embedding.weight)


def flip(path):
    """One bit."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_what_is_no_run_is_refused(tmp_path, run):
    with pytest.raises(FileNotFoundError, match="no run folder"):
        Run.open(tmp_path / "nothing")
    with pytest.raises(
        ValueError, match=r"is no run folder: `ostinato train` writes config.yaml into one; there is one in .*run"
    ):
        Run.open(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is no run folder"):
        Run.open(tmp_path / "empty")
    (run.folder / "config.yaml").write_text("model: [")
    with pytest.raises(ValueError, match="is not the config of a run"):
        _ = Run.open(run.folder).config


def test_a_folder_that_holds_something_is_not_taken(tmp_path, run):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    for folder, what in ((tmp_path / "notes", "something else"), (run.folder, "a run")):
        with pytest.raises(ValueError, match=f"holds {what} already; name a new folder"):
            Run.create(folder, {"model": {}}, load_tokenizer("bytes"))
    (tmp_path / "empty").mkdir()
    assert Run.create(tmp_path / "empty", {"model": {}}, load_tokenizer("bytes")).metrics() == []
    with pytest.raises(ValueError, match="has no checkpoint yet"):
        Run(tmp_path / "empty").model()


def test_a_line_that_is_being_written_is_not_read(run):
    before = run.metrics()
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "lo')
    assert run.metrics() == before
    run.rewind(6)
    assert (run.folder / "metrics.jsonl").read_text().splitlines() == [json.dumps(line) for line in before]


def test_numbers_that_are_not_finite_are_null(run):
    run.add_metrics({"step": 9, "loss": float("nan"), "perplexity": float("inf"), "tokens": 3})
    assert run.metrics()[-1] == {"step": 9, "loss": None, "perplexity": None, "tokens": 3}


def test_only_one_process_writes(run):
    with run.locked(), pytest.raises(ValueError, match="another process is training in"), Run(run.folder).locked():
        pass
    with run.locked():
        pass
