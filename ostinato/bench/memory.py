"""Peak memory of a training step beside a peer's, each in a process of its own.

What is counted is how much the resident memory of the process rises during the step, at most, over what it was when the
model had been built. A step before it loads and compiles what a first step needs: that is memory of the libraries.
"""

import statistics
from collections.abc import Iterator
from typing import Any

import torch

from ostinato.bench.apart import ApartError, apart
from ostinato.bench.measure import machine
from ostinato.bench.peers import Peer, PeerUnavailableError, Shape, peers
from ostinato.bench.resident import rise
from ostinato.bench.speed import build_peer, make_call
from ostinato.bench.subject import Ours, Recomputed, Subject, equal_model
from ostinato.models.stack import parse_pattern

STEPS = 3  # odd: the median is one of them


def memory(
    mixers: list[str],
    *,
    against: Peer | None,
    length: int = 1024,
    batch: int = 1,
    dim: int = 256,
    layers: int = 4,
    vocab: int = 256,
    equal: bool = True,
    dtype: str = "float32",
    device: str = "cpu",
    recompute: bool = False,
) -> dict[str, Any]:
    """Bytes by which memory rises in a forward and backward pass, gradients included, and the share of the peer's.

    equal: whether the channel mixers are made so wide that each model has the peer's parameters
    recompute: whether it is measured with blocks that are computed again too
    """
    shape, rest = Shape(dim, layers, vocab, length), (batch, dtype, device)
    rows, parameters = [], None
    if against is not None:
        try:
            (row,) = apart(_their_step, against.name, shape, *rest)
        except ApartError as error:
            raise PeerUnavailableError(str(error).removeprefix(f"{PeerUnavailableError.__name__}: ")) from error
        rows.append(row)
        parameters = row["parameters"] if equal else None
    for mixer in mixers:
        parse_pattern(mixer.split("+"))
        for kind in (Ours, Recomputed) if recompute else (Ours,):
            rows += apart(_our_step, mixer, kind, parameters, shape, *rest)
    if against is not None:
        for row in rows:
            known = row["step_bytes"] and rows[0]["step_bytes"]
            row["of_peer"] = row["step_bytes"] / rows[0]["step_bytes"] if known else None
    settings = dict(length=length, batch=batch, dim=dim, layers=layers, vocab=vocab, dtype=dtype)
    return {
        "task": "memory",
        "against": against and against.name,
        "settings": settings,
        "machine": machine(device),
        "rows": rows,
    }


def _their_step(name: str, shape: Shape, *rest: Any) -> Iterator[dict[str, Any]]:
    (peer,) = peers([name])
    yield _step(name, build_peer(peer, shape), shape, *rest)


def _our_step(
    mixer: str, kind: type[Ours], parameters: int | None, shape: Shape, *rest: Any
) -> Iterator[dict[str, Any]]:
    model = equal_model(mixer.split("+"), parameters, dim=shape.dim, layers=shape.layers, vocab=shape.vocab)
    how = ", recomputed" if kind is Recomputed else ""
    yield _step(f"ostinato {mixer}{how}", kind(model), shape, *rest)


def _step(name: str, subject: Subject, shape: Shape, batch: int, dtype: str, device: str) -> dict[str, Any]:
    subject = subject.to(device)
    torch.manual_seed(0)
    tokens = torch.randint(shape.vocab, (batch, shape.length), device=device)
    step = make_call("train", subject, tokens, dtype=dtype)
    step()
    risen = []
    for _ in range(STEPS):
        subject.zero_grad(set_to_none=True)  # gradients are memory of the step
        risen.append(rise(step, torch.device(device)))
    known = [value for value in risen if value is not None]
    return {"model": name, "parameters": subject.size, "step_bytes": statistics.median(known) if known else None}
