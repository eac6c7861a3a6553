"""The adding problem: LEM learns to add two distant numbers while an LSTM and a tanh network still guess the mean.

Rusch, Mishra, Erichson, Mahoney 2021 (arXiv:2110.04744, the very long adding problem of section 5): two numbers of a
sequence of 2,000, 5,000 or 10,000 are marked, and their sum is asked for at the end; LEM learns it at each of these
lengths. Who always says 1 has a mean square error of 1/6.

Here: 200 and 2,000 numbers, 32 units, the same batches and learning rate for all; LEM's largest time step is 10 / T. After
1,600 updates of 2,000 numbers LEM is still learning, but far below the mean. That part takes a quarter of an hour of a core.
"""

import torch

from ostinato.diagnose.model import NumberModel
from ostinato.registry import create
from ostinato.reproduce import Claim

PAPERS = ("lem",)


def trials(short: bool) -> list[dict]:
    if short:
        return [{"mixer": mixer, "length": 60, "steps": 120} for mixer in ("lem", "rnn")]
    sizes = ({"length": 200, "steps": 250}, {"length": 2000, "steps": 1600})
    return [{"mixer": mixer, **size} for size in sizes for mixer in ("lem", "lstm", "rnn")]


def trial(mixer: str, length: int, steps: int) -> dict:
    task = create("task:adding_problem", length=length)
    torch.manual_seed(0)
    part = {"lem": {"step": 10 / length}} if mixer == "lem" else mixer
    model = NumberModel(task.width, task.outputs, 32, layers=1, pattern=[part], mlp=None)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(steps):
        batch = task.batch(32, seed=0, number=step)
        optimizer.zero_grad()
        task.loss(model(batch.inputs)[0], batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    asked = task.batch(500, split="test")
    with torch.no_grad():
        error = task.loss(model(asked.inputs)[0], asked).item()
    return {"parameters": model.parameter_count(), "mean square error": error}


def claims(rows: list[dict], short: bool) -> list[Claim]:
    found = []
    for length in dict.fromkeys(row["length"] for row in rows):
        errors = {row["mixer"]: row["mean square error"] for row in rows if row["length"] == length}
        others = {mixer: error for mixer, error in errors.items() if mixer != "lem"}
        found += [
            Claim(
                f"LEM learns to add two of {length} numbers",
                "error near 0 at lengths of 2,000, 5,000 and 10,000 (2110.04744, section 5)",
                f"mean square error {errors['lem']:.4f}",
                errors["lem"] < (0.02 if length == 200 else 0.05),
            ),
            Claim(
                "gates or a tanh do not in that time",
                "they learn later, or stay at the error of the constant 1, which is 1/6 = 0.167",
                ", ".join(f"{mixer} {error:.3f}" for mixer, error in others.items()),
                min(others.values()) > 0.1,
            ),
        ]
    return found
