"""Several mixers on the same data, in the same order, with the same number of parameters and of tokens; and a report.

    found = compare(["attention", "gla", "gated_deltanet+attention"], out="runs/three", seeds=3)
    found.html     # the path of the report
    found.comparison.runs

Every run is a process of its own. What was finished is not done again: the same call continues what was interrupted.
In a script, call it under ``if __name__ == "__main__":``, because those processes import the script too.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ostinato.compare.run import Found, compare

# torch is imported when a comparison begins
_HOMES = {"Found": "run", "compare": "run"}

__all__ = ["Found", "compare"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ostinato.compare' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"ostinato.compare.{_HOMES[name]}"), name)
