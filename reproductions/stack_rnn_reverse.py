"""A stack turns around longer strings than it was trained on, a network without one does not: stack-RNN against LSTM.

Deletang et al. 2022 (Neural Networks and the Chomsky Hierarchy, arXiv:2207.02098, table 1): on reverse string, trained on lengths
up to 40 and asked at 41 to 500, the stack-RNN has accuracy 1.0, and RNN, LSTM and Transformer do not reach the 0.9 from which
the paper counts a task as solved.

Here: strings of up to 10 bits and a network of width 16, asked at 3 times the length of training. Half of the answers are right by
chance.
"""

import torch

from ostinato.diagnose.learning import ask, learn
from ostinato.models.language_model import LanguageModel
from ostinato.reproduce import Claim
from ostinato.tasks.chomsky_hierarchy import ReverseString

PAPERS = ("chomsky_hierarchy",)
MIXERS = {
    "stack_rnn": {"stack_rnn": {"width": 4, "cells": 40}},
    "lstm": "lstm",
    "rnn": "rnn",
    "attention": "attention",
}


class Reversed(ReverseString):
    """Strings of all lengths up to the longest; the split keeps those of training and of the test apart."""

    shortest = 4


def trials(short: bool) -> list[dict]:
    chosen = ("stack_rnn", "lstm") if short else MIXERS
    return [{"mixer": mixer, "steps": 400 if short else 600} for mixer in chosen]


def trial(mixer: str, steps: int) -> dict:
    task = Reversed(10)
    torch.manual_seed(0)
    model = LanguageModel(task.vocab_size, 16, layers=1, pattern=[MIXERS[mixer]], mlp=None)
    learned = learn(model, task, steps=steps, learning_rate=2e-2, weight_decay=0.0)
    return {
        "loss": learned.losses[-1],
        "accuracy": ask(model, task, 1).score,
        "accuracy at 3 times": ask(model, task, 3).score,
    }


def claims(rows: list[dict], short: bool) -> list[Claim]:
    found = {row["mixer"]: row["accuracy at 3 times"] for row in rows}
    stack = found.pop("stack_rnn")
    return [
        Claim(
            "with a stack, strings longer than any in training are reversed",
            "stack-RNN 1.0 (2207.02098, table 1)",
            f"{stack:.2f}",
            stack > 0.9,
        ),
        Claim(
            "without one they are not",
            "RNN, LSTM and Transformer below 0.9 (same table)",
            ", ".join(f"{mixer} {score:.2f}" for mixer, score in found.items()),
            max(found.values()) < 0.75,
        ),
    ]
