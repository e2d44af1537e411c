"""Gates refuse bad input: the exception, its message, and that nothing was written."""

import array

import fastgate
import numpy as np
import pytest
from helpers import STORAGES, compiled_only, draw, draw_gate, dtype_of, held, run_python, storages, ways
from helpers.bad import DTYPES, bad_outputs

WEIGHT, BIAS = draw_gate(3, 4)
X = draw(4)


def given(storage):
    """WEIGHT, BIAS and X in the dtype that the storage takes."""
    return [array.astype(dtype_of(storage)) for array in (WEIGHT, BIAS, X)]


def both(api, storage="float32"):
    """The calls that compute y from x with WEIGHT and BIAS."""
    return ways(api, *given(storage)[:2], storage)


def makers(api):
    """The calls that take weight and bias."""
    return [api.Gate, lambda weight, bias=None: api.gate(X, weight, bias)]


# ---- weights ----------------------------------------------------------------------------------


@storages
@pytest.mark.parametrize("shape", [(), (4,), (3, 4, 1), (1, 3, 4)])
def test_weight_not_2d(api, shape, storage):
    x = np.zeros(4, dtype_of(storage))
    for make in (
        lambda weight: api.Gate(weight, storage=storage),
        lambda weight: api.Gate.from_augmented(weight, storage=storage),
        lambda weight: api.gate(x, weight),
    ):
        with pytest.raises(ValueError, match="weight") as error:
            make(np.zeros(shape, x.dtype))
        assert str(shape) in str(error.value)


@storages
@pytest.mark.parametrize("shape", [(), (2,), (4,), (1, 3), (3, 1)])
def test_bias_of_another_length(api, shape, storage):
    dtype = dtype_of(storage)
    x, weight = np.zeros(4, dtype), np.zeros((3, 4), dtype)
    for make in (
        lambda bias: api.Gate(weight, bias, storage=storage),
        lambda bias: api.gate(x, weight, bias),
    ):
        with pytest.raises(ValueError, match="bias") as error:
            make(np.zeros(shape, dtype))
        assert str(shape) in str(error.value) and "(3, 4)" in str(error.value)


def test_augmented_without_a_column(api):
    with pytest.raises(ValueError, match=r"\(3, 0\)"):
        api.Gate.from_augmented(np.empty((3, 0), np.float32))


def test_ragged_sequences(api):
    for make in makers(api):
        with pytest.raises(ValueError):
            make([[1, 2], [3]])


@pytest.mark.parametrize("value", ["int3", "Float32", "", None, 8, np.float32, np.dtype("f4"), ["int8"]])
def test_storages_that_do_not_exist(api, value):
    for make in (api.Gate, api.Gate.from_augmented):
        with pytest.raises(ValueError, match="storage .* does not exist") as error:
            make(WEIGHT, storage=value)
        assert repr(value) in str(error.value)
        assert all(repr(storage) in str(error.value) for storage in STORAGES)


@pytest.mark.parametrize(
    "value, error",
    [(0, ValueError), (-1, ValueError), (-(10**30), ValueError), ("2", ValueError), ("Auto", ValueError)]
    + [(value, TypeError) for value in (True, False, np.True_, 1.0, 2.5, [1], b"auto", 1j)],
)
def test_numbers_of_threads_that_cannot_be(api, set_threads, value, error):
    makers = [lambda n: api.Gate(WEIGHT, threads=n), lambda n: api.Gate.from_augmented(WEIGHT, threads=n)]
    for call in [*makers, set_threads]:
        with pytest.raises(error, match="threads must be an integer from 1, or 'auto'") as caught:
            call(value)
        assert repr(value) in str(caught.value)
    assert api.Gate(WEIGHT).threads == 1, "set_threads changed something"
    with pytest.raises(TypeError):
        api.Gate(WEIGHT, threads=None)


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "Auto", "1,2", "\N{SNOWMAN}", "9" * 5000])
def test_numbers_of_threads_in_the_environment(value):
    run = run_python("import fastgate", FASTGATE_THREADS=value)
    assert run.returncode == 1 and "ImportError: FASTGATE_THREADS=" in run.stderr
    assert "an integer from 1, or auto" in run.stderr


# ---- weights that a storage cannot hold -------------------------------------------------------

