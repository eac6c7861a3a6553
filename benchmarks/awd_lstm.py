"""AWD-LSTM on Penn Treebank, in words: against the same LSTMs without what regularises them, and without each part of it.

    python benchmarks/awd_lstm.py --data FOLDER                 writes benchmarks/awd_lstm.json
    python benchmarks/awd_lstm.py --data FOLDER --minutes 0.5 --only plain --out /tmp/try.json

The plain LSTM is trained by NT-ASGD too, at a length of 35 that does not vary; "(AdamW)" is its other training.

FOLDER holds ptb.train.txt, ptb.valid.txt and ptb.test.txt, as they are or as .gz. All models have the same size and the same
time of one core (updates of the weights; validations come on top). `whole` learns from all of the training text, `eighth`
from the first eighth of it, where over-fitting shows within minutes. The weights are those of the best of 12 validations on the
first 25,000 words of the validation text; perplexities are those of all of that text, and of all of the test text. A variant is
written down when it is finished; the same command goes on with the next.
"""

import argparse
import json
import math
import platform
import shutil
import time
from pathlib import Path

import torch

from ostinato.data import Corpus, prepare
from ostinato.files import write_atomically
from ostinato.runs import Run
from ostinato.tasks.next_token import bits_per_byte
from ostinato.train import Callback, train
from ostinato.train.config import assignments, override

VALIDATIONS = 12
SIZE = {"name": "awd_lstm", "dim": 128, "hidden": 320, "layers": 2}
RATES = {"drop_weights": 0.3, "drop_tokens": 0.05, "drop_input": 0.2, "drop_hidden": 0.15, "drop_output": 0.3}
PENALTIES = {"alpha": 2.0, "beta": 1.0}
COMMON = {"batch_size": 20, "length": 35, "stream": True, "evaluate_tokens": 25_000, "keep": 100, "threads": 1}
COMMON |= {"device": "cpu", "tensorboard": False, "log_every": 20, "seed": 0}
ADAM = {"optimizer": "adamw", "learning_rate": 2e-3, "schedule": "cosine", "weight_decay": 0.0, "clip": 1.0}
DESCENT = {"optimizer": "nt_asgd", "learning_rate": 30.0, "schedule": "constant", "warmup": 0, "weight_decay": 1.2e-6}
DESCENT |= {"clip": 0.25, "patience": 1}


def none(rates: dict[str, float]) -> dict[str, float]:
    """The same rates, all of them 0."""
    return dict.fromkeys(rates, 0.0)


AWD = {"model": SIZE | RATES | PENALTIES, "train": COMMON | DESCENT | {"vary_length": True}}
PLAIN = SIZE | none(RATES) | none(PENALTIES)
VARIANTS = {
    "AWD-LSTM": AWD,
    "plain LSTM": {"model": PLAIN, "train": COMMON | DESCENT},
    "plain LSTM (AdamW)": {"model": PLAIN, "train": COMMON | ADAM},
    "without variational dropout": override(
        AWD, {"model": {"drop_input": 0.0, "drop_hidden": 0.0, "drop_output": 0.0}}
    ),
    "without weight drop": override(AWD, {"model": {"drop_weights": 0.0}}),
    "without AR and TAR": override(AWD, {"model": none(PENALTIES)}),
    "without averaging": override(AWD, {"train": {"patience": 1_000_000}}),
}
WHOLE = ("AWD-LSTM", "plain LSTM", "plain LSTM (AdamW)")
EIGHTH = [
    name for name in VARIANTS if "AdamW" not in name
]  # which forgets there that words exist which it does not see


class Clock(Callback):
    """Seconds of the processor that updates took, without validations."""

    def __init__(self):
        self.seconds, self.steps, self._mark = 0.0, [], time.process_time()

    def begin(self, run, step, steps):
        self._mark = time.process_time()

    def step(self, step):
        now = time.process_time()
        self.seconds += now - self._mark
        self.steps.append(self.seconds)
        self._mark = now

    def metrics(self, line):
        if "valid_loss" in line:
            self._mark = time.process_time()


def text(folder: Path, side: str) -> str:
    return str(next(path for path in sorted(folder.glob(f"ptb.{side}.txt*"))))


