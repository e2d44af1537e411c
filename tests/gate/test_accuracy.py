"""How far the numbers are from the true ones (`pytest -s` prints the tables).

The affine part z = W x + b is seen through the sigmoid, without loss: multiplying a row and its bias
by a power of two changes no rounding, so each row is scaled to bring its z to [-64, -32). There
g = exp(z) nearly, so that an ULP of g moves log(g) by 2^-23 at most, while float32 values of z are
2^-18 apart: log(g) - log(1 - g) lies next to the z that was computed, and to no other. In float64 it
is [-512, -256), where an ULP of g is 2^-52 of log(g) at most, and values of z are 2^-44 apart.
"""

import fastgate
import numpy as np
import pytest
from helpers import COMPILED, STORAGES, dtype_of

LENGTHS = [1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 24, 31, 32, 48, 63, 64, 65, 100, 127, 128, 200, 256, 300]
LENGTHS += [500, 512, 700, 1000, 1024, 2048, 4096, 8191, 8192]
ROWS = 256


# What is computed in a storage, in which dtype the truth is, and where z is brought to.
PRECISE = {"float32": np.float64, "float64": np.longdouble}
EXPONENT = {"float32": 6, "float64": 9}
LONGER = np.finfo(np.longdouble).nmant >= 63
float64_too = pytest.mark.parametrize(
    "storage",
    [
        "float32",
        pytest.param(
            "float64",
            marks=pytest.mark.skipif(not LONGER, reason="long double is no longer than double"),
        ),
    ],
)


def normal(rng, n, dtype):
    return rng.standard_normal((ROWS, 1 + n), dtype), rng.standard_normal(n, dtype)


def positive(rng, n, dtype):
    return rng.random((ROWS, 1 + n), dtype), rng.random(n, dtype)


def heavy_tailed(rng, n, dtype):
    w, x = normal(rng, n, dtype)
    return np.sign(w) * np.exp(2 * np.abs(w)), x


def cancelling(rng, n, dtype):
    """Large products whose sum is a thousandth of what independent signs would leave."""
    w, x = normal(rng, n, dtype)
    one_x = np.concatenate([[dtype(1)], x])
    w -= np.outer(w @ one_x * dtype(0.999) / (one_x @ one_x), one_x)
    return w, x


def scaled(augmented, x, storage):
    """[b, W], x -> the rows with z in the range after scaling, and z more precisely."""
    dtype, precise = dtype_of(storage), PRECISE[storage]
    one_x = np.concatenate([[precise(1)], x])
    # by a pairwise sum, whose error does not show beside the one that is measured
    z = (augmented * one_x).sum(axis=1)
    size = np.abs(augmented).astype(np.float64) @ np.abs(one_x).astype(np.float64)
    keep = np.abs(z) > size * 2.0**-16  # the error must not carry z out of exp's range
    z, augmented = z[keep], augmented[keep]
    scale = np.copysign(np.ldexp(precise(1), EXPONENT[storage] - np.frexp(z)[1]), -z)
    return augmented * scale.astype(dtype)[:, None], z * scale


def affine_of(g, storage):
    """The z, float32 or float64, whose sigmoid, small and normal, is g."""
    g = g.astype(PRECISE[storage])
    z = np.log(g) - np.log1p(-g)
    nearest = z.astype(dtype_of(storage)).astype(z.dtype)
    if COMPILED:  # the reference's z has more bits
        assert np.abs(z - nearest).max() < {"float32": 2.0**-22, "float64": 2.0**-50}[storage]
    return nearest


