"""Everything a user can do with a gate that is right."""

import array
import copy
import gc
import inspect
import pickle
import sys

import fastgate
import numpy as np
import pytest
from helpers import allocates_nothing, compiled_only, draw, draw_gate, every_layout, same_bits
from helpers.oracle import close

SIZES = [0, 1, 2, 15, 16, 17, 63, 64, 65, 129, 1031]


# ---- shapes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("m", SIZES)
def test_sizes(api, m, n):
    weight, bias = draw_gate(m, n)
    x = draw(n, seed=2)
    close(api.Gate(weight, bias)(x), x, weight, bias)
    close(api.gate(x, weight, bias), x, weight, bias)


def test_no_bias_is_a_bias_of_zeros(api):
    weight, _ = draw_gate(20, 30)
    x, zeros = draw(30), np.zeros(20, np.float32)
    same_bits(api.Gate(weight)(x), api.Gate(weight, zeros)(x))
    same_bits(api.gate(x, weight), api.gate(x, weight, zeros))


def test_without_inputs_the_bias_remains(api):
    bias = draw(5)
    x, weight = np.empty(0, np.float32), np.empty((5, 0), np.float32)
    close(api.Gate(weight, bias)(x), x, weight, bias)
    assert api.Gate(np.empty((0, 3), np.float32))(draw(3)).shape == (0,)


@pytest.mark.parametrize("shape", [(0,), (1,), (7,), (2, 3), (2, 1, 3), (1, 1), (3, 0, 2)])
def test_leading_axes(api, shape):
    weight, bias = draw_gate(33, 18)
    x = draw(*shape, 18)
    g = api.Gate(weight, bias)
    y = g(x)
    close(y, x, weight, bias)
    for index in np.ndindex(shape):
        same_bits(y[index], g(x[index]))
    same_bits(y, api.gate(x, weight, bias))
    out = np.full_like(y, 7)
    assert g(x, out=out) is out
    same_bits(y, out)


def test_inputs_of_any_layout(api):
    weight, bias = draw_gate(20, 9)
    x = draw(4, 3, 9)
    g = api.Gate(weight, bias)
    y = g(x)
    for other in every_layout(x):
        np.testing.assert_array_equal(other, x)
        same_bits(g(other), y)
        same_bits(g(other, out=np.empty_like(y)), y)
        same_bits(api.gate(other, weight, bias), y)
    same_bits(g(np.broadcast_to(x[0, 0], (5, 2, 9))), np.broadcast_to(y[0, 0], (5, 2, 20)))


@pytest.mark.parametrize("m, n", [(20, 9), (64, 64), (1, 5), (5, 1)])
def test_weights_of_any_layout(api, m, n):
    weight, bias = draw_gate(m, n)
    x = draw(2, n)
    y = api.Gate(weight, bias)(x)
    for layout in every_layout(weight[np.newaxis]):
        other = layout[0]
        same_bits(api.Gate(other, bias)(x), y)
        same_bits(api.gate(x, other, bias), y)
    strided = np.repeat(bias, 2)[::2]
    same_bits(api.Gate(weight, strided)(x), y)
    same_bits(api.gate(x, weight, strided), y)
    flat = np.broadcast_to(np.float32(0.5), (m, n))
    same_bits(api.gate(x, flat, bias), api.Gate(flat.copy(), bias)(x))


def test_one_shot_equals_gate(api):
    for m, n in [(1, 1), (16, 16), (33, 65), (130, 257)]:
        weight, bias = draw_gate(m, n)
        x = draw(n)
        y = api.Gate(weight, bias)(x)
        same_bits(api.gate(x, weight, bias), y)
        same_bits(api.gate(x, np.asfortranarray(weight), bias), y)


# ---- parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(3, 6), (1,) * 9, (0, 9, 0), (4, 0, 5), (2,) * 3 + (0,) * 10 + (3,)])
@pytest.mark.parametrize("lead", [(), (4,), (2, 3), (0,)])
def test_parts(api, sizes, lead):
    weight, bias = draw_gate(21, 9)
    x = draw(*lead, 9)
    parts = np.split(x, np.cumsum(sizes)[:-1], axis=-1)
    g = api.Gate(weight, bias)
    y = g(x)
    same_bits(g(*parts), y)
    same_bits(g(*[part.copy() for part in parts]), y)
    same_bits(g(*[part.tolist() if part.size else part for part in parts]), y)
    out = np.empty_like(y)
    assert g(*parts, out=out) is out
    same_bits(out, y)


