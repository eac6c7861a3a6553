"""The page of a diagnosis: every score, what failed and what is missing, escaped; and its JSON read back."""

import pytest

from ostinato.diagnose.abilities import ability_of, mean_share, profile, share
from ostinato.diagnose.page import to_html, warnings
from ostinato.diagnose.radar import RADIUS, radar
from ostinato.diagnose.run import Diagnosis, from_json, to_json
from ostinato.diagnose.trial import FACTORS, Answer, Trial
from ostinato.report.results import Failure
from tests.report.test_page import Page


def made_up_trial(mixer, task, seed=0, scores=(0.9, 0.75, None, None), **others):
    answers = [
        Answer(n, 8 * n, 256, score, "" if score is not None else "it <ends> here")
        for n, score in zip(FACTORS, scores, strict=True)
    ]
    values = dict(
        ability=ability_of(task),
        metric="accuracy",
        chance=0.5,
        length=8,
        unit="tokens",
        parameters=50_000,
        dim=40,
        steps=10,
    )
    values |= dict(tokens=2560, train_seconds=1.5, tokens_per_second=1700.0, state_bytes=4096, state_growth=0)
    return Trial(mixer, task, seed, **values | others, losses=[1.0, 0.5], answers=answers)


@pytest.fixture
def diagnosis():
    trials = [made_up_trial("gla", "parity"), made_up_trial("gla", "parity", 1, (0.7, 0.55, None, None))]
    trials.append(made_up_trial("attention", "parity", scores=(0.4, 1.0, 1.0, 0.5), state_growth=1 << 20))
    failure = ("<b>mqar", Failure("gla", 0, "step 3: the loss is nan", "where <it> was"))
    missing = [("attention", "<b>mqar", 0)]
    return Diagnosis("What 2 mixers can do", ["gla", "attention"], ["parity", "<b>mqar"], trials, [failure], missing)


def test_everything_is_on_the_page_and_nothing_of_it_is_markup(diagnosis):
    page = Page(to_html(diagnosis))
    words = "".join(page.words)
    for text in ("<b>mqar", "where <it> was", "0.80", "± 0.14", "0.65", "step 3: the loss is nan", "1\u00a0MiB"):
        assert text in words
    titles = [attributes["title"] for _, attributes in page.elements if "title" in attributes]
    assert "it <ends> here" in titles
    assert "not measured" in titles
    assert not {name for name, _ in page.elements} & {"script", "link", "img"}


def test_colours_go_from_guessing_to_perfect(diagnosis):
    html = to_html(diagnosis)
    assert "--share: 0.600" in html  # the mean of 0.9 and 0.7 where guessing is 0.5
    assert "--share: 0.000" in html  # worse than guessing
    assert [share(score, 0.5) for score in (0.2, 0.5, 0.75, 1.0)] == [0, 0, 0.5, 1]


def test_what_a_reader_should_be_warned_of(diagnosis):
    assert warnings(diagnosis) == [
        "1 of the trials failed; see the section on them.",
        "1 trials were not finished when this was written; the same command continues them.",
    ]
    lone = Diagnosis(
        "x", ["gla"], ["parity"], [made_up_trial("gla", "parity"), made_up_trial("gla", "t", parameters=9)]
    )
    assert warnings(lone)[0] == "Models differ in size: 9 to 50,000 parameters."
    assert "--seeds 3" in warnings(lone)[1]


def test_a_page_without_a_trial_is_a_page():
    assert "No trial has ended yet." in "".join(Page(to_html(Diagnosis("x", ["gla"], ["parity"], []))).words)


def test_json_is_read_back(diagnosis):
    assert from_json(to_json(diagnosis)) == diagnosis
    for text in ("", "[]", '{"format": 1}', '{"format": 2}'):
        with pytest.raises(ValueError, match="this is not the JSON of a diagnosis"):
            from_json(text)


@pytest.fixture
def able():
    tasks = {"parity": (0.9, 0.9, 0.9, 0.7), "mqar": (1.0, 1.0, 1.0, 0.5), "dyck": (0.6, 0.5, 0.5, None)}
    trials = [
        made_up_trial(mixer, task, scores=scores) for mixer in ("gla", "<i>own") for task, scores in tasks.items()
    ]
    trials.append(made_up_trial("gla", "parity", seed=1, scores=(0.7, 0.7, 0.7, 0.5)))
    return Diagnosis("Two", ["gla", "<i>own"], list(tasks), trials)


def test_an_ability_is_the_mean_of_its_tasks_each_from_guessing_to_perfect():
    trials = [made_up_trial("gla", task, scores=(score,) * 4) for task, score in (("mqar", 1.0), ("passkey", 0.75))]
    trials.append(made_up_trial("gla", "dyck", scores=(0.5, None, None, None)))
    assert profile(trials, 1) == {"recall": 0.75, "languages": 0.0}
    assert profile(trials, 16) == {"recall": 0.75, "languages": None}
    trials.append(made_up_trial("gla", "mqar", 1, scores=(0.5,) * 4))  # a task counts once, however many seeds
    assert profile(trials, 1)["recall"] == 0.5
    assert mean_share([], 1) is None


def test_every_mixer_has_a_radar_that_says_its_figures_in_words(able):
    page = Page(to_html(able))
    drawings = [attributes for attributes in page.all("svg") if attributes.get("role") == "img"]
    assert len(drawings) == 2
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(names) == len(set(names))
    assert {name for drawing in drawings for name in drawing["aria-labelledby"].split()} <= set(names)
    assert "What <i>own can do" in page.words
    sentence = "recall 1.00, 0.00; state tracking 0.60, 0.20; languages 0.20, not asked."
    assert any(words.endswith(sentence) for words in page.words)
    assert "Lengths without a score, and why" in page.words
    assert "dyck at 16\u00d7 (gla, <i>own): it <ends> here" in page.words


def test_a_radar_is_perfect_at_the_rim_and_open_where_nothing_was_asked():
    near = {"a": 1.0, "b": 0.5, "c": 0.0, "d": 1.0}
    drawn = radar("r", "gla", 0, near, near | {"b": None}, 16)
    places = [(float(attributes["cx"]), float(attributes["cy"])) for attributes in Page(drawn).all("circle")]
    assert places == [(0, -RADIUS), (RADIUS / 2, 0), (0, 0), (-RADIUS, 0)]
    lines = {
        attributes["class"]: attributes["d"] for attributes in Page(drawn).all("path") if "line" in attributes["class"]
    }
    assert lines["line"].endswith("z")
    assert lines["line far"].count("M") == 2  # c to d and d to a


def test_two_abilities_are_no_radar():
    trials = [made_up_trial("gla", task) for task in ("parity", "mqar")]
    page = Page(to_html(Diagnosis("x", ["gla"], ["parity", "mqar"], trials)))
    assert not [attributes for attributes in page.all("svg") if attributes.get("role") == "img"]
    assert "fewer than 3 abilities" in page.text
