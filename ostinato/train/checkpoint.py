"""What a run needs to train on as if it had never stopped.

    model.safetensors      weights and buffers
    optimizer.safetensors  what the optimizers remember: adamw/<parameter>/exp_avg, ...
    memory.safetensors     the state of the model after what it has read, where its rows go on with the next batch
    state.json             step, position in the data, time spent, the sums since the last line of metrics

Where an optimizer averages the weights, model.safetensors holds the averages, which are what is used, and
optimizer.safetensors the weights from which training goes on, as weights/<parameter>/own.

Learning rate and random numbers are functions of the step, so nothing about them is saved.
"""

import json
import shutil
from typing import Any

import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn
from torch.optim import Optimizer

from ostinato import state as states
from ostinato.files import write_atomically
from ostinato.runs import MODEL, Checkpoint, Run
from ostinato.train.nt_asgd import NTASGD, averages

OPTIMIZER, MEMORY, STATE = "optimizer.safetensors", "memory.safetensors", "state.json"


def save(
    run: Run,
    step: int,
    model: nn.Module,
    optimizers: dict[str, Optimizer],
    state: dict[str, Any],
    memory: states.State | None = None,
) -> None:
    """Write the checkpoint of a step.

    state: of the loop, as JSON can hold it
    memory: the state of the model, where the next batch goes on from it
    """
    tensors, progress = {}, {}
    for name, optimizer in optimizers.items():
        for parameter_name, parameter in _parameters(optimizer):
            for key, value in optimizer.state[parameter].items():
                tensors[f"{name}/{parameter_name}/{key}"] = value.contiguous()
            if isinstance(optimizer, NTASGD) and optimizer.averages:
                tensors[f"weights/{parameter_name}/own"] = parameter.detach().clone()
        if isinstance(optimizer, NTASGD):
            progress[name] = optimizer.progress
    with run.writing(step) as folder:
        with averages(optimizers):
            save_model(model, str(folder / MODEL))
        save_file(tensors, folder / OPTIMIZER)
        if memory is not None:
            states.save(memory, folder / MEMORY)
        write_atomically(folder / STATE, json.dumps({"step": step, **state, "optimizers": progress}))
        for name in (MODEL, OPTIMIZER):  # which safetensors makes readable for their owner alone
            shutil.copymode(folder / STATE, folder / name)


def restore(checkpoint: Checkpoint, model: nn.Module, optimizers: dict[str, Optimizer]) -> dict[str, Any]:
    """Read a checkpoint into a model and its optimizers; returns the rest of what was saved."""
    load_model(model, checkpoint.folder / MODEL)
    tensors = load_file(checkpoint.folder / OPTIMIZER)
    state = json.loads((checkpoint.folder / STATE).read_text())
    for parameter_name, parameter in model.named_parameters():
        if (own := tensors.pop(f"weights/{parameter_name}/own", None)) is not None:
            with torch.no_grad():
                parameter.copy_(own)
    for name, optimizer in optimizers.items():
        remembered: dict[str, dict[str, Any]] = {}
        for path, tensor in tensors.items():
            owner, parameter_name, key = path.split("/")
            if owner == name:
                remembered.setdefault(parameter_name, {})[key] = tensor
        whole = optimizer.state_dict()
        # torch counts parameters through all groups
        names = [parameter_name for parameter_name, _ in _parameters(optimizer)]
        whole["state"] = {i: remembered[each] for i, each in enumerate(names) if each in remembered}
        optimizer.load_state_dict(whole)
        if isinstance(optimizer, NTASGD):
            optimizer.progress = state["optimizers"][name]
    return state


def restore_memory(checkpoint: Checkpoint, like: states.State) -> states.State | None:
    """The state of the model after what it had read; None if the next batch does not go on from it.

    like: any state of that model
    """
    path = checkpoint.folder / MEMORY
    return states.load(path, like) if path.exists() else None


def _parameters(optimizer: Optimizer) -> list[tuple[str, nn.Parameter]]:
    return [
        pair for group in optimizer.param_groups for pair in zip(group["param_names"], group["params"], strict=True)
    ]
