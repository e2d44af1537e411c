"""Fit the polynomials of csrc/kernels/activations.inc, for float32 and float64.

q of the given degree for which the largest relative distance of 1 + r + r**2 q(r) from exp(r) over
|r| <= ln(2)/2 is smallest, by least squares, reweighted by the error until it is level (Lawson).  The
coefficients are rounded lowest first, the rest fitted again after each.  Needs mpmath, because
float64 itself is off by more than the second q; takes a few minutes.
"""

from dataclasses import dataclass

from mpmath import cos, exp, fdot, linspace, log, lu_solve, matrix, mp, mpf, nint, pi

mp.prec = 160
CHEBYSHEV = [cos(a) for a in linspace(0, pi, 120)]  # an even count: none at 0
MOST_COEFS = 20


@dataclass
class Problem:
    """polynomial(v) is to be near `target` at `points`, errors counting `scale` times."""

    points: list[mpf]
    target: list[mpf]
    scale: list[mpf]

    def __post_init__(self) -> None:
        self.powers = [[v**i for v in self.points] for i in range(MOST_COEFS)]


# rounding x log2(e) to an integer reaches a little past ln(2)/2
R = [log(2) / 2 * mpf("1.00001") * v for v in CHEBYSHEV]
EXP = Problem(R, [(exp(r) - 1 - r) / r**2 for r in R], [r**2 / exp(r) for r in R])


def rounded(x: mpf, bits: int) -> mpf:
    """x with a significand of so many bits."""
    unit = mpf(2) ** (mp.mag(x) - bits)
    return nint(x / unit) * unit


def errors(of: Problem, coefs: list[mpf]) -> list[mpf]:
    """Relative, at all points."""
    return [
        abs(fdot(zip(coefs, powers)) - t) * s
        for powers, t, s in zip(zip(*of.powers[: len(coefs)]), of.target, of.scale)
    ]


def fit(of: Problem, fixed: list[mpf], degree: int) -> list[mpf]:
    """The fixed coefficients, and above them the best others."""
    powers = of.powers[len(fixed) : degree + 1]
    known = zip(*of.powers[: max(len(fixed), 1)])
    target = [t - fdot(zip(fixed, row)) for t, row in zip(of.target, known)]
    weight = [mpf(1)] * len(of.points)
    best, least = fixed, mpf("inf")
    for _ in range(150):
        weighted = [[w * s * s * p for w, s, p in zip(weight, of.scale, row)] for row in powers]
        normal = matrix([[fdot(a, b) for b in powers] for a in weighted])
        coefs = fixed + list(lu_solve(normal, matrix([fdot(a, target) for a in weighted])))
        error = errors(of, coefs)
        if max(error) < least:
            best, least = coefs, max(error)
        total = fdot(weight, error)
        weight = [w * e / total for w, e in zip(weight, error)]
    return best


def report(name: str, of: Problem, degree: int, bits: int) -> None:
    """Print the coefficients, rounded, and the largest error as they are fixed one by one."""
    print(name)
    coefs: list[mpf] = []
    while len(coefs) <= degree:
        best = fit(of, coefs, degree)
        coefs.append(rounded(best[len(coefs)], bits))
        worst = float(log(max(errors(of, best)), 2))
        print(f"c{len(coefs) - 1} = {float(coefs[-1]).hex()}  2^{worst:.2f}", flush=True)
    print(f"all rounded: 2^{float(log(max(errors(of, coefs)), 2)):.2f}")


if __name__ == "__main__":
    for name, degree, bits in [("float32", 4, 24), ("float64", 9, 53)]:
        report(name, EXP, degree, bits)
        high = rounded(log(2), bits)
        print(f"ln(2) = {float(high).hex()} + {float(rounded(log(2) - high, bits)).hex()}")
        print(f"log2(e) = {float(rounded(1 / log(2), bits)).hex()}")
