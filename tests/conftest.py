import os
import subprocess
import sys
import textwrap

import fastgate
import numpy as np
import pytest

COMPILED = fastgate.Gate is not fastgate.reference.Gate
compiled_only = pytest.mark.skipif(not COMPILED, reason="about the compiled core")


@pytest.fixture(params=[fastgate, fastgate.reference], ids=["core", "reference"])
def api(request):
    """Where gate and Gate are taken from: each test runs on both."""
    return request.param


def draw(*shape, seed=0):
    """Random float32 of this shape."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)


def draw_gate(m, n):
    """weight (m, n), scaled so that the sums are of order 1, and bias (m,)."""
    return draw(m, n) / np.float32(max(n, 1) ** 0.5), draw(m, seed=1)


def run_python(code, *options, **env):
    """Run code in a new interpreter, in this environment but with no FASTGATE_ISA."""
    inherited = {name: value for name, value in os.environ.items() if name != "FASTGATE_ISA"}
    return subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env={**inherited, **env},
    )
