"""Tokens a second of training, prefill and decoding, as a ratio to a peer of equal size in the same run."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from ostinato.bench.apart import one_line
from ostinato.bench.measure import DTYPES, machine, ratio, seconds_by_turns, summary
from ostinato.bench.peers import Peer, PeerUnavailableError, Shape
from ostinato.bench.subject import Compiled, Ours, Recomputed, Subject, equal_model
from ostinato.layers.quantized import quantize
from ostinato.models.stack import parse_pattern

Call = Callable[[], Any]

SMALL = 64  # tokens of a first call, which compiles what is needed: what is slow then is no figure


def train_call(subject: Subject, tokens: Tensor) -> Call:
    """A forward and backward pass, no optimizer."""
    subject.train()

    def call() -> None:
        subject.zero_grad(set_to_none=True)
        subject.loss(tokens).backward()

    return call


def prefill_call(subject: Subject, tokens: Tensor) -> Call:
    """Reading a prompt."""
    subject.eval()
    return torch.inference_mode()(lambda: subject.prefill(tokens))


def decode_call(subject: Subject, context: Tensor, steps: int) -> Call:
    """Taking the likeliest token, `steps` times, after a context that is read beforehand."""
    subject.eval()
    with torch.inference_mode():
        before = subject.context(context)

    @torch.inference_mode()
    def call() -> None:
        token, state = context[:, -1:], before
        for _ in range(steps):
            logits, state = subject.step(token, state)
            token = logits[:, -1:].argmax(-1)

    return call


def make_call(task: str, subject: Subject, tokens: Tensor, *, steps: int = 64, dtype: str = "float32") -> Call:
    """The task on that subject, under autocast where dtype is not float32, with all work done when it returns."""

    def autocast() -> torch.autocast:
        return torch.autocast(tokens.device.type, DTYPES[dtype], enabled=dtype != "float32")

    with autocast():
        if task == "decode":
            work = decode_call(subject, tokens, steps)
        else:
            work = {"train": train_call, "prefill": prefill_call}[task](subject, tokens)

    def call() -> None:
        with autocast():
            work()
        if tokens.is_cuda:
            torch.cuda.synchronize()

    return call


def build_peer(peer: Peer, shape: Shape) -> Subject:
    """The peer's model; what stops it in its own code is a PeerUnavailableError in one line."""
    torch.manual_seed(0)
    return guarded(peer, lambda: peer.build(shape))()


def guarded(peer: Peer, call: Callable[[], Any]) -> Callable[[], Any]:
    """A call into another library, whose errors are no errors of ours but a reason to go on without it."""

    def run() -> Any:
        try:
            return call()
        except PeerUnavailableError:
            raise
        except Exception as error:
            raise PeerUnavailableError(f"{peer.name} fails here: {one_line(error)}") from error

    return run


def speed(
    task: str,
    mixers: list[str],
    *,
    against: Peer | None,
    length: int = 1024,
    batch: int = 2,
    dim: int = 256,
    layers: int = 4,
    vocab: int = 256,
    rounds: int = 5,
    steps: int = 64,
    equal: bool = True,
    dtype: str = "float32",
    device: str = "cpu",
    compiled: bool = False,
    quantized: bool = False,
    recompute: bool = False,
) -> dict[str, Any]:
    """Tokens a second of each mixer at "train", "prefill" or "decode", and the ratio to the peer.

    length: tokens of a sequence (for decoding: of the context)
    equal: whether the channel mixers are made so wide that each model has the peer's parameters
    steps: tokens that a decoding call adds
    dtype: "float32", or "bfloat16" for autocast, of the peer too
    compiled: whether decoding is measured with a compiled step too, of mixers whose state does not grow
    quantized: whether decoding is measured with weights in 8 bits too
    recompute: whether training is measured with blocks that are computed again too
    """
    torch.manual_seed(0)
    tokens = torch.randint(vocab, (batch, length), device=device)
    subjects: dict[str, Subject] = {}
    calls: dict[str, Call] = {}
    parameters = None
    if against is not None:
        theirs = build_peer(against, Shape(dim, layers, vocab, length, task == "train")).to(device)
        subjects[against.name] = theirs
        first = guarded(against, lambda: make_call(task, theirs, tokens, steps=steps, dtype=dtype))()
        calls[against.name] = guarded(against, first)
        parameters = theirs.size if equal else None
    for mixer in mixers:
        pattern: Any = mixer.split("+")
        parse_pattern(pattern)
        model = equal_model(pattern, parameters, dim=dim, layers=layers, vocab=vocab).to(device)
        ways: dict[str, Subject] = {f"ostinato {mixer}": Ours(model)}
        if task == "train" and recompute:
            ways[f"ostinato {mixer}, recomputed"] = Recomputed(model)
        if task == "decode" and compiled and model.state_bytes(1) == model.state_bytes(1 << 20):
            ways[f"ostinato {mixer}, compiled"] = Compiled(model, batch)
        if task == "decode" and quantized:
            small = Ours(quantize(deepcopy(model)))
            ways[f"ostinato {mixer}, int8"] = small
            if f"ostinato {mixer}, compiled" in ways:
                ways[f"ostinato {mixer}, int8 and compiled"] = Compiled(small.model, batch)
        for name, ours in ways.items():
            make_call(task, ours, tokens[:, :SMALL], steps=2, dtype=dtype)()
            subjects[name] = ours
            calls[name] = make_call(task, ours, tokens, steps=steps, dtype=dtype)
    seconds = seconds_by_turns(calls, rounds=rounds)
    work = batch * (steps if task == "decode" else length)
    rows = []
    for name, subject in subjects.items():
        row = {"model": name, "parameters": subject.size, **summary(seconds[name], work)}
        if against is not None:
            row["ratio"] = ratio(seconds[against.name], seconds[name])
        rows.append(row)
    settings: dict[str, Any] = dict(length=length, batch=batch, dim=dim, layers=layers, vocab=vocab, dtype=dtype)
    if task == "decode":
        settings["steps"] = steps
    return {
        "task": task,
        "against": against and against.name,
        "settings": settings,
        "machine": machine(device),
        "rows": rows,
    }
