"""How far the numbers are from the true ones (`pytest -s` prints the tables).

The affine part z = W x + b is seen through the sigmoid, without loss: multiplying a row and its bias
by a power of two changes no rounding, so each row is scaled to bring its z to [-64, -32). There
g = exp(z) nearly, so that an ULP of g moves log(g) by 2^-23 at most, while float32 values of z are
2^-18 apart: log(g) - log(1 - g) lies next to the z that was computed, and to no other.
"""

import fastgate
import numpy as np
import pytest
from conftest import COMPILED

LENGTHS = [1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 24, 31, 32, 48, 63, 64, 65, 100, 127, 128, 200, 256, 300]
LENGTHS += [500, 512, 700, 1000, 1024, 2048, 4096, 8191, 8192]
ROWS = 256


def normal(rng, n):
    return rng.standard_normal((ROWS, 1 + n), np.float32), rng.standard_normal(n, np.float32)


def positive(rng, n):
    return rng.random((ROWS, 1 + n), np.float32), rng.random(n, np.float32)


def heavy_tailed(rng, n):
    w, x = normal(rng, n)
    return np.sign(w) * np.exp(2 * np.abs(w)), x


def cancelling(rng, n):
    """Large products whose sum is a thousandth of what independent signs would leave."""
    w, x = normal(rng, n)
    one_x = np.concatenate([[np.float32(1)], x])
    w -= np.outer(w @ one_x * np.float32(0.999) / (one_x @ one_x), one_x)
    return w, x


def scaled(augmented, x):
    """[b, W], x -> the rows with z in [-64, -32) after scaling, and z in float64 (exact products)."""
    one_x = np.concatenate([[1.0], x])
    z = augmented.astype(np.float64) @ one_x
    size = np.abs(augmented.astype(np.float64)) @ np.abs(one_x)
    keep = np.abs(z) > size * 2.0**-16  # the error must not carry z out of exp's range
    z, augmented = z[keep], augmented[keep]
    scale = np.copysign(np.ldexp(1.0, 6 - np.frexp(z)[1]), -z)
    return augmented * scale.astype(np.float32)[:, None], z * scale


def affine_of(g):
    """The float32 z whose sigmoid, in [2^-100, 2^-20], is g."""
    g = g.astype(np.float64)
    z = np.log(g) - np.log1p(-g)
    nearest = z.astype(np.float32).astype(np.float64)
    if COMPILED:  # the reference's z has more than 24 bits
        assert np.abs(z - nearest).max() < 2.0**-22
    return nearest


