"""ostinato bench: measure speed and memory against a reference in the same run."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option


class Task(str, Enum):
    op = "op"
    train = "train"
    prefill = "prefill"
    decode = "decode"
    memory = "memory"


def bench(
    task: Annotated[Task, Argument(help="What is measured.")],
    names: Annotated[list[str], Argument(help="Mixers, or patterns such as gated_deltanet+attention; ops for `op`.")],
    against: Annotated[
        str, Option(help="Peer to compare with: llama, mamba, mamba2 (of transformers), or none.")
    ] = "llama",
    length: Annotated[int, Option(help="Tokens of a sequence; of the context before decoding.", min=2)] = 1024,
    batch: Annotated[int, Option(help="Sequences at a time.", min=1)] = 2,
    dim: Annotated[int, Option(help="Width of the models.", min=1)] = 256,
    layers: Annotated[int, Option(help="Layers of the models.", min=1)] = 4,
    rounds: Annotated[int, Option(help="Rounds; each measures every model once.", min=1)] = 5,
    steps: Annotated[int, Option(help="Tokens that are decoded.", min=1)] = 64,
    heads: Annotated[int, Option(help="Heads of an op.", min=1)] = 8,
    key_dim: Annotated[int, Option(help="Key width of a head of an op.", min=1)] = 64,
    value_dim: Annotated[int, Option(help="Value width of a head of an op.", min=1)] = 64,
    threads: Annotated[int, Option(help="Threads of torch; 0 leaves its default.", min=0)] = 0,
    bfloat16: Annotated[bool, Option(help="Train under bfloat16 autocast.")] = False,
    equal: Annotated[bool, Option(help="Widen the channel mixers until parameters equal the peer's.")] = True,
    tokens: Annotated[int, Option(help="Tokens streamed by `memory`.", min=1024)] = 1_000_000,
    json: Annotated[Path | None, Option(help="Write the figures, with machine and versions, to this file.")] = None,
) -> None:
    """Measure models against a peer in the same run: medians over rounds, never a figure alone.

    ostinato bench train gla mamba2 --against llama --length 1024
    """
    import torch

    from ostinato.bench.memory import memory
    from ostinato.bench.ops import Sizes, measure_op
    from ostinato.bench.peers import PeerMissingError
    from ostinato.bench.show import save, show
    from ostinato.bench.speed import speed

    if threads:
        torch.set_num_threads(threads)
    if task is Task.op:
        sizes = Sizes(batch=batch, length=length, heads=heads, key_dim=key_dim, value_dim=value_dim)
        results = [measure_op(name, sizes, rounds=rounds) for name in names]
    elif task is Task.memory:
        results = [memory(names, tokens=tokens, dim=dim, layers=layers, piece=length)]
    else:
        settings: dict[str, Any] = dict(length=length, batch=batch, dim=dim, layers=layers, rounds=rounds, steps=steps)
        settings |= dict(equal=equal, bfloat16=bfloat16)
        peer = None if against == "none" else against
        try:
            results = [speed(task.value, names, against=peer, **settings)]
        except PeerMissingError as missing:
            print(f"without a peer: {missing}")
            results = [speed(task.value, names, against=None, **settings)]
    for result in results:
        show(result)
    if json is not None:
        save(results, json)
        print(json)
