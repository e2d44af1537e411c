"""Everything a user can do with an LSTM that is right: its numbers, its bits, its objects."""

import array
import copy
import gc
import inspect
import math
import pickle
import sys

import fastgate
import numpy as np
import pytest
from helpers import allocates_nothing, compiled_only, draw, dtype_of, every_layout, storages
from helpers.layers import draw_layer, draw_layers, draw_state, draw_step, every_option, same, split
from helpers.oracle import close_step, run

SIZES = [0, 1, 15, 16, 17, 63, 64, 65]


# ---- a step -----------------------------------------------------------------------------------

@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("hidden", SIZES)
def test_sizes(api, n, hidden):
    p = draw_layer(n, hidden)
    x, h, c = draw_step(n=n, hidden=hidden)
    close_step(api.LSTMCell(**p)(x, h, c), x, h, c, p)


@pytest.mark.parametrize("outputs", SIZES[1:])
@pytest.mark.parametrize("hidden", [0, 1, 16, 31, 65])
def test_sizes_of_projections(api, hidden, outputs):
    p = draw_layer(5, hidden, outputs)
    x, h, c = draw_step(2, n=5, hidden=hidden, outputs=outputs)
    cell = api.LSTMCell(**p)
    assert (cell.hidden_size, cell.output_size) == (hidden, outputs)
    close_step(cell(x, h, c), x, h, c, p)


@storages
@every_option
def test_options(api, options, storage):
    own, given = split(options)
    given["storage"] = storage
    p = draw_layer(21, 33, dtype=dtype_of(storage), **own)
    cell = api.LSTMCell(**p, **given)
    for lead in [(), (5,)]:
        x, h, c = draw_step(
            *lead, n=21, hidden=33, outputs=own.get("outputs"), dtype=dtype_of(storage)
        )
        close_step(cell(x, h, c), x, h, c, p, **given)
        close_step(cell(x), x, 0 * h, 0 * c, p, **given)


@pytest.mark.parametrize("n, hidden", [(500, 30), (1025, 7), (3, 300), (4000, 2)])
@storages
def test_long_rows(api, n, hidden, storage):
    p = draw_layer(n, hidden, dtype=dtype_of(storage))
    x, h, c = draw_step(3, n=n, hidden=hidden, dtype=dtype_of(storage))
    close_step(api.LSTMCell(**p, storage=storage)(x, h, c), x, h, c, p, storage=storage)


@pytest.mark.parametrize("lead", [(0,), (1,), (7,), (2, 3), (2, 1, 3), (3, 0, 2)])
def test_leading_axes(api, lead):
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


def test_clip_is_kept(api):
    p, (x, h, c) = draw_layer(4, 50), draw_step(9, n=4, hidden=50)
    limit = np.float32(0.3)
    _, c_n = api.LSTMCell(**p, clip=0.3)(x, h, 3 * c)
    assert np.abs(c_n).max() == limit and {limit, -limit} <= set(c_n.flat)
    for no_limit in (None, math.inf, np.float32(np.inf), 1e30, 10**400):
        same(api.LSTMCell(**p, clip=no_limit, gate_clip=no_limit)(x, h, c), api.LSTMCell(**p)(x, h, c))
    one = api.LSTMCell(**p, clip=np.float64(0.3), gate_clip=2)(x, h, c)
    same(api.LSTMCell(**p, clip=0.3, gate_clip=2.0)(x, h, c), one)


def test_gate_clip_is_of_all_gates(api):
    """Sums far off: i = f = sigma(2), g = tanh(2), o = sigma(2) or the same below."""
    for sign in (1, -1):
        bias = np.full(4, sign * 100, np.float32)
        cell = api.LSTMCell(np.zeros((4, 1), np.float32), np.zeros((4, 1), np.float32), bias, gate_clip=2)
        h, c = cell([1.0], [1.0], [0.5])
        s, t = 1 / (1 + math.exp(-2 * sign)), math.tanh(2 * sign)
        np.testing.assert_allclose(c, [s * 0.5 + s * t], rtol=1e-6)
        np.testing.assert_allclose(h, s * np.tanh(np.float64(c)), rtol=1e-6)


def constant(api, i, f, g, o, **options):
    """A cell of one unit that reads nothing: its gates' sums."""
    return api.LSTMCell(np.empty((4, 0)).tolist(), [[0]] * 4, [i, f, g, o], **options)