def measured(values: dict, minutes: float, work: Path, corpora: dict[str, Corpus]) -> dict:
    """Train one variant for so many minutes of a core; its perplexities."""
    trial = Clock()
    short = {"steps": 14, "evaluate_every": 14, "evaluate_tokens": 200, "checkpoint_every": 14}
    shutil.rmtree(work / "trial", ignore_errors=True)
    train(override(values, {"train": short}), work / "trial", callbacks=[trial])
    each = (trial.steps[-1] - trial.steps[3]) / (len(trial.steps) - 4)
    steps = max(VALIDATIONS, round(60 * minutes / each))
    every = math.ceil(steps / VALIDATIONS)
    values = override(values, {"train": {"steps": steps, "evaluate_every": every, "checkpoint_every": every}})
    shutil.rmtree(work / "run", ignore_errors=True)
    clock = Clock()
    run = train(values, work / "run", callbacks=[clock])
    found = [line for line in run.metrics() if "valid_loss" in line]
    words = {line["step"]: line["tokens"] for line in run.metrics() if "tokens" in line}
    best = min(found, key=lambda line: line["valid_loss"])
    model, stores = run.model(best["step"]), (corpora["test"].valid, corpora["test"].train)
    valid, test = (bits_per_byte(model, store, corpora["test"].tokenizer) for store in stores)
    return {
        "parameters": run.info["parameters"],
        "steps": steps,
        "cpu_seconds": round(clock.seconds, 1),
        "words": words[steps],
        "epochs": round(words[steps] / len(corpora["train"].train), 2),
        "valid_perplexity": round(valid.perplexity, 2),
        "valid_words": valid.tokens,
        "test_perplexity": round(test.perplexity, 2),
        "test_words": test.tokens,
        "best_step": best["step"],
        "averages_from_step": averaging(run),
        "curve": [[line["step"], round(line["valid_perplexity"], 2)] for line in found],
        "settings": {"model": values["model"], "train": values["train"]},
    }


def averaging(run: Run) -> int | None:
    """The step after which the weights were averaged."""
    state = json.loads((run.checkpoints()[-1].folder / "state.json").read_text())
    known = state["optimizers"].get("nt_asgd", {})
    return state["step"] - known["averaged"] if known.get("averages") else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20, help="of a core, for each model of `whole`")
    parser.add_argument("--eighth", type=float, default=5, help="of a core, for each model of `eighth`; 0 for none")
    parser.add_argument("--only", help="variants whose names contain this")
    parser.add_argument("--set", action="append", default=[], help="train.learning_rate=1e-3: another value for all")
    parser.add_argument("--work", type=Path, default=Path("runs/awd_lstm"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    sides = {"paths": [text(asked.data, "train")], "valid": [text(asked.data, "valid")]}
    whole = prepare(sides["paths"], valid=sides["valid"], tokenizer="words")
    whole.tokenizer.save(asked.work)
    known = {"valid": sides["valid"], "tokenizer": str(asked.work)}
    test = prepare(text(asked.data, "test"), valid=sides["valid"], tokenizer=str(asked.work))
    eighth = {"paths": sides["paths"], "max_bytes": whole.info["train"]["bytes"] // 8}
    read = {"paths": sides["paths"]}
    parts = [("eighth", asked.eighth, eighth, EIGHTH), ("whole", asked.minutes, read, WHOLE)]
    result = {"torch": torch.__version__, "machine": f"{platform.machine()} {platform.system()}, 1 thread"}
    if asked.out.exists():
        result |= json.loads(asked.out.read_text())
    for side, minutes, data, names in parts:
        part = f"{side}, {minutes:g} minutes"
        for name in names if minutes else ():
            if name in result.get(part, {}) or (asked.only and asked.only not in name):
                continue
            values = override(override(VARIANTS[name], {"data": data | known}), assignments(asked.set))
            corpus = prepare(
                data["paths"], valid=known["valid"], tokenizer=known["tokenizer"], max_bytes=data.get("max_bytes")
            )
            result.setdefault(part, {})[name] = measured(values, minutes, asked.work, {"train": corpus, "test": test})
            write_atomically(asked.out, json.dumps(result, indent=1) + "\n")
            shown = {key: value for key, value in result[part][name].items() if key != "settings"}
            print(part, name, shown, flush=True)


if __name__ == "__main__":
    main()
