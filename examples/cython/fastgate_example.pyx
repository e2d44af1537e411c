# cython: language_level=3, boundscheck=False, wraparound=False
"""Gates that are called from Cython, in loops without the GIL and without Python objects.

    pip install --no-build-isolation .      # with fastgate and Cython installed
    python check.py
"""
cimport fastgate
from fastgate._core cimport Gate

import numpy as np


def gate_rows(const float[:, ::1] weight, const float[::1] bias, const float[:, ::1] x):
    """Make a gate, and compute sigmoid(x @ weight.T + bias): weight (m, n), bias (m,), x (B, n) -> (B, m)."""
    cdef size_t m = weight.shape[0], n = weight.shape[1]
    if m == 0 or n == 0 or <size_t>bias.shape[0] != m or <size_t>x.shape[1] != n:
        raise ValueError("weight must be (m, n), bias (m,) and x (B, n), where m and n are at least 1")
    y = np.empty((x.shape[0], m), np.float32)
    cdef float[:, ::1] rows = y
    cdef fastgate.fastgate_gate *gate = NULL
    cdef fastgate.fastgate_part part
    cdef Py_ssize_t b
    cdef int code
    with nogil:
        code = fastgate.fastgate_gate_create(&gate, fastgate.FASTGATE_FLOAT32, m, n, &weight[0, 0], n, 1,
                                             &bias[0], 1)
        part.size, part.stride = n, 0
        for b in range(x.shape[0]):
            if code == fastgate.FASTGATE_OK:
                part.data = &x[b, 0]
                code = fastgate.fastgate_gate_run(gate, 1, &part, 1, &rows[b, 0], 0)
        fastgate.fastgate_gate_free(gate)
    if code != fastgate.FASTGATE_OK:
        raise RuntimeError(fastgate.fastgate_strerror(code).decode())
    return y


cdef Py_ssize_t scan(const fastgate.fastgate_gate *gate, const float[:, ::1] x, float[::1] y,
                     float level) noexcept nogil:
    cdef fastgate.fastgate_part part
    cdef Py_ssize_t b, i
    part.size, part.stride = x.shape[1], 0
    for b in range(x.shape[0]):
        part.data = &x[b, 0]
        fastgate.fastgate_gate_run(gate, 1, &part, 1, &y[0], 0)  # cannot fail, because the sizes fit
        for i in range(y.shape[0]):
            if y[i] > level:
                return b
    return -1


def first_open(Gate gate not None, const float[:, ::1] x, float level):
    """The index of the first row of x (B, n) for which an output of the gate is above level; -1 if there is none.

    Unlike a batch, it does not compute the rows after this one, and it is faster than a loop in Python.
    """
    if gate.storage == "float64" or <size_t>x.shape[1] != gate.input_size or x.shape[1] == 0:
        raise ValueError(f"x (B, {x.shape[1]}) needs a gate with float32 inputs of that size, not {gate!r}")
    cdef float[::1] y = np.empty(gate.output_size, np.float32)
    cdef Py_ssize_t row
    with nogil:
        row = scan(gate.gate, x, y, level)
    return row
