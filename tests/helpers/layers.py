"""Parameters, inputs and options of LSTMs."""

import numpy as np
import pytest

from . import draw, dtype_of, same_bits


def draw_layer(n, hidden, outputs=None, *, biases=2, peephole=False, dtype=np.float32, seed=0):
    """The parameters of a layer in one direction, scaled so that the sums are of order 1."""

    def scaled(rows, columns, k):
        return draw(rows, columns, seed=seed + k, dtype=dtype) / dtype(max(columns, 1) ** 0.5)

    size = hidden if outputs is None else outputs
    layer = {"weight_ih": scaled(4 * hidden, n, 0), "weight_hh": scaled(4 * hidden, size, 1)}
    for k, name in enumerate(["bias_ih", "bias_hh"][:biases]):
        layer[name] = draw(4 * hidden, seed=seed + 2 + k, dtype=dtype)
    if peephole:
        layer["peephole"] = draw(3, hidden, seed=seed + 4, dtype=dtype)
    if outputs is not None:
        layer["projection"] = scaled(outputs, hidden, 5)
    return layer


def draw_layers(n, hidden, outputs=None, *, layers=1, both=False, **options):
    """The parameters of all layers of an LSTM."""
    size = (hidden if outputs is None else outputs) * (1 + both)
    cells = [
        [
            draw_layer(n if k == 0 else size, hidden, outputs, seed=20 * k + 10 * d, **options)
            for d in range(1 + both)
        ]
        for k in range(layers)
    ]
    return [tuple(pair) if both else pair[0] for pair in cells]


def draw_step(*lead, n, hidden, outputs=None, dtype=np.float32):
    """x, h and c for a step."""
    sizes = (n, hidden if outputs is None else outputs, hidden)
    return [draw(*lead, size, seed=seed, dtype=dtype) for seed, size in enumerate(sizes, 50)]


def draw_state(lstm, *batch):
    """A state (h_0, c_0) for a sequence."""
    directions = 1 + lstm.bidirectional
    lead, dtype = (lstm.num_layers * directions, *batch), dtype_of(lstm.storage)
    h = draw(*lead, lstm.output_size // directions, seed=60, dtype=dtype)
    return h, draw(*lead, lstm.hidden_size, seed=61, dtype=dtype)


def same(got, want):
    """Assert that two arrays, or the arrays of two tuples, have the same bits."""
    if isinstance(want, (tuple, list)):
        assert len(got) == len(want)
        for one, other in zip(got, want):
            same(one, other)
    else:
        same_bits(np.asarray(got), np.asarray(want))


OPTIONS = {
    "plain": {},
    "no bias": {"biases": 0},
    "one bias": {"biases": 1},
    "peephole": {"peephole": True},
    "projection": {"outputs": 9},
    "wide projection": {"outputs": 40},
    "clip": {"clip": 0.3},
    "gate clip": {"gate_clip": 0.5},
    "input forget": {"input_forget": True},
    "all": {
        "peephole": True, "outputs": 9, "clip": 0.7, "gate_clip": 1.25, "input_forget": True,
    },
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def split(options):
    """The options that draw_layer takes, and those that LSTMCell and LSTM take."""
    own = {key: options[key] for key in options.keys() & {"biases", "peephole", "outputs"}}
    return own, {key: options[key] for key in options.keys() - own.keys()}


def sources(api, storage="float32"):
    """A cell, an LSTM of one layer, and one with all options that streams allow; all have 5 inputs and 18 units."""
    p = draw_layer(5, 18, dtype=dtype_of(storage))
    yield api.LSTMCell(**p, storage=storage)
    yield api.LSTM([p], storage=storage)
    layers = draw_layers(5, 18, 7, layers=3, peephole=True, dtype=dtype_of(storage))
    yield api.LSTM(layers, storage=storage, clip=2)
