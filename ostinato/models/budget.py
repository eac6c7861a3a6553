"""How many numbers a model learns, and how wide it must be to learn as many as a budget allows.

    solve_width(P) = the width d for which |parameters(d) - P| is smallest

d is a multiple of 8 that the mixers of the model accept (heads share a width evenly); it is found by bisection, since a wider
model has more parameters. Models are built on the meta device for this: nothing is allocated, and the random numbers of the
caller stay as they are.
"""

from typing import Any

UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9}
STEP = 8
"""Widths are multiples of this: matrix products like them."""

GAP = 64
"""How many multiples are tried until one suits the heads."""

FAR = 1.25
"""A smallest model larger than the budget by more than this factor does not meet it."""


def parse_count(text: str | int | float) -> int:
    """5000000 for "5M": a whole number, with k, M, B or an exponent if it is long."""
    word = str(text).strip().replace("_", "").lower()
    unit = word[-1:] if word[-1:] in UNITS else ""
    try:
        number = float(word.removesuffix(unit)) * UNITS[unit]
        if number != int(number):
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(f"a count is a whole number such as 250000, 100k, 5M or 1.3B; got {text!r}") from None
    return int(number)


def format_count(count: int) -> str:
    """ "5M" for 5000000, in three digits."""
    for unit in ("B", "M", "k"):
        if count >= UNITS[unit.lower()]:
            return f"{count / UNITS[unit.lower()]:.3g}{unit}"
    return str(count)


def sketch(vocab_size: int, **model: Any) -> Any:
    """A language model to ask about, not to use: without memory for its weights where that is possible."""
    import torch

    from ostinato.models.named import build

    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return build(vocab_size, **model)
        except (NotImplementedError, RuntimeError) as error:
            if "meta" not in str(error):
                raise
            # some initialisations look at their own values, which the meta device does not have
            return build(vocab_size, **model)


def parameter_count(vocab_size: int, **model: Any) -> int:
    """Number of learned numbers of a language model, shared ones once; its arguments as in a config."""
    return sketch(vocab_size, **model).parameter_count()


def solve_width(params: int, vocab_size: int, **model: Any) -> tuple[int, int]:
    """The width whose model has the number of parameters nearest to a budget, and that number.

    params: the budget
    vocab_size: number of different tokens
    model: the other arguments of the model, without dim
    """
    if params < 1:
        raise ValueError(f"params is a number of parameters, at least 1; got {params}")
    from ostinato.models.stack import parse_pattern
    from ostinato.registry import find

    for name, _ in parse_pattern(model["pattern"]) if "pattern" in model else ():
        find(name)  # what does not exist suits no width, and is better told as itself
    sizes = _Sizes(vocab_size, model)
    narrowest = sizes.next(1, +1)
    if narrowest is None:
        raise ValueError(f"no width up to {GAP * STEP} suits this model: {sizes.reason}")
    if sizes[narrowest] > FAR * params:
        raise ValueError(
            f"params: {params:,} cannot be met: the narrowest such model, dim {narrowest * STEP}, has"
            f" {sizes[narrowest]:,} parameters; take fewer layers, a smaller vocabulary or a larger budget"
        )

    def enough(width: int) -> bool:
        found = sizes.next(width, +1)
        if found is None:
            raise ValueError(f"no width from {width * STEP} to {(width + GAP) * STEP} suits this model: {sizes.reason}")
        return sizes[found] >= params

    low, high = narrowest, 2 * narrowest
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    # high is the first from which the next width that suits is wide enough
    found = [width for width in (sizes.next(low, -1), sizes.next(high, +1)) if width is not None]
    best = min(found, key=lambda width: (abs(sizes[width] - params), width))
    return best * STEP, sizes[best]


def matching_expansion(params: int, vocab_size: int, **model: Any) -> float | None:
    """The hidden width of the channel mixers, as a multiple of dim, whose model is nearest to a budget; None where even the
    narrowest is too large. Widths of models come in steps; this meets the budget more closely.

    params: the budget
    vocab_size: number of different tokens
    model: the other arguments of the model, with dim
    """

    def expansion(hidden: int) -> float:
        return round((8 * hidden - 0.5) / model["dim"], 5)  # layers round it up to the next multiple of 8

    def count(hidden: int) -> int:
        return parameter_count(vocab_size, **model | {"expansion": expansion(hidden)})

    first, slope = count(1), count(2) - count(1)
    hidden = 1 + round((params - first) / slope)
    return expansion(hidden) if hidden >= 1 else None


class _Sizes:
    """How many parameters the model has at each multiple of STEP; a width that its heads cannot share has none."""

    def __init__(self, vocab_size: int, model: dict[str, Any]):
        self._vocab_size, self._model = vocab_size, model
        self._known: dict[int, int | None] = {}
        self.reason: ValueError | None = None

    def __getitem__(self, width: int) -> int:
        size = self._look(width)
        assert size is not None
        return size

    def _look(self, width: int) -> int | None:
        if width not in self._known:
            try:
                self._known[width] = parameter_count(self._vocab_size, dim=width * STEP, **self._model)
            except ValueError as error:
                self._known[width] = None
                self.reason = self.reason or error
        return self._known[width]

    def next(self, width: int, direction: int) -> int | None:
        """The first width that suits, from there up or down."""
        last = width + direction * GAP
        return next((each for each in range(width, max(last, 0), direction) if self._look(each) is not None), None)
