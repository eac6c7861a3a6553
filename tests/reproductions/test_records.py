"""What is recorded of each reproduction is what its file describes, and its claims follow from its rows."""

import json

import pytest

from ostinato.papers import papers
from ostinato.reproduce import effects, find_effect
from ostinato.reproduce.effect import RESULTS, folder


@pytest.fixture(params=list(effects()))
def effect(request):
    return find_effect(request.param)


def test_the_record_is_of_this_file(effect):
    recorded = json.loads((folder() / RESULTS / f"{effect.name}.json").read_text(encoding="utf-8"))
    asked = effect.module.trials(False)
    assert [
        {name: row[name] for name in arguments} for row, arguments in zip(recorded["rows"], asked, strict=True)
    ] == asked
    claims = [vars(claim) for claim in effect.module.claims(recorded["rows"], False)]
    assert claims == recorded["claims"]
    assert not recorded["short"]
    assert all(claim["holds"] for claim in claims) != bool(effect.not_reproduced), (
        "what does not hold says what was tried"
    )


def test_it_names_papers_and_has_a_short_version(effect):
    assert effect.papers
    assert set(effect.papers) <= set(papers()), "ids as in papers.toml"
    assert effect.module.trials(True)
    assert len(effect.title) < 130
