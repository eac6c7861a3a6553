"""papers.toml says what is so: every name exists, every test exists, every paper that is claimed is listed."""

import ast
from functools import lru_cache
from pathlib import Path

import pytest

from ostinato import papers as module
from ostinato.papers import LAWS, LEVELS, evidence, find_paper, papers, papers_of
from ostinato.registry import KINDS, entries, find

ROOT = Path(__file__).parent.parent
REGISTERED = {entry.key: entry for entry in entries()}
OWN = module._read().get("entries", {})


@lru_cache
def functions(file: Path) -> set[str]:
    """Names of the tests of a file, Class::test for those of a class."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return found


def check_evidence(level: str, tests: tuple[str, ...]) -> None:
    assert level in LEVELS
    assert tests
    assert len(set(tests)) == len(tests)
    for test in tests:
        file, _, name = test.partition("::")
        assert (ROOT / file).is_file(), f"{test}: no such file"
        assert name.startswith("test_") or "::test_" in name
        assert name in functions(ROOT / file), f"{test}: no such test"
    if level != "L1":
        assert set(tests) - {LAWS}, "the laws alone are L1"


@pytest.mark.parametrize("paper", papers().values(), ids=lambda paper: paper.id)
def test_a_paper_says_what_is_so(paper):
    assert paper.title
    assert paper.url.startswith("https://")
    assert paper.family
    assert paper.provides
    for name in paper.provides:
        assert name in REGISTERED, f"{name} is not in the library"
    for name in paper.missing:
        assert name.partition(":")[0] in KINDS
        assert name not in REGISTERED, f"{name} is there by now"
    check_evidence(paper.level, paper.evidence)
    assert paper.level != "L1" or paper.note, "a paper at L1 has a note that says why"


@pytest.mark.parametrize("key", OWN)
def test_an_entry_says_what_is_so(key):
    assert key in REGISTERED
    assert set(OWN[key]) == {"level", "evidence"}
    check_evidence(OWN[key]["level"], tuple(OWN[key]["evidence"]))


@pytest.mark.parametrize("entry", REGISTERED.values(), ids=lambda entry: entry.key)
def test_everything_registered_is_accounted_for(entry):
    for id in entry.papers:
        assert entry.key in find_paper(id).provides, f"{id} does not say that {entry.key} is here"
    shown = evidence(entry)
    assert shown.level in LEVELS, "no paper and no [entries] section says what shows it"
    assert shown.tests


def test_an_entry_has_the_papers_that_ask_for_it_after_its_own():
    found = papers_of(find("gla"))
    assert found[0] == "gla"
    for id, paper in papers().items():
        for name in paper.provides:
            assert id in papers_of(REGISTERED[name])


def test_the_reader_of_evidence_sees_classes_and_functions(tmp_path):
    file = tmp_path / "test_x.py"
    file.write_text("def test_a(): ...\nclass TestB:\n    def test_c(self): ...\ndef outer():\n    def test_d(): ...\n")
    assert functions(file) == {"test_a", "TestB::test_c", "outer"}
