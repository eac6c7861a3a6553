"""What is compared, as it is written on a command line or in Python.

gla                                        a mixer, in all layers
gated_deltanet+gated_deltanet+attention    a pattern, repeated over the layers
{attention: {window: 64}}                  YAML for a mixer with arguments
[gla, {attention: {window: 64}}]           and for a pattern with some
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ostinato.models.stack import Part, parse_pattern

Spec = Part | Sequence[Part]


def read_spec(spec: Spec) -> tuple[str, list[Part]]:
    """The label and the pattern of what is to be compared: text as above, or a pattern as in a config."""
    pattern: Any = spec
    if isinstance(spec, str):
        pattern = _yaml(spec) if spec.lstrip()[:1] in ("{", "[") else [part.strip() for part in spec.split("+")]
    if isinstance(pattern, Mapping):
        pattern = [pattern]
    if not isinstance(pattern, Sequence) or not pattern or not all(pattern):
        raise ValueError(f"a mixer is written as gla, gla+attention or {{attention: {{window: 64}}}}; got {spec!r}")
    return "+".join(_label(name, arguments) for name, arguments in parse_pattern(pattern)), list(pattern)


def _yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def _label(name: str, arguments: Mapping[str, Any]) -> str:
    written = ",".join(f"{key}={value}" for key, value in arguments.items())
    return f"{name}({written})" if written else name
