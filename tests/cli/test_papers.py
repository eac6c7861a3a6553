"""ostinato papers"""

import json

from ostinato.cli.__main__ import main
from ostinato.papers import papers


def printed(capsys, *arguments):
    assert main(arguments) == 0
    return capsys.readouterr().out


def test_a_line_for_each_paper(capsys):
    lines = printed(capsys, "papers").splitlines()
    assert [line.split()[0] for line in lines] == list(papers())
    assert next(line for line in lines if line.startswith("gla ")).split()[1] == papers()["gla"].level


def test_one_paper_in_full(capsys):
    text = printed(capsys, "papers", "gla")
    assert text.startswith("Gated Linear Attention Transformers with Hardware-Efficient Training\nhttps://arxiv.org/")
    assert "here      mixer:gla\n" in text
    assert "evidence  tests/" in text


def test_json(capsys):
    rows = json.loads(printed(capsys, "papers", "--json"))
    assert [row["id"] for row in rows] == list(papers())
    assert {tuple(row) for row in rows} == {
        ("id", "title", "url", "family", "provides", "missing", "level", "evidence", "note")
    }
    (one,) = json.loads(printed(capsys, "papers", "gla", "--json"))
    assert "mixer:gla" in one["provides"]


def test_an_unknown_paper(capsys):
    assert main(["papers", "glaa"]) == 2
    assert "there is no paper 'glaa' in ostinato (did you mean gla" in capsys.readouterr().err
