"""LSTM.gates: what the gates do over time."""

import fastgate
import numpy as np
import pytest
from fastgate import reference
from helpers import draw, dtype_of, storages
from helpers.layers import draw_layers, draw_state, every_option, same, split

NAMES = ["input", "forget", "cell", "output", "c"]
# sums are rounded to the dtype in a call, in float64 here; int8 also rounds x in a call
TOLERANCES = {"float32": 2e-6, "float16": 2e-6, "bfloat16": 2e-6, "int8": 2e-3, "float64": 1e-13}


def close(got, want, storage):
    assert list(got) == list(want) == NAMES
    for name in NAMES:
        assert got[name].dtype == want[name].dtype == dtype_of(storage)
        np.testing.assert_allclose(got[name], want[name], rtol=0, atol=TOLERANCES[storage])


@pytest.mark.parametrize("both, reverse", [(False, False), (False, True), (True, False)])
@pytest.mark.parametrize("lead", [(7,), (7, 3), (1, 1), (7, 0), (0, 3)])
@every_option
def test_against_the_oracle(options, lead, both, reverse):
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
def test_storages(storage):
    layers = draw_layers(65, 33, dtype=dtype_of(storage))
    x = draw(20, 2, 65, dtype=dtype_of(storage))
    got = fastgate.LSTM(layers, storage=storage).gates(x)
    close(got, reference.LSTM(layers, storage=storage).gates(x), storage)


def test_they_are_those_of_the_call(api):
    """c after the last step is the call's, and h is o tanh(c)."""
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
def test_lengths(api, both, reverse):
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


def test_batch_first(api):
    layers, x = draw_layers(3, 16), draw(2, 7, 3)
    got = api.LSTM(layers, batch_first=True).gates(x)
    want = api.LSTM(layers).gates(x.swapaxes(0, 1))
    same([got[name] for name in NAMES], [want[name].swapaxes(0, 1) for name in NAMES])
    same(list(api.LSTM(layers, batch_first=True).gates(x[0]).values()), [a[0] for a in got.values()])


@pytest.mark.parametrize("n, hidden", [(0, 3), (3, 0), (0, 0)])
def test_empty_sizes(api, n, hidden):
    gates = api.LSTM(draw_layers(n, hidden)).gates(np.ones((4, 2, n), np.float32))
    assert {array.shape for array in gates.values()} == {(4, 2, hidden)}


def test_saturated_gates_are_exact(api):
    """Far from 0 a gate is 0 or 1 or tiny, never outside."""
    layers = draw_layers(3, 4)
    layers[0]["weight_ih"] = np.full((16, 3), -100, np.float32)
    gates = api.LSTM(layers).gates(np.eye(3, dtype=np.float32)[:, np.newaxis] * 0.5)
    assert np.all((gates["input"] > 0) & (gates["input"] < 1e-15))
    assert np.all(gates["cell"] == -1)


def test_bad_input(api):
    lstm = api.LSTM(draw_layers(3, 4, layers=2))
    x = draw(5, 3)
    for layer in (2, -3):
        with pytest.raises(IndexError, match=r"layer must be from -2 to 1, not "):
            lstm.gates(x, layer=layer)
    for direction in (1, -1):
        with pytest.raises(IndexError, match=r"direction must be from 0 to 0, not "):
            lstm.gates(x, direction=direction)
    with pytest.raises(TypeError):
        lstm.gates(x, layer=1.0)
    with pytest.raises(ValueError, match="must be"):
        lstm.gates(draw(5, 4))
    with pytest.raises(TypeError, match="float64"):
        lstm.gates(x.astype(np.float64))
    with pytest.raises(ValueError, match="lengths"):
        lstm.gates(x, lengths=[5])
