"""Parity asks for a state that turns around: LSTM, sLSTM and DeltaNet with negative eigenvalues solve longer strings too.

Transformers, Mamba, mLSTM and DeltaNet as it was published do not: a diagonal or non-negative transition cannot flip a bit
forever. Grazzi et al. 2024 (arXiv:2411.12537, table 2: parity is solved by sLSTM, and by DeltaNet and Mamba only once
eigenvalues may lie in [-1, 1]; scaled accuracies 1.0 against 0 to 0.09), Beck et al. 2024 (xLSTM, arXiv:2405.04517,
figure 4: sLSTM 1.0, mLSTM and Transformers near chance).

Here: strings of 8 to 24 bits whose parity is asked at every place, which is learned sooner than at the end alone; models of
12,000 parameters, asked at 4 times the length of training. One layer is enough for LSTM and sLSTM; the others have two.
Half of the answers are right by chance, and the places that training reached count too.
"""

import torch

from ostinato.diagnose.learning import ask, learn
from ostinato.diagnose.model import build_model, model_settings
from ostinato.reproduce import Claim
from ostinato.tasks.state_tracking import StateTracking

PAPERS = ("xlstm", "gated_deltanet")
SOLVE = {
    "lstm": "lstm",
    "slstm": {"slstm": {"heads": 2}},
    "deltanet (0, 2)": {"deltanet": {"negative_eigenvalues": True}},
}
FAIL = {"attention": "attention", "mamba": "mamba", "mlstm": "mlstm", "deltanet": "deltanet"}
MIXERS = SOLVE | FAIL


class Parity(StateTracking):
    """Is the number of ones up to here even? Strings of 8 bits and up."""

    varied = True
    shortest = 8


def trials(short: bool) -> list[dict]:
    if short:
        return [{"mixer": "lstm", "layers": 1, "steps": 350}, {"mixer": "mamba", "layers": 2, "steps": 100}]
    return [{"mixer": mixer, "layers": 1 if mixer in ("lstm", "slstm") else 2, "steps": 400} for mixer in MIXERS]


def trial(mixer: str, layers: int, steps: int) -> dict:
    task = Parity(24, group="Z2")
    torch.manual_seed(0)
    settings, parameters = model_settings(task, 12_000, layers, [MIXERS[mixer]])
    model = build_model(task, settings)
    learned = learn(model, task, steps=steps, learning_rate=2e-2, weight_decay=0.0)
    return {
        "parameters": parameters,
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
            "a transition with negative eigenvalues, or gates that read the state, solve parity beyond the training length",
            "accuracy 1.0 at 40 to 256 bits, trained on up to 40 (2411.12537, table 2; 2405.04517, figure 4)",
            ", ".join(f"{mixer} {score:.2f}" for mixer, score in solved.items()),
            min(solved.values()) > 0.9,
        ),
        Claim(
            "attention and transitions with eigenvalues in [0, 1] do not",
            "no better than chance beyond the training length (same tables)",
            ", ".join(f"{mixer} {score:.2f}" for mixer, score in failed.items()),
            max(failed.values()) < 0.7,
        ),
    ]
