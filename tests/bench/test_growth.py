"""Exponents say how cost grows: exactly for powers, and for what is recorded of a mixer here."""

import json
from pathlib import Path

import pytest
import torch

from ostinato.bench import growth as module
from ostinato.bench.apart import TooLongError
from ostinato.bench.growth import exponents, growth
from ostinato.cli.__main__ import main


def test_powers_have_their_exponents():
    lengths = [100, 300, 1000]
    row = {f"seconds_{T}": 3e-9 * T**2 for T in lengths} | {f"bytes_{T}": 7 * T for T in lengths}
    found = exponents(row, lengths)
    assert found == pytest.approx(
        {"time_exponent": 2, "last_time_exponent": 2, "memory_exponent": 1, "last_memory_exponent": 1}
    )


def test_the_last_lengths_have_an_exponent_of_their_own_and_one_length_has_none():
    found = exponents({"seconds_10": 1.0, "seconds_20": 1.0, "seconds_40": 4.0, "bytes_10": 8}, [10, 20, 40])
    assert found["last_time_exponent"] == pytest.approx(2)
    assert found["time_exponent"] == pytest.approx(1)
    assert "memory_exponent" not in found


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(module, "apart", lambda function, *arguments, limit: function(*arguments))


def test_dense_scores_grow_faster_than_a_window(here, monkeypatch):
    """Counted in operations instead of seconds: those of a clock are not the same twice."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        monkeypatch.setattr(module.time, "perf_counter", lambda: float(counter.get_total_flops()))
        result = growth(
            ["relative_attention_skew", "sigmoid_window_attention"], lengths=[512, 2048], dim=8, rounds=1, slow=1e18
        )
    dense, window = (row["time_exponent"] for row in result["rows"])
    assert 1.6 < dense < 2.2
    assert window == pytest.approx(1, abs=0.1)


def test_what_is_slow_is_not_made_longer(here):
    (row,) = growth(["min_gru"], lengths=[32, 64, 96], dim=8, rounds=1, slow=0.0)["rows"]
    assert "seconds_32" in row
    assert "seconds_64" not in row
    assert "time_exponent" not in row


def test_what_goes_wrong_is_the_row_of_that_mixer(monkeypatch):
    def stops(function, *arguments, limit):
        yield {"seconds_16": 1.0}
        raise TooLongError(f"not ready after {limit:g} s")

    monkeypatch.setattr(module, "apart", stops)
    (row,) = growth(["min_gru"], lengths=[16, 32], dim=8, limit=7)["rows"]
    assert row == {"model": "min_gru", "seconds_16": 1.0, "error": "not ready after 7 s"}


def test_the_command_records_it(tmp_path, capsys):
    """In a process of its own, as it is recorded."""
    file, threads = tmp_path / "growth.json", torch.get_num_threads()
    options = "--length 64 --length 128 --batch 1 --dim 8 --rounds 1 --threads 1".split()
    assert main(["bench", "mixer", "segment_attention", *options, "--json", str(file)]) == 0
    torch.set_num_threads(threads)
    (result,) = json.loads(file.read_text())["results"]
    assert result["settings"]["lengths"] == [64, 128]
    assert result["rows"][0]["seconds_128"] > 0
    assert str(file) in capsys.readouterr().out


def test_the_command_refuses_what_cannot_be_measured(capsys):
    assert main(["bench", "mixer", "--length", "8", "--length", "16"]) == 2
    assert main(["bench", "mixer", "gla", "--length", "8"]) == 2
    assert "at least two lengths" in capsys.readouterr().err
    assert main(["bench", "mixer", "glaa", "--length", "8", "--length", "16"]) == 2
    assert "did you mean mixer:gla" in capsys.readouterr().err


def test_what_is_recorded_of_attentions_is_less_than_quadratic():
    """From 2k to 32k tokens; dense attention is the measure, and VMoBA reads a share of all pairs."""
    file = Path(__file__).parent.parent.parent / "benchmarks" / "results" / "attention_lengths.json"
    rows = {row["model"]: row for row in json.loads(file.read_text())["results"][0]["rows"]}
    assert all("seconds_2048" in row and "seconds_32768" in row for row in rows.values())
    dense, _ = rows.pop("attention"), rows.pop("vmoba")
    assert dense["last_time_exponent"] > 1.9
    for row in rows.values():
        assert max(row["time_exponent"], row["last_time_exponent"]) < 1.7, row["model"]
        assert row["memory_exponent"] < 1.7, row["model"]
