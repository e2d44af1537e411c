"""One result per row, always the same bits: by every road, and on every instruction set."""

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import fastgate
import numpy as np
import pytest
from helpers import COMPILED, STORAGES, compiled_only, dtype_of

SIZES = [0, 1, 2, 3, 4, 7, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 300, 512, 1023, 1025, 2049, 8192]
SHAPES = [(m, n) for m in SIZES for n in SIZES if m * n <= 70_000] + [(512, 512), (1025, 300)]
some_shapes = pytest.mark.parametrize(
    "m, n", [(1, 1), (1, 8192), (3, 5), (17, 16), (64, 64), (65, 33), (130, 70), (300, 1025)]
)


def make(m, n, batch):
    """weight, bias, x (batch, n): ordinary numbers, and in some rows extraordinary ones."""
    rng = np.random.default_rng([m, n])
    weight = rng.standard_normal((m, n), np.float32) / np.float32(max(n, 1)) ** np.float32(0.5)
    bias, x = rng.standard_normal(m, np.float32), rng.standard_normal((batch, n), np.float32)
    for row, value in zip(rng.permutation(m)[: m // 5], [1e-42, np.inf, 2e38, np.nan, -0.0]):
        weight[row, rng.integers(n) if n else slice(0)] = value
    return weight, bias, x


def same(got, want):
    """The same bits, all NaNs being one."""
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)  # 0.0 == -0.0, but no result is -0.0:
    assert not np.signbit(got[got == 0]).any()


def shifted(array, floats):
    """A copy that lies `floats` past a 64-byte boundary, in C order."""
    raw = np.empty(array.size + 32, np.float32)
    start = -raw.ctypes.data // 4 % 16 + floats
    view = raw[start : start + array.size].reshape(array.shape)
    view[...] = array
    return view


def test_place_in_the_batch():
    for m, n in SHAPES:
        weight, bias, x = make(m, n, 5)
        gate = fastgate.Gate(weight, bias)
        want = np.stack([gate(row) for row in x])
        same(gate(x), want)
        same(gate(x[::-1]), want[::-1])
        same(gate(x[:, None]), want[:, None])
        same(gate(x[3:4]), want[3:4])
        same(fastgate.gate(x, weight, bias), want)
        same(fastgate.gate(x[2], weight, bias), want[2])
        same(fastgate.gate(x, np.asfortranarray(weight), bias), want)


@some_shapes
def test_a_row_alone(m, n):
    weight, bias, x = make(m, n, 3)
    want = fastgate.Gate(weight, bias)(x)
    for row in range(0, m, max(1, m // 40)):
        same(fastgate.Gate(weight[row : row + 1], bias[row : row + 1])(x), want[:, row : row + 1])
    order = np.random.default_rng(m).permutation(m)
    same(fastgate.Gate(weight[order], bias[order])(x), want[:, order])


@some_shapes
def test_parts(m, n):
    weight, bias, x = make(m, n, 3)
    gate = fastgate.Gate(weight, bias)
    want = gate(x)
    rng = np.random.default_rng(n)
    for count in [1, 2, 3, 5, 8, 20, n]:
        for _ in range(5):
            cuts = np.sort(rng.integers(0, n + 1, count - 1))
            if count == n:
                cuts = np.arange(1, n)
            if len(cuts) > 1000:
                continue
            parts = [shifted(p, rng.integers(16)) for p in np.split(x, cuts, axis=-1)]
            same(gate(*parts), want)
            same(gate(*(p[1] for p in parts)), want[1])
            out = np.empty_like(want)
            gate.bind(*parts, out=out)()
            same(out, want)
            same(gate(*np.split(x, cuts, axis=-1)), want)  # strided views


@pytest.mark.parametrize("order", "CF")
def test_many_parts_with_an_empty_one(order):
    """More parts than are described on the stack, whose concatenation NumPy may lay out by columns."""
    gate = fastgate.Gate(np.ones((3, 9), np.float32))
    x = np.asarray(np.ones((2, 9), np.float32), order=order)
    want = gate(np.ascontiguousarray(x))
    parts = [x[:, :0], *np.split(x, 9, axis=1)]
    same(gate(*parts), want)
    same(gate(*parts, out=np.zeros_like(want)), want)


@some_shapes
def test_alignment(m, n):
    weight, bias, x = make(m, n, 2)
    want = fastgate.Gate(weight, bias)(x)
    for k in range(16):
        w, b, v, out = (shifted(a, k * i % 16) for i, a in enumerate([weight, bias, x, want], 1))
        out[...] = 7
        gate = fastgate.Gate(w, b)
        same(gate(v), want)
        same(gate(v, out=out), want)
        same(fastgate.gate(v, w, b), want)
    crooked = np.frombuffer(b"?" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    assert not crooked.size or not crooked.flags.aligned
    same(gate(crooked), want)
    same(fastgate.gate(crooked, weight, bias), want)


@some_shapes
def test_layouts(m, n):
    weight, bias, x = make(m, n, 3)
    gate = fastgate.Gate(weight, bias)
    want = gate(x)

    wide = np.full((m + 1, 2 * n + 3), np.nan, np.float32)
    wide[:m, 1 : 2 * n : 2] = weight
    layouts = [np.asfortranarray(weight), wide[:m, 1 : 2 * n : 2], weight[::-1].copy()[::-1],
               weight[:, ::-1].copy()[:, ::-1], weight[::-1, ::-1].copy("F")[::-1, ::-1]]  # fmt: skip
    for w in layouts:
        same(fastgate.Gate(w, bias)(x), want)
        same(fastgate.gate(x, w, bias), want)
        same(fastgate.gate(x[1], w, bias), want[1])
    same(fastgate.Gate.from_augmented(np.c_[bias, weight])(x), want)
    repeated = np.repeat(bias, 2)[::2]
    same(fastgate.Gate(weight, repeated)(x), want)
    same(fastgate.gate(x, weight, repeated), want)

    wide_x = np.full((6, 3 * n + 1), np.nan, np.float32)
    wide_x[::2, : 3 * n : 3] = x
    views = [np.asfortranarray(x), wide_x[::2, : 3 * n : 3], x[::-1].copy()[::-1], x[:, ::-1].copy()[:, ::-1]]
    for v in views:
        same(gate(v), want)
        same(fastgate.gate(v, weight, bias), want)
    same(gate(np.broadcast_to(x[0], (4, n))), np.broadcast_to(want[0], (4, m)))


@some_shapes
def test_roads(m, n):
    weight, bias, x = make(m, n, 4)
    gate = fastgate.Gate(weight, bias)
    want = gate(x)
    out = np.full_like(want, 7)
    assert gate(x, out=out) is out
    same(out, want)
    out[...] = 7
    call = gate.bind(x, out=out)
    for _ in range(4):  # walks turn around
        assert call() is out
        same(out, want)
        out[...] = 7
    same(fastgate.gate(x, weight, bias, out=out), want)
    x[...] = x[::-1].copy()
    same(call(), want[::-1])
    same(fastgate.Gate(weight)(x), fastgate.Gate(weight, np.zeros(m, np.float32))(x))
    same(fastgate.gate(x, weight), fastgate.Gate(weight)(x))


@pytest.mark.parametrize("m, n", [(65, 33), (300, 1025)])
def test_eight_threads_at_once(m, n):
    weight, bias, x = make(m, n, 6)
    gate = fastgate.Gate(weight, bias)
    want = gate(x)

    def run(_):
        for _ in range(50):
            same(gate(x), want)
            same(gate(x[1]), want[1])
            same(fastgate.gate(x[1], weight, bias), want[1])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(8)))


def digest():
    """Of the results for all shapes, by a gate and by gate(), and of some in batches, in each storage."""
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
            weight, bias, x = (array.astype(dtype_of(storage)) for array in make(m, n, 9))
            weight[~(np.abs(weight) < 6e4)] = 1  # what some storages refuse, NaN too
            if storage == "float64":
                weight, x = weight * np.pi, x * np.pi  # of full length
            gate = fastgate.Gate(weight, bias, storage=storage)
            want = gate(x)
            same(np.stack([gate(row) for row in x]), want)
            if storage == "float64":
                same(fastgate.gate(x, weight, bias), want)
            add(want)
    z = np.arange(0, 2**32, 4099, np.uint32).view(np.float32)
    add(fastgate.Gate(np.empty((len(z), 0), np.float32), z)(np.empty(0, np.float32)))
    z = np.arange(0, 2**64 - 2**46, 2**46, np.uint64) + np.arange(2**18 - 1, dtype=np.uint64) * 2**20
    z = z.view(np.float64)
    add(fastgate.gate(np.empty(0), np.empty((len(z), 0)), z))
    return hashed.hexdigest()


@compiled_only
def test_instruction_sets():
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
