"""A checkpoint of transformers' Mamba, trained and decoded by transformers and, imported, by this library, in the same run.

    python benchmarks/imported.py                  writes benchmarks/imported_mamba.json

The checkpoint is made on the spot with random weights, saved by transformers and read by `ostinato.from_pretrained`; both
give the same logits, or nothing is measured. Training is a forward and a backward pass over 1024 tokens. Decoding takes the
likeliest token 64 times after a context of 512; `compiled` is `ostinato.generate.compile_step`.
"""

import json
import tempfile
from pathlib import Path

import torch
from transformers import MambaConfig, MambaForCausalLM
from transformers.utils import logging

from ostinato import from_pretrained
from ostinato.bench.measure import machine, ratio, seconds_by_turns, summary
from ostinato.bench.peers.huggingface import HuggingFace
from ostinato.bench.speed import make_call
from ostinato.bench.subject import Compiled, Ours, Subject
from ostinato.files import write_atomically

SIZES = dict(hidden_size=256, num_hidden_layers=4, vocab_size=256)
LENGTH, CONTEXT, STEPS, ROUNDS = 1024, 512, 64, 3
WANTED = {"train": 50, "decode": 3}


def rows(task: str, subjects: dict[str, Subject], tokens: torch.Tensor) -> list[dict]:
    """Each subject's tokens a second, and how many times faster than the first it is."""
    calls = {name: make_call(task, subject, tokens, steps=STEPS) for name, subject in subjects.items()}
    for name, subject in subjects.items():
        if name != "transformers":
            make_call(task, subject, tokens[:, :64], steps=2)()  # compiles what is needed
    seconds = seconds_by_turns(calls, rounds=ROUNDS)
    work = tokens.shape[1] if task == "train" else STEPS
    return [
        {"model": name, **summary(seconds[name], work), "ratio": ratio(seconds["transformers"], seconds[name])}
        for name in subjects
    ]


def main() -> None:
    logging.set_verbosity_error()
    torch.manual_seed(0)
    theirs = MambaForCausalLM(MambaConfig(**SIZES)).eval()
    tokens = torch.randint(SIZES["vocab_size"], (1, LENGTH))
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = from_pretrained(folder)
    with torch.no_grad():
        difference = float((ours(tokens[:, :64])[0] - theirs(tokens[:, :64]).logits).abs().max())
    if difference > 1e-4:
        raise SystemExit(f"the logits differ by {difference:.1e}: nothing is measured")
    both: dict[str, Subject] = {"transformers": HuggingFace(theirs), "ostinato": Ours(ours)}
    found = {
        "decode": rows("decode", both | {"ostinato, compiled": Compiled(ours, 1)}, tokens[:, :CONTEXT]),
        "train": rows("train", both, tokens),
    }
    for task, wanted in WANTED.items():
        for row in found[task]:
            print(f"{task:7}{row['model']:20}{row['rate']:12,.1f} tokens/s{row['ratio']:10,.1f} x")
        print(f"{task}: at least {wanted} x is wanted")
    result = {
        "settings": SIZES
        | {"batch": 1, "length": LENGTH, "context": CONTEXT, "steps": STEPS, "difference": difference},
        "machine": machine(),
        **found,
    }
    write_atomically(Path(__file__).with_name("imported_mamba.json"), json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
