"""What docs/hugging_face.md shows of export, run while the suite runs; and the names that it says others have."""

import ast
import re
import shlex
import warnings
from pathlib import Path

import pytest

from ostinato.cli.__main__ import main
from ostinato.convert.importing import architectures
from ostinato.registry import find
from tests.hf.runs import TEXT, make_run
from tests.independent import PEERS

PAGE = (Path(__file__).parent.parent.parent / "docs" / "hugging_face.md").read_text(encoding="utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]}
MOVES = re.findall(r"^\| (\w+) `(\w+)` \| `(\w+)` \| (.*) \|$", SECTIONS["Moving from other libraries"], re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the page is: with the run that it speaks of."""
    folder = tmp_path_factory.mktemp("page")
    make_run(folder / "runs" / "notes", ["gla", "mamba"])
    (folder / "my_text.txt").write_text(TEXT, encoding="utf-8")
    assert main(["export", str(folder / "runs" / "notes"), "-o", str(folder / "checkpoints" / "notes")]) == 0
    return folder


@pytest.mark.parametrize(
    ("section", "needs", "written"),
    [
        ("From ostinato to transformers", ["transformers"], []),
        ("Trainer", ["transformers"], ["tuned/checkpoint-20/model.safetensors", "runs/tuned/config.yaml"]),
        (
            "LoRA",
            ["transformers", "peft"],
            ["adapters/notes/adapter_model.safetensors", "checkpoints/merged/config.json"],
        ),
        ("A step as a program", ["onnxscript", "onnxruntime"], ["programs/torch/step.pt2", "programs/onnx/step.onnx"]),
    ],
)
def test_the_examples_run(section, needs, written, folder, monkeypatch):
    for name in needs:
        pytest.importorskip(name)
    monkeypatch.chdir(folder)
    blocks, names = re.findall(r"```(sh|python)\n(.*?)```", SECTIONS[section], re.DOTALL), {}
    assert any(kind == "python" for kind, _ in blocks)
    for kind, block in blocks:
        assert len(block.strip().splitlines()) <= 18
        if kind == "python":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a file left open, memory that cannot be pinned: nothing of ours
                exec(compile(block, section, "exec"), names)
        else:
            for line in block.splitlines():
                words = shlex.split(line)
                if not (folder / words[words.index("-o") + 1]).exists():
                    assert main(words[1:]) == 0
    assert [path for path in written if not (folder / path).is_file()] == []
    if "logits" in names:
        assert names["logits"].shape == (1, 1, 256)


def test_commands_of_the_harness_can_be_given():
    section = SECTIONS["lm-evaluation-harness"]
    from typer.main import get_command

    from ostinato.cli.__main__ import build

    command = get_command(build()).commands["evaluate"]
    names = {name for parameter in command.params for name in parameter.opts}
    assert set(re.findall(r"--[\w-]+", section)) <= names


def test_all_that_can_be_imported_is_in_the_tables():
    section = SECTIONS["What is supported"]
    native = {"mamba_ssm": "mamba-ssm", "rwkv7_pth": ".pth", "ostinato": "ostinato"}
    assert [name for name in architectures() if f"`{native.get(name, name)}`" not in section] == []


@pytest.mark.parametrize(("library", "theirs", "ours", "names"), MOVES, ids=[f"{row[0]}-{row[1]}" for row in MOVES])
def test_names_of_others_are_what_the_table_says(library, theirs, ours, names):
    pairs = re.findall(r"`(\w+)` = `(\w+)`", names)
    assert pairs
    known = {argument.name for argument in find(f"mixer:{ours}").arguments}
    assert {new for _, new in pairs} <= known
    homes = {"fla": "fla/layers", "xlstm": "xlstm/blocks"}
    if library not in homes or not (PEERS / homes[library]).is_dir():
        pytest.skip(f"{library} is not unpacked here")
    found = classes(PEERS / homes[library])
    assert {old for old, _ in pairs} <= found[theirs] | found.get(f"{theirs}Config", set())


def classes(folder):
    """The names of the arguments and fields of every class under a folder, without importing it."""
    found = {}
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                names = {part.target.id for part in node.body if isinstance(part, ast.AnnAssign)}
                for part in node.body:
                    if isinstance(part, ast.FunctionDef) and part.name == "__init__":
                        names |= {argument.arg for argument in part.args.args}
                found[node.name] = found.get(node.name, set()) | names
    return found
