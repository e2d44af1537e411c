"""Fit the polynomials in the sigmoid's exponential (csrc/sigmoid.inc), for float32 and float64.

Finds q of the given degree for which the largest relative distance of 1 + r + r**2 q(r) from exp(r)
over |r| <= ln(2)/2 is smallest: least squares, reweighted by the error until it is level (Lawson).  The
coefficients are rounded lowest first, the rest fitted again after each.  Needs mpmath, because
float64 itself is off by more than the second q; takes a minute or two.
"""

from mpmath import cos, exp, fdot, linspace, log, lu_solve, matrix, mp, mpf, nint, pi

mp.prec = 160
# rounding x log2(e) to an integer reaches a little past ln(2)/2; an even count: no point at 0
POINTS = [log(2) / 2 * mpf("1.00001") * cos(a) for a in linspace(0, pi, 120)]
TAIL = [(exp(r) - 1 - r) / r**2 for r in POINTS]
SCALE = [r**2 / exp(r) for r in POINTS]
POWERS = [[r**i for r in POINTS] for i in range(20)]


def rounded(x: mpf, bits: int) -> mpf:
    """x with a significand of so many bits."""
    unit = mpf(2) ** (mp.mag(x) - bits)
    return nint(x / unit) * unit


def errors(coefs: list[mpf]) -> list[mpf]:
    """Of exp, relative, at all points."""
    return [
        abs(fdot(zip(coefs, powers)) - t) * s
        for powers, t, s in zip(zip(*POWERS[: len(coefs)]), TAIL, SCALE)
    ]


def fit(fixed: list[mpf], degree: int) -> list[mpf]:
    """The fixed coefficients, and above them the best others."""
    powers = POWERS[len(fixed) : degree + 1]
    target = [
        t - fdot(zip(fixed, known)) for known, t in zip(zip(*POWERS[: max(len(fixed), 1)]), TAIL)
    ]
    weight = [mpf(1)] * len(POINTS)
    best, least = fixed, mpf("inf")
    for _ in range(150):
        weighted = [[w * s * s * p for w, s, p in zip(weight, SCALE, row)] for row in powers]
        normal = matrix([[fdot(a, b) for b in powers] for a in weighted])
        coefs = fixed + list(lu_solve(normal, matrix([fdot(a, target) for a in weighted])))
        error = errors(coefs)
        if max(error) < least:
            best, least = coefs, max(error)
        total = fdot(weight, error)
        weight = [w * e / total for w, e in zip(weight, error)]
    return best


if __name__ == "__main__":
    for name, degree, bits in [("float32", 4, 24), ("float64", 9, 53)]:
        print(name)
        coefs: list[mpf] = []
        while len(coefs) <= degree:
            best = fit(coefs, degree)
            coefs.append(rounded(best[len(coefs)], bits))
            worst = float(log(max(errors(best)), 2))
            print(f"c{len(coefs) - 1} = {float(coefs[-1]).hex()}  2^{worst:.2f}", flush=True)
        print(f"all rounded: 2^{float(log(max(errors(coefs)), 2)):.2f}")
        high = rounded(log(2), bits)
        print(f"ln(2) = {float(high).hex()} + {float(rounded(log(2) - high, bits)).hex()}")
        print(f"log2(e) = {float(rounded(1 / log(2), bits)).hex()}")
