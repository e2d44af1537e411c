"""All that a user may do with gates, in every storage."""

import array
import copy
import gc
import inspect
import pickle
import sys

import fastgate
import numpy as np
import pytest
from helpers import (
    allocates_nothing, compiled_only, draw, draw_gate, dtype_of, every_layout, held, same_bits, storages, ways,
)
from helpers.oracle import close

SIZES = [0, 1, 2, 15, 16, 17, 63, 64, 65, 129, 1031]
with_codes = pytest.mark.parametrize("storage, code", [("float32", "f"), ("float64", "d")])


def draw_all(m, n, *lead, storage="float32"):
    """weight (m, n), bias (m,) and x (*lead, n), of the dtype that the storage takes."""
    dtype = dtype_of(storage)
    return *draw_gate(m, n, dtype), draw(*lead, n, seed=2, dtype=dtype)


# ---- shapes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("m", SIZES)
def test_sizes(api, m, n):
    weight, bias, x = draw_all(m, n)
    y = api.Gate(weight, bias)(x)
    close(y, x, weight, bias)
    same_bits(api.gate(x, weight, bias), y)


def test_no_bias_is_a_bias_of_zeros(api):
    weight, _, x = draw_all(20, 30)
    zeros = np.zeros(20, np.float32)
    same_bits(api.Gate(weight)(x), api.Gate(weight, zeros)(x))
    same_bits(api.gate(x, weight), api.gate(x, weight, zeros))


@storages
@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (2, 3), (2, 1, 3), (1, 1), (3, 0, 2)])
def test_leading_axes(api, shape, storage):
    weight, bias, x = draw_all(33, 18, *shape, storage=storage)
    y = api.Gate(weight, bias, storage=storage)(x)
    close(y, x, weight, bias, storage)
    for call in ways(api, weight, bias, storage):
        for index in np.ndindex(shape):
            same_bits(call(x[index]), y[index])
        same_bits(call(x, out=None), y)
        out = np.full_like(y, 7)
        assert call(x, out=out) is out
        same_bits(out, y)


@storages
@pytest.mark.parametrize("m, n", [(20, 9), (64, 64), (1, 5), (5, 1)])
def test_arrays_of_any_layout(api, m, n, storage):
    weight, bias, x = draw_all(m, n, 4, 3, storage=storage)
    y = api.Gate(weight, bias, storage=storage)(x)
    for call in ways(api, weight, bias, storage):
        for other in every_layout(x):
            np.testing.assert_array_equal(other, x)
            same_bits(call(other), y)
            same_bits(call(other, out=np.empty_like(y)), y)
        same_bits(call(np.broadcast_to(x[0, 0], (5, 2, n))), np.broadcast_to(y[0, 0], (5, 2, m)))
    for layout in every_layout(weight[np.newaxis]):
        for call in ways(api, layout[0], np.repeat(bias, 2)[::2], storage):
            same_bits(call(x), y)
    flat = np.broadcast_to(weight.dtype.type(0.5), (m, n))
    for call, other in zip(ways(api, flat, bias, storage), ways(api, flat.copy(), bias, storage), strict=True):
        same_bits(call(x), other(x))


# ---- parts and bound calls --------------------------------------------------------------------


@storages
@pytest.mark.parametrize("sizes", [(9,), (3, 6), (1,) * 9, (0, 9, 0), (4, 0, 5), (2,) * 3 + (0,) * 10 + (3,)])
@pytest.mark.parametrize("lead", [(), (4,), (2, 3), (0,)])
def test_parts(api, sizes, lead, storage):
    """A call takes x in parts; so does a bound call, which reads them each time."""
    weight, bias, x = draw_all(21, 9, *lead, storage=storage)
    gate = api.Gate(weight, bias, storage=storage)
    y, out = gate(x), np.full((*lead, 21), 7, x.dtype)
    parts = np.split(x, np.cumsum(sizes)[:-1], axis=-1)
    copies = [part.copy() for part in parts]
    same_bits(gate(*parts), y)
    same_bits(gate(*copies), y)
    same_bits(gate(*[part.tolist() if part.size else part for part in parts]), y)
    assert gate(*parts, out=out) is out
    same_bits(out, y)
    bound = gate.bind(*copies, out=out)
    for _ in range(2):
        assert bound() is out
        same_bits(out, gate(*copies))
        copies[0][...] += 1
        copies[-1][...] -= 2


@with_codes
def test_bind_to_other_buffers(api, storage, code):
    weight, bias = draw_gate(3, 2, dtype_of(storage))
    x, out = array.array(code, [1, 2]), array.array(code, [0, 0, 0])
    bound = api.Gate(weight, bias, storage=storage).bind(x, out=out)
    with pytest.raises(BufferError):
        x.append(3)  # it would move the memory that the bound call reads
    for value in (2, 5):
        x[1] = value
        assert bound() is out
        close(np.asarray(out), np.asarray(x), weight, bias, storage)


