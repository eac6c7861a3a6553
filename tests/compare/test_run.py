"""A comparison over processes: what fails alone fails alone, and what was interrupted goes on."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import yaml

from ostinato.compare import compare
from ostinato.compare.jobs import RESULT
from ostinato.compare.run import JOBS, SETTINGS
from ostinato.registry import forget
from ostinato.report.results import Failure, read_comparison

MIXERS = ["gla", "stuck", "killed", "min_gru"]


@pytest.fixture(scope="module")
def broken():
    yield importlib.import_module("tests.compare.broken")
    for name in ("stuck", "killed"):
        forget(f"mixer:{name}")
    del sys.modules["tests.compare.broken"]


@pytest.fixture(scope="module")
def first(broken, config, tmp_path_factory):
    """A comparison two of whose mixers fail."""
    return compare(MIXERS, tmp_path_factory.mktemp("runs") / "four", config=config(), workers=2)


def test_a_mixer_that_fails_does_not_end_the_others(first):
    found = first.comparison
    assert sorted(run.mixer for run in found.runs) == ["gla", "min_gru"]
    stuck, killed = found.failures
    assert stuck.error == "RuntimeError: the gate is stuck for good"
    assert "in mix" in stuck.details
    assert "killed by SIGKILL" in killed.error
    assert "allocating everything" in killed.details
    assert found.missing == []


def test_the_report_and_its_json_are_there(first):
    assert read_comparison(first.json) == first.comparison
    html = first.html.read_text()
    for text in ("min_gru", "the gate is stuck for good", "1 thread"):
        assert text in html
    assert first.html.parent == first.json.parent


def test_the_same_again_tries_what_failed_and_nothing_else(first, config, monkeypatch, broken):
    folder = first.html.parent
    finished = [folder / JOBS / f"{mixer}-seed0" / RESULT for mixer in ("gla", "min_gru")]
    before = [path.stat().st_mtime_ns for path in finished]
    monkeypatch.setenv(broken.HEALED, "1")
    again = compare(MIXERS, folder, config=config(), workers=2).comparison
    assert again.failures == []
    assert [run for run in again.runs if run.mixer in ("gla", "min_gru")] == first.comparison.runs
    assert [path.stat().st_mtime_ns for path in finished] == before
    # a healed mixer is nothing but gla: the same data in the same order give the same losses, whatever ran beside it
    gla, stuck, killed, _ = again.runs
    losses = [[point.bits_per_byte for point in run.curve] for run in (gla, stuck, killed)]
    assert losses[0] == losses[1] == losses[2]


def test_more_mixers_join_a_comparison_and_other_settings_do_not(first, config):
    folder = first.html.parent
    assert len(compare(["gla"], folder, config=config()).comparison.runs) == 1  # what is there is used
    with pytest.raises(
        ValueError, match=r"four holds a comparison with other settings.* \(train\.length is 17, now 18\)"
    ):
        compare(["gla"], folder, config=config(length=18))


def test_a_folder_of_something_else_is_left_alone(tmp_path, config):
    (tmp_path / "diary.txt").write_text("dear diary")
    with pytest.raises(ValueError, match="holds something else than a comparison"):
        compare(["gla"], tmp_path, config=config())
    (tmp_path / SETTINGS).write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        compare(["gla"], tmp_path, config=config())


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_what_was_stopped_goes_on(first, config, tmp_path):
    """Killed and then interrupted while the second run is at work: its process ends too, and the same command finishes."""
    folder, settings = tmp_path / "two", tmp_path / "config.yaml"
    settings.write_text(yaml.safe_dump(config()))
    command = [sys.executable, "-m", "ostinato.cli.__main__", "compare", "gla", "min_gru", "--workers", "1"]
    command += ["--config", str(settings), "--out", str(folder)]
    for how, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        # a shell that starts something in the background has it ignore Ctrl-C, and so what that starts: not here
        heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        pipes: dict = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        with subprocess.Popen(command, **pipes, preexec_fn=heard) as process:
            for line in process.stderr:
                if line.startswith("min_gru (seed 0): starting"):
                    break
            process.send_signal(how)
            said = process.stderr.read()  # until it closes it, which is when it ends
        assert process.returncode == code, said
        _wait_until_nobody_works_in(folder)
        assert not (folder / JOBS / "min_gru-seed0" / RESULT).exists()
    done = folder / JOBS / "gla-seed0" / RESULT
    before = done.stat().st_mtime_ns

    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "1 of them finished before" in answer.stderr
    assert answer.stdout.splitlines()[-1] == str(folder / "report.html")
    assert done.stat().st_mtime_ns == before
    again = read_comparison(folder / "report.json").runs
    # no figure but those of time and memory depends on the interruption
    assert [run.curve[-1].bits_per_byte for run in again] == [
        run.curve[-1].bits_per_byte for run in first.comparison.runs
    ]


def _wait_until_nobody_works_in(folder):
    """Processes of jobs are those that hold its log open."""
    if not os.path.isdir("/proc/self/fd"):
        time.sleep(5)
        return
    for _ in range(100):
        holders = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
            except OSError:
                continue
            holders += [pid for link in links if link.startswith(str(folder))]
        if not holders:
            return
        time.sleep(0.1)
    pytest.fail(f"still at work: {holders}")


def test_a_cluster_needs_ray(config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'ostinato\[ray\]'"):
        compare(["gla"], tmp_path / "one", config=config(), ray="auto")


def test_a_cluster_does_the_work(config, tmp_path):
    """One run on a cluster that is this machine, and a failure that comes back in one line."""
    pytest.importorskip("ray")
    found = compare(["gla", "{gla: {heads: 4}}"], tmp_path / "one", config=config(), ray="local").comparison
    assert [run.mixer for run in found.runs] == ["gla", "gla(heads=4)"]
    assert not [failure for failure in found.failures if isinstance(failure, Failure)]
    assert json.loads((tmp_path / "one" / JOBS / "gla-seed0" / RESULT).read_text())["mixer"] == "gla"
