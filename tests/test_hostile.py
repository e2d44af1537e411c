"""Calls survive code of the user that runs in the middle of them, and objects that are not made yet refuse every use.

A conversion, such as __array__, may reshape or replace an array that a call converted before. Then the call returns a
right result or raises an exception; under AddressSanitizer these tests also show that it touches no other memory.
"""

import copy
import gc
import io
import os
import pickle
import signal
import sys
import threading
import time
import warnings

import fastgate
import numpy as np
import pytest
from helpers import alarms, compiled_only, draw, needs_timers, same_bits
from helpers.hostile import Hostile, HostileBuffer

pytestmark = compiled_only
f = np.float32


def reshapes(*arrays):
    """A function that gives arrays other shapes, in place."""

    def act():
        for a in arrays:
            for shape in [(a.size,), (1, a.size), (a.size, 1), (1, 1, a.size)]:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # NumPy warns of setting a shape
                    a.shape = shape

    return act


def survives(call):
    """The result of a call, or None if it raises an exception that calls may raise."""
    try:
        return call()
    except (TypeError, ValueError, RuntimeError, IndexError):
        return None


def layer(hidden, n):
    return {"weight_ih": np.ones((4 * hidden, n), f), "weight_hh": np.ones((4 * hidden, hidden), f)}


# ---- arrays that change between a check and its use -------------------------------------------


def test_making_a_gate_survives_arrays_that_change():
    for m, n in [(64, 32), (1, 1), (8000, 8), (16, 0)]:
        w, b = np.ones((m, n), f), np.zeros(m, f)
        survives(lambda: fastgate.Gate(w, Hostile(b, reshapes(w))))
        survives(lambda: fastgate.gate(np.ones(n, f), np.ones((m, n), f), Hostile(b, lambda: None)))
        w = np.ones((m, n), f)
        survives(lambda: fastgate.gate(Hostile(np.ones(n, f), reshapes(w)), w))
        survives(lambda: fastgate.gate(np.ones(n, f), w, Hostile(b, reshapes(w))))
        survives(lambda: fastgate.Gate(np.ones((m, n), f), threads=Hostile(2, reshapes(w))))


def test_calling_a_gate_survives_inputs_that_change():
    gate = fastgate.Gate(draw(40, 30))
    for parts in (1, 2, 3, 9):
        for hostile in range(parts):
            xs = [np.ones((6, size), f) for size in np.diff(np.linspace(0, 30, parts + 1).astype(int))]
            xs[hostile] = Hostile(xs[hostile], reshapes(*(a for a in xs if isinstance(a, np.ndarray))))
            survives(lambda xs=xs: gate(*xs))
            survives(lambda xs=xs: gate(*xs, out=np.empty((6, 40), f)))
            survives(lambda xs=xs: gate.bind(*xs, out=np.empty((6, 40), f)))
    x = np.ones((6, 30), f)
    y = np.empty((6, 40), f)
    survives(lambda: gate(x.tolist(), out=Hostile(y, reshapes(x))))


def test_making_cells_and_lstms_survives_arrays_that_change():
    for hidden, n in [(2000, 8), (512, 64), (1, 1)]:
        weights = layer(hidden, n)
        act = reshapes(*weights.values())
        for options in (
            {"input_forget": Hostile(False, act)},
            {"clip": Hostile(1.0, act)},
            {"gate_clip": Hostile(1.0, act)},
            {"threads": Hostile(1, act)},
            {"bias_ih": Hostile(np.zeros(4 * hidden, f), act)},
            {"peephole": Hostile(np.zeros((3, hidden), f), act)},
            {"projection": Hostile(np.zeros((hidden, hidden), f), act)},
        ):
            survives(lambda o=options: fastgate.LSTMCell(**weights, **o))
            arrays = {k: o for k, o in options.items() if k in ("bias_ih", "peephole", "projection")}
            rest = {k: o for k, o in options.items() if k not in arrays}
            survives(lambda one={**weights, **arrays}, rest=rest: fastgate.LSTM([one, one], **rest))


