"""What each storage rounds, and that all else is as for float32: the oracle, the bits, the sizes."""

import array
import copy
import pickle

import fastgate
import numpy as np
import pytest
from fastgate.reference import rounded
from helpers import COMPILED, STORAGES, compiled_only, draw, draw_gate, dtype_of, same_bits, storages
from helpers.oracle import close

HALVES = ["float16", "bfloat16"]
ROWS = [0, 1, 15, 16, 17, 48, 64, 65, 130]
INPUTS = [0, 1, 15, 16, 17, 63, 64, 65, 1000, 1024, 1025, 4096, 4097]
BATCHES = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 16, 64, 65]


def make(m, n, storage):
    """weight and bias, the rows of very different sizes, some zero."""
    weight, bias = draw_gate(m, n, dtype_of(storage))
    weight *= np.resize(np.array([1, 0.25, 30, 1e-3, 0, 1, 1e-7], weight.dtype), m)[:, np.newaxis]
    return weight, bias


def draw_x(*shape, storage):
    return draw(*shape, seed=2, dtype=dtype_of(storage))


def held(gate):
    """The weights, as rounded, and the biases that a gate computes with."""
    return gate.__reduce__()[1][1]


def half(storage):
    """The dtype of 16-bit arrays."""
    return np.float16 if storage == "float16" else pytest.importorskip("ml_dtypes").bfloat16


# ---- what is rounded --------------------------------------------------------------------------


def patterns():
    """float32 of all exponents and signs, with a few bits, ties and their neighbours among them."""
    upper = np.arange(0, 2**32, 2**12, dtype=np.uint32)
    values = np.concatenate([upper, upper + 1, upper - 1]).view(np.float32)
    return np.concatenate([values, draw(10_000)])


@pytest.mark.parametrize("storage", HALVES)
def test_16_bits_are_the_nearest_ones(api, storage):
    values = patterns()
    with np.errstate(all="ignore"):
        want = values.astype(half(storage)).astype(np.float32)
    keep = ~np.isnan(values) & (np.isinf(values) | np.isfinite(want))
    got, _ = held(api.Gate(values[keep, np.newaxis], storage=storage))
    same_bits(got[:, 0], want[keep])
    got, _ = held(api.Gate(np.full((3, 2), np.nan, np.float32), storage=storage))
    assert np.isnan(got).all()


@pytest.mark.parametrize("storage", HALVES)
def test_16_bit_arrays_are_taken_as_they_are(api, storage):
    dtype = half(storage)
    weight, bias = (array.astype(dtype) for array in draw_gate(21, 13))
    x = draw(4, 13)
    want = api.Gate(weight.astype(np.float32), bias.astype(np.float32), storage=storage)(x)
    same_bits(api.Gate(weight, bias, storage=storage)(x), want)
    same_bits(api.Gate(np.asfortranarray(weight), bias[::-1].copy()[::-1], storage=storage)(x), want)
    same_bits(api.Gate(weight, bias.astype(np.float32), storage=storage)(x), want)
    augmented = np.column_stack([bias, weight])
    assert augmented.dtype == dtype
    same_bits(api.Gate.from_augmented(augmented, storage=storage)(x), want)


def test_int8_is_the_nearest_of_255(api):
    """A row is its largest magnitude / 127, cut to 17 bits, times the nearest integers."""
    weight = np.concatenate([draw(60, 50), np.exp(10 * draw(60, 50)), draw(9, 50) * 1e-35])
    weight[7] = 0
    got, _ = held(api.Gate(weight, storage="int8"))
    scale = np.abs(weight).max(axis=1, keepdims=True).astype(np.float64) / 127
    assert (np.abs(got - weight.astype(np.float64)) <= scale * (0.5 + 127 * 2.0**-16)).all()
    step = np.abs(got).max(axis=1, keepdims=True).astype(np.float64) / 127
    assert ((scale * (1 - 2.0**-16) <= step) & (step <= scale * (1 + 2.0**-24))).all()
    mantissa = np.frexp(step)[0] * 2**17
    np.testing.assert_array_equal(mantissa, np.rint(mantissa))
    integers = got / np.where(step == 0, 1, step)
    np.testing.assert_array_equal(integers, np.rint(integers))


