"""Benchmarks measure what they say, small; how fast anything is, is not tested."""

import builtins
import json

import pytest
import torch

from ostinato.bench.measure import ratio, seconds_by_turns, summary
from ostinato.bench.memory import stream_memory
from ostinato.bench.ops import JOBS, Sizes, measure_op
from ostinato.bench.peers import PeerMissingError, peer
from ostinato.bench.speed import equal_model, speed
from ostinato.cli.__main__ import main
from ostinato.contract import SequenceModule
from ostinato.registry import entries

TINY = dict(length=16, batch=1, dim=32, layers=1, vocab=16, rounds=2, steps=3)


def recurrent_mixers():
    """The mixers whose state does not grow, with their default arguments at width 32."""
    for entry in entries("mixer"):
        mixer = entry.target(32)
        if isinstance(mixer, SequenceModule) and mixer.causal and mixer.state_bytes(10**4) == mixer.state_bytes(10**6):
            yield entry.name


def test_every_subject_is_measured_in_every_round():
    calls = []
    seconds = seconds_by_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert calls == ["a", "b", "a", "b", "b", "a", "a", "b"]  # a warm-up, and then by turns
    assert [len(values) for values in seconds.values()] == [3, 3]


def test_rates_and_ratios_by_hand():
    assert summary([2.0, 1.0, 4.0], work=10) == {"rate": 5.0, "seconds": 2.0, "spread": 1.5, "rounds": 3}
    assert ratio([2.0, 3.0, 8.0], [1.0, 1.0, 2.0]) == 3.0  # 2, 3 and 4 times faster


@pytest.mark.parametrize("task", ["train", "prefill", "decode"])
def test_speed_compares_models_of_equal_size(task):
    pytest.importorskip("transformers")
    result = speed(task, ["gla"], against="llama", **TINY)
    llama, gla = result["rows"]
    assert abs(gla["parameters"] - llama["parameters"]) < 0.03 * llama["parameters"]
    assert llama["ratio"] == 1
    assert gla["rate"] > 0
    assert gla["ratio"] > 0


def test_a_mixer_that_is_larger_than_the_peer_goes_without_channel_mixers():
    model = equal_model("gla", 100, dim=32, layers=1, vocab=16)
    assert model.stack.layers[0].mlp is None


@pytest.mark.parametrize("name", sorted(JOBS))
def test_every_op_can_be_measured(name):
    result = measure_op(name, Sizes(batch=1, length=20, heads=2, key_dim=16, value_dim=16), rounds=1)
    assert {row["model"] for row in result["rows"]} >= {f"{name} torch", f"{name} torch + backward"}
    assert all(row["milliseconds"] > 0 for row in result["rows"])


@pytest.mark.parametrize("mixer", sorted(recurrent_mixers()))
def test_streaming_keeps_memory_flat(mixer):
    """20,000 tokens: the state has one size, and the process grows by less than a tenth of what a cache would hold.

    (A cache of two layers of width 32 would be 10 MB by then; allocators wobble by some pages.)
    """
    settings = dict(tokens=20_000, piece=500, dim=32, layers=2)
    measured = stream_memory(mixer, **settings)
    assert not measured["state_grew"]
    # what leaks, leaks again; an allocator that took its pages the first time does not
    assert measured["growth"] < 4_000_000 or stream_memory(mixer, **settings)["growth"] < 4_000_000


def test_attention_is_seen_to_grow():
    assert stream_memory("attention", tokens=4_000, piece=500, dim=32, layers=1)["state_grew"]


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"no peer 'lama' \(did you mean llama"):
        peer("lama", 32, 1, 16)
    with pytest.raises(ValueError, match=r"no benchmark of op 'scann' \(did you mean scan"):
        measure_op("scann", Sizes())


def test_a_missing_peer_is_a_line(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **keywords):
        if name == "transformers":
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PeerMissingError, match="transformers is not installed: pip install"):
        peer("llama", 32, 1, 16)


def test_the_command_writes_its_figures(tmp_path, capsys):
    file = tmp_path / "figures.json"
    threads = torch.get_num_threads()
    options = "--length 16 --batch 1 --dim 32 --layers 1 --rounds 1 --against none --threads 1".split()
    assert main(["bench", "prefill", "min_gru", *options, "--json", str(file)]) == 0
    torch.set_num_threads(threads)
    written = json.loads(file.read_text())
    assert written["command"].startswith("ostinato ")
    assert written["results"][0]["rows"][0]["model"] == "ostinato min_gru"
    assert written["results"][0]["machine"]["threads"] == 1
    assert "ostinato min_gru" in capsys.readouterr().out


def test_the_command_refuses_what_does_not_exist(capsys):
    assert main(["bench", "train", "glaa", "--against", "none", "--dim", "32"]) == 2
    assert "did you mean gla" in capsys.readouterr().err
    assert main(["bench", "speed", "gla"]) == 2


def test_warmup_compiles_what_a_mixer_needs(capsys):
    assert main(["warmup", "min_gru", "--workers", "1"]) == 0
    assert capsys.readouterr().out.startswith("min_gru: ")
    assert main(["warmup", "min_gruu"]) == 2
    assert "did you mean min_gru" in capsys.readouterr().err