TOO_LARGE = {"float16": [65520.0, -65520.0, 1e38], "bfloat16": [float.fromhex("0x1.ffp127"), -3.4e38]}
JUST_HELD = {"float16": [65519.996, -65504.0], "bfloat16": [float.fromhex("0x1.fefffep127"), -3.3e38]}


@pytest.mark.parametrize("storage", TOO_LARGE)
def test_weights_beyond_the_range(api, storage):
    limit = {"float16": "65504", "bfloat16": "3.38953e+38"}[storage]
    for value in TOO_LARGE[storage]:
        for row, column in [(0, 0), (40, 7), (69, 129)]:
            weight = np.ones((70, 130), np.float32)
            weight[row, column] = value
            weight[2, 2], weight[3, 3] = np.inf, np.nan  # the storage can hold these
            with pytest.raises(ValueError, match="weight has magnitudes up to") as error:
                api.Gate(weight, storage=storage)
            message = str(error.value)
            assert f"{abs(np.float32(value)):g}" in message and limit in message and storage in message
    for value in JUST_HELD[storage]:
        assert np.isfinite(held(api.Gate(np.full((3, 2), value, np.float32), storage=storage))[0]).all()
    api.Gate(WEIGHT, np.full(3, 3e38, np.float32), storage=storage)  # biases are not rounded


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_int8_weights_that_are_not_finite(api, value):
    for row, column in [(0, 0), (40, 7), (69, 129)]:
        weight = np.ones((70, 130), np.float32)
        weight[row, column] = value
        with pytest.raises(ValueError, match=f"weight has elements that are not finite .{value}.*int8"):
            api.Gate(weight, storage="int8")
    api.Gate(WEIGHT, np.full(3, value, np.float32), storage="int8")


# ---- x ----------------------------------------------------------------------------------------


@storages
@pytest.mark.parametrize("shape", [(0,), (3,), (5,), (2, 3), (4, 1), (0, 3), (1,)])
def test_x_of_another_length(api, shape, storage):
    for call in both(api, storage):
        with pytest.raises(ValueError, match="x of shape") as error:
            call(np.zeros(shape, dtype_of(storage)))
        assert str(shape) in str(error.value) and "(3, 4)" in str(error.value)


def test_x_without_an_axis(api):
    for call in both(api):
        for x in (1.5, np.float32(1.5), np.array(1.5, np.float32)):
            with pytest.raises(ValueError, match=r"x of shape \(\)"):
                call(x)


def test_parts_that_do_not_add_up(api):
    g = api.Gate(WEIGHT, BIAS)
    with pytest.raises(ValueError, match=r"\(4,\), \(1,\).* 5 .*\(3, 4\).* 4"):
        g(X, X[:1])
    with pytest.raises(ValueError, match=r"leading axes.*\(2, 2\), \(3, 2\)"):
        g(np.zeros((2, 2), np.float32), np.zeros((3, 2), np.float32))
    with pytest.raises(ValueError, match=r"leading axes.*\(1, 2\), \(2,\)"):
        g(np.zeros((1, 2), np.float32), np.zeros(2, np.float32))


def test_no_x(api):
    g = api.Gate(WEIGHT, BIAS)
    out = np.empty(3, np.float32)
    for call in (g, lambda: g(out=out), lambda: g.bind(out=out), lambda: api.gate(weight=WEIGHT)):
        with pytest.raises(TypeError):
            call()


def test_unknown_keywords(api):
    g = api.Gate(WEIGHT, BIAS)
    for call in (g, g.__call__, g.bind, lambda x, **kw: api.gate(x, WEIGHT, **kw)):
        with pytest.raises(TypeError, match="dtype"):
            call(X, dtype="float32", out=None)
    with pytest.raises(TypeError, match="out"):
        g.bind(X)


# ---- dtypes -----------------------------------------------------------------------------------

