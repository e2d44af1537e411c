"""What the tests of weights from torch, Keras and ONNX share."""

import numpy as np
from conftest import draw, same_bits

T, B, N, H = 6, 3, 4, 5  # steps, batch, inputs, units


def arrays(result):
    """y, h_n and c_n of a call."""
    y, (h, c) = result
    return [np.asarray(y), np.asarray(h), np.asarray(c)]


def distance(some, others):
    pairs = list(zip(some, others, strict=True))
    assert all(a.shape == b.shape and a.size for a, b in pairs)
    return max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max() for a, b in pairs)


def within(ours, theirs, precise):
    """Assert that ours differ from theirs by at most 4 times their own distance from a float64 run."""
    assert distance(ours, theirs) <= 4 * distance(theirs, precise)


def same(lstm, other, n=3):
    """Assert that two LSTMs compute the same, bit by bit."""
    x = draw(6, 2, n)
    assert lstm.batch_first == other.batch_first
    for got, want in zip(arrays(lstm(x)), arrays(other(x)), strict=True):
        same_bits(got, want)
