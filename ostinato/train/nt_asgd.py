"""Averaged stochastic gradient descent that begins to average when validation no longer improves: NT-ASGD.

    w_{k+1} = w_k - rate * gradient;   averaging begins at k = T when v > min of all but the last n validations before
    what is used is  (w_T+1 + ... + w_k) / (k - T)

Merity, Keskar, Socher 2017, https://arxiv.org/abs/1708.02182; averaging: Polyak, Juditsky 1992.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.optim import Optimizer

from ostinato.registry import register


@register("train:nt_asgd", paper="awd_lstm")
class NTASGD(Optimizer):
    """Stochastic gradient descent, averaged from where validation stops to improve.

    params: what is learned
    lr: learning rate
    weight_decay: how much of a weight is added to its gradient
    patience: how many of the last validations are not compared with, n
    """

    def __init__(self, params: Iterable[Any], lr: float = 30.0, weight_decay: float = 1.2e-6, patience: int = 5):
        if lr < 0 or weight_decay < 0 or patience < 1:
            raise ValueError(
                f"lr and weight_decay are at least 0 and patience at least 1; got {lr}, {weight_decay}, {patience}"
            )
        super().__init__(params, dict(lr=lr, weight_decay=weight_decay, averaged=0, averages=False, losses=[]))
        self.patience = patience

    @property
    def averages(self) -> bool:
        """Whether averaging has begun."""
        return self.param_groups[0]["averages"]

    @property
    def progress(self) -> dict[str, Any]:
        """What it knows beside the averages: whether it averages, over how many steps, and what validations said."""
        return {name: self.param_groups[0][name] for name in ("averages", "averaged", "losses")}

    @progress.setter
    def progress(self, progress: Mapping[str, Any]) -> None:
        for group in self.param_groups:
            group.update(progress)

    def validated(self, loss: float) -> bool:
        """Tell it the loss of a validation; whether it averages from now on."""
        losses = self.param_groups[0]["losses"]
        if not self.averages and len(losses) > self.patience and loss > min(losses[: -self.patience]):
            for group in self.param_groups:
                group["averages"] = True
        losses.append(float(loss))
        return self.averages

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            group["averaged"] += group["averages"]
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.add_(parameter.grad + group["weight_decay"] * parameter, alpha=-group["lr"])
                if group["averages"]:
                    state = self.state[parameter]
                    if not state:
                        state["mean"] = parameter.clone()
                    state["mean"].lerp_(parameter, 1 / group["averaged"])
        return loss

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averages stand in the place of the weights while this lasts; before averaging begins nothing changes."""
        pairs = [(p, self.state[p]["mean"]) for group in self.param_groups for p in group["params"] if self.state[p]]
        own = [parameter.detach().clone() for parameter, _ in pairs]
        with torch.no_grad():
            for parameter, mean in pairs:
                parameter.copy_(mean)
        try:
            yield
        finally:
            with torch.no_grad():
                for (parameter, _), value in zip(pairs, own, strict=True):
                    parameter.copy_(value)


@contextmanager
def averages(optimizers: Mapping[str, Optimizer]) -> Iterator[None]:
    """Weights are averages while this lasts, where one of these optimizers averages them."""
    with ExitStack() as stack:
        for optimizer in optimizers.values():
            if isinstance(optimizer, NTASGD):
                stack.enter_context(optimizer.averaged())
        yield
