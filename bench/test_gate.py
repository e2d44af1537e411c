"""What one call costs, before and after a change. Prints and stores; asserts no time.

    taskset -c 1 python -m pytest bench/test_gate.py --benchmark-columns=min,median,iqr,rounds
    ... --benchmark-autosave, then --benchmark-compare, for before and after

Each test is timed by itself, not in turns with another, so that two of them compare only as far as
the machine is quiet; for storages and threads in turns see kernel.py --storage and --threads.

pytest-benchmark calls each function as f(*args, **kwargs) from a Python loop, which costs some
tens of ns. For figures without it see overhead.py, and against the peers compare.py.
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
@pytest.mark.parametrize("n", SQUARES)
def test_bound(benchmark: BenchmarkFixture, n: int) -> None:
    g = fastgate.Gate(*gate_of(n, n))
    benchmark(g.bind(vector(n), out=np.empty(n, np.float32)))


@pytest.mark.benchmark(group="gate(x, W, b, out=y)")
@pytest.mark.parametrize("n", SQUARES)
def test_unpacked(benchmark: BenchmarkFixture, n: int) -> None:
    benchmark(fastgate.gate, vector(n), *gate_of(n, n), out=np.empty(n, np.float32))


@pytest.mark.benchmark(group="Gate(W, b)")
@pytest.mark.parametrize("n", SQUARES)
def test_pack(benchmark: BenchmarkFixture, n: int) -> None:
    benchmark(fastgate.Gate, *gate_of(n, n))


@pytest.mark.benchmark(group="batch of 256 -> 256")
@pytest.mark.parametrize("batch", [1, 2, 4, 6, 8, 16, 64, 256])
def test_batch(benchmark: BenchmarkFixture, batch: int) -> None:
    g = fastgate.Gate(*gate_of(256, 256))
    benchmark(g, vector(batch, 256), out=np.empty((batch, 256), np.float32))


@pytest.mark.benchmark(group="batch of 1024 -> 1024")
@pytest.mark.parametrize("batch", [1, 4, 16, 64])
def test_large_batch(benchmark: BenchmarkFixture, batch: int) -> None:
    g = fastgate.Gate(*gate_of(1024, 1024))
    benchmark(g, vector(batch, 1024), out=np.empty((batch, 1024), np.float32))


@pytest.mark.benchmark(group="storages")
@pytest.mark.parametrize("n", [128, 512, 1024])
@pytest.mark.parametrize("storage", ["float32", "float16", "bfloat16", "int8", "float64"])
def test_storage(benchmark: BenchmarkFixture, storage: str, n: int) -> None:
    dtype = np.float64 if storage == "float64" else np.float32
    weight, bias = (a.astype(dtype) for a in gate_of(n, n))
    g = fastgate.Gate(weight, bias, storage=storage)
    benchmark(g, vector(n).astype(dtype), out=np.empty(n, dtype))


@pytest.mark.benchmark(group="threads")
@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("n", [256, 1024, 2048])
@pytest.mark.parametrize("threads", [1, 2])
def test_threads(benchmark: BenchmarkFixture, threads: int, n: int, batch: int) -> None:
    """Not under taskset: two threads need two cores."""
    g = fastgate.Gate(*gate_of(n, n), threads=threads)
    benchmark(g, vector(batch, n), out=np.empty((batch, n), np.float32))
