"""The run that is to be trained: a new one, or one that exists and is continued with the settings and data it began with."""

import logging
import platform
from pathlib import Path

import torch

import ostinato
from ostinato.data import Corpus, prepare
from ostinato.models.budget import parameter_count
from ostinato.runs import Run
from ostinato.train.config import Config, DataConfig, differences

log = logging.getLogger(__name__)


def begin(config: Config | None, folder: str | Path, *, resume: bool, processes: int) -> Run:
    """The run in a folder, made if it is not there.

    config: of a new run; one that exists must have the same, and None stands for the one that it has
    resume: whether a run that exists may be continued
    processes: how many train together
    """
    if not Run.exists(folder) and config is not None:
        return _create(config, folder, processes)
    run = Run.open(folder)
    if not resume:
        raise ValueError(f"{folder} holds a run already; name another folder, or let it be continued")
    if run.info.get("processes", processes) != processes:
        raise ValueError(
            f"{folder} is trained by {run.info['processes']} processes together; now there are {processes}"
        )
    if config is not None:
        have = Config.read(run.config)
        want = config.resolve(run.tokenizer().vocab_size, processes=processes, threads=have.train.threads)
        if different := differences(have, want):
            raise ValueError(f"{folder} holds a run with other settings; name another folder ({'; '.join(different)})")
    return run


def corpus_of(run: Run) -> Corpus:
    """What the run began to learn from: from the cache, or read again if it is not there any more."""
    known = run.info["corpus"]
    try:
        return Corpus.open(known["folder"])
    except ValueError as error:
        log.warning("the data is read again (%s)", error)
    corpus = _prepare(Config.read(run.config).data)
    if corpus.fingerprint != known["fingerprint"]:
        raise ValueError(f"the data of {run.folder} has changed since that run began, so it cannot go on with it")
    return corpus


def _create(config: Config, folder: str | Path, processes: int) -> Run:
    corpus = _prepare(config.data)
    vocab_size = corpus.tokenizer.vocab_size
    config = config.resolve(vocab_size, processes=processes, threads=torch.get_num_threads())
    info = {
        "parameters": parameter_count(vocab_size, **config.model),
        "vocab_size": vocab_size,
        "processes": processes,
        "corpus": {"fingerprint": corpus.fingerprint, "folder": str(corpus.folder.resolve()), "text": str(corpus)},
        "versions": {"ostinato": ostinato.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    return Run.create(folder, config.to_mapping(), corpus.tokenizer, info)


def _prepare(data: DataConfig) -> Corpus:
    return prepare(
        data.paths,
        tokenizer=data.tokenizer,
        column=data.column,
        valid=data.valid,
        valid_fraction=data.valid_fraction,
        max_bytes=data.max_bytes,
        seed=data.seed,
    )
