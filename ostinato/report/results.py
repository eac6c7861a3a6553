"""What a comparison found, as plain values: written to JSON, read back, and drawn by the report.

    Comparison
      runs: [Run]          one for each mixer and seed that was trained
      failures: [Failure]  what could not be trained, and why

Bits per byte is the mean cross-entropy of the validation text in bits, divided by the number of its bytes.
"""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1  # to be raised when the meaning of a field changes
STATE_TOKENS = (1 << 10, 1 << 14, 1 << 20)
"""The lengths for which the size of the state is tabulated: 1k, 16k and 1M tokens."""


@dataclass(frozen=True)
class Point:
    """The validation loss at one moment of training.

    tokens: how many had been trained on
    seconds: time spent on training steps until then, without the time spent on validation
    bits_per_byte: of the validation text
    """

    tokens: int
    seconds: float
    bits_per_byte: float


@dataclass(frozen=True)
class PositionLoss:
    """The loss of the tokens at positions first <= p <= last of a sequence (1 is the first that is predicted)."""

    first: int
    last: int
    bits_per_byte: float


@dataclass(frozen=True)
class LengthLoss:
    """The loss of whole sequences of a length: how well a model goes on beyond the length it was trained at.

    bits_per_byte: None where the model could not be judged at that length
    error: why
    """

    length: int
    bits_per_byte: float | None
    error: str = ""


@dataclass(frozen=True)
class Run:
    """One model, trained and measured. None stands for what could not be measured on this machine.

    mixer: what was compared, as it was asked for
    seed: of the initial weights and the order of the data
    parameters, dim: size of the model, and its width
    tokens: how many it was trained on
    train_seconds: time spent on training steps
    final_bits_per_byte, best_bits_per_byte: of the validation text, at the end and at the best moment
    curve: validation losses while it was trained
    positions: loss by position in the sequence, up to a multiple of the training length
    lengths: loss at the training length and at multiples of it
    train_tokens_per_second, prefill_tokens_per_second, decode_tokens_per_second: see the notes of the report
    peak_memory_bytes: what training needs beside the libraries
    state_bytes: size of the state after that many tokens, {tokens: bytes}
    prompt, sample: a text and how the model goes on
    """

    mixer: str
    seed: int
    parameters: int
    dim: int
    tokens: int
    train_seconds: float
    final_bits_per_byte: float
    best_bits_per_byte: float
    curve: list[Point]
    positions: list[PositionLoss]
    lengths: list[LengthLoss]
    train_tokens_per_second: float
    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    peak_memory_bytes: int | None
    state_bytes: dict[int, int]
    prompt: str
    sample: str


@dataclass(frozen=True)
class Failure:
    """A run that did not end: the error in one line, and where it came from."""

    mixer: str
    seed: int
    error: str
    details: str = ""


@dataclass(frozen=True)
class Comparison:
    """Everything that one report shows.

    title: what was compared on what
    length: training length T
    mixers: in the order in which they were asked for
    made: how it was made, in words for people: {"machine": {"processor": ...}, "data": {...}, ...}
    missing: (mixer, seed) of runs that were not finished when this was written
    """

    title: str
    length: int
    mixers: list[str]
    runs: list[Run]
    failures: list[Failure] = field(default_factory=list)
    missing: list[tuple[str, int]] = field(default_factory=list)
    made: dict[str, dict[str, str]] = field(default_factory=dict)


LOSSES = ("final_bits_per_byte", "best_bits_per_byte", "bits_per_byte")


def plain(value: Any) -> Any:
    """Values for JSON, which has no infinity and no NaN: null stands for a loss that is no number."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    return values | {name: math.nan for name in LOSSES if values.get(name, 0) is None}


def run_from_json(values: dict[str, Any]) -> Run:
    """The run that was turned into plain values."""
    parts: dict[str, Any] = {
        "curve": [Point(**_numbers(part)) for part in values["curve"]],
        "positions": [PositionLoss(**_numbers(part)) for part in values["positions"]],
        "lengths": [LengthLoss(**part) for part in values["lengths"]],
        "state_bytes": {int(tokens): size for tokens, size in values["state_bytes"].items()},
    }
    return Run(**(_numbers(values) | parts))


def to_json(comparison: Comparison) -> str:
    """The whole comparison as JSON."""
    values = plain({"format": FORMAT, **asdict(comparison)})
    return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(text: str) -> Comparison:
    """The comparison that `to_json` wrote; ValueError for anything else."""
    try:
        values = json.loads(text)
        if values.pop("format") != FORMAT:
            raise ValueError(f"it has another format than {FORMAT}, the one that this version writes")
        return Comparison(
            **values
            | {
                "runs": [run_from_json(run) for run in values["runs"]],
                "failures": [Failure(**failure) for failure in values["failures"]],
                "missing": [(mixer, seed) for mixer, seed in values["missing"]],
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"this is not the JSON of a comparison ({error})") from None


def read_comparison(path: str | Path) -> Comparison:
    """The comparison in a file that `ostinato compare` wrote."""
    try:
        return from_json(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
