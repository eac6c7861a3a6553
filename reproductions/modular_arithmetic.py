"""Sums modulo three: LSTM and sLSTM learn them, but here none of the models goes on beyond the training length.

Grazzi et al. 2024 (arXiv:2411.12537, table 2): modular arithmetic is learned by sLSTM and by DeltaNet with eigenvalues in
[-1, 1], and hardly by Transformers, mLSTM, Mamba and DeltaNet with eigenvalues in [0, 1]. Deletang et al. 2022
(arXiv:2207.02098, table 1): RNN and LSTM go on beyond the training length, Transformers do not.

Here: 8 to 20 digits below three, whose sum modulo three is asked at every place; products are left out. Models of width 32: one
layer for LSTM, sLSTM and DeltaProduct, two for Mamba.
"""

import torch

from ostinato.diagnose.learning import ask, learn
from ostinato.models.language_model import LanguageModel
from ostinato.reproduce import Claim
from ostinato.tasks.state_tracking import StateTracking

PAPERS = ("xlstm", "chomsky_hierarchy")
NOT_REPRODUCED = (
    "400 to 700 updates of one layer: LSTM and sLSTM learn the sums, but not one of several learning rates, widths and lengths of"
    " training made them go on to four times the length; DeltaNet and DeltaProduct with negative eigenvalues, which solve"
    " parity and walks in S3 in this time, did not learn them, and Mamba learned most of them"
)
GATED = {"lstm": "lstm", "slstm": {"slstm": {"heads": 2}}}
LINEAR = {
    "delta_product (0, 2)": {"delta_product": {"steps": 2}},
}
FAIL = {"mamba": "mamba"}
MIXERS = GATED | LINEAR | FAIL
ONE_LAYER = (*GATED, "delta_product (0, 2)")


class Sums(StateTracking):
    """The word problem of lengths from 8 on."""

    varied = True
    shortest = 8


def trials(short: bool) -> list[dict]:
    if short:
        return [{"mixer": "lstm", "steps": 400}]
    return [{"mixer": mixer, "steps": 400} for mixer in MIXERS]


def trial(mixer: str, steps: int) -> dict:
    task = Sums(20, group="Z3")
    torch.manual_seed(0)
    model = LanguageModel(task.vocab_size, 32, layers=1 if mixer in ONE_LAYER else 2, pattern=[MIXERS[mixer]])
    learned = learn(model, task, steps=steps, learning_rate=1e-2, weight_decay=0.0)
    return {
        "loss": learned.losses[-1],
        "accuracy": ask(model, task, 1).score,
        "accuracy at 4 times": ask(model, task, 4).score,
    }


def claims(rows: list[dict], short: bool) -> list[Claim]:
    def scores(which: dict, what: str = "accuracy") -> dict[str, float]:
        return {row["mixer"]: row[what] for row in rows if row["mixer"] in which}

    def tell(found: dict[str, float]) -> str:
        return ", ".join(f"{mixer} {score:.2f}" for mixer, score in found.items())

    near = scores(GATED)
    said = [
        Claim(
            "gates that read the state learn sums modulo three",
            "sLSTM 0.79 scaled (2411.12537, table 2)",
            tell(near),
            min(near.values()) > 0.85,
        ),
    ]
    if short:
        return said
    far, linear = scores(GATED, "accuracy at 4 times"), scores(LINEAR)
    return [
        *said,
        Claim(
            "Mamba does not",
            "0.1 scaled (2411.12537, table 2)",
            tell(scores(FAIL)),
            max(scores(FAIL).values()) < 0.75,
        ),
        Claim(
            "they go on beyond the training length",
            "above 0.9 (2207.02098, table 1)",
            tell(far),
            min(far.values()) > 0.9,
        ),
        Claim(
            "negative eigenvalues learn them too",
            "DeltaNet 0.97 scaled (2411.12537, table 2)",
            tell(linear),
            min(linear.values()) > 0.9,
        ),
    ]
