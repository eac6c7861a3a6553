"""What a config does not say is what the library of its authors takes then."""

import ast
import json

import pytest

from ostinato.convert.importing import architectures
from ostinato.convert.settings import Settings
from tests.independent import PEERS

KNOWN = architectures()
SAID = ("layers_block_type",)  # names that a config has to say, as an empty list would ask for another model


def defaults_of_fla(name):
    """What the config class of a model of flash-linear-attention has, read without importing it."""
    file = PEERS / "fla" / "models" / name / f"configuration_{name}.py"
    if not file.is_file():
        pytest.skip("flash-linear-attention is not unpacked here")
    functions = (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef))
    arguments = next(node for node in functions if node.name == "__init__").args
    names = [argument.arg for argument in arguments.args][-len(arguments.defaults) :]
    return dict(zip(names, map(ast.literal_eval, arguments.defaults), strict=True))


def defaults_of_transformers(name):
    configs = pytest.importorskip("transformers").CONFIG_MAPPING
    if name not in configs:
        pytest.skip("transformers has no such model")
    return json.loads(json.dumps(configs[name]().to_dict()))


def differing(name, defaults):
    """The names whose absence changes the model, or is not refused by name."""
    full = {**defaults, "model_type": name}
    expected, found = KNOWN[name].arguments(Settings(full)), []
    for missing in defaults.keys() - {"model_type", *SAID}:
        try:
            same = KNOWN[name].arguments(Settings({key: x for key, x in full.items() if key != missing})) == expected
        except ValueError as error:
            same = f"says {missing}; this one does not" in str(error)
        if not same:
            found.append(missing)
    return found


@pytest.mark.parametrize("name", ["gla", "delta_net", "gated_deltanet", "retnet", "hgrn2", "rwkv7"])
def test_defaults_of_flash_linear_attention(name):
    assert differing(name, defaults_of_fla(name)) == []


@pytest.mark.parametrize("name", sorted(KNOWN.keys() - {"ostinato"}))
def test_defaults_of_transformers(name):
    assert differing(name, defaults_of_transformers(name)) == []
