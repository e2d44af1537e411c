"""Bad input to an LSTM raises an exception that says what is wrong, and nothing is written."""

import fastgate
import numpy as np
import pytest
from helpers import STORAGES, compiled_only, draw, dtype_of, storages
from helpers.bad import DTYPES, bad_outputs
from helpers.layers import draw_layer, draw_layers, draw_state, draw_step

INPUT, HIDDEN, OUTPUT, BATCH = 4, 5, 3, 2


def zeros(*shape, storage="float32"):
    return np.zeros(shape, dtype_of(storage))


def layer(storage="float32"):
    """Parameters of a layer that has everything: two biases, peepholes and a projection."""
    p = draw_layer(INPUT, HIDDEN, OUTPUT, peephole=True, dtype=dtype_of(storage))
    assert set(p) == {"weight_ih", "weight_hh", "bias_ih", "bias_hh", "peephole", "projection"}
    return p


def makers(api, storage="float32"):
    """Functions that make an LSTM of a layer's parameters, and how errors begin the parameters' names."""
    return [
        (lambda p: api.LSTMCell(**p, storage=storage), ""),
        (lambda p: api.LSTM([p], storage=storage), "layers[0]."),
        (lambda p: api.LSTM([(layer(storage), p)], storage=storage), "layers[0][1]."),
    ]


def cell(api, storage="float32"):
    return api.LSTMCell(**layer(storage), storage=storage)


def args(*lead, storage="float32"):
    """x, h and c for `cell`."""
    return draw_step(*lead, n=INPUT, hidden=HIDDEN, outputs=OUTPUT, dtype=dtype_of(storage))


def lstm(api, storage="float32", **options):
    both = options.pop("both", False)
    layers = draw_layers(INPUT, HIDDEN, OUTPUT, layers=2, both=both, dtype=dtype_of(storage))
    return api.LSTM(layers, storage=storage, **options)


def raises(error, call, *given, says=(), **keywords):
    """Assert that call(*given, **keywords) raises this very class, with these words in its message."""
    with pytest.raises(error) as caught:
        call(*given, **keywords)
    assert caught.type is error
    for word in [says] if isinstance(says, str) else says:
        assert str(word) in str(caught.value)


# ---- parameters -------------------------------------------------------------------------------

GIVEN = {  # the shapes of layer(), and wrong ones
    "weight_ih": ((20, 4), [(), (20,), (19, 4), (1, 20, 4), (20, 4, 1), (2, 3)]),
    "weight_hh": ((20, 3), [(), (20,), (3, 20), (20, 5), (20, 4), (16, 3), (1, 20, 3), (0, 0)]),
    "bias_ih": ((20,), [(), (0,), (5,), (19,), (1, 20), (20, 1)]),
    "bias_hh": ((20,), [(), (0,), (5,), (21,), (1, 20), (20, 1)]),
    "peephole": ((3, 5), [(), (15,), (5, 3), (4, 5), (3, 4), (1, 3, 5), (2, 5), (1, 5)]),
    "projection": ((3, 5), [(), (5,), (3, 4), (3, 1), (5, 3), (1, 3, 5), (0, 0)]),
}


@storages
@pytest.mark.parametrize("name", GIVEN)
def test_parameters_of_another_shape_are_refused(api, name, storage):
    good, bad = GIVEN[name]
    assert layer()[name].shape == good
    for make, where in makers(api, storage):
        for shape in bad:
            p = layer(storage)
            p[name] = zeros(*shape, storage=storage)
            reference = "4 * hidden_size" if name == "weight_ih" else "(20, 4)"
            raises(ValueError, make, p, says=[where + name, shape, reference])


def test_weight_ih_of_other_rows_is_refused(api):
    """The message names it or another parameter: the others must have the rows of weight_ih."""
    for make, where in makers(api):
        raises(ValueError, make, {**layer(), "weight_ih": zeros(24, 4)}, says=[where, "(24, 4)"])


def test_a_projection_that_does_not_fit_weight_hh_is_refused(api):
    for make, where in makers(api):
        p = {**layer(), "projection": zeros(2, 5)}
        raises(ValueError, make, p, says=[f"{where}weight_hh", "(20, 3)", "(2, 5)", "(20, 2)"])
        del p["projection"]
        raises(ValueError, make, p, says=[f"{where}weight_hh", "(20, 3)", "(20, 4)", "(20, 5)"])


