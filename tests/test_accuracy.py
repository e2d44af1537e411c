"""How far the numbers are from the true ones (`pytest -s` prints the tables).

The affine part z = W x + b is seen through the sigmoid, without loss: multiplying a row and its bias
by a power of two changes no rounding, so each row is scaled to bring its z to [-64, -32). There
g = exp(z) nearly, so that an ULP of g moves log(g) by 2^-23 at most, while float32 values of z are
2^-18 apart: log(g) - log(1 - g) lies next to the z that was computed, and to no other.
"""

import numpy as np
import pytest

import fastgate
from fastgate import reference

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
    if fastgate._core is not None:  # the reference's z has more than 24 bits
        assert np.abs(z - nearest).max() < 2.0**-22
    return nearest


@pytest.mark.parametrize("draw", [normal, positive, heavy_tailed, cancelling])
def test_affine_part_is_as_accurate_as_numpy(draw):
    """Root-mean-square and largest error against float64, no larger than those of W @ x + b."""
    rng = np.random.default_rng(20240817)
    print(f"\n{draw.__name__:>13}  error in 2^-24 of the row's sum |w x|; ratio to NumPy's")
    print("       n    rms   ratio   largest  ratio")
    ratios = []
    for n in LENGTHS:
        ours, numpys = [], []
        for _ in range(int(np.clip(2**22 // (ROWS * n), 8, 64))):
            augmented, x = draw(rng, n)
            w, z = scaled(augmented, x)
            bias, w = np.ascontiguousarray(w[:, 0]), np.ascontiguousarray(w[:, 1:])
            unit = 2.0**-24 * (np.abs(w) @ np.abs(x) + np.abs(bias)).astype(np.float64)
            ours.append((affine_of(fastgate.Gate(w, bias)(x)) - z) / unit)
            numpys.append((w @ x + bias - z) / unit)
        a, b = np.concatenate(ours), np.concatenate(numpys)
        rms, largest = np.sqrt(np.mean(a**2)), np.abs(a).max()
        ratios.append((rms / np.sqrt(np.mean(b**2)), largest / np.abs(b).max()))
        print(f"{n:8} {rms:7.4f} {ratios[-1][0]:6.3f} {largest:8.3f} {ratios[-1][1]:6.3f}")
