"""A diagnosis over processes: tiny models on tiny tasks, resumed, reported, and compared with what the models really do."""

import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from ostinato.compare.plan import slug
from ostinato.diagnose import diagnose
from ostinato.diagnose.abilities import TASKS, ability_of
from ostinato.diagnose.batteries import BATTERIES
from ostinato.diagnose.learning import ask, how_many, learn
from ostinato.diagnose.model import build_model
from ostinato.diagnose.run import TRIALS, find_task, from_json, make_jobs
from ostinato.diagnose.show import FACTORS, show
from ostinato.diagnose.trial import RESULT, Trial, perform, read_result
from ostinato.registry import create, entries

BATTERY = [{"mqar": {"length": 10, "pairs": 2, "vocabulary": 8}}]
SMALL = dict(tasks=BATTERY, params=4000, layers=1, steps=3, batch_size=4, workers=2)
TRAIN = dict(steps=3, batch_size=4, learning_rate=0.003)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return diagnose(["min_gru", "attention"], tmp_path_factory.mktemp("runs") / "two", **SMALL)


def test_every_mixer_has_tried_every_task(found):
    trials = found.diagnosis.trials
    pairs = {(trial.mixer, trial.task) for trial in trials}
    assert len(trials) == len(pairs) == 2
    assert not found.diagnosis.failures
    assert not found.diagnosis.missing
    for trial in trials:
        assert trial.ability == "recall"
        assert [answer.times for answer in trial.answers] == [1, 2, 4, 16]
        assert [answer.length for answer in trial.answers] == [n * trial.length for n in (1, 2, 4, 16)]
        assert [answer.problems for answer in trial.answers] == [256, 256, 256, 204]
        assert all(answer.score is not None for answer in trial.answers)
        assert (trial.state_growth > 0) == (trial.mixer == "attention")
        assert trial.dim % 8 == 0
        assert trial.tokens_per_second > 0
        assert trial.tokens == 3 * 4 * trial.length


def test_models_have_equal_parameters():
    jobs = make_jobs(["min_gru", "attention", "gla+attention"], BATTERIES["quick"].tasks[:5], 1, 50_000, 2, TRAIN)
    sizes = [job.parameters for job in jobs]
    assert max(sizes) < 1.05 * min(sizes)
    task = create("task:state_tracking", length=16, group="Z2")
    (size,) = {job.parameters for job in jobs if job.mixer == "min_gru" and "Z2" in job.task}
    (model,) = (job.model for job in jobs if job.mixer == "min_gru" and "Z2" in job.task)
    assert build_model(task, model).parameter_count() == size


def test_the_report_is_one_file_with_every_score(found):
    html = found.html.read_text()
    assert not any(word in html for word in ("<script", "<link", "src=", "@import"))
    for trial in found.diagnosis.trials:
        assert f"{trial.score(2):.2f}" in html
        assert trial.task in html
    assert from_json(found.json.read_text()) == found.diagnosis


def test_the_same_again_does_nothing_again_and_more_goes_on(found):
    folder = found.html.parent
    files = sorted((folder / TRIALS).rglob(RESULT))
    before = [file.stat().st_mtime_ns for file in files]
    again = diagnose(["min_gru"], folder, **SMALL, seeds=2)
    assert [file.stat().st_mtime_ns for file in files] == before
    assert [(trial.mixer, trial.seed) for trial in again.diagnosis.trials] == [("min_gru", 0), ("min_gru", 1)]
    assert "±" in again.html.read_text()


def test_a_folder_of_other_settings_is_refused(found):
    with pytest.raises(ValueError, match=r"holds a diagnosis with other settings.*steps is 3, now 4"):
        diagnose(["min_gru"], found.html.parent, **SMALL | {"steps": 4})


@pytest.fixture
def job():
    (job,) = make_jobs(["min_gru"], ["parity"], 1, 4000, 1, TRAIN)
    return replace(job, arguments={"length": 12})


