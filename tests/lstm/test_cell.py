"""A step of an LSTMCell: its numbers, special values, inputs and outputs. The truth is a step in float64."""

import array
import math

import numpy as np
import pytest
from helpers import draw, dtype_of, every_layout, storages
from helpers.layers import draw_layer, draw_layers, draw_step, every_option, same, split
from helpers.oracle import close_step

SIZES = [0, 1, 15, 16, 17, 63, 64, 65]  # on both sides of a panel and of a block


# ---- a step -----------------------------------------------------------------------------------

@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("hidden", SIZES)
def test_a_step_of_every_size_is_close_to_float64(api, n, hidden):
    p = draw_layer(n, hidden)
    x, h, c = draw_step(n=n, hidden=hidden)
    close_step(api.LSTMCell(**p)(x, h, c), x, h, c, p)


@pytest.mark.parametrize("outputs", SIZES[1:])
@pytest.mark.parametrize("hidden", [0, 1, 16, 31, 65])
def test_a_projection_of_every_size_is_close_to_float64(api, hidden, outputs):
    p = draw_layer(5, hidden, outputs)
    x, h, c = draw_step(2, n=5, hidden=hidden, outputs=outputs)
    cell = api.LSTMCell(**p)
    assert (cell.hidden_size, cell.output_size) == (hidden, outputs)
    close_step(cell(x, h, c), x, h, c, p)


@storages
@every_option
def test_a_step_with_every_option_is_close_to_float64(api, options, storage):
    own, given = split(options)
    given["storage"] = storage
    p = draw_layer(21, 33, dtype=dtype_of(storage), **own)
    cell = api.LSTMCell(**p, **given)
    for lead in [(), (5,)]:
        x, h, c = draw_step(*lead, n=21, hidden=33, outputs=own.get("outputs"), dtype=dtype_of(storage))
        close_step(cell(x, h, c), x, h, c, p, **given)
        close_step(cell(x), x, 0 * h, 0 * c, p, **given)


@pytest.mark.parametrize("n, hidden", [(500, 30), (1025, 7), (3, 300), (4000, 2)])
@storages
def test_rows_of_several_spans_are_close_to_float64(api, n, hidden, storage):
    p = draw_layer(n, hidden, dtype=dtype_of(storage))
    x, h, c = draw_step(3, n=n, hidden=hidden, dtype=dtype_of(storage))
    close_step(api.LSTMCell(**p, storage=storage)(x, h, c), x, h, c, p, storage=storage)


@pytest.mark.parametrize("lead", [(0,), (1,), (7,), (2, 3), (2, 1, 3), (3, 0, 2)])
def test_each_vector_of_a_batch_has_the_bits_of_a_call_of_its_own(api, lead):
    cell = api.LSTMCell(**draw_layer(5, 18))
    x, h, c = draw_step(*lead, n=5, hidden=18)
    result = cell(x, h, c)
    assert isinstance(result, tuple)
    assert [a.shape for a in result] == [(*lead, 18)] * 2
    for index in np.ndindex(lead):
        same([a[index] for a in result], cell(x[index], h[index], c[index]))


@storages
def test_biases_are_added_in_the_dtype(api, storage):
    dtype = dtype_of(storage)
    p = draw_layer(4, 20, dtype=dtype)
    a, b = p.pop("bias_ih"), p.pop("bias_hh")
    args = draw_step(3, n=4, hidden=20, dtype=dtype)

    def cell(*biases):
        return api.LSTMCell(*p.values(), *biases, storage=storage)(*args)

    same(cell(a, b), cell(a + b))
    same(cell(a, b), cell(None, a + b))
    same(cell(), cell(np.zeros_like(a)))
    same(cell(a), cell(None, a))


def test_no_cell_state_exceeds_clip(api):
    p, (x, h, c) = draw_layer(4, 50), draw_step(9, n=4, hidden=50)
    limit = np.float32(0.3)
    _, c_n = api.LSTMCell(**p, clip=0.3)(x, h, 3 * c)
    assert np.abs(c_n).max() == limit and {limit, -limit} <= set(c_n.flat)
    for no_limit in (None, math.inf, np.float32(np.inf), 1e30, 10**400):
        same(api.LSTMCell(**p, clip=no_limit, gate_clip=no_limit)(x, h, c), api.LSTMCell(**p)(x, h, c))
    one = api.LSTMCell(**p, clip=np.float64(0.3), gate_clip=2)(x, h, c)
    same(api.LSTMCell(**p, clip=0.3, gate_clip=2.0)(x, h, c), one)