@storages
@pytest.mark.parametrize("dtype", DTYPES)
def test_parameters_of_another_dtype_are_refused(api, dtype, storage):
    given, own = np.dtype(dtype), np.dtype(dtype_of(storage))
    if given == own or given.name == storage:
        return
    for make, where in makers(api, storage):
        for name, (shape, _) in GIVEN.items():
            says = [f"{where}{name} is {given}, but the LSTM takes {own}", f"astype(numpy.{own})"]
            raises(TypeError, make, {**layer(storage), name: np.zeros(shape, given)}, says=says)


def test_16_bit_parameters_of_another_storage_are_refused(api):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    for given, storage in [(bfloat16, "float16"), (np.float16, "bfloat16"), (bfloat16, "float32")]:
        for make, _ in makers(api, storage):
            p = {**layer(storage), "weight_ih": zeros(20, 4).astype(given)}
            raises(TypeError, make, p, says=[np.dtype(given).name, "takes float32", "or storage="])


def test_parameters_that_are_not_numbers_are_refused(api):
    for make, _ in makers(api):
        for name in GIVEN:
            for value in ("abcd", [["a"]], {1: 2}, object(), [[1, 2], [3]], [[1j]]):
                with pytest.raises((TypeError, ValueError)):
                    make({**layer(), name: value})


def test_missing_and_unknown_parameters_are_refused(api):
    for make, where in makers(api):
        for name in ("weight_ih", "weight_hh"):
            raises(TypeError, make, {**layer(), name: None}, says=f"{where}{name} is missing")
    for make, where in makers(api)[1:]:
        for name in ("weight_ih", "weight_hh"):
            p = layer()
            del p[name]
            raises(TypeError, make, p, says=f"{where}{name} is missing")
        for key in ("weight_hr", "bias", 3, None):
            raises(TypeError, make, {**layer(), key: zeros(20)}, says=[f"{where}{key}", "weight_ih"])
    for call in (api.LSTMCell, api.LSTM, lambda: api.LSTMCell(zeros(4, 1))):
        with pytest.raises(TypeError):
            call()
    for keyword in ("batch_first", "reverse", "bias", "dtype"):
        with pytest.raises(TypeError, match=keyword):
            api.LSTMCell(**layer(), **{keyword: True})
    for keyword in ("peephole", "projection", "bidirectional", "dtype"):
        with pytest.raises(TypeError, match=keyword):
            api.LSTM([layer()], **{keyword: None})
    with pytest.raises(TypeError):
        api.LSTMCell(*layer().values())  # peephole and projection must be given by name


@pytest.mark.parametrize("name", ["weight_ih", "weight_hh", "projection"])
def test_weights_that_a_storage_cannot_hold_are_refused(api, name):
    for storage, value, says in [
        ("float16", 65520.0, ["has magnitudes up to 65520", "65504", "float16"]),
        ("float16", -1e38, ["has magnitudes up to 1e+38", "65504", "float16"]),
        ("bfloat16", -3.4e38, ["has magnitudes up to 3.4e+38", "bfloat16"]),
        ("int8", np.inf, ["elements that are not finite (inf)", "int8"]),
        ("int8", np.nan, ["elements that are not finite (nan)", "int8"]),
    ]:
        for make, where in makers(api, storage):
            p = layer(storage)
            p[name][1, 2] = value
            raises(ValueError, make, p, says=[where + name, *says])
    for storage in ("float16", "bfloat16", "int8"):
        for make, _ in makers(api, storage):  # biases and peepholes are not rounded to the storage
            p = layer(storage)
            p["peephole"][...], p["bias_ih"][...] = 3e38, np.inf
            make(p)


