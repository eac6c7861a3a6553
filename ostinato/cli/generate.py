"""ostinato generate: continue a text with a trained model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from typer import Argument, BadParameter, Option


def generate(
    run: Annotated[Path, Argument(help="Folder that `ostinato train` wrote.")],
    prompt: Annotated[str | None, Option(help="The text to continue.")] = None,
    prompt_file: Annotated[
        Path | None, Option(help="Read the text to continue from this file; - is standard input.", allow_dash=True)
    ] = None,
    tokens: Annotated[int, Option(help="How many tokens to add; 0 only reads the prompt.", min=0)] = 200,
    temperature: Annotated[float, Option(help="0 takes the likeliest token; larger wanders more.")] = 1.0,
    top_k: Annotated[int | None, Option(help="Draw from this many likeliest tokens only.")] = None,
    top_p: Annotated[
        float | None, Option(help="Draw from the fewest likeliest tokens that have this probability together.")
    ] = None,
    min_p: Annotated[
        float | None, Option(help="Draw from tokens at least this many times as likely as the likeliest.")
    ] = None,
    seed: Annotated[
        int | None, Option(help="The same seed gives the same text; by default 0, or that of --state-in.")
    ] = None,
    state_in: Annotated[
        Path | None, Option(help="Go on from this file, which --state-out wrote.", exists=True, dir_okay=False)
    ] = None,
    state_out: Annotated[
        Path | None, Option(help="Write to this file what it takes to go on from here.", dir_okay=False)
    ] = None,
    quantize: Annotated[
        str | None, Option(help="int8: weights in 8 bits, for a smaller model that reads them faster.")
    ] = None,
    ignore_eos: Annotated[
        bool, Option("--ignore-eos", help="Go on where an imported model says that the text is at its end.")
    ] = False,
    compile: Annotated[
        bool, Option("--compile", help="Compile the step first: 10 to 30 seconds, then several times as fast on a CPU.")
    ] = False,
    device: Annotated[str, Option(help="cpu or cuda; auto takes the GPU if there is one.")] = "auto",
) -> None:
    """Continue a text with a trained model.

    The text comes from --prompt, --prompt-file or standard input; without
    any of them it begins with a new line. Only the continuation is printed.

    With --state-out and then --state-in a text is written in parts, and is
    the same as if it had been written at once. A model that was imported
    with a token for the end of a text stops there.

    ostinato generate runs/gla-small --prompt "Once upon a time" --tokens 500
    """
    if prompt is not None and prompt_file is not None:
        raise BadParameter("give one of --prompt and --prompt-file")
    text = prompt if prompt is not None else _read_prompt(prompt_file)

    import sys
    from dataclasses import replace

    from ostinato.generate import Sampler, begin, compile_step, ended, load, save, write
    from ostinato.layers.quantized import quantize as quantized
    from ostinato.models import modes
    from ostinato.runs import Run

    sampler = Sampler(temperature, top_k, top_p, min_p, seed or 0)
    opened = Run.open(run)
    model, tokenizer = opened.model(device=modes.device(device)), opened.tokenizer()
    if quantize is not None:
        quantized(model, quantize)
    step = compile_step(model) if compile else None
    stop = frozenset() if ignore_eos else opened.end_of_text()
    session = None if state_in is None else load(state_in, model)
    if seed is None and session is not None:
        sampler = replace(sampler, seed=int(session.seed))
    if session is not None and text is None and ended(session, stop):
        tokens = 0  # it was at its end when it was put away
    if session is None or text is not None:
        session = begin(model, tokenizer, "\n" if text is None else text, sampler, session)
    try:
        with _between_tokens() as pause:
            for piece, now in write(model, tokenizer, session, tokens, sampler, step=step, stop=stop):
                session = now
                print(piece, end="", flush=True)
                pause()
        if sys.stdout.isatty():
            print()
    finally:  # also after Ctrl-C
        if state_out is not None:
            save(session, state_out)


@contextmanager
def _between_tokens() -> Iterator[Callable[[], None]]:
    """Ctrl-C takes effect at the calls of what this gives, where all that is remembered was printed too; twice, at once."""
    import signal
    import threading

    asked: list[bool] = []

    def ask(*_: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(True)

    def pause() -> None:
        if asked:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # signals are for the main thread
        yield pause
        return
    before = signal.signal(signal.SIGINT, ask)
    try:
        yield pause
    finally:
        signal.signal(signal.SIGINT, before)


def _read_prompt(file: Path | None) -> str | None:
    """The text of a file (- is standard input), of standard input if that is piped, or None where nothing is given."""
    import sys

    if file is None and (sys.stdin is None or sys.stdin.isatty()):
        return None
    if file is None or str(file) == "-":
        name, data = "standard input", sys.stdin.buffer.read()
    else:
        name, data = str(file), file.read_bytes()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8 (0x{data[error.start]:02x} at byte {error.start})") from None
    if file is not None and not text:
        raise ValueError(f"{name}: no text in it to continue")
    return text or None
