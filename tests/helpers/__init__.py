"""What all tests share: numbers to compute with, and ways to compare and to run."""

import os
import subprocess
import sys
import textwrap
import tracemalloc

import fastgate
import numpy as np
import pytest

COMPILED = fastgate.Gate is not fastgate.reference.Gate
compiled_only = pytest.mark.skipif(not COMPILED, reason="there is no compiled core")
linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has /proc")
STORAGES = ["float32", "float16", "bfloat16", "int8", "float64"]
storages = pytest.mark.parametrize("storage", STORAGES)


def dtype_of(storage):
    """Of weight, bias, x and y."""
    return np.float64 if storage == "float64" else np.float32


def draw(*shape, seed=0, dtype=np.float32):
    """Random numbers of this shape."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape, dtype)


def draw_gate(m, n, dtype=np.float32):
    """weight (m, n), scaled so that the sums are of order 1, and bias (m,)."""
    return draw(m, n, dtype=dtype) / dtype(max(n, 1) ** 0.5), draw(m, seed=1, dtype=dtype)


def same_bits(a, b):
    assert a.shape == b.shape and a.dtype == b.dtype
    assert a.tobytes() == b.tobytes()


def every_layout(x):
    """Arrays equal to x (a, b, n), each lying differently in memory."""
    yield np.asfortranarray(x)
    yield np.repeat(x, 2, axis=0)[::2]
    yield np.repeat(x, 2, axis=1)[:, ::2]
    yield np.repeat(x, 3, axis=2)[:, :, 1::3]
    yield np.concatenate([x, x], axis=2)[:, :, : x.shape[2]]
    yield x[::-1].copy()[::-1]
    yield x[:, :, ::-1].copy()[:, :, ::-1]
    yield x.transpose(1, 0, 2).copy().transpose(1, 0, 2)
    yield np.frombuffer(b"?" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    read_only = x.copy()
    read_only.flags.writeable = False
    yield read_only


def allocates_nothing(calls):
    """Assert that calls(10_000) leaves the heap as it was, and takes no more of it than calls(10)."""
    calls(10)
    tracemalloc.start()
    try:
        calls(10)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        blocks = sys.getallocatedblocks()
        calls(10_000)
        assert sys.getallocatedblocks() - blocks <= 2  # the loop's own integer
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 200 and peak - before < 1000, "less than one of the arrays"


def run_python(code, *options, **env):
    """Run code in a new interpreter, in this environment but with no setting of fastgate's."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FASTGATE_")}
    return subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env={**inherited, **env},
    )