@pytest.mark.parametrize("storage, least", [("float32", 2.0**-100), ("float64", 2.0**-960)])
def test_what_is_tiny_becomes_zero(api, storage, least):
    dtype, x = dtype_of(storage), np.empty(0, dtype_of(storage))
    keeps = constant(api, -np.inf, np.inf, 0, np.inf, storage=storage)  # c' = c, h = tanh(c')
    below = np.nextafter(dtype(least), dtype(0))
    for value in (least, 2 * least, 1.0):
        for c in (value, -value):
            c = np.array([c], dtype)
            same(keeps(x, [0], c)[1], c)
    for value in (below, least / 2, np.finfo(dtype).smallest_subnormal, 0.0):
        for c in (value, -value):
            same(keeps(x, [0], [c]), [np.zeros(1, dtype)] * 2)  # +0
    halves = constant(api, -np.inf, np.inf, 0, 0, storage=storage)
    h, c = halves(x, [0], [1.5 * least])
    assert c == dtype(1.5 * least) and h == 0 and not np.signbit(h)
    h, c = halves(x, [0], [-1.5 * least])
    assert c == dtype(-1.5 * least) and h == 0 and not np.signbit(h)
    h, c = constant(api, -np.inf, np.inf, 0, 0, storage=storage, clip=least / 2)(x, [0], [1])
    assert h == c == 0, "first the limit, then this"


def test_a_silent_stream_falls_silent(api):
    stream = constant(api, -np.inf, 0, 0, 0).stream()
    stream.state = [1], [1]
    for k in range(1, 103):
        stream.step([])
        h, c = stream.state
        assert c[0] == (0.5**k if k <= 100 else 0)
        assert h[0] == 0 or h[0] >= 2.0**-100
    assert h[0] == 0


@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
def test_16_bit_arrays_are_taken_as_they_are(api, storage):
    half = np.float16 if storage == "float16" else pytest.importorskip("ml_dtypes").bfloat16
    p = {key: value.astype(half) for key, value in draw_layer(4, 5, 3, peephole=True).items()}
    floats = {key: value.astype(np.float32) for key, value in p.items()}
    args = draw_step(n=4, hidden=5, outputs=3)
    same(api.LSTMCell(**p, storage=storage)(*args), api.LSTMCell(**floats, storage=storage)(*args))
    x = draw(6, 4)
    same(api.LSTM([p], storage=storage)(x), api.LSTM([floats], storage=storage)(x))


def test_int8_scales_a_row_of_both_weights(api):
    """[weight_ih | weight_hh] share a scale: the smaller ones are rounded away."""
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


def test_nan_in_a_sequence_stays_in_its_row(api):
    lstm = api.LSTM(draw_layers(3, 17, layers=2))
    x = draw(6, 5, 3)
    y, _ = lstm(x)
    x[2, 1, 0] = np.nan
    z, (h, c) = lstm(x)
    same(z[:, [0, 2, 3, 4]], y[:, [0, 2, 3, 4]])
    same(z[:2], y[:2])
    assert np.isnan(z[2:, 1]).all() and np.isnan(h[:, 1]).all() and np.isnan(c[:, 1]).all()


def test_infinity(api):
    p = draw_layer(2, 20)
    p["weight_ih"][:, 0] = np.sign(p["weight_ih"][:, 0])
    x, h, c = draw_step(2, n=2, hidden=20)
    x[:, 0] = np.inf, -np.inf
    for options in ({}, {"clip": 0.5}, {"gate_clip": 3.0}):
        close_step(api.LSTMCell(**p, **options)(x, h, c), x, h, c, p, **options)
    assert np.isnan(api.LSTMCell(**p)(x, h, np.full_like(c, np.inf))[1]).any()  # 0 inf


def test_no_warnings(api, recwarn):
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
def test_out(api, options, storage):
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
        for moved in (0, 1):  # h or c
            for under in range(3):  # x, h or c
                memory = draw(3 * size + 120)
                args = [draw(batch, hidden, seed=k) for k in range(3)]
                args[under] = memory[60 : 60 + size].reshape(batch, hidden)
                out = [np.empty_like(args[0]), np.empty_like(args[0])]
                out[moved] = memory[60 + shift : 60 + shift + size].reshape(batch, hidden)
                want = cell(*(a.copy() for a in args))
                same(cell(*args, out=out), want)


def test_out_may_exchange_h_and_c(api):
    cell = api.LSTMCell(**draw_layer(3, 20))
    x, h, c = draw_step(4, n=3, hidden=20)
    want = cell(x, h, c)
    same(cell(x, h, c, out=(c, h)), want)
    same([c, h], want)


def test_other_buffers(api):
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


def test_sequences_are_converted(api):
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


def test_inputs_of_any_layout(api):
    cell = api.LSTMCell(**draw_layer(9, 9))
    x, h, c = draw_step(4, 3, n=9, hidden=9)
    want = cell(x, h, c)
    out = tuple(np.empty_like(a) for a in want)
    for others in zip(every_layout(x), every_layout(h), every_layout(c)):
        same(cell(*others), want)
        same(cell(*others, out=out), want)
    lstm = api.LSTM(draw_layers(9, 9, both=True), batch_first=True)
    want = lstm(x, (h[:2, :1].repeat(4, 1), c[:2, :1].repeat(4, 1)))
    states = (h[:2, :1].repeat(4, 1), c[:2, :1].repeat(4, 1))
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
def test_parameters_of_any_layout(api, storage):
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


