"""Weights of a recurrence held within a bound while they are learned, by a price for each unit that rises where it is broken.

    minimise loss subject to  sum_j |R_ij| <= c  for each unit i
    L = loss + sum_i λ_i (sum_j |R_ij| - c);   weights go down L,   λ_i = max(0, λ_i + rate (sum_j |R_ij| - c))

    constraint = EchoStateConstraint(model)
    (loss + constraint.penalty()).backward();   optimizer.step();   constraint.ascend()

With c = 1 / max |f'| the recurrence forgets how it began. Chen, Deng 2013, https://arxiv.org/abs/1311.6091.
"""

import torch
from torch import Tensor, nn

from ostinato.mixers.nonlinear_rnn.rnn import RNN
from ostinato.models.arma_rnn import ARMARNN, STEEPEST
from ostinato.registry import register


def constrained(model: nn.Module) -> list[tuple[Tensor, float]]:
    """The weights of every simple recurrence in a model, (units, inputs), and their bounds."""
    found = []
    for module in model.modules():
        if isinstance(module, ARMARNN):
            found.append(module.constrained())
        elif isinstance(module, RNN):
            found.append((module.recurrent.mT.flatten(0, 1), 1 / STEEPEST[module.activation]))
    return found


@register("train:echo_state_constraint", paper="primal_dual_esp")
class EchoStateConstraint(nn.Module):
    """A price on each recurrent unit whose weights add up to more than its bound.

    model: with simple recurrences, `model:arma_rnn` or `mixer:rnn`
    rate: how fast prices rise
    margin: how much is kept from the bound, as a part of it
    """

    def __init__(self, model: nn.Module, *, rate: float = 0.1, margin: float = 0.0):
        super().__init__()
        if rate <= 0 or not 0 <= margin < 1:
            raise ValueError(f"rate is above 0, and margin at least 0 and below 1; got {rate} and {margin}")
        rows = constrained(model)
        if not rows:
            raise ValueError(
                "the echo-state constraint is for simple recurrences, rnn or arma_rnn; this model has none"
            )
        self.rate, self.margin = rate, margin
        self._model = [model]  # its weights are not this module's
        for i, (weight, _) in enumerate(rows):
            self.register_buffer(f"prices_{i}", torch.zeros(len(weight), device=weight.device))

    def prices(self) -> list[Tensor]:
        """λ of each recurrence, (units)."""
        return [self.get_buffer(name) for name, _ in self.named_buffers()]

    def excess(self) -> list[Tensor]:
        """How far the weights of each unit are above the bound, below 0 where they keep it."""
        return [weight.abs().sum(1) - (1 - self.margin) * bound for weight, bound in constrained(self._model[0])]

    def penalty(self) -> Tensor:
        """What is added to the loss."""
        parts = [(price.to(excess.dtype) * excess).sum() for price, excess in zip(self.prices(), self.excess())]
        return torch.stack(parts).sum()

    @torch.no_grad()
    def ascend(self) -> None:
        """Raise the prices where the bound is broken, lower them where it is kept; after a step of the optimizer."""
        for price, excess in zip(self.prices(), self.excess()):
            price.add_(excess.to(price.dtype), alpha=self.rate).clamp_(min=0)
