"""Adding a mixer is one file: the one that CONTRIBUTING.md shows, added here while the suite runs."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
import torch

import ostinato
from ostinato.cli.__main__ import main
from ostinato.laws import LAWS, cases
from ostinato.registry import find, forget

ROOT = Path(__file__).parent.parent


def load(name, file):
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def added(tmp_path_factory):
    (shown,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
    file = tmp_path_factory.mktemp("added") / "leaky_average.py"
    file.write_text(shown, encoding="utf-8")
    yield load("leaky_average_of_contributing", file)
    forget("mixer:leaky_average")
    del sys.modules["leaky_average_of_contributing"]


@pytest.fixture(scope="module")
def pages():
    yield load("ostinato_docs_hooks", ROOT / "docs" / "hooks.py")
    del sys.modules["ostinato_docs_hooks"]


def test_it_can_be_created_by_name(added):
    mixer = ostinato.create("leaky_average", dim=6, memory=4)
    assert type(mixer) is added.LeakyAverage
    with pytest.raises(ValueError, match="did you mean memory"):
        ostinato.create("leaky_average", dim=6, memry=4)


def test_it_promises_what_it_says(added):
    """Half of the first token is left after `memory` tokens."""
    mixer = ostinato.create("leaky_average", dim=3, memory=8.0)
    x = torch.zeros(1, 9, 3)
    x[:, 0] = 1
    after = [mixer(x[:, :length])[1].h for length in (1, 9)]
    torch.testing.assert_close(after[1], after[0] / 2)


def test_it_goes_into_a_model_by_its_name_in_a_config(added):
    pattern = [{"leaky_average": {"memory": 2}}, "gla"]
    model = ostinato.LanguageModel(vocab_size=11, dim=8, layers=2, pattern=pattern)
    assert type(model.stack.layers[0].mixer) is added.LeakyAverage
    model.loss(torch.randint(11, (2, 9))).backward()


@pytest.mark.parametrize("law", LAWS)
def test_the_laws_hold_it(added, law):
    found = [case for case in cases() if case.name == "mixer:leaky_average"]
    assert [case.arguments for case in found] == list(added.LeakyAverage.examples)
    for case in found:
        LAWS[law](case)


def test_the_command_line_lists_and_explains_it(added, capsys):
    assert main(["list", "--kind", "mixer", "--json"]) == 0
    row = next(row for row in json.loads(capsys.readouterr().out) if row["name"] == "leaky_average")
    assert row == {
        "kind": "mixer",
        "name": "leaky_average",
        "summary": "Leaky average: every channel forgets at a speed of its own.",
        "papers": [],
        "evidence": "L1",
        "tests": ["tests/laws/test_laws.py::test_law"],
    }
    assert main(["info", "leaky_average"]) == 0
    text = capsys.readouterr().out
    assert "    h_t = a h_{t-1} + (1 - a) W_x x_t" in text
    assert "memory = 16.0  number of tokens after which" in text
    assert "constant: 1 KiB after 1k" in text


def test_the_docs_have_a_row_and_a_section_for_it(added, pages):
    text = pages.kind_page("Mixers", [find("leaky_average")])
    (row,) = [line for line in text.splitlines() if line.startswith("| [`leaky_average`]")]
    assert "`h_t = a h_{t-1} + (1 - a) W_x x_t, y_t = W_o h_t, a = sigmoid(s)`" in row
    assert "| `scan` | constant: 1 KiB at 1k" in row
    assert "| L1 |" in row
    assert "## leaky_average" in text
    assert "| `memory` | `16.0` | number of tokens" in text


def test_forgotten_it_is_gone(added):
    forget("mixer:leaky_average")
    try:
        with pytest.raises(ValueError, match="there is no 'leaky_average'"):
            find("leaky_average")
    finally:
        ostinato.register("leaky_average")(added.LeakyAverage)


def test_pages_escape_what_markdown_would_read(pages):
    assert pages.cell("a | b * c_d\n<x>") == r"a \| b \* c\_d \<x>"
    assert pages.code("a|b\nc") == r"`a\|b c`"
    assert pages.table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_the_pages_of_commands_papers_and_laws(pages):
    commands = pages.commands_page()
    assert "## ostinato list" in commands
    assert "```sh\nostinato list --kind mixer\n```" in commands
    assert "| `NAME` | required |" in commands
    assert "](https://arxiv.org/abs/2312.06635){ #gla } | linear_recurrence | `mixer:gla`" in pages.papers_page()
    laws = pages.laws_table()
    assert all(f"| `{name}` | " in laws for name in LAWS)


def test_the_example_of_the_readme_runs():
    (shown,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in shown.splitlines() if line]) <= 12
    torch.manual_seed(0)
    exec(compile(shown, "README.md", "exec"), {})
