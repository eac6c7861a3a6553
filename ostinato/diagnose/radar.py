"""Radars: what a mixer can do, an axis for each ability, from guessing in the middle to perfect at the rim.

Drawn as SVG that needs no script, with the same figures in words inside.
"""

import math
from collections.abc import Mapping, Sequence
from textwrap import wrap

from ostinato.report.plot import COLOURS
from ostinato.report.text import safe

WIDTH, HEIGHT = 292, 212
RADIUS = 76
RINGS = (0.25, 0.5, 0.75, 1.0)
FEWEST = 3
"""Axes of a radar: with fewer it has no area."""

STYLE = """
.radars { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 260px), 1fr)); gap: 1.2rem 1.2rem; margin-top: 1rem; }
.radars svg { display: block; width: 100%; height: auto; max-width: 380px; }
.radars .grid { fill: none; } .radars .rim { stroke: var(--soft); }
.radars h3 { overflow-wrap: anywhere; }
.area { fill: currentColor; opacity: .2; }
.far { stroke-dasharray: 5 4; }
"""

Shares = Mapping[str, float | None]


def radar(name: str, label: str, rank: int, near: Shares, far: Shares, times: int) -> str:
    """The radar of a mixer.

    name: of this drawing, which no other on the page has
    label: the mixer
    rank: its number, which decides its colour
    near, far: what it has of each ability, from 0 to 1 or None, at the length of training and at `times` that length
    """
    axes = list(near)
    grid = "".join(
        f'<path class="grid{" rim" if ring == RINGS[-1] else ""}" d="{_closed([(ring, n) for n in range(len(axes))], len(axes))}"/>'
        for ring in RINGS
    )
    spokes = "".join(f'<path class="grid" d="M0 0L{_at(1.0, n, len(axes))}"/>' for n in range(len(axes)))
    words = "".join(_name(axis, n, len(axes)) for n, axis in enumerate(axes))
    shapes = _shape(near, "line", filled=True) + _shape(far, "line far", filled=False)
    dots = "".join(
        f'<circle class="marker" r="3.5" cx="{x}" cy="{y}"><title>{safe(axis)} {value:.2f}</title></circle>'
        for n, (axis, value) in enumerate(near.items())
        if value is not None
        for x, y in [_at(value, n, len(axes)).split()]
    )
    return (
        f'<svg viewBox="{-WIDTH / 2:g} {-HEIGHT / 2:g} {WIDTH} {HEIGHT}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">What {safe(label)} can do</title><desc id="{name}-d">{safe(in_words(near, far, times))}</desc>'
        f'{grid}{spokes}<g class="c{rank % COLOURS}">{shapes}{dots}</g>{words}</svg>'
    )


def in_words(near: Shares, far: Shares, times: int) -> str:
    """The figures of a radar as a sentence."""
    parts = "; ".join(f"{axis} {_figure(near[axis])}, {_figure(far.get(axis))}" for axis in near)
    return f"From guessing (0) to perfect (1), at the length of training and at {times} times that length: {parts}."


def _figure(value: float | None) -> str:
    return "not asked" if value is None else f"{value:.2f}"


def _at(value: float, n: int, axes: int) -> str:
    angle = 2 * math.pi * n / axes - math.pi / 2
    return f"{RADIUS * value * math.cos(angle):.1f} {RADIUS * value * math.sin(angle):.1f}"


def _closed(points: Sequence[tuple[float, int]], axes: int) -> str:
    return "M" + "L".join(_at(value, n, axes) for value, n in points) + "z"


def _shape(shares: Shares, look: str, *, filled: bool) -> str:
    """A line around; where an axis has no figure it is open on both sides."""
    values = list(shares.values())
    known = [(value, n) for n, value in enumerate(values) if value is not None]
    if len(known) == len(values):
        path = _closed(known, len(values))
        return (f'<path class="area" d="{path}"/>' if filled else "") + f'<path class="{look}" d="{path}"/>'
    sides = [
        f"M{_at(value, n, len(values))}L{_at(after, (n + 1) % len(values), len(values))}"
        for value, n in known
        if (after := values[(n + 1) % len(values)]) is not None
    ]
    return f'<path class="{look}" d="{"".join(sides)}"/>' if sides else ""


def _name(axis: str, n: int, axes: int) -> str:
    """The name of an axis outside of the rim, in lines of a few letters."""
    x, y = map(float, _at(1.13, n, axes).split())
    anchor = "middle" if abs(x) < 12 else "start" if x > 0 else "end"
    lines = wrap(axis, 12) or [axis]
    top = y - 14 * (len(lines) - 1) * (1 if y < -RADIUS else 0.5 if abs(y) <= RADIUS else 0)
    spans = "".join(
        f'<tspan x="{x:.1f}" y="{top + 14 * row:.1f}" dy=".35em">{safe(line)}</tspan>' for row, line in enumerate(lines)
    )
    return f'<text text-anchor="{anchor}">{spans}</text>'