LIMITS = {
    ValueError: [0, -1, 0.0, -0.5, np.nan, -np.inf, np.float32(0), -(10**400)],
    TypeError: ["1", True, np.True_, 1j, [1.0], np.ones(1), np.ones(()), b"1"],
}
BAD_OPTIONS = {  # what the message says, and the values by the error that they raise
    "storage": (["does not exist", *map(repr, STORAGES)], {ValueError: ["int3", "", None, 8, np.float32, ["int8"]]}),
    "threads": (
        ["threads must be an integer from 1"],
        {ValueError: [0, -1, "2"], TypeError: [True, 1.0, [1], None, b"auto"]},
    ),
    "clip": (["clip must be"], LIMITS),
    "gate_clip": (["gate_clip must be"], LIMITS),
}


@pytest.mark.parametrize("option", BAD_OPTIONS)
def test_bad_options_are_refused(api, option):
    says, refused = BAD_OPTIONS[option]
    for value, error in [(value, error) for error, values in refused.items() for value in values]:
        for make in (lambda **o: api.LSTMCell(**layer(), **o), lambda **o: api.LSTM([layer()], **o)):
            raises(error, make, **{option: value}, says=[*says, repr(value)])


# ---- layers -----------------------------------------------------------------------------------


def test_layers_of_another_type_are_refused(api):
    for value in (None, 5, "layers", b"layers", layer(), object()):
        raises(TypeError, api.LSTM, value, says=["layers must be", type(value).__name__])
    for value in ([], (), iter(())):
        raises(ValueError, api.LSTM, value, says="layers is empty")
    for value in (None, 5, "layer", [1, 2], (layer(), None), zeros(4, 4), [[layer()], layer()]):
        raises(TypeError, api.LSTM, [layer(), value], says=["layers[1]", "mapping"])
    for value in [(), (layer(),), (layer(),) * 3]:
        raises(ValueError, api.LSTM, [value], says=["layers[0]", str(len(value)), "forward, backward"])


def test_layers_that_do_not_fit_each_other_are_refused(api):
    one, plain = draw_layer(3, 5, 4), draw_layer(4, 4)
    for layers, says in [
        ([one, (draw_layer(4, 5, 4),) * 2], ["layers[1]", "2", "1"]),
        ([(one, one), draw_layer(8, 5, 4)], ["layers[1]", "1", "2"]),
        ([one, one], ["layers[1].weight_ih", "(20, 3)", "(20, 4)"]),
        ([one, draw_layer(5, 5, 4)], ["layers[1].weight_ih", "(20, 5)", "(20, 4)"]),
        ([one, draw_layer(4, 5, 4), draw_layer(3, 5, 4)], ["layers[2].weight_ih", "(20, 3)", "(20, 4)"]),
        ([(one, one), (draw_layer(4, 5, 4),) * 2], ["layers[1][0].weight_ih", "(20, 4)", "(20, 8)"]),
        ([(one, draw_layer(2, 5, 4))], ["layers[0][1].weight_ih", "(20, 2)", "(20, 3)"]),
        ([one, draw_layer(4, 6, 4)], ["layers[1].weight_ih", "(24, 4)", "(20, 4)"]),
        ([(one, draw_layer(3, 6, 4))], ["layers[0][1].weight_ih", "(24, 3)", "(20, 3)"]),
        ([one, draw_layer(4, 5, 3)], ["layers[1].weight_hh", "(20, 3)", "(20, 4)"]),
        ([plain, draw_layer(4, 4, 4)], ["layers[1].projection", "all layers"]),
        ([draw_layer(4, 4, 4), plain], ["layers[1].projection", "all layers"]),
        ([(plain, draw_layer(4, 4, 4))], ["layers[0][1].projection", "all layers"]),
    ]:
        raises(ValueError, api.LSTM, layers, says=says)


def test_reverse_and_streams_are_refused_for_two_directions(api):
    pairs = draw_layers(3, 4, both=True)
    raises(ValueError, api.LSTM, pairs, reverse=True, says="reverse")
    for made in (api.LSTM(pairs), api.LSTM(draw_layers(3, 4), reverse=True)):
        raises(ValueError, made.stream, says="no stream")
        raises(ValueError, made.stream, 3, says="no stream")


# ---- a step -----------------------------------------------------------------------------------


