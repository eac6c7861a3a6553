"""A memory that writes what it does not yet recall can change its mind: the delta rule against adding, with the same state.

Schlag, Irie, Schmidhuber 2021 (arXiv:2102.11174, section 6.1, setting 2): a sum of outer products k v^T mixes up the values of a
key that comes again; the delta rule replaces them. Yang et al. 2024 (DeltaNet, arXiv:2406.06484, figure 2): it solves
multi-query associative recall (MQAR).

Here: MQAR with 6 pairs among 15 keys and 16 values, and the same where 4 keys come twice and the second value is the one that is
asked for. The models are of one layer, that of DeltaNet, and differ in one line: S + beta k (v - S^T k)^T or S + beta k v^T.
Where no key comes twice, adding is as good here with keys of width 8, and better with keys of width 4: what is rewritten makes
the difference, not room.
"""

import torch
from torch import Generator, Tensor

from ostinato.diagnose.learning import ask, learn
from ostinato.layers.gates import forget_at
from ostinato.layers.losses import IGNORED
from ostinato.mixers.linear_recurrence.convolved_memory import MemoryState
from ostinato.mixers.linear_recurrence.deltanet import DeltaNet
from ostinato.models.language_model import LanguageModel
from ostinato.ops.linear_attention import linear_attention
from ostinato.reproduce import Claim
from ostinato.tasks.recall import MQAR
from ostinato.tasks.task import Batch, TokenTask, distinct

PAPERS = ("gated_deltanet",)
RULES = ("delta", "additive")


class Additive(DeltaNet):
    """DeltaNet that adds beta k v^T to its memory whatever that recalls."""

    def mix(self, x: Tensor, state: MemoryState, reset: Tensor | None) -> tuple[Tensor, MemoryState]:
        q, k, v, (beta,), inputs = self.convolve(x, state, reset)
        k = torch.sigmoid(beta.to(state.S.dtype))[..., None] * k
        o, S = linear_attention(q, k, v, forget_at(None, reset, heads=self.state_shape[0]), state.S)
        return self.project_out(self.norm(o).flatten(-2)), MemoryState(S, inputs)


class Rewritten(TokenTask):
    """Four keys with a value each, the same keys with other values, and each key once more: which value came last?"""

    vocab_size, answers, keys = 32, 16, 4  # type: ignore[assignment]

    def draw(self, size: int, length: int, generator: Generator) -> Batch:
        n, rows = self.keys, torch.arange(size)[:, None]
        keys = 1 + distinct(size, n, 15, generator)
        again, asked = (distinct(size, n, n, generator) for _ in range(2))
        values = 16 + distinct(size, 2 * n, 16, generator)
        pairs = torch.stack([torch.cat([keys, keys[rows, again]], 1), values], -1).flatten(1)
        inputs = torch.cat([pairs, keys[rows, again][rows, asked]], 1)
        targets = torch.full_like(inputs, IGNORED)
        targets[:, 4 * n :] = values[:, n:][rows, asked]
        return Batch(inputs, targets, targets != IGNORED)

    def solve(self, row: list[int]) -> dict[int, int]:
        known = dict(zip(row[: 4 * self.keys : 2], row[1 : 4 * self.keys : 2]))
        return {place: known[row[place]] for place in range(4 * self.keys, 5 * self.keys)}


def trials(short: bool) -> list[dict]:
    if short:
        return [{"rule": rule, "task": "rewritten", "width": 8, "steps": 350} for rule in RULES]
    return [
        {"rule": rule, "task": task, "width": width, "steps": 350}
        for task, widths in (("mqar", (4, 8)), ("rewritten", (4, 8)))
        for width in widths
        for rule in RULES
    ]


def trial(rule: str, task: str, width: int, steps: int) -> dict:
    problem = Rewritten(20) if task == "rewritten" else MQAR(24, pairs=6, vocabulary=32)
    torch.manual_seed(0)
    settings = {"heads": 1, "key_dim": width, "conv_width": 2}
    model = LanguageModel(problem.vocab_size, 32, layers=1, pattern=[{"deltanet": settings}], mlp=None)
    if rule == "additive":
        model.stack.blocks[0].mixer.__class__ = Additive  # the same weights, from the same dice
    learned = learn(model, problem, steps=steps, batch_size=64, learning_rate=1e-2, weight_decay=0.0)
    return {"loss": learned.losses[-1], "accuracy": ask(model, problem).score}


def claims(rows: list[dict], short: bool) -> list[Claim]:
    found = {(row["task"], row["width"], row["rule"]): row["accuracy"] for row in rows}

    def compare(task: str) -> str:
        widths = sorted({width for kind, width, _ in found if kind == task})
        return ", ".join(
            f"width {width}: " + " against ".join(f"{found[task, width, rule]:.2f}" for rule in RULES)
            for width in widths
        )

    said = [
        Claim(
            "keys come again: the delta rule replaces their values, adding mixes them up",
            "the delta rule makes few errors and the sum many (2102.11174, section 6.1, setting 2)",
            compare("rewritten"),
            found["rewritten", 8, "delta"] > 0.8 and found["rewritten", 8, "additive"] < 0.65,
        )
    ]
    if not short:
        said.append(
            Claim(
                "the delta rule solves MQAR",
                "accuracy 1.0 in the hardest setting (2406.06484, figure 2)",
                compare("mqar"),
                found["mqar", 8, "delta"] > 0.95,
            )
        )
    return said
