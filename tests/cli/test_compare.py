"""`ostinato compare` on the command line: thin, quick to refuse, one line for each mistake."""

import pytest

from ostinato.cli.__main__ import main


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Nothing of the user's is read or written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OSTINATO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 200)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "mixer.yaml").write_text("model: {mixer: gla}")
    (tmp_path / "broken.yaml").write_text("model: [")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "Missing argument"),
        ("gla mingru", "there is no 'mingru' in ostinato (did you mean min_gru"),
        ("gla gla", "gla is named twice"),
        ("gla+", "a mixer is written as gla, gla+attention or {attention: {window: 64}}; got 'gla+'"),
        ("{gla:{heads:2}", "a mixer is written as"),
        ("gla+{gla:2}", "there is no '{gla:2}'"),
        ("[{gla: {head: 2}}]", "has no argument 'head' (did you mean heads?)"),
        ("gla --params much", "model.params: a whole number"),
        ("gla --params 200", "cannot be met"),
        ("gla --tokens -1", "train.tokens"),
        ("gla --length 0", "train.length"),
        ("gla --seeds 0", "--seeds"),
        ("gla --workers 0", "--workers"),
        ("gla --layers 0", "layers"),
        ("gla --set clip=1", "--set takes SECTION.KEY=VALUE"),
        ("gla --set train.clap=1", "train.clap: no such key (did you mean clip?)"),
        ("gla --config none.yaml", "no config file none.yaml"),
        ("gla --config broken.yaml", "broken.yaml: not YAML"),
        ("gla --config mixer.yaml", "a comparison names its mixers itself"),
        ("gla --data nowhere", "nowhere"),
        ("gla --data empty.txt", "empty.txt"),
        ("gla --out text.txt", "text.txt holds something else than a comparison"),
        ("gla --sede 3", "--seed"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(words, message, capsys, tmp_path):
    arguments = [words] if words[:1] in ("{", "[") else words.split()
    if "--data" not in arguments:
        arguments += ["--data", "text.txt"]
    assert main(["compare", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ostinato: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "runs").exists()  # nothing was begun


def test_help_says_what_there_is(capsys):
    assert main(["compare", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for word in ("--params", "--tokens", "--seeds", "--workers", "--ray", "--out", "continues a comparison"):
        assert word in text