@storages
def test_inputs_of_another_shape_are_refused(api, storage):
    made = cell(api, storage)
    x, h, c = args(BATCH, storage=storage)
    out = np.full_like(h, 7), np.full_like(c, 7)
    for name, shapes in {
        "x": [(), (0,), (3,), (5,), (2, 3), (2, 4, 1), (1,)],
        "h": [(), (3,), (2, 4), (1, 3), (3, 3), (2, 1, 3), (2, 5), (1, 2, 3)],
        "c": [(), (5,), (2, 4), (1, 5), (3, 5), (2, 1, 5), (2, 3), (1, 2, 5)],
    }.items():
        for shape in shapes:
            given = {"x": x, "h": h, "c": c, name: zeros(*shape, storage=storage)}
            says = [f"{name} of shape {shape}", "4" if name == "x" else (2, 4)]
            raises(ValueError, made, **given, out=out, says=says)
    for shape in [(), (5,), (2, 3)]:
        raises(ValueError, made, zeros(*shape, storage=storage), says=f"x of shape {shape}")
    raises(ValueError, made, x[0], h, c, out=out, says=["h of shape (2, 3)", "(4,)", "(3,)"])
    raises(ValueError, made, x, h[0], c[0], out=(out[0][0], out[1][0]), says=["h of shape (3,)", "(2, 4)", "(2, 3)"])
    assert all((a == 7).all() for a in out)


def test_h_without_c_is_refused(api):
    made = cell(api)
    x, h, c = args()
    for given in ({"h": h}, {"c": c}):
        raises(TypeError, made, x, **given, says="h and c")
        raises(TypeError, made, x, out=(h, c), **given, says="h and c")


@storages
@pytest.mark.parametrize("dtype", DTYPES)
def test_inputs_of_another_dtype_are_refused(api, dtype, storage):
    given, own = np.dtype(dtype), np.dtype(dtype_of(storage))
    if given == own:
        return
    made, sequence = cell(api, storage), lstm(api, storage)
    arguments = args(storage=storage)
    out = [np.full_like(a, 7) for a in arguments[1:]]
    y, states = np.full((6, OUTPUT), 7, own), draw_state(sequence)
    stream = sequence.stream()
    says = f"is {given}, but the LSTM takes {own}: write "

    def bad(array):
        return np.zeros(array.shape, given)

    for k, name in enumerate("xhc"):
        arrays = [bad(a) if k == j else a for j, a in enumerate(arguments)]
        cast = f"{name}.astype(numpy.{own})"
        raises(TypeError, made, *arrays, out=out, says=[f"{name} {says}{cast}"])
    raises(TypeError, made, bad(arguments[0]), says=f"x {says}")
    x = zeros(6, INPUT, storage=storage)
    raises(TypeError, sequence, bad(x), out=y, says=f"x {says}x.astype(numpy.{own})")
    raises(TypeError, sequence, x, (bad(states[0]), states[1]), out=y, says=f"state[0] {says}")
    raises(TypeError, sequence, x, (states[0], bad(states[1])), out=y, says=f"state[1] {says}")
    raises(TypeError, stream.step, bad(x[0]), out=y[0], says=f"x {says}")
    raises(TypeError, setattr, stream, "state", (bad(states[0]), states[1]), says=f"state[0] {says}")
    raises(TypeError, setattr, stream, "state", (states[0], bad(states[1])), says=f"state[1] {says}")
    assert all((a == 7).all() for a in (*out, y)) and not stream.state[0].any()


def test_inputs_that_are_not_numbers_are_refused(api):
    made, sequence = cell(api), lstm(api)
    y, pair = np.full(OUTPUT, 7, np.float32), (np.full(OUTPUT, 7, np.float32), np.full(HIDDEN, 7, np.float32))
    for x in ("abcd", ["a"] * 4, {1: 2}, object(), None, [1, 2, 3, {}], [1j] * 4, [[1, 2], [3]], b"abcd", "x"):
        for call, out in ((made, pair), (sequence, y[np.newaxis]), (sequence.stream().step, y)):
            for options in ({}, {"out": out}):
                with pytest.raises((TypeError, ValueError)):
                    call(x, **options)
    assert all((a == 7).all() for a in (y, *pair))


# ---- out --------------------------------------------------------------------------------------


