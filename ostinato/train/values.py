"""Settings with a type, limits and a sentence each, declared once; and how they are read from a config file or a flag.

class TrainConfig:
    clip: float | None = option(1.0, "largest norm of the gradient", above=0)

read(TrainConfig, {"clip": "fast"}, "train")    train.clip: a number above 0, or null; got 'fast'
"""

import math
import types
from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from ostinato.models.budget import parse_count
from ostinato.registry import did_you_mean

Settings = TypeVar("Settings")


def option(
    default: Any,
    meaning: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> Any:
    """A field of a settings class: its default, its sentence and its limits."""
    limits = {"above": above, "at_least": at_least, "below": below, "at_most": at_most}
    limits = {name: limit for name, limit in limits.items() if limit is not None}
    return field(default=default, metadata={"meaning": meaning, "limits": limits})


def read(settings: type[Settings], values: Mapping[str, Any] | None, path: str) -> Settings:
    """The settings that a mapping holds; refuses what is unknown, of another type or outside the limits."""
    values = check_mapping(values, path)
    kinds = get_type_hints(settings)
    known = {each.name: each for each in fields(cast(Any, settings))}
    check_keys(values, known, path)
    return settings(
        **{
            name: read_value(f"{path}.{name}", value, kinds[name], known[name].metadata["limits"])
            for name, value in values.items()
        }
    )


def check_mapping(values: Any, path: str) -> Mapping[str, Any]:
    """A section of a config: a mapping, or nothing."""
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise ValueError(f"{path}: a section with keys of its own; got {values!r}")
    return values


def check_keys(values: Mapping[str, Any], known: Any, path: str) -> None:
    """Refuse keys that are not known, with the nearest that are."""
    for name in values:
        if name not in known:
            raise ValueError(
                f"{path}.{name}: no such key{did_you_mean(str(name), known)}; {path} has {', '.join(known)}"
            )


def read_value(path: str, value: Any, kind: Any, limits: Mapping[str, float] | None = None) -> Any:
    """A value of that type, if it is one or is a text that says one ("5M", "1e-3")."""
    limits = limits or {}
    try:
        result = _convert(value, kind)
        if result is not None and not all(_WITHIN[name](result, limit) for name, limit in limits.items()):
            raise ValueError
    except (ValueError, TypeError):
        near = did_you_mean(value, _choices(kind)) if isinstance(value, str) else ""
        raise ValueError(f"{path}: {_describe(kind, limits)}; got {value!r}{near}") from None
    return result


_WITHIN = {
    "above": lambda value, limit: value > limit,
    "at_least": lambda value, limit: value >= limit,
    "below": lambda value, limit: value < limit,
    "at_most": lambda value, limit: value <= limit,
}


def _convert(value: Any, kind: Any) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _convert_union(value, get_args(kind))
    if origin is Literal:
        if value not in get_args(kind):
            raise ValueError
        return value
    if origin is list:
        if isinstance(value, (str, bytes)) or not isinstance(value, (list, tuple)):
            value = [value]
        return [_convert(part, get_args(kind)[0]) for part in value]
    if kind in (bool, str, int, float):
        return _SIMPLE[kind](value)
    if kind is types.NoneType:
        if value is not None:
            raise ValueError
        return None
    return value  # a kind that only its reader understands, and checks


def _convert_union(value: Any, kinds: tuple[Any, ...]) -> Any:
    if value is None and types.NoneType in kinds:
        return None
    for kind in kinds:
        try:
            if kind is not types.NoneType:
                return _convert(value, kind)
        except (ValueError, TypeError):
            continue
    raise ValueError


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError
    return parse_count(value)


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


_SIMPLE = {bool: _bool, str: _str, int: _int, float: _float}
_WORDS = {bool: "true or false", str: "text", int: "a whole number", float: "a number", types.NoneType: "null"}


def _describe(kind: Any, limits: Mapping[str, float]) -> str:
    """What is accepted, in words: "a number above 0, or null"."""
    if get_origin(kind) in (Union, types.UnionType):
        parts = [_describe(part, limits if part in (int, float) else {}) for part in get_args(kind)]
        return ", or ".join(parts)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is list:
        return f"{_describe(get_args(kind)[0], {})} or a list of it"
    words = _WORDS.get(kind, "a mapping or list")
    if limits:
        words += " of " * ("at_" in next(iter(limits))) or " "
        words += " and ".join(f"{name.replace('_', ' ')} {limit:g}" for name, limit in limits.items())
    return words


def _choices(kind: Any) -> list[str]:
    if get_origin(kind) in (Union, types.UnionType):
        return [choice for part in get_args(kind) for choice in _choices(part)]
    return [str(choice) for choice in get_args(kind)] if get_origin(kind) is Literal else []
