"""What will be trained: alike in all but the mixer, and refused before anything begins if it cannot be."""

import pytest

from ostinato.compare.plan import DEFAULTS, make_plan
from ostinato.compare.specs import read_spec
from ostinato.registry import create


@pytest.mark.parametrize(
    ("spec", "label", "pattern"),
    [
        ("gla", "gla", ["gla"]),
        (" gla + attention ", "gla+attention", ["gla", "attention"]),
        (
            "{attention: {window: 64, heads: 2}}",
            "attention(window=64,heads=2)",
            [{"attention": {"window": 64, "heads": 2}}],
        ),
        ("[gla, {attention: {window: 8}}]", "gla+attention(window=8)", ["gla", {"attention": {"window": 8}}]),
        (["gla", "gla"], "gla+gla", ["gla", "gla"]),
        ({"gla": {"heads": 2}}, "gla(heads=2)", [{"gla": {"heads": 2}}]),
        ({"gla": None}, "gla", [{"gla": None}]),
    ],
)
def test_ways_to_say_what_is_compared(spec, label, pattern):
    assert read_spec(spec) == (label, pattern)


@pytest.mark.parametrize("spec", ["", "gla+", "+gla", "{gla", "[]", [], "{gla: 3}", "{a: {}, b: {}}", "[3]", 7])
def test_what_is_no_mixer_is_refused(spec):
    with pytest.raises(ValueError, match=r"a mixer is written as|an element of pattern|the arguments of gla"):
        read_spec(spec)


def test_all_jobs_are_alike_but_for_the_mixer(config):
    plan = make_plan(["gla", "min_gru"], config(), 2, 1)
    assert [(job.mixer, job.seed) for job in plan.jobs] == [("gla", 0), ("min_gru", 0), ("gla", 1), ("min_gru", 1)]
    for job in plan.jobs:
        like = next(other for other in plan.jobs if (other.mixer, other.seed) == ("gla", job.seed))
        assert job.config["train"] == like.config["train"] | {"seed": job.seed}
        assert job.config["data"] == like.config["data"]
    assert len({job.id for job in plan.jobs}) == 4


def test_parameters_meet_the_budget(config):
    """Widths come in steps of 8, which alone would miss it by up to an eighth."""
    plan = make_plan(["gla", "min_gru", "gla+min_gru"], config({"params": "120k", "layers": 3}), 1, 1)
    for job in plan.jobs:
        model = create("model:language_model", vocab_size=256, **job.config["model"])
        assert job.parameters == model.parameter_count()
        assert job.parameters == pytest.approx(120_000, rel=0.02), job.mixer


def test_what_the_config_says_about_the_model_is_kept(config):
    model = {"params": "60k", "expansion": 2.0, "layers": 2}
    (job,) = make_plan(["gla"], config(model), 1, 1).jobs
    assert job.config["model"]["expansion"] == 2.0
    (job,) = make_plan(["gla"], config({"params": "30k", "mlp": None}), 1, 1).jobs
    assert job.config["model"]["mlp"] is None
    (job,) = make_plan(["gla"], config({"dim": 24}), 1, 1).jobs
    assert job.config["model"]["dim"] == 24


def test_validations_have_the_time_of_a_line_of_metrics(config):
    for steps in (1, 7, 100, 999):
        train = make_plan(["gla"], config(steps=steps, evaluate_every=100, log_every=10), 1, 1).settings["train"]
        assert train["evaluate_every"] % train["log_every"] == 0
        assert steps / 10 <= train["evaluate_every"] <= max(1, steps / 4)


def test_settings_have_a_name_that_mixers_and_seeds_do_not_change(config):
    plan = make_plan(["gla"], config(), 1, 1)
    assert plan.key == make_plan(["min_gru", "gla"], config(), 3, 1).key
    assert plan.key != make_plan(["gla"], config(length=18), 1, 1).key
    assert plan.key != make_plan(["gla"], config(data={"seed": 1}), 1, 1).key


def test_models_are_judged_in_windows_of_the_training_length():
    assert DEFAULTS["train"]["evaluate_stream"] is False


@pytest.mark.parametrize(
    ("specs", "changes", "message"),
    [
        ([], {}, "at least one mixer"),
        (["gla", "gla"], {}, "gla is named twice"),
        (["gla", "mingru"], {}, r"no 'mingru' in ostinato \(did you mean min_gru"),
        (["{gla: {head: 2}}"], {}, r"no argument 'head' \(did you mean heads\?\)"),
        (["{gla: {heads: 3}}"], {}, "heads"),
        (["{attention: {causal: false}}"], {}, "sees the whole sequence"),
        (["gla"], {"mixer": "attention"}, "a comparison names its mixers itself"),
        (["gla"], {"params": "1k"}, "cannot be met"),
    ],
)
def test_what_cannot_be_compared_is_refused(config, specs, changes, message):
    with pytest.raises(ValueError, match=message):
        make_plan(specs, config(changes), 1, 1)


def test_a_comparison_has_at_least_one_seed(config):
    with pytest.raises(ValueError, match="at least 1; got 0"):
        make_plan(["gla"], config(), 0, 1)