@compiled_only
@storages
def test_the_core_rounds_as_the_reference(storage):
    """All exponents, subnormal weights and subnormal scales of int8 among them."""
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((600, 30), np.float32)
    weight = np.ldexp(weight, rng.integers(-150, 13, (600, 1))).astype(dtype_of(storage))
    same_bits(held(fastgate.Gate(weight, storage=storage))[0] + 0, rounded(weight, storage) + 0)


@storages
def test_packing_again_changes_nothing(api, storage):
    rng = np.random.default_rng(4)
    weight = np.ldexp(rng.standard_normal((200, 20)), rng.integers(-150, 13, (200, 1)))
    bias = draw(200, dtype=dtype_of(storage))
    gate = api.Gate(weight.astype(dtype_of(storage)), bias, storage=storage)
    again = api.Gate(*held(gate), storage=storage)
    for a, b, c in zip(held(gate), held(again), held(pickle.loads(pickle.dumps(gate)))):
        same_bits(a, b)
        same_bits(a, c)


@compiled_only
@pytest.mark.parametrize("storage", HALVES)
def test_16_bits_compute_as_float32_does(storage):
    for m, n in [(5, 3), (70, 64), (33, 65), (20, 1100)]:
        weight, bias = make(m, n, storage)
        x = draw_x(9, n, storage=storage)
        want = fastgate.Gate(rounded(weight, storage), bias)(x)
        same_bits(fastgate.Gate(weight, bias, storage=storage)(x), want)


# ---- the oracle -------------------------------------------------------------------------------


@storages
@pytest.mark.parametrize("n", INPUTS)
def test_sizes(api, storage, n):
    for m in ROWS:
        weight, bias = make(m, n, storage)
        x = draw_x(7, n, storage=storage)
        gate = api.Gate(weight, bias, storage=storage)
        close(gate(x), x, weight, bias, storage)
        close(gate(x[0]), x[0], weight, bias, storage)
        close(api.Gate(weight, storage=storage)(x[1]), x[1], weight, None, storage)


@storages
@pytest.mark.parametrize("size", [1e-44, 1e-38, 1e-20, 1e20, 1e38])
def test_inputs_huge_and_tiny(api, storage, size):
    weight, bias = make(40, 50, storage)
    for x in (draw_x(3, 50, storage=storage).clip(-3, 3) * size, np.full(50, size)):
        x = x.astype(dtype_of(storage))
        gate = api.Gate(np.abs(weight), bias, storage=storage)  # no infinity less infinity
        close(gate(np.abs(x)), np.abs(x), np.abs(weight), bias, storage)
        one = np.where(np.arange(50) == 17, x, 0)
        close(api.Gate(weight, bias, storage=storage)(one), one, weight, bias, storage)


@storages
def test_inputs_of_many_magnitudes(api, storage):
    weight, bias = make(40, 9000, storage)
    x = (np.exp(8 * draw(5, 9000)) * draw(5, 9000, seed=1)).astype(dtype_of(storage))
    close(api.Gate(weight, bias, storage=storage)(x), x, weight, bias, storage)


@storages
def test_inputs_that_are_not_finite(api, storage):
    """inf * 0 is NaN, inf - inf too, and no other row of the batch sees it."""
    weight = make(70, 40, storage)[0]
    x = draw_x(6, 40, storage=storage)
    gate = api.Gate(weight, storage=storage)
    want = gate(x)
    for value in (np.inf, -np.inf, np.nan):
        for k in (0, 7, 39):
            bad = x.copy()
            bad[2, k] = value
            got = gate(bad)
            close(got, bad, weight, None, storage)
            np.testing.assert_array_equal(np.delete(got, 2, 0), np.delete(want, 2, 0))
            np.testing.assert_array_equal(gate(bad[2]), got[2])
    bad[2, 8] = -np.inf
    close(gate(bad), bad, weight, None, storage)


@pytest.mark.parametrize("storage", ["float16", "bfloat16", "float64"])
def test_weights_that_are_not_finite(api, storage):
    weight = make(70, 40, storage)[0]
    x = draw_x(3, 40, storage=storage)
    want = api.Gate(weight, storage=storage)(x)
    for value in (np.inf, -np.inf, np.nan):
        for row in (0, 31, 69):
            bad = weight.copy()
            bad[row, row % 40] = value
            got = api.Gate(bad, storage=storage)(x)
            close(got, x, bad, None, storage)
            np.testing.assert_array_equal(np.delete(got, row, 1), np.delete(want, row, 1))