def onnxruntime_gemm(weight, bias):
    """x -> weight @ x + bias by ONNX Runtime, on one thread, the weights known to it before."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    value, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)],
        "gemm",
        [value("x", kind, [1, weight.shape[1]])],
        [value("y", kind, [1, len(weight)])],
        [onnx.numpy_helper.from_array(weight, "w"), onnx.numpy_helper.from_array(bias, "b")],
    )
    opset = onnx.helper.make_opsetid("", 17)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x[None]})[0][0]


def torch_linear(weight, bias):
    torch = pytest.importorskip("torch")
    weight, bias = torch.from_numpy(weight), torch.from_numpy(bias)
    return lambda x: torch.nn.functional.linear(torch.from_numpy(x), weight, bias).numpy()


def numpy_product(weight, bias):
    return lambda x: weight @ x + bias


def errors(draw, storage, n, peer):
    """Ours, and those of peer(weight, bias)(x), by |w| |x| + |b| times half the dtype's epsilon."""
    dtype, rng = dtype_of(storage), np.random.default_rng(20240817 + n)
    ours, theirs = [], []
    for _ in range(int(np.clip(2**22 // (ROWS * n), 8, 64))):
        augmented, x = draw(rng, n, dtype)
        w, z = scaled(augmented, x, storage)
        bias, w = np.ascontiguousarray(w[:, 0]), np.ascontiguousarray(w[:, 1:])
        unit = np.finfo(dtype).eps / 2 * (np.abs(w) @ np.abs(x) + np.abs(bias)).astype(z.dtype)
        g = fastgate.Gate(w, bias, storage=storage)(x)
        ours.append((affine_of(g, storage) - z) / unit)
        theirs.append((peer(w, bias)(x) - z) / unit)
    ours, theirs = np.abs(np.concatenate(ours)), np.abs(np.concatenate(theirs))
    ratio = rms(ours) / rms(theirs)
    print(f"{n:8} {rms(ours):7.4f} {ratio:6.3f} {ours.max():8.3f} {ours.max() / theirs.max():6.3f}")
    return ours, theirs


def heading(draw, storage, peer):
    print(f"\n{draw.__name__}, {storage}: errors, and their ratio to those of {peer.__name__}")
    print("       n     rms  ratio  largest  ratio")


draws = pytest.mark.parametrize("draw", [normal, positive, heavy_tailed, cancelling])


@draws
def test_affine_part_is_as_accurate_as_onnxruntime(draw):
    """Root mean square and largest error no larger than its Gemm's, at every length: it has the same order."""
    heading(draw, "float32", onnxruntime_gemm)
    for n in LENGTHS:
        ours, theirs = errors(draw, "float32", n, onnxruntime_gemm)
        assert rms(ours) <= rms(theirs) and ours.max() <= theirs.max()


@pytest.mark.skipif("AMD" not in fastgate._cpu_name(), reason="torch's order of summation depends on the CPU")
@draws
def test_affine_part_is_more_accurate_than_torch(draw):
    """Root mean square error below its Linear's, from 2048 inputs on; but not on an Intel Xeon, at 2048."""
    heading(draw, "float32", torch_linear)
    for n in (2048, 4096, 8192):
        ours, theirs = errors(draw, "float32", n, torch_linear)
        assert rms(ours) < rms(theirs)


@float64_too
@draws
def test_affine_part_is_within_its_bound(draw, storage):
    """Of an input's product, 1 rounding; of a sum in its span, one for each later input; then one for each span.

    NumPy's ratio is printed for comparison.
    """
    heading(draw, storage, numpy_product)
    for n in LENGTHS:
        ours, _ = errors(draw, storage, n, numpy_product)
        assert ours.max() <= (min(n, 256) + -(-n // 256)) * 1.001


@pytest.mark.parametrize("n", [64, 300, 1024, 4097])
def test_errors_of_the_storages(n):
    """Of g, against the oracle with the weights as given, and with the weights as rounded.

    The first stays below what the rounding of each weight allows, half a unit of its last place or
    of the row's scale; the second, in 16-bit storages, is that of float32.
    """
    rng = np.random.default_rng(n)
    weight = rng.standard_normal((512, n), np.float32) / np.float32(n**0.5)
    bias, x = rng.standard_normal(512, np.float32), rng.standard_normal((8, n), np.float32)
    print(f"\nrandom (512, {n}): |g - oracle|, weights as given: largest, rms; as rounded: largest, rms")
    errors = {}
    for storage in STORAGES:
        dtype = dtype_of(storage)
        w, b, v = (array.astype(dtype) for array in (weight, bias, x))
        g = fastgate.Gate(w, b, storage=storage)(v)
        given = g - sigmoid_of(v @ w.astype(np.longdouble).T + b)
        as_rounded = fastgate.reference.rounded(w, storage).astype(np.longdouble)
        after = g - sigmoid_of(v @ as_rounded.T + b)
        errors[storage] = [f(e) for e in (given, after) for f in (largest, rms)]
        print(f"{storage:>10}" + "".join(f"{error:10.1e}" for error in errors[storage]))
        slack = np.abs(v) @ np.abs(as_rounded - w).T / 4 + errors[storage][2]
        assert (np.abs(given) <= slack * (1 + 1e-6)).all()  # sigmoid rises by 1/4 at most
    for storage in ("float16", "bfloat16"):
        assert errors[storage][2] <= 2 * errors["float32"][2]
    relative = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
    for storage, unit in relative.items():
        assert errors[storage][0] <= unit * (np.abs(x) @ np.abs(weight).T).max() / 4 + 1e-6
    scale = np.abs(weight).max(axis=1) / 127
    rounding = scale * np.abs(x).sum(axis=1, keepdims=True) * 0.502
    activations = np.abs(x).max() * 2.0**-15 * np.abs(weight).sum(axis=1)
    assert errors["int8"][0] <= (rounding + activations).max() / 4 + 1e-6
    assert errors["float64"][0] < 1e-14


def sigmoid_of(z):
    return 1 / (1 + np.exp(-z))


def largest(error):
    return float(np.abs(error).max())


def rms(error):
    return float(np.sqrt(np.mean(error**2)))


def sigmoid(bias):
    """sigmoid of the array `bias`, as a gate without inputs computes it."""
    storage = str(bias.dtype)
    gate = fastgate.Gate(np.empty((len(bias), 0), bias.dtype), bias, storage=storage)
    return gate(np.empty(0, bias.dtype))


def test_sigmoid_is_within_1_ulp():
    """Both signs of all exponents, subnormals included. csrc's own test tries all 2^32 values."""
    rng = np.random.default_rng(1)
    bits = np.arange(0, 255 << 23, 1999, np.uint32) + rng.integers(0, 1999)  # a million
    ends = (np.arange(255, dtype=np.uint32)[:, None] << 23) + np.uint32([0, 1, 2**23 - 1])
    dense = np.linspace(-104, 18, 1_000_000, dtype=np.float32)  # where the result is not 0 or 1
    z = np.concatenate([bits.view(np.float32), ends.ravel().view(np.float32), dense])
    assert worst_ulp(z, np.float64, -125, -24) <= 1


@pytest.mark.skipif(not LONGER, reason="long double is no longer than double")
def test_sigmoid_is_within_1_and_a_half_ulp_in_float64():
    """Both signs of all exponents, subnormals included."""
    rng = np.random.default_rng(1)
    bits = np.arange(0, 2047 << 52, (2047 << 52) // 300_000, np.uint64)
    bits = bits + rng.integers(0, (2047 << 52) // 300_000, len(bits), np.uint64)
    ends = (np.arange(2047, dtype=np.uint64)[:, None] << 52) + np.array([0, 1, 2**52 - 1], np.uint64)
    dense = rng.uniform(-746, 38, 400_000)  # where the result is not 0 or 1
    around = rng.uniform(-40, 40, 400_000)
    z = np.concatenate([bits.view(np.float64), ends.ravel().view(np.float64), dense, around])
    assert worst_ulp(z, np.longdouble, -1021, -53) <= 1.5


def worst_ulp(z, precise, lowest, digits):
    """The largest error for z and -z, where `digits` is the ULP of [1/2, 1), as a power of two."""
    z = np.concatenate([z[np.isfinite(z)], -z[np.isfinite(z)]])
    with np.errstate(all="ignore"):  # the error of this is some 1e-3 ULP at most
        true = 1 / (1 + np.exp(-z.astype(precise)))
    # below 1, above it none
    ulp = np.ldexp(precise(1), np.clip(np.frexp(true)[1], lowest, 0) + digits)
    g = sigmoid(z)
    assert g.min() >= 0 and g.max() <= 1
    error = np.abs(g - true) / ulp
    print(f"\nworst of {len(z)}: {error.max():.4f} ULP, at {z[error.argmax()]!r}")
    return error.max()


def test_special_values():
    inf, nan = np.inf, np.nan
    z = np.float32([0.0, -0.0, inf, -inf, nan, -nan, 1e-45, -1e-45, 88, -88, -103, -104, -3e38, 3e38])
    true = np.float32([0.5, 0.5, 1, 0, nan, nan, 0.5, 0.5, 1, 6.0546e-39, 1.4013e-45, 0, 0, 1])
    in_each_lane(z, true)
    z = np.array([0.0, -0.0, inf, -inf, nan, -nan, 5e-324, -5e-324, 709, -709, -745, -746, -1e308, 1e308])
    true = np.array([0.5, 0.5, 1, 0, nan, nan, 0.5, 0.5, 1, 1.216780751e-308, 5e-324, 0, 0, 1])
    in_each_lane(z, true)


def in_each_lane(z, true):
    for size in range(1, 40):
        for shift in range(len(z)):
            got = sigmoid(np.resize(np.roll(z, shift), size))
            np.testing.assert_allclose(got, np.resize(np.roll(true, shift), size), 1e-4, 0)
            assert not np.signbit(got[~np.isnan(got)]).any()


def test_special_values_touch_their_own_outputs_only():
    rng = np.random.default_rng(2)
    w, x = rng.standard_normal((70, 40), np.float32), rng.standard_normal((5, 40), np.float32)
    want = fastgate.Gate(w)(x)
    for value in [np.nan, np.inf, -np.inf, np.float32(3e38)]:
        for row in range(70):
            bad = w.copy()
            bad[row, row % 40] = value
            got = fastgate.Gate(bad)(x)
            others = np.arange(70) != row
            np.testing.assert_array_equal(got[:, others], want[:, others])
            np.testing.assert_array_equal(fastgate.gate(x, bad), got)
            if np.isnan(value):
                assert np.isnan(got[:, row]).all()
        bad = x.copy()
        bad[2, 7] = value
        got = fastgate.Gate(w)(bad)
        np.testing.assert_array_equal(np.delete(got, 2, 0), np.delete(want, 2, 0))
        assert np.isnan(got[2]).all() == np.isnan(value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 8, 16, 17, 64, 1025])
def test_sums_that_overflow(n, dtype):
    """Finite numbers whose sum is beyond the dtype: 1 or 0, never NaN."""
    most = np.finfo(dtype).max * dtype(0.9)
    w = np.full((3, n), most, dtype)
    w[1] *= -1
    bias = np.array([most, -most, 0], dtype)
    for x in (np.full(n, 2, dtype), np.ones(n, dtype)):
        np.testing.assert_array_equal(fastgate.Gate(w, bias, storage=str(w.dtype))(x)[:2], [1, 0])
        np.testing.assert_array_equal(fastgate.gate(x, w, bias)[:2], [1, 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_largest_numbers(dtype):
    """A product near the largest number, and a bias that brings the sum to it or beyond."""
    most = np.finfo(dtype).max
    just = most * np.finfo(dtype).eps  # some units of the last place of `most`
    for sign in dtype([1, -1]):
        weight = np.full((70, 1), sign * most)
        for bias in [-0.75 * just, -1.0, 0.0, 1.0, most, np.inf]:
            g = fastgate.Gate(weight, np.full(70, sign * dtype(bias)), storage=str(weight.dtype))
            np.testing.assert_array_equal(g(np.ones(1, dtype)), max(sign, 0))
