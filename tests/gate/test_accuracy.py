"""How far outputs are from the true values (`pytest -s` prints the tables).

The affine part z = W x + b can be computed from the output g, without loss. Multiplying a row and its bias by a power
of two changes no rounding, so each row is scaled such that its z lies in [-64, -32). There g is nearly exp(z): an ULP
of g moves log(g) by 2^-23 at most, while float32 values of z are 2^-18 apart, so that only one of them is next to
log(g) - log(1 - g). In float64 the range is [-512, -256), where an ULP of g moves log(g) by 2^-52 at most, and values
of z are 2^-44 apart.
"""

import fastgate
import numpy as np
import pytest
from helpers import COMPILED, STORAGES, dtype_of
from helpers.oracle import sigmoid as true_sigmoid

LENGTHS = [1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 24, 31, 32, 48, 63, 64, 65, 100, 127, 128, 200, 256, 300]
LENGTHS += [500, 512, 700, 1000, 1024, 2048, 4096, 8191, 8192]
ROWS = 256

PRECISE = {"float32": np.float64, "float64": np.longdouble}  # the dtype of the true values
EXPONENT = {"float32": 6, "float64": 9}  # rows are scaled such that z lies between 2^(EXPONENT - 1) and 2^EXPONENT
LONGER = np.finfo(np.longdouble).nmant >= 63
float64_too = pytest.mark.parametrize(
    "storage",
    [
        "float32",
        pytest.param(
            "float64",
            marks=pytest.mark.skipif(not LONGER, reason="long double has the precision of double here"),
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
    """Large products whose sum is a thousandth of what it would be if their signs were random."""
    w, x = normal(rng, n, dtype)
    one_x = np.concatenate([[dtype(1)], x])
    w -= np.outer(w @ one_x * dtype(0.999) / (one_x @ one_x), one_x)
    return w, x


def scaled(augmented, x, storage):
    """augmented [b, W] (ROWS, 1 + n), x (n,) -> the rows, scaled as said above, and their true z; some are left out."""
    dtype, precise = dtype_of(storage), PRECISE[storage]
    one_x = np.concatenate([[precise(1)], x])
    # np.sum adds pairwise, with an error far below the one that is measured
    z = (augmented * one_x).sum(axis=1)
    size = np.abs(augmented).astype(np.float64) @ np.abs(one_x).astype(np.float64)
    keep = np.abs(z) > size * 2.0**-16  # of smaller ones the error could exceed the range of exp
    z, augmented = z[keep], augmented[keep]
    scale = np.copysign(np.ldexp(precise(1), EXPONENT[storage] - np.frexp(z)[1]), -z)
    return augmented * scale.astype(dtype)[:, None], z * scale


def affine_of(g, storage):
    """The float32 or float64 numbers z from which a gate computed g, for g that are small but not subnormal."""
    g = g.astype(PRECISE[storage])
    z = np.log(g) - np.log1p(-g)
    nearest = z.astype(dtype_of(storage)).astype(z.dtype)
    if COMPILED:  # the z of fastgate.reference has more bits than nearest
        assert np.abs(z - nearest).max() < {"float32": 2.0**-22, "float64": 2.0**-50}[storage]
    return nearest


def onnxruntime_gemm(weight, bias):
    """A function x -> weight @ x + bias by ONNX Runtime on one thread, where weight and bias are constants."""
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
    """Our errors and those of peer(weight, bias)(x), in units of |w| |x| + |b| times half the dtype's epsilon."""
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
    """At every length the root mean square and largest error are at most those of its Gemm, which adds in our order."""
    heading(draw, "float32", onnxruntime_gemm)
    for n in LENGTHS:
        ours, theirs = errors(draw, "float32", n, onnxruntime_gemm)
        assert rms(ours) <= rms(theirs) and ours.max() <= theirs.max()


@pytest.mark.skipif("AMD" not in fastgate._cpu_name(), reason="torch adds in another order on CPUs that are not AMD's")
@draws
def test_affine_part_is_more_accurate_than_torch(draw):
    """From 2048 inputs on, the root mean square error is below that of its Linear, except for 2048 on an Intel Xeon."""
    heading(draw, "float32", torch_linear)
    for n in (2048, 4096, 8192):
        ours, theirs = errors(draw, "float32", n, torch_linear)
        assert rms(ours) < rms(theirs)


@float64_too
@draws
def test_affine_part_is_within_its_bound(draw, storage):
    """A product is rounded once with its sum, then once with each later input of its span, then once for each span.

    The ratio to NumPy's errors is printed for comparison.
    """
    heading(draw, storage, numpy_product)
    for n in LENGTHS:
        ours, _ = errors(draw, storage, n, numpy_product)
        assert ours.max() <= (min(n, 256) + -(-n // 256)) * 1.001


@pytest.mark.parametrize("n", [64, 300, 1024, 4097])
def test_errors_of_the_storages(n):
    """Errors of g, from the true values for the weights as given and for the weights as rounded.

    The first are at most what rounding each weight allows: half a unit of its last place, or of the row's scale. The
    second, in storages of 16 bits, are those of float32.
    """
    rng = np.random.default_rng(n)
    weight = rng.standard_normal((512, n), np.float32) / np.float32(n**0.5)
    bias, x = rng.standard_normal(512, np.float32), rng.standard_normal((8, n), np.float32)
    print(f"\nrandom (512, {n}): errors for the weights as given: largest, rms; as rounded: largest, rms")
    errors = {}
    for storage in STORAGES:
        dtype = dtype_of(storage)
        w, b, v = (array.astype(dtype) for array in (weight, bias, x))
        g = fastgate.Gate(w, b, storage=storage)(v)
        given = g - true_sigmoid(v @ w.astype(np.longdouble).T + b)
        as_rounded = fastgate.reference.rounded(w, storage).astype(np.longdouble)
        after = g - true_sigmoid(v @ as_rounded.T + b)
        errors[storage] = [f(e) for e in (given, after) for f in (largest, rms)]
        print(f"{storage:>10}" + "".join(f"{error:10.1e}" for error in errors[storage]))
        slack = np.abs(v) @ np.abs(as_rounded - w).T / 4 + errors[storage][2]
        assert (np.abs(given) <= slack * (1 + 1e-6)).all()  # the slope of the sigmoid is 1/4 at most
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


def largest(error):
    return float(np.abs(error).max())


def rms(error):
    return float(np.sqrt(np.mean(error**2)))


def sigmoid(bias):
    """The sigmoid of `bias` (m,): the output of a gate without inputs."""
    storage = str(bias.dtype)
    gate = fastgate.Gate(np.empty((len(bias), 0), bias.dtype), bias, storage=storage)
    return gate(np.empty(0, bias.dtype))


@float64_too
def test_sigmoid_is_within_its_bound(storage):
    """At both signs of all exponents, subnormals included; tests/c/activations.c tries all float32 numbers."""
    rng, dtype = np.random.default_rng(1), np.dtype(dtype_of(storage))
    info, bits = np.finfo(dtype), np.dtype(f"u{dtype.itemsize}").type
    edges = np.arange(2**info.iexp - 1, dtype=bits)[:, np.newaxis] << bits(info.nmant)
    mantissas = rng.integers(0, 2**info.nmant, (len(edges), 1_000_000 // len(edges)), bits)
    ends = np.array([0, 1, 2**info.nmant - 1], bits)
    dense = rng.uniform(*{"float32": (-104, 18), "float64": (-746, 38)}[storage], 1_000_000)  # g is neither 0 nor 1
    around = rng.uniform(-40, 40, 400_000)
    z = np.concatenate([(edges + more).ravel().view(dtype) for more in (mantissas, ends)] + [dense, around])
    z = np.concatenate([z, -z]).astype(dtype)
    with np.errstate(all="ignore"):  # this has errors of some 1e-3 ULP
        true = 1 / (1 + np.exp(-z.astype(PRECISE[storage])))
    exponents = np.clip(np.frexp(true)[1], info.minexp + 1, 0)  # an ULP of 1 is the one below 1
    ulp = np.ldexp(PRECISE[storage](1), exponents - info.nmant - 1)
    g = sigmoid(z)
    assert g.min() >= 0 and g.max() <= 1
    error = np.abs(g - true) / ulp
    print(f"\nthe largest error of {len(z)}: {error.max():.4f} ULP, at {z[error.argmax()]!r}")
    assert error.max() <= {"float32": 1, "float64": 1.5}[storage]


@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-4), (np.float64, 1e-13)])
def test_special_values(dtype, tolerance):
    """In vectors of all lengths, so that each value is in each lane."""
    inf, nan = np.inf, np.nan
    z, true = {
        np.float32: (
            [0.0, -0.0, inf, -inf, nan, -nan, 1e-45, -1e-45, 88, -88, -103, -104, -3e38, 3e38],
            [0.5, 0.5, 1, 0, nan, nan, 0.5, 0.5, 1, 6.0546e-39, 1.4013e-45, 0, 0, 1],
        ),
        np.float64: (
            [0.0, -0.0, inf, -inf, nan, -nan, 5e-324, -5e-324, 710, -710, -745, -746, -1e308, 1e308],
            [0.5, 0.5, 1, 0, nan, nan, 0.5, 0.5, 1, 4.47628622567513e-309, 5e-324, 0, 0, 1],
        ),
    }[dtype]
    for size in range(1, 40):
        for shift in range(len(z)):
            got = sigmoid(np.resize(np.roll(np.array(z, dtype), shift), size))
            np.testing.assert_allclose(got, np.resize(np.roll(np.array(true, dtype), shift), size), tolerance, 0)
            assert not np.signbit(got[~np.isnan(got)]).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 8, 16, 17, 64, 1025])
def test_sums_that_overflow(n, dtype):
    """If the sum of finite numbers is beyond the dtype's range, the output is 1 or 0, never NaN."""
    most = np.finfo(dtype).max * dtype(0.9)
    w = np.full((3, n), most, dtype)
    w[1] *= -1
    bias = np.array([most, -most, 0], dtype)
    for x in (np.full(n, 2, dtype), np.ones(n, dtype)):
        np.testing.assert_array_equal(fastgate.Gate(w, bias, storage=str(w.dtype))(x)[:2], [1, 0])
        np.testing.assert_array_equal(fastgate.gate(x, w, bias)[:2], [1, 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_largest_numbers(dtype):
    """The product is the largest number, and the bias makes the sum a little smaller, or too large."""
    most = np.finfo(dtype).max
    unit = most * np.finfo(dtype).eps  # about a unit of the last place of `most`
    for sign in dtype([1, -1]):
        weight = np.full((70, 1), sign * most)
        for bias in [-0.75 * unit, -1.0, 0.0, 1.0, most, np.inf]:
            g = fastgate.Gate(weight, np.full(70, sign * dtype(bias)), storage=str(weight.dtype))
            np.testing.assert_array_equal(g(np.ones(1, dtype)), max(sign, 0))
