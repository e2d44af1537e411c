"""Gates of random shapes, layouts, dtypes and storages agree with the oracle, in FASTGATE_EXAMPLES (10000) examples."""

import functools
import os
import re

import fastgate
import numpy as np
import pytest
from helpers import STORAGES, dtype_of, oracle

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

EXAMPLES = int(os.environ.get("FASTGATE_EXAMPLES", "10000"))
DTYPES = ["f4", ">f4", "f2", "f8", "i1", "i4", "i8", "u2", "?", "c8", "O", "S4", "M8[s]"]
sizes = st.one_of(st.integers(0, 8), st.integers(0, 70), st.sampled_from([127, 128, 129, 257, 1025]))
leads = st.one_of(st.just(()), st.lists(st.integers(0, 3), max_size=3).map(tuple))
scales = st.sampled_from([1.0, 1.0, 1.0, 1e-3, 30.0, 1e4, 1e-30, 1e-41])
huge_scales = st.one_of(scales, st.just(1e30))  # only weight and bias have this one, so that no product overflows
layouts = st.lists(st.sampled_from("TFrsnbx"), max_size=2).map("".join)


def lay(array, layout):
    """An array of the same values with other strides or another alignment, or read-only."""
    for how in layout:
        if how == "T":
            array = array.T.copy().T
        elif how == "F":
            array = np.asfortranarray(array)
        elif how == "r":
            array = array.copy()
            array.flags.writeable = False
        elif how == "s":  # every second or third element of each axis
            field = np.full([n * 3 + 2 for n in array.shape], np.nan, array.dtype)
            view = field[tuple(slice(1, 1 + n * (2 + a % 2), 2 + a % 2) for a, n in enumerate(array.shape))]
            view[...] = array
            array = view
        elif how == "n":
            array = np.flip(np.flip(array).copy())
        elif how == "b" and array.ndim:
            array = np.moveaxis(np.moveaxis(array, -1, 0).copy(), 0, -1)
        elif how == "x":  # its address is no multiple of the element size
            raw = np.empty(array.nbytes + 1, np.uint8)
            view = raw[1:].view(array.dtype).reshape(array.shape)
            view[...] = array
            array = view
    return array


@st.composite
def cases(draw):
    m, n, lead = draw(sizes), draw(sizes), draw(leads)
    if m * n * max(1, int(np.prod(lead))) > 300_000:
        n %= 33
    storage = draw(st.sampled_from(["float32", *STORAGES]))
    dtype = dtype_of(storage)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weight = (rng.standard_normal((m, n)) * draw(huge_scales)).astype(dtype)
    x = (rng.standard_normal((*lead, n)) * draw(scales)).astype(dtype)
    bias = None
    if draw(st.booleans()):
        bias = (rng.standard_normal(m) * draw(huge_scales)).astype(dtype)
    for array in (weight, x):
        if draw(st.integers(0, 9)) == 0 and array.size:
            special = draw(st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45]))
            array.flat[rng.integers(array.size)] = special
    cuts = draw(st.lists(st.integers(0, n), max_size=4).map(sorted))
    return storage, weight, bias, x, cuts


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(
    case=cases(),
    layout=st.tuples(layouts, layouts, layouts),
    path=st.sampled_from(["gate", "out", "bind", "once", "once out", "augmented", "parts", "batch"]),
    dtype=st.sampled_from(DTYPES + ["f4"] * 30),
    which=st.integers(0, 2),
)
def test_against_the_oracle(case, layout, path, dtype, which):
    storage, weight, bias, x, cuts = case
    m, n = weight.shape
    b = None if bias is None else lay(bias, layout[1])
    w, v = lay(weight, layout[0]), lay(x, layout[2])
    make = functools.partial(fastgate.Gate, storage=storage)
    out = np.full((*x.shape[:-1], m), 7, x.dtype)
    if dtype != "f4":
        arrays = [np.zeros_like(w), np.zeros(m, x.dtype) if b is None else b, v]
        arrays[which] = np.zeros(arrays[which].shape, dtype)
        if np.dtype(dtype) == x.dtype or which < 2 and dtype == "f2" and storage == "float16":
            return  # the call accepts it
        with pytest.raises(TypeError, match=f"takes {x.dtype}"):
            make(arrays[0], arrays[1])(arrays[2], out=out)
        with pytest.raises(TypeError, match="takes float"):
            fastgate.gate(arrays[2], arrays[0], arrays[1], out=out)
        assert (out == 7).all()
        return

    try:
        fastgate.reference.rounded(weight, storage)
    except ValueError as error:
        with pytest.raises(ValueError, match=re.escape(str(error))):
            make(w, b)
        return
    gate = make(w, b)
    got = gate(v)
    oracle.close(got, x, weight, bias, storage)
    if path in ("once", "once out") and storage not in ("float32", "float64"):
        path = "batch"
    if path == "out":
        assert gate(v, out=out) is out
    elif path == "bind":
        assert gate.bind(x, out=out)() is out
    elif path == "once":
        out = fastgate.gate(v, w, b)
    elif path == "once out":
        assert fastgate.gate(v, w, b, out=out) is out
    elif path == "augmented":
        zero = np.zeros(m, x.dtype)
        augmented = lay(np.c_[zero if bias is None else bias, weight], layout[1])
        out = fastgate.Gate.from_augmented(augmented, storage=storage)(v)
    elif path == "parts":
        out = gate(*np.split(v, cuts, axis=-1))
    elif path == "batch":
        for row in np.ndindex(x.shape[:-1]):
            out[row] = gate(v[row])
    else:
        out = gate(x)
    np.testing.assert_array_equal(out, got)
