"""Decoding is a fold over states: a state and the last token give a token and the next state.

    logits, state = model(token, state);   token = sampler(logits, draw)

Every token comes with the state that has read all before it. So any point of a generation can be kept, and
``stream(model, token[:, None], steps, sampler, state, drawn=...)`` continues from it bit for bit: the last token of a
prompt is always read by itself, as a generated one is.
"""

from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from torch import Tensor

from ostinato.contract import SequenceModule
from ostinato.generate.sampling import Sampler
from ostinato.models.modes import undisturbed
from ostinato.state import State

Step = Callable[[Tensor, State | None, Tensor | None], tuple[Tensor, State | None]]
"""What reads the next tokens: a model, or one that was compiled."""

CHUNK = 2048  # tokens of a prompt that are read at once: a prompt of any length needs little memory


def stream(
    model: SequenceModule,
    prompts: Tensor | Sequence[Sequence[int]],
    steps: int,
    sampler: Sampler,
    state: State | None = None,
    *,
    drawn: int = 0,
    chunk: int = CHUNK,
    step: Step | None = None,
    stop: Collection[int] = (),
) -> Iterator[tuple[Tensor, State]]:
    """Tokens (B,) that continue the prompts, one step after another, each with the state before it is read.

    The states were computed in inference mode: `ostinato.state.clone` makes one from which gradients can flow.

    prompts: (B, T) integers, or B sequences of any lengths from 1 on
    steps: how many tokens to add
    state: what was read before the prompts, which are then equally long; None at the beginning
    drawn: how many tokens were drawn before; the sampler counts on from there
    chunk: tokens of the prompts that are read at once
    step: what reads a single token in place of the model: `compile_step(model)`
    stop: tokens that end a row, such as `Run.end_of_text()`; a row that has ended repeats its last token, and after the
        step in which the last row ends there is none
    """
    if steps < 0 or drawn < 0:
        raise ValueError(f"steps and drawn are numbers of tokens, at least 0; got {steps} and {drawn}")
    tokens, reset = as_batch(prompts)
    if reset is not None and state is not None:
        raise ValueError("prompts of unequal length begin anew; to continue from a state, give all of them one length")
    return _stream(
        model,
        step or model,
        tokens,
        reset,
        steps,
        sampler,
        state,
        drawn,
        chunk,
        torch.tensor(sorted(stop), dtype=torch.long),
    )


def _stream(
    model: SequenceModule,
    step: Step,
    tokens: Tensor,
    reset: Tensor | None,
    steps: int,
    sampler: Sampler,
    state: State | None,
    drawn: int,
    chunk: int,
    stop: Tensor,
) -> Iterator[tuple[Tensor, State]]:
    device = next(model.parameters()).device
    token, begins = tokens[:, -1:].to(device), None if reset is None else reset[:, -1:].to(device)
    if steps and tokens.shape[1] > 1:
        state = prefill(model, tokens[:, :-1], state, None if reset is None else reset[:, :-1], chunk=chunk)
    ended = torch.zeros(len(tokens), dtype=torch.bool)
    for count in range(steps):
        with undisturbed(model):
            logits, state = step(token, state, begins)
        assert state is not None
        drawn_tokens = sampler(logits[:, -1], drawn + count)
        if len(stop):
            where = drawn_tokens.device
            drawn_tokens = torch.where(ended.to(where), token[:, 0].to(where), drawn_tokens)
            ended = ended | torch.isin(drawn_tokens.cpu(), stop)
        yield drawn_tokens, state
        if len(stop) and ended.all():
            return
        token, begins = drawn_tokens[:, None].to(device), None


def prefill(
    model: SequenceModule,
    tokens: Tensor,
    state: State | None = None,
    reset: Tensor | None = None,
    *,
    chunk: int = CHUNK,
) -> State:
    """The state after some tokens (B, T), which are read in chunks and predict nothing."""
    if not model.causal:
        raise ValueError("a text is continued by a causal model; this one sees the whole sequence")
    if chunk < 1:
        raise ValueError(f"chunk is the number of tokens that are read at once, at least 1; got {chunk}")
    device = next(model.parameters()).device
    model.check_input(tokens)
    fresh = model.initial_state(len(tokens))
    if state is not None and type(state) is not type(fresh):
        raise ValueError(f"the model continues from a {type(fresh).__name__}; got a {type(state).__name__}")
    state = fresh if state is None else state
    # a language model leaves out its head, which is most of the work where the vocabulary is large
    read = getattr(model, "hidden", model)
    with undisturbed(model):
        for start in range(0, tokens.shape[1], chunk):
            piece = slice(start, start + chunk)
            begins = None if reset is None else reset[:, piece].to(device)
            _, state = read(tokens[:, piece].to(device), state, begins)
    assert state is not None
    return state


def as_batch(prompts: Tensor | Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
    """Prompts as one batch (B, T) int64: shorter ones are filled up in front, and `reset` is True where they begin."""
    rows = [torch.as_tensor(prompt) for prompt in prompts]
    for row in rows:
        if row.ndim != 1 or not len(row):
            raise ValueError(f"a prompt is a sequence of at least 1 token; got one of shape {tuple(row.shape)}")
        if row.is_floating_point() or row.is_complex() or row.dtype == torch.bool:
            raise ValueError(f"the tokens of a prompt are integers; got {row.dtype}")
    if not rows:
        raise ValueError("there is at least 1 prompt to continue; got none")
    longest = max(len(row) for row in rows)
    tokens = torch.zeros(len(rows), longest, dtype=torch.long)
    reset = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, row in enumerate(rows):
        tokens[i, longest - len(row) :] = row
        reset[i, longest - len(row)] = True
    return tokens, reset if not reset[:, 0].all() else None
