"""A diagnosis from beginning to end: plan, trials, report. What is there already is not done again.

<out>/diagnosis.json         the settings that all trials of this folder share
      trials/<mixer>/<task>-seed0/     result.json, log.txt
      report.html  report.json
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ostinato.bench.measure import machine
from ostinato.compare.local import run_here
from ostinato.compare.plan import foreign_modules
from ostinato.compare.run import Watcher, available_cores, claim
from ostinato.compare.specs import Spec, read_spec
from ostinato.diagnose.batteries import TaskSpec, find_battery
from ostinato.diagnose.model import model_settings
from ostinato.diagnose.trial import Job, Trial, perform, read_result, trial_from_json
from ostinato.files import write_atomically
from ostinato.models.budget import parse_count
from ostinato.registry import check_arguments, create, did_you_mean, entries
from ostinato.report.results import Failure, plain
from ostinato.tasks.task import Task

SETTINGS, TRIALS, HTML, JSON = "diagnosis.json", "trials", "report.html", "report.json"
FORMAT = 2


@dataclass(frozen=True)
class Diagnosis:
    """Everything that one report shows.

    mixers, tasks: their labels, in the order in which they were asked for
    failures: (task, what happened)
    missing: (mixer, task, seed) of trials that were not finished when this was written
    made: how it was made, in words for people
    """

    title: str
    mixers: list[str]
    tasks: list[str]
    trials: list[Trial]
    failures: list[tuple[str, Failure]] = field(default_factory=list)
    missing: list[tuple[str, str, int]] = field(default_factory=list)
    made: dict[str, dict[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What a diagnosis found, and where it is written."""

    diagnosis: Diagnosis
    html: Path
    json: Path


def to_json(diagnosis: Diagnosis) -> str:
    """The whole diagnosis as JSON."""
    values = plain({"format": FORMAT, **asdict(diagnosis)})
    return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(text: str) -> Diagnosis:
    """The diagnosis that `to_json` wrote; ValueError for anything else."""
    try:
        values = json.loads(text)
        if values.pop("format") != FORMAT:
            raise ValueError(f"it has another format than {FORMAT}, the one that this version writes")
        parts: dict[str, Any] = {
            "trials": [trial_from_json(trial) for trial in values["trials"]],
            "failures": [(task, Failure(**failure)) for task, failure in values["failures"]],
            "missing": [(mixer, task, seed) for mixer, task, seed in values["missing"]],
        }
        return Diagnosis(**(values | parts))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"this is not the JSON of a diagnosis ({error})") from None


def find_task(spec: TaskSpec) -> tuple[str, str, dict[str, Any], Task]:
    """Label, name, arguments and the task that a spec describes; ValueError for what is not there."""
    label, parts = read_spec(spec)  # type: ignore[arg-type]
    every = {entry.name: entry for entry in entries("task")}
    known = {name: entry for name, entry in every.items() if isinstance(entry.target, type)}
    if len(parts) != 1:
        raise ValueError(f"a task is written as mqar or {{mqar: {{pairs: 16}}}}; got {spec!r}")
    name, arguments = (
        (parts[0], {}) if isinstance(parts[0], str) else next((n, dict(a or {})) for n, a in parts[0].items())
    )
    name = name.removeprefix("task:")
    if name not in known:
        other = " (it is no stream of problems)" if name in every else did_you_mean(name, known)
        raise ValueError(f"there is no task {name!r} to try{other}; `ostinato list --kind task` shows what there is")
    check_arguments(known[name], arguments)
    try:
        task = create(f"task:{name}", **arguments)
        task.batch(1, split="test")  # of some lengths there are too few problems, or of a part of one none
        return label, name, arguments, task
    except TypeError:
        raise ValueError(f"the arguments of {name} are numbers, words and true or false; got {arguments!r}") from None


def make_jobs(
    mixers: Sequence[Spec], tasks: Sequence[TaskSpec], seeds: int, params: int, layers: int, train: Mapping[str, Any]
) -> list[Job]:
    """A job for each mixer, task and seed; ValueError for whatever cannot be trained, before anything is."""
    if not mixers:
        raise ValueError("a diagnosis needs at least one mixer, as in `ostinato diagnose gla`")
    patterns = [read_spec(spec) for spec in mixers]
    problems = [find_task(spec) for spec in tasks]
    for kind, labels in (("mixer", [label for label, _ in patterns]), ("task", [one[0] for one in problems])):
        if twice := next((label for label in labels if labels.count(label) > 1), None):
            raise ValueError(f"the {kind} {twice} is named twice")
    jobs, others, sizes = [], foreign_modules(), {}
    for mixer, pattern in patterns:
        for label, name, arguments, task in problems:
            key = (mixer, task.vocab_size, task.width, task.outputs)
            if key not in sizes:
                try:
                    sizes[key] = model_settings(task, params, layers, pattern)
                except ValueError as error:
                    raise ValueError(f"{mixer} on {label}: {error}") from None
            settings, size = sizes[key]
            for seed in range(seeds):
                jobs.append(Job(mixer, label, seed, name, arguments, settings, size, dict(train), others))
    return sorted(jobs, key=lambda job: job.seed)  # everything once, before anything twice


