"""Induction heads: Mamba finds what followed the trigger at 16 times its training length, attention does not.

Gu, Dao 2023 (arXiv:2312.00752, table 2): models of two layers trained at length 256 and asked at 64 to 1,048,576. Mamba
is right everywhere, 4,000 times as far as it was trained; attention with absolute, rotary (RoPE) or xPos positions is
right at 256 and lost within some times that length.

Here: trained at 32, width 32, 16 different tokens, asked up to 512.
"""

import torch

from ostinato.diagnose.learning import ask, learn
from ostinato.models.language_model import LanguageModel
from ostinato.registry import create
from ostinato.reproduce import Claim

PAPERS = ("mamba",)
LENGTH, TIMES = 32, (1, 4, 16)
MIXERS = {
    "mamba": ("mamba", None, 1e-2),
    "attention, rope": ({"attention": {"heads": 2}}, None, 3e-3),
    "attention, absolute": ({"attention": {"heads": 2, "position": "none"}}, LENGTH * max(TIMES), 3e-3),
}
"""The mixer, how many positions are learned, and the learning rate."""


def trials(short: bool) -> list[dict]:
    if short:  # with fewer tokens Mamba learns sooner, and attention later
        return [
            {"mixer": "mamba", "symbols": 7, "steps": 350},
            {"mixer": "attention, rope", "symbols": 15, "steps": 400},
        ]
    return [{"mixer": mixer, "symbols": 15, "steps": 1000 if mixer == "mamba" else 600} for mixer in MIXERS]


def trial(mixer: str, symbols: int, steps: int) -> dict:
    task = create("task:induction_heads", length=LENGTH, symbols=symbols)
    torch.manual_seed(0)
    part, positions, rate = MIXERS[mixer]
    model = LanguageModel(task.vocab_size, 32, layers=2, pattern=[part], mlp=None, positions=positions)
    learned = learn(model, task, steps=steps, learning_rate=rate, weight_decay=0.0)
    scores = {f"accuracy at {times} times": ask(model, task, times).score for times in TIMES}
    return {"parameters": model.parameter_count(), "loss": learned.losses[-1], **scores}


def claims(rows: list[dict], short: bool) -> list[Claim]:
    def told(row: dict) -> str:
        return f"{row['mixer']} " + " / ".join(f"{row[f'accuracy at {times} times']:.2f}" for times in TIMES)

    scores = {row["mixer"]: [row[f"accuracy at {times} times"] for times in TIMES] for row in rows}
    attention = {mixer: found for mixer, found in scores.items() if mixer != "mamba"}
    reach = 1 if short else 2  # of TIMES
    return [
        Claim(
            f"Mamba goes on to {TIMES[reach]} times the length of training",
            "accuracy 1.0 up to 4,096 times (2312.00752, table 2)",
            f"{told(next(row for row in rows if row['mixer'] == 'mamba'))} at 1, 4 and 16 times",
            min(scores["mamba"][: reach + 1]) > (0.8 if short else 0.9),
        ),
        Claim(
            "attention that was trained as well is lost there",
            "1.0 at the length of training, near chance some times beyond it (same table)",
            ", ".join(told(row) for row in rows if row["mixer"] != "mamba") + " at 1, 4 and 16 times",
            min(found[0] for found in attention.values()) > 0.9
            and max(found[2] for found in attention.values()) < 0.25,
        ),
    ]
