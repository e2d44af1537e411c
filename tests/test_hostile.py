"""Code of the user that runs in the middle of a call, and objects that are not made yet.

A conversion, such as __array__, may reshape or replace what a call converted before. Then the call gives a right
result or an exception; under AddressSanitizer it also reads and writes nothing else.
"""

import array
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
from helpers import compiled_only, draw, same_bits
from helpers.hostile import Hostile, HostileBuffer

pytestmark = compiled_only
f = np.float32


def reshapes(*arrays):
    """Gives arrays every shape that they can have, in place, and is at last what it is first."""

    def act():
        for a in arrays:
            for shape in [(a.size,), (1, a.size), (a.size, 1), (1, 1, a.size)]:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # NumPy's, of setting a shape
                    a.shape = shape

    return act


def survives(call):
    """A result or an exception of those that calls have."""
    try:
        return call()
    except (TypeError, ValueError, RuntimeError, IndexError):
        return None


def parameters(hidden, n):
    return np.ones((4 * hidden, n), f), np.ones((4 * hidden, hidden), f)


# ---- A: between a check and its use -----------------------------------------------------------


def test_gates_of_arrays_that_change():
    for m, n in [(64, 32), (1, 1), (8000, 8), (16, 0)]:
        w, b = np.ones((m, n), f), np.zeros(m, f)
        survives(lambda: fastgate.Gate(w, Hostile(b, reshapes(w))))
        survives(lambda: fastgate.gate(np.ones(n, f), np.ones((m, n), f), Hostile(b, lambda: None)))
        w = np.ones((m, n), f)
        survives(lambda: fastgate.gate(Hostile(np.ones(n, f), reshapes(w)), w))
        survives(lambda: fastgate.gate(np.ones(n, f), w, Hostile(b, reshapes(w))))
        survives(lambda: fastgate.Gate(np.ones((m, n), f), threads=Hostile(2, reshapes(w))))


def test_calls_of_gates_whose_inputs_change():
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


def test_cells_of_arrays_that_change():
    for hidden, n in [(2000, 8), (512, 64), (1, 1)]:
        wi, wh = parameters(hidden, n)
        act = reshapes(wi, wh)
        for options in (
            {"input_forget": Hostile(False, act)},
            {"clip": Hostile(1.0, act)},
            {"gate_clip": Hostile(1.0, act)},
            {"threads": Hostile(1, act)},
            {"bias_ih": Hostile(np.zeros(4 * hidden, f), act)},
            {"peephole": Hostile(np.zeros((3, hidden), f), act)},
            {"projection": Hostile(np.zeros((hidden, hidden), f), act)},
        ):
            survives(lambda o=options: fastgate.LSTMCell(wi, wh, **o))
            own = {k: o for k, o in options.items() if k in ("bias_ih", "peephole", "projection")}
            rest = {k: o for k, o in options.items() if k not in own}
            layer = {"weight_ih": wi, "weight_hh": wh, **own}
            survives(lambda layer=layer, rest=rest: fastgate.LSTM([layer, layer], **rest))


def test_calls_of_cells_and_streams_whose_inputs_change():
    cell = fastgate.LSTMCell(*parameters(512, 64))
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


def test_calls_of_lstms_whose_inputs_change():
    lstm = fastgate.LSTM([dict(zip(("weight_ih", "weight_hh"), parameters(32, 8)))])
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


def test_arrays_whose_dtype_changes():
    w = np.ones((64, 32))
    bias = Hostile(np.zeros(64), retypes(w, f))
    survives(lambda: fastgate.Gate(w, bias, storage="float64"))
    survives(lambda: fastgate.gate(np.ones(32), w, bias))
    lstm = fastgate.LSTM([dict(zip(("weight_ih", "weight_hh"), parameters(32, 8)))])
    for dtype in (np.float16, np.float64):
        h = np.ones((1, 3, 16 if dtype == np.float16 else 64), f)  # of the right shape afterwards
        stream = lstm.stream(3)
        survives(lambda: setattr(stream, "state", (h, Hostile(np.ones((1, 3, 32), f), retypes(h, dtype)))))
        assert h.dtype == dtype
        same_bits(stream.state[0], h.astype(f))


def test_calls_without_a_state_whose_finalizers_reshape_x():
    """Before Python 3.12, the garbage collector runs where an object is made."""
    cell = fastgate.LSTMCell(*parameters(8, 64))
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
    """NumPy resizes an array of which it counts two references, its own included: a view is not enough to hold it."""
    arrays = [np.ones(1000, f).view(made).copy() for _ in range(2)]
    bound = fastgate.Gate(draw(3, 2000)).bind(*arrays, out=np.empty(3, f))
    want = bound().copy()
    for _ in range(2):
        with pytest.raises(ValueError, match="cannot resize"):
            arrays.pop().resize(2)
    same_bits(bound(), want)


