"""The step of a model as a program that runs without this library: a token and a state in, logits and a state out.

    logits, *state = step(token, *state)          token B 1, logits B 1 V, a state of plain tensors

`state.safetensors` beside the program holds the state at the beginning, its tensors numbered in the order in which the
program takes and returns them: "000 stack.layers.0.mixer.S". Ops are written down as they are defined, so that no
kernel of ours is in the program.

torch.export: https://docs.pytorch.org/docs/stable/export.html; ONNX: https://onnx.ai/onnx/
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save

from ostinato.files import write_atomically
from ostinato.generate.compiled import export_step, quiet
from ostinato.ops.choice import backend
from ostinato.state import State, named_leaves

if TYPE_CHECKING:
    from ostinato.models.language_model import LanguageModel

STEP = "step"
STATE = "state.safetensors"


def torch_export(model: "LanguageModel", folder: Path, batch: int = 1) -> None:
    """Write step.pt2, which `torch.export.load` reads, and state.safetensors."""
    program = _program(model, folder, batch)
    torch.export.save(program, folder / f"{STEP}.pt2")


def onnx(model: "LanguageModel", folder: Path, batch: int = 1) -> None:
    """Write step.onnx and state.safetensors; refuses a model with an operator that ONNX does not have."""
    try:
        import onnxscript  # noqa: F401 - what torch.onnx translates with
    except ImportError:
        raise ValueError("exporting to ONNX needs onnx and onnxscript: pip install 'ostinato[onnx]'") from None
    program = _program(model, folder, batch)
    numbers = range(len(program.graph_signature.user_outputs) - 1)
    inputs, outputs = ["token"], ["logits"]
    for names, prefix in ((inputs, "state"), (outputs, "after")):
        names += [f"{prefix}_{number:03d}" for number in numbers]
    options: dict[str, Any] = dict(input_names=inputs, output_names=outputs, verbose=False, external_data=False)
    with quiet(), torch.no_grad():
        try:
            torch.onnx.export(program, f=folder / f"{STEP}.onnx", dynamo=True, **options)
        except torch.onnx.errors.OnnxExporterError as error:
            raise ValueError(f"this model cannot be exported to ONNX: {missing_operator(error)}") from error


def _program(model: "LanguageModel", folder: Path, batch: int) -> torch.export.ExportedProgram:
    with backend("reference"):
        program, begin = export_step(model, batch)
    for node in program.graph.nodes:
        if node.op == "call_function" and "ostinato" in (name := str(node.target)):
            raise ValueError(f"the step of this model calls {name}, which only this library has")
    write_atomically(folder / STATE, save(numbered(begin)))
    return program


def numbered(state: State) -> dict[str, torch.Tensor]:
    """The tensors of a state under names that sort in their order."""
    return {f"{i:03d} {name}": leaf.contiguous() for i, (name, leaf) in enumerate(named_leaves(state))}


def missing_operator(error: BaseException | None) -> str:
    """What an exporter's error says of the operator that it does not know."""
    messages = []
    while error is not None:
        messages.append(str(error))
        error = error.__cause__ or error.__context__
    text = "\n".join(messages)
    if found := re.search(r"OpOverload\(op='([\w.:]+)'", text):
        kind = " of complex numbers" if "complex" in text else ""
        return f"ONNX has no operator for {found.group(1)}{kind}"
    return messages[-1].strip().partition("\n")[0] or "torch.onnx says no more"
