"""What all tests share: random numbers, comparisons of arrays, and interpreters of their own for some tests."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import tracemalloc

import fastgate
import numpy as np
import pytest

COMPILED = fastgate.Gate is not fastgate.reference.Gate
compiled_only = pytest.mark.skipif(not COMPILED, reason="fastgate has no compiled core here")
needs_timers = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timers")
linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has this /proc")
STORAGES = ["float32", "float16", "bfloat16", "int8", "float64"]
storages = pytest.mark.parametrize("storage", STORAGES)


def dtype_of(storage):
    """The dtype of weight, bias, x and y in this storage."""
    return np.float64 if storage == "float64" else np.float32


def draw(*shape, seed=0, dtype=np.float32):
    """An array of this shape of random numbers."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape, dtype)


def draw_gate(m, n, dtype=np.float32):
    """weight (m, n), whose sums over inputs of order 1 are of order 1 too, and bias (m,)."""
    return draw(m, n, dtype=dtype) / dtype(max(n, 1) ** 0.5), draw(m, seed=1, dtype=dtype)


def ways(api, weight, bias, storage="float32"):
    """The calls that compute y from x with these weights: a gate, and gate() if it takes this storage."""
    calls = [api.Gate(weight, bias, storage=storage)]
    if storage in ("float32", "float64"):
        calls.append(lambda x, out=None: api.gate(x, weight, bias, out=out))
    return calls


def held(gate):
    """The weights, as the storage rounds them, and the biases that a gate computes with."""
    return gate.__reduce__()[1][1]


def same_bits(a, b):
    assert a.shape == b.shape and a.dtype == b.dtype
    assert a.tobytes() == b.tobytes()


def every_layout(x):
    """Arrays equal to x (a, b, n), each with other strides or another alignment, or read-only."""
    yield np.asfortranarray(x)
    for axis in range(3):
        spread = np.full([3 * size + 1 if k == axis else size for k, size in enumerate(x.shape)], np.nan, x.dtype)
        view = np.moveaxis(np.moveaxis(spread, axis, 0)[1::3], 0, axis)
        view[...] = x
        yield view
        yield np.flip(np.flip(x, axis).copy(), axis)
    yield np.concatenate([x, x], axis=2)[:, :, : x.shape[2]]
    yield x[::-1, ::-1, ::-1].copy("F")[::-1, ::-1, ::-1]
    yield x.transpose(1, 0, 2).copy().transpose(1, 0, 2)
    yield np.frombuffer(b"?" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape)
    read_only = x.copy()
    read_only.flags.writeable = False
    yield read_only


@contextlib.contextmanager
def alarms(handler, first, interval=0.0):
    """A signal calls handler(number, frame) after `first` seconds, then every `interval` seconds unless that is 0."""
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, first, interval)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def allocates_nothing(calls):
    """Assert that calls(10_000) leaves no memory behind, and needs no more at any time than calls(10)."""
    calls(10)
    tracemalloc.start()
    try:
        calls(10)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        blocks = sys.getallocatedblocks()
        calls(10_000)
        assert sys.getallocatedblocks() - blocks <= 2  # the integer of the loop is one
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 200 and peak - before < 1000, "an array was allocated"


def run_python(code, *options, **env):
    """Run code in a new interpreter, in this environment without its FASTGATE_ variables, but with `env`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FASTGATE_")}
    return subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env={**inherited, **env},
    )
