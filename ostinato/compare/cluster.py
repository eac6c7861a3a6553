"""Jobs spread over a Ray cluster. The folder of the comparison and the cache of the data have to be seen by all machines."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ostinato.compare.jobs import perform
from ostinato.compare.local import Watch, one_line
from ostinato.compare.plan import Job
from ostinato.data import Corpus
from ostinato.report.results import Failure, Run


def run_on_ray(
    jobs: Sequence[Job], corpus_folder: Path, folder: Path, address: str, watch: Watch
) -> Iterator[tuple[Job, Run | Failure]]:
    """Each job with its figures, or with what went wrong, in the order in which they end.

    address: of the cluster, as `ray.init` takes it: "auto", "ray://host:10001", or "local" to start one here
    """
    try:
        import ray
        from ray.exceptions import RayError, RayTaskError
    except ImportError:
        raise ValueError("--ray needs the package ray: pip install 'ostinato[ray]'") from None
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError, AssertionError) as error:
        raise ValueError(f"no Ray cluster at {address!r}: {' '.join(str(error).split())}") from None

    def work(job: Job) -> Run:
        return perform(job, Corpus.open(corpus_folder), folder / job.id, lambda message: None)

    remote: Any = ray.remote(max_calls=1, max_retries=0)(work)

    try:
        pending = {}
        for job in jobs:
            options = {"num_cpus": job.config["train"]["threads"], "name": job.id}
            pending[remote.options(**options).remote(job)] = job
            watch(job.id, {"doing": "on the cluster"})
        while pending:
            (done,), _ = ray.wait(list(pending), num_returns=1)
            job = pending.pop(done)
            try:
                yield job, ray.get(done)
            except RayTaskError as error:
                yield job, Failure(job.mixer, job.seed, one_line(error.cause), str(error))
            except RayError as error:
                yield job, Failure(job.mixer, job.seed, one_line(error))
    finally:
        ray.shutdown()
