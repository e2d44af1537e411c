"""How each storage rounds weights, and that outputs are those of the rounded weights, for numbers of all kinds."""

import pickle

import fastgate
import numpy as np
import pytest
from fastgate.reference import rounded
from helpers import COMPILED, STORAGES, compiled_only, draw, draw_gate, dtype_of, held, same_bits, storages, ways
from helpers.oracle import close

HALVES = ["float16", "bfloat16"]
ROWS = [0, 1, 15, 16, 17, 48, 64, 65, 130]
INPUTS = [0, 1, 15, 16, 17, 63, 64, 65, 1000, 1024, 1025, 4096, 4097]
EXTRAORDINARY = [np.inf, -np.inf, np.nan, 3e38]


def make(m, n, storage):
    """weight, whose rows are of very different magnitudes and some of them zero, and bias."""
    weight, bias = draw_gate(m, n, dtype_of(storage))
    weight *= np.resize(np.array([1, 0.25, 30, 1e-3, 0, 1, 1e-7], weight.dtype), m)[:, np.newaxis]
    return weight, bias


def draw_x(*shape, storage):
    return draw(*shape, seed=2, dtype=dtype_of(storage))


def half(storage):
    """The dtype of arrays of 16 bits that this storage takes as they are."""
    return np.float16 if storage == "float16" else pytest.importorskip("ml_dtypes").bfloat16


# ---- rounding ---------------------------------------------------------------------------------


def patterns():
    """float32 numbers of all exponents and signs with few digits; ties of the rounding and their neighbours too."""
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
    """A row is held as its scale, its largest magnitude / 127 cut to 17 bits, times the nearest integers."""
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


@pytest.mark.parametrize("exponent", range(-149, -110))
def test_int8_of_tiny_weights(api, exponent):
    """The bound that docs/numbers.md gives also holds where the scale of a row is subnormal or 0."""
    weight = np.ldexp(draw(20, 50).astype(np.float64), exponent).astype(np.float32)
    rounded_weight = held(api.Gate(weight, storage="int8"))[0].astype(np.float64)
    largest = np.abs(weight).max(axis=1, keepdims=True).astype(np.float64)
    bound = 0.502 * largest / 127 + (2.0**-135 if largest.max() < 2.0**-119 else 0)
    assert (np.abs(rounded_weight - weight) <= bound).all()


@storages
def test_rounded_weights_are_those_of_the_reference_and_are_not_rounded_again(api, storage):
    """Weights have all exponents: some are subnormal, and so are some scales of int8."""
    rng = np.random.default_rng(3)
    weight = np.ldexp(rng.standard_normal((600, 30)), rng.integers(-150, 13, (600, 1))).astype(dtype_of(storage))
    bias = draw(600, dtype=dtype_of(storage))
    gate = api.Gate(weight, bias, storage=storage)
    same_bits(held(gate)[0] + 0, rounded(weight, storage) + 0)
    again = api.Gate(*held(gate), storage=storage)
    for a, b, c in zip(held(gate), held(again), held(pickle.loads(pickle.dumps(gate)))):
        same_bits(a, b)
        same_bits(a, c)


@compiled_only
@pytest.mark.parametrize("storage", HALVES)
def test_16_bits_compute_as_float32_does(storage):
    """The outputs have the bits of a float32 gate with the rounded weights."""
    for m, n in [(5, 3), (70, 64), (33, 65), (20, 1100)]:
        weight, bias = make(m, n, storage)
        x = draw_x(9, n, storage=storage)
        want = fastgate.Gate(rounded(weight, storage), bias)(x)
        same_bits(fastgate.Gate(weight, bias, storage=storage)(x), want)


# ---- outputs ----------------------------------------------------------------------------------


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
def test_extraordinary_inputs_change_their_own_row_only(api, storage):
    weight, x = make(70, 40, storage)[0], draw_x(6, 40, storage=storage)
    gate = api.Gate(weight, storage=storage)
    want = gate(x)
    for value in EXTRAORDINARY:
        for k in (0, 7, 39):
            bad = x.copy()
            bad[2, k] = value
            got = gate(bad)
            close(got, bad, weight, None, storage)
            np.testing.assert_array_equal(np.delete(got, 2, 0), np.delete(want, 2, 0))
            np.testing.assert_array_equal(gate(bad[2]), got[2])
    bad[2, 7:9] = np.inf, -np.inf  # their sum is NaN
    close(gate(bad), bad, weight, None, storage)


@pytest.mark.parametrize("storage", ["float32", "float16", "bfloat16", "float64"])  # int8 refuses such weights
def test_extraordinary_weights_change_their_own_output_only(api, storage):
    weight, x = make(70, 40, storage)[0], draw_x(3, 40, storage=storage)
    want = api.Gate(weight, storage=storage)(x)
    for value in EXTRAORDINARY[: 3 if storage == "float16" else 4]:  # float16 refuses 3e38
        for row in range(70):
            bad = weight.copy()
            bad[row, row % 40] = value
            for call in ways(api, bad, None, storage):
                got = call(x)
                close(got, x, bad, None, storage)
                np.testing.assert_array_equal(np.delete(got, row, 1), np.delete(want, row, 1))


@storages
def test_biases_of_all_kinds(api, storage):
    """Every storage keeps biases as they are."""
    inf, nan = np.inf, np.nan
    bias = np.array([inf, -inf, nan, 0.1, 1e-30, -50, 80, -0.0, -1e30], dtype_of(storage))
    weight, x = np.zeros((9, 2), bias.dtype), np.zeros(2, bias.dtype)
    gate = api.Gate(weight, bias, storage=storage)
    close(gate(x), x, weight, bias, storage)
    same_bits(held(gate)[1], bias)


# ---- properties -------------------------------------------------------------------------------


@storages
def test_properties(api, set_threads, storage):
    gate = api.Gate(draw(64, 512, dtype=dtype_of(storage)), storage=storage, threads=3)
    assert (gate.output_size, gate.input_size, gate.storage, gate.threads) == (64, 512, storage, 3)
    assert repr(gate) == f"Gate(input_size=512, output_size=64, storage={storage!r}, threads=3)"
    assert repr(api.Gate([[1.0]])) == "Gate(input_size=1, output_size=1, storage='float32', threads=1)"
    assert gate.nbytes >= 64 * 512
    if api is fastgate and COMPILED:
        bytes_each = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "float64": 8}[storage]
        assert bytes_each * 64 * 512 < gate.nbytes < bytes_each * 64 * 512 + 64 * 20


@storages
def test_no_warnings(api, storage, recwarn):
    with np.errstate(all="raise"):
        weight = np.array([[1e-38, 65000], [1e-44, 1e-40], [1, 0]], dtype_of(storage))
        gate = api.Gate(weight, storage=storage)
        gate(np.array([[1e38, -np.inf], [1e-44, -1000], [-100, 0], [1000, 1e38], [-1000, 1]], dtype_of(storage)))
    assert not recwarn.list


@compiled_only
def test_the_demo_reads_as_many_digits():
    """The share of digits that are read right is within half a percentage point of float32's."""
    from fastgate import demo

    data = demo.load()
    right = {}
    for storage in STORAGES:
        h, _ = demo.run(data, demo.to_rows(data["images"]), fastgate.LSTM, storage)
        right[storage] = np.mean(demo.classify(data, h) == data["labels"])
    assert right["float32"] > 0.98
    assert all(abs(share - right["float32"]) <= 0.005 for share in right.values()), right