def test_gate_clip_limits_the_sums_of_all_gates(api):
    """Sums of +-100 are clipped to +-2, so that i = f = o = sigma(+-2) and g = tanh(+-2)."""
    for sign in (1, -1):
        bias = np.full(4, sign * 100, np.float32)
        cell = api.LSTMCell(np.zeros((4, 1), np.float32), np.zeros((4, 1), np.float32), bias, gate_clip=2)
        h, c = cell([1.0], [1.0], [0.5])
        s, t = 1 / (1 + math.exp(-2 * sign)), math.tanh(2 * sign)
        np.testing.assert_allclose(c, [s * 0.5 + s * t], rtol=1e-6)
        np.testing.assert_allclose(h, s * np.tanh(np.float64(c)), rtol=1e-6)


def constant(api, i, f, g, o, **options):
    """A cell of one unit without inputs, whose gates have these sums whatever h is."""
    return api.LSTMCell(np.empty((4, 0)).tolist(), [[0]] * 4, [i, f, g, o], **options)


@pytest.mark.parametrize("storage, least", [("float32", 2.0**-100), ("float64", 2.0**-960)])
def test_states_below_the_least_magnitude_become_plus_zero(api, storage, least):
    dtype, x = dtype_of(storage), np.empty(0, dtype_of(storage))
    keeps = constant(api, -np.inf, np.inf, 0, np.inf, storage=storage)  # c' = c, h = tanh(c')
    below = np.nextafter(dtype(least), dtype(0))
    for value in (least, 2 * least, 1.0):
        for c in (value, -value):
            c = np.array([c], dtype)
            same(keeps(x, [0], c)[1], c)
    for value in (below, least / 2, np.finfo(dtype).smallest_subnormal, 0.0):
        for c in (value, -value):
            same(keeps(x, [0], [c]), [np.zeros(1, dtype)] * 2)
    halves = constant(api, -np.inf, np.inf, 0, 0, storage=storage)  # c' = c, h = tanh(c') / 2
    for c in (1.5 * least, -1.5 * least):
        same(halves(x, [0], [c]), [np.zeros(1, dtype), np.array([c], dtype)])
    h, c = constant(api, -np.inf, np.inf, 0, 0, storage=storage, clip=least / 2)(x, [0], [1])
    assert h == c == 0, "c is clipped first, and then set to zero because it is tiny"


def test_a_state_that_decays_reaches_zero(api):
    """It never becomes a subnormal number, which would slow down a stream that gets no input."""
    stream = constant(api, -np.inf, 0, 0, 0).stream()
    stream.state = [1], [1]
    for k in range(1, 103):
        stream.step([])
        h, c = stream.state
        assert c[0] == (0.5**k if k <= 100 else 0)
        assert h[0] == 0 or h[0] >= 2.0**-100
    assert h[0] == 0


@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
def test_16_bit_weights_give_the_bits_of_the_same_weights_in_float32(api, storage):
    half = np.float16 if storage == "float16" else pytest.importorskip("ml_dtypes").bfloat16
    p = {key: value.astype(half) for key, value in draw_layer(4, 5, 3, peephole=True).items()}
    floats = {key: value.astype(np.float32) for key, value in p.items()}
    args = draw_step(n=4, hidden=5, outputs=3)
    same(api.LSTMCell(**p, storage=storage)(*args), api.LSTMCell(**floats, storage=storage)(*args))
    x = draw(6, 4)
    same(api.LSTM([p], storage=storage)(x), api.LSTM([floats], storage=storage)(x))


def test_int8_has_one_scale_for_a_row_of_both_weights(api):
    """A row of weight_ih and weight_hh shares a scale, so that a much smaller weight_hh is rounded to zero."""
    p = draw_layer(6, 5, biases=0)
    p["weight_hh"] *= np.float32(1e-4)
    x, h, c = draw_step(n=6, hidden=5)
    cell = api.LSTMCell(**p, storage="int8")
    same(cell(x, h, c), cell(x, 0 * h, c))
    close_step(cell(x, h, c), x, h, c, p, storage="int8")


# ---- special values ---------------------------------------------------------------------------