# ---- sequences --------------------------------------------------------------------------------


def close_run(got, want, tolerance=1e-5, dtype=np.float32):
    """The oracle's steps begin where its own ended, so differences add up: this is no error bound."""
    for array_of, wanted in zip(got, want):
        assert array_of.shape == wanted.shape and array_of.dtype == dtype
        np.testing.assert_allclose(array_of, wanted.astype(dtype), rtol=0, atol=tolerance)


@pytest.mark.parametrize("steps", [0, 1, 2, 17])
@pytest.mark.parametrize("layers, both", [(1, False), (2, False), (3, False), (1, True), (2, True)])
@pytest.mark.parametrize("outputs", [None, 6])
def test_sequences(api, steps, layers, both, outputs):
    made = draw_layers(5, 9, outputs, layers=layers, both=both)
    size, directions = 9 if outputs is None else outputs, 1 + both
    for options in [{}, {"batch_first": True}, *([] if both else [{"reverse": True}])]:
        lstm = api.LSTM(made, **options)
        for batch in [(), (3,)]:
            x, state = draw(steps, *batch, 5), draw_state(lstm, *batch)
            first = x.swapaxes(0, 1) if lstm.batch_first and batch else x
            y, last = lstm(first, state)
            if lstm.batch_first and batch:
                y = y.swapaxes(0, 1)
            assert y.shape == (steps, *batch, directions * size)
            close_run((y, *last), run(x, *state, made, reverse=lstm.reverse))


@storages
@every_option
def test_sequences_of_every_storage(api, options, storage):
    own, given = split(options)
    dtype = dtype_of(storage)
    made = draw_layers(5, 9, layers=2, both=True, dtype=dtype, **own)
    lstm = api.LSTM(made, storage=storage, **given)
    x, state = draw(6, 5, dtype=dtype), draw_state(lstm)
    y, last = lstm(x, state)
    tolerance = {"int8": 2e-3, "float64": 1e-14}.get(storage, 1e-5)
    close_run((y, *last), run(x, *state, made, storage=storage, **given), tolerance, dtype)


def test_without_a_state_it_begins_with_zeros(api):
    for both in (False, True):
        lstm = api.LSTM(draw_layers(5, 9, 6, layers=2, both=both))
        for lead in [(3,), (3, 2), (0,), (1, 0)]:
            x = draw(*lead, 5)
            zeros = tuple(np.zeros_like(a) for a in draw_state(lstm, *lead[1:]))
            same(lstm(x), lstm(x, zeros))


def step_by_step(api, layers, x, state, **options):
    """x (T, ..., n) through one LSTMCell after the other, forwards."""
    h_n, c_n, y = [], [], x
    for k, layer in enumerate(layers):
        cell = api.LSTMCell(**layer, **options)
        h, c = (a[k] for a in state)
        hs = []
        for row in y:
            h, c = cell(row, h, c)
            hs.append(h)
        y = np.stack(hs)
        h_n.append(h)
        c_n.append(c)
    return y, (np.stack(h_n), np.stack(c_n))


@storages
@every_option
def test_a_sequence_is_its_steps(api, options, storage):
    own, given = split(options)
    given["storage"] = storage
    dtype = dtype_of(storage)
    layers = draw_layers(5, 17, layers=2, dtype=dtype, **own)
    lstm = api.LSTM(layers, **given)
    for batch in [(), (6,)]:
        x, state = draw(5, *batch, 5, dtype=dtype), draw_state(lstm, *batch)
        want = lstm(x, state)
        same(step_by_step(api, layers, x, state, **given), want)
        stream = lstm.stream(*batch)
        stream.state = state
        same(np.stack([stream.step(row) for row in x]), want[0])
        same(stream.state, want[1])


@pytest.mark.parametrize("storage", ["float32", "int8", "float64"])
@pytest.mark.parametrize(
    "n, hidden, outputs",
    [(0, 4, None), (1, 1, None), (3, 0, None), (64, 65, None), (130, 3, 70), (257, 5, None)]
    + [(513, 20, None), (1025, 3, None), (3, 140, 5), (4097, 2, None)],
)
def test_a_sequence_of_any_size_is_its_steps(api, n, hidden, outputs, storage):
    """Sums are cut into blocks, across the border of x and h, too."""
    dtype = dtype_of(storage)
    layers = draw_layers(n, hidden, outputs, dtype=dtype)
    lstm = api.LSTM(layers, storage=storage)
    for batch in [(), (3,)]:
        x, state = draw(4, *batch, n, dtype=dtype), draw_state(lstm, *batch)
        same(step_by_step(api, layers, x, state, storage=storage), lstm(x, state))