@storages
@pytest.mark.parametrize("which", range(15))
def test_out_that_cannot_take_the_result_is_refused(api, storage, which):
    own = np.dtype(dtype_of(storage))
    other = np.dtype("f4" if storage == "float64" else "f8")
    out, error, match = bad_outputs(own, other)[which]
    assert OUTPUT == 3, "bad_outputs has arrays for a result of 3"
    before = np.array(out, copy=True)
    made = cell(api, storage)
    stream = made.stream()
    x, h, c = args(storage=storage)
    good = np.full(HIDDEN, 7, own)
    square = api.LSTMCell(**draw_layer(INPUT, 3, dtype=own.type), storage=storage)
    small = draw_step(n=INPUT, hidden=3, dtype=own.type)
    also = np.full(3, 7, own)
    for call in (
        lambda: made(x, h, c, out=(out, good)),
        lambda: made(x.tolist(), h[::-1], c, out=(out, good)),
        lambda: square(*small, out=(also, out)),
        lambda: stream.step(x, out=out),
        lambda: stream.step(x.tolist(), out=out),
    ):
        with pytest.raises(error, match=match):
            call()
        np.testing.assert_array_equal(np.array(out), before)
        assert (good == 7).all() and (also == 7).all()
    assert not stream.state[1].any(), "a refused step must not change the state"


def test_out_of_a_sequence_that_cannot_take_the_result_is_refused(api):
    x = zeros(6, BATCH, INPUT)
    for made, size in ((lstm(api), OUTPUT), (lstm(api, both=True), 2 * OUTPUT)):
        for out, error, says in [
            (np.full((6, BATCH, size + 1), 7, np.float32), ValueError, (6, BATCH, size)),
            (np.full((BATCH, 6, size), 7, np.float32), ValueError, (6, BATCH, size)),
            (np.full((6, size), 7, np.float32), ValueError, (6, BATCH, size)),
            (np.full((6, BATCH, size), 7.0), TypeError, "float64"),
            (np.full((6, BATCH, size), 7, np.float32, order="F"), ValueError, "contiguous"),
            (np.full((6, BATCH, 2 * size), 7, np.float32)[..., ::2], ValueError, "contiguous"),
            (np.broadcast_to(np.float32(7), (6, BATCH, size)), ValueError, "read-only"),
            ([[7.0]], TypeError, "list"),
        ]:
            raises(error, made, x, out=out, says=[says])
            raises(error, made, x[::-1], out=out, says=[says])
            assert np.all(np.asarray(out) == 7)


def test_out_of_a_step_must_be_a_pair(api):
    made = cell(api)
    x, h, c = args()
    for out in (h, [h], (h,), (h, c, c), {"h": h, "c": c}, 5, "hc", iter((h, c)), zeros(2, 3)):
        raises(TypeError, made, x, h, c, out=out, says=["out must be a pair"])
    for out in ((None, c), (h, None)):
        raises(TypeError, made, x, h, c, out=out, says=["NoneType"])


def test_outputs_that_overlap_each_other_are_refused(api):
    made = api.LSTMCell(**draw_layer(INPUT, HIDDEN))
    x, h, c = draw_step(n=INPUT, hidden=HIDDEN)
    memory = np.full(20, 7, np.float32)
    for start in range(HIDDEN):
        for pair in [(memory[:5], memory[start : start + 5]), (memory[start : start + 5], memory[:5])]:
            raises(ValueError, made, x, h, c, out=pair, says="overlap")
            assert (memory == 7).all()
    made(x, h, c, out=(memory[:5], memory[5:10]))


# ---- sequences --------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_first", [False, True])
def test_sequences_of_another_shape_are_refused(api, batch_first):
    made = lstm(api, batch_first=batch_first)
    out = np.full((3, OUTPUT), 7, np.float32)
    for shape in [(), (4,), (3, 5), (0, 3), (2, 3, 3), (2, 3, 4, 1), (1, 2, 3, 4)]:
        says = [f"x of shape {shape}", "(T, 4)", "(B, T, 4)" if batch_first else "(T, B, 4)"]
        raises(ValueError, made, zeros(*shape), out=out, says=says)
    assert (out == 7).all()


