"""Results as JSON, and what follows from them: means, deviations, order, warnings."""

import json
import math
from dataclasses import replace

import pytest

from ostinato.report.results import from_json, read_comparison, to_json
from ostinato.report.summary import Spread, rows, warnings
from tests.report.made_up import failure, made_up_comparison, made_up_run


def test_json_gives_back_what_was_written():
    comparison = made_up_comparison(failures=[failure()], missing=[("gla", 2)])
    assert from_json(to_json(comparison)) == comparison


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"format": 0}', '{"format": 1, "title": "x"}'])
def test_other_json_is_refused(text, tmp_path):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"report\.json: this is not the JSON of a comparison"):
        read_comparison(path)


def test_losses_that_are_not_numbers_survive():
    comparison = made_up_comparison(["gla"], runs=[made_up_run(final_bits_per_byte=math.inf)])
    text = to_json(comparison)
    json.loads(text, parse_constant=pytest.fail)  # Infinity and NaN, which other readers of JSON refuse
    assert math.isnan(from_json(text).runs[0].final_bits_per_byte)


def test_spread_is_worked_out_by_hand():
    spread = Spread.of([2.0, 4.0, 6.0])
    assert (spread.mean, spread.deviation, spread.low, spread.high) == (4.0, 2.0, 2.0, 6.0)
    assert Spread.of([3.0]).deviation is None


def test_the_lowest_loss_comes_first_and_a_diverged_one_last():
    runs = [
        made_up_run("gla", final_bits_per_byte=math.nan),
        made_up_run("attention", final_bits_per_byte=2.2),
        made_up_run("min_gru", final_bits_per_byte=2.1),
    ]
    assert [row.mixer for row in rows(made_up_comparison(runs=runs))] == ["min_gru", "attention", "gla"]


def test_a_fair_comparison_has_no_warnings():
    assert warnings(made_up_comparison(["gla", "min_gru"])) == []


def test_unequal_sizes_are_said():
    runs = [made_up_run("gla", parameters=300_000), made_up_run("attention", parameters=310_000)]
    (size, seeds) = warnings(made_up_comparison(runs=runs))
    assert "gla has 300,000 parameters and attention has 310,000" in size
    assert "--seeds" in seeds
    close = [runs[0], replace(runs[1], parameters=308_000)]
    assert warnings(made_up_comparison(runs=close)) == [seeds]


def test_unequal_numbers_of_runs_and_tokens_are_said():
    runs = [made_up_run("gla", 0), made_up_run("gla", 1), made_up_run("attention", 0, tokens=500_000)]
    text = " ".join(warnings(made_up_comparison(runs=runs)))
    assert "500,000 to 600,000" in text
    assert "different numbers of finished runs, 1 to 2" in text