@storages
def test_biases_of_all_kinds(api, storage):
    """They are kept as they are."""
    inf, nan = np.inf, np.nan
    bias = np.array([inf, -inf, nan, 0.1, 1e-30, -50, 80, -0.0, -1e30], dtype_of(storage))
    weight, x = np.zeros((9, 2), bias.dtype), np.zeros(2, bias.dtype)
    gate = api.Gate(weight, bias, storage=storage)
    close(gate(x), x, weight, bias, storage)
    same_bits(held(gate)[1], bias)


# ---- the bits ---------------------------------------------------------------------------------

SHAPES = [(1, 1), (5, 3), (16, 64), (17, 65), (65, 130), (130, 1025), (70, 4097)]


@storages
@pytest.mark.parametrize("m, n", SHAPES)
def test_place_in_the_batch(api, storage, m, n):
    weight, bias = make(m, n, storage)
    x = draw_x(65, n, storage=storage)
    gate = api.Gate(weight, bias, storage=storage)
    want = np.stack([gate(row) for row in x])
    for batch in BATCHES:
        same_bits(gate(x[:batch]), want[:batch])
        out = np.full((batch, m), 7, want.dtype)
        assert gate(x[65 - batch :], out=out) is out
        same_bits(out, want[65 - batch :])
    same_bits(gate(x[::-1]), want[::-1])
    same_bits(gate(x[:64].reshape(4, 2, 8, n)), want[:64].reshape(4, 2, 8, m))
    for row in (0, m // 2, m - 1):
        alone = api.Gate(weight[row : row + 1], bias[row : row + 1], storage=storage)
        same_bits(alone(x), want[:, row : row + 1])


@storages
@pytest.mark.parametrize("m, n", SHAPES)
def test_every_road(api, storage, m, n):
    """Parts, layouts, alignment, bound calls, threads, pickles, copies."""
    weight, bias = make(m, n, storage)
    x = draw_x(9, n, storage=storage)
    gate = api.Gate(weight, bias, storage=storage)
    want = gate(x)
    rng = np.random.default_rng(n)
    for count in (2, 3, 8, 12):
        parts = np.split(x, np.sort(rng.integers(0, n + 1, count - 1)), axis=-1)
        same_bits(gate(*parts), want)
        same_bits(gate(*[part.copy() for part in parts]), want)
        same_bits(gate(*[part[4] for part in parts]), want[4])
        out = np.empty_like(want)
        assert gate.bind(*[part.copy() for part in parts], out=out)() is out
        same_bits(out, want)
    crooked = np.frombuffer(b"?" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape)
    for other in (np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], x[:, ::-1].copy()[:, ::-1],
                  np.repeat(x, 2, axis=0)[::2], np.c_[x, x][:, :n], crooked):  # fmt: skip
        same_bits(gate(other), want)
    same_bits(gate(np.broadcast_to(x[0], (5, n))), np.broadcast_to(want[0], (5, m)))
    for w in (np.asfortranarray(weight), np.repeat(weight, 2, axis=1)[:, ::2], weight[::-1, ::-1].copy()[::-1, ::-1]):
        same_bits(api.Gate(w, np.repeat(bias, 2)[::2], storage=storage)(x), want)
    same_bits(api.Gate.from_augmented(np.c_[bias, weight], storage=storage)(x), want)
    for threads in (1, 2, 3):
        same_bits(api.Gate(weight, bias, storage=storage, threads=threads)(x), want)
    for other in (copy.copy(gate), copy.deepcopy(gate), pickle.loads(pickle.dumps(gate))):
        assert other.storage == storage
        same_bits(other(x), want)
    overlapping = np.zeros(9 * (m + n), x.dtype)
    overlapping[: 9 * n] = x.ravel()
    out = overlapping[3 : 3 + 9 * m].reshape(9, m)
    gate(overlapping[: 9 * n].reshape(9, n), out=out)
    same_bits(out, want)


def test_one_shot_in_float64(api):
    for m, n in [*SHAPES, (3, 0), (64, 200)]:
        weight, bias = make(m, n, "float64")
        x = draw_x(3, n, storage="float64")
        want = api.Gate(weight, bias, storage="float64")(x)
        for w in (weight, np.asfortranarray(weight), np.repeat(weight, 2, axis=1)[:, ::2], memoryview(weight)):
            same_bits(api.gate(x, w, bias), want)
        same_bits(api.gate(x[:, ::-1].copy()[:, ::-1], weight, bias), want)
        same_bits(api.gate(x.tolist(), weight, bias.tolist()), want)
        out = np.empty_like(want)
        assert api.gate(x, weight, bias, out=out) is out
        same_bits(out, want)
    w = np.ascontiguousarray(weight[:, :64])
    want = api.gate(x[0, :64], w)
    same_bits(api.gate(x[0, :64], w, out=w[3]), want)  # out overlaps the weights


