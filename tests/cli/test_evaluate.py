"""`ostinato evaluate` as a user meets it."""

import io
import json

import pytest
from rich.console import Console

from ostinato.cli.__main__ import main
from ostinato.data import ByteTokenizer, Corpus
from ostinato.evaluate.show import show
from ostinato.tasks.next_token import bits_per_byte
from tests.evaluate.made_run import LENGTH, TEXT, add_checkpoint, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("evaluate") / "run")


@pytest.fixture
def evaluate(run, capsys):
    """Run the command; returns the exit code, stdout and stderr."""

    def call(*words, folder=run.folder):
        code = main(["evaluate", str(folder), *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_tables_and_json_say_what_the_library_measures(evaluate, run, tmp_path):
    code, out, err = evaluate("--json", tmp_path / "figures" / "result.json")
    assert (code, err) == (0, "")
    result = json.loads((tmp_path / "figures" / "result.json").read_text())
    valid = Corpus.open(run.info["corpus"]["folder"]).valid
    score = bits_per_byte(run.model(), valid, ByteTokenizer(), 8, LENGTH)
    assert result["overall"]["bits_per_byte"] == pytest.approx(score.bits_per_byte, rel=1e-9)
    assert f"{score.bits_per_byte:.4f}" in out
    assert f"{score.bytes:,}" in out
    assert [part["length"] for part in result["lengths"]] == [LENGTH, 2 * LENGTH, 4 * LENGTH]
    for part in result["lengths"]:
        assert f"{part['length']} (" in out
        assert f"{part['bits_per_byte']:.4f}" in out
        assert f"{part['by_position'][2]['loss']:.4f}" in out
    assert (result["step"], result["training_length"]) == (0, LENGTH)


def test_other_data_is_predicted_whole(evaluate, tmp_path):
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("wörter " * 20)
    two.write_text("other words " * 9)
    code, out, _ = evaluate("--data", one, "--data", two, "--json", tmp_path / "result.json")
    result = json.loads((tmp_path / "result.json").read_text())
    assert code == 0
    assert result["overall"]["bytes"] == 8 * 20 + 12 * 9 - 2
    assert result["data"] == f"{one}, {two}"
    assert str(one) in out.replace("\n", "")


def test_lengths_and_tokens_may_be_chosen(evaluate, tmp_path):
    words = ["--length", 8, "--length", 100_000, "--max-tokens", 50, "--json", tmp_path / "result.json"]
    code, out, err = evaluate(*words)
    result = json.loads((tmp_path / "result.json").read_text())
    assert (code, err) == (0, "")
    assert result["overall"]["tokens"] == result["lengths"][0]["tokens"] == 50
    assert "too few for this length" in out
    assert set(result["lengths"][1]) == {"length", "error"}


def test_the_newest_weights_are_measured(tmp_path, evaluate):
    run = make_run(tmp_path / "run")
    before = evaluate(folder=run.folder)[1]
    add_checkpoint(run, 100, seed=1)
    after = evaluate(folder=run.folder)[1]
    assert "step 0" in before
    assert "step 100" in after
    rows = [[line for line in text.splitlines() if line.startswith("│")] for text in (before, after)]
    assert rows[0] != rows[1]


def test_a_cache_of_tokens_that_is_gone_is_made_again(tmp_path, evaluate, monkeypatch):
    run = make_run(tmp_path / "run")
    before = evaluate("--json", tmp_path / "before.json", folder=run.folder)
    (tmp_path / "cache").rename(tmp_path / "gone")
    monkeypatch.setenv("OSTINATO_CACHE", str(tmp_path / "new"))
    assert evaluate("--json", tmp_path / "after.json", folder=run.folder)[0] == before[0] == 0
    losses = [json.loads((tmp_path / name).read_text())["overall"]["loss"] for name in ("before.json", "after.json")]
    assert losses[0] == losses[1]

    (tmp_path / "text.txt").write_text(TEXT + "and more")
    (tmp_path / "new").rename(tmp_path / "gone too")
    code, out, err = evaluate(folder=run.folder)
    assert (code, out) == (2, "")
    assert "has changed since that run began" in err


def test_errors_are_shown_where_figures_would_be():
    measured = {"tokens": 9, "bytes": 9, "loss": 1.0, "standard_error": None, "bits_per_byte": 1.4, "perplexity": None}
    result = {
        "run": "runs/[a]",
        "step": 5,
        "parameters": 1000,
        "data": "text",
        "training_length": 16,
        "overall": {"context": None, "error": "it broke"},
        "lengths": [{"length": 16, **measured, "by_position": []}, {"length": 32, "error": "too long [for it]"}],
    }
    shown = io.StringIO()
    show(result, Console(width=120, file=shown))
    for words in ("runs/[a], step 5", "stream: it broke", "length 32: too long [for it]", "1.4000"):
        assert words in shown.getvalue()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--length", "0"], "--length is a number of tokens, at least 1; got 0"),
        (["--length", "long"], "Invalid value for '--length'"),
        (["--max-tokens", "0"], "Invalid value for '--max-tokens'"),
        (["--batch-size", "0"], "Invalid value for '--batch-size'"),
        (["--data", "nowhere"], "no file or folder 'nowhere'"),
        (["--json", "."], "'.' is a directory"),
        (["--device", "abacus"], "a device is auto, cpu, cuda, cuda:1, ...; got 'abacus'"),
        (["--lenght", "5"], "--length"),
    ],
)
def test_what_the_user_got_wrong_is_one_line(evaluate, words, message):
    code, out, err = evaluate(*words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("ostinato: ")
    assert err.count("\n") == 1


def test_text_with_nothing_to_predict_is_one_line(evaluate, tmp_path):
    (tmp_path / "one.txt").write_text("a")
    code, _, err = evaluate("--data", tmp_path / "one.txt")
    assert code == 2
    assert "at least 2" in err


def test_folders_that_are_no_runs_are_one_line(evaluate, tmp_path):
    code, out, err = evaluate(folder=tmp_path)
    assert (code, out) == (2, "")
    assert "is no run folder" in err


def test_a_command_that_measured_nothing_says_so(evaluate, tmp_path):
    run = make_run(tmp_path / "run", pattern="attention")
    code, out, err = evaluate("--length", 100, "--max-tokens", 50, folder=run.folder)
    assert (code, err) == (1, "")
    assert "length 100: the text has 51 tokens, too few for this length" in out