def test_a_bound_call_keeps_what_it_needs(api):
    weight, bias = draw_gate(300, 200)
    bound = api.Gate(weight, bias).bind(draw(200), out=np.empty(300, np.float32))
    gc.collect()
    close(bound(), draw(200), weight, bias)


def test_a_bound_call_takes_no_arguments_and_is_not_pickled(api):
    bound = api.Gate([[1.0]]).bind(draw(1), out=np.empty(1, np.float32))
    with pytest.raises(TypeError):
        pickle.dumps(bound)
    with pytest.raises(TypeError):
        bound(draw(1))
    with pytest.raises(TypeError):
        bound(out=draw(1))
    assert "Gate(" in repr(bound)


# ---- out --------------------------------------------------------------------------------------


@with_codes
def test_out_may_be_another_buffer(api, storage, code):
    weight, bias, x = draw_all(6, 4, storage=storage)
    for call in ways(api, weight, bias, storage):
        out = array.array(code, [9] * 6)
        assert call(x, out=out) is out
        close(np.asarray(out), x, weight, bias, storage)
        view = memoryview(np.empty((1, 6), x.dtype))
        assert call(x[np.newaxis], out=view) is view
        same_bits(np.asarray(view)[0], np.asarray(out))


@storages
@pytest.mark.parametrize("shift", [-3, -1, 0, 1, 5])
def test_out_may_overlap_x(api, shift, storage):
    """There are so many rows that some outputs are written while others still have to be computed from x."""
    n = 130
    weight, bias, numbers = draw_all(n, n, 3, storage=storage)
    for call in ways(api, weight, bias, storage):
        memory = numbers.ravel().copy()
        x, out = memory[n : 2 * n], memory[n + shift : 2 * n + shift]
        y = call(x.copy())
        call(x, out=out)
        same_bits(out, y)


@storages
def test_out_may_overlap_a_batch_or_its_parts(api, storage):
    m, n = 130, 300
    weight, bias, numbers = draw_all(m, n, 9, storage=storage)
    gate = api.Gate(weight, bias, storage=storage)
    y = gate(numbers)
    for cuts in ([], [200]):
        memory = numbers.copy()
        parts = np.split(memory, cuts, axis=1)
        out = memory.reshape(-1)[3 : 3 + 9 * m].reshape(9, m)
        assert all(np.shares_memory(out, part) for part in parts)
        gate(*parts, out=out)
        same_bits(out, y)


@pytest.mark.parametrize("storage", ["float32", "float64"])
def test_out_of_gate_may_overlap_the_weights(api, storage):
    weight, bias, x = draw_all(10, 10, storage=storage)
    y = api.gate(x, weight, bias)
    w, b = weight.copy(), bias.copy()
    same_bits(api.gate(x, w, b, out=w[3]), y)
    same_bits(api.gate(x, weight, b, out=b), y)


# ---- other ways to give arrays ----------------------------------------------------------------


@storages
def test_from_augmented(api, storage):
    weight, bias, x = draw_all(12, 8, 3, storage=storage)
    y = api.Gate(weight, bias, storage=storage)(x)
    augmented = np.column_stack([bias, weight])
    for w in (augmented, np.asfortranarray(augmented), augmented.tolist()):
        gate = api.Gate.from_augmented(w, storage=storage)
        assert (gate.output_size, gate.input_size) == (12, 8)
        same_bits(gate(x), y)
    x = np.empty(0, x.dtype)
    close(api.Gate.from_augmented([[0.5]], storage=storage)(x), x, np.empty((1, 0)), [0.5], storage)


@storages
def test_sequences_are_converted(api, storage):
    weight, bias, x = [[0.1, -0.2], [3, 4], [5, 6]], (1, 2, 0.3), [0.5, -1]
    w, b, v = (np.array(numbers, dtype_of(storage)) for numbers in (weight, bias, x))
    y = api.Gate(w, b, storage=storage)(v)
    gate = api.Gate(weight, bias, storage=storage)
    same_bits(gate(x), y)
    same_bits(gate(tuple(x)), y)
    same_bits(gate([x, x]), np.stack([y, y]))
    out = np.empty_like(y)
    assert gate(x, out=out) is out
    same_bits(out, y)
    for call in ways(api, weight if storage == "float32" else w, bias, storage):  # gate() makes float32 of a list
        same_bits(call(x), y)


class HasArray:
    """An object that becomes an array by __array__, and in no other way."""

    def __init__(self, value):
        self.value = value

    def __array__(self, dtype=None, copy=None):
        return self.value


@with_codes
def test_other_buffers_are_read(api, storage, code):
    weight, bias, x = draw_all(3, 4, storage=storage)
    y = api.Gate(weight, bias, storage=storage)(x)
    subclass = x.view(type("Array", (np.ndarray,), {}))
    for w, b in ((HasArray(weight), memoryview(bias)), (memoryview(weight), array.array(code, bias))):
        for call in ways(api, w, b, storage):
            for buffer in (array.array(code, x), memoryview(x), subclass, HasArray(x)):
                same_bits(call(buffer), y)


# ---- the object -------------------------------------------------------------------------------


