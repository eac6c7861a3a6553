"""Pictures pixel by pixel: S4D and a well begun LRU learn to read digits sooner than a tanh network or a short LRU.

Orvieto et al. 2023 (arXiv:2303.06349, LRU): on pictures read pixel by pixel a linear, diagonal recurrence is as good as
S4 and far above a tanh network of equal size, once its eigenvalues begin on a ring near the unit circle; where they
begin matters more, the longer the sequence is. Gu, Goel, Re 2021 (arXiv:2111.00396, S4): 91 % on sequential CIFAR, 99.6
% on sequential MNIST.

Here: the digits of scikit-learn, 64 pixels, one layer of width 32 with a SwiGLU. "lru (ring)" begins with moduli of 0.9
to 0.999, "lru (short)" with moduli up to 0.5. All take the same 300 steps.
"""

import statistics

import torch

from ostinato.diagnose.learning import ask, learn
from ostinato.diagnose.model import NumberModel
from ostinato.registry import create
from ostinato.reproduce import Claim

PAPERS = ("lru", "s4")
MIXERS = {
    "lru (ring)": {"lru": {"min_radius": 0.9, "max_radius": 0.999}},
    "s4d": "s4d",
    "lru (short)": {"lru": {"max_radius": 0.5}},
    "rnn": "rnn",
}


def trials(short: bool) -> list[dict]:
    chosen = ("lru (ring)", "lru (short)", "rnn") if short else MIXERS
    seeds, steps = ((0,), 100) if short else ((0, 1), 300)
    return [{"mixer": mixer, "seed": seed, "steps": steps} for mixer in chosen for seed in seeds]


def trial(mixer: str, seed: int, steps: int) -> dict:
    task = create("task:sequential_digits")
    torch.manual_seed(seed)
    model = NumberModel(task.width, task.outputs, 32, layers=1, pattern=[MIXERS[mixer]], mlp="swiglu")
    learned = learn(model, task, steps=steps, learning_rate=5e-3, seed=seed)
    return {"parameters": model.parameter_count(), "loss": learned.losses[-1], "accuracy": ask(model, task).score}


def claims(rows: list[dict], short: bool) -> list[Claim]:
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["mixer"], []).append(row["accuracy"])

    def told(*mixers: str) -> str:
        return ", ".join(f"{name} {statistics.mean(found[name]):.3f}" for name in mixers if name in found)

    good = [score for name in ("lru (ring)", "s4d") for score in found.get(name, [])]
    margin = 0.15 if short else 0.2
    return [
        Claim(
            "diagonal linear recurrences whose states last learn to read the digits, a tanh network is far behind",
            "LRU and S4 level with each other, tanh networks far below, on pixels of CIFAR (2303.06349)",
            f"accuracy on other images: {told('lru (ring)', 's4d', 'rnn')}",
            min(good) > (0.65 if short else 0.75) and min(good) > max(found["rnn"]) + margin,
        ),
        Claim(
            "an LRU needs eigenvalues that begin near the unit circle",
            "the ring decides what is learned of long sequences (2303.06349)",
            f"accuracy on other images: {told('lru (ring)', 'lru (short)')}",
            min(found["lru (ring)"]) > max(found["lru (short)"]) + margin,
        ),
    ]
