"""Sequences through an LSTM: layers, directions, lengths, states and out. The truth is a run in float64."""

import array
import math

import numpy as np
import pytest
from helpers import draw, dtype_of, storages
from helpers.layers import draw_layer, draw_layers, draw_state, draw_step, every_option, same, split
from helpers.oracle import run


def close_run(got, want, tolerance=1e-5, dtype=np.float32):
    """Assert that y, h_n and c_n are close to those of the oracle.

    Each step of the oracle continues from its own state, so that differences add up: the tolerance is not a bound.
    """
    for array_of, wanted in zip(got, want):
        assert array_of.shape == wanted.shape and array_of.dtype == dtype
        np.testing.assert_allclose(array_of, wanted.astype(dtype), rtol=0, atol=tolerance)


@pytest.mark.parametrize("steps", [0, 1, 2, 17])
@pytest.mark.parametrize("layers, both", [(1, False), (2, False), (3, False), (1, True), (2, True)])
@pytest.mark.parametrize(
    "n, hidden, outputs", [(5, 9, None), (5, 9, 6), (0, 3, None), (3, 0, None), (0, 0, None), (3, 0, 2)]
)
def test_a_sequence_is_close_to_float64(api, steps, layers, both, n, hidden, outputs):
    made = draw_layers(n, hidden, outputs, layers=layers, both=both)
    size, directions = hidden if outputs is None else outputs, 1 + both
    for options in [{}, {"batch_first": True}, *([] if both else [{"reverse": True}])]:
        lstm = api.LSTM(made, **options)
        for batch in [(), (3,), (0,)]:
            x, state = draw(steps, *batch, n), draw_state(lstm, *batch)
            first = x.swapaxes(0, 1) if lstm.batch_first and batch else x
            y, last = lstm(first, state)
            if lstm.batch_first and batch:
                y = y.swapaxes(0, 1)
            assert y.shape == (steps, *batch, directions * size)
            close_run((y, *last), run(x, *state, made, reverse=lstm.reverse))


@storages
@every_option
def test_a_sequence_of_every_storage_is_close_to_float64(api, options, storage):
    own, given = split(options)
    dtype = dtype_of(storage)
    made = draw_layers(5, 9, layers=2, both=True, dtype=dtype, **own)
    lstm = api.LSTM(made, storage=storage, **given)
    x, state = draw(6, 5, dtype=dtype), draw_state(lstm)
    y, last = lstm(x, state)
    tolerance = {"int8": 2e-3, "float64": 1e-14}.get(storage, 1e-5)
    close_run((y, *last), run(x, *state, made, storage=storage, **given), tolerance, dtype)


def test_a_sequence_without_a_state_begins_with_zeros(api):
    for both in (False, True):
        lstm = api.LSTM(draw_layers(5, 9, 6, layers=2, both=both))
        for lead in [(3,), (3, 2), (0,), (1, 0)]:
            x = draw(*lead, 5)
            zeros = tuple(np.zeros_like(a) for a in draw_state(lstm, *lead[1:]))
            same(lstm(x), lstm(x, zeros))


def step_by_step(api, layers, x, state, **options):
    """Run x (T, ..., n) through an LSTMCell for each layer, forwards, one step after the other."""
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
    """The spans of a long sum begin anew where h follows x, in a sequence and in a step alike."""
    dtype = dtype_of(storage)
    layers = draw_layers(n, hidden, outputs, dtype=dtype)
    lstm = api.LSTM(layers, storage=storage)
    for batch in [(), (3,)]:
        x, state = draw(4, *batch, n, dtype=dtype), draw_state(lstm, *batch)
        same(step_by_step(api, layers, x, state, storage=storage), lstm(x, state))


