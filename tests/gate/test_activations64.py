"""The float64 sigmoid is within 1 ULP of what mpmath computes.

FASTGATE_ACTIVATION_POINTS is the number of points, which all CPUs share; .ci/full tries ten million.
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
PRECISION = 100  # bits, so that the errors of the true values are some 2^-45 ULP

# Where the sigmoid becomes 1, the number before 1, subnormal, and 0; where its argument is clipped; where it is 1/2.
LIMITS = [37.4299477502370, 36.7368005696771, -708.396418532264, -745.133219101941, -746.0, 0.0]


def sigmoid(bias):
    """The sigmoid of the float64 array `bias` (m,): the output of a gate without inputs."""
    return fastgate.gate(np.empty(0), np.empty((len(bias), 0)), bias)


def neighbours(z, reach):
    """Each z, the `reach` float64 numbers before and after it, and the negatives of all."""
    offsets = np.arange(-reach, reach + 1)
    near = (np.abs(z).view(np.int64)[:, None] + offsets).ravel()
    near = near[near >= 0].view(np.float64)
    return np.concatenate([near, -near])


def points(count):
    """At least `count` numbers: of every exponent and sign, subnormal, beside LIMITS, and from all of the range."""
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
    # a larger exp(-z) may as well be exp(800), since 1 / exp(800) is far below half the smallest float64
    power = libmp.mpf_exp(libmp.from_float(min(-z, 800.0)), PRECISION)
    return libmp.mpf_div(libmp.fone, libmp.mpf_add(libmp.fone, power, PRECISION), PRECISION)


def worst(z, y):
    """The largest error, in units of float64's spacing at the true value, and the z that it is at."""
    largest, at = 0.0, 0.0
    for zi, yi in zip(z.tolist(), y.tolist()):
        true = true_sigmoid(zi)
        _, _, exponent, bits = true  # |true| is in [2^(exponent + bits - 1), 2^(exponent + bits))
        place = min(max(exponent + bits, -1021), 0) - 53  # at 1 too, the spacing below 1
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