@pytest.mark.parametrize("both", [False, True])
def test_states_of_another_shape_are_refused(api, both):
    made = lstm(api, both=both)
    for batch in [(), (BATCH,)]:
        out = np.full((3, *batch, made.output_size), 7, np.float32)
        x, good = zeros(3, *batch, INPUT), draw_state(made, *batch)
        stream = None if both else made.stream(*batch)
        for k in range(2):
            shape = good[k].shape
            for other in [
                shape[1:], (1, *shape), shape[::-1], (shape[0] + 1, *shape[1:]), (*shape[:-1], 1), (),
                (*shape[:-1], shape[-1] + 1), (shape[0], 1, *shape[-1:]) if batch else (shape[0], 1, 3),
            ]:
                state = list(good)
                state[k] = zeros(*other)
                says = [f"state[{k}] of shape {other}", shape]
                raises(ValueError, made, x, state, out=out, says=says)
                if stream and (batch or other != (shape[0], 1, shape[-1])):  # a stream takes states of a batch of one
                    raises(ValueError, setattr, stream, "state", state, says=says)
                    assert not any(a.any() for a in stream.state)
        assert (out == 7).all()
    raises(ValueError, made, zeros(3, BATCH, INPUT), draw_state(made), says=["state[0]", BATCH])


def test_states_that_are_not_pairs_are_refused(api):
    made = lstm(api)
    h, c = draw_state(made)
    out = np.full((3, OUTPUT), 7, np.float32)
    stream = made.stream()
    for state in (h, [h], (h, c, c), {"h": h, "c": c}, 5, "hc", iter((h, c)), np.stack([h, h])):
        raises(TypeError, made, zeros(3, INPUT), state, out=out, says=["state must be a pair"])
        raises(TypeError, setattr, stream, "state", state, says=["state must be a pair"])
    assert (out == 7).all()
    raises(TypeError, setattr, stream, "state", None, says=["state must be a pair"])
    with pytest.raises((AttributeError, NotImplementedError)):  # Cython raises NotImplementedError
        del stream.state


@pytest.mark.parametrize("batch_first", [False, True])
def test_bad_lengths_are_refused(api, batch_first):
    made = lstm(api, batch_first=batch_first)
    x = zeros(*((3, 7) if batch_first else (7, 3)), INPUT)
    out = np.full((*x.shape[:2], OUTPUT), 7, np.float32)
    for lengths, error, says in [
        ([1, 2], ValueError, ["(2,)", "(3,)"]),
        ([1, 2, 3, 4], ValueError, ["(4,)", "(3,)"]),
        ([[1, 2, 3]], ValueError, ["(1, 3)", "(3,)"]),
        (3, ValueError, ["()", "(3,)"]),
        ([], ValueError, ["(0,)", "(3,)"]),
        ([1, 2, 8], ValueError, ["0 to 7", "8"]),
        ([1, -1, 2], ValueError, ["0 to 7", "-1"]),
        (np.array([2**64 - 1, 0, 0], np.uint64), ValueError, ["0 to 7", str(2**64 - 1)]),
        ([1, 2, -(2**63)], ValueError, ["0 to 7", str(-(2**63))]),
        ([1, 2, 2**100], TypeError, ["integers"]),
        ([1.0, 2.0, 3.0], TypeError, ["integers", "float64"]),
        (np.float32([1, 2, 3]), TypeError, ["integers", "float32"]),
        ([True, False, True], TypeError, ["integers", "bool"]),
        (np.ones(3, bool), TypeError, ["integers", "bool"]),
        (["1", "2", "3"], TypeError, ["integers"]),
        ("123", TypeError, ["integers"]),
        (np.array([1, 2, 3], object), TypeError, ["integers", "object"]),
        (np.array([1, 2, 3], "m8[s]"), TypeError, ["integers"]),
        ({1, 2, 3}, TypeError, ["integers"]),
    ]:
        raises(error, made, x, lengths=lengths, out=out, says=["lengths", *says])
        assert (out == 7).all()
    for lengths in ([3], 3, []):
        raises(ValueError, made, zeros(7, INPUT), lengths=lengths, says=["lengths", "batch", "(7, 4)"])


