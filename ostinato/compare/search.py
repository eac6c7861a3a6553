"""A search for good settings: trials that differ in settings drawn at random, and how much each of these mattered.

<out>/search.json         what all trials of this folder share: the config, the spaces, the seed
      trials/003/         run/ (of `ostinato train`), result.json, log.txt
      found.json          all trials, the best first, and the shares of the settings in the variance of their scores

Trial i is the same however many there are, so a search goes on where it stopped, and further when more trials are asked for.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from ostinato.analyze.fanova import Importance, fanova
from ostinato.compare.jobs import TRAINED, Tell, Teller
from ostinato.compare.local import run_here
from ostinato.compare.plan import foreign_modules
from ostinato.compare.run import Watcher, available_cores, claim
from ostinato.files import write_atomically
from ostinato.report.results import Failure, plain
from ostinato.train import Config, train
from ostinato.train.config import override
from ostinato.train.random_search import Space, random_search, read_space
from ostinato.train.values import check_mapping

SETTINGS, TRIALS, FOUND, RESULT = "search.json", "trials", "found.json", "result.json"
DEFAULTS = {"train": {"tensorboard": False, "keep": 1}}
ENOUGH = 10
"""Trials from which on it is said what mattered; with fewer a forest sees little but chance."""


@dataclass(frozen=True)
class Job:
    """One trial.

    number: from 0
    seed: of the search
    places: where in its space each setting is
    chosen: the settings
    config: of its training
    modules: to be imported first, because they register what is not of this package
    """

    number: int
    seed: int
    places: dict[str, float]
    chosen: dict[str, Any]
    config: dict[str, Any]
    modules: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """A name for its folder."""
        return f"{self.number:03d}"

    @property
    def mixer(self) -> str:
        """What messages call it."""
        return f"trial {self.number}"


@dataclass(frozen=True)
class Trial:
    """What came of a job: the best of its validations."""

    number: int
    chosen: dict[str, Any]
    places: dict[str, float]
    bits_per_byte: float
    loss: float
    step: int
    parameters: int


@dataclass(frozen=True)
class Searched:
    """What a search found.

    trials: that ended, the best first
    importance: of the settings; None where too few trials ended, or scikit-learn is not there
    note: why importance is None
    """

    folder: Path
    trials: list[Trial]
    failures: list[Failure] = field(default_factory=list)
    importance: Importance | None = None
    note: str = ""


def search(
    config: Mapping[str, Any],
    out: str | Path | None = None,
    *,
    trials: int = 20,
    seed: int = 0,
    workers: int | None = None,
    watcher: Watcher | None = None,
) -> Searched:
    """Train models with settings drawn at random, and say which were best and which settings mattered.

    config: as for `ostinato train`, with one more section: `search` has a space for each setting that is drawn
    out: folder; one of a search with the same settings is continued; None for runs/search
    trials: how many there shall be in all
    seed: another one draws others
    workers: trials at a time; None for as many as there are cores
    watcher: is told what happens
    """
    cores = available_cores()
    if trials < 1 or (workers is not None and workers < 1):
        raise ValueError(f"trials and workers are at least 1; got {trials} and {workers}")
    workers = min(workers or cores, trials)
    base, spaces = read_search(config)
    folder = Path(out) if out is not None else Path("runs", "search")
    base = override({"train": {"threads": _threads(folder) or max(1, cores // workers)}}, base)
    jobs = make_jobs(base, spaces, trials, seed)
    written = {name: {space.kind: list(space.values)} for name, space in spaces.items()}
    claim(folder / SETTINGS, {"config": base, "search": written, "seed": seed}, "search")
    watcher = watcher or Watcher()
    found = {job.id: read_result(folder / TRIALS / job.id) for job in jobs}
    waiting = [job for job in jobs if found[job.id] is None]
    failures: dict[str, Failure] = {}
    watcher.begin(jobs, [job for job in jobs if job not in waiting], workers)  # type: ignore[arg-type]
    try:
        for job, outcome in _outcomes(waiting, folder / TRIALS, workers, watcher):
            if isinstance(outcome, Failure):
                failures[job.id] = outcome
            else:
                found[job.id] = outcome
            watcher.ended(job, outcome)  # type: ignore[arg-type]
    finally:
        watcher.end()
        ended = sorted((trial for trial in found.values() if trial), key=lambda trial: trial.bits_per_byte)
        searched = Searched(folder, ended, list(failures.values()), *_importance(ended))
        write_atomically(folder / FOUND, json.dumps(plain(_values(searched)), indent=1) + "\n")
    return searched


def read_search(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Space]]:
    """The config without its section `search`, and the spaces in that section."""
    values = {name: section for name, section in config.items() if name != "search"}
    written = check_mapping(config.get("search"), "search")
    if not written:
        raise ValueError(
            "search: a section that names what is drawn, as in train.learning_rate: {log_uniform: [1e-4, 1e-1]}"
        )
    spaces = {}
    for name, spec in written.items():
        section, dot, key = str(name).partition(".")
        if not (dot and key) or section not in ("model", "data", "train"):
            raise ValueError(f"search.{name}: a setting is written with its section, as in train.learning_rate")
        spaces[name] = read_space(f"search.{name}", spec)
    return override(DEFAULTS, values), spaces


def make_jobs(base: Mapping[str, Any], spaces: Mapping[str, Space], trials: int, seed: int) -> list[Job]:
    """All trials; ValueError for a setting that does not exist or cannot have such a value, before anything is trained."""
    jobs, others = [], foreign_modules()
    for number in range(trials):
        drawn = random_search(spaces, number, seed)
        chosen: dict[str, dict[str, Any]] = {}
        for name, (_, value) in drawn.items():
            section, _, key = name.partition(".")
            chosen.setdefault(section, {})[key] = value
        config = override(base, chosen)
        Config.read(config)
        places = {name: place for name, (place, _) in drawn.items()}
        jobs.append(Job(number, seed, places, {name: value for name, (_, value) in drawn.items()}, config, others))
    return jobs


def perform(job: Job, folder: Path, tell: Tell) -> Trial:
    """Train, or go on where training stopped; the best validation."""
    for module in job.modules:
        import_module(module)
    run = train(job.config, folder / TRAINED, callbacks=[Teller(tell)])
    known = [line for line in run.metrics() if line.get("valid_bits_per_byte") is not None]
    if not known:
        raise ValueError("no validation gave a finite loss")
    best = min(known, key=lambda line: line["valid_bits_per_byte"])
    figures = (best["valid_bits_per_byte"], best["valid_loss"], best["step"], run.info["parameters"])
    trial = Trial(job.number, job.chosen, job.places, *figures)
    write_atomically(folder / RESULT, json.dumps(plain(asdict(trial)), indent=1))
    return trial


def read_result(folder: Path) -> Trial | None:
    """The figures of a trial that was finished in this folder."""
    try:
        return Trial(**json.loads((folder / RESULT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _outcomes(jobs: list[Job], folder: Path, workers: int, watcher: Watcher) -> Iterator[tuple[Job, Trial | Failure]]:
    return run_here(jobs, perform, read_result, folder.resolve(), workers, watcher.job)


def _threads(folder: Path) -> int | None:
    """The threads of each trial with which this search began: a trial that was interrupted goes on with them."""
    try:
        return json.loads((folder / SETTINGS).read_text())["config"]["train"]["threads"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _importance(trials: list[Trial]) -> tuple[Importance | None, str]:
    if len(trials) < ENOUGH:
        return None, f"what mattered is said from {ENOUGH} trials on that ended; {len(trials)} did"
    scores = [trial.bits_per_byte for trial in trials]
    if not all(map(math.isfinite, scores)):
        return None, "a score is not finite"
    names = list(trials[0].places)
    try:
        return fanova([[trial.places[name] for name in names] for trial in trials], scores, names), ""
    except ValueError as error:
        return None, str(error)


def _values(searched: Searched) -> dict[str, Any]:
    """As JSON holds it."""
    found = searched.importance
    shares = found and {
        "variance": found.variance,
        "single": {name: share._asdict() for name, share in found.single.items()},
        "pairs": [{"settings": list(pair), **share._asdict()} for pair, share in found.pairs.items()],
    }
    return {
        "trials": [asdict(trial) for trial in searched.trials],
        "failures": [asdict(failure) for failure in searched.failures],
        "importance": shares,
        "note": searched.note,
    }
