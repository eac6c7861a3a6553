"""Batteries: which tasks are tried, with models of which size, and for how long. Nothing here imports torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ostinato.registry import did_you_mean

TaskSpec = str | Mapping[str, Any]
"""A task as it is written: "parity", or {"mqar": {"pairs": 16}}."""


@dataclass(frozen=True)
class Battery:
    """Tasks and a budget.

    tasks: what is tried
    params: parameters of each model
    layers: of each model
    steps: updates of the weights
    batch_size: problems of a step
    """

    tasks: tuple[TaskSpec, ...]
    params: int
    layers: int
    steps: int
    batch_size: int = 32


QUICK: tuple[TaskSpec, ...] = (
    {"mqar": {"length": 20, "pairs": 4, "vocabulary": 16}},
    {"selective_copying": {"length": 16, "items": 4, "symbols": 8}},
    {"induction_heads": {"length": 20, "symbols": 8}},
    {"needle_in_a_haystack": {"length": 24, "needles": 2, "names": 8, "digits": 1}},
    {"state_tracking": {"length": 16, "group": "Z2"}},
    {"state_tracking": {"length": 16, "group": "S3"}},
    {"flip_flop": {"length": 24, "ignore": 0.6}},
    {"dyck": {"length": 24, "kinds": 2}},
    {"reverse_string": {"length": 12}},
    {"in_context_regression": {"length": 12, "dim": 2}},
    {"adding_problem": {"length": 24}},
    {"piecewise_stationary": {"length": 32}},
)

STANDARD: tuple[TaskSpec, ...] = (
    {"mqar": {"length": 128, "pairs": 16, "vocabulary": 128}},
    "associative_recall",
    "associative_treecall",
    "verbatim_recall",
    "selective_copying",
    {"copying": {"length": 100}},
    "repeat_sequence",
    {"induction_heads": {"length": 128}},
    {"passkey": {"length": 128}},
    {"needle_in_a_haystack": {"length": 128}},
    "set_disjointness",
    {"state_tracking": {"group": "Z2", "length": 40}},
    {"state_tracking": {"group": "A5", "length": 20}},
    {"state_tracking": {"group": "S5", "length": 20}},
    "forward_referencing",
    {"flip_flop": {"length": 128}},
    "t_maze",
    "dyck",
    {"mildly_context_sensitive": {"language": "copy"}},
    {"mildly_context_sensitive": {"language": "counting"}},
    {"mildly_context_sensitive": {"language": "crossing"}},
    "cross_serial_dependencies",
    "subject_verb_agreement",
    "listops",
    "parity",
    "cycle_navigation",
    "modular_arithmetic",
    "modular_arithmetic_brackets",
    "reverse_string",
    "stack_manipulation",
    "odds_first",
    "binary_addition",
    "bucket_sort",
    {"in_context_regression": {"length": 32}},
    "in_context_language_learning",
    "piecewise_stationary",
    "adding_problem",
    "memory_capacity",
    "mackey_glass",
    "nth_farthest",
)

ZOOLOGY: tuple[TaskSpec, ...] = tuple({"mqar": {"published": f"zoology_{length}"}} for length in (64, 128, 256, 512))

CHOMSKY: tuple[TaskSpec, ...] = (
    "even_pairs modular_arithmetic parity cycle_navigation stack_manipulation reverse_string modular_arithmetic_brackets "
    "solve_equation duplicate_string missing_duplicate odds_first binary_addition binary_multiplication compute_sqrt "
    "bucket_sort"
).split()  # type: ignore[assignment]

PUBLISHED: tuple[TaskSpec, ...] = (
    {"selective_copying": {"length": 4096, "items": 16, "symbols": 16}},
    {"induction_heads": {"length": 256, "symbols": 15}},
    {"flip_flop": {"length": 512, "ignore": 0.8}},
    {"adding_problem": {"length": 2000}},
)

BATTERIES = {
    "quick": Battery(QUICK, params=50_000, layers=2, steps=1_500),
    "standard": Battery(STANDARD, params=200_000, layers=2, steps=4_000, batch_size=64),
    "paper": Battery((*CHOMSKY, *ZOOLOGY, *PUBLISHED), params=1_500_000, layers=2, steps=20_000, batch_size=64),
    "chomsky": Battery(tuple(CHOMSKY), params=200_000, layers=2, steps=10_000, batch_size=64),
    "zoology": Battery(ZOOLOGY, params=1_500_000, layers=2, steps=20_000, batch_size=64),
}
"""quick: about five minutes for one mixer on two cores. chomsky and zoology have the tasks of their papers; paper has both, and
the published lengths of Mamba's selective copying and induction heads, of flip-flop languages and of LEM's adding problem."""


def find_battery(name: str) -> Battery:
    """The battery of that name."""
    if name not in BATTERIES:
        known = ", ".join(BATTERIES)
        raise ValueError(f"battery is one of {known}; got {name!r}{did_you_mean(name, BATTERIES)}")
    return BATTERIES[name]
