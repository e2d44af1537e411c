#!/usr/bin/env python3
"""Score a table in Spark's Python workers, and compare with one process: rate, ratio, bits.

    apt-get install default-jre-headless            # Java, from 17
    pip install '.[spark]'
    python examples/spark_scoring.py
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import scoring
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession


def start(workers: int) -> SparkSession:
    """Spark on this machine, with so many Python workers at a time; end it with its stop()."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # this environment, activated or not
    spark = (
        SparkSession.builder.master(f"local[{workers}]")
        .config("spark.ui.enabled", False)
        .config("spark.executorEnv.FASTGATE_THREADS", "1")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", scoring.BLOCK)
        .getOrCreate()
    )
    spark.sparkContext.addPyFile(scoring.__file__)
    return spark


def write_table(images: NDArray[np.uint8], folder: str | os.PathLike[str], files: int = 16) -> None:
    """Write images (rows, ...) as Parquet files with columns id and pixels, which Spark can share out."""
    os.mkdir(folder)
    for i, ids in enumerate(np.array_split(np.arange(len(images)), files)):
        table = pa.table({"id": ids, "pixels": [images[k].tobytes() for k in ids]})
        pa.parquet.write_table(table, Path(folder, f"{i}.parquet"))


def scores(table: DataFrame, model: scoring.Model) -> DataFrame:
    """id and the two scores of each image of this table, not yet computed, in any order.

    The model is broadcast, and each Python worker unpickles it once, as long as Spark reuses workers
    (which it does unless told not to).
    """
    shared = table.sparkSession.sparkContext.broadcast(model)

    def score(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        model = shared.value
        for batch in batches:
            pixels = b"".join(batch["pixels"].to_pylist())
            images = np.frombuffer(pixels, np.uint8).reshape(len(batch), 8, -1)
            by_gates, by_lstm = scoring.score_images(images, model).T
            yield pa.record_batch({"id": batch["id"], "by_gates": by_gates, "by_lstm": by_lstm})

    return table.mapInArrow(score, "id long, by_gates float, by_lstm float")


def collected(scores: DataFrame) -> NDArray[np.float32]:
    """Such scores as an array (rows, 2), in the order of id."""
    table = scores.toArrow().sort_by("id")
    return np.column_stack([table["by_gates"], table["by_lstm"]])


def main() -> int:
    options = scoring.parser(__doc__).parse_args()
    model = scoring.Model()
    spark = start(options.workers)

    def prepare(path: str) -> Callable[[], NDArray[np.float32]]:
        folder = path + ".parquet"
        write_table(np.load(path), folder)
        table = scores(spark.read.parquet(folder), model)
        table.count()
        return lambda: collected(table)

    try:
        return scoring.report(options, model, prepare)
    finally:
        spark.stop()


if __name__ == "__main__":
    sys.exit(main())
