"""A text of a few kilobytes, a cache of its own, and the smallest settings worth comparing at."""

import pytest

from ostinato.train.config import override


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OSTINATO_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for document in range(12):
        words = [f"{'abcdef'[(document * k) % 6]}{k % 7}" for k in range(40 + 7 * document)]
        (folder / f"{document}.txt").write_text(" ".join(words))
    return folder


@pytest.fixture(scope="session")
def config(text):
    """config(length=19): tiny settings with some of those of training changed."""

    def make(model=None, data=None, **train):
        small = {
            "model": {"dim": 16, "layers": 1},
            "data": {"paths": [str(text)], "valid_fraction": 0.3},
            "train": {
                "steps": 5,
                "batch_size": 2,
                "length": 17,
                "evaluate_every": 2,
                "evaluate_tokens": 300,
                "log_every": 1,
                "checkpoint_every": 2,
                "threads": 1,
                "device": "cpu",
            },
        }
        return override(small, {"model": model or {}, "data": data or {}, "train": train})

    return make