def test_calling_cells_and_streams_survives_inputs_that_change():
    cell = fastgate.LSTMCell(**layer(512, 64))
    for hostile in range(5):
        arrays = [np.ones((4, size), f) for size in (64, 512, 512, 512, 512)]
        act = reshapes(*(a for i, a in enumerate(arrays) if i != hostile))
        given = [Hostile(a, act) if i == hostile else a for i, a in enumerate(arrays)]
        survives(lambda g=given: cell(*g[:3], out=g[3:]))
        survives(lambda g=given: cell(*g[:3]))
    stream = cell.stream(4)
    x, y = np.ones((4, 64), f), np.ones((4, 512), f)
    survives(lambda: stream.step(x, out=Hostile(y, reshapes(x))))
    survives(lambda: stream.step(Hostile(x, reshapes(y)), out=y))
    h, c = np.zeros((4, 512), f), np.zeros((4, 512), f)
    survives(lambda: setattr(stream, "state", (h, Hostile(c, reshapes(h)))))
    survives(lambda: stream.reset(Hostile(np.arange(4), lambda: stream.reset())))


def test_calling_lstms_survives_inputs_that_change():
    lstm = fastgate.LSTM([layer(32, 8)])
    for hostile in range(5):
        arrays = [np.ones((5, 3, 8), f), np.ones((1, 3, 32), f), np.ones((1, 3, 32), f), np.array([5, 2, 3]),
                  np.ones((5, 3, 32), f)]
        act = reshapes(*(a for i, a in enumerate(arrays) if i != hostile))
        g = [Hostile(a, act) if i == hostile else a for i, a in enumerate(arrays)]
        survives(lambda g=g: lstm(g[0], (g[1], g[2]), lengths=g[3], out=g[4]))
        survives(lambda g=g: lstm.gates(g[0], (g[1], g[2]), lengths=g[3], layer=Hostile(0, act)))


def retypes(a, dtype):
    def act():
        a.dtype = dtype

    return act


def test_calls_survive_arrays_whose_dtype_changes():
    w = np.ones((64, 32))
    bias = Hostile(np.zeros(64), retypes(w, f))
    survives(lambda: fastgate.Gate(w, bias, storage="float64"))
    survives(lambda: fastgate.gate(np.ones(32), w, bias))
    lstm = fastgate.LSTM([layer(32, 8)])
    for dtype in (np.float16, np.float64):
        h = np.ones((1, 3, 16 if dtype == np.float16 else 64), f)  # its shape is right after the change
        stream = lstm.stream(3)
        survives(lambda: setattr(stream, "state", (h, Hostile(np.ones((1, 3, 32), f), retypes(h, dtype)))))
        assert h.dtype == dtype
        same_bits(stream.state[0], h.astype(f))


def test_a_cell_survives_finalizers_that_reshape_x():
    """Before Python 3.12 the garbage collector may run whenever an object is made, so also in the middle of a call."""
    cell = fastgate.LSTMCell(**layer(8, 64))
    x = np.ones((4, 64), f)
    want = cell(x)[0]

    class Cycle:
        def __init__(self):
            self.own = self

        def __del__(self):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                x.shape = (256, 1)

    before = gc.get_threshold()
    for threshold in range(1, 40):
        gc.collect()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x.shape = (4, 64)
        Cycle()
        gc.set_threshold(threshold)
        try:
            result = survives(lambda: cell(x))
        finally:
            gc.set_threshold(*before)
        if result is not None:
            same_bits(result[0], want)


@pytest.mark.parametrize("made", [np.ndarray, type("Subclass", (np.ndarray,), {})])
def test_bound_inputs_are_not_resized(made):
    """NumPy resizes an array unless more references to it than expected are counted, so bind must hold some itself."""
    arrays = [np.ones(1000, f).view(made).copy() for _ in range(2)]
    bound = fastgate.Gate(draw(3, 2000)).bind(*arrays, out=np.empty(3, f))
    want = bound().copy()
    for _ in range(2):
        with pytest.raises(ValueError, match="cannot resize"):
            arrays.pop().resize(2)
    same_bits(bound(), want)