@pytest.mark.parametrize("of", ["gate", "cell"])
def test_inputs_are_not_resized_during_a_call(of):
    """Another thread takes an array from the list that the call took it from: only the call holds it then."""
    gate = fastgate.Gate(np.ones((256, 512), f) / 512)
    cell = fastgate.LSTMCell(*parameters(128, 512))
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


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python before 3.12 calls no __buffer__")
def test_outputs_whose_buffers_change_inputs():
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
    survives(lambda: fastgate.LSTMCell(*parameters(512, 64))(x, h, h.copy(), out=(h.copy(), Out())))


@pytest.mark.parametrize("base", [object, str])
def test_paths_that_are_numbers(base, tmp_path):
    """open() takes what has an __index__ as a file descriptor, and closes it at the end."""
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
    assert fastgate.LSTMCell(*parameters(2, 2)).stream(Changing()).batch == 2


def test_layers_from_a_generator_that_fills_one_buffer(api):
    wi, wh = parameters(3, 3)

    def layers():
        for k in range(3):
            wi[...] = k
            wh[...] = -k
            yield {"weight_ih": wi, "weight_hh": wh}

    separate = [{"weight_ih": np.full((12, 3), k, f), "weight_hh": np.full((12, 3), -k, f)} for k in range(3)]
    x = draw(4, 3)
    same_bits(api.LSTM(layers())(x)[0], api.LSTM(separate)(x)[0])


# ---- B: objects that are not made yet ---------------------------------------------------------

HALF_MADE = {
    "Gate": lambda act: fastgate.Gate(Hostile(np.ones((2, 3), f), act)),
    "LSTMCell": lambda act: fastgate.LSTMCell(Hostile(np.ones((8, 3), f), act), np.ones((8, 2), f)),
    "LSTM": lambda act: fastgate.LSTM(
        [{"weight_ih": Hostile(np.ones((8, 3), f), act), "weight_hh": np.ones((8, 2), f)}]
    ),
    "Stream": lambda act: fastgate.LSTMCell(*parameters(2, 3)).stream(Hostile(4, act)),
    "BoundGate": lambda act: fastgate.Gate([[1.0]]).bind(HostileBuffer(act), out=np.ones(1, f)),
}


@pytest.mark.parametrize("name", HALF_MADE)
def test_half_made_objects_refuse_everything(name):
    """Other threads find them with gc.get_objects(); so does what runs in the middle."""
    def act():
        for o in gc.get_objects():
            if type(o).__name__ != name or not type(o).__module__.startswith("fastgate"):
                continue
            try:
                repr(o)
                continue  # a whole one, of another test
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
    """No cycle goes through them, so it need not know them; and nobody finds one that is not made yet."""
    gate, cell = fastgate.Gate([[1.0]]), fastgate.LSTMCell(*parameters(2, 2))
    lstm = fastgate.LSTM([dict(zip(("weight_ih", "weight_hh"), parameters(2, 2)))])
    assert not any(gc.is_tracked(o) for o in (gate, cell, lstm, lstm.stream(), cell.stream(3)))


def test_a_cell_is_no_lstm_of_two_layers():
    """Not even for a moment, in which a profiler could take it."""
    layer = dict(zip(("weight_ih", "weight_hh"), parameters(2, 2)))
    file = io.BytesIO()
    fastgate.LSTM([layer, layer]).save(file)
    with pytest.raises(ValueError, match="one layer"):
        fastgate.LSTMCell.load(file.getvalue())


def test_types_of_two_names():
    """NumPy has several C types of one kind."""
    double = np.longdouble if np.dtype(np.longdouble) == np.dtype(np.float64) else np.double
    weight = np.ones((4, 4), double)
    assert fastgate.Gate(weight, storage="float64")(np.ones(4, double)).dtype == np.float64


def test_empty_arrays_overlap_nothing():
    memory = np.empty((5, 2, 3), f)
    cell = fastgate.LSTMCell(*parameters(3, 3))
    x, h = np.empty((0, 3), f), np.empty((0, 3), f)
    assert cell(x, h, h, out=(memory[:0, 1], memory[:0, 0]))[0].shape == (0, 3)
    gate, y = fastgate.Gate(np.ones((2, 3), f)), np.empty((4, 2), f)
    gate.bind(y[:, :0], np.ones((4, 3), f), out=y)()


