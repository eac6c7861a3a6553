"""What the pages written by hand promise, and the tables that they are given."""

import importlib.util
import json
from pathlib import Path

import pytest

from ostinato.registry import entries

PAGES = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("family", ["linear_recurrence", "ssm_convolution"])
def test_the_map_of_the_field_has_every_mixer_of_its_families(family):
    page = (PAGES / "one_recurrence.md").read_text()
    mixers = [entry.name for entry in entries("mixer") if f".{family}." in entry.target.__module__]
    assert len(mixers) > 10
    assert [name for name in mixers if f"`{name}`" not in page] == []


@pytest.fixture(scope="module")
def hooks():
    specification = importlib.util.spec_from_file_location("ostinato_docs_hooks", PAGES / "hooks.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_which_mixer_is_answered_by_what_is_recorded(hooks):
    page = hooks.on_page_markdown((PAGES / "which_mixer.md").read_text(encoding="utf-8"))
    assert "<!--" not in page
    for file in (PAGES.parent / "reproductions" / "results").glob("*.json"):
        recorded = json.loads(file.read_text(encoding="utf-8"))
        assert f"`{recorded['name']}`" in page
        assert all(hooks.cell(claim["ours"]) in page for claim in recorded["claims"])


def test_a_recorded_diagnosis_is_a_table_of_mixers_and_abilities(hooks, tmp_path):
    from ostinato.diagnose.run import Diagnosis, to_json
    from tests.diagnose.test_page import made_up_trial

    trials = [made_up_trial("lstm", "parity", seed, (score, 0.8, 0.8, 0.6)) for seed, score in enumerate((1.0, 0.8))]
    trials += [made_up_trial("attention", "mqar", scores=(0.75, 0.7, 0.7, None), state_growth=3 << 10)]
    (tmp_path / "diagnosis.json").write_text(
        to_json(Diagnosis("Two", ["lstm", "attention", "unfinished"], ["parity", "mqar"], trials)), encoding="utf-8"
    )
    head, _, *rows = hooks.abilities_tables(tmp_path / "diagnosis.json").splitlines()
    assert head == "| family | mixer | recall | state tracking | state | growth | speed |"
    assert [row.split(" | ")[:4] for row in rows[:2]] == [
        ["| attention", "`attention`", "0.50 / –", "–"],
        ["| nonlinear rnn", "`lstm`", "–", "0.80 / 0.20"],
    ]
    assert rows[2] == ""


def test_a_claim_that_does_not_hold_is_said_to(hooks, tmp_path):
    claims = [dict(says="a | b", paper="1.0", ours="0.5", holds=False), dict(says="c", paper="2", ours="2", holds=True)]
    recorded = dict(name="odd", papers=["gla"], claims=claims, not_reproduced="more steps")
    (tmp_path / "odd.json").write_text(json.dumps(recorded), encoding="utf-8")
    page = hooks.reproductions_tables(tmp_path)
    assert "0 of 1 recorded" in page
    assert "| a \\| b | 1.0 | 0.5 | **no** |" in page
    assert "|  | c | 2 | 2 | yes |" in page
    assert "What was tried: more steps" in page


def test_what_is_not_recorded_is_asked_for(hooks, tmp_path):
    assert "ostinato diagnose gated_deltanet" in hooks.abilities_tables(tmp_path / "diagnosis.json")
    assert "ostinato reproduce parity --record" in hooks.reproductions_tables(tmp_path)
