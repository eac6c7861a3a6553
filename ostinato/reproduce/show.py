"""A reproduction on the terminal: the rows, and each claim of the paper beside what was measured."""

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from ostinato.bench.show import cell
from ostinato.reproduce.effect import Reproduced


def show(found: Reproduced, console: Console) -> None:
    """Rows, claims, and the verdict."""
    rows = Table(title=found.title, title_justify="left", box=SIMPLE)
    for name in (columns := list(dict.fromkeys(name for row in found.rows for name in row))):
        rows.add_column(name, overflow="fold")
    for row in found.rows:
        rows.add_row(*(cell(row.get(name)) for name in columns))
    console.print(rows)
    claims = Table(box=SIMPLE)
    for name in ("claim", "paper", "here", "holds"):
        claims.add_column(name, overflow="fold")
    for claim in found.claims:
        claims.add_row(claim.says, claim.paper, claim.ours, "yes" if claim.holds else "no")
    console.print(claims)
    if found.not_reproduced:
        console.print(f"known not to reproduce: {found.not_reproduced}", markup=False, soft_wrap=True)
    verdict = "the effect is there" if found.holds else "the effect is not there"
    console.print(f"{verdict}; {found.seconds:.0f} seconds of training in all", markup=False)
