"""What a run needs to train on as if it had never stopped.

    model.safetensors      weights and buffers
    optimizer.safetensors  what the optimizers remember: adamw/<parameter>/exp_avg, ...
    state.json             step, position in the data, time spent, the sums since the last line of metrics

Learning rate and random numbers are functions of the step, so nothing about them is saved.
"""

import json
import shutil
from typing import Any

from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn
from torch.optim import Optimizer

from ostinato.files import write_atomically
from ostinato.runs import MODEL, Checkpoint, Run

OPTIMIZER, STATE = "optimizer.safetensors", "state.json"


def save(run: Run, step: int, model: nn.Module, optimizers: dict[str, Optimizer], state: dict[str, Any]) -> None:
    """Write the checkpoint of a step."""
    tensors = {}
    for name, optimizer in optimizers.items():
        for parameter_name, parameter in _parameters(optimizer):
            for key, value in optimizer.state[parameter].items():
                tensors[f"{name}/{parameter_name}/{key}"] = value.contiguous()
    with run.writing(step) as folder:
        save_model(model, str(folder / MODEL))
        save_file(tensors, folder / OPTIMIZER)
        write_atomically(folder / STATE, json.dumps({"step": step, **state}))
        for name in (MODEL, OPTIMIZER):  # which safetensors makes readable for their owner alone
            shutil.copymode(folder / STATE, folder / name)


def restore(checkpoint: Checkpoint, model: nn.Module, optimizers: dict[str, Optimizer]) -> dict[str, Any]:
    """Read a checkpoint into a model and its optimizers; returns the rest of what was saved."""
    load_model(model, checkpoint.folder / MODEL)
    tensors = load_file(checkpoint.folder / OPTIMIZER)
    for name, optimizer in optimizers.items():
        remembered: dict[str, dict[str, Any]] = {}
        for path, tensor in tensors.items():
            owner, parameter_name, key = path.split("/")
            if owner == name:
                remembered.setdefault(parameter_name, {})[key] = tensor
        state = optimizer.state_dict()
        # torch counts parameters through all groups
        names = [parameter_name for parameter_name, _ in _parameters(optimizer)]
        state["state"] = {i: remembered[each] for i, each in enumerate(names) if each in remembered}
        optimizer.load_state_dict(state)
    return json.loads((checkpoint.folder / STATE).read_text())


def _parameters(optimizer: Optimizer) -> list[tuple[str, nn.Parameter]]:
    return [
        pair for group in optimizer.param_groups for pair in zip(group["param_names"], group["params"], strict=True)
    ]
