"""An output's bits depend on its own row of weights, its bias and its x alone: not on the batch, parts, memory or CPU.

gate/test_calls.py checks the same of smaller gates, of fastgate.reference too; test_threads.py tries several threads.
"""

import hashlib
import os
import subprocess
import sys

import fastgate
import numpy as np
import pytest
from helpers import COMPILED, STORAGES, compiled_only, every_layout, storages, ways

SIZES = [0, 1, 2, 3, 4, 7, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 300, 512, 1023, 1025, 2049, 8192]
SHAPES = [(m, n) for m in SIZES for n in SIZES if m * n <= 70_000] + [(512, 512), (1025, 300)]
BATCHES = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 16, 64, 65]
some_shapes = pytest.mark.parametrize(
    "m, n", [(1, 1), (1, 8192), (3, 5), (17, 16), (64, 64), (65, 33), (130, 70), (300, 1025), (70, 4097)]
)


def make(m, n, batch, storage="float32"):
    """weight, bias, x (batch, n): ordinary numbers, and in some rows of weight extraordinary ones."""
    rng = np.random.default_rng([m, n])
    weight = rng.standard_normal((m, n), np.float32) / np.float32(max(n, 1)) ** np.float32(0.5)
    bias, x = rng.standard_normal(m, np.float32), rng.standard_normal((batch, n), np.float32)
    for row, value in zip(rng.permutation(m)[: m // 5], [1e-42, np.inf, 2e38, np.nan, -0.0]):
        weight[row, rng.integers(n) if n else slice(0)] = value
    if storage == "float64":
        return [array.astype(np.float64) * np.pi for array in (weight, bias, x)]  # numbers with all digits of float64
    if storage != "float32":
        weight[~(np.abs(weight) < 6e4)] = 1  # float16 and int8 refuse such weights
    return weight, bias, x


def same(got, want):
    """Assert that the bits are the same, where all NaNs count as one."""
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)  # for it 0.0 and -0.0 are equal, but no output is -0.0:
    assert not np.signbit(got[got == 0]).any()


def shifted(array, count):
    """A copy in C order that begins `count` elements after a multiple of 64 bytes."""
    raw = np.empty(array.size + 32, array.dtype)
    start = -raw.ctypes.data % 64 // array.itemsize + count
    view = raw[start : start + array.size].reshape(array.shape)
    view[...] = array
    return view


@storages
def test_a_row_of_x_gives_the_same_bits_in_a_batch(storage):
    for m, n in SHAPES:
        weight, bias, x = make(m, n, 5, storage)
        gate = fastgate.Gate(weight, bias, storage=storage)
        want = np.stack([gate(row) for row in x])
        for order in "CF":
            for call in ways(fastgate, np.asarray(weight, order=order), bias, storage):
                same(call(x), want)
                same(call(x[::-1]), want[::-1])
                same(call(x[:, None]), want[:, None])
                same(call(x[3:4]), want[3:4])
                same(call(x[2]), want[2])


@storages
@some_shapes
def test_a_row_of_x_gives_the_same_bits_in_a_batch_of_any_size(storage, m, n):
    weight, bias, x = make(m, n, 65, storage)
    gate = fastgate.Gate(weight, bias, storage=storage)
    want = np.stack([gate(row) for row in x])
    for batch in BATCHES:
        same(gate(x[:batch]), want[:batch])
        out = np.full((batch, m), 7, want.dtype)
        assert gate(x[65 - batch :], out=out) is out
        same(out, want[65 - batch :])
    same(gate(x[:64].reshape(4, 2, 8, n)), want[:64].reshape(4, 2, 8, m))


@storages
@some_shapes
def test_a_row_of_weights_gives_the_same_bits_in_any_gate(storage, m, n):
    weight, bias, x = make(m, n, 3, storage)
    want = fastgate.Gate(weight, bias, storage=storage)(x)
    for row in range(0, m, max(1, m // 40)):
        alone = fastgate.Gate(weight[row : row + 1], bias[row : row + 1], storage=storage)
        same(alone(x), want[:, row : row + 1])
    order = np.random.default_rng(m).permutation(m)
    same(fastgate.Gate(weight[order], bias[order], storage=storage)(x), want[:, order])


@storages
@some_shapes
def test_parts_give_the_bits_of_the_whole(storage, m, n):
    weight, bias, x = make(m, n, 3, storage)
    gate = fastgate.Gate(weight, bias, storage=storage)
    want = gate(x)
    rng = np.random.default_rng(n)
    splits = [np.sort(rng.integers(0, n + 1, count - 1)) for count in (1, 2, 3, 5, 8, 20) for _ in range(5)]
    splits += [[0, *range(1, n)]] * (n <= 1000)  # an empty part, then parts of one input
    for cuts in splits:
        parts = [shifted(part, rng.integers(16)) for part in np.split(x, cuts, axis=-1)]
        same(gate(*parts), want)
        same(gate(*(part[1] for part in parts)), want[1])
        out = np.empty_like(want)
        gate.bind(*parts, out=out)()
        same(out, want)
        for order in "CF":  # the parts are strided views, and NumPy would join those of F by columns
            out[...] = 7
            same(gate(*np.split(np.asarray(x, order=order), cuts, axis=-1), out=out), want)


@storages
@some_shapes
def test_bits_do_not_depend_on_alignment(storage, m, n):
    weight, bias, x = make(m, n, 2, storage)
    want = fastgate.Gate(weight, bias, storage=storage)(x)
    for k in range(16):
        w, b, v, out = (shifted(a, k * i % 16) for i, a in enumerate([weight, bias, x, want], 1))
        for call in ways(fastgate, w, b, storage):
            out[...] = 7
            same(call(v), want)
            same(call(v, out=out), want)


@storages
@some_shapes
def test_bits_do_not_depend_on_layouts(storage, m, n):
    weight, bias, x = make(m, n, 4, storage)
    want = fastgate.Gate(weight, bias, storage=storage)(x)
    for layout in every_layout(weight[np.newaxis]):
        for call in ways(fastgate, layout[0], np.repeat(bias, 2)[::2], storage):
            same(call(x), want)
            same(call(x[1]), want[1])
    same(fastgate.Gate.from_augmented(np.c_[bias, weight], storage=storage)(x), want)
    for call in ways(fastgate, weight, bias, storage):
        for v in every_layout(x.reshape(2, 2, n)):
            same(call(v), want.reshape(2, 2, m))
        same(call(np.broadcast_to(x[0], (4, n))), np.broadcast_to(want[0], (4, m)))


def digest():
    """A hash of outputs: of a gate and gate() for all shapes, of some shapes in each storage, of many biases."""
    hashed = hashlib.sha256()

    def add(y):
        y[np.isnan(y)] = np.nan
        hashed.update(y.tobytes())

    for m, n in SHAPES:
        weight, bias, x = make(m, n, 2)
        want = fastgate.Gate(weight, bias)(x)
        same(fastgate.gate(x, weight, bias), want)
        add(want)
    for m, n in [shape for shape in SHAPES if shape[0] * shape[1] < 2000] + [(130, 70), (20, 4100)]:
        for storage in STORAGES:
            weight, bias, x = make(m, n, 9, storage)
            for call in ways(fastgate, weight, bias, storage):
                want = call(x)
                same(np.stack([call(row) for row in x]), want)
                add(want)
    z = np.arange(0, 2**32, 4099, np.uint32).view(np.float32)
    add(fastgate.Gate(np.empty((len(z), 0), np.float32), z)(np.empty(0, np.float32)))
    z = np.arange(0, 2**64 - 2**46, 2**46, np.uint64) + np.arange(2**18 - 1, dtype=np.uint64) * 2**20
    z = z.view(np.float64)
    add(fastgate.gate(np.empty(0), np.empty((len(z), 0)), z))
    return hashed.hexdigest()


@compiled_only
def test_instruction_sets():
    """Every instruction set that is usable here gives the same bits, in a process of its own."""
    usable = [isa for isa, can in fastgate._core.instruction_sets().items() if can]
    assert "base" in usable
    digests = {}
    for isa in usable:
        command = [sys.executable, __file__, isa]
        environment = os.environ | {"FASTGATE_ISA": isa}
        digests[isa] = subprocess.run(command, env=environment, check=True, capture_output=True).stdout
    print("\n" + ", ".join(digests))
    assert len(set(digests.values())) == 1, digests


if __name__ == "__main__":
    assert COMPILED and fastgate._core.instruction_set() == sys.argv[1]
    print(digest())