@pytest.mark.parametrize("both, reverse", [(False, False), (False, True), (True, False)])
@pytest.mark.parametrize("storage", ["float32", "int8"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_lengths(api, both, reverse, storage, batch_first):
    """Each row is as it were alone; what lies beyond its length does not matter."""
    lstm = api.LSTM(
        draw_layers(3, 16, 5, layers=2, both=both, peephole=True),
        storage=storage, reverse=reverse, batch_first=batch_first,
    )
    alone = api.LSTM(
        draw_layers(3, 16, 5, layers=2, both=both, peephole=True), storage=storage, reverse=reverse
    )
    lengths = [4, 0, 7, 1, 7, 2, 0, 3, 5]
    x, state = draw(7, 9, 3), draw_state(lstm, 9)
    for row, length in enumerate(lengths):
        x[length:, row] = [np.nan, np.inf, 1e30]
    given = np.ascontiguousarray(x.swapaxes(0, 1)) if batch_first else x
    y, (h, c) = lstm(given, state, lengths=lengths)
    out = np.full_like(y, np.nan)
    got = lstm(given, state, lengths=lengths, out=out)
    assert got[0] is out
    same(got, (y, (h, c)))
    if batch_first:
        y = y.swapaxes(0, 1)
    for row, length in enumerate(lengths):
        want = alone(x[:length, row], (state[0][:, row], state[1][:, row]))
        same((y[:length, row], (h[:, row], c[:, row])), want)
        same(y[length:, row], np.zeros_like(y[length:, row]))


def test_kinds_of_lengths(api):
    lstm = api.LSTM(draw_layers(3, 4))
    x, lengths = draw(5, 3, 3), [5, 0, 2]
    want = lstm(x, lengths=lengths)
    for dtype in (np.int8, np.uint8, np.int32, np.uint64, ">i4"):
        same(lstm(x, lengths=np.array(lengths, dtype)), want)
    same(lstm(x, lengths=tuple(lengths)), want)
    same(lstm(x, lengths=np.repeat(lengths, 2)[::2]), want)
    same(lstm(x, lengths=array.array("q", lengths)), want)
    same(lstm(x, lengths=[5, 5, 5]), lstm(x))
    assert lstm(x[:, :0], lengths=[])[0].shape == (5, 0, 4)
    y, (h, c) = lstm(x[:0], lengths=[0, 0, 0])
    assert y.shape == (0, 3, 4) and not h.any() and not c.any()


@storages
def test_the_place_in_the_batch_does_not_matter(api, storage):
    dtype = dtype_of(storage)
    lstm = api.LSTM(draw_layers(7, 20, 9, layers=2, both=True, dtype=dtype), storage=storage)
    x, state = draw(5, 13, 7, dtype=dtype), draw_state(lstm, 13)
    y, (h, c) = lstm(x, state)
    for rows in ([0], [12], [3, 2], [5, 5, 5, 1], list(range(8)), list(range(12, -1, -1))):
        part = lstm(x[:, rows], (state[0][:, rows], state[1][:, rows]))
        same(part, (y[:, rows], (h[:, rows], c[:, rows])))
    one = lstm(x[:, 4], (state[0][:, 4], state[1][:, 4]))
    same(one, (y[:, 4], (h[:, 4], c[:, 4])))


def test_layers_and_directions_are_made_of_single_ones(api):
    layers = draw_layers(4, 10, layers=2, both=True)
    lstm = api.LSTM(layers)
    x, state = draw(8, 3, 4), draw_state(lstm, 3)
    y, h_n, c_n = x, [], []
    for k, pair in enumerate(layers):
        sides = []
        for d, layer in enumerate(pair):
            at = slice(2 * k + d, 2 * k + d + 1)
            side, (h, c) = api.LSTM([layer], reverse=d == 1)(y, (state[0][at], state[1][at]))
            sides.append(side)
            h_n.append(h)
            c_n.append(c)
        y = np.concatenate(sides, axis=-1)
    same(lstm(x, state), (y, (np.concatenate(h_n), np.concatenate(c_n))))
    y, last = api.LSTM([layers[0][0]], reverse=True)(x)
    forwards, also_last = api.LSTM([layers[0][0]])(x[::-1])
    same((y, last), (forwards[::-1], also_last))


def test_batch_first(api):
    layers = draw_layers(4, 6, layers=2)
    x = draw(5, 3, 4)
    y, state = api.LSTM(layers)(x)
    lstm = api.LSTM(layers, batch_first=True)
    got, got_state = lstm(x.swapaxes(0, 1))
    same(got, y.swapaxes(0, 1))
    same(got_state, state)
    assert got.flags.c_contiguous
    same(lstm(x[:, 0]), api.LSTM(layers)(x[:, 0]))


def test_a_sequence_can_be_cut(api):
    lstm = api.LSTM(draw_layers(4, 6, layers=2))
    for x in (draw(9, 4), draw(9, 3, 4)):
        y, state = lstm(x)
        first, between = lstm(x[:4])
        second, last = lstm(x[4:], between)
        same(np.concatenate([first, second]), y)
        same(last, state)


def test_no_steps_give_the_state_back(api):
    for both in (False, True):
        lstm = api.LSTM(draw_layers(4, 6, layers=2, both=both))
        for batch in [(), (3,), (0,)]:
            x, state = np.empty((0, *batch, 4), np.float32), draw_state(lstm, *batch)
            for given in (state, tuple(a[:, ::-1].copy()[:, ::-1] for a in state)):
                y, got = lstm(x, given)
                assert y.shape == (0, *batch, lstm.output_size)
                same(got, state)
                assert not any(np.shares_memory(a, b) for a, b in zip(got, given))
            assert not np.any(lstm(x)[1][0]) and not np.any(lstm(x)[1][1])


def test_nothing_given_is_changed(api):
    lstm = api.LSTM(draw_layers(4, 6, layers=2, both=True))
    x, state, lengths = draw(5, 3, 4), draw_state(lstm, 3), np.array([5, 2, 0])
    for given in (x, *state, lengths):
        given.flags.writeable = False
    same(lstm(x, state, lengths=lengths), lstm(x.copy(), state, lengths=lengths.tolist()))
    cell = api.LSTMCell(**draw_layer(4, 6))
    args = draw_step(3, n=4, hidden=6)
    for given in args:
        given.flags.writeable = False
    cell(*args)


@pytest.mark.parametrize("sizes", [(0, 3, None), (3, 0, None), (0, 0, None), (3, 0, 2)])
@pytest.mark.parametrize("both", [False, True])
def test_empty_sizes(api, sizes, both):
    n, hidden, outputs = sizes
    layers = draw_layers(n, hidden, outputs, layers=2, both=both)
    lstm = api.LSTM(layers)
    for batch in [(), (2,), (0,)]:
        x, state = draw(3, *batch, n), draw_state(lstm, *batch)
        y, last = lstm(x, state)
        assert y.shape == (3, *batch, lstm.output_size)
        close_run((y, *last), run(x, *state, layers))


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_out_of_a_sequence(api, both, batch_first):
    lstm = api.LSTM(draw_layers(12, 6, 6, layers=2, both=both), batch_first=batch_first)
    size = lstm.output_size
    for lead in [(5,), (5, 3), (1, 1), (0, 2), (4, 0)]:
        x = draw(*lead, 12)
        want = lstm(x)
        out = np.full((*lead, size), 7, np.float32)
        y, state = lstm(x, out=out)
        assert y is out
        same((y, state), want)
        for shift in (0, 1, -3, 13):  # over x
            memory = draw(x.size + 40)
            x = memory[20 : 20 + x.size].reshape(x.shape)
            want = lstm(x.copy())
            start = 20 + shift
            out = memory[start : start + math.prod(lead) * size].reshape(*lead, size)
            same(lstm(x, out=out), want)


def test_out_may_overlap_the_state(api):
    lstm = api.LSTM(draw_layers(4, 6))
    memory = draw(8, 6)
    x, state = draw(8, 4), (memory[2:3], memory[5:6])
    want = lstm(x, tuple(a.copy() for a in state))
    same(lstm(x, state, out=memory), want)


# ---- streams ----------------------------------------------------------------------------------


def sources(api, storage="float32"):
    """A cell and an LSTM, each with a stream."""
    dtype = dtype_of(storage)
    yield api.LSTMCell(**draw_layer(5, 18, dtype=dtype), storage=storage)
    yield api.LSTM(draw_layers(5, 18, 7, layers=3, peephole=True, dtype=dtype), storage=storage, clip=2)


@storages
def test_a_stream_begins_with_zeros(api, storage):
    for source in sources(api, storage):
        for batch in (None, 0, 1, 6):
            stream = source.stream(batch) if batch is not None else source.stream()
            lead = () if batch is None else (batch,)
            layers = (source.num_layers,) if isinstance(source, api.LSTM) else ()
            assert stream.batch == batch and stream.source is source
            h, c = stream.state
            assert h.shape == (*layers, *lead, source.output_size)
            assert c.shape == (*layers, *lead, source.hidden_size)
            assert h.dtype == c.dtype == dtype_of(storage) and not h.any() and not c.any()
            x = draw(4, *lead, 5, dtype=dtype_of(storage))
            for row in x:
                y = stream.step(row)
            assert y.shape == (*lead, source.output_size)
            if layers:
                same((y, stream.state), (source(x)[0][-1], source(x)[1]))


def test_steps_of_a_cells_stream(api):
    cell, _ = sources(api)
    for lead in [(), (3,)]:
        stream = cell.stream(*lead)
        h, c = stream.state
        for x in draw(5, *lead, 5):
            h, c = cell(x, h, c)
            same(stream.step(x), h)
            same(stream.state, (h, c))


def test_out_of_a_step(api):
    for source in sources(api):
        for lead in [(), (3,), (0,)]:
            stream, other = source.stream(*lead), source.stream(*lead)
            out = np.full((*lead, source.output_size), 7, np.float32)
            for x in draw(3, *lead, 5):
                assert stream.step(x, out=out) is out
                same(out, other.step(x))
                assert stream.step(x, out) is out
                same(out, other.step(x, None))
            memory = draw(90)
            x = memory[20 : 20 + 5 * math.prod(lead)].reshape(*lead, 5)
            want = other.step(x.copy())
            same(stream.step(x, out=memory[18 : 18 + out.size].reshape(out.shape)), want)
            same(stream.state, other.state)


def test_a_result_of_a_step_is_not_the_state(api):
    for source in sources(api):
        stream, other = source.stream(), source.stream()
        x = draw(5)
        stream.step(x)[...] = np.nan
        for a in stream.state:
            a[...] = np.nan
        other.step(x)
        same(stream.state, other.state)
        same(stream.step(x), other.step(x))


def test_state_is_set(api):
    for source in sources(api):
        for lead in [(), (4,)]:
            stream = source.stream(*lead)
            state = [draw(*a.shape, seed=k) for k, a in enumerate(stream.state)]
            given = [a.copy() for a in state]
            stream.state = given
            for a in given:
                a[...] = np.nan
            same(stream.state, tuple(state))
            stream.state = tuple(np.asfortranarray(a) for a in state)
            same(stream.state, tuple(state))


def test_reset(api):
    for source in sources(api):
        axis = 1 if isinstance(source, api.LSTM) else 0
        for rows in [
            None, 0, -1, 5, np.int64(2), [1, 3], [-1, 0, 0], (2, 4), [], np.array([1, 5], np.uint8),
            slice(None), slice(1, 6, 2), slice(9, 20), slice(None, None, -1),
            [True, False, True, False, False, True], np.zeros(6, bool),
        ]:
            stream = source.stream(6)
            stream.state = [np.full(a.shape, np.nan, np.float32) for a in stream.state]
            assert stream.reset(rows) is None
            chosen = np.zeros(6, bool)
            chosen[... if rows is None else list(rows) if isinstance(rows, tuple) else rows] = True
            for a in stream.state:
                assert not a.compress(chosen, axis).any(), "not even NaN is left"
                assert np.isnan(a.compress(~chosen, axis)).all()
        stream = source.stream()
        first = stream.step(draw(5))
        stream.reset()
        assert not any(a.any() for a in stream.state)
        same(stream.step(draw(5)), first)
        source.stream(0).reset()
        source.stream(0).reset([])


def test_streams_are_independent(api):
    for source in sources(api):
        stream, other = source.stream(2), source.stream(2)
        xs = draw(4, 2, 5)
        want = [stream.step(x) for x in xs]
        same([other.step(x) for x in xs], want)


@pytest.mark.parametrize("batch", [None, 3])
def test_copies_of_a_stream(api, batch):
    lead = () if batch is None else (batch,)
    xs = draw(5, *lead, 5)
    for source in sources(api):
        stream = source.stream(batch)
        stream.step(xs[0])
        loads = [
            lambda stream, p=p: pickle.loads(pickle.dumps(stream, p))
            for p in range(pickle.HIGHEST_PROTOCOL + 1)
        ]
        others = [duplicate(stream) for duplicate in (copy.copy, copy.deepcopy, *loads)]
        want = [stream.step(x) for x in xs]
        for other in others:
            assert type(other) is type(stream) and other.batch == batch
            assert type(other.source) is type(source)
            same([other.step(x) for x in xs], want)
            same(other.state, stream.state)
        assert others[0].source is others[1].source is source


def test_nan_in_a_batch_of_streams(api):
    for source in sources(api):
        stream, clean = source.stream(3), source.stream(3)
        x = draw(3, 5)
        clean.step(x)
        x[1] = np.nan
        stream.step(x)
        stream.reset(1)
        clean.reset([1])
        same(stream.state, clean.state)


def test_a_stream_keeps_its_source(api):
    p = draw_layer(30, 20)
    stream = api.LSTMCell(**p).stream()
    gc.collect()
    close_step((stream.step(draw(30)), stream.state[1]), draw(30), np.zeros(20), np.zeros(20), p)


def test_attributes_of_a_stream(api):
    for source in sources(api):
        stream = source.stream(np.int8(2))
        assert type(stream).__name__ == "Stream" and stream.batch == 2
        for name in ("batch", "source", "other"):
            with pytest.raises(AttributeError):
                setattr(stream, name, 1)


# ---- the objects ------------------------------------------------------------------------------


def test_properties(api, set_threads):
    cell = api.LSTMCell(**draw_layer(5, 7, 3))
    assert (cell.input_size, cell.hidden_size, cell.output_size) == (5, 7, 3)
    assert (cell.storage, cell.threads) == ("float32", 1)
    assert cell.nbytes >= 4 * (28 * 8 + 28 + 21)
    for part in ("LSTMCell(input_size=5, hidden_size=7", "storage='float32', threads=1)"):
        assert part in repr(cell)
    lstm = api.LSTM(draw_layers(5, 7, 3, layers=2, both=True), batch_first=True, storage="float16")
    assert (lstm.input_size, lstm.hidden_size, lstm.output_size) == (5, 7, 6)
    assert (lstm.num_layers, lstm.bidirectional, lstm.batch_first, lstm.reverse) == (2, True, True, False)
    assert (lstm.storage, lstm.threads) == ("float16", 1)
    assert lstm.nbytes >= 2 * 2 * 28 * 8
    for part in ("LSTM(input_size=5, hidden_size=7", "storage='float16', threads=1)"):
        assert part in repr(lstm)
    lstm = api.LSTM(draw_layers(5, 7), reverse=True, threads=3)
    assert (lstm.output_size, lstm.num_layers, lstm.bidirectional, lstm.batch_first) == (7, 1, False, False)
    assert lstm.reverse is True and lstm.threads == 3
    set_threads(2)
    assert lstm.threads == cell.threads == 2


def test_immutable(api):
    p, layers = draw_layer(4, 3, 2, peephole=True), draw_layers(4, 3, 2, peephole=True)
    x = draw(5, 4)
    cell, lstm = api.LSTMCell(**p), api.LSTM(layers)
    want = cell(x), lstm(x)
    for value in (*p.values(), *layers[0].values()):
        value[...] = 0
    layers[0].clear()
    layers.clear()
    same((cell(x), lstm(x)), want)
    for made in (cell, lstm):
        for name in ("input_size", "hidden_size", "output_size", "storage", "nbytes", "threads", "other"):
            with pytest.raises(AttributeError):
                setattr(made, name, 1)
    for name in ("num_layers", "bidirectional", "batch_first", "reverse"):
        with pytest.raises(AttributeError):
            setattr(lstm, name, 1)


def test_copies_are_the_object_itself(api):
    for made in sources(api):
        assert copy.copy(made) is made
        assert copy.deepcopy([made])[0] is made


@storages
@every_option
def test_pickle(api, options, storage):
    own, given = split(options)
    dtype = dtype_of(storage)
    p = draw_layer(5, 7, dtype=dtype, **own)
    cell = api.LSTMCell(**p, storage=storage, threads=2, **given)
    args = draw_step(3, n=5, hidden=7, outputs=own.get("outputs"), dtype=dtype)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        loaded = pickle.loads(pickle.dumps(cell, protocol))
        assert type(loaded) is api.LSTMCell
        assert repr(loaded) == repr(cell) and loaded.nbytes == cell.nbytes
        same(loaded(*args), cell(*args))
    x = draw(3, 2, 5, dtype=dtype)
    for both in (False, True):
        layers = draw_layers(5, 7, layers=2, both=both, dtype=dtype, **own)
        lstm = api.LSTM(layers, storage=storage, batch_first=both, reverse=not both, **given)
        loaded = pickle.loads(pickle.dumps(lstm))
        assert type(loaded) is api.LSTM and repr(loaded) == repr(lstm)
        assert (loaded.batch_first, loaded.reverse) == (both, not both)
        same(loaded(x), lstm(x))


def test_a_pickle_is_of_the_rounded_weights(api):
    """It is made again of what it held, int8's rows with their scales."""
    cell = api.LSTMCell(**draw_layer(9, 8, 7), storage="int8")
    again = pickle.loads(pickle.dumps(cell))
    assert pickle.dumps(again) == pickle.dumps(cell)


def test_pickle_keeps_special_values(api):
    bias = np.array([np.inf, -np.inf, np.nan, 1], np.float32)
    cell = api.LSTMCell(np.zeros((4, 1), np.float32), np.zeros((4, 1), np.float32), bias)
    x = [1.0]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(cell))(x), cell(x))


