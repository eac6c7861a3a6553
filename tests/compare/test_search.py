"""A search: settings drawn at random, trials that are not done twice, and what mattered."""

import json
import sys

import pytest
import yaml

from ostinato.cli.__main__ import main
from ostinato.compare.search import FOUND, RESULT, TRIALS, make_jobs, read_search, search
from ostinato.train.random_search import Space, random_search, read_space

SPACES = {
    "train.learning_rate": {"log_uniform": [1e-4, "1e-1"]},
    "model.dim": [8, 16, 32],
    "train.batch_size": {"integer": [1, 4]},
}


@pytest.fixture
def values(config):
    small = config(steps=2, evaluate_every=1)
    return {**small, "model": {"mixer": "min_gru", "layers": 1}, "search": SPACES}


def test_draws_have_the_distribution_that_is_asked_for():
    spaces = {
        "uniform": Space("uniform", (2.0, 4.0)),
        "log": Space("log_uniform", (1e-4, 1.0)),
        "integer": Space("integer", (3, 5)),
        "log_integer": Space("log_integer", (1, 1000)),
        "choice": Space("choice", ("a", "b", "c", "d")),
    }
    drawn = [random_search(spaces, trial) for trial in range(2000)]
    values = {name: [each[name][1] for each in drawn] for name in spaces}
    assert min(values["uniform"]) >= 2
    assert max(values["uniform"]) <= 4
    assert sum(values["uniform"]) / 2000 == pytest.approx(3, abs=0.05)
    for edge, share in ((1e-3, 0.25), (1e-2, 0.5), (1e-1, 0.75)):
        assert sum(value < edge for value in values["log"]) / 2000 == pytest.approx(share, abs=0.04)
    for name, kinds in (("integer", [3, 4, 5]), ("choice", list("abcd"))):
        assert sorted(set(values[name])) == kinds
        assert max(values[name].count(kind) for kind in kinds) / 2000 == pytest.approx(1 / len(kinds), abs=0.04)
    assert set(map(type, values["log_integer"])) == {int}
    assert sum(value < 32 for value in values["log_integer"]) / 2000 == pytest.approx(0.5, abs=0.04)


def test_a_draw_depends_on_its_trial_seed_and_name_alone():
    one, two = Space("uniform", (0.0, 1.0)), Space("integer", (0, 9))
    whole = [random_search({"a": one, "b": two}, trial, seed=1) for trial in range(5)]
    assert [random_search({"a": one}, trial, seed=1)["a"] for trial in range(5)] == [each["a"] for each in whole]
    assert len({each["a"][1] for each in whole}) == 5
    assert random_search({"a": one}, 0, seed=2)["a"] != whole[0]["a"]
    assert all(place == pytest.approx((value + 0.5) / 10) for place, value in (each["b"] for each in whole))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"log_unifrom": [1, 2]}, "one of uniform, log_uniform, .*; got 'log_unifrom' \\(did you mean log_uniform"),
        ({"uniform": [2, 1]}, "s.uniform: the first is below the last; got \\[2, 1\\]"),
        ({"log_uniform": [0, 1]}, "the first is below the last, both above 0"),
        ({"integer": [1, 2.5]}, "the first and the last whole number; got"),
        ({"uniform": ["a", 1]}, "the first and the last number; got"),
        ({"uniform": [1, 2, 3]}, "the first and the last number; got"),
        ([1], "two values or more; got \\[1\\]"),
        (3, "a list of values, or {log_uniform: .*}; got 3"),
    ],
    ids=str,
)
def test_what_is_no_space_is_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        read_space("s", spec)


def test_a_setting_that_cannot_be_is_refused_before_anything_is_trained(values, tmp_path):
    for spaces, message in (
        ({"train.learning_rat": [1, 2]}, "train.learning_rat: no such key"),
        ({"train.learning_rate": [1, -1]}, "train.learning_rate: a number above 0; got -1"),
        ({"learning_rate": [1, 2]}, "search.learning_rate: a setting is written with its section"),
        ({}, "search: a section that names what is drawn"),
    ):
        with pytest.raises(ValueError, match=message):
            search({**values, "search": spaces}, tmp_path / "none", trials=8)
    assert not (tmp_path / "none").exists()


def test_a_search_is_run_continued_and_shown(values, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    command = ["search", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "found"), "--workers", "1"]
    assert main([*command, "--trials", "1"]) == 0
    first = tmp_path / "found" / TRIALS / "000" / RESULT
    before = first.stat().st_mtime_ns, json.loads(first.read_text())
    assert main([*command, "--trials", "2"]) == 0
    assert (first.stat().st_mtime_ns, json.loads(first.read_text())) == before
    found = json.loads((tmp_path / "found" / FOUND).read_text())
    scores = [trial["bits_per_byte"] for trial in found["trials"]]
    assert scores == sorted(scores)
    assert len(scores) == 2
    for trial in found["trials"]:
        assert trial["chosen"]["model.dim"] in (8, 16, 32)
        config = yaml.safe_load(
            (tmp_path / "found" / TRIALS / f"{trial['number']:03d}" / "run" / "config.yaml").read_text()
        )
        assert config["train"]["learning_rate"] == trial["chosen"]["train.learning_rate"]
    out = capsys.readouterr().out
    assert "learning_rate" in out
    assert "what mattered is said from 10 trials on" in out
    assert main([*command, "--trials", "2", "--seed", "1"]) == 2
    assert "holds a search with other settings" in capsys.readouterr().err


@pytest.fixture
def finished(values, tmp_path):
    """A search whose trials have ended: their scores are what learning rate and batch size say."""
    base, spaces = read_search(values)
    for job in make_jobs(base, spaces, 40, 0):
        score = 10 * job.places["train.learning_rate"] + 2 * job.places["train.batch_size"]
        trial = dict(number=job.number, chosen=job.chosen, places=job.places, bits_per_byte=score, loss=score)
        folder = tmp_path / "done" / TRIALS / job.id
        folder.mkdir(parents=True)
        (folder / RESULT).write_text(json.dumps({**trial, "step": 1, "parameters": 9}))
    values = {name: section for name, section in values.items() if name != "search"}
    settings = {"config": read_search({**values, "search": SPACES})[0], "seed": 0}
    settings["search"] = {name: {space.kind: list(space.values)} for name, space in spaces.items()}
    (tmp_path / "done" / "search.json").write_text(json.dumps(settings))
    return tmp_path / "done"


def test_it_says_what_mattered(values, finished, capsys):
    from ostinato.compare.search_show import show

    found = search(values, finished, trials=40)
    single = {name: share.mean for name, share in found.importance.single.items()}
    assert single["train.learning_rate"] > 0.8
    assert 0.005 < single["train.batch_size"] < 0.15
    assert single["model.dim"] < 0.01
    show(found)
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("share of the variance"))
    assert lines[at + 1].endswith("train.learning_rate")


def test_without_scikit_learn_it_says_how_to_get_it(values, finished, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    found = search(values, finished, trials=40)
    assert found.importance is None
    assert "pip install 'ostinato[analyze]'" in found.note
    assert len(found.trials) == 40
