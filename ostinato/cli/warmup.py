"""ostinato warmup: compile the CPU kernels before they are needed."""

from typing import Annotated

from typer import Argument, Option


def warmup(
    mixers: Annotated[list[str] | None, Argument(help="Mixers whose kernels are compiled; all by default.")] = None,
    workers: Annotated[int | None, Option(help="Processes at a time; as many as cores by default.", min=1)] = None,
) -> None:
    """Compile the CPU kernels, so that the first training step or token does not wait for it.

    ostinato warmup gla mamba
    """
    from ostinato.bench.warmup import warmup
    from ostinato.kernels import cpu

    if not cpu.works():
        return
    for mixer, seconds in warmup(mixers or (), workers):
        print(f"{mixer}: {seconds:.1f} s")