@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_threads_do_not_change_bits(api, storage, set_threads):
    layers = draw_layers(150, 150, layers=2, both=True)
    x = draw(3, 9, 150)
    want = api.LSTM(layers, storage=storage)(x)
    same(api.LSTM(layers, storage=storage, threads=3)(x), want)
    set_threads(2)
    same(api.LSTM(layers, storage=storage)(x), want)
    same(api.LSTM(layers, storage=storage)(x[:, 2])[0], want[0][:, 2])


def test_signatures(api):
    parameters = ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "peephole", "projection"]
    step = ["clip", "gate_clip", "input_forget", "storage", "threads"]
    for function, names in {
        api.LSTMCell: [*parameters, *step],
        api.LSTMCell.stream: ["self", "batch"],
        api.LSTM: ["layers", "batch_first", "reverse", *step],
        api.LSTM.stream: ["self", "batch"],
        api.LSTM.gates: ["self", "x", "state", "lengths", "layer", "direction"],
        api.LSTMCell.from_torch: ["source", "prefix", "storage", "threads"],
        api.LSTM.from_torch: ["source", "prefix", "batch_first", "storage", "threads"],
        api.LSTM.from_keras: ["source", "prefix", "bidirectional", "storage", "threads"],
        api.LSTM.from_onnx: ["source", "node", "weights", "storage", "threads"],
    }.items():
        assert list(inspect.signature(function).parameters) == names
        assert function.__doc__
    stream = type(api.LSTMCell(**draw_layer(1, 1)).stream())
    assert list(inspect.signature(stream.step).parameters) == ["self", "x", "out", "rows"]
    assert list(inspect.signature(stream.resize).parameters) == ["self", "batch"]
    assert list(inspect.signature(stream.reset).parameters) == ["self", "rows"]


