"""A text that is being written, as a value: what the model remembers of it, and all else that its continuation needs.

    session = begin(model, tokenizer, "Once upon a time", sampler)
    for piece, session in write(model, tokenizer, session, 100, sampler):
        print(piece, end="")
    save(session, "tale.safetensors")

Written 20 tokens at a time, with files in between, a text is the same as written at once: bit for bit, drawn or greedy,
also where 20 tokens end inside a character. What the model remembers belongs to its weights; a file of others is refused.
"""

import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor

from ostinato import state as states
from ostinato.generate.decode import CHUNK, Step, prefill, stream
from ostinato.generate.sampling import Sampler
from ostinato.state import State

if TYPE_CHECKING:
    from ostinato.data import Tokenizer
    from ostinato.models.language_model import LanguageModel

RECENT = 4  # bytes of the longest character of UTF-8, and no token that is written has fewer than one
NONE = -1  # in place of a token, where there were fewer
SAMPLED = 1024  # numbers of each weight that go into the fingerprint of a model


class Session(NamedTuple):
    """One text. It is a state like any other, so that all of `ostinato.state` applies to it."""

    model: State  # after all tokens but the last
    recent: Tensor  # 1 4, the last tokens, the oldest first
    seed: Tensor  # 1, of the sampler
    drawn: Tensor  # 1, how many tokens the sampler has drawn
    weights: Tensor  # 1 32 uint8, the fingerprint of the model


def begin(
    model: "LanguageModel",
    tokenizer: "Tokenizer",
    prompt: str,
    sampler: Sampler,
    session: Session | None = None,
    *,
    chunk: int = CHUNK,
) -> Session:
    """The session after a prompt has been read.

    prompt: at least one character
    sampler: its seed is remembered
    session: what came before the prompt; None at the beginning
    chunk: tokens that are read at once
    """
    check_vocabulary(model, tokenizer)
    prompt_tokens = torch.as_tensor(tokenizer.encode(prompt))[None]
    if not prompt_tokens.shape[1]:
        raise ValueError("the prompt is empty; it needs at least one character")
    if session is None:
        state, drawn, weights = None, torch.zeros(1, dtype=torch.long), fingerprint(model)[None]
        unread = prompt_tokens
        past = torch.full((1, RECENT), NONE)
    else:
        state, drawn, weights = session.model, session.drawn, session.weights
        unread = torch.cat([session.recent[:, -1:], prompt_tokens], 1)
        past = session.recent
    if unread.shape[1] > 1:
        state = prefill(model, unread[:, :-1], state, chunk=chunk)
    elif state is None:
        state = model.initial_state(1)
    recent = torch.cat([past, prompt_tokens], 1)[:, -RECENT:]
    return Session(state, recent, torch.tensor([sampler.seed]), drawn, weights)


def write(
    model: "LanguageModel",
    tokenizer: "Tokenizer",
    session: Session,
    tokens: int,
    sampler: Sampler,
    *,
    step: Step | None = None,
    stop: Collection[int] = (),
) -> Iterator[tuple[str, Session]]:
    """The text that goes on from a session: what each token adds to it, and the session after that token.

    A token that ends inside a character adds nothing; the one that completes the character adds it.

    step: what reads a single token in place of the model: `compile_step(model)`
    stop: tokens that end the text, such as `Run.end_of_text()`; they are no part of it
    """
    check_vocabulary(model, tokenizer)
    decoder = tokenizer.stream()
    for token in session.recent[0].tolist():
        if token != NONE:
            decoder.add(token)  # what was written before; bytes of a character begun there stay in the decoder
    seed, last = torch.tensor([sampler.seed]), session.recent[:, -1:]
    steps = stream(model, last, tokens, sampler, session.model, drawn=int(session.drawn), step=step, stop=stop)
    for token, state in steps:
        session = Session(
            state,
            torch.cat([session.recent[:, 1:], token[:, None]], 1),
            seed,
            session.drawn + 1,
            session.weights,
        )
        yield decoder.finish() if int(token) in stop else decoder.add(int(token)), session


def ended(session: Session, stop: Collection[int]) -> bool:
    """Whether the last token of a session is one that ends a text."""
    return int(session.recent[0, -1]) in stop


def save(session: Session, path: str | Path) -> None:
    """Write the session as safetensors under readable keys."""
    states.save(session, path)


def load(path: str | Path, model: "LanguageModel") -> Session:
    """The session in a file; ValueError if it is not one, or belongs to another model."""
    long = torch.zeros(1, dtype=torch.long)
    weights = fingerprint(model)[None]
    like = Session(model.initial_state(1), long[:, None], long, long, weights)
    session = cast(Session, states.load(path, like))
    if session.weights.shape != weights.shape or not torch.equal(session.weights, weights):
        raise ValueError(f"{path} was written by a model with other weights; a text goes on with those it began with")
    shapes = [tuple(field.shape) for field in session[1:4]]
    if shapes != [(1, RECENT), (1,), (1,)] or not NONE < int(session.recent[0, -1]) < model.vocab_size:
        raise ValueError(f"{path} is damaged: it does not say which token comes next")
    return session


def fingerprint(model: torch.nn.Module) -> Tensor:
    """32 bytes that other weights do not share: a checksum of numbers from all over each of them."""
    checksum = hashlib.sha256()
    for name, weight in model.state_dict().items():
        flat = weight.detach().flatten()
        some = flat[:: max(1, len(flat) // SAMPLED)].contiguous().cpu()
        checksum.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        checksum.update(some.view(torch.uint8).numpy().tobytes())
    return torch.tensor(list(checksum.digest()), dtype=torch.uint8)


def check_vocabulary(model: "LanguageModel", tokenizer: "Tokenizer") -> None:
    """Refuse a model and a tokenizer that were not made for each other."""
    if model.vocab_size != tokenizer.vocab_size:
        raise ValueError(f"the model has {model.vocab_size} tokens and the tokenizer {tokenizer.vocab_size}")
