"""Train a small model on a task, and ask it at the length of training and beyond.

learned = learn(model, task, steps=1000)        # learned.losses, learned.tokens_per_second, ...
ask(model, task, 4).score                       # at four times the length of training
"""

import math
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ostinato.tasks.task import Batch, Task
from ostinato.train.config import TrainConfig
from ostinato.train.optimizers import make_optimizers, set_learning_rate
from ostinato.train.schedules import factor

ASKED = 256  # problems of each length, where they are short
FEWEST = 64  # problems of a length, however long
PLACES = 1 << 15  # that are read at a length, unless these are fewer problems than that
NUMBERS = 1 << 28  # of outputs that are kept
AT_ONCE = 1 << 15  # places that are read together when it is asked
NEAR = 0.75  # a task that cannot have a length is asked at one that is shorter by at most that factor
STEADY = 0.2  # share of the steps at the beginning whose speed does not count
TOLD = 50  # losses of a training that are kept

Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Learned:
    """How a training went.

    losses: about 50 of them, the last step's among them
    tokens: places that were read
    tokens_per_second: the median of the steps after the first fifth
    seconds: of all steps
    """

    losses: list[float]
    tokens: int
    tokens_per_second: float
    seconds: float


@dataclass(frozen=True)
class Answer:
    """How well problems of one length were solved.

    times: the length as a multiple of that of training
    length: in the unit of the task
    problems: how many there were
    score: None where they could not be asked
    error: why
    """

    times: int
    length: int | None
    problems: int
    score: float | None
    error: str = ""


def learn(
    model: Any,
    task: Task,
    *,
    steps: int,
    batch_size: int = 32,
    learning_rate: float = 3e-3,
    weight_decay: float = 0.01,
    seed: int = 0,
    tell: Tell | None = None,
) -> Learned:
    """Train with AdamW and a cosine schedule on problems of the training split.

    steps, batch_size: how many updates, of how many problems each
    learning_rate: the largest
    seed: of the problems
    tell: is told about 50 times how far it is

    Raises ValueError where a loss or a gradient is not finite.
    """
    settings = TrainConfig(learning_rate=learning_rate, weight_decay=weight_decay)
    optimizers = make_optimizers(model, settings)
    dice = random.Random(seed)
    losses, speeds, tokens, seconds = [], [], 0, 0.0
    every = max(1, steps // TOLD)
    model.train()
    for step in range(steps):
        length = task.nearest_length(dice.randint(task.shortest, task.length)) if task.varied else task.length
        batch = task.batch(batch_size, length, seed=seed, number=step)
        begin = time.perf_counter()
        warmup = min(100, steps // 10)
        set_learning_rate(
            optimizers, learning_rate * factor("cosine", step, steps, warmup, settings.decay, settings.final)
        )
        loss = task.loss(model(batch.inputs)[0], batch)
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip or math.inf)
        for optimizer in optimizers.values():
            optimizer.step()
        value = loss.item()
        if not math.isfinite(value) or not math.isfinite(norm):
            raise ValueError(f"step {step}: the loss is {value} and its gradient {norm.item()}")
        took = time.perf_counter() - begin
        places = batch.scored.numel()
        speeds.append(places / took)
        tokens, seconds = tokens + places, seconds + took
        if step % every == 0 or step == steps - 1:
            losses.append(value)
            if tell is not None:
                tell(
                    {
                        "doing": "training",
                        "step": step + 1,
                        "steps": steps,
                        "loss": value,
                        "tokens_per_second": speeds[-1],
                    }
                )
    return Learned(losses, tokens, statistics.median(speeds[int(steps * STEADY) :]), seconds)


@torch.no_grad()
def ask(model: Any, task: Task, times: int = 1) -> Answer:
    """The score on test problems of a multiple of the training length, which are the same for all models and seeds."""
    wanted = times * task.length
    length = task.nearest_length(wanted)
    if length < NEAR * wanted:
        try:
            task.check_length(wanted)
            reason = f"it has no length near {wanted}"
        except ValueError as error:
            reason = str(error)
        return Answer(times, None, 0, None, reason)
    model.eval()
    outputs, batches = [], []
    try:
        problems = how_many(task, length)
        batch = task.batch(problems, length, split="test")
        for start in range(0, problems, step := max(1, AT_ONCE // batch.inputs.shape[1])):
            part = Batch(*(tensor[start : start + step] for tensor in batch))
            outputs.append(model(part.inputs)[0])
            batches.append(part)
    except (ValueError, RuntimeError) as error:  # of a model that cannot read on, or a task that has no more problems
        return Answer(times, length, 0, None, " ".join(str(error).split())[:300])
    score = task.score(torch.cat(outputs), Batch(*(torch.cat(parts) for parts in zip(*batches))))
    finite = math.isfinite(score)
    return Answer(times, length, problems, score if finite else None, "" if finite else "not finite")


def how_many(task: Task, length: int) -> int:
    """How many problems of a length are asked: fewer long ones, so that they take no longer than short ones."""
    places = task.batch(1, length, split="test").inputs.shape[1]
    return min(ASKED, max(FEWEST, PLACES // places), max(1, NUMBERS // (places * task.outputs)))
