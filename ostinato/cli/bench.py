"""ostinato bench: measure speed and memory against a reference in the same run."""

from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, BadParameter, Option


class Task(str, Enum):
    train = "train"
    prefill = "prefill"
    decode = "decode"
    memory = "memory"
    stream = "stream"
    op = "op"
    mixer = "mixer"
    catalogue = "catalogue"


class Dtype(str, Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"

    def __str__(self) -> str:
        return self.value


def bench(
    task: Annotated[
        Task,
        Argument(
            help="train, prefill, decode: speed of models; memory: of a training step; stream: memory while reading on and on; "
            "op: single ops; mixer: how time and memory of single mixers grow with the length; catalogue: a small trial of every mixer."
        ),
    ],
    names: Annotated[
        list[str] | None,
        Argument(
            help="Mixers, or patterns such as gated_deltanet+attention; ops for `op`. Without names, each peer is measured "
            "beside what is here of its kind, and `catalogue` takes all mixers."
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        Option(
            help="Peers to compare with, by name or all of a library: transformers (llama, mamba, mamba2, rwkv, "
            "recurrent_gemma, qwen3_next, minimax, hf_xlstm), xlstm (xlstm_mlstm, xlstm_slstm), mambapy, mingru_pytorch "
            "(and minlstm_pytorch), titans_pytorch, torch (torch_lstm, torch_gru), fla on a GPU; or none. "
            "May be given more than once; llama where it is not given."
        ),
    ] = None,
    length: Annotated[
        list[int] | None,
        Option(
            help="Tokens of a sequence, 1024 by default; of the context before decoding. May be given more than once."
        ),
    ] = None,
    batch: Annotated[int, Option(help="Sequences at a time.", min=1)] = 2,
    dim: Annotated[int, Option(help="Width of the models.", min=1)] = 256,
    layers: Annotated[int, Option(help="Layers of the models.", min=1)] = 4,
    rounds: Annotated[int, Option(help="Rounds; each measures every model once.", min=1)] = 5,
    steps: Annotated[
        int | None, Option(help="Tokens that are decoded (64), steps of training of the catalogue (300).", min=1)
    ] = None,
    heads: Annotated[int, Option(help="Heads of an op.", min=1)] = 8,
    key_dim: Annotated[int, Option(help="Key width of a head of an op.", min=1)] = 64,
    value_dim: Annotated[int, Option(help="Value width of a head of an op.", min=1)] = 64,
    threads: Annotated[int, Option(help="Threads of torch; 0 leaves its default.", min=0)] = 0,
    dtype: Annotated[
        Dtype, Option(help="bfloat16 is autocast for models and the inputs of ops, peers too.")
    ] = Dtype.float32,
    device: Annotated[str, Option(help="Where models run: auto, cpu, cuda, cuda:1, ...")] = "cpu",
    equal: Annotated[bool, Option(help="Widen the channel mixers until parameters equal the peer's.")] = True,
    compile: Annotated[bool, Option("--compile", help="Measure decoding with a compiled step too.")] = False,
    quantize: Annotated[str | None, Option(help="int8: measure decoding with weights in 8 bits too.")] = None,
    recompute: Annotated[
        bool, Option("--recompute", help="Measure training, or its memory, with blocks that are computed again too.")
    ] = False,
    tokens: Annotated[int, Option(help="Tokens read by `stream`.", min=1024)] = 1_000_000,
    text: Annotated[
        Path | None,
        Option(
            help="What `catalogue` learns; Tiny Shakespeare in the data folder $OSTINATO_DATA where it is not given."
        ),
    ] = None,
    limit: Annotated[float, Option(help="Seconds for each mixer of `catalogue` and `mixer`.", min=1)] = 300,
    json: Annotated[
        Path | None,
        Option(
            help="Write the figures, with machine and versions, to this file. `catalogue` goes on with what it holds."
        ),
    ] = None,
    plot: Annotated[Path | None, Option(help="Draw the figures against several lengths to this SVG file.")] = None,
) -> None:
    """Measure models against a peer in the same run: medians over rounds, never a figure alone.

    ostinato bench train gla mamba2 --against llama --length 1024 --length 4096 --plot speed.svg

    ostinato bench train --against transformers --against torch --length 256
    """
    lengths = length or [1024]
    if min(lengths) < 2:
        raise BadParameter("--length is at least 2")
    if plot and (len(set(lengths)) < 2 or task in (Task.stream, Task.catalogue, Task.mixer)):
        raise BadParameter("--plot draws curves over several lengths: give --length more than once")
    if task is Task.catalogue:
        return _catalogue(names or [], text, threads=threads, steps=steps or 300, limit=limit, json=json)
    if quantize not in (None, "int8"):
        raise BadParameter(f"--quantize is int8; got {quantize}")
    if (compile or quantize) and task is not Task.decode:
        raise BadParameter("--compile and --quantize are for `decode`")
    if recompute and task not in (Task.train, Task.memory):
        raise BadParameter("--recompute is for `train` and `memory`")
    if task in (Task.op, Task.stream, Task.mixer) and not names:
        raise BadParameter(f"name what `{task.value}` measures")

    import torch

    from ostinato.bench.growth import growth
    from ostinato.bench.memory import memory
    from ostinato.bench.ops import Sizes, measure_op
    from ostinato.bench.peers import peers
    from ostinato.bench.plot import plot as draw
    from ostinato.bench.show import save, show
    from ostinato.bench.speed import speed
    from ostinato.bench.stream import stream
    from ostinato.bench.suite import against_all
    from ostinato.models.modes import device as pick_device

    if threads:
        torch.set_num_threads(threads)
    skipped: dict[str, list[str]] = {}
    if task is Task.op:
        sizes = [Sizes(batch=batch, length=T, heads=heads, key_dim=key_dim, value_dim=value_dim) for T in lengths]
        results = [measure_op(name, size, rounds=rounds, dtype=dtype.value) for name in names or [] for size in sizes]
    elif task is Task.mixer:
        results = [growth(names or [], lengths=lengths, dim=dim, batch=batch, rounds=rounds, limit=limit)]
    elif task is Task.stream:
        results = [stream(names or [], tokens=tokens, dim=dim, layers=layers, piece=T) for T in lengths]
    else:
        settings: dict[str, Any] = dict(batch=batch, dim=dim, layers=layers, equal=equal)
        settings |= dict(dtype=dtype.value, device=str(pick_device(device)), recompute=recompute)
        measure: Any = memory
        if task is not Task.memory:
            how: dict[str, Any] = dict(compiled=compile, quantized=quantize is not None)
            measure = partial(speed, task.value, rounds=rounds, steps=steps or 64, **how)
        chosen = peers(name for name in against or ["llama"] if name != "none")
        results, skipped = against_all(measure, names or [], chosen, lengths, **settings)
    for result in results:
        show(result)
    for reason, whom in skipped.items():
        print(f"without {', '.join(whom)}: {reason}")
    if json is not None:
        save(results, json, skipped)
        print(json)
    if plot is not None:
        draw(results, plot)
        print(plot)


def _catalogue(
    names: list[str], text: Path | None, *, threads: int, steps: int, limit: float, json: Path | None
) -> None:
    import torch

    from ostinato.bench.catalogue import catalogue, default_text, heading, line

    if threads:
        torch.set_num_threads(threads)
    print(heading())
    for row in catalogue(names, text or default_text(), steps=steps, limit=limit, file=json):
        print(line(row), flush=True)
    if json is not None:
        print(json)
