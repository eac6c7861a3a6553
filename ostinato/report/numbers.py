"""Numbers for people: three digits that matter, a unit, and a space that does not break."""

import math

SPACE = "\u00a0"
MINUS = "\u2212"


def digits(value: float, figures: int = 3) -> str:
    """A number with so many figures and without an exponent: 0.0123, 1.23, 12.3, 123, 1,234."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    decimals = max(0, figures - 1 - math.floor(math.log10(abs(value))))
    if decimals and float(f"{abs(value):.{decimals}f}") >= 10 ** (figures - decimals):
        decimals -= 1  # 9.999 has become 10.0
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def with_unit(value: float, units: tuple[tuple[float, str], ...], figures: int = 3) -> str:
    """The number in the largest unit that is not larger than it."""
    size, unit = units[0]
    for size_, unit_ in units:
        if abs(value) >= size_ * (1 - 0.5 * 10**-figures):
            size, unit = size_, unit_
    text = digits(value / size, figures)
    return f"{text}{SPACE}{unit}" if unit else text


def count(value: float) -> str:
    """Numbers of parameters and tokens: 950, 301 k, 1.05 M."""
    return with_unit(value, ((1, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T")))


def data_size(value: float) -> str:
    """Bytes: 512 B, 16 KiB, 1.05 MiB."""
    text = with_unit(value, tuple((1024.0**n, unit) for n, unit in enumerate(("B", "KiB", "MiB", "GiB", "TiB"))))
    return text if "." not in text else _without_zeros(text)


def length(tokens: float) -> str:
    """A number of tokens, in powers of two where it is one: 1, 256, 1k, 16k, 1M."""
    for size, unit in ((1 << 20, "M"), (1 << 10, "k")):
        if tokens >= size and tokens % size == 0:
            return f"{tokens / size:,.0f}{unit}"
    return f"{tokens:,g}" if tokens < 1e6 else f"{tokens:,.0f}"


def duration(seconds: float) -> str:
    """A time in words: 45 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 99.5:
        return f"{digits(seconds, 2)}{SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{SPACE}min" + (f"{SPACE}{rest}{SPACE}s" if rest else "")
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}{SPACE}h" + (f"{SPACE}{minutes}{SPACE}min" if minutes else "")


def bits(value: float) -> str:
    """Bits per byte: three decimals show what differs between runs."""
    return f"{value:.3f}"


def short(value: float) -> str:
    """A tick of an axis: 0.5, 2, 200k, 1M; no more figures than it needs."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _without_zeros(text: str) -> str:
    number, unit = text.split(SPACE)
    return f"{number.rstrip('0').rstrip('.')}{SPACE}{unit}"