@storages
@every_option
def test_nan_stays_in_its_row(api, options, storage):
    own, given = split(options)
    dtype = dtype_of(storage)
    cell = api.LSTMCell(**draw_layer(6, 17, dtype=dtype, **own), storage=storage, **given)
    args = draw_step(7, n=6, hidden=17, outputs=own.get("outputs"), dtype=dtype)
    want = cell(*args)
    for array_of, row in zip(args, (1, 3, 4)):
        array_of[row, 2] = np.nan
    h, c = cell(*args)
    clean = [0, 2, 5, 6]
    same([h[clean], c[clean]], [want[0][clean], want[1][clean]])
    assert np.isnan(c[[1, 3]]).all() and np.isnan(h[[1, 3]]).all()
    if not own:
        np.testing.assert_array_equal(np.isnan(c[4]), np.arange(17) == 2)
        np.testing.assert_array_equal(np.isnan(h[4]), np.arange(17) == 2)


def test_infinite_inputs_are_close_to_float64(api):
    p = draw_layer(2, 20)
    p["weight_ih"][:, 0] = np.sign(p["weight_ih"][:, 0])
    x, h, c = draw_step(2, n=2, hidden=20)
    x[:, 0] = np.inf, -np.inf
    for options in ({}, {"clip": 0.5}, {"gate_clip": 3.0}):
        close_step(api.LSTMCell(**p, **options)(x, h, c), x, h, c, p, **options)
    assert np.isnan(api.LSTMCell(**p)(x, h, np.full_like(c, np.inf))[1]).any()  # f = 0 gives 0 * inf


def test_overflow_and_nan_give_no_warnings(api, recwarn):
    p = draw_layer(3, 5, 4, peephole=True)
    p["bias_ih"][:2], p["bias_hh"][:2] = np.inf, -np.inf
    p["weight_ih"][:] = 1e38
    with np.errstate(all="raise"):
        for storage in ("float32", "float16", "float64"):
            big = {key: np.minimum(value, 6e4).astype(dtype_of(storage)) for key, value in p.items()}
            cell = api.LSTMCell(**big, storage=storage, clip=1e-50, gate_clip=1e300)
            cell([1e38, -np.inf, np.nan], [0, 1e-45, 1, 2], [np.inf, 1e-45, 1e-30, 0, 1e38])
            lstm = api.LSTM([big], storage=storage)
            lstm([[1e38, 0, 0]] * 3)
            lstm.stream().step([1e38, 0, 1e-45])
    assert not recwarn.list


# ---- out --------------------------------------------------------------------------------------


@storages
@every_option
def test_out_has_the_bits_of_a_new_result(api, options, storage):
    own, given = split(options)
    dtype = dtype_of(storage)
    cell = api.LSTMCell(**draw_layer(6, 17, dtype=dtype, **own), storage=storage, **given)
    for lead in [(), (3,), (2, 2), (0,)]:
        x, h, c = draw_step(*lead, n=6, hidden=17, outputs=own.get("outputs"), dtype=dtype)
        want = cell(x, h, c)
        for pair in (tuple, list):
            out = pair(np.full_like(a, 7) for a in want)
            got = cell(x, h, c, out=out)
            assert isinstance(got, tuple) and got[0] is out[0] and got[1] is out[1]
            same(got, want)
        same(cell(x, h, c, out=None), want)
        for _ in range(3):
            want = cell(x, h, c)
            got = cell(x, h, c, out=(h, c))
            assert got[0] is h and got[1] is c
            same([h, c], want)


@pytest.mark.parametrize("shift", [-17, -3, 0, 1, 16, 40])
def test_out_may_overlap_any_input(api, shift):
    hidden = 17
    p = draw_layer(hidden, hidden)
    cell = api.LSTMCell(**p)
    for batch in (1, 3):
        size = batch * hidden
        for moved in (0, 1):  # the index of the output that lies in `memory`: h or c
            for under in range(3):  # the index of the input that lies there: x, h or c
                memory = draw(3 * size + 120)
                args = [draw(batch, hidden, seed=k) for k in range(3)]
                args[under] = memory[60 : 60 + size].reshape(batch, hidden)
                out = [np.empty_like(args[0]), np.empty_like(args[0])]
                out[moved] = memory[60 + shift : 60 + shift + size].reshape(batch, hidden)
                want = cell(*(a.copy() for a in args))
                same(cell(*args, out=out), want)


def test_out_may_be_c_and_h_in_exchanged_places(api):
    cell = api.LSTMCell(**draw_layer(3, 20))
    x, h, c = draw_step(4, n=3, hidden=20)
    want = cell(x, h, c)
    same(cell(x, h, c, out=(c, h)), want)
    same([c, h], want)


