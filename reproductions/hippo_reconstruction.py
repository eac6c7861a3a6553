"""HiPPO-LegS reconstructs all that it has seen, however long that was; a window of fixed length and gates do not.

Gu, Dao, Ermon, Rudra, Re 2020 (arXiv:2008.07669, section 4.3): asked for the whole of a band-limited signal after 10^6
steps, memories of 256 numbers miss it by a mean square of 0.02 (LegS), 0.05 (LMU, which is LegT) and 0.25 (LSTM); LegS
has no time scale to be told, and does not care how fast time goes.

Here: signals of unit variance with 24 waves in their whole length, of 1,000, 4,000 and 16,000 tokens, and memories of
128 coefficients. LegS and LegT are the op and learn nothing: LegT is told a window of 4,000 tokens once for all
lengths. LSTM and GRU are of 128 units, with a linear reading of the whole signal from their state that is fitted by
least squares on other signals of the same length. Their own weights are fresh; the paper's are trained.
"""

import torch

from ostinato.registry import create
from ostinato.reproduce import Claim
from ostinato.tasks.function_approximation import band_limited, function_approximation

PAPERS = ("hippo",)
ORDER, BAND, WINDOW = 128, 24, 4000
GATED = ("lstm", "gru")
FITTED, ASKED, PLACES = 400, 40, 200  # signals of the least squares, signals asked for, places of a signal that are


def trials(short: bool) -> list[dict]:
    lengths = (500, 4000) if short else (1000, 4000, 16_000)
    found = [{"memory": memory, "length": length} for memory in ("legs", "legt") for length in lengths]
    return found + [{"memory": memory, "length": lengths[0]} for memory in (GATED[:1] if short else GATED)]


def trial(memory: str, length: int) -> dict:
    missed = gated(memory, length) if memory in GATED else projected(memory, length)
    return {"missed": missed**2}


def projected(memory: str, length: int) -> float:
    """The relative error of a memory of polynomials."""
    return function_approximation(memory, ORDER, length=length, window=float(WINDOW), band=BAND)


@torch.no_grad()
def gated(memory: str, length: int) -> float:
    """The relative error of the best linear reading of a fresh network's state."""
    torch.manual_seed(0)
    signals = band_limited(length, FITTED + ASKED, BAND)
    mixer = create(memory, dim=1, hidden=ORDER)
    _, state = mixer(signals[..., None].float())
    known = torch.cat([part.double().flatten(1) for part in state], 1)
    wanted = signals[:, torch.linspace(0, length - 1, PLACES).long()]
    fitted = known[:FITTED]
    ridge = 1e-6 * torch.eye(fitted.shape[1], dtype=torch.float64)
    reading = torch.linalg.solve(fitted.T @ fitted + ridge, fitted.T @ wanted[:FITTED])
    return ((known[FITTED:] @ reading - wanted[FITTED:]).norm() / wanted[FITTED:].norm()).item()


def claims(rows: list[dict], short: bool) -> list[Claim]:
    missed = {(row["memory"], row["length"]): row["missed"] for row in rows}
    told = {
        memory: ", ".join(f"{missed[key]:.2g} of {key[1]:,}" for key in missed if key[0] == memory)
        for memory in dict.fromkeys(memory for memory, _ in missed)
    }
    legs = [value for (memory, _), value in missed.items() if memory == "legs"]
    wrong = [value for (memory, length), value in missed.items() if memory == "legt" and length != WINDOW]
    gates = [value for (memory, _), value in missed.items() if memory in GATED]
    return [
        Claim(
            "LegS holds the whole signal at every length, with nothing to set",
            "mean square error 0.02 after 10^6 steps (2008.07669, section 4.3)",
            f"share of the variance missed: {told['legs']} tokens",
            max(legs) < 0.05,
        ),
        Claim(
            "LegT, the memory of the LMU, holds it only where its window is the length of the signal",
            "0.05 with a window chosen for the length (section 4.3); a wrong one fails (section 2.3)",
            f"with a window of {WINDOW:,}: {told['legt']} tokens",
            missed["legt", WINDOW] < 0.05 and min(wrong) > 0.2,
        ),
        Claim(
            "untrained gated memories of as many units have lost most of it",
            "LSTM: 0.25 (section 4.3)",
            ", ".join(f"{memory} {told[memory]} tokens" for memory in GATED if memory in told),
            min(gates) > 5 * max(legs) and min(gates) > 0.2,
        ),
    ]