def test_a_trial_is_the_same_every_time(job, tmp_path):
    first, second = (perform(job, tmp_path / name, lambda message: None) for name in "ab")
    assert isinstance(first, Trial)
    assert first.losses == second.losses
    assert first.answers == second.answers
    assert read_result(tmp_path / "a") == first
    written = json.loads((tmp_path / "a" / RESULT).read_text())
    written["answers"] = [
        {name: value for name, value in one.items() if name != "problems"} for one in written["answers"]
    ]
    for text in ("{}", json.dumps(written)):  # of nothing, and of an earlier version
        (tmp_path / "a" / RESULT).write_text(text)
        assert read_result(tmp_path / "a") is None


def test_scores_are_of_the_model_and_a_solved_task_scores_one():
    task = create("task:t_maze", length=4, sights=3)
    (job,) = make_jobs(["min_gru"], [{"t_maze": {"length": 4, "sights": 3}}], 1, 4000, 1, TRAIN)
    torch.manual_seed(0)
    model = build_model(task, job.model)
    assert ask(model, task, 1).score < 0.8
    losses = learn(model, task, **TRAIN | {"steps": 120, "learning_rate": 0.01}).losses
    assert losses[-1] < 0.1 < losses[0]
    assert ask(model, task, 1).score == 1
    assert ask(model, task, 2).length == 8


def test_a_length_that_a_task_cannot_have_is_left_out_with_the_reason():
    pytest.importorskip("sklearn")
    task = create("task:sequential_digits")
    answer = ask(None, task, 2)
    assert answer.score is None
    assert "the length 64" in answer.error


def test_long_problems_are_fewer():
    task = create("task:parity", length=8)
    assert [how_many(task, length) for length in (8, 128, 256, 4096, 40_000)] == [256, 254, 127, 64, 64]
    wide = create("task:mqar", published="zoology_64")
    assert how_many(wide, 1024) == 32  # 2^28 numbers in all


def test_a_task_without_so_long_problems_is_asked_at_the_lengths_that_it_has():
    task = create("task:nth_farthest", length=4, most=8, dim=3)
    (job,) = make_jobs(["min_gru"], [{"nth_farthest": {"length": 4, "most": 8, "dim": 3}}], 1, 4000, 1, TRAIN)
    model = build_model(task, job.model)
    answers = [ask(model, task, times) for times in (2, 4, 16)]
    assert [answer.length for answer in answers] == [8, None, None]
    assert answers[0].score is not None
    assert answers[2].error == "nth_farthest has at most 8 vectors, one for each label; got 64"


def test_every_task_shows_an_ability():
    tasks = {entry.name for entry in entries("task") if isinstance(entry.target, type)}
    listed = [task for names in TASKS.values() for task in names.split()]
    assert len(set(listed)) == len(listed)
    assert set(listed) == tasks
    assert ability_of("of_someone_else") == "other tasks"


def test_a_loss_that_is_not_finite_ends_the_trial(job):
    task = create("task:parity", length=12)
    model = build_model(task, job.model)
    torch.nn.init.constant_(model.embedding.weight, torch.inf)
    with pytest.raises(ValueError, match="step 0: the loss is nan"):
        learn(model, task, **TRAIN)


@pytest.mark.parametrize("name", BATTERIES)
def test_every_task_of_every_battery_is_there_and_can_be_longer(name):
    labels = []
    for spec in BATTERIES[name].tasks:
        label, _, _, task = find_task(spec)
        labels.append(label)
        assert task.nearest_length(2 * task.length) > task.length
        assert task.batch(2, split="test").scored.any()
    assert len({slug(label) for label in labels}) == len(labels)


def test_number_models_read_numbers(job):
    task = create("task:adding_problem", length=6)
    model = build_model(task, job.model)
    whole, state = model(task.batch(2).inputs)
    assert whole.shape == (2, 6, 1)
    part, state = model(task.batch(2).inputs[:, :4])
    rest, _ = model(task.batch(2).inputs[:, 4:], state)
    torch.testing.assert_close(torch.cat([part, rest], 1), whole)
    with pytest.raises(ValueError, match=r"reads \(batch, time, 2\)"):
        model(torch.zeros(2, 6, 3))


def test_all_scores_can_be_read_on_a_narrow_terminal(found):
    text = io.StringIO()
    show(found, Console(file=text, width=80))
    for trial in found.diagnosis.trials:
        scores = [trial.score(times) for times in FACTORS]
        assert " / ".join("\u2013" if score is None else f"{score:.2f}" for score in scores) in text.getvalue()
