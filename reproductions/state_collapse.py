"""State collapse: trained on too little for its state, Mamba-2 never learns to forget, and its state runs full beyond.

Chen et al. 2024 (Stuffed Mamba, arXiv:2410.07145): beyond the length of training the perplexity of Mamba-2 explodes and
the statistics of its state leave the range that training showed, because the state is large enough to hold all of a
training sequence: some heads keep nearly all of the first token. Training on longer sequences makes a model forget.
Without training, more forgetting (retention and insertion reduced) mends part of it.

Here: Mamba-2 on the stream of `length_generalisation`, in which the keys of a paragraph have other values in the next.
One model learns single paragraphs of 16 tokens, another 8 of them in a row; both are asked up to 64 paragraphs. The
state's size is the root mean square of a head's memory, as a multiple of that after one paragraph, in the head that
grows most; what is retained is the product of the decays of a head over one paragraph, in the head that keeps most.
"forgets more" is the first model with its decays times 4, untrained.
"""

import math
from copy import deepcopy

import torch
from torch import Tensor

from ostinato.mixers.ssm_convolution.mamba2 import Mamba2
from ostinato.models.language_model import LanguageModel
from ostinato.reproduce import Claim, find_effect
from ostinato.state import leaves, map_state

PAPERS = ("stuffed_mamba",)
STRONGER = 4.0
LONG = 64  # paragraphs


def trials(short: bool) -> list[dict]:
    if short:
        return [{"paragraphs": 1, "steps": 250}]
    return [{"paragraphs": 1, "steps": 700}, {"paragraphs": 8, "steps": 250}]


def trial(paragraphs: int, steps: int) -> dict:
    stream = find_effect("length_generalisation").module
    model = stream.taught("mamba2", "zeros", steps, paragraphs)
    tokens = stream.stream(64, LONG, torch.Generator().manual_seed(2))
    short = memory(model, tokens[:, : stream.PARAGRAPH])
    found = stream.asked(model) | {
        "state": (sizes(memory(model, tokens)) / sizes(short)).max().item(),
        "retained": (memory(model, tokens[:, : stream.PARAGRAPH], 1.0) - short).mean((0, 2, 3)).max().item(),
    }
    forgets = deepcopy(model)
    with torch.no_grad():
        for module in forgets.modules():
            if isinstance(module, Mamba2):
                module.A_log += math.log(STRONGER)
    return found | {f"forgets more: {name}": value for name, value in stream.asked(forgets).items()}


@torch.no_grad()
def memory(model: LanguageModel, tokens: Tensor, begin: float = 0.0) -> Tensor:
    """The memory (B, H, N, P) after these tokens, from one that is full of a number."""
    state = map_state(lambda part: part + begin if part.ndim == 4 else part, model.initial_state(len(tokens)))
    return next(part for part in leaves(model(tokens, state)[1]) if part.ndim == 4)


def sizes(memory: Tensor) -> Tensor:
    """The root mean square of each head."""
    return memory.square().mean((0, 2, 3)).sqrt()


def claims(rows: list[dict], short: bool) -> list[Claim]:
    collapsed, *longer = rows

    def told(row: dict, before: str = "") -> str:
        return f"{row[f'{before}loss in paragraph 1']:.2f} and {row[f'{before}loss in paragraph {LONG}']:.2f}"

    risen = collapsed[f"loss in paragraph {LONG}"] - collapsed["loss in paragraph 1"]
    found = [
        Claim(
            "beyond the length of training the loss rises and the state grows out of the range that training showed",
            "perplexity explodes and so does the state, after training on too short sequences (2410.07145, section 3)",
            f"loss {told(collapsed)} in paragraphs 1 and {LONG},"
            f" a head's state {collapsed['state']:.1f} times as large",
            risen > 0.3 and collapsed["state"] > 1.5,
        ),
        Claim(
            "because there are heads that hardly forget",
            "some heads retain the first token to the end of training's length (section 3)",
            f"a head retains {collapsed['retained']:.2f} over a paragraph",
            collapsed["retained"] > 0.6,
        ),
    ]
    for row in longer:
        rise = row[f"loss in paragraph {LONG}"] - row["loss in paragraph 1"]
        found += [
            Claim(
                "training on longer sequences teaches to forget",
                "a model forgets once training is longer than its state is large (section 4)",
                f"{row['paragraphs']} paragraphs at a time: loss {told(row)},"
                f" a head's state {row['state']:.1f} times as large, {row['retained']:.2f} retained",
                rise < risen / 2 and row["state"] < collapsed["state"] / 2 and row["retained"] < collapsed["retained"],
            ),
            Claim(
                "more forgetting mends part of it without training",
                "retention and insertion reduced: perplexity falls beyond the training length (section 3)",
                f"decays times {STRONGER:g}: loss {told(collapsed, 'forgets more: ')}, for {told(collapsed)}",
                collapsed[f"forgets more: loss in paragraph {LONG}"] < collapsed[f"loss in paragraph {LONG}"] - 0.1,
            ),
        ]
    return found