# ---- G: what is no number ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
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
def test_what_is_no_number_is_refused(api, value):
    cell = api.LSTMCell(*parameters(2, 2))
    lstm = api.LSTM([dict(zip(("weight_ih", "weight_hh"), parameters(2, 2)))])
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


def test_numbers_of_other_kinds_are_taken(api):
    from fractions import Fraction

    gate = api.Gate(np.ones((1, 2), f))
    for value in ([1, 2], [True, False], [Fraction(1, 2), 3], [10**30, 1], np.ma.masked_array(np.ones(2, f)), (1, 2)):
        assert gate(value).shape == (1,)
    same_bits(gate([10**40, 0]), gate([np.inf, 0]))


def test_clips_that_are_too_small(api):
    from fractions import Fraction

    for value in (Fraction(1, 10**400), 1e-400, -Fraction(1, 10**400)):
        for name in ("clip", "gate_clip"):
            with pytest.raises(ValueError, match=f"{name} must be positive"):
                api.LSTMCell(*parameters(2, 2), **{name: value})


class Tensor:
    """As torch's that wants a gradient."""

    def detach(self):
        return self

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")


PackedSequence = type("PackedSequence", (tuple,), {})


def test_what_torch_gives(api):
    gate = api.Gate(np.ones((1, 2), f))
    with pytest.raises(TypeError, match=r"requires grad.*x\.detach\(\)"):
        gate(Tensor())
    lstm = api.LSTM([dict(zip(("weight_ih", "weight_hh"), parameters(2, 2)))])
    with pytest.raises(TypeError, match="pad_packed_sequence"):
        lstm(PackedSequence((1, 2)))


# ---- I: signals -------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timers")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("call", ["lstm", "gate", "once", "cell"])
def test_long_calls_answer_signals(call, threads):
    """Each would take many seconds; handlers run within it, and what they raise ends it."""
    big = np.broadcast_to(draw(1, 256), (400_000, 256))
    gate = fastgate.Gate(draw(512, 256), threads=threads)
    lstm = fastgate.LSTM([{"weight_ih": draw(2048, 256), "weight_hh": draw(2048, 512) / 30}], threads=threads)
    calls = {
        "lstm": lambda: lstm(np.broadcast_to(draw(1, 64, 256), (20_000, 64, 256))),
        "gate": lambda: [gate(big) for _ in range(100)],
        "once": lambda: [fastgate.gate(big, draw(512, 256)) for _ in range(100)],
        "cell": lambda: [cell(big[:20_000], *state, out=state) for _ in range(1000)],
    }
    cell = fastgate.LSTMCell(draw(2048, 256), draw(2048, 512) / 30, threads=threads)
    state = np.zeros((20_000, 512), f), np.zeros((20_000, 512), f)
    handled = []

    class Stop(Exception):
        pass

    def handler(number, frame):
        handled.append(time.monotonic())
        if len(handled) == 3:
            raise Stop

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
        with pytest.raises(Stop):
            calls[call]()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(handled) >= 3
    same_bits(gate(draw(256)), fastgate.Gate(draw(512, 256))(draw(256)))


def test_a_call_of_another_thread_is_not_ended():
    """Signals are the main thread's: what another thread computes goes on."""
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


# ---- L: CPUs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "files, quota",
    [
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "max 100000\n"}, np.inf),
        ({"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/cpu.max": "50000 100000\n"}, 0.5),
        ({"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/b/cpu.max": "300000 100000\n",
          "/sys/fs/cgroup/a/cpu.max": "200000 100000\n"}, 2),
        ({"/proc/self/cgroup": "3:cpu,cpuacct:/x\n1:memory:/y\n", "/sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "250000\n",
          "/sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n"}, 2.5),
        ({"/proc/self/cgroup": "3:cpu:/x\n", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
          "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, np.inf),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "nonsense\n"}, np.inf),
        ({}, np.inf),
    ],
)  # fmt: skip
def test_quotas_of_containers(files, quota, monkeypatch):
    monkeypatch.setattr(fastgate._parameters, "_lines", lambda path: files.get(path, "").splitlines())
    assert fastgate._parameters._quota() == quota
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    assert fastgate._parameters.cpu_count() == (64 if quota == np.inf else max(1, int(np.ceil(quota))))


def test_buffers_are_held_while_they_are_bound():
    gate = fastgate.Gate(np.ones((2, 3), f))
    x, y = array.array("f", [1, 2, 3]), array.array("f", [0, 0])
    bound = gate.bind(x, out=y)
    with pytest.raises(BufferError):
        x.append(1)
    assert bound() is y
