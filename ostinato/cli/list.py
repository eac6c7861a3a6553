"""ostinato list: everything that can be asked for by name."""

import json
import shutil
import sys
from typing import Annotated

from typer import Option


def list(
    kind: Annotated[str | None, Option(help="Only this kind: mixer, model, wrapper, op, task, ...")] = None,
    as_json: Annotated[bool, Option("--json", help="Print a JSON array, with papers and tests.")] = False,
) -> None:
    """List everything that can be asked for by name, with its level of evidence.

    ostinato list --kind mixer
    """
    from ostinato.catalogue import describe
    from ostinato.registry import entries

    found = [describe(entry) for entry in entries(kind)]
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    names = [f"{row['kind']}:{row['name']}" for row in found]
    width = max(map(len, names), default=0)
    # lines fit the window; a file or a pipe gets them whole
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for name, row in zip(names, found, strict=True):
        print(f"{name:<{width}}  {row['evidence'] or '--'}  {row['summary']}"[:columns])
