"""Compares the Cython functions with fastgate from Python and with NumPy in float64."""

import fastgate
import fastgate_example
import numpy as np

random = np.random.default_rng(0)
weight = random.standard_normal((5, 3), np.float32)
bias = random.standard_normal(5, np.float32)
x = random.standard_normal((100, 3), np.float32)
expected = 1 / (1 + np.exp(-(x.astype(float) @ weight.T.astype(float) + bias)))
gate = fastgate.Gate(weight, bias)

y = fastgate_example.gate_rows(weight, bias, x)
print(f"gate_rows: largest error {np.abs(y - expected).max():.1e}")
assert np.abs(y - expected).max() < 1e-6
assert y.tobytes() == gate(x).tobytes(), "the bits of fastgate.Gate"

level = np.float32(0.97)
first = fastgate_example.first_open(gate, x, level)
print(f"first_open: row {first} of {len(x)}")
assert first == np.argmax((expected > level).any(axis=1)) > 0
assert fastgate_example.first_open(gate, x, 1) == -1
