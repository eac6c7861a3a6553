"""Several processes that train together do what one does with their batches in one."""

import os
import socket

import pytest
import torch

from ostinato.runs import Run
from ostinato.train import Callback, train


class Leave(Callback):
    def step(self, step):
        if step == 3:
            os._exit(7)


def member(rank, port, values, folder, cache, leave):
    """One of two processes, as torchrun or `accelerate launch` would start it."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    for name, value in {**address, "RANK": rank, "LOCAL_RANK": rank, "OSTINATO_CACHE": cache}.items():
        os.environ[name] = str(value)
    train(values, folder, callbacks=[Leave()] if leave else [])
    torch.distributed.destroy_process_group()


@pytest.fixture
def together(processes, cache):
    def start(values, folder, leave=False):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        members = [
            processes.Process(target=member, args=(rank, port, values, str(folder), str(cache), leave))
            for rank in (0, 1)
        ]
        for process in members:
            process.start()
        members[0].join(60)
        for process in members:
            if leave:
                process.kill()  # the others wait for the one that left
            process.join(60)
        return [process.exitcode for process in members]

    return start


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_two_processes_do_what_one_does_with_the_large_batch(config, together, tmp_path, same):
    assert together(config(batch_size=2, accumulate=2), tmp_path / "two") == [0, 0]
    one = train(config(batch_size=8), tmp_path / "one")
    two = Run.open(tmp_path / "two")
    for name, weight in one.model().named_parameters():
        torch.testing.assert_close(two.model().get_parameter(name), weight, rtol=0, atol=1e-4)
    losses = [[line["loss"] for line in run.metrics() if "loss" in line] for run in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)

    assert together(config(batch_size=2, accumulate=2), tmp_path / "stopped", leave=True)[0] == 7
    with pytest.raises(ValueError, match="is trained by 2 processes together; now there are 1"):
        train(None, tmp_path / "stopped")
    assert together(config(batch_size=2, accumulate=2), tmp_path / "stopped") == [0, 0]
    same(Run.open(tmp_path / "stopped"), two)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_two_processes_read_rows_that_go_on(config, together, tmp_path, same):
    """Each has rows of its own and their state, also after it was stopped; both begin to average at the same step."""
    stream = {"stream": True, "vary_length": True, "optimizer": "nt_asgd", "patience": 1, "evaluate_every": 1}
    stream |= {"schedule": "constant", "learning_rate": 20.0}
    model = {"model": {"name": "awd_lstm", "dim": 6, "hidden": 9, "layers": 2, "alpha": 0.0, "beta": 0.0}}
    model["model"] |= dict.fromkeys(("drop_weights", "drop_tokens", "drop_input", "drop_hidden", "drop_output"), 0.0)
    assert together(config(batch_size=2, **stream) | model, tmp_path / "two") == [0, 0]
    one, two = train(config(batch_size=4, **stream) | model, tmp_path / "one"), Run.open(tmp_path / "two")
    losses = [[line["loss"] for line in run.metrics() if "loss" in line] for run in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)

    assert together(config(batch_size=2, **stream) | model, tmp_path / "stopped", leave=True)[0] == 7
    assert together(config(batch_size=2, **stream) | model, tmp_path / "stopped") == [0, 0]
    same(Run.open(tmp_path / "stopped"), two)
