"""Fit the polynomial in the sigmoid's exponential (csrc/kernels.inc).

Finds q of degree 4 for which the largest relative distance of 1 + r + r**2 q(r) from exp(r) over
|r| <= ln(2)/2 is smallest: least squares, reweighted by the error until it is level (Lawson).  The
coefficients are rounded to float32 lowest first, the rest fitted again after each.  Needs NumPy.
"""

import numpy as np

DEGREE = 4
EDGE = np.log(2) / 2 * 1.00001  # rounding x log2(e) to an integer reaches a little past ln(2)/2

r = EDGE * np.cos(np.linspace(0, np.pi, 4002))  # an even count: no point at 0
factorials = np.cumprod([1.0] + list(range(1, DEGREE + 12)))
tail = sum(r**i / factorials[i + 2] for i in range(DEGREE + 9))  # (exp(r) - 1 - r) / r**2
scale = r**2 / np.exp(r)


def fit(fixed: list[float]) -> tuple[np.ndarray, float]:
    """The coefficients above the fixed ones, and the largest relative error of exp."""
    powers = np.array([r**i for i in range(len(fixed), DEGREE + 1)]).T
    target = tail - sum(c * r**i for i, c in enumerate(fixed))
    weight = np.ones_like(r)
    best = (np.zeros(0), np.inf)
    for _ in range(400):
        root = np.sqrt(weight) * scale
        coefs = np.linalg.lstsq(powers * root[:, None], target * root, rcond=None)[0]
        error = np.abs((powers @ coefs - target) * scale)
        if error.max() < best[1]:
            best = coefs, error.max()
        weight *= error
        weight /= weight.sum()
    return best


if __name__ == "__main__":
    coefs: list[float] = []
    while len(coefs) <= DEGREE:
        free, worst = fit(coefs)
        coefs.append(float(np.float32(free[0])))
        print(f"c{len(coefs) - 1} = {coefs[-1].hex()}  {coefs[-1]:.9g}  2^{np.log2(worst):.2f}")
    rest = np.abs((sum(c * r**i for i, c in enumerate(coefs)) - tail) * scale).max()
    print(f"all rounded: 2^{np.log2(rest):.2f}")
    high = np.floor(np.log(2) * 2**15) / 2**15
    print(f"ln(2) = {high.hex()} + {float(np.float32(np.log(2) - high)).hex()}")