@pytest.mark.parametrize("of", ["gate", "cell"])
def test_inputs_are_not_resized_during_a_call(of):
    """Another thread removes the array from its list during the call, so that only the call refers to it."""
    gate = fastgate.Gate(np.ones((256, 512), f) / 512)
    cell = fastgate.LSTMCell(**layer(128, 512))
    arrays, refused = [np.ones((5000, 512), f)], []
    entered = threading.Event()

    def resize():
        entered.wait()
        time.sleep(0.005)
        try:
            arrays.pop().resize(2, refcheck=True)
        except ValueError as error:
            refused.append(error)

    thread = threading.Thread(target=resize)
    thread.start()
    h = np.zeros((5000, 128), f)
    entered.set()
    y = gate(arrays[0]) if of == "gate" else cell(arrays[0], h, h)[0]
    thread.join()
    assert refused and np.isfinite(y).all() and (y == y[0]).all()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python calls __buffer__ from 3.12 on")
def test_calls_survive_outputs_whose_buffers_change_inputs():
    x, h = np.ones((4, 64), f), np.zeros((4, 512), f)
    gate, y = fastgate.Gate(draw(512, 64)), h.copy()

    class Out:
        def __buffer__(self, flags):
            x.shape = (256, 1)
            return memoryview(y)

    survives(lambda: gate.bind(x, out=Out())())
    x.shape = (4, 64)
    survives(lambda: gate(x, out=Out()))
    x.shape = (4, 64)
    survives(lambda: fastgate.LSTMCell(**layer(512, 64))(x, h, h.copy(), out=(h.copy(), Out())))


@pytest.mark.parametrize("base", [object, str])
def test_a_path_with_an_index_is_not_a_file_descriptor(base, tmp_path):
    """open() would take such an object for a descriptor, and close it in the end."""
    fastgate.Gate([[1.0]]).save(tmp_path / "gate")
    with open(tmp_path / "other", "wb") as file:

        class Path(base):
            def __fspath__(self):
                return str(tmp_path / "gate")

            def __index__(self):
                return file.fileno()

        path = Path(tmp_path / "gate") if base is str else Path()
        assert fastgate.Gate.load(path).input_size == 1
        os.fstat(file.fileno())


def test_integers_are_converted_once():
    class Changing:
        answers = 0

        def __index__(self):
            self.answers += 1
            return 2 if self.answers == 1 else -7

    try:
        fastgate.set_threads(Changing())
        assert fastgate.Gate([[1.0]]).threads == 2
    finally:
        fastgate.set_threads(None)
    assert fastgate.Gate([[1.0]], threads=Changing()).threads == 2
    assert fastgate.LSTMCell(**layer(2, 2)).stream(Changing()).batch == 2


def test_layers_from_a_generator_that_fills_one_buffer(api):
    weights = layer(3, 3)

    def layers():
        for k in range(3):
            weights["weight_ih"][...], weights["weight_hh"][...] = k, -k
            yield weights

    separate = [{"weight_ih": np.full((12, 3), k, f), "weight_hh": np.full((12, 3), -k, f)} for k in range(3)]
    x = draw(4, 3)
    same_bits(api.LSTM(layers())(x)[0], api.LSTM(separate)(x)[0])


# ---- objects that are not made yet ------------------------------------------------------------

HALF_MADE = {
    "Gate": lambda act: fastgate.Gate(Hostile(np.ones((2, 3), f), act)),
    "LSTMCell": lambda act: fastgate.LSTMCell(Hostile(np.ones((8, 3), f), act), np.ones((8, 2), f)),
    "LSTM": lambda act: fastgate.LSTM(
        [{"weight_ih": Hostile(np.ones((8, 3), f), act), "weight_hh": np.ones((8, 2), f)}]
    ),
    "Stream": lambda act: fastgate.LSTMCell(**layer(2, 3)).stream(Hostile(4, act)),
    "BoundGate": lambda act: fastgate.Gate([[1.0]]).bind(HostileBuffer(act), out=np.ones(1, f)),
}


