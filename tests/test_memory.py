"""Sizes beyond memory are refused, and memory that runs out raises MemoryError; neither leaks."""

import os

import numpy as np
import pytest
from helpers import compiled_only, dtype_of, linux_only, run_python, storages
from helpers.layers import draw_layer


def refused(call, *shapes, dtype=np.float32):
    """Assert that there is no memory for a call with arrays of these shapes, which take none themselves."""
    with pytest.raises((MemoryError, ValueError)):
        call(*(np.broadcast_to(dtype(1), shape) for shape in shapes))


@storages
def test_weights_beyond_memory(api, storage):
    dtype = dtype_of(storage)
    most = 1 << (59 if storage == "float64" else 60)  # NumPy allows no larger arrays
    for shape in [(1 << 21, 1 << 22), (1 << 30, 1 << 30), (1 << 58, 1), (1, 1 << 58), (most, 0)]:
        refused(lambda weight: api.Gate(weight, storage=storage), shape, dtype=dtype)
    for rows, n in [(1 << 24, 1 << 24), (1 << 30, 1 << 29), (4, 1 << 57)]:
        shapes = (rows, n), (rows, rows // 4)
        refused(lambda ih, hh: api.LSTMCell(ih, hh, storage=storage), *shapes, dtype=dtype)
        refused(lambda ih, hh: api.LSTM([{"weight_ih": ih, "weight_hh": hh}], storage=storage), *shapes, dtype=dtype)


def test_results_beyond_memory(api):
    def zeros(*shape):
        return np.zeros(shape, np.float32)

    p = {"weight_ih": zeros(1 << 14, 1), "weight_hh": zeros(1 << 14, 1), "projection": zeros(1, 1 << 12)}
    refused(api.Gate(zeros(1 << 20, 1)), (1 << 24, 1))
    refused(api.LSTMCell(**p), (1, 1 << 46, 1))
    refused(api.LSTM([p]), (1, 1 << 46, 1))


def test_an_empty_output_of_many_rows_takes_no_time(api):
    nothing = np.empty((0, 0), np.float32)
    many = np.empty((2**40, 0), np.float32)
    assert api.Gate(nothing)(many).shape == (2**40, 0)
    assert api.LSTMCell(nothing, nothing)(many)[0].shape == (2**40, 0)
    x = np.empty((2**40, 0, 4), np.float32)
    assert api.LSTM([draw_layer(4, 5, 3)])(x)[0].shape == (2**40, 0, 3)


OUT_OF_MEMORY = """
    import resource
    import numpy as np
    import fastgate

    def megabytes(field):  # of /proc/self/status
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) // 1024 for line in status if line.startswith(field))

    p = {"weight_ih": np.ones((8192, 2048), np.float32), "weight_hh": np.ones((8192, 2048), np.float32)}
    small = {"weight_ih": np.ones((32, 8), np.float32), "weight_hh": np.ones((32, 8), np.float32)}
    gate, cell, lstm = fastgate.Gate(np.ones((8, 8), np.float32)), fastgate.LSTMCell(**small), fastgate.LSTM([small])
    x = np.broadcast_to(np.float32(1), (1 << 21, 8))  # results of 64 MB
    before = megabytes("VmSize")
    limit = (before + 40) << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for _ in range(50):
        for call in (
            lambda: fastgate.Gate(p["weight_ih"]), lambda: gate(x),
            lambda: fastgate.LSTMCell(**p), lambda: fastgate.LSTM([p]), lambda: cell(x), lambda: lstm(x),
            lambda: lstm(x[:, None]), lambda: lstm.stream(1 << 21),
        ):
            try:
                call()
            except MemoryError as error:
                assert str(error), "the MemoryError does not say for what there was no memory"
            else:
                raise AssertionError("the call found enough memory")
    assert megabytes("VmSize") <= before + 2, "leaked"
    fastgate.Gate(p["weight_ih"][:512, :512])(x[0, :1].repeat(512))
    fastgate.LSTM([small])(x[:5])
    print("ok")
"""


@compiled_only
@linux_only
@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer reserves terabytes")
def test_memory_that_runs_out():
    run = run_python(OUT_OF_MEMORY, OPENBLAS_NUM_THREADS="1")
    assert run.stdout == "ok\n", run.stderr