def test_missing_and_unknown_arguments_are_refused(api):
    made, sequence = cell(api), lstm(api)
    x, h, c = args()
    for call in (made, sequence, sequence.stream().step):
        with pytest.raises(TypeError):
            call()
    for call in (made, sequence, sequence.stream().step, sequence.stream, sequence.stream().reset):
        with pytest.raises(TypeError, match="dtype"):
            call(x, dtype="float32")
    for call in (lambda: made(x, h, c, (h, c)), lambda: sequence(x[np.newaxis], None, [1])):
        with pytest.raises(TypeError):
            call()


# ---- streams ----------------------------------------------------------------------------------


def test_bad_batches_of_streams_are_refused(api):
    for made in (cell(api), lstm(api)):
        for batch, error in [(-1, ValueError), (-(10**30), ValueError)] + [
            (batch, TypeError) for batch in (True, np.True_, 1.0, "2", [2], (2,), 2j)
        ]:
            raises(error, made.stream, batch, says=["batch must be", repr(batch)])
        for batch in (1 << 62, 1 << 100):
            with pytest.raises((MemoryError, ValueError, OverflowError)):
                made.stream(batch)


def test_steps_of_another_shape_are_refused(api):
    for made in (cell(api), lstm(api)):
        for stream, good in [(made.stream(), (4,)), (made.stream(BATCH), (2, 4)), (made.stream(0), (0, 4))]:
            out = np.full((*good[:-1], OUTPUT), 7, np.float32)
            for shape in {(), (4,), (0,), (3,), (5,), (1, 4), (2, 4), (3, 4), (2, 3), (1, 2, 4)} - {good}:
                raises(ValueError, stream.step, zeros(*shape), out=out, says=[f"x of shape {shape}", good])
            assert (out == 7).all() and not any(a.any() for a in stream.state)
            for shape in {(), (3,), (4,), (2, 4), (1, 3), (2, 3), (3, 2)} - {out.shape}:
                bad = np.full(shape, 7, np.float32)
                raises(ValueError, stream.step, zeros(*good), out=bad, says=[shape, out.shape])
                assert (bad == 7).all()


def test_a_stream_cannot_be_made_by_its_class(api):
    for made in (cell(api), lstm(api)):
        with pytest.raises(TypeError):
            type(made.stream())()


@compiled_only
def test_methods_refuse_a_self_of_another_class():
    """A compiled method that took one would read the memory of another object as that of its own class."""
    gate, lstm = fastgate.Gate([[1.0]]), fastgate.LSTM([draw_layer(1, 1)])
    bound = gate.bind(np.ones(1, np.float32), out=np.ones(1, np.float32))
    whole = [gate, bound, fastgate.LSTMCell(**draw_layer(1, 1)), lstm, lstm.stream()]
    count = 0
    for kind in [type(o) for o in whole] + [fastgate.LSTM.__base__]:
        for name, member in vars(kind).items():
            if not hasattr(member, "__get__") or isinstance(member, classmethod) or name == "__new__":
                continue
            for foreign in [o for o in ["x", None, 5, *whole] if not isinstance(o, kind)]:
                count += 1
                with pytest.raises(TypeError, match="descriptor|requires|__get__"):
                    member(foreign) if callable(member) else member.__get__(foreign)
                    pytest.fail(f"{kind.__name__}.{name} of {foreign!r}")
    assert count > 300


# ---- calls that once crashed ------------------------------------------------------------------


def test_lengths_may_lie_in_the_memory_of_out(api):
    """All lengths are read before the first output is written over them, wherever in out they lie."""
    made = api.LSTM([draw_layer(3, 5)], reverse=True)
    x = draw(6, 8, 3)
    for at in range(0, 6 * 8 * 5 // 2 - 8, 7):
        out = np.zeros((6, 8, 5), np.float32)
        lengths = out.reshape(-1).view(np.int64)[at : at + 8]
        lengths[:] = [6, 5, 4, 3, 2, 1, 0, 3]
        want, _ = made(x, lengths=lengths.copy())
        made(x, lengths=lengths, out=out)
        np.testing.assert_array_equal(out, want)


@compiled_only
def test_the_base_class_cannot_be_instantiated():
    base = fastgate.LSTM.__mro__[1]
    for kind in (base, type("Derived", (base,), {})):
        with pytest.raises(TypeError, match="only LSTM and LSTMCell"):
            kind()
