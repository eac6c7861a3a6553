"""Names of everything that a user can ask for.

    @register("gla", paper="gla")
    class GLA(Mixer): ...

    ostinato.create("gla", dim=64, heads=4)
    ostinato.create("wrapper:bidirectional", dim=64, mixer="gla")

An entry is called ``kind:name``. Registering makes it available to configs, the command line, the docs and the laws.
Unknown names and arguments are refused with the nearest valid ones.
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

KINDS = "mixer model wrapper head embedding op task train decode context convert analyze serve metric application guide".split()
HOMES = (
    "ops layers mixers models tasks train evaluate generate serve report convert context analyze applications".split()
)

Target = TypeVar("Target", bound=Callable[..., Any])


@dataclass(frozen=True)
class Argument:
    """One argument of a registered thing, as its signature and its docstring declare it."""

    name: str
    default: Any
    required: bool
    meaning: str


@dataclass(frozen=True)
class Entry:
    """A registered thing: what it is called, what it is, and the papers it comes from."""

    kind: str
    name: str
    target: Any
    papers: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.name}"

    @property
    def summary(self) -> str:
        """The first sentence of the docstring."""
        text = (inspect.getdoc(self.target) or "").split("\n\n")[0]
        return " ".join(text.split())

    @property
    def arguments(self) -> list[Argument]:
        """What `create` accepts: declared once, in the signature and a line of the docstring each."""
        text = inspect.getdoc(self.target) or ""
        meanings = {
            name: " ".join(words.split())
            for name, words in re.findall(r"^(\w+): (.*(?:\n[ ]{2,}.*)*)", text, re.MULTILINE)
        }
        return [
            Argument(
                name=name,
                default=None if parameter.default is parameter.empty else parameter.default,
                required=parameter.default is parameter.empty,
                meaning=meanings.get(name, ""),
            )
            for name, parameter in inspect.signature(self.target).parameters.items()
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        ]


_entries: dict[str, Entry] = {}
_discovered = False


def register(name: str, *, paper: str | Iterable[str] = ()) -> Callable[[Target], Target]:
    """Make a class or function available as ``kind:name``.

    name: the name; the kind comes from the class (``Mixer.kind``), or is written before it: "op:scan"
    paper: the id or ids of its papers in papers.toml
    """
    papers = (paper,) if isinstance(paper, str) else tuple(paper)

    def add(target: Target) -> Target:
        kind, _, short = name.rpartition(":")
        kind = kind or getattr(target, "kind", "")
        if kind not in KINDS:
            raise ValueError(f"{name!r} is registered as one of the kinds {', '.join(KINDS)}; got {kind!r}")
        entry = Entry(kind, short, target, papers)
        other = _entries.get(entry.key)
        if other and (other.target.__module__, other.target.__qualname__) != (target.__module__, target.__qualname__):
            raise ValueError(f"{entry.key} is registered already, by {other.target.__module__}")
        _entries[entry.key] = entry
        return target

    return add


def forget(key: str) -> None:
    """Take an entry out again (for tests and notebooks that register things of their own)."""
    _entries.pop(key, None)


def discover() -> None:
    """Import every module of the package that may register something."""
    global _discovered
    if _discovered:
        return
    _discovered = True
    for home in HOMES:
        try:
            package = importlib.import_module(f"ostinato.{home}")
        except ModuleNotFoundError as error:
            if error.name != f"ostinato.{home}":
                raise
            continue
        for module in pkgutil.walk_packages(getattr(package, "__path__", []), f"{package.__name__}."):
            importlib.import_module(module.name)


def entries(kind: str | None = None) -> list[Entry]:
    """Everything registered, or everything of one kind, by name."""
    discover()
    if kind is not None and kind not in KINDS:
        raise ValueError(f"there is no kind {kind!r}{did_you_mean(kind, KINDS)}; the kinds are {', '.join(KINDS)}")
    return [_entries[key] for key in sorted(_entries) if kind in (None, _entries[key].kind)]


def find(name: str) -> Entry:
    """The entry of that name: ``kind:name``, or the name alone for a mixer or where only one kind has it."""
    discover()
    if name in _entries:
        return _entries[name]
    if f"mixer:{name}" in _entries:
        return _entries[f"mixer:{name}"]
    same = [entry for entry in _entries.values() if entry.name == name]
    if len(same) == 1:
        return same[0]
    if same:
        raise ValueError(f"{name!r} is more than one thing; say which: {', '.join(entry.key for entry in same)}")
    known = list(_entries) if ":" in name else sorted({entry.name for entry in _entries.values()})
    raise ValueError(
        f"there is no {name!r} in ostinato{did_you_mean(name, known)}; `ostinato list` shows what there is"
    )


def create(name: str, /, **arguments: Any) -> Any:
    """Build a registered module: ``create("gla", dim=64, heads=4)``.

    Raises ValueError for an unknown name or argument, with the nearest valid ones.
    """
    entry = find(name)
    if not inspect.isclass(entry.target):
        raise ValueError(f"{entry.key} is a function, used as it is: {entry.target.__module__}.{entry.target.__name__}")
    check_arguments(entry, arguments)
    return entry.target(**arguments)


def check_arguments(entry: Entry, arguments: dict[str, Any]) -> None:
    """Refuse arguments that the entry does not have, and say which ones it lacks."""
    known = {argument.name: argument for argument in entry.arguments}
    for name in arguments:
        if name not in known:
            takes = ", ".join(known)
            raise ValueError(f"{entry.key} has no argument {name!r}{did_you_mean(name, known)}; it takes {takes}")
    missing = [argument.name for argument in known.values() if argument.required and argument.name not in arguments]
    if missing:
        raise ValueError(f"{entry.key} needs {', '.join(missing)}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of an error message that suggests the nearest valid words, or nothing."""
    near = get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f" (did you mean {' or '.join(near)}?)" if near else ""
