"""The harness: a file is found, run in processes, continued, recorded, and refused in one line where it is none."""

import json

import pytest

from ostinato.cli.__main__ import main
from ostinato.reproduce import find_effect, reproduce

FILE = '''"""Squares grow.

Said by nobody.
"""

from ostinato.reproduce import Claim

PAPERS = ("gla",)


def trials(short):
    return [{"number": number} for number in ((1, 2) if short else (1, 2, 3))]


def trial(number):
    if number == WRONG:
        raise ValueError("three is too many")
    return {"square": number**2}


def claims(rows, short):
    squares = [row["square"] for row in rows]
    return [Claim("squares grow", "always", str(squares), squares == sorted(squares) and HOLDS)]


'''


@pytest.fixture
def file(tmp_path):
    (tmp_path / "reproductions").mkdir()

    def write(wrong=0, holds=True):
        path = tmp_path / "reproductions" / "squares.py"
        path.write_text(FILE + f"WRONG = {wrong}\nHOLDS = {holds}\n")
        return str(path)

    return write


def test_trials_run_in_processes_are_kept_and_recorded(file, tmp_path):
    lines = []
    found = reproduce(file(), workers=2, runs=tmp_path / "runs", record=True, tell=lines.append)
    assert [row["square"] for row in found.rows] == [1, 4, 9]
    assert found.holds
    assert len(lines) == 3
    recorded = json.loads((tmp_path / "reproductions" / "results" / "squares.json").read_text())
    assert recorded["claims"][0]["ours"] == "[1, 4, 9]"
    again = []
    assert reproduce(file(), runs=tmp_path / "runs", tell=again.append).rows == found.rows
    assert again == ["3 of 3 trials are done already"]


def test_a_trial_that_fails_is_told_and_nothing_is_recorded(file, tmp_path):
    found = reproduce(file(wrong=3), workers=1, runs=tmp_path / "runs", record=True)
    assert not found.holds
    assert found.failures == ["number=3: three is too many"]
    assert not (tmp_path / "reproductions" / "results").exists()


def test_the_exit_code_tells_whether_the_effect_is_there(file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file()
    assert main(["reproduce", "squares", "--short"]) == 0
    assert "the effect is there" in capsys.readouterr().out
    file(holds=False)
    assert main(["reproduce", "squares", "--short"]) == 1
    assert main(["reproduce"]) == 0
    assert "Squares grow" in capsys.readouterr().out


def test_what_is_no_reproduction_is_refused_in_a_line(file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file()
    assert main(["reproduce", "sqares"]) == 2
    assert "did you mean squares" in capsys.readouterr().err
    assert main(["reproduce", "squares", "--short", "--record"]) == 2
    (tmp_path / "reproductions" / "bare.py").write_text('"""Bare."""\n')
    with pytest.raises(ValueError, match="it lacks PAPERS, trials, trial, claims"):
        find_effect("bare")
