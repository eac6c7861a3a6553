"""Copy memory: a unitary recurrence holds ten symbols over the delay, LSTM and tanh networks do not learn to.

Arjovsky, Shah, Bengio 2015 (arXiv:1511.06464, figure 1): ten symbols, T blanks, then the symbols again, for T of 100,
200, 300 and 500. Who remembers nothing has a loss of 10 ln 8 / (T + 20) a place. The unitary network falls below that
soon and nearly to 0; the LSTM stays there or comes off it late, the tanh network never does.

Here: T of 100 with 400 steps, and 300 with 120; networks of about 70,000 parameters. The unitary network is an LRU with
all eigenvalues on the unit circle: a unitary matrix in the basis of its eigenvectors, where its angles are what is
learned. It has no nonlinearity between steps. "contracting" is the same LRU with eigenvalues between 0.5 and 0.9. What
did not learn it: `unitary_rnn` of Bernardy and Lappin 2022, whose tokens choose the rotation and add nothing, with two
heads of 24 numbers in 200 steps at T = 50.
"""

import math

import torch

from ostinato.diagnose.learning import ask, learn
from ostinato.mixers.linear_recurrence.lru import LRU
from ostinato.models.language_model import LanguageModel
from ostinato.registry import create
from ostinato.reproduce import Claim

PAPERS = ("lru",)
ITEMS, SYMBOLS = 10, 8
NETWORKS = {
    "unitary": ({"lru": {"min_radius": 0.999}}, 128),
    "contracting": ({"lru": {"min_radius": 0.5, "max_radius": 0.9}}, 128),
    "lstm": ("lstm", 92),
    "rnn": ("rnn", 184),
}
"""The mixer, and the width at which it has about as many parameters as the others."""


def trials(short: bool) -> list[dict]:
    if short:
        return [{"network": network, "delay": 50, "steps": 80} for network in ("unitary", "lstm")]
    found = [{"network": network, "delay": 100, "steps": 400} for network in NETWORKS]
    return found + [{"network": network, "delay": 300, "steps": 120} for network in ("unitary", "lstm")]


def trial(network: str, delay: int, steps: int) -> dict:
    task = create("task:copying", length=delay, items=ITEMS, symbols=SYMBOLS)
    torch.manual_seed(0)
    mixer, dim = NETWORKS[network]
    model = LanguageModel(task.vocab_size, dim, layers=1, pattern=[mixer], mlp=None, tie=False)
    if network == "unitary":
        for module in model.modules():
            if isinstance(module, LRU):
                to_the_unit_circle(module, delay)
    learn(model, task, steps=steps, batch_size=20, learning_rate=5e-3, weight_decay=0.0)
    batch = task.batch(200, split="test", seed=1)
    with torch.no_grad():
        loss = task.loss(model(batch.inputs)[0], batch).item()
    places = delay + 2 * ITEMS
    return {
        "parameters": model.parameter_count(),
        "loss": loss * ITEMS / places,  # blanks cost nothing
        "without memory": ITEMS * math.log(SYMBOLS) / places,
        "accuracy": ask(model, task, 1).score,
    }


def to_the_unit_circle(mixer: LRU, delay: int) -> None:
    """Nothing decays, now or later; what is read is as large as states of unit variance are at the end of the delay."""
    with torch.no_grad():
        mixer.nu.fill_(-20)  # |lambda| = exp(-exp(nu)), 1 in float32
        mixer.gamma.fill_(-math.log(delay) / 2)
    mixer.nu.requires_grad_(False)
    mixer.gamma.requires_grad_(False)


def claims(rows: list[dict], short: bool) -> list[Claim]:
    def told(networks: tuple[str, ...]) -> str:
        return ", ".join(
            f"{row['network']} {row['loss']:.4f} of {row['without memory']:.4f} at {row['delay']}"
            for row in rows
            if row["network"] in networks
        )

    share = {(row["network"], row["delay"]): row["loss"] / row["without memory"] for row in rows}
    held = [value for (network, _), value in share.items() if network == "unitary"]
    gated = [value for (network, _), value in share.items() if network in ("lstm", "rnn")]
    found = [
        Claim(
            "a unitary recurrence holds the symbols over the whole delay",
            "loss near 0 within some hundred steps (1511.06464, figure 1)",
            f"loss {told(('unitary',))}",
            max(held) < 0.1,
        ),
        Claim(
            "LSTM and tanh networks stay at the loss of who remembers nothing",
            "10 ln 8 / (T + 20), the LSTM for thousands of steps (same figure)",
            f"loss {told(('lstm', 'rnn'))}",
            min(gated) > 0.9,
        ),
    ]
    if not short:
        found.append(
            Claim(
                "what holds is that nothing decays: with smaller eigenvalues the same network learns nothing",
                "gradients vanish through contracting matrices (section 2)",
                f"loss {told(('contracting',))}",
                min(value for (network, _), value in share.items() if network == "contracting") > 0.9,
            )
        )
    return found
