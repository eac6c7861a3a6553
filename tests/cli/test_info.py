"""ostinato info, and the measurements that it shows."""

import inspect

import pytest

from ostinato import create, entries
from ostinato.catalogue import formula, measure, ops_of, readable_bytes
from ostinato.cli.__main__ import main
from ostinato.contract import SequenceModule
from ostinato.registry import find


def printed(capsys, *arguments):
    assert main(arguments) == 0
    return capsys.readouterr().out


def test_it_says_what_a_mixer_is(capsys):
    text = printed(capsys, "info", "gla")
    assert text.startswith("mixer:gla    ostinato.mixers.linear_recurrence.gla.GLA\n\nGated linear attention")
    assert "\n    S_t = diag(a_t) S_{t-1} + k_t v_t^T" in text
    assert "https://arxiv.org/abs/2312.06635" in text
    assert "tests/laws/test_laws.py::test_law" in text
    assert "    heads = 4         number of heads H\n" in text
    assert "    dim               width D of input and output\n" in text
    parameters = sum(parameter.numel() for parameter in create("gla", dim=256).parameters())
    assert f"parameters   {parameters:,}\n" in text
    assert "state        constant: 32 KiB after 1k, 32 KiB after 16k, 32 KiB after 1M tokens\n" in text


def test_it_says_how_a_cache_grows(capsys):
    text = printed(capsys, "info", "attention")
    assert "state        grows with the sequence: " in text
    assert "GiB after 1M tokens" in text
    assert "operations a token in matrix products for a sequence of 1,024, " in text


def test_a_function_has_arguments_and_no_sizes(capsys):
    text = printed(capsys, "info", "op:scan")
    assert "h_t = a_t h_{t-1} + x_t" in text
    assert "    decay " in text
    assert "parameters   " not in text


def test_what_reads_whole_sequences_has_no_state(capsys):
    assert "state        no state: it reads whole sequences\n" in printed(capsys, "info", "bidirectional")


def test_an_unknown_name(capsys):
    assert main(["info", "minlstm"]) == 2
    assert "did you mean" in capsys.readouterr().err


@pytest.mark.parametrize(
    "entry",
    [e for e in entries() if inspect.isclass(e.target) and issubclass(e.target, SequenceModule)],
    ids=lambda entry: entry.key,
)
def test_everything_can_be_measured(entry):
    sizes = measure(entry, dim=64)
    assert sizes is not None
    assert sizes.parameters > 0
    assert sizes.growth
    assert sizes.cost


def test_costs_are_measured():
    """By hand: 4 projections of D x D at 2 D D operations, and q k^T and its product with v at 2 T D each."""
    D = 64
    attention = measure(find("attention"), dim=D)
    assert attention is not None
    assert attention.flops == {T: 2 * 4 * D * D + 2 * 2 * T * D for T in (256, 1024)}
    window = 4 * 2 * 1024 * D + 1024
    assert attention.state_bytes["1k"] == pytest.approx(window, rel=0.01)
    gla = measure(find("gla"), dim=D)
    assert gla is not None
    assert gla.flops[256] == pytest.approx(gla.flops[1024], rel=0.01)


def test_the_formula_of_a_docstring():
    assert (
        formula("Sums.\n\n    y = a\n      + b\n    z = c\n\nText, w = 1.\n\n    more = 2\n") == "y = a\n  + b\nz = c"
    )
    assert formula("Sums.\n\nText.\n\n    y = a\n") == "y = a"
    assert formula("Sums.\n\n    y = a\n") == formula("Sums.\n\ny = a\n") == "y = a"
    assert formula("Sums.\n\nText.\n") == formula("Sums.") == ""


def test_growth_in_words():
    assert measure(find("gla"), dim=64).growth == "constant"
    assert measure(find("attention"), dim=64).growth == "grows with the sequence"


def test_the_ops_of_a_mixer_are_found():
    assert ops_of(find("gla")) == ["linear_attention"]
    assert ops_of(find("mlstm")) == ["linear_attention"]
    assert ops_of(find("min_gru")) == ["scan"]
    assert ops_of(find("lstm")) == ["rnn"], "through the cells"
    assert ops_of(find("ttt_mlp")) == ["test_time"], "through the class that it extends"
    assert ops_of(find("op:scan")) == []


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (1536, "1.5 KiB"), (2**20, "1 MiB"), (2**31, "2 GiB"), (2**60, "1048576 TiB")],
)
def test_bytes_are_readable(number, text):
    assert readable_bytes(number) == text
