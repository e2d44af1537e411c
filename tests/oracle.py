"""What a gate's output may be, from float64, or long double for a float64 storage."""

import fastgate
import numpy as np

SPAN = 4096  # inputs that int8 storage rounds together


def sigmoid(z):
    t = np.exp(-np.abs(z))
    return np.where(z < 0, t, 1.0) / (1.0 + t)


def close(got, x, weight, bias=None, storage="float32"):
    """Assert that got (..., m) is sigmoid(weight @ x + bias), x (..., n), as its dtype can tell it.

    weight is first rounded as the storage does. Allowed are 1 ULP of the sigmoid, 1.5 in float64,
    and, carried through the sigmoid, the error bound of a sum of n products and a bias in any
    order, each operation rounded once: gamma(n + 2) times the sum of the magnitudes (Higham,
    Accuracy and Stability, 3.1), and half the smallest number an operation. For int8 also what
    rounding x may change: max |x| / 2^15 an input, half a unit of a power of two, the maximum being
    that of a span.
    """
    dtype, precise, ulps = np.float32, np.float64, 1.0
    if storage == "float64":
        dtype, precise, ulps = np.float64, np.longdouble, 1.5
    given = np.asarray(weight, dtype)
    x, weight = np.asarray(x, precise), fastgate.reference.rounded(given, storage).astype(precise)
    m, n = weight.shape
    bias = np.zeros(m, precise) if bias is None else np.asarray(bias, precise)
    assert isinstance(got, np.ndarray) and got.dtype == dtype
    assert got.shape == (*x.shape[:-1], m)

    with np.errstate(all="ignore"):
        z = x @ weight.T + bias
        magnitude = np.abs(x) @ np.abs(weight).T + np.abs(bias)
        roundoff = (np.finfo(dtype).eps + np.finfo(precise).eps) / 2  # of got, and of z here
        gamma = (n + 2) * roundoff / (1 - (n + 2) * roundoff)
        error = gamma * magnitude + (n + 2) * np.finfo(dtype).smallest_subnormal.astype(precise)
        if storage == "int8":
            for k in range(0, n, SPAN):
                largest = np.abs(x[..., k : k + SPAN]).max(axis=-1, keepdims=True)
                error += 2.0**-15 * largest * np.abs(weight[:, k : k + SPAN]).sum(axis=1)
        expected = sigmoid(z)
        ulp = ulps * np.spacing(expected.astype(dtype)).astype(precise)
        low, high = sigmoid(z - error) - ulp, sigmoid(z + error) + ulp

    finite = np.isfinite(z)
    np.testing.assert_array_equal(got[~finite], expected[~finite].astype(dtype))
    wrong = finite & ~((low <= got) & (got <= high))  # NaN is wrong too
    assert not wrong.any(), (
        f"{np.count_nonzero(wrong)} of {got.size} outputs are wrong, such as "
        f"{got[wrong][:3]} for {expected[wrong][:3]}, allowed {low[wrong][:3]} to {high[wrong][:3]}"
    )
