"""The loop: read, differentiate, check, update; and every few steps measure, write down, save.

Step t is a function of the weights, what the optimizers remember, the position in the data, and t: the learning rate follows
from t, and random numbers are seeded with (seed, t, process). So a run that was stopped at any moment continues from its
last checkpoint to the same weights, bit for bit, as one that was not. (On the same machine: the sums inside a matrix product
depend on the number of threads, which is therefore part of the config.) Where rows go on from batch to batch (`stream`), step t
is also a function of the state that the model is in, and a checkpoint has that too.

The gradient of a step is that of the mean loss over all tokens that the step predicts, however they are spread over batches
and processes.
"""

import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ostinato.data import Batch, Batches, Corpus, Streams
from ostinato.data.shuffle import key
from ostinato.models.stack import blocks
from ostinato.runs import Run
from ostinato.state import State, detach, map_state
from ostinato.tasks.next_token import bits_per_byte
from ostinato.train import checkpoint
from ostinato.train.begin import begin, corpus_of
from ostinato.train.callbacks import Callback, TensorBoard
from ostinato.train.config import Config, TrainConfig
from ostinato.train.diagnose import NotFiniteError, diagnose
from ostinato.train.gradient_noise import gradient_noise
from ostinato.train.mimetic import mimetic_init
from ostinato.train.nt_asgd import NTASGD, averages
from ostinato.train.optimizers import make_optimizers, set_learning_rate
from ostinato.train.schedules import factor
from ostinato.train.spans import span_schedule
from ostinato.train.variable_bptt import variable_bptt
from ostinato.train.windows import seeing, stochastic_window, windowed_attention


def train(
    config: Config | Mapping[str, Any] | None,
    folder: str | Path,
    *,
    resume: bool = True,
    callbacks: Iterable[Callback] = (),
) -> Run:
    """Train a model in a run folder, from its beginning or from where it stopped; a finished run is left as it is.

    config: what to train, as `Config` or as nested mappings; None for that of a run that exists
    folder: of the run; one that exists is continued, if its settings are the same
    resume: False refuses a folder that holds a run
    callbacks: what looks on
    """
    config = Config.read(config) if isinstance(config, Mapping) else config
    wanted = config or Config.read(Run.open(folder).config)
    accelerator = _accelerator(wanted.train.device)
    processes = accelerator.num_processes
    made = begin(config, folder, resume=resume, processes=processes) if accelerator.is_main_process else None
    accelerator.wait_for_everyone()
    run = made or Run.open(folder)
    settings = Config.read(run.config).train
    assert settings.steps is not None, "the config of a run leaves nothing open"
    callbacks = [*callbacks, *([TensorBoard()] if settings.tensorboard else [])] if accelerator.is_main_process else []

    lock = run.locked() if accelerator.is_main_process else nullcontext()
    gpus = [accelerator.device] if accelerator.device.type == "cuda" else []
    with lock, _threads(settings.threads), torch.random.fork_rng(gpus):
        newest = run.newest()
        step = newest.step if newest else 0
        if step >= settings.steps:
            return run
        trainer = Trainer(run, corpus_of(run), settings, accelerator, callbacks)
        if newest:
            trainer.restore(newest)
        if accelerator.is_main_process:
            run.rewind(step)
        try:
            for callback in callbacks:
                callback.begin(run, step, settings.steps)
            trainer.train(step)
        finally:
            for callback in callbacks:
                callback.end()
        accelerator.wait_for_everyone()
    return run