def test_every_way_of_calling(api):
    cell = api.LSTMCell(**draw_layer(3, 4))
    x, h, c = draw_step(n=3, hidden=4)
    want = cell(x, h, c)
    same(cell(x=x, h=h, c=c), want)
    same(cell(x, c=c, h=h), want)
    same(cell(*(x, h), **{"c": c, "out": None}), want)
    same(type(cell).__call__(cell, x, h, c), want)
    same(cell(x, None, None), cell(x))
    lstm = api.LSTM(draw_layers(3, 4))
    x = draw(3, 2, 3)
    same(lstm(x=x, state=None, lengths=None, out=None), lstm(x))
    stream = lstm.stream(batch=2)
    same(stream.step(x=x[0], out=None), lstm(x)[0][0])


# ---- the compiled core only -------------------------------------------------------------------


@compiled_only
def test_core_and_reference_agree_on_pickles():
    """Each comes back as what it was, and the core's loads where there is none: see _parameters.make."""
    for core, reference in zip(sources(fastgate), sources(fastgate.reference)):
        make, arguments = core.__reduce__()
        assert make is fastgate._parameters.make
        name, arguments, options = arguments
        loaded = getattr(fastgate.reference, name)(*arguments, **options)
        assert repr(loaded) == repr(reference)
        name, arguments, options = reference.__reduce__()[1]
        loaded = make(name, arguments, options)
        assert type(loaded) is type(core) and repr(loaded) == repr(core)
        x = draw(5)
        same(loaded.stream().step(x), core.stream().step(x))


