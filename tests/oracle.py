"""What a gate's output may be, from float64."""

import numpy as np

UNIT_ROUNDOFF = 2.0**-24  # of float32
SMALLEST = 2.0**-149


def sigmoid(z):
    t = np.exp(-np.abs(z))
    return np.where(z < 0, t, 1.0) / (1.0 + t)


def close(got, x, weight, bias=None):
    """Assert that got (..., m) is sigmoid(weight @ x + bias), x (..., n), as float32 can tell it.

    Allowed are 1 ULP of the sigmoid and, carried through the sigmoid, the error bound of a sum of
    n products and a bias in any order, each operation rounded once: gamma(n + 2) times the sum of
    the magnitudes (Higham, Accuracy and Stability, 3.1), and half the smallest float an operation.
    """
    x, weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    m, n = weight.shape
    bias = np.zeros(m) if bias is None else np.asarray(bias, np.float64)
    assert isinstance(got, np.ndarray) and got.dtype == np.float32
    assert got.shape == (*x.shape[:-1], m)

    with np.errstate(all="ignore"):
        z = x @ weight.T + bias
        magnitude = np.abs(x) @ np.abs(weight).T + np.abs(bias)
        gamma = (n + 2) * UNIT_ROUNDOFF / (1 - (n + 2) * UNIT_ROUNDOFF)
        error = gamma * magnitude + (n + 2) * SMALLEST
        expected = sigmoid(z)
        ulp = np.spacing(expected.astype(np.float32)).astype(np.float64)
        low, high = sigmoid(z - error) - ulp, sigmoid(z + error) + ulp

    finite = np.isfinite(z)
    np.testing.assert_array_equal(got[~finite], expected[~finite].astype(np.float32))
    wrong = finite & ~((low <= got) & (got <= high))  # NaN is wrong too
    assert not wrong.any(), (
        f"{np.count_nonzero(wrong)} of {got.size} outputs are wrong, such as "
        f"{got[wrong][:3]} for {expected[wrong][:3]}, allowed {low[wrong][:3]} to {high[wrong][:3]}"
    )
