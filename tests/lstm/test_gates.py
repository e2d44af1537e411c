"""LSTM.gates gives the gates and c of every step. The truth is the same function of fastgate.reference."""

import fastgate
import numpy as np
import pytest
from fastgate import reference
from helpers import draw, dtype_of, storages
from helpers.layers import draw_layers, draw_state, every_option, same, split

NAMES = ["input", "forget", "cell", "output", "c"]
# A call rounds its sums to the dtype, and for int8 it rounds x too; gates() adds in float64.
TOLERANCES = {"float32": 2e-6, "float16": 2e-6, "bfloat16": 2e-6, "int8": 2e-3, "float64": 1e-13}


def close(got, want, storage):
    assert list(got) == list(want) == NAMES
    for name in NAMES:
        assert got[name].dtype == want[name].dtype == dtype_of(storage)
        np.testing.assert_allclose(got[name], want[name], rtol=0, atol=TOLERANCES[storage])


@pytest.mark.parametrize("both, reverse", [(False, False), (False, True), (True, False)])
@pytest.mark.parametrize("lead", [(7,), (7, 3), (1, 1), (7, 0), (0, 3)])
@every_option
def test_gates_are_those_of_the_reference(options, lead, both, reverse):
    own, options = split(options)
    layers = draw_layers(5, 17, layers=2, both=both, **own)
    lstm = fastgate.LSTM(layers, reverse=reverse, **options)
    oracle = reference.LSTM(layers, reverse=reverse, **options)
    x, state = draw(*lead, 5), draw_state(lstm, *lead[1:])
    for layer in (0, 1, -1):
        for direction in range(1 + both):
            got = lstm.gates(x, state, layer=layer, direction=direction)
            assert {array.shape for array in got.values()} == {(*lead, 17)}
            close(got, oracle.gates(x, state, layer=layer, direction=direction), "float32")


@storages
def test_gates_of_every_storage_are_those_of_the_reference(storage):
    layers = draw_layers(65, 33, dtype=dtype_of(storage))
    x = draw(20, 2, 65, dtype=dtype_of(storage))
    got = fastgate.LSTM(layers, storage=storage).gates(x)
    close(got, reference.LSTM(layers, storage=storage).gates(x), storage)


def test_gates_agree_with_the_call_and_with_each_other(api):
    """The last c is the c_n of the call, h = o tanh(c) is its y, and c = f c_before + i g."""
    lstm = api.LSTM(draw_layers(5, 17, layers=2))
    x = draw(9, 4, 5)
    y, (_, c_n) = lstm(x)
    gates = lstm.gates(x)
    np.testing.assert_allclose(gates["c"][-1], c_n[-1], rtol=0, atol=2e-6)
    np.testing.assert_allclose(gates["output"] * np.tanh(gates["c"]), y, rtol=0, atol=2e-6)
    c = np.concatenate([np.zeros_like(gates["c"][:1]), gates["c"][:-1]])
    np.testing.assert_allclose(
        gates["forget"] * c + gates["input"] * gates["cell"], gates["c"], rtol=0, atol=2e-6
    )


@pytest.mark.parametrize("both, reverse", [(False, False), (False, True), (True, False)])
def test_gates_are_those_of_each_row_alone_and_zero_beyond_its_length(api, both, reverse):
    lstm = api.LSTM(draw_layers(3, 16, layers=2, both=both), reverse=reverse)
    lengths = [4, 0, 7, 1]
    x, state = draw(7, 4, 3), draw_state(lstm, 4)
    for row, length in enumerate(lengths):
        x[length:, row] = np.nan
    got = lstm.gates(x, state, lengths=lengths, direction=int(both))
    for row, length in enumerate(lengths):
        alone = lstm.gates(x[:length, row], (state[0][:, row], state[1][:, row]), direction=int(both))
        for name in NAMES:
            np.testing.assert_allclose(got[name][:length, row], alone[name], rtol=0, atol=1e-6)
            assert not got[name][length:, row].any()


def test_batch_first_exchanges_axes(api):
    layers, x = draw_layers(3, 16), draw(2, 7, 3)
    got = api.LSTM(layers, batch_first=True).gates(x)
    want = api.LSTM(layers).gates(x.swapaxes(0, 1))
    same([got[name] for name in NAMES], [want[name].swapaxes(0, 1) for name in NAMES])
    same(list(api.LSTM(layers, batch_first=True).gates(x[0]).values()), [a[0] for a in got.values()])


@pytest.mark.parametrize("n, hidden", [(0, 3), (3, 0), (0, 0)])
def test_gates_of_no_inputs_or_no_units_have_the_right_shapes(api, n, hidden):
    gates = api.LSTM(draw_layers(n, hidden)).gates(np.ones((4, 2, n), np.float32))
    assert {array.shape for array in gates.values()} == {(4, 2, hidden)}


def test_saturated_gates_stay_in_their_ranges(api):
    """Sums far below 0 give sigmoids that are tiny but positive, and tanh is exactly -1."""
    layers = draw_layers(3, 4)
    layers[0]["weight_ih"] = np.full((16, 3), -100, np.float32)
    gates = api.LSTM(layers).gates(np.eye(3, dtype=np.float32)[:, np.newaxis] * 0.5)
    assert np.all((gates["input"] > 0) & (gates["input"] < 1e-15))
    assert np.all(gates["cell"] == -1)


@pytest.mark.parametrize(
    "bad, error, told",
    [
        ({"layer": 2}, IndexError, "layer must be from -2 to 1, not "),
        ({"layer": -3}, IndexError, "layer must be from -2 to 1, not "),
        ({"layer": 1.0}, TypeError, "integer"),
        ({"direction": 1}, IndexError, "direction must be from 0 to 0, not "),
        ({"direction": -1}, IndexError, "direction must be from 0 to 0, not "),
        ({"x": draw(5, 4)}, ValueError, "must be"),
        ({"x": draw(5, 3, dtype=np.float64)}, TypeError, "float64"),
        ({"lengths": [5]}, ValueError, "lengths"),
    ],
)
def test_bad_arguments_are_refused(api, bad, error, told):
    with pytest.raises(error, match=told):
        api.LSTM(draw_layers(3, 4, layers=2)).gates(**{"x": draw(5, 3), **bad})
