"""A gated linear recurrent network trained on linear regression in context does one step of gradient descent, as attention does.

Zucchet et al. 2023, "Gated recurrent neural networks discover attention" (arXiv:2309.01775): linear recurrent units between
two multiplicative gates can do what linear self-attention does, and trained on regression in context they reach the loss of
one step of gradient descent with the best learning rate, which is the best that a layer of linear self-attention can do (von
Oswald et al. 2023), with the weights of the construction. LSTMs and GRUs, whose gates are of another kind, need not.

Here: 12 pairs of 4 numbers and one, then a question; one layer each, of the same width of state. LSTM and GRU find another
solution, which with these few numbers is better than one step: it is measured, and not what the paper is about.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ostinato.registry import create
from ostinato.reproduce import Claim
from ostinato.tasks.in_context import gradient_descent

PAPERS = ("gated_rnn_attention",)
DIM, PAIRS, BATCH = 4, 12, 256
STATE = 48


class GatedLinearRNN(nn.Module):
    """h_t = decay * h_{t-1} + (A u_t + a)(B u_t + b);   y_t = D ((P h_t)(Q h_t))."""

    def __init__(self, width: int):
        super().__init__()
        self.enter = nn.Linear(width, 2 * STATE)
        self.decay = nn.Parameter(torch.rand(STATE))
        self.leave = nn.Linear(STATE, 2 * STATE, bias=False)
        self.read = nn.Linear(STATE, 1, bias=False)
        for linear in (self.enter, self.leave, self.read):
            nn.init.normal_(linear.weight, std=linear.in_features**-0.5)

    def forward(self, u: Tensor) -> Tensor:
        a, b = self.enter(u).chunk(2, -1)
        weights = self.decay ** torch.arange(u.shape[1] - 1, -1, -1)[:, None]
        p, q = self.leave((weights * a * b).sum(1)).chunk(2, -1)
        return self.read(p * q)[:, 0]


class LinearAttention(nn.Module):
    """y_t = D sum_s (V u_s)(K u_s) . (Q u_t)."""

    def __init__(self, width: int):
        super().__init__()
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.read = nn.Linear(width, 1, bias=False)

    def forward(self, u: Tensor) -> Tensor:
        q, k, v = self.project(u).chunk(3, -1)
        scores = (k * q[:, -1:]).sum(-1, keepdim=True) / PAIRS
        return self.read((scores * v).sum(1))[:, 0]


class Recurrent(nn.Module):
    """A cell of torch, and what it says at the end."""

    def __init__(self, cell: type[nn.RNNBase], width: int):
        super().__init__()
        self.cell = cell(width, STATE, batch_first=True)
        self.read = nn.Linear(STATE, 1)

    def forward(self, u: Tensor) -> Tensor:
        return self.read(self.cell(u)[0][:, -1])[:, 0]


NETWORKS = {
    "gated linear rnn": GatedLinearRNN,
    "linear attention": LinearAttention,
    "lstm": lambda width: Recurrent(nn.LSTM, width),
    "gru": lambda width: Recurrent(nn.GRU, width),
}


def trials(short: bool) -> list[dict]:
    if short:
        return [{"network": "gated linear rnn", "steps": 800}, {"network": "linear attention", "steps": 500}]
    return [{"network": network, "steps": 2000} for network in NETWORKS]


def trial(network: str, steps: int) -> dict:
    task = create("task:in_context_regression", length=PAIRS + 1, dim=DIM, noise=0.0)
    torch.manual_seed(0)
    model = NETWORKS[network](DIM + 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    dice = torch.Generator().manual_seed(1)
    for _ in range(steps):
        tokens, _, answer = problems(task, BATCH, dice)
        loss = mse_loss(model(tokens), answer)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    tokens, step_of_one, answer = problems(task, 10_000, dice)
    with torch.no_grad():
        said = model(tokens)
    best = (step_of_one @ answer) / (step_of_one @ step_of_one)
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "loss": mse_loss(said, answer).item(),
        "loss of one step": mse_loss(best * step_of_one, answer).item(),
        "distance to the step": (mse_loss(said, best * step_of_one) / answer.var()).item(),
    }


def problems(task, size: int, dice: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs with the question as the last token, its answer 0; what a step of gradient descent says; and the answer."""
    x, y = task.pairs(task.draw(size, PAIRS + 1, dice))
    one = gradient_descent(x, y, 1.0)[:, -1]
    tokens = torch.cat([x, y[..., None]], -1).float()
    tokens[:, -1, DIM] = 0
    return tokens, one.float(), y[:, -1].float()


def claims(rows: list[dict], short: bool) -> list[Claim]:
    ratio = {row["network"]: row["loss"] / row["loss of one step"] for row in rows}
    far = {row["network"]: row["distance to the step"] for row in rows}
    steppers = ("gated linear rnn", "linear attention")
    others = [name for name in ratio if name not in steppers]
    found = [
        Claim(
            "the gated linear network reaches the loss of one optimal step of gradient descent, as linear attention does",
            "the same loss as one step of gradient descent and as linear self-attention (2309.01775)",
            ", ".join(f"{name} {ratio[name]:.3f} times the loss of one step" for name in steppers),
            all(abs(ratio[name] - 1) < (0.15 if short else 0.03) for name in steppers),
        ),
        Claim(
            "and says what that step says",
            "the weights that are learned are those of the construction (2309.01775)",
            ", ".join(f"{name} {far[name]:.4f} of the variance away from it" for name in steppers),
            all(far[name] < (0.05 if short else 0.005) for name in steppers),
        ),
    ]
    if others:
        found.append(
            Claim(
                "LSTM and GRU do something else",
                "the construction is of linear recurrence between multiplicative gates (2309.01775)",
                ", ".join(f"{name} {far[name]:.3f} away, {ratio[name]:.2f} times the loss" for name in others),
                all(far[name] > 0.03 for name in others),
            )
        )
    return found
