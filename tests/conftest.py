import os
import subprocess
import sys
import textwrap
import tracemalloc

import fastgate
import numpy as np
import pytest

COMPILED = fastgate.Gate is not fastgate.reference.Gate
compiled_only = pytest.mark.skipif(not COMPILED, reason="about the compiled core")


@pytest.fixture(params=[fastgate, fastgate.reference], ids=["core", "reference"])
def api(request):
    """Where gate and Gate are taken from: each test runs on both."""
    return request.param


@pytest.fixture
def set_threads():
    """fastgate.set_threads; gates run as they were made until it is called, whatever FASTGATE_THREADS."""
    before = fastgate._parameters.override
    fastgate.set_threads(None)
    yield fastgate.set_threads
    fastgate.set_threads(before or None)


STORAGES = ["float32", "float16", "bfloat16", "int8", "float64"]


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
