"""ostinato papers: what is here of each paper, and which test shows it."""

import json
from typing import Annotated

from typer import Argument, Option


def papers(
    id: Annotated[str | None, Argument(help="Only this paper, in full.")] = None,
    as_json: Annotated[bool, Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """List the papers: what of them is here, what is not yet, and which tests show it.

    ostinato papers gla
    """
    from ostinato.papers import find_paper
    from ostinato.papers import papers as known

    found = list(known().values()) if id is None else [find_paper(id)]
    if as_json:
        print(json.dumps([paper.describe() for paper in found], indent=2, ensure_ascii=False))
    elif id is None:
        width = max((len(paper.id) for paper in found), default=0)
        for paper in found:
            print(f"{paper.id:<{width}}  {paper.level}  {', '.join(paper.provides)}  ({paper.title})")
    else:
        (paper,) = found
        print(f"{paper.title}\n{paper.url}\nfamily    {paper.family}\nlevel     {paper.level}")
        if paper.note:
            print(f"note      {paper.note}")
        for label, names in (("here", paper.provides), ("missing", paper.missing), ("evidence", paper.evidence)):
            for name in names or ("none",):
                print(f"{label:<8}  {name}")
