"""Pages that are made when the docs are built: one for each kind of registered thing, the papers, the commands.

Each is a function that returns Markdown. mkdocs calls the `on_` functions; nothing else here knows of it.
"""

import inspect
import json
from pathlib import Path
from statistics import median
from typing import Any

from ostinato.catalogue import describe, equation, measure, ops_of, readable_bytes
from ostinato.laws import LAWS
from ostinato.papers import papers
from ostinato.registry import KINDS, Entry, entries

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
DIAGNOSIS = RESULTS.parent / "diagnosis.json"
REPRODUCED = RESULTS.parent.parent / "reproductions" / "results"

TITLES = {
    "mixer": "Mixers",
    "model": "Models",
    "wrapper": "Wrappers",
    "head": "Heads",
    "embedding": "Embeddings",
    "op": "Ops",
    "task": "Tasks",
    "train": "Training",
    "decode": "Decoding",
    "context": "Long context",
    "convert": "Conversion",
    "analyze": "Analysis",
    "serve": "Serving",
    "metric": "Metrics",
    "application": "Applications",
    "guide": "Guides",
}


def on_config(config: Any) -> Any:
    """Put the pages into the navigation."""
    config.nav.extend([{title: path} for path, title, _ in catalogue()] + [{"Papers": "papers.md"}])
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages to the site."""
    from mkdocs.structure.files import File

    pages = {path: text for path, _, text in catalogue()}
    pages |= {"papers.md": papers_page(), "commands.md": commands_page(), "benchmarks.md": benchmarks_page()}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in what a page asks for: the laws, or what was measured here."""
    makers = {"laws": laws_table, "abilities": abilities_tables, "reproductions": reproductions_tables}
    for name, make in makers.items():
        if f"<!-- {name} -->" in markdown:
            markdown = markdown.replace(f"<!-- {name} -->", make())
    return markdown


def catalogue() -> list[tuple[str, str, str]]:
    """Path, title and text of the page of every kind that has something."""
    if not _pages:
        for kind in KINDS:
            found = entries(kind)
            if found:
                _pages.append((f"catalogue/{kind}.md", TITLES[kind], kind_page(TITLES[kind], found)))
    return _pages


_pages: list[tuple[str, str, str]] = []  # measuring takes seconds: done once


def kind_page(title: str, found: list[Entry]) -> str:
    """A table of these entries, and a section for each."""
    head = ["name", "equation", "op", "state of one sequence", "training", "step", "evidence", "papers"]
    rows, sections = [], []
    for entry in found:
        about, sizes = describe(entry), measure(entry)
        formula = equation(entry)
        state = "" if sizes is None else sizes.growth
        if sizes and sizes.state_bytes:
            state += ": " + ", ".join(f"{readable_bytes(size)} at {label}" for label, size in sizes.state_bytes.items())
        rows.append(
            [
                f"[`{entry.name}`](#{entry.name})",
                code(formula.splitlines()[0]) if formula else "",
                ", ".join(f"`{op}`" for op in ops_of(entry)),
                state,
                "" if sizes is None else f"{list(sizes.flops.values())[-1] / 1e6:.2f}",
                "" if sizes is None or not sizes.state_bytes else f"{sizes.step_flops / 1e6:.2f}",
                about["evidence"] or "none",
                ", ".join(paper_link(id) for id in about["papers"]),
            ]
        )
        sections.append(section(entry, formula, sizes, about["tests"]))
    if any(row[3] for row in rows):
        note = (
            "State and cost are measured on one module of width 256 with default arguments, in float32."
            " Training and step: million operations in matrix products for each token, of 1,024 read together and of one read"
            " by itself; twice as many again go backwards."
            " Evidence: L1 the laws hold, L2 equal to an independent implementation or a closed form,"
            " L3 shows the effect of its paper."
        )
    else:
        note = (
            "Evidence: L1 the forms equal the definition, L2 equal to an independent implementation or a closed form."
        )
    return "\n\n".join([f"# {title}", note, table(head, rows), *sections]) + "\n"


