"""Tokens a second of training, prefill and decoding, as a ratio to a peer of equal size in the same run."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ostinato import state as states
from ostinato.bench.measure import machine, ratio, seconds_by_turns, summary
from ostinato.bench.peers import peer
from ostinato.models.language_model import LanguageModel
from ostinato.models.stack import Part, parse_pattern

Call = Callable[[], Any]


def equal_model(
    pattern: Part | list[Part], parameters: int | None, *, dim: int, layers: int, vocab: int
) -> LanguageModel:
    """A language model of that width and depth, its channel mixers as wide as makes the parameters equal.

    Where the mixers alone need more than `parameters`, or it is None, the model has no channel mixers.
    """

    def count(expansion: float) -> int:
        with torch.device("meta"):
            model = LanguageModel(vocab, dim, layers=layers, pattern=pattern, expansion=expansion)
        return model.parameter_count()

    mlp: str | None = "swiglu"
    expansion = None
    if parameters is not None:
        low, high = count(1.0), count(2.0)
        expansion = 1.0 + (parameters - low) / (high - low)
        mlp = "swiglu" if expansion > 0.05 else None
    torch.manual_seed(0)
    return LanguageModel(vocab, dim, layers=layers, pattern=pattern, mlp=mlp, expansion=expansion if mlp else None)


def train_call(model: nn.Module, tokens: Tensor, bfloat16: bool = False) -> Call:
    """A forward and backward pass, no optimizer: ours by `loss`, a peer's by its labels."""

    def call() -> None:
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            if isinstance(model, LanguageModel):
                loss = model.loss(tokens)
            else:
                loss = model(tokens, labels=tokens, use_cache=False).loss
        loss.backward()

    return call


@torch.inference_mode()
def _prefill(model: nn.Module, tokens: Tensor) -> Any:
    if isinstance(model, LanguageModel):
        return model(tokens)[1]
    return model(tokens, use_cache=True)


def prefill_call(model: nn.Module, tokens: Tensor) -> Call:
    """Reading a prompt."""
    return lambda: _prefill(model.eval(), tokens)


def decode_call(model: nn.Module, context: Tensor, steps: int) -> Call:
    """Taking the likeliest token, `steps` times, after a context that is read beforehand."""
    model.eval()
    before = _prefill(model, context)
    if isinstance(model, LanguageModel):

        @torch.inference_mode()
        def ours() -> None:
            token, state = context[:, -1:], states.clone(before)
            for _ in range(steps):
                logits, state = model(token, state)
                token = logits[:, -1:].argmax(-1)

        return ours

    field = next(
        name for name in ("cache_params", "past_key_values", "state") if getattr(before, name, None) is not None
    )
    cache = getattr(before, field)

    @torch.inference_mode()
    def theirs() -> None:
        token = context[:, -1:]
        for _ in range(steps):
            output = model(token, use_cache=True, **{field: cache})
            token = output.logits[:, -1:].argmax(-1)

    return theirs


def speed(
    task: str,
    mixers: list[str],
    *,
    against: str | None,
    length: int = 1024,
    batch: int = 2,
    dim: int = 256,
    layers: int = 4,
    vocab: int = 256,
    rounds: int = 5,
    steps: int = 64,
    equal: bool = True,
    bfloat16: bool = False,
) -> dict[str, Any]:
    """Tokens a second of each mixer at "train", "prefill" or "decode", and the ratio to the peer.

    length: tokens of a sequence (for decoding: of the context)
    equal: whether the channel mixers are made so wide that each model has the peer's parameters
    steps: tokens that a decoding call adds
    """
    torch.manual_seed(0)
    tokens = torch.randint(vocab, (batch, length))
    models: dict[str, nn.Module] = {}
    if against is not None:
        models[against] = peer(against, dim, layers, vocab)
    parameters = sum(p.numel() for p in models[against].parameters()) if against is not None and equal else None
    for mixer in mixers:
        pattern: Any = mixer.split("+")
        parse_pattern(pattern)
        models[f"ostinato {mixer}"] = equal_model(pattern, parameters, dim=dim, layers=layers, vocab=vocab)
    if task == "decode":
        calls = {name: decode_call(model, tokens, steps) for name, model in models.items()}
    elif task == "prefill":
        calls = {name: prefill_call(model, tokens) for name, model in models.items()}
    else:
        calls = {name: train_call(model, tokens, bfloat16) for name, model in models.items()}
    seconds = seconds_by_turns(calls, rounds=rounds)
    work = batch * (steps if task == "decode" else length)
    rows = []
    for name, model in models.items():
        row = {"model": name, "parameters": sum(p.numel() for p in model.parameters()), **summary(seconds[name], work)}
        if against is not None:
            row["ratio"] = ratio(seconds[against], seconds[name])
        rows.append(row)
    settings = dict(length=length, batch=batch, dim=dim, layers=layers, vocab=vocab, bfloat16=bfloat16, steps=steps)
    return {"task": task, "against": against, "settings": settings, "machine": machine(), "rows": rows}
