"""What is imported when: torch only once it is needed, large optional packages never by themselves."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ostinato

PACKAGE = Path(ostinato.__file__).parent
OPTIONAL = {
    "transformers",
    "datasets",
    "pandas",
    "matplotlib",
    "ray",
    "pyarrow",
    "zstandard",
    "fla",
    "triton",
    "psutil",
    "sklearn",
    "peft",
    "lm_eval",
    "onnx",
    "onnxscript",
    "onnxruntime",
}
WHOLLY_FOR = {"hf": {"transformers"}, "harness.py": {"lm_eval"}}
"""What cannot be imported without these, because it is made of their classes; nothing else here imports it by itself."""


def loaded_after(statements: str) -> set[str]:
    """The top-level packages that a fresh interpreter has loaded after these statements."""
    code = f"import sys\n{statements}\nprint('LOADED', *{{name.partition('.')[0] for name in sys.modules}})"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(answer.stdout.rpartition("LOADED")[2].split())


@pytest.mark.parametrize(
    "statements",
    [
        "import ostinato, ostinato.registry, ostinato.papers",
        "from ostinato.cli.__main__ import main\nassert main(['--help']) == 0\nassert main(['compare', '--help']) == 0",
    ],
    ids=["import", "help"],
)
def test_torch_waits_until_it_is_needed(statements):
    loaded = loaded_after(statements)
    assert "ostinato" in loaded
    assert not loaded & {"torch", "numpy", "numba", "accelerate"}


def imported_at_once(tree: ast.Module) -> set[str]:
    """Top-level packages that importing this file imports: what stands outside of functions."""
    names: set[str] = set()
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)
    return names


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_optional_packages_are_imported_where_they_are_used(file):
    found = imported_at_once(ast.parse(file.read_text(encoding="utf-8")))
    place = file.relative_to(PACKAGE)
    allowed = WHOLLY_FOR.get(place.as_posix(), WHOLLY_FOR.get(place.parts[0], set()))
    assert not found & OPTIONAL - allowed
    if file.parent.name == "cli":
        assert found <= set(sys.stdlib_module_names) | {"typer", "rich", "ostinato"}


def test_the_rule_sees_what_it_should():
    code = "if True:\n    import pandas.io\ndef later():\n    import ray\nclass A:\n    from triton import x\n"
    assert imported_at_once(ast.parse(code)) == {"pandas", "triton"}


def test_everything_can_be_listed_without_the_packages_of_extras():
    """What is registered is found where no extra is installed: none of its modules needs one to be imported."""
    code = (
        "import sys\n"
        f"absent = {sorted(OPTIONAL)!r}\n"
        "sys.modules.update(dict.fromkeys(absent))\n"  # None there makes an import fail
        "import ostinato\n"
        "print(len(ostinato.entries()))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert int(answer.stdout) > 300