def test_all_buffers_are_taken(api):
    cell = api.LSTMCell(**draw_layer(3, 2))
    x, h, c = draw_step(n=3, hidden=2)
    want = cell(x, h, c)
    buffers = [array.array("f", a) for a in (x, h, c)]
    same(cell(*buffers), want)
    out = array.array("f", [9, 9]), memoryview(np.empty(2, np.float32))
    got = cell(memoryview(x), *buffers[1:], out=out)
    assert got[0] is out[0] and got[1] is out[1]
    same([np.asarray(a) for a in out], want)
    assert cell(*buffers, out=(buffers[1], buffers[2]))[0] is buffers[1]
    same([np.asarray(a) for a in buffers[1:]], want)
    y = array.array("f", [9, 9])
    stream = cell.stream()
    assert stream.step(array.array("f", x), out=y) is y
    same(np.asarray(y), cell(x)[0])
    lstm = api.LSTM([draw_layer(3, 2)])
    view = memoryview(np.empty((1, 2), np.float32))
    assert lstm(memoryview(x[np.newaxis]), out=view)[0] is view
    same(np.asarray(view), cell(x)[0][np.newaxis])


def test_lists_are_converted(api):
    p = draw_layer(3, 2, 1, peephole=True)
    lists = {key: value.tolist() for key, value in p.items()}
    x, h, c = draw_step(4, n=3, hidden=2, outputs=1)
    want = api.LSTMCell(**p)(x, h, c)
    same(api.LSTMCell(**lists)(x.tolist(), h.tolist(), c.tolist()), want)
    lstm = api.LSTM([p])
    want = lstm(x, (h[:1], c[:1]))
    same(api.LSTM((lists,))(x.tolist(), (h[:1].tolist(), c[:1].tolist())), want)
    same(api.LSTM(iter([p]))(x, [h[:1], c[:1]]), want)
    stream = lstm.stream()
    stream.state = [h[:1].tolist(), c[:1].tolist()]
    same([stream.step(row) for row in x.tolist()], list(want[0]))


def test_inputs_of_every_layout_give_the_same_bits(api):
    cell = api.LSTMCell(**draw_layer(9, 9))
    x, h, c = draw_step(4, 3, n=9, hidden=9)
    want = cell(x, h, c)
    out = tuple(np.empty_like(a) for a in want)
    for others in zip(every_layout(x), every_layout(h), every_layout(c)):
        same(cell(*others), want)
        same(cell(*others, out=out), want)
    lstm = api.LSTM(draw_layers(9, 9, both=True), batch_first=True)
    states = (h[:2, :1].repeat(4, 1), c[:2, :1].repeat(4, 1))
    want = lstm(x, states)
    for others in zip(every_layout(x), every_layout(states[0]), every_layout(states[1])):
        same(lstm(others[0], others[1:]), want)
        same(lstm(others[0], others[1:], out=np.empty_like(want[0])), want)
    stream = cell.stream(4)
    stream.state = h[:, 0], c[:, 0]
    assert not h[:, 0].flags.c_contiguous
    want = cell(x[:, 0], h[:, 0], c[:, 0])
    same(stream.step(x[:, 0]), want[0])
    same(stream.state, want)


@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_parameters_of_every_layout_give_the_same_bits(api, storage):
    p = draw_layer(3, 5, 4, peephole=True)
    x = draw(6, 3)
    args = draw_step(n=3, hidden=5, outputs=4)
    want = api.LSTMCell(**p, storage=storage)(*args)
    sequence = api.LSTM([p], storage=storage)(x)
    layouts = {
        key: [a[0] if value.ndim == 2 else a[0, 0] for a in every_layout(np.atleast_2d(value)[np.newaxis])]
        for key, value in p.items()
    }
    for values in zip(*layouts.values()):
        other = dict(zip(layouts, values))
        same(api.LSTMCell(**other, storage=storage)(*args), want)
        same(api.LSTM([other], storage=storage)(x), sequence)


def test_bits_do_not_depend_on_alignment(api):
    cell = api.LSTMCell(**draw_layer(33, 40))
    args = draw_step(2, n=33, hidden=40)
    want = cell(*args)
    for shift in range(1, 17, 3):
        moved = []
        for given in (*args, *want):
            raw = np.empty(given.size + 32, np.float32)
            start = -raw.ctypes.data // 4 % 16 + shift
            moved.append(raw[start : start + given.size].reshape(given.shape))
            moved[-1][...] = given
        same(cell(*moved[:3]), want)
        same(cell(*moved[:3], out=tuple(moved[3:])), want)
