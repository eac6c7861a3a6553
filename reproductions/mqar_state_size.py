"""Recall needs a state with room for what is recalled: attention solves MQAR, gated convolutions of its width do not.

Arora et al. 2023 (Zoology, arXiv:2312.04927, figure 2): attention solves multi-query associative recall at every width, gated
convolutions (H3, Hyena, RWKV, BaseConv) only at widths that grow with the length. Arora et al. 2024 (Based,
arXiv:2402.18668, figure 2): what fixed states recall grows with their size.

Here: 6 pairs among 15 keys and 16 values in 24 tokens, models of width 32 without channel mixers, as in the Zoology paper: a
gated convolution over two tokens, which lets a value meet its key, and the mixer in question. One seed each: between one state
and the next dice play a part, so that states are compared with those of four times their size.
"""

import torch

from ostinato.diagnose.learning import ask, learn
from ostinato.models.language_model import LanguageModel
from ostinato.models.stack import build
from ostinato.registry import create
from ostinato.reproduce import Claim

PAPERS = ("zoology_mqar", "linear_transformer")
DIM = 32
CONVOLUTIONS = {
    "hyena": {"hyena": {"max_length": 32, "filter_width": 32}},
    "h3": {"h3": {"state_size": 16}},
    "gated_conv": {"gated_conv": {"conv_width": 24}},
    "base_conv": {"base_conv": {"conv_width": 24}},
}
LINEAR = {
    f"linear_attention {width}": {"linear_attention": {"heads": 1, "key_dim": width}} for width in (2, 4, 8, 16, 32)
}
MIXERS = {"attention": {"attention": {"heads": 4}}} | CONVOLUTIONS | LINEAR


def trials(short: bool) -> list[dict]:
    if short:
        return [{"mixer": mixer, "pairs": 4, "steps": 300} for mixer in ("attention", "hyena")]
    return [{"mixer": mixer, "pairs": 6, "steps": 600} for mixer in MIXERS]


def trial(mixer: str, pairs: int, steps: int) -> dict:
    task = create("task:mqar", length=4 * pairs, pairs=pairs, vocabulary=32)
    torch.manual_seed(0)
    model = LanguageModel(
        task.vocab_size, DIM, layers=2, pattern=[{"gated_conv": {"conv_width": 2}}, MIXERS[mixer]], mlp=None
    )
    learned = learn(model, task, steps=steps, batch_size=64, learning_rate=1e-2, weight_decay=0.0)
    return {
        "state bytes": build(MIXERS[mixer], DIM).state_bytes(task.length),
        "loss": learned.losses[-1],
        "accuracy": ask(model, task).score,
    }


def claims(rows: list[dict], short: bool) -> list[Claim]:
    found = {row["mixer"]: row["accuracy"] for row in rows}
    convolutions = {mixer: score for mixer, score in found.items() if mixer in CONVOLUTIONS}
    said = [
        Claim(
            "attention recalls",
            "accuracy near 1 at width 64 and up, whatever the length (2312.04927, figure 2)",
            f"{found['attention']:.2f}",
            found["attention"] > 0.95,
        ),
        Claim(
            "gated convolutions of the same width do not",
            "near 0 where the width is below the length (2312.04927, figure 2)",
            ", ".join(f"{mixer} {score:.2f}" for mixer, score in convolutions.items()),
            max(convolutions.values()) < 0.5,
        ),
    ]
    if short:
        return said
    linear = [(row["state bytes"], row["accuracy"]) for row in rows if row["mixer"] in LINEAR]
    scores = [score for _, score in sorted(linear)]
    return [
        *said,
        Claim(
            "linear attention recalls more the larger its state is: four times as large is better everywhere",
            "recall grows with the size of the state (2402.18668, figure 2)",
            ", ".join(f"{score:.2f} with {size / 1024:.2g} KiB" for size, score in sorted(linear)),
            all(b > a + 0.1 for a, b in zip(scores, scores[2:])) and scores[-1] > 0.9,
        ),
    ]
