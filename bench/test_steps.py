"""What an LSTM's steps and sequences cost, one case for each path; see test_gate.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fastgate
import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

SIZES = [(32, 32), (64, 128), (128, 256)]  # inputs, units
STEPS = 100


def noise(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def layer(n: int, H: int) -> dict[str, Any]:
    scale = np.float32((n + H) ** -0.5)
    return {"weight_ih": noise(4 * H, n) * scale, "weight_hh": noise(4 * H, H) * scale, "bias_ih": noise(4 * H)}


@pytest.mark.benchmark(group="stream.step(x, out=y)")
@pytest.mark.parametrize("n, H", SIZES)
def test_stream(benchmark: BenchmarkFixture, n: int, H: int) -> None:
    stream = fastgate.LSTM([layer(n, H)]).stream()
    benchmark(stream.step, noise(n), out=np.empty(H, np.float32))


@pytest.mark.benchmark(group="cell(x, h, c, out=(h, c))")
@pytest.mark.parametrize("n, H", SIZES)
def test_cell(benchmark: BenchmarkFixture, n: int, H: int) -> None:
    h, c = np.zeros((2, H), np.float32)
    benchmark(fastgate.LSTMCell(**layer(n, H)), noise(n), h, c, out=(h, c))


@pytest.mark.benchmark(group=f"lstm(x), {STEPS} steps of 64/128")
@pytest.mark.parametrize("batch", [1, 4, 16])
def test_sequence(benchmark: BenchmarkFixture, batch: int) -> None:
    benchmark(fastgate.LSTM([layer(64, 128)]), noise(STEPS, batch, 64))


@pytest.mark.benchmark(group=f"lstm(x), {STEPS} steps of 64/128")
def test_lengths(benchmark: BenchmarkFixture) -> None:
    lengths = np.linspace(1, STEPS, 16).astype(np.int64)
    benchmark(fastgate.LSTM([layer(64, 128)]), noise(STEPS, 16, 64), lengths=lengths)


@pytest.mark.benchmark(group=f"lstm(x), {STEPS} steps of 64/128")
def test_both_directions(benchmark: BenchmarkFixture) -> None:
    benchmark(fastgate.LSTM([(layer(64, 128), layer(64, 128))]), noise(STEPS, 1, 64))


@pytest.mark.benchmark(group="three layers of 256 units")
@pytest.mark.parametrize("threads", [1, 2])
def test_pipeline(benchmark: BenchmarkFixture, threads: int) -> None:
    """Two threads need two cores, so this is not for taskset."""
    layers = [layer(64, 256), layer(256, 256), layer(256, 256)]
    benchmark(fastgate.LSTM(layers, threads=threads), noise(STEPS, 1, 64))


@pytest.mark.benchmark(group="LSTM.load")
def test_load(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    fastgate.LSTM([layer(256, 512)]).save(tmp_path / "lstm.fastgate")
    benchmark(fastgate.LSTM.load, tmp_path / "lstm.fastgate")
