"""What can be said about everything registered without knowing it: for the command line, the docs and reports.

Sizes and costs are measured on a module built for the purpose, never read from a table.
"""

import inspect
import sys
from dataclasses import dataclass
from typing import Any

from ostinato.papers import evidence, papers_of
from ostinato.registry import Entry, create, entries

DIM = 256
STATE_LENGTHS = {"1k": 1024, "16k": 16 * 1024, "1M": 1024 * 1024}
COST_LENGTHS = (256, 1024)


def describe(entry: Entry) -> dict[str, Any]:
    """An entry as a JSON object: kind, name, summary, papers (ids), level of evidence, tests."""
    shown = evidence(entry)
    return dict(
        kind=entry.kind,
        name=entry.name,
        summary=entry.summary,
        papers=papers_of(entry),
        evidence=shown.level,
        tests=list(shown.tests),
    )


def equation(entry: Entry) -> str:
    """The formula that the docstring of its module opens with, or nothing."""
    return formula(sys.modules[entry.target.__module__].__doc__ or "")


def formula(docstring: str) -> str:
    """The first indented lines of a docstring."""
    paragraphs = docstring.split("\n\n")[1:]
    indented = [part for part in paragraphs if part.startswith("    ")]
    if not indented:
        # Python 3.13 takes the indentation away where every line after the first has it
        indented = [part for part in paragraphs[:1] if " = " in part.partition("\n")[0]]
    return inspect.cleandoc("\n" + indented[0]) if indented else ""


def ops_of(entry: Entry) -> list[str]:
    """Names of the registered ops that the files of its class take something from."""
    known = {op.name: op.target for op in entries("op") if op.key != entry.key}
    bases = [base.__module__ for base in getattr(entry.target, "__mro__", ())]
    files = [file for file in bases if file.startswith(("ostinato.mixers.", "ostinato.layers."))]
    return list(dict.fromkeys(op for file in files or [entry.target.__module__] for op in _ops_in(file, known)))


def _ops_in(file: str, known: dict[str, Any]) -> list[str]:
    used = []
    for value in vars(sys.modules[file]).values():
        origin = getattr(value, "__module__", None) or ""
        if origin == file or not origin.startswith("ostinato.ops."):
            continue
        names = [name for name, target in known.items() if target is value] or [origin.rpartition(".")[2]]
        if names[0] in known:
            used.append(value.__name__ if value.__name__ in names else names[0])
        else:  # what several ops share: the cells of a recurrence
            used += _ops_in(origin, known)
    return used


@dataclass(frozen=True)
class Sizes:
    """What a module with these arguments costs: one sequence, one layer, numbers of float32."""

    arguments: dict[str, Any]
    parameters: int
    state_bytes: dict[str, int]
    """Bytes of state after 1k, 16k and 1M tokens; empty for a module that reads whole sequences."""

    flops: dict[int, float]
    """Operations a token in matrix products and convolutions (masked ones too), for sequences of these lengths."""

    step_flops: float
    """The same for a single token that is read by itself."""

    @property
    def growth(self) -> str:
        """How the state grows with the number of tokens, in a word or two."""
        if not self.state_bytes:
            return "no state: it reads whole sequences"
        short, middle, long = self.state_bytes.values()
        if short == long:
            return "constant"
        return "grows up to a limit" if middle == long else "grows with the sequence"

    @property
    def cost(self) -> str:
        """Operations a token, and whether they depend on the length."""
        (short, few), (long, many) = self.flops.items()
        if not many:
            return "element by element: no matrix products along the sequence"
        rate = f"{many / 1e6:,.2f} million operations a token in matrix products"
        if many < 1.1 * few:
            return f"{rate}, whatever the length"
        return f"{rate} for a sequence of {long:,}, {few / 1e6:,.2f} million for one of {short:,}"


def measure(entry: Entry, dim: int = DIM) -> Sizes | None:
    """Build it with default arguments at that width and measure; None for what is no sequence module."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from ostinato.contract import SequenceModule
    from ostinato.ops.choice import backend
    from ostinato.state import detach

    if not inspect.isclass(entry.target) or not issubclass(entry.target, SequenceModule):
        return None
    example = entry.target.examples[0]
    needed = [argument.name for argument in entry.arguments if argument.required or argument.name == "size"]
    arguments = {name: example[name] for name in needed if name in example}
    defaults = {argument.name: argument.default for argument in entry.arguments}
    if "dim" in defaults:
        arguments["dim"] = min(dim, getattr(entry.target, "widest_measured", dim))
    if isinstance(defaults.get("positions"), int):  # learned ones: as many as are read here
        arguments["positions"] = max(COST_LENGTHS)
    module = create(entry.key, **arguments).eval()
    flops = {}
    # kernels are opaque to the counter: it counts the plain torch forms, here and in attention
    with torch.no_grad(), backend("torch"), sdpa_kernel(SDPBackend.MATH):
        for length in (1, *COST_LENGTHS):
            with FlopCounterMode(display=False) as counter:
                # the counter stumbles over a learned state that is handed on as it is
                module(module.random_input(1, length), detach(module.initial_state(1)) if module.causal else None)
            flops[length] = counter.get_total_flops() / length
    tokens = STATE_LENGTHS if module.causal else {}
    return Sizes(
        arguments=arguments,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        state_bytes={label: module.state_bytes(length) for label, length in tokens.items()},
        step_flops=flops.pop(1),
        flops=flops,
    )


def parameters_at_sizes(entry: Entry) -> dict[str, str]:
    """For a paper's model: its width, depth and parameters at each size, in words. Nothing for anything else."""
    from ostinato.models.budget import format_count, parameter_count

    layout = getattr(entry.target, "layout", None)
    if layout is None:
        return {}
    said = {}
    for size in layout.sizes:
        arguments = layout.arguments(size)
        count = format_count(parameter_count(layout.vocabulary, **arguments))
        stated = f" (the paper: {layout.millions[size]:g}M)" if size in layout.millions else ""
        said[size] = f"{count} parameters{stated}, dim {arguments['dim']}, {arguments['layers']} layers"
    return said


def readable_bytes(number: int) -> str:
    """A number of bytes with a unit: 512 B, 1.5 KiB, 2 GiB."""
    size, units = float(number), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.3g} {units[0]}" if size < 1000 else f"{size:.0f} {units[0]}"
