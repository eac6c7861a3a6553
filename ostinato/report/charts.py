"""The plots of the report: which curves there are, over which axes, and what each says in words."""

import math
from collections.abc import Sequence

from ostinato.report.numbers import bits, count, data_size, digits, duration, length
from ostinato.report.plot import Series, lines, scatter
from ostinato.report.results import Comparison
from ostinato.report.scale import Axis, around
from ostinato.report.summary import Row, Spread

LOSS = "validation bits per byte"
KNOWN = 8  # position from which on a loss says something about the model

Curve = list[tuple[float, Spread]]


def by_tokens(rows: Sequence[Row]) -> str:
    """Validation loss against tokens trained on."""
    curves = [row.along(lambda run: run.curve, lambda p: p.tokens, lambda p: p.bits_per_byte) for row in rows]
    high = max((curve[-1][0] for curve in curves if curve), default=1)
    x = Axis("tokens trained on", 0, high * 1.02)
    return _losses(rows, curves, x, lambda value: f"{count(value)} tokens", "Validation loss by tokens trained on")


def by_time(rows: Sequence[Row]) -> str:
    """Validation loss against seconds of training."""
    curves = [row.along(lambda run: run.curve, lambda p: p.seconds, lambda p: p.bits_per_byte) for row in rows]
    high = max((curve[-1][0] for curve in curves if curve), default=1)
    unit, name = (3600, "hours") if high >= 2 * 3600 else (60, "minutes") if high >= 180 else (1, "seconds")
    x = Axis(f"{name} of training", 0, high * 1.02, format=lambda value: f"{value:g}")
    scaled = Axis(x.title, 0, x.high / unit, format=x.format)
    curves = [[(at / unit, loss) for at, loss in curve] for curve in curves]
    return _losses(rows, curves, scaled, lambda value: duration(value * unit), "Validation loss by time of training")


def _losses(rows: Sequence[Row], curves: Sequence[Curve], x: Axis, moment, summary: str) -> str:
    late = [
        value
        for curve in curves
        for _, loss in (curve[1:] if len(curve) > 3 else curve)
        for value in (loss.mean, loss.low, loss.high)
    ]
    return lines(_series(rows, curves, moment), x, around(late, LOSS), f"{summary}. {_ranking(rows)}")


def by_position(rows: Sequence[Row], comparison: Comparison) -> str:
    """Loss of a token against how many came before it, on past the length of training."""
    curves = [
        row.along(lambda run: run.positions, lambda p: math.sqrt(p.first * p.last), lambda p: p.bits_per_byte)
        for row in rows
    ]
    places = [at for curve in curves for at, _ in curve] or [1, comparison.length]
    # the first tokens of a sequence can only be guessed: their losses are cut off so that the others are seen apart
    known = min(KNOWN, max(places) / 4)
    values = [value for curve in curves for at, loss in curve if at >= known for value in (loss.low, loss.high)]
    x = Axis("position in the sequence", known / 2, max(places) * 1.1, log=2, format=length)
    summary = f"Loss by position in the sequence, up to {x.high:.0f}; models were trained at {comparison.length}."
    edges = [(comparison.length, "trained up to here")]
    return lines(
        _series(rows, curves, lambda at: f"position {at:.0f}"),
        x,
        around(values, LOSS),
        summary,
        edges,
    )


def state_sizes(rows: Sequence[Row]) -> str:
    """Bytes of the state against tokens read."""
    curves = [
        row.along(lambda run: sorted(run.state_bytes.items()), lambda part: part[0], lambda part: part[1])
        for row in rows
    ]
    values = [loss.mean for curve in curves for _, loss in curve]
    tokens = [at for curve in curves for at, _ in curve] or [1, 10]
    x = Axis("tokens read", min(tokens) * 0.8, max(tokens) * 1.25, log=2, format=length)
    y = around(values, "bytes of state", log=2, format=data_size)
    series = [
        Series(
            row.mixer,
            rank,
            [(at, size.mean) for at, size in curve],
            hints=[f"{row.mixer}: {data_size(size.mean)} after {length(at)} tokens" for at, size in curve],
        )
        for rank, (row, curve) in enumerate(zip(rows, curves, strict=True))
    ]
    return lines(series, x, y, "Bytes of state by number of tokens read")


def quality_and_speed(rows: Sequence[Row]) -> str:
    """Final loss against speed of training: better is lower and further right."""
    speeds = [Spread.of(run.train_tokens_per_second for run in row.runs).mean for row in rows]
    series = [
        Series(
            row.mixer,
            rank,
            [(speed, loss.mean)],
            low=[loss.mean - loss.deviation] if loss.deviation else [],
            high=[loss.mean + loss.deviation] if loss.deviation else [],
            hints=[f"{row.mixer}: {bits(loss.mean)} bits per byte, {digits(speed)} tokens per second"],
        )
        for rank, (row, speed, loss) in enumerate(zip(rows, speeds, [row.final for row in rows], strict=True))
        if math.isfinite(loss.mean)
    ]
    ends = [value for one in series for value in (*one.low, *one.high, one.points[0][1])]
    x = around(speeds, "tokens per second of training", log=10 if max(speeds) > 3 * min(speeds) else 0)
    return scatter(series, x, around(ends, "final " + LOSS), f"Final loss by speed of training. {_ranking(rows)}")


def _series(rows: Sequence[Row], curves: Sequence[Curve], moment) -> list[Series]:
    found = []
    for rank, (row, curve) in enumerate(zip(rows, curves, strict=True)):
        several = len(row.runs) > 1
        found.append(
            Series(
                row.mixer,
                rank,
                [(at, loss.mean) for at, loss in curve],
                low=[loss.low for _, loss in curve] if several else [],
                high=[loss.high for _, loss in curve] if several else [],
                hints=[f"{row.mixer}: {bits(loss.mean)} bits per byte at {moment(at)}" for at, loss in curve],
            )
        )
    return found


def _ranking(rows: Sequence[Row]) -> str:
    return "At the end: " + ", ".join(f"{row.mixer} {bits(row.final.mean)}" for row in rows)
