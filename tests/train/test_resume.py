"""A run that was stopped ends as one that was not: the same weights, bit for bit, and the same metrics."""

import os
import random
import signal
import time

import pytest

from ostinato.runs import Run
from ostinato.train import Callback, train

STEPS = 60


class Stop(Callback):
    """Raises after a step, as Ctrl-C would."""

    def __init__(self, at):
        self.at = at

    def step(self, step):
        if step == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "settings", [{}, {"optimizer": "muon", "accumulate": 2, "log_every": 3, "evaluate_every": 3}], ids=str
)
@pytest.mark.parametrize("stops", [(1,), (3,), (4, 5)], ids=str)
def test_a_stopped_run_continues(config, tmp_path, same, settings, stops):
    values = config(steps=7, **settings)
    for at in stops:
        with pytest.raises(KeyboardInterrupt):
            train(values, tmp_path / "run", callbacks=[Stop(at)])
    run = train(None, tmp_path / "run")
    same(run, train(values, tmp_path / "other"))
    seconds = [line["seconds"] for line in run.metrics() if "seconds" in line]
    assert seconds == sorted(seconds)


def test_a_mixer_that_draws_random_numbers_continues(config, tmp_path, same):
    """Dropout depends on the step and not on what was drawn before."""
    values = config(model={"pattern": ["noisy"]}, steps=5)
    register_noisy()
    with pytest.raises(KeyboardInterrupt):
        train(values, tmp_path / "run", callbacks=[Stop(3)])
    run = train(values, tmp_path / "run")
    same(run, train(values, tmp_path / "other"))
    forget_noisy()


def register_noisy():
    from torch.nn.functional import dropout

    from ostinato.mixers.linear_recurrence.gla import GLA
    from ostinato.registry import register

    class Noisy(GLA):
        def mix(self, x, state, reset):
            y, state = super().mix(x, state, reset)
            return dropout(y, 0.3, self.training), state

    register("noisy")(Noisy)


def forget_noisy():
    from ostinato.registry import forget

    forget("mixer:noisy")


def test_a_damaged_checkpoint_costs_time_and_nothing_else(config, tmp_path, same, caplog):
    values = config(steps=7)
    with pytest.raises(KeyboardInterrupt):
        train(values, tmp_path / "run", callbacks=[Stop(5)])
    newest = Run.open(tmp_path / "run").checkpoints()[-1]
    assert newest.step == 4
    (newest.folder / "optimizer.safetensors").write_bytes(b"torn")
    run = train(values, tmp_path / "run")
    assert "optimizer.safetensors is not what was written" in caplog.text
    same(run, train(values, tmp_path / "other"))


def test_a_finished_run_is_left_as_it_is(config, tmp_path):
    run = train(config(), tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    watch = Stop(1)
    train(config(), tmp_path / "run", callbacks=[watch])
    assert {
        path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.name != ".lock"
    }.items() <= before.items()


def test_other_settings_are_refused_and_named(config, tmp_path):
    train(config(), tmp_path / "run")
    with pytest.raises(
        ValueError, match=r"holds a run with other settings; name another folder \(train.steps is 6, now 9\)"
    ):
        train(config(steps=9), tmp_path / "run")
    with pytest.raises(ValueError, match=r"\(model.layers is 1, now 2; train.seed is 0, now 1\)"):
        train(config(model={"layers": 2}, seed=1), tmp_path / "run")
    with pytest.raises(ValueError, match="holds a run already; name another folder, or let it be continued"):
        train(config(), tmp_path / "run", resume=False)
    with pytest.raises(FileNotFoundError, match="no run folder"):
        train(None, tmp_path / "nothing")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("...")
    with pytest.raises(ValueError, match="holds something else already"):
        train(config(), tmp_path / "mine")


def test_the_data_is_that_of_the_beginning(config, tmp_path, same, monkeypatch):
    """The cache may go; what was read may not have changed then."""
    import shutil

    notes = tmp_path / "notes.txt"
    notes.write_text("all work and no play. " * 90)
    values = config(data={"paths": [str(notes)]})
    other = train(values, tmp_path / "other")
    for folder in ("again", "changed"):
        monkeypatch.setenv("OSTINATO_CACHE", str(tmp_path / "cache"))
        with pytest.raises(KeyboardInterrupt):
            train(values, tmp_path / folder, callbacks=[Stop(3)])
        shutil.rmtree(tmp_path / "cache")
        if folder == "again":
            same(train(values, tmp_path / folder), other)
            shutil.rmtree(tmp_path / "cache")
        else:
            notes.write_text("all play and no work. " * 90)
            with pytest.raises(ValueError, match="has changed since that run began"):
                train(values, tmp_path / folder)


def command(folder, config_file, cache, die_at=None):
    """In a process of its own: the command line, killed by itself when a file is flushed or renamed for the nth time."""
    os.environ["OSTINATO_CACHE"] = cache
    from ostinato.cli.__main__ import main

    if die_at is not None:
        moments = 0

        def dying(function):
            def call(*arguments, **keywords):
                nonlocal moments
                moments += 1
                if moments == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **keywords)

            return call

        for name in ("fsync", "replace", "rename"):
            setattr(os, name, dying(getattr(os, name)))
    raise SystemExit(main(["train", config_file, "--out", folder]))


@pytest.fixture
def start(processes, config, cache, tmp_path):
    """start(die_at): train tmp_path/run in another process."""
    import yaml

    values = config(steps=STEPS, length=33, checkpoint_every=3)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))

    def begin(die_at=None):
        arguments = (str(tmp_path / "run"), str(tmp_path / "config.yaml"), str(cache), die_at)
        process = processes.Process(target=command, args=arguments)
        process.start()
        return process

    begin.values = values
    return begin


def test_killed_twice_at_random_moments(start, tmp_path, same):
    moments = random.Random(os.getpid())
    for kill in range(2):
        process = start()
        give_up = time.monotonic() + 60
        # some way into the run, further at the second time
        while len(lines(tmp_path / "run")) < 15 + 20 * kill and process.is_alive() and time.monotonic() < give_up:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it was over before it could be killed"
        assert len(lines(tmp_path / "run")) < STEPS
    last = start()
    last.join()
    assert last.exitcode == 0
    same(Run.open(tmp_path / "run"), train(start.values, tmp_path / "other"))


def test_killed_at_every_moment_of_writing(start, tmp_path, same):
    """Each process dies at a later moment: making the run, flushing metrics, filling, naming, removing checkpoints."""
    died_at = 0
    while True:
        died_at += 1 + died_at // 12
        process = start(died_at)
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert died_at > 40
    run = Run.open(tmp_path / "run")
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [STEPS - 3, STEPS]
    assert not [path for path in run.folder.rglob(".*") if path.name != ".lock"], "half-written things are cleared away"
    same(run, train(start.values, tmp_path / "other"))


def lines(folder):
    """Of training, in the metrics of a run that perhaps is not there yet."""
    return [line for line in Run(folder).metrics() if "loss" in line]
