"""Which parameter is moved how: AdamW, LAMB or NT-ASGD for everything, or Muon for the matrices of layers and AdamW for the rest.

    matrices    weights of nn.Linear but the head: Muon or AdamW, with weight decay
    decayed     other parameters of two or more dimensions (convolutions, ...): AdamW with weight decay
    plain       vectors, norms, biases, embeddings, heads that share their weights, and whatever has the attribute
                `_no_weight_decay`: AdamW without

Muon moves a matrix along the nearest orthogonal one to its gradients' running sum, here with a step as long as AdamW's
would be (0.2 sqrt(max(rows, columns))), so that one learning rate serves both.

AdamW: Loshchilov, Hutter 2017, https://arxiv.org/abs/1711.05101. Muon: Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon; the length of its step from Liu et al. 2025, https://arxiv.org/abs/2502.16982.
"""

import torch
from torch import nn
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from ostinato.train.config import TrainConfig
from ostinato.train.lamb import Lamb
from ostinato.train.nt_asgd import NTASGD

Named = list[tuple[str, Parameter]]


def parameter_groups(model: nn.Module) -> dict[str, Named]:
    """Every parameter once, by name, in the group that says how it is moved."""
    kinds: dict[Parameter, str] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if isinstance(module, nn.Embedding) or parameter.ndim < 2 or getattr(parameter, "_no_weight_decay", False):
                kinds[parameter] = "plain"
            elif isinstance(module, nn.Linear) and module is not getattr(model, "head", None) and parameter.ndim == 2:
                kinds.setdefault(parameter, "matrices")
            else:
                kinds.setdefault(parameter, "decayed")
    groups: dict[str, Named] = {"matrices": [], "decayed": [], "plain": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[kinds[parameter]].append((name, parameter))
    return {name: group for name, group in groups.items() if group}


def make_optimizers(model: nn.Module, settings: TrainConfig) -> dict[str, Optimizer]:
    """The optimizers by name; together they have every parameter once."""
    groups = parameter_groups(model)
    rate, decay = settings.learning_rate, settings.weight_decay
    optimizers: dict[str, Optimizer] = {}
    if settings.optimizer == "muon" and "matrices" in groups:
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(f"train.optimizer: muon needs torch 2.9 or later; this is {torch.__version__}")
        optimizers["muon"] = torch.optim.Muon(
            groups.pop("matrices"),
            lr=rate,
            weight_decay=decay,
            momentum=settings.momentum,
            adjust_lr_fn="match_rms_adamw",
        )
    rest = [{"params": group, "weight_decay": 0.0 if name == "plain" else decay} for name, group in groups.items()]
    if rest:
        betas = (settings.beta1, settings.beta2)
        if settings.optimizer == "lamb":
            optimizers["lamb"] = Lamb(rest, lr=rate, betas=betas)
        elif settings.optimizer == "nt_asgd":
            optimizers["nt_asgd"] = NTASGD(rest, lr=rate, weight_decay=decay, patience=settings.patience)
        else:
            optimizers["adamw"] = AdamW(rest, lr=rate, betas=betas)
    return optimizers


def set_learning_rate(optimizers: dict[str, Optimizer], rate: float) -> None:
    """The learning rate of the next step."""
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = rate
