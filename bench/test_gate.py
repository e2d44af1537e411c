"""What a gate's call costs, one case for each path: for comparison before and after a change of our own code.

    taskset -c 1 python -m pytest bench --benchmark-columns=min,median,iqr,rounds
    ... --benchmark-autosave, then --benchmark-compare

Nothing here asserts a time.  Cases do not take turns, so compare them only on a quiet machine.  pytest-benchmark adds
some tens of ns to each call; overhead.py measures without it, compare.py beside other libraries.
"""

from __future__ import annotations

from typing import Any

import fastgate
import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

SQUARES = [32, 128, 512, 1024]
Array = np.ndarray[Any, np.dtype[np.float32]]


def gate_of(m: int, n: int) -> tuple[Array, Array]:
    rng = np.random.default_rng([m, n])
    weight = rng.standard_normal((m, n), np.float32) / np.float32(n**0.5)
    return weight, rng.standard_normal(m, np.float32)


def vector(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


@pytest.mark.benchmark(group="g(x, out=y)")
@pytest.mark.parametrize("n", SQUARES)
def test_call(benchmark: BenchmarkFixture, n: int) -> None:
    g = fastgate.Gate(*gate_of(n, n))
    benchmark(g, vector(n), out=np.empty(n, np.float32))


@pytest.mark.benchmark(group="g.bind")
def test_bound(benchmark: BenchmarkFixture) -> None:
    g = fastgate.Gate(*gate_of(32, 32))
    benchmark(g.bind(vector(32), out=np.empty(32, np.float32)))


@pytest.mark.benchmark(group="gate(x, W, b, out=y)")
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("n", SQUARES)
def test_unpacked(benchmark: BenchmarkFixture, n: int, order: Any) -> None:
    weight, bias = gate_of(n, n)
    benchmark(fastgate.gate, vector(n), np.asarray(weight, order=order), bias, out=np.empty(n, np.float32))


@pytest.mark.benchmark(group="Gate(W, b)")
@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_pack(benchmark: BenchmarkFixture, storage: str) -> None:
    benchmark(fastgate.Gate, *gate_of(512, 512), storage=storage)


@pytest.mark.benchmark(group="batch of 256 -> 256")
@pytest.mark.parametrize("batch", [1, 2, 4, 6, 16, 64])
def test_batch(benchmark: BenchmarkFixture, batch: int) -> None:
    g = fastgate.Gate(*gate_of(256, 256))
    benchmark(g, vector(batch, 256), out=np.empty((batch, 256), np.float32))


@pytest.mark.benchmark(group="storages")
@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("storage", ["float32", "float16", "bfloat16", "int8", "float64"])
def test_storage(benchmark: BenchmarkFixture, storage: str, batch: int) -> None:
    dtype = np.float64 if storage == "float64" else np.float32
    weight, bias = (a.astype(dtype) for a in gate_of(512, 512))
    g = fastgate.Gate(weight, bias, storage=storage)
    benchmark(g, vector(batch, 512).astype(dtype), out=np.empty((batch, 512), dtype))


@pytest.mark.benchmark(group="threads")
@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("threads", [1, 2])
def test_threads(benchmark: BenchmarkFixture, threads: int, batch: int) -> None:
    """Two threads need two cores, so this is not for taskset."""
    g = fastgate.Gate(*gate_of(1024, 1024), threads=threads)
    benchmark(g, vector(batch, 1024), out=np.empty((batch, 1024), np.float32))