def section(entry: Entry, formula: str, sizes: Any, tests: list[str]) -> str:
    """One entry in full."""
    parts = [f"## {entry.name} {{ #{entry.name} }}", entry.summary]
    if formula:
        parts.append(f"```text\n{formula}\n```")
    if entry.arguments:
        rows = [
            [f"`{a.name}`", "required" if a.required else code(repr(a.default)), cell(a.meaning)]
            for a in entry.arguments
        ]
        parts.append(table(["argument", "default", "meaning"], rows))
    if sizes:
        parts.append(f"{sizes.parameters:,} parameters; {sizes.cost}.")
    parts.append("Shown by: " + (", ".join(f"`{test}`" for test in tests) or "no test yet") + ".")
    return "\n\n".join(parts)


def laws_table() -> str:
    """The laws, in the words of their docstrings."""
    rows = [[f"`{name}`", cell(inspect.getdoc(law) or "")] for name, law in LAWS.items()]
    return table(["law", "what it says"], rows)


def papers_page() -> str:
    """What is here of each paper."""
    rows = [
        [
            f"[{cell(paper.title)}]({paper.url}){{ #{paper.id} }}",
            paper.family,
            ", ".join(f"`{name}`" for name in paper.provides),
            ", ".join(f"`{name}`" for name in paper.missing),
            paper.level,
            cell(paper.note),
        ]
        for paper in papers().values()
    ]
    return "# Papers\n\n" + table(["paper", "family", "here", "not yet", "evidence", "note"], rows) + "\n"


def commands_page() -> str:
    """Every command with its options, as the command line itself describes them."""
    from typer.main import get_command

    from ostinato.cli.__main__ import build

    app: Any = get_command(build())
    parts = ["# Commands", "`ostinato COMMAND --help` says the same in the terminal."]
    for name, command in sorted(app.commands.items()):
        parts += [f"## ostinato {name} {{ #{name} }}"]
        for paragraph in (command.help or "").split("\n\n"):
            example = paragraph.strip().startswith("ostinato ")
            parts.append(f"```sh\n{paragraph.strip()}\n```" if example else cell(paragraph))
        rows = []
        for parameter in command.params:
            if parameter.name == "help":
                continue
            words = ", ".join(f"`{word}`" for word in [*parameter.opts, *parameter.secondary_opts])
            if parameter.param_type_name == "argument":
                words = f"`{parameter.name.upper()}`"
            default = "required" if parameter.required else "" if parameter.default is None else code(parameter.default)
            rows.append([words, default, cell(parameter.help or "")])
        if rows:
            parts.append(table(["argument", "default", "meaning"], rows))
    return "\n\n".join(parts) + "\n"


def benchmarks_page() -> str:
    """Every recorded benchmark: the command, the machine, the figures."""
    parts = [
        "# Benchmarks",
        "Each table was measured in one run, every model by turns with the peer it is compared with; `ratio` is how many"
        " times the peer's rate. The files are in `benchmarks/results/`; the command above a table makes it again.",
    ]
    for file in sorted(RESULTS.glob("*.json")):
        recorded = json.loads(file.read_text())
        for result in recorded["results"]:
            settings = ", ".join(f"{name} {value}" for name, value in result["settings"].items())
            here = result["machine"]
            versions = ", ".join(f"{name} {version}" for name, version in here["versions"].items())
            columns = list(dict.fromkeys(name for row in result["rows"] for name in row))
            rows = [[figure(row.get(name)) for name in columns] for row in result["rows"]]
            parts += [
                f"## {file.stem.replace('_', ' ')}: {result['task']}",
                f"```sh\n{recorded['command']}\n```",
                f"{settings}. {here['processor']}, {here['threads']} threads, {versions}. {cell(recorded.get('note', ''))}".strip(),
                table(columns, rows),
            ]
    return "\n\n".join(parts) + "\n"