@pytest.mark.parametrize("name", HALF_MADE)
def test_half_made_objects_refuse_everything(name):
    """Other threads, and code that runs in the middle of a constructor, can find them with gc.get_objects()."""
    def act():
        for o in gc.get_objects():
            if type(o).__name__ != name or not type(o).__module__.startswith("fastgate"):
                continue
            try:
                repr(o)
                continue  # it is a complete object, of another test
            except Exception as error:
                assert isinstance(error, (TypeError, AttributeError, ValueError))
            x = np.ones(3, f)
            for use in (
                lambda o: o(x),
                lambda o: o(),
                lambda o: o(np.ones((2, 3), f)),
                lambda o: o.threads,
                lambda o: o.save(io.BytesIO()),
                lambda o: pickle.dumps(o),
                lambda o: o.__reduce__(),
                lambda o: o.bind(x, out=x),
                lambda o: o.stream(),
                lambda o: o.stream(2),
                lambda o: o.gates(np.ones((2, 3), f)),
                lambda o: o.step(x),
                lambda o: o.state,
                lambda o: setattr(o, "state", (x, x)),
                lambda o: o.reset(),
                lambda o: o.reverse,
                lambda o: copy.copy(o).threads,
                lambda o: fastgate.Stream(o),
            ):
                with pytest.raises((TypeError, AttributeError)):
                    use(o)

    survives(lambda: HALF_MADE[name](act))


def test_objects_are_not_found_by_the_collector():
    """They are in no cycles, so the collector need not know them; then nobody finds one that is not made yet."""
    gate, cell, lstm = fastgate.Gate([[1.0]]), fastgate.LSTMCell(**layer(2, 2)), fastgate.LSTM([layer(2, 2)])
    assert not any(gc.is_tracked(o) for o in (gate, cell, lstm, lstm.stream(), cell.stream(3)))


def test_a_cell_is_not_loaded_from_an_lstm_of_two_layers():
    """It is refused before there is an object, which a profiler could use."""
    file = io.BytesIO()
    fastgate.LSTM([layer(2, 2)] * 2).save(file)
    with pytest.raises(ValueError, match="one layer"):
        fastgate.LSTMCell.load(file.getvalue())


def test_a_dtype_of_either_c_type_is_accepted():
    """Where long double is double, NumPy has two float64 dtypes, which are equal but not the same."""
    double = np.longdouble if np.dtype(np.longdouble) == np.dtype(np.float64) else np.double
    weight = np.ones((4, 4), double)
    assert fastgate.Gate(weight, storage="float64")(np.ones(4, double)).dtype == np.float64


def test_empty_arrays_overlap_nothing():
    memory = np.empty((5, 2, 3), f)
    cell = fastgate.LSTMCell(**layer(3, 3))
    x, h = np.empty((0, 3), f), np.empty((0, 3), f)
    assert cell(x, h, h, out=(memory[:0, 1], memory[:0, 0]))[0].shape == (0, 3)
    gate, y = fastgate.Gate(np.ones((2, 3), f)), np.empty((4, 2), f)
    gate.bind(y[:, :0], np.ones((4, 3), f), out=y)()


# ---- values that are no numbers ---------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "abcd",
        object(),
        {1: 2},
        [1, {}],
        [None, 1.0],
        ["1", "2"],
        [b"1", b"2"],
        [1j, 2j],
        [object(), 1.0],
        np.array(["2020-01-01", "2021-01-01"], "M8[D]").tolist(),
        [np.datetime64("2020-01-01"), np.datetime64("2021-01-01")],
        np.ma.masked_array(np.ones(2, f), [False, True]),
    ],
    ids=repr,
)
def test_values_that_are_no_numbers_are_refused(api, value):
    cell, lstm = api.LSTMCell(**layer(2, 2)), api.LSTM([layer(2, 2)])
    rows = value[np.newaxis] if isinstance(value, np.ma.MaskedArray) else [value]
    for call in (
        lambda: api.Gate(np.ones((3, 2), f))(value),
        lambda: api.gate(value, np.ones((3, 2), f)),
        lambda: api.Gate(rows),
        lambda: api.Gate(np.ones((2, 3), f), value),
        lambda: cell(value),
        lambda: cell([1, 2], value, [0, 0]),
        lambda: cell.stream().step(value),
        lambda: lstm(rows),
    ):
        with pytest.raises(TypeError, match="numbers|masked|complex"):
            call()


