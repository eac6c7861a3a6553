"""Numbers, axes and labels of the report."""

import pytest

from ostinato.report.numbers import bits, count, data_size, digits, duration, length, short
from ostinato.report.plot import key, spread
from ostinato.report.scale import Axis, around


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (digits, 0.012345, "0.0123"),
        (digits, 9.999, "10.0"),
        (digits, 99.96, "100"),
        (digits, 1234.5, "1,234"),
        (digits, 0, "0"),
        (digits, -1.5, "\u22121.50"),
        (digits, float("inf"), "inf"),
        (count, 317_184, "317\u00a0k"),
        (count, 999_900, "1.00\u00a0M"),
        (count, 950, "950"),
        (data_size, 0, "0\u00a0B"),
        (data_size, 512, "512\u00a0B"),
        (data_size, 16 * 1024, "16\u00a0KiB"),
        (data_size, 1.5 * 1024**2, "1.5\u00a0MiB"),
        (data_size, 100 * 1024, "100\u00a0KiB"),
        (duration, 0.25, "0.25\u00a0s"),
        (duration, 45, "45\u00a0s"),
        (duration, 200, "3\u00a0min\u00a020\u00a0s"),
        (duration, 7500, "2\u00a0h\u00a05\u00a0min"),
        (length, 16384, "16k"),
        (length, 1 << 20, "1M"),
        (length, 1000, "1,000"),
        (short, 200_000, "200k"),
        (short, 0.5, "0.5"),
        (bits, 2.3456, "2.346"),
    ],
)
def test_numbers_as_people_write_them(form, value, text):
    assert form(value) == text


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis("", 0, 100), [0, 20, 40, 60, 80, 100]),
        (Axis("", 2.28, 2.61), [2.3, 2.4, 2.5, 2.6]),
        (Axis("", 1, 1 << 20, log=2), [1, 16, 256, 4096, 65536, 1 << 20]),
        (Axis("", 900, 30_000, log=10), [1000, 2000, 5000, 10_000, 20_000]),
        (Axis("", -0.001, 0.001), [-0.001, -0.0005, 0, 0.0005, 0.001]),
    ],
)
def test_ticks_are_round_and_on_the_axis(axis, ticks):
    assert axis.ticks(6) == pytest.approx(ticks)
    assert all(-1e-9 <= axis.place(tick) <= 1 + 1e-9 for tick in ticks)


@pytest.mark.parametrize("values", [[], [0.0], [2.5], [float("nan"), 1.0], [-3.0, 7.0]])
@pytest.mark.parametrize("log", [0, 2, 10])
def test_an_axis_has_an_extent_whatever_it_holds(values, log):
    axis = around(values, "loss", log=log)
    assert axis.low < axis.high
    assert axis.ticks(5)


def test_labels_keep_their_order_and_their_distance():
    placed = spread([50, 10, 11, 12, 100, 99], gap=10, room=100)
    assert placed == [50, 10, 20, 30, 100, 90]


def test_labels_that_do_not_fit_still_have_their_distance():
    placed = spread([5, 5, 5, 5], gap=10, room=20)
    assert [b - a for a, b in zip(placed, placed[1:])] == [10, 10, 10]


def test_keys_go_on_after_z():
    assert [key(rank) for rank in (0, 25, 26, 27, 52, 702)] == ["A", "Z", "AA", "AB", "BA", "AAA"]
