"""What processes that are to be killed have done already when they are forked: import, which is nearly all of their time."""

import importlib

from ostinato.models.budget import parameter_count
from ostinato.registry import discover

for module in ("ostinato.cli.train", "ostinato.train.loop", "ostinato.train.progress"):
    importlib.import_module(module)
discover()
parameter_count(2, dim=8, layers=1)  # torch imports its compiler for this
