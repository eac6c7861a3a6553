"""A search for architectures: a recurrent controller makes choices, and learns from the rewards of what was chosen.

    p(a) = prod_t softmax(W_t h_t)[a_t],   h_t = lstm(embedding(a_{t-1}), h_{t-1})
    gradient = mean over the choices drawn of  (R(a) - b) grad log p(a),      b a moving average of rewards

The choices may be anything: `cell_choices` and `cell_of` make a recurrent cell of them (`mixer:tree_cell`), whose reward is
c / perplexity^2 in the paper. Zoph, Le 2016, https://arxiv.org/abs/1611.01578; REINFORCE: Williams 1992.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from ostinato.mixers.nonlinear_rnn.tree_cell import ACTIVATIONS, COMBINATIONS
from ostinato.registry import register


class Controller(nn.Module):
    """A network that makes one choice after another.

    choices: number of options of each
    width: of the network
    """

    def __init__(self, choices: Sequence[int], width: int = 32):
        super().__init__()
        if not choices or min(choices) < 1 or width < 1:
            raise ValueError(f"choices have at least one option each, and width is at least 1; got {choices}, {width}")
        self.choices, self.width = tuple(choices), width
        self.begin = nn.Parameter(torch.zeros(1, width))
        self.embeddings = nn.ModuleList(nn.Embedding(options, width) for options in choices[:-1])
        self.cell = nn.LSTMCell(width, width)
        self.heads = nn.ModuleList(nn.Linear(width, options) for options in choices)

    def forward(self, chosen: Tensor | None = None, size: int = 1) -> tuple[Tensor, Tensor]:
        """Choices (size, number of them) and the log of their probability (size,).

        chosen: choices that were made; None draws new ones
        size: how many to draw
        """
        size = size if chosen is None else len(chosen)
        x, state = self.begin.expand(size, -1), None
        made, total = [], torch.zeros(size)
        for t, head in enumerate(self.heads):
            state = self.cell(x, state)
            log_p = log_softmax(head(state[0]), -1)
            option = torch.multinomial(log_p.exp(), 1)[:, 0] if chosen is None else chosen[:, t]
            made.append(option)
            total = total + log_p.gather(1, option[:, None])[:, 0]
            if t < len(self.embeddings):
                x = self.embeddings[t](option)
        return torch.stack(made, 1), total


def reinforce_loss(log_p: Tensor, rewards: Tensor, baseline: float) -> Tensor:
    """What has the gradient -mean (R - b) grad log p."""
    return -((rewards - baseline) * log_p).mean()


class Discovery(NamedTuple):
    """What a search found: the best choices, their reward, and the mean reward of each round."""

    choices: tuple[int, ...]
    reward: float
    rewards: list[float]
    controller: Controller


@register("train:architecture_search", paper="nas_rnn")
def architecture_search(
    reward: Callable[[tuple[int, ...]], float],
    choices: Sequence[int],
    *,
    rounds: int = 100,
    size: int = 8,
    learning_rate: float = 1e-2,
    memory: float = 0.95,
    width: int = 32,
    seed: int = 0,
) -> Discovery:
    """Let a controller learn which choices are rewarded. What was tried is not tried again: rewards are remembered.

    reward: of choices, such as the accuracy of a model that was trained with them
    choices: number of options of each choice
    rounds: updates of the controller
    size: choices drawn for each
    learning_rate: of the controller
    memory: how slowly the baseline, an average of rewards, forgets
    width: of the controller
    seed: of its weights and draws
    """
    if rounds < 1 or size < 1 or learning_rate <= 0 or not 0 <= memory < 1:
        raise ValueError(
            "rounds and size are at least 1, learning_rate above 0, memory at least 0 and below 1;"
            f" got {rounds}, {size}, {learning_rate}, {memory}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        controller = Controller(choices, width)
        optimizer = torch.optim.Adam(controller.parameters(), learning_rate)
        known: dict[tuple[int, ...], float] = {}
        baseline, means = None, []
        for _ in range(rounds):
            chosen, log_p = controller(size=size)
            rows = [tuple(row) for row in chosen.tolist()]
            for row in rows:
                if row not in known:
                    known[row] = float(reward(row))
            rewards = torch.tensor([known[row] for row in rows])
            mean = rewards.mean().item()
            baseline = mean if baseline is None else memory * baseline + (1 - memory) * mean
            optimizer.zero_grad()
            reinforce_loss(log_p, rewards, baseline).backward()
            optimizer.step()
            means.append(mean)
    best = max(known, key=known.__getitem__)
    return Discovery(best, known[best], means, controller)


def cell_choices(leaves: int = 8) -> list[int]:
    """The choices that make a recurrent cell of a tree: of each node and of the injection a combination and an activation,
    then the node that hears the last cell and the node that gives the next."""
    nodes = 2 * leaves - 1
    return [len(COMBINATIONS), len(ACTIVATIONS)] * (nodes + 1) + [nodes, nodes]


def cell_of(choices: Sequence[int]) -> dict[str, Any]:
    """Arguments of `mixer:tree_cell` for choices of `cell_choices`."""
    *words, at, cell = choices
    combinations, activations = list(COMBINATIONS), list(ACTIVATIONS)
    written = [f"{combinations[a]} {activations[b]}" for a, b in zip(words[::2], words[1::2], strict=True)]
    return {"nodes": written[:-1], "inject": written[-1], "at": at, "cell": cell}
