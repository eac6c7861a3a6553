"""What to remember has to be chosen: Mamba, minGRU and minLSTM copy selectively sooner than a time-invariant state space.

Gu, Dao 2023 (Mamba, arXiv:2312.00752, table 1): selective copying is solved with selection (97 to 99.8 %) and not by S4 (18 %).
Feng et al. 2024 (minGRU and minLSTM, arXiv:2410.01201, tables 1 and 2): both solve it too, with three layers.

Here: 2 symbols of 8 scattered over 32 places, one layer of width 32 without a channel mixer. At 500 updates the selective ones
are there and S4D is not: three quarters of its answers are right, not 18 % as in the paper, and it goes on learning, as the
places are few enough for filters to tell apart. What is shown is who is there sooner.
"""

import torch

from ostinato.diagnose.learning import ask, learn
from ostinato.models.language_model import LanguageModel
from ostinato.registry import create
from ostinato.reproduce import Claim

PAPERS = ("mamba", "min_gru")
MIXERS = ("mamba", "min_gru", "min_lstm", "s4d")


def trials(short: bool) -> list[dict]:
    if short:
        return [{"mixer": mixer, "length": 20, "steps": 250} for mixer in ("mamba", "s4d")]
    return [{"mixer": mixer, "length": 32, "steps": 500} for mixer in MIXERS]


def trial(mixer: str, length: int, steps: int) -> dict:
    task = create("task:selective_copying", length=length, items=2, symbols=8)
    torch.manual_seed(0)
    model = LanguageModel(task.vocab_size, 32, layers=1, pattern=[mixer], mlp=None)
    learned = learn(model, task, steps=steps, learning_rate=1e-2, weight_decay=0.0)
    return {"loss": learned.losses[-1], "accuracy": ask(model, task).score}


def claims(rows: list[dict], short: bool) -> list[Claim]:
    found = {row["mixer"]: row["accuracy"] for row in rows}
    invariant = found.pop("s4d")
    return [
        Claim(
            "gates that see the input choose what to remember",
            "selective state spaces 97 to 99.8 % (2312.00752, table 1), minGRU 99.5 %, minLSTM 96 % (2410.01201, table 1)",
            ", ".join(f"{mixer} {score:.2f}" for mixer, score in found.items()),
            min(found.values()) > 0.88,
        ),
        Claim(
            "a time-invariant state space is behind after the same steps",
            "S4 18 % (2312.00752, table 1)",
            f"s4d {invariant:.2f}",
            invariant < 0.8 and invariant < min(found.values()) - 0.15,
        ),
    ]