def abilities_tables(file: Path = DIAGNOSIS) -> str:
    """What each mixer of the recorded diagnosis can do, by family, and what it costs; or the command that records one."""
    if not file.is_file():
        return (
            "No diagnosis is recorded yet. This one makes the tables, once its `report.json` is kept as"
            f" `{file.parent.name}/{file.name}`:\n\n"
            "```sh\nostinato diagnose gated_deltanet mamba2 slstm attention --battery quick --seeds 3 --out diagnosis\n```"
        )
    from ostinato.diagnose.abilities import abilities, profile
    from ostinato.diagnose.run import from_json
    from ostinato.diagnose.trial import FACTORS

    found = from_json(file.read_text(encoding="utf-8"))
    shown, far = abilities(found.trials), FACTORS[-1]
    known = {entry.name: entry for entry in entries("mixer")}
    rows = []
    for mixer in found.mixers:
        trials = [trial for trial in found.trials if trial.mixer == mixer]
        if not trials:
            continue
        ends = [profile(trials, times) for times in (FACTORS[0], far)]
        states = [median(getattr(trial, name) for trial in trials) for name in ("state_bytes", "state_growth")]
        rows.append(
            [
                family(known[mixer]) if mixer in known else "",
                f"`{mixer}`",
                *(_ends([end.get(one) for end in ends]) for one in shown),
                readable_bytes(int(states[0])),
                readable_bytes(int(states[1])) if states[1] else "0",
                figure(median(trial.tokens_per_second for trial in trials)),
            ]
        )
    made = "; ".join(f"{name} {value}" for part in found.made.values() for name, value in part.items())
    note = (
        f"From guessing (0) to perfect (1), the mean over the tasks of an ability, at the length of training / at {far} times that"
        f" length. State: after a problem of the training length, and how much more after four times as many places; speed in"
        f" places per second of training. {len(found.tasks)} tasks,"
        f" {len({trial.seed for trial in found.trials})} seed(s) of each. {cell(made)}"
    )
    head = ["family", "mixer", *shown, "state", "growth", "speed"]
    return table(head, sorted(rows, key=lambda row: row[0])) + f"\n\n{note}"


def _ends(values: list[float | None]) -> str:
    """Shares at two lengths; a dash where there is none, one for both where there are none."""
    words = ["–" if value is None else f"{value:.2f}" for value in values]
    return " / ".join(words) if any(value is not None for value in values) else "–"


def family(entry: Entry) -> str:
    """The folder that a mixer is in, in words."""
    return entry.target.__module__.split(".")[2].replace("_", " ")


def reproductions_tables(folder: Path = REPRODUCED) -> str:
    """Each recorded effect of a paper: what it claims, its figure, ours; or the command that records one."""
    files = sorted(folder.glob("*.json"))
    if not files:
        return "Nothing is recorded yet. `ostinato reproduce parity --record` records one."
    rows, whole = [], 0
    for file in files:
        recorded = json.loads(file.read_text(encoding="utf-8"))
        whole += all(claim["holds"] for claim in recorded["claims"])
        papers_ = ", ".join(paper_link(id) for id in recorded["papers"])
        for n, claim in enumerate(recorded["claims"]):
            first = f"`{recorded['name']}` ({papers_})" if n == 0 else ""
            words = [cell(claim[part]) for part in ("says", "paper", "ours")]
            rows.append([first, *words, "yes" if claim["holds"] else "**no**"])
        if recorded["not_reproduced"]:
            rows.append(["", cell(f"What was tried: {recorded['not_reproduced']}"), "", "", ""])
    return (
        f"{whole} of {len(files)} recorded reproductions show the whole effect.\n\n"
        + table(["reproduction", "effect", "in the paper", "here", "holds"], rows)
        + "\n\n`ostinato reproduce NAME` runs one again, and `--short` its small version."
    )


def figure(value: Any) -> str:
    """A number as it is read."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "" if value is None else cell(str(value))


def paper_link(id: str) -> str:
    """A link to the paper, with its id as text."""
    return f"[{id}]({papers()[id].url})" if id in papers() else id


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(text: str) -> str:
    """Text that may stand in a table: one line, in which nothing is Markdown by accident."""
    text = " ".join(text.split())
    for sign in "\\|*_<[":
        text = text.replace(sign, "\\" + sign)
    return text


def code(value: Any) -> str:
    """A value as code that may stand in a table."""
    return "`" + " ".join(str(value).replace("|", "\\|").split()) + "`"