@storages
@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_another_dtype(api, dtype, storage):
    given_dtype, dtype = np.dtype(dtype), dtype_of(storage)
    if given_dtype == dtype:
        return
    weight, bias, x = given(storage)

    def check(call, name, shape):
        with pytest.raises(TypeError) as error:
            call(np.zeros(shape, given_dtype))
        message = str(error.value)
        assert message.startswith(f"{name} is {given_dtype}, but the gate takes {np.dtype(dtype)}")
        assert f"{name}.astype(numpy.{np.dtype(dtype)})" in message
        keeps = given_dtype in (np.float16, np.float32, np.float64) and name == "weight"
        assert (f"fastgate.Gate(weight, storage='{given_dtype}')" in message) == keeps

    for call in both(api, storage):
        check(call, "x", (4,))
        check(call, "x", (2, 4))
    if given_dtype.name != storage:
        check(lambda w: api.Gate(w, storage=storage), "weight", (3, 4))
        check(lambda w: api.Gate.from_augmented(w, storage=storage), "weight", (3, 4))
        check(lambda b: api.Gate(weight, b, storage=storage), "bias", (3,))
    if storage in ("float32", "float64"):
        check(lambda b: api.gate(x, weight, b), "bias", (3,))
    if storage == "float32" and given_dtype != np.float64:
        check(lambda w: api.gate(X, w), "weight", (3, 4))
    gate = api.Gate(weight, storage=storage)
    check(lambda part: gate(x[:2], part), "parts[1]", (2,))
    out = np.full(3, 7, dtype)
    check(lambda x: gate.bind(x, out=out), "x", (4,))
    check(lambda x: gate(x, out=out), "x", (4,))
    assert (out == 7).all()


def test_bfloat16_arrays(api):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    weight, bias, x = (array.astype(bfloat16) for array in given("float32"))
    for storage in STORAGES:
        if storage == "bfloat16":
            continue
        with pytest.raises(TypeError, match=r"weight is bfloat16.*Gate\(weight, storage='bfloat16'\)"):
            api.Gate(weight, storage=storage)
        with pytest.raises(TypeError, match=r"bias is bfloat16.*bias.astype\(numpy.float"):
            api.Gate(given(storage)[0], bias, storage=storage)
    for call in (api.Gate(weight, storage="bfloat16"), *both(api)):
        with pytest.raises(TypeError, match=r"x is bfloat16.*x.astype\(numpy.float32\)"):
            call(x)
    with pytest.raises(TypeError, match=r"weight is bfloat16"):
        api.gate(X, weight)
    with pytest.raises(TypeError, match="weight is float16"):
        api.Gate(WEIGHT.astype("f2"), storage="bfloat16")


def test_one_shot_dtypes_that_differ(api):
    """gate() takes x, bias and out in the dtype of weight only."""
    weight, bias, x = given("float64")
    for call, name in [
        (lambda: api.gate(X, weight, bias), "x is float32.*takes float64.*x.astype"),
        (lambda: api.gate(x, weight, BIAS), "bias is float32.*takes float64.*bias.astype"),
        (lambda: api.gate(x, WEIGHT, BIAS), "x is float64.*takes float32.*x.astype"),
        (lambda: api.gate(X, WEIGHT, bias), "bias is float64.*takes float32.*bias.astype"),
        (lambda: api.gate(x, WEIGHT.tolist()), "x is float64.*takes float32.*x.astype"),
        (lambda: api.gate(x, weight, bias, out=np.empty(3, np.float32)), "out is float32.*float64"),
        (lambda: api.gate(X, WEIGHT, out=np.empty(3)), "out is float64.*float32"),
        (lambda: api.gate(x, weight.astype(">f8")), "weight is >f8.*takes float64"),
    ]:
        with pytest.raises(TypeError, match=name):
            call()
    out = np.full(3, 7, np.float32)
    with pytest.raises(TypeError):
        api.gate(X, weight, out=out)
    assert (out == 7).all()


@storages
def test_buffers_of_another_dtype(api, storage):
    other, code = ("f4", "f") if storage == "float64" else ("f8", "d")
    for call in both(api, storage):
        for x in (array.array(code, X), memoryview(X.astype(other)), b"abcd", np.dtype(other).type(1)):
            with pytest.raises(TypeError, match=f"takes {np.dtype(dtype_of(storage))}"):
                call(x)


def test_an_object_with_an_array_interface_is_not_a_plain_sequence(api):
    class Interface:
        def __init__(self, array):
            self.array, self.__array_interface__ = array, array.__array_interface__

    gate = api.Gate(np.ones((2, 3), np.float32))
    with pytest.raises(TypeError, match="float64"):
        gate(Interface(np.ones(3)))
    assert gate(Interface(np.ones(3, np.float32))).shape == (2,)


# ---- out --------------------------------------------------------------------------------------


