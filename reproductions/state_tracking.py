"""Products of permutations need a transition that does not commute: DeltaProduct and LSTM follow them, Mamba does not.

Merrill, Petty, Sabharwal 2024 (arXiv:2404.08819, figure 3): with one layer an RNN solves the word problem of A5, Transformers,
S4 and Mamba need more layers the longer it is. Siems et al. 2025 (DeltaProduct, arXiv:2502.10297, figures 4 and 5): several
Householder steps solve S3 to S5, with eigenvalues in [-1, 1]. Movahedi et al. 2025 (arXiv:2503.10799) compare dense and diagonal
transitions on the same task.

Here: walks in S3, the smallest group that does not commute, by staying, swapping the last two or swapping the first two; 6 to 16
moves, asked at every place, and at 4 times the length. Models of width 32; those that solve it have one layer, the others two.
S3 is solvable: what is shown is the transition that is missing, not the complexity class that A5 and S5 are about. Those, and S3
with all six elements as moves, were not learned here in the few hundred updates of a reproduction, by DeltaProduct or LSTM.
"""

import torch

from ostinato.diagnose.learning import ask, learn
from ostinato.models.language_model import LanguageModel
from ostinato.reproduce import Claim
from ostinato.tasks.state_tracking import StateTracking

PAPERS = ("fixed_point_rnn",)
SOLVE = {
    "lstm": "lstm",
    "delta_product": {"delta_product": {"steps": 2}},
}
FAIL = {
    "mamba": "mamba",
    "attention": "attention",
    "delta_product (0, 1)": {"delta_product": {"steps": 2, "negative_eigenvalues": False}},
}
MIXERS = SOLVE | FAIL


class Walk(StateTracking):
    """The word problem of lengths from 6 on."""

    varied = True
    shortest = 6


def trials(short: bool) -> list[dict]:
    if short:
        return [{"mixer": "lstm", "steps": 300}, {"mixer": "mamba", "steps": 80}]
    return [{"mixer": mixer, "steps": 300} for mixer in MIXERS]


def trial(mixer: str, steps: int) -> dict:
    task = Walk(16, group="S3", moves=3)
    torch.manual_seed(0)
    model = LanguageModel(task.vocab_size, 32, layers=1 if mixer in SOLVE else 2, pattern=[MIXERS[mixer]])
    learned = learn(model, task, steps=steps, learning_rate=2e-2, weight_decay=0.0)
    return {
        "loss": learned.losses[-1],
        "accuracy": ask(model, task, 1).score,
        "accuracy at 4 times": ask(model, task, 4).score,
    }


def claims(rows: list[dict], short: bool) -> list[Claim]:
    found = {row["mixer"]: row["accuracy at 4 times"] for row in rows}
    solved = {mixer: score for mixer, score in found.items() if mixer in SOLVE}
    failed = {mixer: score for mixer, score in found.items() if mixer in FAIL}
    return [
        Claim(
            "gates that read the state, or products of Householder matrices, follow a group that does not commute",
            "an RNN of one layer solves A5 (2404.08819, figure 3), DeltaProduct S3 to S5 (2502.10297, figure 4)",
            ", ".join(f"{mixer} {score:.2f}" for mixer, score in solved.items()),
            min(solved.values()) > 0.9,
        ),
        Claim(
            "attention, Mamba and eigenvalues in [0, 1] lose their way beyond the training length",
            "they need more layers the longer the problem is (2404.08819, figure 3)",
            ", ".join(f"{mixer} {score:.2f}" for mixer, score in failed.items()),
            max(failed.values()) < 0.5,
        ),
    ]
