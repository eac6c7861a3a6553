"""`ostinato diagnose` on the command line: quick to refuse, one line for each mistake."""

import pytest

from ostinato.cli.__main__ import main


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("x")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Missing argument"),
        (["mingru"], "there is no 'mingru' in ostinato (did you mean min_gru"),
        (["gla", "gla"], "the mixer gla is named twice"),
        (["gla", "--task", "parrity"], "there is no task 'parrity' to try (did you mean parity?)"),
        (["gla", "--task", "next_token"], "there is no task 'next_token' to try"),
        (["gla", "--task", "lm1b"], "there is no task 'lm1b' to try (it is no stream of problems)"),
        (["gla", "--task", "{parity: {length: 16.5}}"], "the arguments of parity are numbers"),
        (["hydra", "--task", "parity"], "hydra on parity: it sees the whole sequence"),
        (["gla", "--task", "parity", "--task", "parity"], "the task parity is named twice"),
        (["gla", "--task", "{mqar: {length: 63}}"], "mqar has even lengths; got 63"),
        (["gla", "--task", "{prompted_function_lookup: {length: 64}}"], "got 64"),
        (
            ["gla", "--task", "{sequential_digits: {length: 65}}"],
            "sequential_digits has the length 64, its pixels; got 65",
        ),
        (["gla", "--task", "{mqar: {pears: 3}}"], "has no argument 'pears' (did you mean pairs"),
        (["gla", "--task", "{mqar: {length: long}}"], "the arguments of mqar are numbers"),
        (["gla", "--task", "parity+mqar"], "a task is written as mqar or {mqar: {pairs: 16}}"),
        (
            ["gla", "--battery", "quik"],
            "battery is one of quick, standard, paper, chomsky, zoology; got 'quik' (did you mean",
        ),
        (["gla", "--params", "10"], "cannot be met"),
        (["gla", "--steps", "0"], "--steps"),
        (["gla", "--lr", "0"], "learning_rate is above 0"),
        (["{gla: {head: 2}}"], "has no argument 'head' (did you mean heads?)"),
        (["wrapper:bidirectional", "--task", "parity"], "sees the whole sequence"),
        (["gla", "--task", "parity", "--out", "text.txt"], "text.txt holds something else than a diagnosis"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(words, message, capsys, tmp_path):
    assert main(["diagnose", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ostinato: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "runs").exists()  # nothing was begun


def test_a_diagnosis_prints_scores_and_the_path_of_the_report(capfd, tmp_path):
    words = "--steps 2 --params 4000 --layers 1 --batch-size 2 --workers 1 --out here"
    assert main(["diagnose", "min_gru", "--task", "{copying: {length: 6, items: 2}}", *words.split()]) == 0
    out = capfd.readouterr().out
    assert "copying(length=6,items=2)" in out
    assert out.rstrip().endswith("here/report.html")
    assert (tmp_path / "here" / "report.html").exists()