@pytest.mark.parametrize("draw", [normal, positive, heavy_tailed, cancelling])
def test_affine_part_is_as_accurate_as_numpy(draw):
    """Errors against float64 no larger than those of W @ x + b in float32.

    Root mean square: at every length. Largest: over all lengths, each measured by NumPy's root mean
    square there, because the largest of some thousand errors is a matter of luck.
    """
    rng = np.random.default_rng(20240817)
    print(f"\n{draw.__name__:>13}: error in units of 2^-24 (|w| |x| + |b|); ratio to NumPy's")
    print("       n     rms  ratio  largest  ratio")
    ratio, largest, numpys_largest = {}, 0, 0
    for n in LENGTHS:
        ours, numpys = [], []
        for _ in range(int(np.clip(2**22 // (ROWS * n), 8, 64))):
            augmented, x = draw(rng, n)
            w, z = scaled(augmented, x)
            bias, w = np.ascontiguousarray(w[:, 0]), np.ascontiguousarray(w[:, 1:])
            unit = 2.0**-24 * (np.abs(w) @ np.abs(x) + np.abs(bias)).astype(np.float64)
            ours.append((affine_of(fastgate.Gate(w, bias)(x)) - z) / unit)
            numpys.append((w @ x + bias - z) / unit)
        a, b = np.abs(np.concatenate(ours)), np.abs(np.concatenate(numpys))
        rms, numpys_rms = np.sqrt(np.mean(a**2)), np.sqrt(np.mean(b**2))
        ratio[n] = rms / numpys_rms
        largest = max(largest, a.max() / numpys_rms)
        numpys_largest = max(numpys_largest, b.max() / numpys_rms)
        print(f"{n:8} {rms:7.4f} {ratio[n]:6.3f} {a.max():8.3f} {a.max() / b.max():6.3f}")
    print(f"largest of all, in NumPy's root mean squares: {largest:.2f}, NumPy's {numpys_largest:.2f}")
    assert not {n: round(float(r), 4) for n, r in ratio.items() if r > 1}
    assert largest <= numpys_largest


def sigmoid(bias):
    """sigmoid of the float32 array `bias`, as a gate without inputs computes it."""
    gate = fastgate.Gate(np.empty((len(bias), 0), np.float32), bias)
    return gate(np.empty(0, np.float32))


def test_sigmoid_is_within_1_ulp():
    """Both signs of all exponents, subnormals included. csrc's own test tries all 2^32 values."""
    rng = np.random.default_rng(1)
    bits = np.arange(0, 255 << 23, 1999, np.uint32) + rng.integers(0, 1999)  # a million
    ends = (np.arange(255, dtype=np.uint32)[:, None] << 23) + np.uint32([0, 1, 2**23 - 1])
    dense = np.linspace(-104, 18, 1_000_000, dtype=np.float32)  # where the result is not 0 or 1
    z = np.concatenate([bits.view(np.float32), ends.ravel().view(np.float32), dense])
    z = np.concatenate([z[np.isfinite(z)], -z[np.isfinite(z)]])
    with np.errstate(all="ignore"):  # float64 rounding: some 1e-8 ULP
        true = 1 / (1 + np.exp(-z.astype(np.float64)))
    ulp = np.ldexp(1.0, np.clip(np.frexp(true)[1], -125, 0) - 24)  # below 1, above it none
    g = sigmoid(z)
    assert g.min() >= 0 and g.max() <= 1
    error = np.abs(g - true) / ulp
    print(f"\nworst of {len(z)}: {error.max():.4f} ULP, at {z[error.argmax()]!r}")
    assert error.max() <= 1


def test_special_values():
    inf, nan = np.inf, np.nan
    z = np.float32([0.0, -0.0, inf, -inf, nan, -nan, 1e-45, -1e-45, 88, -88, -103, -104, -3e38, 3e38])
    true = np.float32([0.5, 0.5, 1, 0, nan, nan, 0.5, 0.5, 1, 6.0546e-39, 1.4013e-45, 0, 0, 1])
    for size in range(1, 40):  # each in each lane
        for shift in range(len(z)):
            got = sigmoid(np.resize(np.roll(z, shift), size))
            np.testing.assert_allclose(got, np.resize(np.roll(true, shift), size), 1e-4, 0)
            assert not np.signbit(got[~np.isnan(got)]).any()


def test_special_values_touch_their_own_outputs_only():
    rng = np.random.default_rng(2)
    w, x = rng.standard_normal((70, 40), np.float32), rng.standard_normal((5, 40), np.float32)
    want = fastgate.Gate(w)(x)
    for value in [np.nan, np.inf, -np.inf, np.float32(3e38)]:
        for row in range(70):
            bad = w.copy()
            bad[row, row % 40] = value
            got = fastgate.Gate(bad)(x)
            others = np.arange(70) != row
            np.testing.assert_array_equal(got[:, others], want[:, others])
            np.testing.assert_array_equal(fastgate.gate(x, bad), got)
            if np.isnan(value):
                assert np.isnan(got[:, row]).all()
        bad = x.copy()
        bad[2, 7] = value
        got = fastgate.Gate(w)(bad)
        np.testing.assert_array_equal(np.delete(got, 2, 0), np.delete(want, 2, 0))
        assert np.isnan(got[2]).all() == np.isnan(value)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 8, 16, 17, 64, 1025])
def test_sums_that_overflow(n):
    """Finite numbers whose sum is beyond float32: 1 or 0, never NaN."""
    w = np.full((3, n), 3e38, np.float32)
    w[1] *= -1
    bias = np.float32([3e38, -3e38, 0])
    x = np.full(n, 2, np.float32)
    np.testing.assert_array_equal(fastgate.Gate(w, bias)(x)[:2], [1, 0])
    x = np.ones(n, np.float32)
    np.testing.assert_array_equal(fastgate.Gate(w, bias)(x)[:2], [1, 0])
    np.testing.assert_array_equal(fastgate.gate(x, w, bias)[:2], [1, 0])


def test_an_overflow_on_the_way_does_not_show():
    """The sum is finite, or infinite, but the arithmetic of its carry overflows."""
    most = np.finfo(np.float32).max
    for sign in np.float32([1, -1]):
        weight = np.full((70, 1), sign * most)
        for bias in [float.fromhex("-0x1.8p104"), -1.0, 0.0, 1.0, most, np.inf]:
            g = fastgate.Gate(weight, np.full(70, sign * np.float32(bias)))
            np.testing.assert_array_equal(g(np.ones(1, np.float32)), max(sign, 0))
