"""TTT layers are said to predict text better the further they read, where Mamba stops: not so in small models.

Sun et al. 2024, "Learning to (learn at test time)" (arXiv:2407.04620, abstract): on books, the loss of TTT-Linear, TTT-MLP and
Transformers falls with the position in a context of 32,000 tokens, that of Mamba not any more after 16,000 (models of 1.3
billion parameters).

Here: Tiny Shakespeare as bytes, models of two layers and about 100,000 parameters trained at 256 bytes: the loss of the same bytes
with fewer and with more bytes before them, up to four times the length of training. $OSTINATO_DATA is the folder of data sets,
../shared/data where it is not set.
"""

import gzip
import os
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from ostinato.models.budget import solve_width
from ostinato.models.language_model import LanguageModel
from ostinato.reproduce import Claim

PAPERS = ("ttt_layers",)
NOT_REPRODUCED = (
    "Models of about 100,000 parameters that have read 700 kB of Tiny Shakespeare hardly profit from more than 32 bytes"
    " before, neither TTT-Linear (with the gate and the convolution of the paper's Mamba backbone) nor Mamba; with 896"
    " before, more than in training, the loss of both is a little higher than with 128, that of TTT-Linear more so."
)
DATA = Path(os.environ.get("OSTINATO_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
TEXT = DATA / "text_lm" / "tinyshakespeare" / "input.txt.gz"
LENGTH, BATCH = 256, 4
BEFORE = (32, 128, 448, 896)  # bytes that are read before those that count
COUNTED = 128
MIXERS = {
    "ttt_linear": {"ttt_linear": {"heads": 2, "gate": True, "conv_width": 4}},
    "mamba": "mamba",
}


def trials(short: bool) -> list[dict]:
    if short:
        return [{"mixer": "ttt_linear", "steps": 20}]
    return [{"mixer": mixer, "steps": 700} for mixer in MIXERS]


def text() -> torch.Tensor:
    """Tiny Shakespeare as bytes, which are below 128."""
    return torch.tensor(list(gzip.decompress(TEXT.read_bytes())))


def trial(mixer: str, steps: int) -> dict:
    tokens = text()
    train, test = tokens[:1_000_000], tokens[1_000_000:]
    torch.manual_seed(0)
    settings = {"layers": 2, "pattern": [MIXERS[mixer]]}
    settings["dim"], _ = solve_width(100_000, 128, **settings)
    model = LanguageModel(128, **settings)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps, pct_start=0.1)
    dice = torch.Generator().manual_seed(0)
    for _ in range(steps):
        starts = torch.randint(len(train) - LENGTH, (BATCH, 1), generator=dice)
        model.loss(train[starts + torch.arange(LENGTH + 1)]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    starts = torch.arange(BEFORE[-1], len(test) - COUNTED, 4 * COUNTED)
    losses = {before: losses_after(model.eval(), test, starts, before) for before in BEFORE}
    gains = losses[BEFORE[1]] - losses[BEFORE[-1]]
    return {
        "parameters": model.parameter_count(),
        **{f"after {before}": values.mean().item() for before, values in losses.items()},
        "gain": gains.mean().item(),
        "error": (gains.std() / len(gains) ** 0.5).item(),
    }


@torch.no_grad()
def losses_after(model: LanguageModel, tokens: torch.Tensor, starts: torch.Tensor, before: int) -> torch.Tensor:
    """The mean loss of the bytes that begin at each start, after so many that come before them."""
    found = []
    for some in starts.split(32):
        rows = tokens[some[:, None] - before + torch.arange(before + COUNTED)]
        logits = model(rows[:, :-1])[0][:, -COUNTED:]
        found.append(cross_entropy(logits.transpose(1, 2), rows[:, -COUNTED:], reduction="none").mean(1))
    return torch.cat(found)


def claims(rows: list[dict], short: bool) -> list[Claim]:
    said = "; ".join(
        f"{row['mixer']} {', '.join(f'{row[name]:.3f}' for name in row if name.startswith('after'))}" for row in rows
    )
    said += f" nats for each byte after {', '.join(map(str, BEFORE))}"
    if short:
        (row,) = rows
        return [
            Claim(
                "a TTT layer reads on beyond the length of training without getting lost",
                "the loss falls with the position (2407.04620, abstract)",
                said,
                row["gain"] > -0.02,
            )
        ]
    ttt, mamba = rows
    apart = (ttt["error"] ** 2 + mamba["error"] ** 2) ** 0.5
    gains = ", ".join(f"{row['mixer']} {row['gain']:+.4f} +- {row['error']:.4f} nats" for row in rows)
    return [
        Claim(
            f"more bytes before help a TTT layer, beyond the length of training: {BEFORE[-1]} more than {BEFORE[1]}",
            "the loss falls up to 32,000 tokens, which is the length of training (2407.04620, abstract)",
            said,
            ttt["gain"] > 2 * ttt["error"],
        ),
        Claim(
            "and they help Mamba less",
            "Mamba's loss does not fall any more after 16,000 tokens (same place)",
            gains,
            ttt["gain"] - mamba["gain"] > 2 * apart,
        ),
    ]
