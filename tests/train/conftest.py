"""A text of a few kilobytes, a cache of its own, and the smallest config worth training."""

import multiprocessing

import pytest

from ostinato.train.config import override

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "the", "dog", "that", "ran"]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OSTINATO_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """Sentences that follow a rule, in documents of odd lengths."""
    folder = tmp_path_factory.mktemp("text")
    for document in range(9):
        sentence = " ".join(WORDS[document % 5 :] + WORDS[: document % 5])
        (folder / f"{document}.txt").write_text((sentence + ". ") * (10 + 3 * document))
    return folder


@pytest.fixture
def config(text):
    """config(steps=5, **{"model": {...}}): a small config with some settings changed."""

    def make(model=None, data=None, **train):
        small = {
            "model": {"dim": 16, "layers": 1, "pattern": [{"gla": {"heads": 2}}]},
            "data": {"paths": [str(text)], "valid_fraction": 0.2},
            "train": {
                "steps": 6,
                "batch_size": 3,
                "length": 17,
                "checkpoint_every": 2,
                "log_every": 1,
                "evaluate_every": None,
                "evaluate_tokens": 150,
                "tensorboard": False,
                "threads": 1,
                "device": "cpu",
            },
        }
        return override(small, {"model": model or {}, "data": data or {}, "train": train})

    return make


@pytest.fixture(scope="session")
def processes(cache):
    """Processes that are forked from a server that has imported everything, so that each costs little."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("processes are killed where they can be forked")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.train.preload"])
    return context


@pytest.fixture
def same():
    """Whether two runs ended with the same weights, bit for bit, and the same losses on the way."""

    def check(run, other):
        weights, others = run.model().state_dict(), other.model().state_dict()
        assert weights.keys() == others.keys()
        different = [name for name in weights if weights[name].numpy().tobytes() != others[name].numpy().tobytes()]
        assert not different
        assert untimed(run) == untimed(other)

    return check


def untimed(run):
    """The metrics without what a clock says."""
    return [{key: value for key, value in line.items() if "second" not in key} for line in run.metrics()]