# ---- out --------------------------------------------------------------------------------------


def test_out_is_returned(api):
    weight, bias = draw_gate(6, 4)
    x, out = draw(4), np.empty(6, np.float32)
    g = api.Gate(weight, bias)
    assert g(x, out=out) is out
    close(out, x, weight, bias)
    assert api.gate(x, weight, bias, out=out) is out
    same_bits(g(x, out=None), out)


def test_out_may_be_another_buffer(api):
    weight, bias = draw_gate(6, 4)
    x = draw(4)
    g = api.Gate(weight, bias)
    out = array.array("f", [9] * 6)
    assert g(x, out=out) is out
    close(np.asarray(out), x, weight, bias)
    view = memoryview(np.empty((1, 6), np.float32))
    assert api.gate(x[np.newaxis], weight, bias, out=view) is view
    same_bits(np.asarray(view)[0], np.asarray(out))


@pytest.mark.parametrize("shift", [-3, -1, 0, 1, 5])
def test_out_may_overlap_an_input(api, shift):
    n = 40
    weight, bias = draw_gate(n, n)
    g = api.Gate(weight, bias)
    for call in (g, lambda x, out: api.gate(x, weight, bias, out=out)):
        memory = draw(3 * n)
        x, out = memory[n : 2 * n], memory[n + shift : 2 * n + shift]
        y = g(x.copy())
        call(x, out=out)
        same_bits(out, y)


def test_out_may_overlap_a_part_or_a_batch(api):
    weight, bias = draw_gate(10, 30)
    g = api.Gate(weight, bias)
    memory = draw(4, 30)
    y = g(memory)
    h = memory[:, 20:]
    out = memory.reshape(-1)[30:70].reshape(4, 10)
    assert np.shares_memory(out, h)
    g(memory[:, :20], h, out=out)
    same_bits(out, y)


def test_out_may_overlap_the_weights_of_one_shot(api):
    weight, bias = draw_gate(10, 10)
    x = draw(10)
    y = api.Gate(weight, bias)(x)
    w, b = weight.copy(), bias.copy()
    same_bits(api.gate(x, w, b, out=w[3]), y)
    same_bits(api.gate(x, weight, b, out=b), y)


# ---- bind -------------------------------------------------------------------------------------


@pytest.mark.parametrize("lead", [(), (3,), (2, 2), (0,)])
@pytest.mark.parametrize("sizes", [(7,), (3, 4), (1,) * 7 + (0,) * 5])
def test_bind(api, lead, sizes):
    weight, bias = draw_gate(19, 7)
    g = api.Gate(weight, bias)
    parts = [draw(*lead, size) for size in sizes]
    out = np.empty((*lead, 19), np.float32)
    call = g.bind(*parts, out=out)
    for _ in range(2):
        assert call() is out
        same_bits(out, g(*parts))
        parts[0][...] += 1


def test_bind_to_other_buffers(api):
    weight, bias = draw_gate(3, 2)
    x, out = array.array("f", [1, 2]), array.array("f", [0, 0, 0])
    call = api.Gate(weight, bias).bind(x, out=out)
    with pytest.raises(BufferError):
        x.append(3)  # would move what the call reads
    assert call() is out
    close(np.asarray(out), x, weight, bias)
    x[1] = 5
    call()
    close(np.asarray(out), x, weight, bias)


def test_bind_keeps_what_it_needs(api):
    weight, bias = draw_gate(300, 200)
    call = api.Gate(weight, bias).bind(draw(200), out=np.empty(300, np.float32))
    gc.collect()
    close(call(), draw(200), weight, bias)


def test_a_bound_call_is_not_pickled_and_takes_nothing(api):
    call = api.Gate([[1.0]]).bind(draw(1), out=np.empty(1, np.float32))
    with pytest.raises(TypeError):
        call(draw(1))
    with pytest.raises(TypeError):
        call(out=draw(1))
    assert "Gate(" in repr(call)


# ---- other ways in ----------------------------------------------------------------------------


def test_from_augmented(api):
    weight, bias = draw_gate(12, 8)
    x = draw(8)
    y = api.Gate(weight, bias)(x)
    augmented = np.column_stack([bias, weight])
    for w in (augmented, np.asfortranarray(augmented), augmented.tolist()):
        g = api.Gate.from_augmented(w)
        assert (g.output_size, g.input_size) == (12, 8)
        same_bits(g(x), y)
    close(api.Gate.from_augmented([[0.5]])(np.empty(0, np.float32)), [], np.empty((1, 0)), [0.5])


