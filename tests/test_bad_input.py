"""Each row of bad input: the exception, what it says, and that nothing was written."""

import array
import os
import sys

import fastgate
import numpy as np
import pytest
from conftest import compiled_only, draw, draw_gate, run_python

WEIGHT, BIAS = draw_gate(3, 4)
X = draw(4)


def both(api):
    """The two ways to compute a gate from one x."""
    return [api.Gate(WEIGHT, BIAS), lambda x, out=None: api.gate(x, WEIGHT, BIAS, out=out)]


def makers(api):
    """The ways to hand over weights."""
    return [api.Gate, lambda weight, bias=None: api.gate(X, weight, bias)]


# ---- weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (4,), (3, 4, 1), (1, 3, 4)])
def test_weight_not_2d(api, shape):
    for make in [*makers(api), api.Gate.from_augmented]:
        with pytest.raises(ValueError, match="weight") as error:
            make(np.zeros(shape, np.float32))
        assert str(shape) in str(error.value)


@pytest.mark.parametrize("shape", [(), (2,), (4,), (1, 3), (3, 1)])
def test_bias_of_another_length(api, shape):
    for make in makers(api):
        with pytest.raises(ValueError, match="bias") as error:
            make(WEIGHT, np.zeros(shape, np.float32))
        assert str(shape) in str(error.value) and "(3, 4)" in str(error.value)


def test_augmented_without_a_column(api):
    with pytest.raises(ValueError, match=r"\(3, 0\)"):
        api.Gate.from_augmented(np.empty((3, 0), np.float32))


def test_ragged_sequences(api):
    for make in makers(api):
        with pytest.raises(ValueError):
            make([[1, 2], [3]])


@pytest.mark.parametrize("name, value", [("storage", "int3"), ("threads", 2), ("threads", 0)])
def test_options_that_do_not_exist(api, name, value):
    for make in (api.Gate, api.Gate.from_augmented):
        with pytest.raises(ValueError, match=f"{name}.*{value}"):
            make(WEIGHT, **{name: value})


# ---- x ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0,), (3,), (5,), (2, 3), (4, 1), (0, 3), (1,)])
def test_x_of_another_length(api, shape):
    for call in both(api):
        with pytest.raises(ValueError, match="x of shape") as error:
            call(np.zeros(shape, np.float32))
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

DTYPES = ["f8", "f2", ">f4", "i4", "i8", "u1", "?", "c8", "O", "U3", "M8[s]", "f4,f4", "V4"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_another_dtype(api, dtype):
    dtype = np.dtype(dtype)

    def check(call, name, shape):
        with pytest.raises(TypeError) as error:
            call(np.zeros(shape, dtype))
        message = str(error.value)
        assert message.startswith(f"{name} is {dtype}") and "float32" in message
        assert f"{name}.astype(numpy.float32)" in message

    for call in both(api):
        check(call, "x", (4,))
        check(call, "x", (2, 4))
    for make in makers(api):
        check(make, "weight", (3, 4))
        check(lambda bias: make(WEIGHT, bias), "bias", (3,))
    check(lambda part: api.Gate(WEIGHT)(X[:2], part), "parts[1]", (2,))
    out = np.empty(3, np.float32)
    check(lambda x: api.Gate(WEIGHT).bind(x, out=out), "x", (4,))


def test_buffers_of_another_dtype(api):
    for call in both(api):
        for x in (array.array("d", X), memoryview(X.astype("f8")), b"abcd", np.float64(1)):
            with pytest.raises(TypeError, match="float32"):
                call(x)


def test_things_that_are_no_numbers(api):
    for call in both(api):
        for x in ("abcd", ["a"] * 4, {1: 2}, object(), [1, 2, 3, {}], [1j] * 4):
            with pytest.raises((TypeError, ValueError)):
                call(x)


# ---- out --------------------------------------------------------------------------------------


def read_only(*shape):
    array = np.full(shape, 7, np.float32)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "out, error, match",
    [
        (np.full(4, 7, np.float32), ValueError, r"\(4,\).*\(3,\)"),
        (np.full((1, 3), 7, np.float32), ValueError, r"\(1, 3\).*\(3,\)"),
        (np.full((), 7, np.float32), ValueError, r"\(\).*\(3,\)"),
        (np.full(3, 7.0), TypeError, "float64.*float32"),
        (np.full(3, 7, ">f4"), TypeError, ">f4.*float32"),
        (np.full(3, 7), TypeError, "int64.*float32"),
        (read_only(3), ValueError, "read-only"),
        (np.full(6, 7, np.float32)[::2], ValueError, "contiguous"),
        (np.full(3, 7, np.float32)[::-1], ValueError, "contiguous"),
        (np.frombuffer(bytearray(13), np.uint8)[1:].view("f4"), ValueError, "aligned"),
        (array.array("d", [7, 7, 7]), TypeError, "float64.*float32"),
        (bytearray(12), TypeError, "uint8.*float32"),
        (memoryview(np.full(3, 7, np.float32)).toreadonly(), ValueError, "read-only"),
        ([7.0, 7.0, 7.0], TypeError, "list"),
        ("out", TypeError, "str"),
    ],
)
def test_out_that_cannot_take_the_result(api, out, error, match):
    before = np.array(out, copy=True)
    g = api.Gate(WEIGHT, BIAS)
    for call in (*both(api), lambda x, out: g(x[:1], x[1:], out=out), g.bind):
        with pytest.raises(error, match=match):
            call(X, out=out)
        np.testing.assert_array_equal(np.array(out), before)
    for call in both(api):
        for x in (X.tolist(), X[::-1]):  # converted first
            with pytest.raises(error, match=match):
                call(x, out=out)
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


