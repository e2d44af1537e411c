"""The sigmoid of float64 against mpmath: within 1 ULP.

FASTGATE_ACTIVATION_POINTS sets how many points are tried, on all CPUs; .ci/full tries ten million.
"""

import os
from concurrent.futures import ProcessPoolExecutor

import fastgate
import numpy as np
import pytest
from helpers import compiled_only

libmp = pytest.importorskip("mpmath.libmp")

POINTS = int(os.environ.get("FASTGATE_ACTIVATION_POINTS", 50_000))
CHUNK = 100_000
PRECISION = 100  # bits: errors of the truth are some 2^-45 ULP

# From here on sigmoid is 1; from here down, subnormal, and 0; clamped; nearly 1/2.
LIMITS = [37.4299477502370, 36.7368005696771, -708.396418532264, -745.133219101941, -746.0, 0.0]


def sigmoid(bias):
    """sigmoid of the float64 array `bias`, as a gate without inputs computes it."""
    return fastgate.gate(np.empty(0), np.empty((len(bias), 0)), bias)


def neighbours(z, reach):
    """The reach float64 values on each side of each z, and their negatives."""
    offsets = np.arange(-reach, reach + 1)
    near = (np.abs(z).view(np.int64)[:, None] + offsets).ravel()
    near = near[near >= 0].view(np.float64)
    return np.concatenate([near, -near])


def points(count):
    """At least count: every exponent, both signs, subnormals; where anything changes; all the way."""
    rng = np.random.default_rng(64)
    edges = np.arange(2047, dtype=np.int64) << 52
    each = count // 2 // (2 * len(edges)) + 1
    mantissas = rng.integers(0, 2**52, (len(edges), each))
    exponents = (edges[:, None] + mantissas).ravel().view(np.float64)
    near = [
        neighbours(edges.view(np.float64), 1),
        neighbours(np.array(LIMITS), 100),
        neighbours(np.log(2) / 2 * np.arange(1, 2160), max(count // 2**16, 1)),
    ]
    rest = max(count - 2 * len(exponents) - sum(map(len, near)), count // 4)
    dense = np.concatenate([rng.uniform(-745.5, 40, rest - rest // 3), rng.uniform(-2, 2, rest // 3)])
    z = np.concatenate([exponents, -exponents, *near, dense])
    return z[np.isfinite(z)]


def true_sigmoid(z):
    # exp(800) in place of a larger exp(-z): 1 / exp(800) is far below half the smallest float64
    power = libmp.mpf_exp(libmp.from_float(min(-z, 800.0)), PRECISION)
    return libmp.mpf_div(libmp.fone, libmp.mpf_add(libmp.fone, power, PRECISION), PRECISION)


def worst(z, y):
    """The largest error in ULP, the spacing of float64 at the true value, and where."""
    largest, at = 0.0, 0.0
    for zi, yi in zip(z.tolist(), y.tolist()):
        true = true_sigmoid(zi)
        _, _, exponent, bits = true  # |true| is in [2^(exponent + bits - 1), 2^(exponent + bits))
        place = min(max(exponent + bits, -1021), 0) - 53  # below 1 even where it is rounded to 1
        error = libmp.mpf_sub(libmp.from_float(yi), true, PRECISION)
        ulps = abs(libmp.to_float(libmp.mpf_shift(error, -place)))
        if not ulps <= largest:
            largest, at = ulps, zi
    return largest, at


def check(z, y):
    """Assert that y is within 1 ULP of the truth at z."""
    assert y.dtype == np.float64
    chunks = range(0, len(z), CHUNK)
    parts = [z[i : i + CHUNK] for i in chunks], [y[i : i + CHUNK] for i in chunks]
    if len(chunks) == 1:
        largest, at = worst(z, y)
    else:
        with ProcessPoolExecutor() as pool:
            largest, at = max(pool.map(worst, *parts))
    print(f"\nworst of {len(z)}: {largest:.4f} ULP, at {at.hex()}")
    assert largest <= 1


@compiled_only
def test_sigmoid_is_within_1_ulp():
    z = points(POINTS)
    y = sigmoid(z)
    assert y.min() >= 0 and y.max() <= 1 and not np.signbit(y).any()
    check(z, y)


def test_special_values():
    inf, nan = np.inf, np.nan
    z = np.array([0.0, -0.0, inf, -inf, nan, -nan, 5e-324, -5e-324, 710, -710, -745, -746, -1e308, 1e308])
    true = [0.5, 0.5, 1, 0, nan, nan, 0.5, 0.5, 1, 4.47628622567513e-309, 5e-324, 0, 0, 1]
    for size in range(1, 40):  # each in each lane
        for shift in range(len(z)):
            got = sigmoid(np.resize(np.roll(z, shift), size))
            np.testing.assert_allclose(got, np.resize(np.roll(true, shift), size), 1e-13, 0)
            assert not np.signbit(got[~np.isnan(got)]).any()
