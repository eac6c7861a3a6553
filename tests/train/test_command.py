"""`ostinato train` as a user meets it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ostinato
from ostinato.cli.__main__ import main
from ostinato.runs import Run

SMALL = "--dim 16 --layers 1 --batch-size 2 --length 16 --set train.evaluate_tokens=99 --set train.tensorboard=false"
SMALL += " --set train.checkpoint_every=2 --set train.threads=1"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*words):
    return main(["train", *" ".join(map(str, words)).split()])


def test_train_and_try_it(text, capfd):
    assert command("--data", text, SMALL, "--steps 3 --mixer gla --mixer min_gru") == 0
    shown = capfd.readouterr()
    assert "runs/gla-min_gru-dim16 is trained (3 steps)" in shown.out
    assert "bits per byte" in shown.out
    assert 'ostinato generate runs/gla-min_gru-dim16 --prompt "The "' in shown.out
    assert "step 3/3  loss" in shown.err
    assert "tokens/s  ETA 0:00" in shown.err
    run = Run.open("runs/gla-min_gru-dim16")
    assert run.config["model"]["pattern"] == ["gla", "min_gru"]


def test_the_same_command_again_does_nothing_and_says_so(text, capfd):
    words = ("--data", text, SMALL, "--steps 2 --out run")
    assert command(*words) == 0
    capfd.readouterr()
    assert command(*words) == 0
    shown = capfd.readouterr()
    assert "run is trained (2 steps)" in shown.out
    assert "step 1" not in shown.err
    assert command("--resume run") == 0
    assert command(*words, "--no-resume") == 2
    assert "run holds a run already" in capfd.readouterr().err
    assert command(*words, "--lr 0.5") == 2
    assert "(train.learning_rate is 0.003, now 0.5)" in capfd.readouterr().err


def test_a_config_file_with_flags(text, here):
    (here / "config.yaml").write_text(
        f"data: {{paths: {text}}}\nmodel: {{params: 9k, layers: 1}}\ntrain: {{steps: 50}}\n"
    )
    words = [*SMALL.replace("--dim 16", "").split(), "--tokens", "100", "--out", "run", "--mixer", "{gla: {heads: 2}}"]
    assert main(["train", "config.yaml", *words]) == 0
    config = Run.open("run").config
    assert config["model"]["pattern"] == [{"gla": {"heads": 2}}]
    assert config["model"]["dim"] == 16
    assert config["train"]["steps"] == 4  # of 2 * 16 tokens


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--mixer glaa", "there is no 'glaa' in ostinato (did you mean gla"),
        ("--params lots", "model.params: a whole number of at least 1; got 'lots'"),
        ("--params 1M --dim 8", "model: dim and params say the same in two ways; got both"),
        ("--steps 5 --tokens 5", "train: steps or tokens says how long to train; got both"),
        ("--data nowhere", "no file or folder 'nowhere'"),
        ("nothing.yaml", "no config file nothing.yaml"),
        ("--set train.clip", "--set takes SECTION.KEY=VALUE"),
        ("--resume nothing", "no run folder nothing"),
        ("--resume nothing --steps 5", "--resume continues a run with its own settings; leave the others out"),
        ("--lr fast", "Invalid value for '--lr'"),
        ("--optimizer sgd", "train.optimizer: one of adamw, muon, lamb, nt_asgd; got 'sgd'"),
    ],
)
def test_what_is_wrong_is_one_line(words, message, capfd, here):
    assert command(words) == 2
    shown = capfd.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert not (here / "runs").exists()


def test_ctrl_c_says_how_to_go_on(text, capfd, monkeypatch):
    from ostinato.train.loop import Trainer

    save = Trainer.save

    def interrupted(self, step):
        save(self, step)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save", interrupted)
        assert command("--data", text, SMALL, "--steps 5 --out run") == 130
    assert "ostinato train --resume run" in capfd.readouterr().out
    assert Run.open("run").newest().step == 2
    assert command("--resume run") == 0
    assert Run.open("run").newest().step == 5


def test_help_needs_no_torch():
    code = "import sys; from ostinato.cli.__main__ import main; main(['train', '--help']); sys.exit('torch' in sys.modules)"
    home = str(Path(ostinato.__file__).parents[1])
    arguments = [sys.executable, "-c", code]
    shown = subprocess.run(arguments, capture_output=True, text=True, timeout=60, env=os.environ | {"PYTHONPATH": home})
    assert shown.returncode == 0, shown.stderr
    assert "--params" in shown.stdout
