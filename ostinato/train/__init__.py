"""Training: a config, a loop that can be killed at any moment, and what it writes into a run folder.

run = train({"model": {"mixer": "gla", "params": "1M"}, "data": {"paths": ["notes/"]}}, "runs/notes")
run.model()
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ostinato.train.callbacks import Callback
    from ostinato.train.config import Config
    from ostinato.train.diagnose import NotFiniteError
    from ostinato.train.loop import train

# torch is imported when the loop is used, so that the command line can read configs without it
_HOMES = {"Callback": "callbacks", "Config": "config", "NotFiniteError": "diagnose", "train": "loop"}

__all__ = ["Callback", "Config", "NotFiniteError", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ostinato.train' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"ostinato.train.{_HOMES[name]}"), name)
