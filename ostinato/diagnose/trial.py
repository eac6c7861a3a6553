"""One trial: train a small model on one task, and ask it at the length of training and beyond."""

import json
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ostinato.compare.plan import slug
from ostinato.diagnose.abilities import ability_of
from ostinato.diagnose.learning import Answer, Tell, ask, learn
from ostinato.diagnose.model import build_model
from ostinato.files import write_atomically
from ostinato.registry import create
from ostinato.report.results import plain

RESULT = "result.json"
FACTORS = (1, 2, 4, 16)
"""Problems of these multiples of the training length are asked."""


@dataclass(frozen=True)
class Job:
    """A mixer, a task and a seed.

    mixer, task: their labels
    name, arguments: of the task
    model: settings of the model
    parameters: how many it has
    train: steps, batch_size, learning_rate
    modules: to be imported first, because they register what is not of this package
    """

    mixer: str
    task: str
    seed: int
    name: str
    arguments: dict[str, Any]
    model: dict[str, Any]
    parameters: int
    train: dict[str, Any]
    modules: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """A name for its folder."""
        return f"{slug(self.mixer)}/{slug(self.task)}-seed{self.seed}"


@dataclass(frozen=True)
class Trial:
    """What came of a job.

    ability: what the task shows
    metric: what its scores are, 1 at best
    chance: the score of guessing
    length, unit: of training
    tokens: places that were read in training
    state_bytes: size of the state at the end of a problem of the training length
    state_growth: bytes that it is larger after four times as many places
    """

    mixer: str
    task: str
    seed: int
    ability: str
    metric: str
    chance: float
    length: int
    unit: str
    parameters: int
    dim: int
    steps: int
    tokens: int
    train_seconds: float
    tokens_per_second: float
    state_bytes: int
    state_growth: int
    losses: list[float]
    answers: list[Answer] = field(default_factory=list)

    def score(self, times: int) -> float | None:
        """The score at a multiple of the training length."""
        return next((answer.score for answer in self.answers if answer.times == times), None)


def trial_from_json(values: dict[str, Any]) -> Trial:
    """The trial that was turned into plain values."""
    parts: dict[str, Any] = {"answers": [Answer(**answer) for answer in values["answers"]]}
    return Trial(**(values | parts))


def read_result(folder: str | Path) -> Trial | None:
    """The figures of a trial that was finished in this folder."""
    try:
        return trial_from_json(json.loads((Path(folder) / RESULT).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not there, or of another version of the library: done again


def perform(job: Job, folder: Path, tell: Tell) -> Trial:
    """Train and ask; a trial that was finished is not done again."""
    if (found := read_result(folder)) is not None:
        return found
    for module in job.modules:
        import_module(module)
    torch.set_num_threads(1)  # small models do not gain from more, and others run beside
    task = create(f"task:{job.name}", **job.arguments)
    torch.manual_seed(job.seed)
    model = build_model(task, job.model)
    learned = learn(model, task, **job.train, seed=job.seed, tell=tell)
    tell({"doing": "measuring"})
    places = task.batch(1, split="test").inputs.shape[1]
    trial = Trial(
        mixer=job.mixer,
        task=job.task,
        seed=job.seed,
        ability=ability_of(job.name),
        metric=task.metric,
        chance=task.chance,
        length=task.length,
        unit=task.measured_in,
        parameters=job.parameters,
        dim=job.model["dim"],
        steps=job.train["steps"],
        tokens=learned.tokens,
        train_seconds=learned.seconds,
        tokens_per_second=learned.tokens_per_second,
        state_bytes=model.state_bytes(places),
        state_growth=model.state_bytes(4 * places) - model.state_bytes(places),
        losses=learned.losses,
        answers=[ask(model, task, times) for times in FACTORS],
    )
    write_atomically(folder / RESULT, json.dumps(plain(asdict(trial)), indent=1, allow_nan=False))
    return trial
