"""A number of parameters picks the width."""

import pytest
import torch

from ostinato import LanguageModel
from ostinato.models.budget import format_count, parameter_count, parse_count, solve_width

SHAPES = [
    dict(pattern="gla"),
    dict(pattern="gla", layers=2, mlp="gelu", tie=False),
    dict(pattern=[{"gla": {"heads": 3}}], layers=3),
    dict(pattern=["gla", "gated_deltanet"], mlp=None),
    dict(pattern="mamba2", layers=3),
    dict(pattern=[{"attention": {"heads": 6}}]),
]


def neighbour(dim, direction, shape):
    """The number of parameters at the next width that can be built."""
    while dim := dim + direction:
        try:
            return parameter_count(300, dim=dim, **shape)
        except ValueError:
            continue
    return 0


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("params", [200_000, 1_000_000, 30_000_000])
def test_the_nearest_width_is_found(shape, params):
    dim, size = solve_width(params, 300, **shape)
    assert size == parameter_count(300, dim=dim, **shape)
    assert dim % 8 == 0
    for direction in (-8, 8):
        assert abs(size - params) <= abs(neighbour(dim, direction, shape) - params)


@pytest.mark.parametrize("mixer", ["gla", "gated_deltanet", "min_gru", "attention"])
@pytest.mark.parametrize("params", [1_000_000, 5_000_000])
def test_a_budget_is_met_closely_where_any_multiple_of_8_will_do(mixer, params):
    assert solve_width(params, 256, pattern=mixer)[1] == pytest.approx(params, rel=0.06)


def test_counted_without_being_built_for_real():
    shape = dict(dim=24, layers=3, pattern=["gla"], tie=False)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    count = parameter_count(77, **shape)
    assert torch.equal(torch.get_rng_state(), before)
    assert count == sum(parameter.numel() for parameter in LanguageModel(77, **shape).parameters())
    assert parameter_count(77, **shape | {"tie": True}) == count - 77 * 24


def test_a_budget_that_cannot_be_met():
    with pytest.raises(
        ValueError, match=r"params: 1,000 cannot be met: the narrowest such model, dim 24, has [\d,]+ parameters"
    ):
        solve_width(1000, 256, pattern=[{"gla": {"heads": 3}}])
    with pytest.raises(ValueError, match="params is a number of parameters, at least 1; got 0"):
        solve_width(0, 256)
    with pytest.raises(ValueError, match="no width up to 512 suits this model: dim is shared evenly by the heads"):
        solve_width(10**6, 256, pattern=[{"gla": {"heads": 1009}}])


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("5M", 5_000_000),
        ("100k", 100_000),
        ("1.3b", 1_300_000_000),
        ("2G", 2 * 10**9),
        ("1e6", 10**6),
        ("1_000", 1000),
        (7.0, 7),
        (12, 12),
    ],
)
def test_counts(text, count):
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "M", "5X", "1.5", "0.0001k", "inf", "nan", "five"])
def test_what_is_no_count(text):
    with pytest.raises(ValueError, match=r"a count is a whole number such as 250000, 100k, 5M or 1\.3B; got"):
        parse_count(text)


def test_counts_are_written_shortly():
    assert [format_count(n) for n in (5, 1234, 5_000_000, 1_300_000_000)] == ["5", "1.23k", "5M", "1.3B"]
