"""Recurrent networks learn to predict sources that change now and then nearly as well as exact Bayes does.

Genewein et al. 2023, "Memory-based meta-learning on non-stationary distributions" (arXiv:2302.03067): networks trained with
log loss on piecewise stationary Bernoulli sources come close to the Bayes-optimal predictor of the prior that the sources
are drawn from, LIN (Willems 1996) or PTW (Veness et al. 2013); LSTMs come closest, and all leave KT, which knows of no
changes, far behind.

Here: 64 bits, models of 10,000 parameters, and redundancy over the exact predictor in nats for each sequence.
"""

import torch

from ostinato.analyze.bayes_regret import bayes_regret, log_likelihood, regret
from ostinato.diagnose.learning import learn
from ostinato.diagnose.model import build_model, model_settings
from ostinato.registry import create
from ostinato.reproduce import Claim
from ostinato.tasks.bernoulli import bayes, kt, lin_hazard, ptw

PAPERS = ("piecewise_stationary",)
LENGTH = 64
ASKED = 2000
NETWORKS = ("lstm", "gru", "rnn", "attention")
PRIORS = ("lin", "ptw")


def trials(short: bool) -> list[dict]:
    if short:
        return [{"prior": "lin", "mixer": "lstm", "steps": 200}]
    return [{"prior": prior, "mixer": mixer, "steps": 1500} for prior in PRIORS for mixer in NETWORKS]


def trial(prior: str, mixer: str, steps: int) -> dict:
    task = create("task:piecewise_stationary", length=LENGTH, prior=prior)
    torch.manual_seed(0)
    settings, parameters = model_settings(task, 10_000, 1, [mixer])
    model = build_model(task, settings)
    learn(model, task, steps=steps, learning_rate=1e-2, weight_decay=0.0)
    bits = task.batch(ASKED, split="test").targets
    exact = log_likelihood(task.exact(bits), bits)
    others = {"KT": kt(bits), "LIN": bayes(bits, lin_hazard), "PTW": ptw(bits)}
    return {
        "parameters": parameters,
        "exact": -exact.sum(1).mean().item(),
        "network": bayes_regret(model, task, problems=ASKED)[-1].item(),
        **{name: regret(log_likelihood(p, bits), exact)[-1].item() for name, p in others.items()},
    }


def claims(rows: list[dict], short: bool) -> list[Claim]:
    networks = ", ".join(f"{row['mixer']} {row['network']:.2f} ({row['prior']})" for row in rows)
    others = {row["prior"]: f"KT {row['KT']:.2f}, LIN {row['LIN']:.2f}, PTW {row['PTW']:.2f}" for row in rows}
    beside = "; ".join(f"{prior}: {said}" for prior, said in others.items())
    recurrent = [row for row in rows if row["mixer"] in ("lstm", "gru")]
    share = max(row["network"] / row["KT"] for row in recurrent)
    limit = 0.4 if short else 0.2
    found = [
        Claim(
            "gated recurrent networks are nearly as good as exact Bayes, and far better than KT, which knows of no changes",
            "redundancy over the exact predictor close to 0 (2302.03067)",
            f"nats over exact Bayes in {LENGTH} bits: {networks}; {beside}",
            share < limit,
        )
    ]
    if not short:
        rivals = [min(row[other] for other in ("LIN", "PTW", "KT") if other != row["prior"].upper()) for row in rows]
        ahead = all(row["network"] < rival for row, rival in zip(rows, rivals) if row["mixer"] == "lstm")
        found.append(
            Claim(
                "the LSTM is better than the exact predictor of the other prior: it has learned the one that it was shown",
                "networks trained on one prior are nearest to its own Bayes predictor (2302.03067)",
                networks,
                ahead,
            )
        )
    return found