def computing(device: torch.device, bf16: bool) -> torch.autocast:
    """Compute in bfloat16 where that is safe, or not.

    This is not Accelerate's autocast: its precision is that of the whole process, and a comparison has many runs in one.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


class Objective(nn.Module):
    """What is made smaller: the sum of the losses of a batch, computed in the precision of the run; and the state after it.

    model: gives the loss
    bf16: whether to compute in bfloat16 where that is safe
    """

    def __init__(self, model: nn.Module, bf16: bool):
        super().__init__()
        self.model: Any = model
        self.bf16 = bf16

    def forward(self, tokens: Tensor, reset: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        with computing(tokens.device, self.bf16):
            return self.model.loss_and_state(tokens, reset, state, reduction="sum")


@dataclass
class Tally:
    """Where training is, beside weights and optimizers.

    position: in the data
    tokens: that were read
    seconds: that updates took, in all processes that trained this run
    window: sums since the last line of metrics
    """

    position: int | None = None
    tokens: int = 0
    seconds: float = 0.0
    window: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("loss", "steps", "tokens", "seconds"), 0))


class Trainer:
    """A model, its optimizers and its place in the data.

    run: where things are written
    corpus: what is learned from
    settings: how
    accelerator: the device and the other processes
    callbacks: what looks on
    """

    def __init__(
        self, run: Run, corpus: Corpus, settings: TrainConfig, accelerator: Accelerator, callbacks: list[Callback]
    ):
        self.run, self.corpus, self.settings = run, corpus, settings
        self.accelerator, self.callbacks = accelerator, callbacks
        assert settings.steps is not None
        assert settings.warmup is not None
        self.steps, self.warmup = settings.steps, settings.warmup
        torch.manual_seed(settings.seed)
        self.model = run.new_model().to(accelerator.device)  # made on the CPU: the same numbers for every device
        if settings.init == "mimetic":
            mimetic_init(self.model)
        for block in blocks(self.model):
            block.recompute = settings.recompute
        self.optimizers = make_optimizers(self.model, settings)
        self.objective = accelerator.prepare(Objective(self.model, settings.precision == "bf16"))
        rank, world = accelerator.process_index, accelerator.num_processes
        supply = Streams if settings.stream else Batches
        self.batches = supply(
            corpus.train, settings.batch_size, settings.length, seed=settings.seed, rank=rank, world=world
        )
        self.memory: State | None = None  # of the rows, where they go on
        self.tally = Tally()

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Go back to a checkpoint."""
        state = checkpoint.restore(saved, self.model, self.optimizers)
        self.tally = Tally(**state["tally"])
        if self.settings.stream:
            self.memory = self._own_rows(checkpoint.restore_memory(saved, self.model.initial_state(1)))

    def train(self, step: int) -> None:
        """All updates after the first `step`."""
        settings = self.settings
        while step < self.steps:
            numbers = self.update(step)
            step += 1
            last = step == self.steps
            for callback in self.callbacks:
                callback.step(step)
            if last or step % settings.log_every == 0:
                self.log(step, numbers)
            if last or (settings.evaluate_every and step % settings.evaluate_every == 0):
                self.evaluate(step)
            if last or step % settings.checkpoint_every == 0:
                self.save(step)

    def update(self, step: int) -> dict[str, float]:
        """One update of the weights; `step` were made before it."""
        settings, accelerator, tally = self.settings, self.accelerator, self.tally
        began = time.perf_counter()
        torch.manual_seed(int(key(settings.seed, 2, step, accelerator.process_index)[0]))
        self.model.train()
        length, slower = self._length(step)
        batches, tally.position = self._read(tally.position, length)
        predicted = self._sum(torch.stack([(~batch.reset[:, 1:]).sum() for batch in batches]).sum()).clamp(min=1)

        total = torch.zeros((), device=accelerator.device)
        window = self._window(step)
        for batch in batches:
            # gradients are averaged over processes, and only after the last batch
            together = batch is batches[-1]
            with nullcontext() if together else accelerator.no_sync(self.objective), seeing(self.model, window):
                loss, after = self.objective(*batch, self.memory)
                loss = loss / predicted
                accelerator.backward(loss * accelerator.num_processes)
            total += loss.detach()
            self.memory = detach(after) if settings.stream else None
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        norm = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        loss, size = torch.stack([self._sum(total), norm.float()]).tolist()
        if not (math.isfinite(loss) and math.isfinite(size)):
            raise NotFiniteError(self._what_happened(batches, step, loss, size))

        if settings.clip is not None:
            clip_grads_with_norm_(parameters, settings.clip, norm)
        # the same noise in every process, whose weights stay the same
        noise = torch.Generator(accelerator.device).manual_seed(int(key(settings.seed, 5, step)[0]))
        gradient_noise(parameters, step, settings.gradient_noise, generator=noise)
        rate = (
            slower
            * settings.learning_rate
            * factor(settings.schedule, step, self.steps, self.warmup, settings.decay, settings.final)
        )
        set_learning_rate(self.optimizers, rate)
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad()

        took = time.perf_counter() - began
        tokens = settings.batch_size * length * settings.accumulate * accelerator.num_processes
        tally.tokens += tokens
        tally.seconds += took
        for name, value in {"loss": loss, "steps": 1, "tokens": tokens, "seconds": took}.items():
            tally.window[name] += value
        return {"learning_rate": rate, "gradient_norm": size}

    def log(self, step: int, numbers: dict[str, float]) -> None:
        """A line of metrics: the mean loss since the last line, and the numbers of this step."""
        window = self.tally.window
        self._write(
            {
                "step": step,
                "tokens": self.tally.tokens,
                "seconds": round(self.tally.seconds, 6),
                "loss": window["loss"] / window["steps"],
                **numbers,
                "tokens_per_second": round(window["tokens"] / window["seconds"], 1),
            }
        )
        self.tally.window = dict.fromkeys(window, 0)

    def evaluate(self, step: int) -> None:
        """A line of metrics about the text that is kept for validation."""
        settings, loss = self.settings, 0.0
        if self.accelerator.is_main_process:
            bf16 = settings.precision == "bf16"
            with computing(self.accelerator.device, bf16), averages(self.optimizers):
                score = bits_per_byte(
                    self.model,
                    self.corpus.valid,
                    self.corpus.tokenizer,
                    length=settings.length,
                    max_tokens=settings.evaluate_tokens,
                    stream=settings.evaluate_stream,
                )
            self._write({"step": step, **{f"valid_{name}": value for name, value in score._asdict().items()}})
            loss = score.loss
        self.accelerator.wait_for_everyone()
        for optimizer in self.optimizers.values():
            if isinstance(optimizer, NTASGD):
                optimizer.validated(self._sum(torch.tensor(loss, device=self.accelerator.device)).item())

    def save(self, step: int) -> None:
        """A checkpoint, and the oldest are removed."""
        memory = self.memory if self.memory is None else map_state(self._gathered, self.memory)
        if self.accelerator.is_main_process:
            checkpoint.save(self.run, step, self.model, self.optimizers, {"tally": asdict(self.tally)}, memory)
            self.run.keep(self.settings.keep)
        self.accelerator.wait_for_everyone()

    def _window(self, step: int) -> int | list[int | None] | None:
        """Of attention in this step, of all its layers or of each; None where it is that of the model."""
        settings = self.settings
        if settings.windows:
            final, seed = settings.windows_final, settings.seed
            return stochastic_window(settings.windows, step, self.steps, final=final, seed=seed)
        if settings.span_from is None:
            return None
        own = [module.window for module in windowed_attention(self.model)]
        return span_schedule(own, step, self.steps, wide=settings.span_from, part=settings.span_part)

    def _length(self, step: int) -> tuple[int, float]:
        """Tokens of the rows of this step, and what its learning rate is multiplied by: the same in every process."""
        if not self.settings.vary_length:
            return self.settings.length, 1.0
        generator = torch.Generator().manual_seed(int(key(self.settings.seed, 4, step)[0]))
        return variable_bptt(self.settings.length, generator)

    def _gathered(self, leaf: Tensor) -> Tensor:
        """Of the states of all processes, one below the other."""
        whole = self.accelerator.gather(leaf)
        assert isinstance(whole, Tensor)
        return whole

    def _own_rows(self, memory: State | None) -> State | None:
        """Of the states of all processes, that of this one."""
        B, rank = self.settings.batch_size, self.accelerator.process_index
        own = slice(rank * B, (rank + 1) * B)
        return memory and map_state(lambda leaf: leaf[own].to(self.accelerator.device), memory)

    def _sum(self, value: Tensor) -> Tensor:
        """Over all processes."""
        total = self.accelerator.reduce(value, "sum")
        assert isinstance(total, Tensor)
        return total

    def _read(self, position: int | None, length: int) -> tuple[list[Batch], int | None]:
        batches, size = [], (length,) if isinstance(self.batches, Streams) else ()
        for _ in range(self.settings.accumulate):
            batch, position = self.batches(position, *size)
            batches.append(Batch(*(tensor.to(self.accelerator.device) for tensor in batch)))
        return batches, position

    def _what_happened(self, batches: list[Batch], step: int, loss: float, norm: float) -> str:
        objective = self.accelerator.unwrap_model(self.objective)
        sentence = diagnose(self.model, lambda: [objective(*batch) for batch in batches], step + 1, loss, norm)
        kept = self.run.checkpoints()
        where = f"the checkpoint of step {kept[-1].step} is kept" if kept else "there is no checkpoint yet"
        return f"{sentence}; {where}; try a smaller train.learning_rate or train.clip in a new run"

    def _write(self, line: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            self.run.add_metrics(line)
        for callback in self.callbacks:
            callback.metrics(line)


def _accelerator(device: str) -> Accelerator:
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("train.device: cuda is not there; take cpu or auto")
    accelerator = Accelerator(cpu=device == "cpu")
    if device != "auto" and accelerator.device.type != device:
        raise ValueError(
            f"train.device: this process uses {accelerator.device.type} already; take another for {device}"
        )
    if accelerator.distributed_type not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
        raise ValueError(
            f"training runs in one process or data-parallel in many; got {accelerator.distributed_type.value}"
        )
    return accelerator


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Compute with so many threads."""
    before = torch.get_num_threads()
    number = number or before
    numba = sys.modules.get("numba")
    numba_before = numba.get_num_threads() if numba else None
    torch.set_num_threads(number)
    if numba:
        numba.set_num_threads(min(number, numba.config.NUMBA_NUM_THREADS))
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if numba:
            numba.set_num_threads(numba_before)
