"""Which linear maps an adapter reaches."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def lora_targets(model: nn.Module) -> list[str]:
    """The linear maps inside the layers that are called as modules: `target_modules` for LoRA and its relatives.

    Some mixers hand the weights of a map to a kernel (`project_in` of the LSTM, `step` of Mamba); an adapter around such
    a map would train and change nothing. They are found by reading one token.

    model: an OstinatoForCausalLM
    """
    called: list[str] = []

    def remember(name: str) -> Callable[[nn.Module, Any], None]:
        return lambda module, arguments: called.append(name)

    hooks = [
        module.register_forward_pre_hook(remember(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".layers." in name
    ]
    training = model.training
    try:
        with torch.no_grad():
            device = next(model.parameters()).device
            model.eval()(input_ids=torch.zeros(1, 3, dtype=torch.long, device=device), use_cache=False)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return sorted(set(called))
