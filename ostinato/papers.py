"""What the library has of each paper, and which tests show it: `papers.toml`, read once.

Evidence comes in levels, each of which includes the ones before it:

    L1   the laws of the contract hold (for a function: its forms equal its definition)
    L2   equal to an independent implementation or to a closed form
    L3   shows the effect that the paper is about, at a small scale, where its baseline does not
"""

import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ostinato.registry import Entry, did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LEVELS = ("L1", "L2", "L3")
FILE = Path(__file__).with_name("papers.toml")
LAWS = "tests/laws/test_laws.py::test_law"


@dataclass(frozen=True)
class Paper:
    """A paper: what of it is here (`provides`), what is not yet (`missing`), and the tests that show it."""

    id: str
    title: str
    url: str
    family: str
    provides: tuple[str, ...]
    missing: tuple[str, ...]
    level: str
    evidence: tuple[str, ...]
    note: str = ""

    def describe(self) -> dict[str, Any]:
        """The same as a JSON object."""
        return {name: list(part) if isinstance(part, tuple) else part for name, part in vars(self).items()}


@dataclass(frozen=True)
class Evidence:
    """How well something registered is shown to be what it says, and by which tests. No level: nothing shows it."""

    level: str | None
    tests: tuple[str, ...]


@lru_cache(maxsize=1)
def _read() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def papers() -> dict[str, Paper]:
    """Every paper that something in the library implements, by id."""
    return {
        id: Paper(
            id=id,
            title=fields["title"],
            url=fields["url"],
            family=fields["family"],
            provides=tuple(fields["provides"]),
            missing=tuple(fields["missing"]),
            level=fields["level"],
            evidence=tuple(fields["evidence"]),
            note=fields.get("note", ""),
        )
        for id, fields in sorted(_read()["papers"].items())
    }


def find_paper(id: str) -> Paper:
    """The paper of that id; ValueError with the nearest ones if there is none."""
    known = papers()
    if id not in known:
        raise ValueError(
            f"there is no paper {id!r} in ostinato{did_you_mean(id, known)}; `ostinato papers` shows what there is"
        )
    return known[id]


def papers_of(entry: Entry) -> list[str]:
    """Ids of the papers that it comes from, then of those that also ask for it."""
    others = [paper.id for paper in papers().values() if entry.key in paper.provides]
    return list(dict.fromkeys([*entry.papers, *others]))


def evidence(entry: Entry) -> Evidence:
    """The level of evidence for something registered, and the tests: what `papers.toml` says of it or of its papers."""
    own = _read().get("entries", {}).get(entry.key)
    lawful = [LAWS] if entry.kind in ("mixer", "wrapper", "model") and hasattr(entry.target, "examples") else []
    if own is not None:
        return Evidence(own["level"], tuple(dict.fromkeys([*lawful, *own["evidence"]])))
    found = [papers()[id] for id in papers_of(entry) if id in papers() and entry.key in papers()[id].provides]
    levels = [paper.level for paper in found] + ["L1"] * len(lawful)
    tests = [test for paper in found for test in paper.evidence]
    return Evidence(max(levels, default=None), tuple(dict.fromkeys([*lawful, *tests])))