@storages
@pytest.mark.parametrize("which", range(15))
def test_out_that_cannot_take_the_result(api, storage, which):
    own = np.dtype(dtype_of(storage))
    other = np.dtype("f4" if storage == "float64" else "f8")
    out, error, match = bad_outputs(own, other)[which]
    before = np.array(out, copy=True)
    weight, bias, x = given(storage)
    g = api.Gate(weight, bias, storage=storage)
    for call in (*both(api, storage), lambda x, out: g(x[:1], x[1:], out=out), g.bind):
        with pytest.raises(error, match=match):
            call(x, out=out)
        np.testing.assert_array_equal(np.array(out), before)
    for call in both(api, storage):
        for converted in (x.tolist(), x[::-1]):
            with pytest.raises(error, match=match):
                call(converted, out=out)
            np.testing.assert_array_equal(np.array(out), before)


def test_batched_out_of_another_shape(api):
    for call in both(api):
        for shape in [(3,), (2, 4), (3, 3), (1, 2, 3), (2, 3, 1)]:
            out = np.full(shape, 7, np.float32)
            with pytest.raises(ValueError) as error:
                call(np.zeros((2, 4), np.float32), out=out)
            assert str(shape) in str(error.value) and "(2, 3)" in str(error.value)
            assert (out == 7).all()
        out = np.full((2, 3), 7, np.float32, order="F")
        with pytest.raises(ValueError, match="contiguous"):
            call(np.zeros((2, 4), np.float32), out=out)


def test_out_is_untouched_if_the_input_is_bad(api):
    out = np.full(3, 7, np.float32)
    for call in both(api):
        for x in (X[:3], X.astype("f8"), "x", np.zeros((2, 4), np.float32)):
            with pytest.raises((TypeError, ValueError)):
                call(x, out=out)
            assert (out == 7).all()


# ---- bind -------------------------------------------------------------------------------------


def test_bind_needs_arrays_that_stay_where_they_are(api):
    g = api.Gate(WEIGHT, BIAS)
    out = np.empty(3, np.float32)
    misaligned = np.frombuffer(bytearray(17), np.uint8)[1:].view(np.float32)
    strided = np.zeros(8, np.float32)[::2]
    for x, why in ((strided, "contiguous"), (X[::-1], "contiguous"), (misaligned, "aligned")):
        with pytest.raises(ValueError, match=why):
            g.bind(x, out=out)
    with pytest.raises(ValueError, match="contiguous"):
        g.bind(np.zeros((4, 2), np.float32).T, out=np.empty((2, 3), np.float32))
    for x in ([1, 2, 3, 4], None, 1.5):
        with pytest.raises(TypeError):
            g.bind(x, out=out)
    for out in (None, [1, 2, 3]):
        with pytest.raises(TypeError):
            g.bind(X, out=out)


def test_bind_refuses_overlap(api):
    g = api.Gate(WEIGHT, BIAS)
    memory = np.zeros(10, np.float32)
    for start in (1, 3, 4, 7):
        with pytest.raises(ValueError, match="overlap"):
            g.bind(memory[3:7] if start != 7 else memory[4:8], out=memory[start : start + 3])
    with pytest.raises(ValueError, match="overlap"):
        g.bind(X[:1], memory[:3], out=memory[2:5])
    g.bind(memory[3:7], out=memory[:3])()
    g.bind(memory[3:7], out=memory[7:])()


# ---- FASTGATE_ISA -----------------------------------------------------------------------------


def import_with(isa):
    return run_python("import fastgate; fastgate.show_config()", FASTGATE_ISA=isa)


@pytest.mark.parametrize("isa", ["mmx", "AVX2", "base ", "avx2,base", "\N{SNOWMAN}"])
def test_unknown_isa(isa):
    run = import_with(isa)
    assert run.returncode == 1 and "ImportError: FASTGATE_ISA=" in run.stderr
    assert "RuntimeWarning" not in run.stderr, "the reference must not take over"


@compiled_only
def test_unknown_isa_lists_what_there_is():
    sets = fastgate._core.instruction_sets()
    message = import_with("mmx").stderr
    assert all((isa in message) == usable for isa, usable in sets.items())


@compiled_only
@pytest.mark.parametrize("isa", fastgate._core.instruction_sets() if fastgate._core else [])
def test_known_isa(isa):
    run = import_with(isa)
    if fastgate._core.instruction_sets()[isa]:
        assert f"ISA in use   {isa}\n" in run.stdout
    else:
        assert "ImportError" in run.stderr


def test_empty_isa_takes_the_best():
    assert import_with("").returncode == 0