# ---- memory -----------------------------------------------------------------------------------


def test_sizes_beyond_memory(api):
    one = np.float32(1)
    for shape in [(1 << 20, 1 << 22), (1 << 30, 1 << 30), (1 << 58, 1), (1, 1 << 58), (1 << 60, 0)]:
        with pytest.raises((MemoryError, ValueError)):
            api.Gate(np.broadcast_to(one, shape))
    with pytest.raises((MemoryError, ValueError)):
        api.Gate(np.zeros((1 << 20, 1), np.float32))(np.broadcast_to(one, (1 << 24, 1)))


OUT_OF_MEMORY = """
    import resource
    import numpy as np
    import fastgate

    def megabytes(field):  # of /proc/self/status
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) // 1024 for line in status if line.startswith(field))

    weight = np.ones((4096, 4096), np.float32)  # 64 MB
    g = fastgate.Gate(weight[:8, :8])
    x = np.broadcast_to(np.float32(1), (1 << 21, 8))  # a result of 64 MB
    before = megabytes("VmSize")
    limit = (before + 40) << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for _ in range(100):
        for call in (lambda: fastgate.Gate(weight), lambda: g(x)):
            try:
                call()
            except MemoryError as error:
                assert str(error), "a MemoryError says what there was no memory for"
            else:
                raise AssertionError("there was memory after all")
    assert megabytes("VmSize") <= before + 2, "leaked"
    fastgate.Gate(weight[:512, :512])(x[0, :1].repeat(512))
    print("ok")
"""


@compiled_only
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS")
@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="reserves terabytes")
def test_no_memory():
    run = run_python(OUT_OF_MEMORY, OPENBLAS_NUM_THREADS="1")
    assert run.stdout == "ok\n", run.stderr


# ---- FASTGATE_ISA -----------------------------------------------------------------------------


def import_with(isa):
    return run_python("import fastgate; fastgate.show_config()", FASTGATE_ISA=isa)


@pytest.mark.parametrize("isa", ["mmx", "AVX2", "base ", "avx2,base", "\N{SNOWMAN}"])
def test_unknown_isa(isa):
    run = import_with(isa)
    assert run.returncode == 1 and "ImportError: FASTGATE_ISA=" in run.stderr
    assert "RuntimeWarning" not in run.stderr, "not a reason to fall back"


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


def test_an_object_with_an_array_interface_is_not_a_plain_sequence(api):
    class Interface:
        def __init__(self, array):
            self.array, self.__array_interface__ = array, array.__array_interface__

    gate = api.Gate(np.ones((2, 3), np.float32))
    with pytest.raises(TypeError, match="float64"):
        gate(Interface(np.ones(3)))
    assert gate(Interface(np.ones(3, np.float32))).shape == (2,)


@compiled_only
def test_methods_refuse_a_foreign_self():
    for foreign in ["x", None, 5]:
        with pytest.raises(TypeError):
            fastgate.Gate.__reduce__(foreign)


def test_an_empty_output_of_many_rows_takes_no_time(api):
    assert api.Gate(np.empty((0, 0), np.float32))(np.empty((2**40, 0), np.float32)).size == 0
