"""One file of `reproductions/`: found, run trial by trial, and written down.

<runs>/reproduce-parity/<trial>/row.json      each finished trial; it is not done again while the file is the same
reproductions/results/parity.json             rows and claims of the whole, where it is recorded
"""

import hashlib
import importlib.util
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from ostinato.bench.measure import machine
from ostinato.compare.local import run_here
from ostinato.compare.plan import slug
from ostinato.compare.run import available_cores
from ostinato.files import write_atomically
from ostinato.registry import did_you_mean
from ostinato.report.results import Failure, plain

FOLDER = "reproductions"
RESULTS = "results"
ROW = "row.json"

Row = dict[str, Any]
"""The arguments of a trial, and what it measured."""
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Claim:
    """What a paper says, and what was seen here.

    says: the effect, in a sentence
    paper: the figure of the paper, in words, and where it stands
    ours: the figure that was measured here
    holds: whether the effect is there
    """

    says: str
    paper: str
    ours: str
    holds: bool


@dataclass(frozen=True)
class Effect:
    """A reproduction as its file describes it."""

    name: str
    title: str
    papers: tuple[str, ...]
    not_reproduced: str
    module: ModuleType = field(repr=False)
    path: Path = field(repr=False)


@dataclass(frozen=True)
class Reproduced:
    """What came of a reproduction.

    rows: arguments and measured values of each trial
    seconds: of all trials, one after the other
    failures: trials that ended with an error
    """

    name: str
    title: str
    papers: tuple[str, ...]
    short: bool
    rows: list[Row]
    claims: list[Claim]
    seconds: float
    not_reproduced: str = ""
    failures: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every claim holds."""
        return not self.failures and all(claim.holds for claim in self.claims)


def folder() -> Path:
    """The folder of reproductions: that of the current directory, or of the checkout that the package is in."""
    for place in (Path.cwd(), Path(__file__).parents[2]):
        if (place / FOLDER).is_dir():
            return place / FOLDER
    raise ValueError(f"there is no folder {FOLDER}/ here: reproductions are run in a checkout of the repository")


def effects() -> list[str]:
    """The names of all reproductions."""
    return sorted(file.stem for file in folder().glob("*.py") if not file.stem.startswith("_"))


def find_effect(name: str) -> Effect:
    """The reproduction of that name, or of that file; ValueError where there is none."""
    path = Path(name) if name.endswith(".py") else folder() / f"{name}.py"
    if not path.is_file():
        known = effects()
        raise ValueError(f"there is no reproduction {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}")
    module = _load(path)
    lacking = [part for part in ("PAPERS", "trials", "trial", "claims") if not hasattr(module, part)]
    if lacking or not module.__doc__:
        raise ValueError(f"{path} is no reproduction: it lacks {', '.join(lacking) or 'a docstring'}")
    title = module.__doc__.strip().splitlines()[0].rstrip(".")
    return Effect(path.stem, title, tuple(module.PAPERS), getattr(module, "NOT_REPRODUCED", ""), module, path.resolve())


def _load(path: Path) -> ModuleType:
    name = f"ostinato_reproduction_{path.stem}"
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses and pickles look their module up
    specification.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Job:
    """A trial: what `run_here` has to know of it, and the arguments."""

    id: str
    mixer: str
    seed: int
    arguments: dict[str, Any]


def _jobs(effect: Effect, short: bool) -> list[Job]:
    source = effect.path.read_bytes()
    jobs = []
    for arguments in effect.module.trials(short):
        key = hashlib.sha256(source + repr(sorted(arguments.items())).encode()).hexdigest()[:12]
        label = " ".join(f"{name}={value}" for name, value in arguments.items())
        jobs.append(Job(f"{slug(label)[:60]}-{key}", label, arguments.get("seed", 0), arguments))
    return jobs


def _measure(module: ModuleType, arguments: dict[str, Any]) -> Row:
    begin = time.perf_counter()
    measured = module.trial(**arguments)
    return plain({**arguments, **measured, "seconds": round(time.perf_counter() - begin, 1)})


def _perform(path: Path, job: Job, own: Path, tell: Callable[[dict[str, Any]], None]) -> None:
    import torch

    torch.set_num_threads(1)  # small models do not gain from more, and others run beside
    tell({"doing": "training"})
    write_atomically(own / ROW, json.dumps(_measure(_load(path), job.arguments), indent=1, allow_nan=False))


def _read(own: Path) -> Row | None:
    try:
        return json.loads((own / ROW).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def reproduce(
    name: str,
    *,
    short: bool = False,
    workers: int | None = None,
    runs: str | Path = "runs",
    record: bool = False,
    tell: Tell = lambda line: None,
) -> Reproduced:
    """Run a reproduction, its trials side by side.

    name: of a file of `reproductions/`, or the path of such a file
    short: the version of about a minute
    workers: trials at a time; None for as many as there are cores
    runs: folder of the trials; those that are done are not done again
    record: write `reproductions/results/<name>.json`
    tell: is told a line for each trial
    """
    if record and short:
        raise ValueError("only whole reproductions are recorded: leave --short or --record out")
    effect = find_effect(name)
    jobs = _jobs(effect, short)
    place = Path(runs, f"reproduce-{effect.name}").resolve()
    rows = {job.id: row for job in jobs if (row := _read(place / job.id)) is not None}
    waiting = [job for job in jobs if job.id not in rows]
    failures = []
    if rows:
        tell(f"{len(rows)} of {len(jobs)} trials are done already")
    perform = partial(_perform, effect.path)
    for job, outcome in run_here(waiting, perform, _read, place, workers or available_cores(), lambda *said: None):
        if isinstance(outcome, Failure):
            failures.append(f"{job.mixer}: {outcome.error}")
            tell(f"failed: {failures[-1]}")
        else:
            rows[job.id] = outcome
            tell(f"[{len(rows)}/{len(jobs)}] {describe(outcome)}")
    found = _conclude(effect, short, [rows[job.id] for job in jobs if job.id in rows], failures)
    if record and not failures:
        write_atomically(effect.path.parent / RESULTS / f"{effect.name}.json", to_json(found))
    return found


def reproduce_here(name: str, *, short: bool = True) -> Reproduced:
    """The same in this process, trial after trial."""
    effect = find_effect(name)
    return _conclude(effect, short, [_measure(effect.module, job.arguments) for job in _jobs(effect, short)], [])


def _conclude(effect: Effect, short: bool, rows: list[Row], failures: Sequence[str]) -> Reproduced:
    claims = [] if failures else effect.module.claims(rows, short)
    seconds = round(sum(row["seconds"] for row in rows), 1)
    return Reproduced(
        effect.name, effect.title, effect.papers, short, rows, claims, seconds, effect.not_reproduced, list(failures)
    )


def describe(row: Row) -> str:
    """A row in one line."""
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()
    )


def to_json(found: Reproduced) -> str:
    """What is recorded: rows and claims, with the machine and the command."""
    values = {"command": "ostinato " + shlex.join(sys.argv[1:]), "machine": machine(), **asdict(found)}
    return json.dumps(plain(values), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