def test_float64_in_other_buffers(api):
    weight, bias = draw_gate(3, 2, np.float64)
    x, out = array.array("d", [1, 2]), array.array("d", [0, 0, 0])
    gate = api.Gate(array_like(weight), memoryview(bias), storage="float64")
    call = gate.bind(x, out=out)
    with pytest.raises(BufferError):
        x.append(3)  # would move what the call reads
    assert call() is out
    close(np.asarray(out), np.asarray(x), weight, bias, "float64")
    assert api.gate(x, array_like(weight), memoryview(bias), out=out) is out
    same_bits(np.asarray(out), gate(x))


def array_like(array):
    """Something with __array__ only."""
    return type("HasArray", (), {"__array__": lambda self, dtype=None, copy=None: array})()


# ---- the object -------------------------------------------------------------------------------


@storages
def test_properties(api, set_threads, storage):
    gate = api.Gate(draw(64, 512, dtype=dtype_of(storage)), storage=storage, threads=3)
    assert (gate.output_size, gate.input_size, gate.storage, gate.threads) == (64, 512, storage, 3)
    assert repr(gate) == f"Gate(input_size=512, output_size=64, storage={storage!r}, threads=3)"
    if api is fastgate and COMPILED:
        bytes_each = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "float64": 8}[storage]
        assert bytes_each * 64 * 512 < gate.nbytes < bytes_each * 64 * 512 + 64 * 20


@storages
def test_pickles_keep_the_options(api, set_threads, storage):
    gate = api.Gate(*make(5, 4, storage), storage=storage, threads=3)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        loaded = pickle.loads(pickle.dumps(gate, protocol))
        assert type(loaded) is api.Gate and (loaded.storage, loaded.threads) == (storage, 3)
    assert copy.copy(gate) is gate and copy.deepcopy(gate) is gate


@pytest.mark.parametrize("exponent", range(-149, -110))
def test_int8_of_rows_of_tiny_weights(api, exponent):
    """The bound of docs/numbers.md, where the scale of a row is subnormal or 0."""
    weight = np.ldexp(draw(20, 50).astype(np.float64), exponent).astype(np.float32)
    rounded_weight = held(api.Gate(weight, storage="int8"))[0].astype(np.float64)
    largest = np.abs(weight).max(axis=1, keepdims=True).astype(np.float64)
    bound = 0.502 * largest / 127 + (2.0**-135 if largest.max() < 2.0**-119 else 0)
    assert (np.abs(rounded_weight - weight) <= bound).all()


def test_sequences_are_converted(api):
    weight, bias, x = [[0.1, -0.2], [3, 4], [5, 6]], (1, 2, 0.3), [0.5, -1]
    for storage in STORAGES:
        dtype = dtype_of(storage)
        want = api.Gate(np.array(weight, dtype), np.array(bias, dtype), storage=storage)(np.array(x, dtype))
        assert want.dtype == dtype
        same_bits(api.Gate(weight, bias, storage=storage)(x), want)
        out = np.empty_like(want)
        assert api.Gate(weight, bias, storage=storage)(x, out=out) is out
        same_bits(out, want)


@storages
def test_no_warnings(api, storage, recwarn):
    with np.errstate(all="raise"):
        weight = np.array([[1e-38, 65000], [1e-44, 1e-40]], dtype_of(storage))
        gate = api.Gate(weight, storage=storage)
        gate(np.array([[1e38, -np.inf], [1e-44, -1000]], dtype_of(storage)))
    assert not recwarn.list


@compiled_only
def test_the_demo_reads_as_many_digits():
    """Within half a percentage point of float32."""
    from fastgate import demo

    data = demo.load()
    right = {}
    for storage in STORAGES:
        h, _ = demo.run(data, demo.to_rows(data["images"]), fastgate.LSTM, storage)
        right[storage] = np.mean(demo.classify(data, h) == data["labels"])
    assert right["float32"] > 0.98
    assert all(abs(share - right["float32"]) <= 0.005 for share in right.values()), right