@compiled_only
def test_no_allocation():
    """10,000 calls leave the heap as it was, and take no more of it in between than one does."""
    cell, lstm = sources(fastgate)
    x, h, c = draw_step(n=5, hidden=18)
    state, y = (h, c), np.empty(7, np.float32)
    stream, own = lstm.stream(), cell.stream()

    def calls(count):
        for _ in range(count):
            cell(x, h, c, out=state)
            stream.step(x, out=y)
            own.step(x, out=h)

    allocates_nothing(calls)


@compiled_only
def test_references_are_balanced():
    cell, lstm = sources(fastgate)
    x, h, c = draw_step(n=5, hidden=18)
    y, seq = np.empty(7, np.float32), draw(3, 5)
    stream = lstm.stream()

    def bad(call, *args, **kwargs):
        with pytest.raises((TypeError, ValueError)):
            call(*args, **kwargs)

    def everything():
        cell(x)
        cell(x, h, c)
        cell(x, h, c, out=(h, c))
        cell(x.tolist(), h, c)
        lstm(seq)
        stream.step(x)
        stream.step(x, out=y)
        stream.state = stream.state
        stream.reset()
        bad(cell, x, h)
        bad(cell, x, h, c, out=(h, y))
        bad(stream.step, h, out=y)
        bad(lstm, seq, what=y)

    watched = (cell, lstm, stream, x, h, c, y, seq)
    everything()
    before = [sys.getrefcount(o) for o in watched]
    for _ in range(300):
        everything()
    assert [sys.getrefcount(o) for o in watched] == before
