"""ostinato list"""

import json

import pytest

from ostinato import entries
from ostinato.cli.__main__ import main


def printed(capsys, *arguments):
    assert main(arguments) == 0
    return capsys.readouterr().out


def test_json_has_everything_with_its_evidence(capsys):
    rows = json.loads(printed(capsys, "list", "--json"))
    assert [f"{row['kind']}:{row['name']}" for row in rows] == [entry.key for entry in entries()]
    assert {tuple(row) for row in rows} == {("kind", "name", "summary", "papers", "evidence", "tests")}
    gla = next(row for row in rows if row["name"] == "gla" and row["kind"] == "mixer")
    assert gla["papers"] == ["gla"]
    assert gla["evidence"] in ("L2", "L3")
    assert "tests/laws/test_laws.py::test_law" in gla["tests"]
    assert len(gla["tests"]) > 1


def test_one_kind_only(capsys):
    rows = json.loads(printed(capsys, "list", "--kind", "op", "--json"))
    assert {row["kind"] for row in rows} == {"op"}


def test_lines_for_reading_are_whole_in_a_file(capsys):
    lines = printed(capsys, "list").splitlines()
    assert len(lines) == len(entries())
    for line, entry in zip(lines, entries(), strict=True):
        key, level, summary = line.split(maxsplit=2)
        assert (key, summary) == (entry.key, entry.summary)
        assert level in ("L1", "L2", "L3", "--")


def test_lines_fit_a_window(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    lines = printed(capsys, "list").splitlines()
    assert len(lines) == len(entries())
    assert max(map(len, lines)) == 40


@pytest.mark.parametrize(("kind", "says"), [("mixers", "did you mean mixer"), ("zzz", "the kinds are mixer, model")])
def test_an_unknown_kind(capsys, kind, says):
    assert main(["list", "--kind", kind]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
