"""Recurrent models fail beyond their training length; begun with states of other sequences, they go on.

Buitrago Ruiz, Gu 2025 (arXiv:2507.02782, figure 1): the perplexity of Mamba-1, Mamba-2 and GLA rises beyond the context
they were trained with (2,048 or 512), because training from a zero state shows them few of the states that long
sequences lead to. 500 steps that begin with the final state of another sequence (state passing) make it flat up to
128k; Gaussian noise as the first state helps too.

Here: a stream of paragraphs. Each says four pairs of a key and a value, of 16 keys and 16 values, then the same pairs
in another order, whose values are to be predicted: 16 tokens. Models of one layer learn single paragraphs and are asked
up to 64 of them in a row, where what earlier ones said of a key is to be forgotten; who knows nothing has a loss of ln
16 = 2.77. After a training that begins with zeros comes another of as many steps, each of which begins with zeros
again, with the states that the step before ended with (nine times of ten), or with noise of their size. What did not
show it: Mamba-2 and GLA of width 64 on Tiny Shakespeare, trained at 24 or 64 bytes, are as good at 2,048.
"""

import math
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from ostinato.models.language_model import LanguageModel
from ostinato.reproduce import Claim
from ostinato.state import detach, map_state

PAPERS = ("state_passing",)
PAIRS, KEYS, VALUES = 4, 16, 16
PARAGRAPH = 4 * PAIRS
ASKED = (1, 4, 16, 64)  # paragraphs
MIXERS = {"mamba2": {"mamba2": {"state_size": 16, "head_dim": 16}}, "gla": {"gla": {"heads": 2}}}
STARTS = ("zeros", "passed", "noise")
PASSED = 0.9  # share of the steps that do not begin with zeros


def trials(short: bool) -> list[dict]:
    if short:
        return [{"mixer": "gla", "start": start, "steps": 600} for start in STARTS[:2]]
    return [{"mixer": mixer, "start": start, "steps": 600} for mixer in MIXERS for start in STARTS]


def stream(rows: int, paragraphs: int, generator: Generator) -> Tensor:
    """Paragraphs one after the other, (rows, paragraphs * PARAGRAPH)."""
    shape = (rows * paragraphs, PAIRS)
    keys = torch.rand(shape[0], KEYS, generator=generator).argsort(-1)[:, :PAIRS]
    values = KEYS + torch.randint(VALUES, shape, generator=generator)
    order = torch.rand(shape, generator=generator).argsort(-1)
    told = torch.stack([keys, values], -1).flatten(1)
    asked = torch.stack([keys.gather(1, order), values.gather(1, order)], -1).flatten(1)
    return torch.cat([told, asked], 1).reshape(rows, -1)


def losses(logits: Tensor, tokens: Tensor) -> Tensor:
    """Of the values that are asked for, (rows, paragraphs, PAIRS)."""
    logits, tokens = (part.unflatten(1, (-1, PARAGRAPH)) for part in (logits, tokens))
    asked, expected = logits[:, :, 2 * PAIRS :: 2], tokens[:, :, 2 * PAIRS + 1 :: 2]
    return cross_entropy(asked.flatten(0, -2), expected.flatten(), reduction="none").reshape(expected.shape)


def taught(mixer: str, start: str, steps: int, paragraphs: int = 1) -> LanguageModel:
    """A model that has learned so many paragraphs at a time: half from zeros, then half with its start."""
    torch.manual_seed(0)
    model = LanguageModel(KEYS + VALUES, 48, layers=1, pattern=[MIXERS[mixer]], mlp=None)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters())
    half = steps // 2
    state: Any = None
    for step in range(steps):
        done = step % half / half
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * min(1, (step + 1) / 20) * (1 + math.cos(math.pi * done)) / 2
        tokens = stream(32, paragraphs, generator)
        begin = None
        if start != "zeros" and step >= half and torch.rand((), generator=generator) < PASSED:
            begin = state if start == "passed" else map_state(lambda part: torch.randn_like(part) * part.std(), state)
        logits, state = model(tokens, begin)
        state = detach(state)
        optimizer.zero_grad()
        losses(logits, tokens).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


@torch.no_grad()
def asked(model: LanguageModel) -> dict[str, float]:
    """The loss in the first, fourth, ... paragraph of a long stream."""
    tokens = stream(128, max(ASKED), torch.Generator().manual_seed(1))
    found = losses(model(tokens)[0], tokens).mean((0, 2))
    return {f"loss in paragraph {number}": found[number - 1].item() for number in ASKED}


def trial(mixer: str, start: str, steps: int) -> dict:
    return asked(taught(mixer, start, steps))


def claims(rows: list[dict], short: bool) -> list[Claim]:
    def told(start: str) -> str:
        return ", ".join(
            f"{row['mixer']} " + " / ".join(f"{row[f'loss in paragraph {number}']:.2f}" for number in ASKED)
            for row in rows
            if row["start"] == start
        )

    def risen(start: str) -> list[float]:
        return [row["loss in paragraph 64"] - row["loss in paragraph 1"] for row in rows if row["start"] == start]

    passed = [row for row in rows if row["start"] == "passed"]
    where = " in paragraphs 1, 4, 16 and 64"
    found = [
        Claim(
            "trained from zero states alone, a recurrent model gets worse and worse beyond its training length",
            "perplexity rises beyond 2,048 or 512 tokens (2507.02782, figure 1)",
            f"loss {told('zeros')}{where}; ln 16 = 2.77 knows nothing",
            min(risen("zeros")) > 0.4,
        ),
        Claim(
            "begun with final states of other sequences it still knows what it learned at 64 times that length",
            "flat up to 128k tokens with state passing (same figure)",
            f"loss {told('passed')}{where}",
            max(risen("passed")) < min(risen("zeros")) / 2 and max(row["loss in paragraph 64"] for row in passed) < 2.6,
        ),
    ]
    if not short:
        found.append(
            Claim(
                "noise as the first state helps too, less than states that occur",
                "Gaussian noise enables length generalisation, state passing in more cases (section 4)",
                f"loss {told('noise')}{where}",
                all(a < b < c for a, b, c in zip(risen("passed"), risen("noise"), risen("zeros"))),
            )
        )
    return found
