"""What is measured of a model beside its losses: memory of a training step, speed, size of the state, a sample."""

import statistics
from typing import Any

import torch
from torch import Tensor

from ostinato.bench.measure import seconds_by_turns
from ostinato.bench.resident import rise
from ostinato.data import Batches, Corpus, Tokenizer
from ostinato.generate import Sampler, begin, prefill, stream, write
from ostinato.models.language_model import LanguageModel
from ostinato.models.modes import device as pick_device
from ostinato.models.named import build
from ostinato.report.results import STATE_TOKENS
from ostinato.train.config import Config
from ostinato.train.loop import Objective
from ostinato.train.optimizers import make_optimizers

DECODED = 64  # tokens of a measurement of decoding
PROMPT, SAMPLE = 48, 320  # tokens of a sample: given, and added
STEADY = 0.2  # share of the steps at the beginning whose speed does not count


def step_memory(config: Config, corpus: Corpus) -> int | None:
    """How much memory rises at most, in bytes, while a model is made and updated twice; None where it cannot be told.

    To be called while this process has not trained yet: what an allocator keeps would hide what a step needs.
    """
    settings, device = config.train, pick_device(config.train.device)

    def updates(batch_size: int, length: int, number: int) -> None:
        model = build(corpus.tokenizer.vocab_size, **config.model).to(device)
        optimizers = make_optimizers(model, settings)
        objective = Objective(model, settings.precision == "bf16")
        batches, position = Batches(corpus.train, batch_size, length), None
        for _ in range(number):
            batch, position = batches(position)
            loss, _ = objective(*(tensor.to(device) for tensor in batch))
            (loss / batch.tokens.numel()).backward()
            for optimizer in optimizers.values():
                optimizer.step()
                optimizer.zero_grad()

    # the first time a process does something, it loads and compiles what it needs for that
    updates(1, min(settings.length, 64), 1)
    return rise(lambda: updates(settings.batch_size, settings.length, 2), device)


def train_speed(metrics: list[dict[str, Any]]) -> float:
    """Median tokens per second of the lines of metrics, without those of the first steps."""
    lines = [line for line in metrics if "tokens_per_second" in line]
    return statistics.median(line["tokens_per_second"] for line in lines[int(len(lines) * STEADY) :])


def prefill_and_decode_speed(model: LanguageModel, tokens: Tensor) -> tuple[float, float]:
    """Tokens per second when a context (1, T) is read at once, and when tokens are added to it one by one."""
    sampler = Sampler(temperature=0)
    state = prefill(model, tokens[:, :-1])

    def decode() -> None:
        for _ in stream(model, tokens[:, -1:], DECODED, sampler, state):
            pass
        _wait(model)

    def read() -> None:
        prefill(model, tokens)
        _wait(model)

    seconds = seconds_by_turns({"prefill": read, "decode": decode}, rounds=3)
    return tokens.shape[1] / statistics.median(seconds["prefill"]), DECODED / statistics.median(seconds["decode"])


def _wait(model: LanguageModel) -> None:
    if model.embedding.weight.is_cuda:
        torch.cuda.synchronize()


def state_sizes(model: LanguageModel) -> dict[int, int]:
    """Bytes of the state after 1, 4, 16, ... tokens, and after those of the table."""
    return {tokens: model.state_bytes(tokens) for tokens in sorted({*STATE_TOKENS, *(4**k for k in range(11))})}


def sample(model: LanguageModel, tokenizer: Tokenizer, tokens: Tensor) -> tuple[str, str]:
    """The beginning of some tokens as text, and how the model goes on from there."""
    prompt = tokenizer.decode(tokens[:PROMPT].tolist()) or "\n"
    sampler = Sampler(temperature=0.8)
    session = begin(model, tokenizer, prompt, sampler)
    return prompt, "".join(piece for piece, _ in write(model, tokenizer, session, SAMPLE, sampler))