@pytest.mark.parametrize("both, reverse", [(False, False), (False, True), (True, False)])
@pytest.mark.parametrize("storage", ["float32", "int8"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_row_with_a_length_has_the_bits_of_the_row_alone(api, both, reverse, storage, batch_first):
    """The steps of x beyond the length have no influence, not even NaN, and y is zero there."""
    layers = draw_layers(3, 16, 5, layers=2, both=both, peephole=True)
    lstm = api.LSTM(layers, storage=storage, reverse=reverse, batch_first=batch_first)
    alone = api.LSTM(layers, storage=storage, reverse=reverse)
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


def test_lengths_may_be_any_integers(api):
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
    for rows in (4, [0], [12], [3, 2], [5, 5, 5, 1], list(range(8)), list(range(12, -1, -1))):  # 4 has no batch
        part = lstm(x[:, rows], (state[0][:, rows], state[1][:, rows]))
        same(part, (y[:, rows], (h[:, rows], c[:, rows])))


def test_layers_and_directions_have_the_bits_of_single_lstms(api):
    layers = draw_layers(4, 10, layers=2, both=True)
    lstm = api.LSTM(layers)
    x, state = draw(8, 3, 4), draw_state(lstm, 3)
    y, h_n, c_n = x, [], []
    for k, pair in enumerate(layers):
        outputs = []
        for d, layer in enumerate(pair):
            at = slice(2 * k + d, 2 * k + d + 1)
            output, (h, c) = api.LSTM([layer], reverse=d == 1)(y, (state[0][at], state[1][at]))
            outputs.append(output)
            h_n.append(h)
            c_n.append(c)
        y = np.concatenate(outputs, axis=-1)
    same(lstm(x, state), (y, (np.concatenate(h_n), np.concatenate(c_n))))
    y, last = api.LSTM([layers[0][0]], reverse=True)(x)
    forwards, also_last = api.LSTM([layers[0][0]])(x[::-1])
    same((y, last), (forwards[::-1], also_last))


def test_batch_first_exchanges_axes(api):
    layers = draw_layers(4, 6, layers=2)
    x = draw(5, 3, 4)
    y, state = api.LSTM(layers)(x)
    lstm = api.LSTM(layers, batch_first=True)
    got, got_state = lstm(x.swapaxes(0, 1))
    same(got, y.swapaxes(0, 1))
    same(got_state, state)
    assert got.flags.c_contiguous
    same(lstm(x[:, 0]), api.LSTM(layers)(x[:, 0]))


def test_a_sequence_can_go_on_from_the_state_of_its_first_half(api):
    lstm = api.LSTM(draw_layers(4, 6, layers=2))
    for x in (draw(9, 4), draw(9, 3, 4)):
        y, state = lstm(x)
        first, between = lstm(x[:4])
        second, last = lstm(x[4:], between)
        same(np.concatenate([first, second]), y)
        same(last, state)


def test_a_sequence_of_no_steps_gives_a_copy_of_the_state(api):
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


def test_inputs_may_be_read_only(api):
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


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_out_of_a_sequence_may_overlap_x(api, both, batch_first):
    lstm = api.LSTM(draw_layers(12, 6, 6, layers=2, both=both), batch_first=batch_first)
    size = lstm.output_size
    for lead in [(5,), (5, 3), (1, 1), (0, 2), (4, 0)]:
        x = draw(*lead, 12)
        want = lstm(x)
        out = np.full((*lead, size), 7, np.float32)
        y, state = lstm(x, out=out)
        assert y is out
        same((y, state), want)
        for shift in (0, 1, -3, 13):  # where out begins, from the start of x
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


def test_nan_in_a_sequence_stays_in_its_row(api):
    lstm = api.LSTM(draw_layers(3, 17, layers=2))
    x = draw(6, 5, 3)
    y, _ = lstm(x)
    x[2, 1, 0] = np.nan
    z, (h, c) = lstm(x)
    same(z[:, [0, 2, 3, 4]], y[:, [0, 2, 3, 4]])
    same(z[:2], y[:2])
    assert np.isnan(z[2:, 1]).all() and np.isnan(h[:, 1]).all() and np.isnan(c[:, 1]).all()
