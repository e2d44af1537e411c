#!/usr/bin/env python3
"""Score a large array in Dask's workers, and compare with one process: rate, ratio, bits.

    pip install '.[dask]'
    python examples/dask_scoring.py                 # two workers beside this process
    python examples/dask_scoring.py --compare       # two workers against one, in turns

Two workers need two free cores.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from typing import Any

import dask
import dask.array as da
import numpy as np
import scoring
from dask.distributed import Client, WorkerPlugin, get_worker, progress


SETTINGS = {
    # fastgate reads this at import, so it must be set before a worker starts. Dask sets OMP_NUM_THREADS so, too.
    "distributed.nanny.pre-spawn-environ.FASTGATE_THREADS": "1",
    # With Dask's own value, glibc maps every array of more than 128 KB anew, and page faults take 7 % of the time.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 2**25,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 2**25,
    # With two workers, Dask's own monitoring takes an eighth of a core; with these values, it takes a fiftieth.
    "distributed.worker.profile.enabled": False,
    "distributed.worker.memory.monitor-interval": "1s",
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
}


def start(workers: int) -> Client:
    """A client of that many new worker processes (a LocalCluster of its own), with one thread each."""
    with dask.config.set(SETTINGS):
        return Client(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=":0")


class Keep(WorkerPlugin):
    """Keeps a model in each worker, also in one that starts later. Each worker unpickles it once.

    client.scatter(model, broadcast=True) is shorter, but may send the model to a worker twice.
    """

    def __init__(self, model: scoring.Model) -> None:
        self.name = f"model-{uuid.uuid4().hex}"
        self.model = model


def share(client: Client, model: scoring.Model) -> str:
    """Give every worker the model, and return its name there."""
    plugin = Keep(model)
    client.register_plugin(plugin)
    return plugin.name


def score_block(path: str, model: str, block_info: Any = None) -> Any:
    """Compute a block of the scores in a worker. The location of the block in the array selects the images."""
    start, stop = block_info[None]["array-location"][0]
    return scoring.score(path, start, stop, get_worker().plugins[model].model)


def scores(path: str | os.PathLike[str], model: str, block: int = scoring.BLOCK) -> da.Array:
    """The scores of all images of this file, (rows, 2) float32, not yet computed.

    model is the name that share() returned: the graph contains only this name. meta= and chunks= save a trial call.
    """
    rows = len(np.load(path, mmap_mode="r"))
    return da.map_blocks(
        score_block,
        os.fspath(path),
        model,
        chunks=da.core.normalize_chunks((block, 2), (rows, 2)),
        meta=np.empty((0, 0), np.float32),
        name=f"scores-{uuid.uuid4().hex}",  # not from the path: the file may have changed
    )


def run(client: Client, lazy: da.Array, workers: list[str] | None = None) -> tuple[Any, float]:
    """Compute on these workers, or on all, and return (the array, seconds). On a terminal it shows a progress bar."""
    begin = time.perf_counter()
    future = client.compute(lazy, workers=workers)
    if workers is None and sys.stdout.isatty():
        progress(future, notebook=False)
    return future.result(), time.perf_counter() - begin


def compare(client: Client, path: str, model: str, rounds: int) -> dict[str, Any]:
    """Print the rates of one worker and of all workers, in turns, and return their quartiles as a table."""
    workers = list(client.nthreads())
    found, ratios = [], []
    for i in range(rounds):
        rates = {}
        for count in (1, len(workers)) if i % 2 else (len(workers), 1):
            result, seconds = run(client, scores(path, model), workers[:count])
            rates[count] = len(result) / seconds
        found.append([rates[1], rates[len(workers)]])
        ratios.append(rates[len(workers)] / rates[1])
        print(f"1 worker {rates[1]:.0f} rows/s, {len(workers)} workers {rates[len(workers)]:.0f}: "
              f"{ratios[-1]:.2f}", flush=True)  # fmt: skip
    print(f"median {np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    one, all_ = np.percentile(found, (25, 50, 75), axis=0).T.tolist()
    rows = [[1, one, 1], [len(workers), all_, np.percentile(ratios, (25, 50, 75)).tolist()]]
    return {"columns": ["workers", "rows a second", "over one worker"], "rows": rows}


def main() -> int:
    parser = scoring.parser(__doc__)
    parser.add_argument("--compare", action="store_true", help="all workers against one, in turns")
    parser.add_argument("--rounds", type=int, default=5, help="number of turns of --compare")
    parser.add_argument("--json", metavar="FILE", help="write the result of --compare here, for bench/report.py")
    options = parser.parse_args()
    model = scoring.Model()
    with start(options.workers) as client:
        shared = share(client, model)

        def prepare(path: str) -> Callable[[], Any]:
            for worker in client.nthreads():
                run(client, scores(path, shared)[:1], [worker])
            return lambda: run(client, scores(path, shared))[0]

        if not options.compare:
            return scoring.report(options, model, prepare)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "images.npy")
            scoring.write_images(path, options.rows)
            prepare(path)
            table = compare(client, path, shared, options.rounds)
        if options.json:
            with open(options.json, "w") as file:
                json.dump({"tables": [table]}, file)
        return 0


if __name__ == "__main__":
    sys.exit(main())
