"""Based trades state for recall: wider features recall more, and so does a wider window; both together are cheap.

Arora et al. 2024 (Based, arXiv:2402.18668, figures 2 and 3): the recall of linear attention with the Taylor map grows with the
width of its features, that of sliding windows with the width of the window, and so both with the size of the state.

Here: multi-query associative recall with 6 pairs among 15 keys and 16 values in 24 tokens, keys asked for at any distance;
models of width 32 without channel mixers: a gated convolution over two tokens, then Based, a window, or one after the other.
"""

import torch

from ostinato.diagnose.learning import ask, learn
from ostinato.models.language_model import LanguageModel
from ostinato.models.stack import build
from ostinato.registry import create
from ostinato.reproduce import Claim

PAPERS = ("based",)
DIM = 32
FEATURES = (1, 2, 4, 8)
WINDOWS = (4, 8, 24)


def trials(short: bool) -> list[dict]:
    if short:
        return [{"features": width, "window": 0, "pairs": 4, "steps": 300} for width in (1, 4)]
    both = [(width, 0) for width in FEATURES] + [(0, window) for window in WINDOWS] + [(4, 8)]
    return [{"features": width, "window": window, "pairs": 6, "steps": 500} for width, window in both]


def trial(features: int, window: int, pairs: int, steps: int) -> dict:
    task = create("task:mqar", length=4 * pairs, pairs=pairs, vocabulary=32, power=1.0)
    mixers: list = []
    if window:
        mixers.append({"attention": {"window": window}})
    if features:
        mixers.append({"based": {"heads": 1, "key_dim": features}})
    pattern = [{"gated_conv": {"conv_width": 2}}, *mixers]
    torch.manual_seed(0)
    model = LanguageModel(task.vocab_size, DIM, layers=len(pattern), pattern=pattern, mlp=None)
    learned = learn(model, task, steps=steps, batch_size=64, learning_rate=1e-2, weight_decay=0.0)
    return {
        "state bytes": sum(build(mixer, DIM).state_bytes(task.length) for mixer in mixers),
        "loss": learned.losses[-1],
        "accuracy": ask(model, task).score,
    }


def claims(rows: list[dict], short: bool) -> list[Claim]:
    def grows(says: str, figure: str, chosen: list[tuple[int, int, float]]) -> Claim:
        scores = [score for _, _, score in chosen]
        ours = ", ".join(f"{score:.2f} with {width} ({size / 1024:.2g} KiB)" for width, size, score in chosen)
        return Claim(says, figure, ours, scores == sorted(scores) and scores[-1] - scores[0] > (0.15 if short else 0.3))

    based = [(row["features"], row["state bytes"], row["accuracy"]) for row in rows if not row["window"]]
    said = [grows("the wider its features are, the more Based recalls", "2402.18668, figures 2 and 3", based)]
    if short:
        return said
    windows = [(row["window"], row["state bytes"], row["accuracy"]) for row in rows if not row["features"]]
    (both,) = (row for row in rows if row["window"] and row["features"])
    alone = [
        row["accuracy"]
        for row in rows
        if (row["features"], row["window"]) in ((both["features"], 0), (0, both["window"]))
    ]
    return [
        *said,
        grows("the wider a window is, the more it recalls", "2402.18668, figures 2 and 3", windows),
        Claim(
            "a small window and Based recall more than either",
            "the combination widens the frontier of recall and state (2402.18668, figure 2)",
            f"{both['accuracy']:.2f} against {' and '.join(f'{score:.2f}' for score in alone)}",
            both["accuracy"] > max(alone) + 0.05,
        ),
    ]