def test_sequences_are_converted(api):
    weight, bias, x = [[0.1, -0.2], [3, 4], [5, 6]], (1, 2, 0.3), [0.5, -1]
    y = api.Gate(np.float32(weight), np.float32(bias))(np.float32(x))
    same_bits(api.Gate(weight, bias)(x), y)
    same_bits(api.Gate(weight, bias)(tuple(x)), y)
    same_bits(api.gate(x, weight, bias), y)
    same_bits(api.Gate(weight, bias)([x, x]), np.stack([y, y]))


def test_other_buffers_are_read(api):
    weight, bias = draw_gate(3, 4)
    x = draw(4)
    y = api.Gate(weight, bias)(x)
    buffers = [array.array("f", x), memoryview(x), x.view(type("Array", (np.ndarray,), {}))]
    for buffer in buffers:
        same_bits(api.Gate(weight, bias)(buffer), y)
        same_bits(api.gate(buffer, memoryview(weight), array.array("f", bias)), y)

    class HasArray:
        def __array__(self, dtype=None, copy=None):
            return x

    same_bits(api.Gate(weight, bias)(HasArray()), y)


# ---- the object -------------------------------------------------------------------------------


def test_properties(api, set_threads):
    g = api.Gate(draw(30, 20))
    assert (g.output_size, g.input_size, g.storage, g.threads) == (30, 20, "float32", 1)
    assert g.nbytes >= 30 * 21 * 4
    assert repr(g) == "Gate(input_size=20, output_size=30, storage='float32', threads=1)"
    assert isinstance(g, api.Gate)


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


@pytest.mark.parametrize("m, n", [(0, 0), (1, 1), (17, 33), (130, 70), (3, 0)])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(api, m, n, protocol):
    weight, bias = draw_gate(m, n)
    g = api.Gate(weight, bias)
    loaded = pickle.loads(pickle.dumps(g, protocol))
    assert type(loaded) is api.Gate
    _, (w, b), options = loaded.__reduce__()[1]
    assert options == {"storage": "float32", "threads": 1}
    same_bits(w, weight)
    same_bits(b, bias)
    x = draw(2, n)
    same_bits(loaded(x), g(x))


def test_pickle_keeps_special_values(api):
    weight = np.array([[np.nan, np.inf, -0.0, 1e-45]], np.float32)
    _, (w, _), _ = pickle.loads(pickle.dumps(api.Gate(weight))).__reduce__()[1]
    same_bits(w, weight)


def test_copies_are_the_gate_itself(api):
    g = api.Gate(draw(4, 3))
    assert copy.copy(g) is g
    assert copy.deepcopy([g])[0] is g


def test_special_values(api):
    weight = np.array([[1, 0], [0, 1], [-1, 0], [1, 1]], np.float32)
    y = api.Gate(weight)(np.array([np.inf, 1], np.float32))
    np.testing.assert_array_equal(y[[0, 2, 3]], [1, 0, 1])
    assert np.isnan(y[1])  # 0 * inf
    y = api.Gate(np.eye(3, dtype=np.float32)[:, :2])(np.array([np.nan, 1], np.float32))
    assert np.isnan(y).all()  # every row reads every x
    y = api.Gate([[1, 0], [np.nan, 0], [0, 1]])(draw(2))
    np.testing.assert_array_equal(np.isnan(y), [False, True, False])
    y = api.Gate([[-1]])([[87], [100], [103.5], [105], [1000]])
    np.testing.assert_array_equal(y[:, 0], np.exp(np.float64([-87, -100, -103.5, -105, -1000])).astype(np.float32))


def test_no_warnings(api, recwarn):
    with np.errstate(all="raise"):
        api.Gate([[1e38, 1e38]])(np.array([1e38, -np.inf], np.float32))
        api.Gate([[1]])([[-1000], [1000], [-100]])
    assert not recwarn.list


# ---- the vectorcall road and the plain one ----------------------------------------------------


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
    """10,000 calls leave the heap as it was, and take no more of it in between than one does."""
    weight, bias = draw_gate(40, 30)
    g = fastgate.Gate(weight, bias)
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
