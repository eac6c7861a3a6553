"""ostinato diagnose: what can these mixers do?"""

from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option


def diagnose(
    mixers: Annotated[
        list[str],
        Argument(help="Mixers; gla+attention for a pattern, {attention: {window: 64}} for one with arguments."),
    ],
    battery: Annotated[
        str, Option(help="Tasks and budget: quick, standard, paper (all published ones), chomsky, zoology.")
    ] = "quick",
    task: Annotated[
        list[str] | None,
        Option(help="A task instead of those of the battery: parity, {mqar: {pairs: 16}}; may be repeated."),
    ] = None,
    seeds: Annotated[int, Option(help="Trials of each mixer and task, for error bars.", min=1)] = 1,
    params: Annotated[str | None, Option(help="Number of parameters of each model, as in 50k.")] = None,
    layers: Annotated[int | None, Option(help="Number of layers.", min=1)] = None,
    steps: Annotated[int | None, Option(help="Steps of training of each trial.", min=1)] = None,
    batch_size: Annotated[int | None, Option(help="Problems of a step.", min=1)] = None,
    lr: Annotated[float, Option(help="The largest learning rate.")] = 3e-3,
    workers: Annotated[
        int | None, Option(help="Trials side by side; as many as there are cores if left out.", min=1)
    ] = None,
    out: Annotated[Path | None, Option(help="Folder of the diagnosis; one in runs/ if left out.")] = None,
) -> None:
    """Train small models of each mixer on a battery of tasks, at equal parameters and steps, and say what they learned.

    Scores are measured at the length of training, and at 2, 4 and 16 times that length. The same command again continues a
    diagnosis that was interrupted.

    ostinato diagnose gated_deltanet mamba2 slstm attention --battery quick
    """
    import shlex
    import sys

    from ostinato.diagnose import diagnose as run_diagnosis
    from ostinato.diagnose.show import ShowTrials, show

    command = shlex.join(["ostinato", *sys.argv[1:]])
    try:
        found = run_diagnosis(
            mixers,
            out,
            battery=battery,
            tasks=task or (),
            seeds=seeds,
            params=params,
            layers=layers,
            steps=steps,
            batch_size=batch_size,
            learning_rate=lr,
            workers=workers,
            watcher=ShowTrials(),
            command=command,
        )
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here")
        raise
    show(found)
    if found.diagnosis.failures:
        raise Exit(1)