def diagnose(
    mixers: Sequence[Spec],
    out: str | Path | None = None,
    *,
    battery: str = "quick",
    tasks: Sequence[TaskSpec] = (),
    seeds: int = 1,
    params: int | str | None = None,
    layers: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    learning_rate: float = 3e-3,
    workers: int | None = None,
    watcher: Watcher | None = None,
    command: str = "",
) -> Found:
    """Try mixers on tasks, and write the report.

    mixers: names, "a+b" for patterns, or patterns as in a config
    out: folder; one of a diagnosis with the same settings is continued; None for one in runs/ with a name of its own
    battery: "quick", "standard", "paper", "chomsky" or "zoology": tasks and budget
    tasks: instead of those of the battery
    seeds: trials of each mixer and task
    params, layers, steps, batch_size: instead of those of the battery
    learning_rate: the largest, of AdamW with a cosine schedule
    workers: trials at a time; None for as many as there are cores
    watcher: is told what happens
    command: what was typed to get here, for the report
    """
    chosen = find_battery(battery)
    settings = {
        "params": parse_count(chosen.params if params is None else params),
        "layers": chosen.layers if layers is None else layers,
        "steps": chosen.steps if steps is None else steps,
        "batch_size": chosen.batch_size if batch_size is None else batch_size,
        "learning_rate": learning_rate,
    }
    for name, value in settings.items() | {("seeds", seeds), ("workers", 1 if workers is None else workers)}:
        if value <= 0:
            raise ValueError(f"{name} is above 0; got {value}")
    workers = workers or available_cores()
    train = {name: settings[name] for name in ("steps", "batch_size", "learning_rate")}
    jobs = make_jobs(mixers, tasks or chosen.tasks, seeds, settings["params"], settings["layers"], train)
    key = hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:8]
    folder = Path(out) if out is not None else Path("runs", f"diagnose-{key}")
    claim(folder / SETTINGS, settings, "diagnosis")
    watcher = watcher or Watcher()
    results = {job.id: read_result(folder / TRIALS / job.id) for job in jobs}
    waiting = [job for job in jobs if results[job.id] is None]
    failures: dict[str, Failure] = {}

    def report() -> Found:
        return _write(folder, jobs, results, failures, _made(settings, battery, workers, command, folder))

    watcher.begin(jobs, [job for job in jobs if job not in waiting], workers)  # type: ignore[arg-type]
    try:
        for job, outcome in run_here(
            waiting, perform, read_result, (folder / TRIALS).resolve(), min(workers, len(jobs)), watcher.job
        ):
            (failures if isinstance(outcome, Failure) else results)[job.id] = outcome
            watcher.ended(job, outcome)  # type: ignore[arg-type]
            report()
    finally:
        watcher.end()
        found = report()
    return found


def _write(
    folder: Path,
    jobs: list[Job],
    results: dict[str, Trial | None],
    failures: dict[str, Failure],
    made: dict[str, dict[str, str]],
) -> Found:
    from ostinato.diagnose.page import to_html

    mixers, tasks = list(dict.fromkeys(job.mixer for job in jobs)), list(dict.fromkeys(job.task for job in jobs))
    what = mixers[0] if len(mixers) == 1 else f"{len(mixers)} mixers"
    diagnosis = Diagnosis(
        title=f"What {what} can do: {len(tasks)} task{'s' if len(tasks) > 1 else ''}",
        mixers=mixers,
        tasks=tasks,
        trials=[trial for job in jobs if (trial := results[job.id]) is not None],
        failures=[(job.task, failures[job.id]) for job in jobs if job.id in failures],
        missing=[(j.mixer, j.task, j.seed) for j in jobs if results[j.id] is None and j.id not in failures],
        made=made,
    )
    html, json_ = folder / HTML, folder / JSON
    write_atomically(json_, to_json(diagnosis).encode("utf-8", "replace"))
    write_atomically(html, to_html(diagnosis))
    return Found(diagnosis, html, json_)


def _made(
    settings: Mapping[str, Any], battery: str, workers: int, command: str, folder: Path
) -> dict[str, dict[str, str]]:
    """How the figures came about, in words."""
    here = machine()
    return {
        "command": {"folder": str(folder)} | ({"command": command} if command else {}),
        "settings": {"battery": battery} | {name: str(value) for name, value in settings.items()},
        "machine": {
            "processor": f"{here['processor']}, {here['cores']} cores",
            "trials side by side": f"{workers}, each with one thread",
            "system": f"{here['system']}, Python {here['python']}",
            "versions": ", ".join(f"{name} {version}" for name, version in here["versions"].items()),
        },
    }
