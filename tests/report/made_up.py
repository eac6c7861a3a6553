"""A comparison that nobody ran: figures of a plausible form, with whatever a test wants to be odd."""

import math

from ostinato.report.results import Comparison, Failure, LengthLoss, Point, PositionLoss, Run

MIXERS = ("attention", "gla", "gated_deltanet", "min_gru", "mamba2")


def made_up_run(mixer: str = "gla", seed: int = 0, rank: int = 0, **changes) -> Run:
    tokens, length = 600_000, 256
    floor = 2.31 + 0.07 * rank + 0.013 * math.sin(seed * 3 + rank)
    speed = 21_000 / (1 + 0.4 * rank) * (1 + 0.02 * seed)
    curve = [
        Point(round(tokens * k / 12), tokens * k / 12 / speed, floor + 5.7 * math.exp(-9 * (k / 12) ** 0.45))
        for k in range(13)
    ]
    state = {4**k: 8 * 4**k * 48 if mixer == "attention" else 24_576 * (rank + 1) for k in range(11)}
    edges = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1025]
    positions = [
        PositionLoss(
            i,
            j - 1,
            floor + 3.2 * i**-0.7 + (0.4 * math.log2(i / length) if mixer == "attention" and i > length else 0),
        )
        for i, j in zip(edges, edges[1:])
    ]
    values = dict(
        mixer=mixer,
        seed=seed,
        parameters=300_000 + 517 * rank,
        dim=64 + 8 * rank,
        tokens=tokens,
        train_seconds=tokens / speed,
        final_bits_per_byte=curve[-1].bits_per_byte,
        best_bits_per_byte=min(point.bits_per_byte for point in curve),
        curve=curve,
        positions=positions,
        lengths=[LengthLoss(length * k, floor + 0.2 - 0.01 * k) for k in (1, 2, 4)],
        train_tokens_per_second=speed,
        prefill_tokens_per_second=speed * 3.1,
        decode_tokens_per_second=411.5 - 17 * rank,
        peak_memory_bytes=180_000_000 + 7_000_000 * rank,
        state_bytes=state,
        prompt="def __init__(self",
        sample=", name=None):\n        self._name = name\n        return self.get(name)\n\n    def close(self):\n        pass\n",
    )
    return Run(**values | changes)


def made_up_comparison(mixers=MIXERS, seeds: int = 3, **changes) -> Comparison:
    values = dict(
        title=f"{len(mixers)} mixers on the source of Python's standard library",
        length=256,
        mixers=list(mixers),
        runs=[made_up_run(mixer, seed, rank) for rank, mixer in enumerate(mixers) for seed in range(seeds)],
        made={
            "command": {"command": "ostinato compare " + " ".join(mixers) + " --seeds 3"},
            "settings": {"tokens": "600,000", "length": "256", "batch_size": "8"},
            "machine": {"processor": "2 cores", "python": "3.11", "torch": "2.13.0"},
        },
    )
    return Comparison(**values | changes)


def failure(mixer: str = "lstm", seed: int = 0) -> Failure:
    return Failure(mixer, seed, "RuntimeError: a <b>gate</b> & its bias", 'File "x.py", line 1\n  raise RuntimeError')
