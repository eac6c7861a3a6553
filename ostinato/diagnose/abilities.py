"""What a task shows: the tasks of each ability, and what a mixer has of it. Nothing here imports torch.

share = (score - chance) / (1 - chance), from 0 for guessing to 1 for perfect
ability = mean of the shares of its tasks
"""

from collections.abc import Iterable
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ostinato.diagnose.trial import Trial

TASKS = {
    "recall": "associative_recall mqar passkey needle_in_a_haystack set_disjointness prompted_function_lookup "
    "associative_treecall",
    "copying": "copying selective_copying repeat_sequence induction_heads verbatim_recall duplicate_string",
    "state tracking": "state_tracking parity cycle_navigation modular_arithmetic flip_flop forward_referencing even_pairs "
    "position_sensitive",
    "languages": "dyck mildly_context_sensitive cross_serial_dependencies subject_verb_agreement listops stack_manipulation "
    "modular_arithmetic_brackets solve_equation reverse_string missing_duplicate odds_first binary_addition "
    "binary_multiplication compute_sqrt bucket_sort",
    "learning in context": "in_context_regression in_context_language_learning piecewise_stationary",
    "memory": "adding_problem memory_capacity mackey_glass nth_farthest t_maze sequential_digits",
}
"""The abilities, and the tasks that show them."""

OTHER = "other tasks"
_ABILITIES = {task: ability for ability, tasks in TASKS.items() for task in tasks.split()}


def ability_of(task: str) -> str:
    """What the task of that name shows."""
    return _ABILITIES.get(task, OTHER)


def share(score: float, chance: float) -> float:
    """How far a score is from guessing (0) to perfect (1)."""
    return min(1.0, max(0.0, (score - chance) / (1 - chance)))


def mean_share(trials: Iterable["Trial"], times: int) -> float | None:
    """The mean over tasks of what is better than guessing at a multiple of the training length; None where none was asked."""
    shares: dict[str, list[float]] = {}
    for trial in trials:
        if (score := trial.score(times)) is not None:
            shares.setdefault(trial.task, []).append(share(score, trial.chance))
    return fmean(map(fmean, shares.values())) if shares else None


def abilities(trials: Iterable["Trial"]) -> list[str]:
    """Those that these trials show, in the order of the list above."""
    shown = {trial.ability for trial in trials}
    return [ability for ability in (*TASKS, OTHER) if ability in shown]


def profile(trials: Iterable["Trial"], times: int) -> dict[str, float | None]:
    """What these trials have of each ability that they show, at a multiple of the training length."""
    trials = list(trials)
    return {
        ability: mean_share((trial for trial in trials if trial.ability == ability), times)
        for ability in abilities(trials)
    }
