"""Regret: how many nats a predictor of bits has lost, up to each bit, against the exact predictor of their source.

    regret_t = mean over sequences of  sum_{s <= t} log p_Bayes(b_s | b_1 ... b_{s-1}) - log p(b_s | b_1 ... b_{s-1})

0 for exact Bayes, and on average for nobody else less than 0.

Genewein et al. 2023, https://arxiv.org/abs/2302.03067: recurrent networks come near to 0 on sources that change now and then.
"""

import torch
from torch import Tensor

from ostinato.contract import SequenceModule
from ostinato.models.modes import undisturbed
from ostinato.registry import register
from ostinato.tasks.bernoulli import PiecewiseStationary


def log_likelihood(p: Tensor, bits: Tensor) -> Tensor:
    """The log probability of each of (B, T) bits for who gives 1 the probabilities p."""
    return torch.where(bits > 0, p, 1 - p).double().log()


def regret(said: Tensor, exact: Tensor) -> Tensor:
    """The regret (T,) of the log probabilities that somebody gave the bits, and those that are right, both (B, T)."""
    return (exact - said).mean(0).cumsum(0)


@register("analyze:bayes_regret", paper="piecewise_stationary")
def bayes_regret(
    model: SequenceModule,
    task: PiecewiseStationary,
    *,
    problems: int = 1000,
    length: int | None = None,
    split: str = "test",
) -> Tensor:
    """The regret (T,) of a model on sources of a task.

    model: reads bits, and a 2 before the first, as the task gives them; its logits are those of 0, 1 and 2
    task: piecewise_stationary, of any prior
    problems: number of sequences
    length: of each; by default that of the task
    split: "test" or "train"
    """
    batch = task.batch(problems, length, split=split)
    with undisturbed(model):
        logits = model(batch.inputs)[0]
    bits = batch.targets
    said = logits.double().log_softmax(-1).gather(-1, bits[..., None])[..., 0]
    return regret(said, log_likelihood(task.exact(bits), bits))