def test_immutable(api):
    weight, bias = draw_gate(4, 3)
    x = draw(3)
    g = api.Gate(weight, bias)
    y = g(x)
    weight[...] = 0
    bias[...] = 0
    same_bits(g(x), y)
    for name in ("input_size", "output_size", "storage", "nbytes", "threads", "other"):
        with pytest.raises(AttributeError):
            setattr(g, name, 1)


@storages
@pytest.mark.parametrize("m, n", [(0, 0), (1, 1), (17, 33), (130, 70), (3, 0)])
def test_pickles_and_copies(api, set_threads, m, n, storage):
    """A pickle of any protocol keeps weights, biases and options; a copy is the gate itself, which cannot change."""
    weight, bias, x = draw_all(m, n, 2, storage=storage)
    gate = api.Gate(weight, bias, storage=storage, threads=3)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        loaded = pickle.loads(pickle.dumps(gate, protocol))
        assert type(loaded) is api.Gate
        assert loaded.__reduce__()[1][2] == {"storage": storage, "threads": 3}
        for got, want in zip(held(loaded), (fastgate.reference.rounded(weight, storage), bias), strict=True):
            same_bits(got + 0, want + 0)  # -0.0 becomes 0.0, as int8 has one zero only
        same_bits(loaded(x), gate(x))
    assert copy.copy(gate) is gate and copy.deepcopy([gate])[0] is gate


def test_pickle_keeps_special_values(api):
    weight = np.array([[np.nan, np.inf, -0.0, 1e-45]], np.float32)
    same_bits(held(pickle.loads(pickle.dumps(api.Gate(weight))))[0], weight)


def test_special_values(api):
    weight = np.array([[1, 0], [0, 1], [-1, 0], [1, 1]], np.float32)
    y = api.Gate(weight)(np.array([np.inf, 1], np.float32))
    np.testing.assert_array_equal(y[[0, 2, 3]], [1, 0, 1])
    assert np.isnan(y[1])  # 0 * inf is NaN
    y = api.Gate(np.eye(3, dtype=np.float32)[:, :2])(np.array([np.nan, 1], np.float32))
    assert np.isnan(y).all()  # 0 * NaN is NaN too, in every row
    y = api.Gate([[1, 0], [np.nan, 0], [0, 1]])(draw(2))
    np.testing.assert_array_equal(np.isnan(y), [False, True, False])
    y = api.Gate([[-1]])([[87], [100], [103.5], [105], [1000]])
    np.testing.assert_array_equal(y[:, 0], np.exp(np.float64([-87, -100, -103.5, -105, -1000])).astype(np.float32))


# ---- how calls are made -----------------------------------------------------------------------


def test_every_way_of_calling(api):
    weight, bias = draw_gate(5, 4)
    g = api.Gate(weight, bias)
    x, out = draw(4), np.empty(5, np.float32)
    y = g(x)
    same_bits(g(*(x,)), y)
    same_bits(g(x, **{}), y)
    assert g(x, **{"o" + "ut": out}) is out
    assert g.__call__(x, out=out) is out
    assert type(g).__call__(g, x, out=out) is out
    assert next(map(g, [x])).tobytes() == y.tobytes()
    call = g.bind(x, out=out)
    assert call() is call.__call__() is call(*(), **{}) is out


def test_signatures(api):
    assert str(inspect.signature(api.gate).replace(return_annotation=inspect.Signature.empty))
    for function, names in {
        api.Gate: ["weight", "bias", "storage", "threads"],
        api.gate: ["x", "weight", "bias", "out"],
        api.Gate.bind: ["self", "parts", "out"],
        api.Gate.from_augmented: ["weight", "storage", "threads"],
    }.items():
        assert list(inspect.signature(function).parameters) == names
        assert function.__doc__


@compiled_only
def test_no_allocation():
    g = fastgate.Gate(*draw_gate(40, 30))
    x, h, y = draw(20), draw(10), np.empty(40, np.float32)
    xs, ys = draw(6, 30), np.empty((6, 40), np.float32)
    bound = g.bind(x, h, out=y)

    def calls(count):
        for _ in range(count):
            g(x, h, out=y)
            g(xs, out=ys)
            bound()

    allocates_nothing(calls)


@compiled_only
def test_references_are_balanced():
    g = fastgate.Gate(*draw_gate(3, 2))
    x, y = draw(2), np.empty(3, np.float32)
    bound = g.bind(x, out=y)

    def bad(*args, **kwargs):
        with pytest.raises((TypeError, ValueError)):
            g(*args, **kwargs)

    def everything():
        g(x)
        g(x, out=y)
        bound()
        g([1, 2], out=y)
        bad(x, out=x)
        bad(x, x)
        bad(x, what=y)
        fastgate.gate(x, [[1, 2], [3, 4], [5, 6]], out=y)

    everything()
    before = [sys.getrefcount(o) for o in (g, x, y, None)][:3]
    for _ in range(1000):
        everything()
    assert [sys.getrefcount(o) for o in (g, x, y, None)][:3] == before