def test_numbers_of_other_kinds_are_accepted(api):
    from fractions import Fraction

    gate = api.Gate(np.ones((1, 2), f))
    for value in ([1, 2], [True, False], [Fraction(1, 2), 3], [10**30, 1], np.ma.masked_array(np.ones(2, f)), (1, 2)):
        assert gate(value).shape == (1,)
    same_bits(gate([10**40, 0]), gate([np.inf, 0]))


def test_clips_that_are_too_small_are_refused(api):
    from fractions import Fraction

    for value in (Fraction(1, 10**400), 1e-400, -Fraction(1, 10**400)):
        for name in ("clip", "gate_clip"):
            with pytest.raises(ValueError, match=f"{name} must be positive"):
                api.LSTMCell(**layer(2, 2), **{name: value})


class Tensor:
    """Raises what a tensor of torch raises that requires a gradient."""

    def detach(self):
        return self

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")


PackedSequence = type("PackedSequence", (tuple,), {})


def test_errors_say_how_to_convert_what_torch_gives(api):
    gate = api.Gate(np.ones((1, 2), f))
    with pytest.raises(TypeError, match=r"requires grad.*x\.detach\(\)"):
        gate(Tensor())
    lstm = api.LSTM([layer(2, 2)])
    with pytest.raises(TypeError, match="pad_packed_sequence"):
        lstm(PackedSequence((1, 2)))


# ---- signals ----------------------------------------------------------------------------------


@needs_timers
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("call", ["lstm", "gate", "once", "cell"])
def test_long_calls_answer_signals(call, threads):
    """Each call would take many seconds; signal handlers run within it, and an exception of theirs ends it."""
    big = np.broadcast_to(draw(1, 256), (400_000, 256))
    gate = fastgate.Gate(draw(512, 256), threads=threads)
    weights = {"weight_ih": draw(2048, 256), "weight_hh": draw(2048, 512) / 30}
    lstm, cell = fastgate.LSTM([weights], threads=threads), fastgate.LSTMCell(**weights, threads=threads)
    state = np.zeros((20_000, 512), f), np.zeros((20_000, 512), f)
    calls = {
        "lstm": lambda: lstm(np.broadcast_to(draw(1, 64, 256), (20_000, 64, 256))),
        "gate": lambda: [gate(big) for _ in range(100)],
        "once": lambda: [fastgate.gate(big, draw(512, 256)) for _ in range(100)],
        "cell": lambda: [cell(big[:20_000], *state, out=state) for _ in range(1000)],
    }
    handled = []

    class Stop(Exception):
        pass

    def handler(number, frame):
        handled.append(time.monotonic())
        if len(handled) == 3:
            raise Stop

    with alarms(handler, 0.2, 0.2), pytest.raises(Stop):
        calls[call]()
    assert len(handled) >= 3
    same_bits(gate(draw(256)), fastgate.Gate(draw(512, 256))(draw(256)))


def test_a_call_of_another_thread_is_not_ended():
    """Only the main thread handles signals, so calls of other threads go on."""
    lstm = fastgate.LSTM([{"weight_ih": draw(512, 64), "weight_hh": draw(512, 128) / 30}])
    x, results = draw(3000, 8, 64), []
    want = lstm(x)[0]
    thread = threading.Thread(target=lambda: results.append(lstm(x)[0]))
    thread.start()
    before = signal.signal(signal.SIGINT, lambda *_: None)
    for _ in range(5):
        os.kill(os.getpid(), signal.SIGINT)
    thread.join()
    signal.signal(signal.SIGINT, before)
    same_bits(results[0], want)
