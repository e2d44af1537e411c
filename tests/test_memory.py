"""Sizes beyond memory, and memory that runs out: a MemoryError, and nothing leaks."""

import os

import numpy as np
import pytest
from helpers import compiled_only, dtype_of, linux_only, run_python, storages
from helpers.layers import draw_layer


@storages
@pytest.mark.parametrize("make", ["Gate", "LSTM"])
def test_sizes_beyond_memory(api, make, storage):
    one = dtype_of(storage)(1)

    def beyond(call, *shapes):
        with pytest.raises((MemoryError, ValueError)):
            call(*(np.broadcast_to(one, shape) for shape in shapes))

    if make == "Gate":
        for shape in [(1 << 21, 1 << 22), (1 << 30, 1 << 30), (1 << 58, 1), (1, 1 << 58), (1 << 60, 0)]:
            if storage == "float64" and shape[0] == 1 << 60:
                shape = (1 << 59, 0)  # the most that NumPy has
            beyond(lambda weight: api.Gate(weight, storage=storage), shape)
        return
    for rows, n in [(1 << 24, 1 << 24), (1 << 30, 1 << 29), (4, 1 << 57)]:
        shapes = (rows, n), (rows, rows // 4)
        beyond(lambda w_ih, w_hh: api.LSTMCell(w_ih, w_hh, storage=storage), *shapes)
        beyond(lambda w_ih, w_hh: api.LSTM([{"weight_ih": w_ih, "weight_hh": w_hh}], storage=storage), *shapes)


@pytest.mark.parametrize("kind", ["Gate", "LSTMCell", "LSTM"])
def test_results_beyond_memory(api, kind):
    def zeros(*shape):
        return np.zeros(shape, np.float32)

    p = {"weight_ih": zeros(1 << 14, 1), "weight_hh": zeros(1 << 14, 1), "projection": zeros(1, 1 << 12)}
    call, shape = {
        "Gate": (lambda x: api.Gate(zeros(1 << 20, 1))(x), (1 << 24, 1)),
        "LSTMCell": (lambda x: api.LSTMCell(**p)(x), (1, 1 << 46, 1)),
        "LSTM": (lambda x: api.LSTM([p])(x), (1, 1 << 46, 1)),
    }[kind]
    with pytest.raises((MemoryError, ValueError)):
        call(np.broadcast_to(np.float32(1), shape))


@pytest.mark.parametrize("kind", ["Gate", "LSTMCell", "LSTM"])
def test_an_empty_output_of_many_rows_takes_no_time(api, kind):
    nothing = np.empty((0, 0), np.float32)
    call, shape, results = {
        "Gate": (lambda x: api.Gate(nothing)(x), (2**40, 0), (2**40, 0)),
        "LSTMCell": (lambda x: api.LSTMCell(nothing, nothing)(x)[0], (2**40, 0), (2**40, 0)),
        "LSTM": (lambda x: api.LSTM([draw_layer(4, 5, 3)])(x)[0], (2**40, 0, 4), (2**40, 0, 3)),
    }[kind]
    assert call(np.empty(shape, np.float32)).shape == results


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
                assert str(error), "a MemoryError says what there was no memory for"
            else:
                raise AssertionError("there was memory after all")
    assert megabytes("VmSize") <= before + 2, "leaked"
    fastgate.Gate(p["weight_ih"][:512, :512])(x[0, :1].repeat(512))
    fastgate.LSTM([small])(x[:5])
    print("ok")
"""


@compiled_only
@linux_only
@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer reserves terabytes")
def test_no_memory():
    run = run_python(OUT_OF_MEMORY, OPENBLAS_NUM_THREADS="1")
    assert run.stdout == "ok\n", run.stderr
