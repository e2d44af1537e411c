#!/usr/bin/env python3
"""Score a large array in Ray's actors, and compare with one process: rate, ratio, bits.

    pip install '.[ray]'
    python examples/ray_scoring.py
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import numpy as np
import ray
import scoring
from numpy.typing import NDArray
from ray.util import ActorPool


def start(workers: int) -> None:
    """Ray on this machine, for so many actors, each of one thread; end it with ray.shutdown()."""
    ray.init(
        num_cpus=workers,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"FASTGATE_THREADS": "1"}},
    )


@ray.remote(num_cpus=1)
class Scorer:
    """A process that keeps the model. (A task that took it as an argument would unpickle it every time.)"""

    def __init__(self, model: scoring.Model) -> None:
        self.model = model

    def score(self, path: str, start: int, stop: int) -> NDArray[np.float32]:
        return scoring.score(path, start, stop, self.model)


def scorers(model: scoring.Model, workers: int) -> ActorPool:
    """So many actors; the model is stored once, and each of them unpickles it once."""
    shared = ray.put(model)
    return ActorPool([Scorer.remote(shared) for _ in range(workers)])


def scores(
    path: str | os.PathLike[str], pool: ActorPool, block: int = scoring.BLOCK
) -> NDArray[np.float32]:
    """The scores of all images of this file, (rows, 2); an actor's exception is raised here."""
    rows = len(np.load(path, mmap_mode="r"))
    blocks = [(start, min(start + block, rows)) for start in range(0, rows, block)]
    return np.concatenate(list(pool.map(lambda actor, b: actor.score.remote(os.fspath(path), *b), blocks)))


def main() -> int:
    options = scoring.parser(__doc__).parse_args()
    model = scoring.Model()
    start(options.workers)
    pool = scorers(model, options.workers)

    def prepare(path: str) -> Callable[[], NDArray[np.float32]]:
        warm = min(options.rows, options.workers)  # a row an actor, which starts it
        list(pool.map(lambda actor, i: actor.score.remote(path, i, i + 1), range(warm)))
        return lambda: scores(path, pool)

    try:
        return scoring.report(options, model, prepare)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    sys.exit(main())
