"""A fuzzer of the entry points of Python: arguments of all kinds, hostile objects, finalizers and other threads.

    python tests/fuzz_calls.py SECONDS [SEED]     run it on a build with FASTGATE_SANITIZE=address, as .ci/full does

A hostile object reshapes, resizes, retypes or replaces the other arguments of its call while it is converted, raises,
calls fastgate, or answers differently each time.  A call must give a sound result, or an exception that calls have.
A call without hostile arguments must do as fastgate.reference does.
"""

import array
import copy
import faulthandler
import gc
import io
import itertools
import numbers
import pickle
import sys
import threading
import time
import traceback
import warnings

import fastgate
import numpy as np
from fastgate import reference


class Own(Exception):
    """What hostile objects raise."""


ALLOWED = (TypeError, ValueError, RuntimeError, IndexError, MemoryError, OverflowError, AttributeError,
           NotImplementedError, BufferError, OSError, Own)  # fmt: skip
CALLS_OF_A_SEED = 300
SIZES = [0, 1, 2, 3, 5, 8, 16, 17, 33, 64, 200]
STORAGES = ["float32", "float32", "float64", "float16", "bfloat16", "int8"]
METHODS = """__array__ __buffer__ __float__ __bool__ __index__ __int__ __gt__ __lt__ __eq__ __ne__ __hash__ __len__
    __iter__ __getitem__ __repr__ __fspath__ write read keys items dtype shape mask detach ndim __class__
    __array_interface__""".split()  # fmt: skip
PROPERTIES = {"dtype", "shape", "mask", "ndim", "__class__", "__array_interface__"}


class Fuzzer:
    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.others = []  # arguments of the call that runs, which hostile code changes
        self.hostile = False  # whether any code of the user runs in it
        self.depth = 0
        self.made = {"Gate": [], "LSTMCell": [], "LSTM": [], "Stream": []}  # of pairs: the core's, the reference's

    def one(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def chance(self, probability):
        return self.rng.random() < probability

    # ---- hostile code -------------------------------------------------------------------------

    def act(self):
        """Does something that code of the user may do in the middle of a call."""
        what = self.rng.integers(10)
        if what == 0 and self.chance(0.3):
            raise self.one(Own, ValueError, MemoryError)("hostile")
        if what == 1 and self.depth < 3:
            self.call()
        if what == 2 and self.others:
            try:
                self.others.pop(self.rng.integers(len(self.others))).resize(self.one(0, 1, 7, 5000))
            except (ValueError, AttributeError):
                return  # NumPy refused, or it is no array
        if what == 3:
            gc.collect(0)
        for a in self.others if what > 3 else ():
            self.change(a, what)

    def change(self, a, what=4):
        try:
            if isinstance(a, list):
                a[self.rng.integers(len(a))] = self.right((3, 4))
            elif isinstance(a, dict):
                a[self.one(*a)] = self.one(None, self.right((8, 2)), self)
            elif what == 8:
                a.dtype = self.one(np.float16, np.float32, np.float64, np.int8, np.int32, np.complex64)
            elif what == 9 and a.dtype != object:  # NumPy frees objects along the strides
                a.strides = tuple(self.rng.integers(0, s + 1) if s > 0 else s for s in a.strides)
            else:
                a.shape = self.one((a.size,), (a.size, 1), (1, a.size), (1, 1, a.size), (-1, 2), (2, -1), (2, 2, -1))
        except (ValueError, TypeError, AttributeError, IndexError):
            return  # NumPy refused

    def answer(self, name, value):
        """What a method of a hostile object gives, after it acted."""
        self.act()
        if self.chance(0.1):
            return self.one(None, 0, -1, 2**70, 1.5, "/nowhere/x", (), [1], np.ones((2, 3)), np.ones(4, "f"), self)
        size = value.size if isinstance(value, np.ndarray) else 2
        return {
            "__array__": value, "__float__": 0.5, "__len__": size, "__iter__": iter([value] * 2), "__repr__": "hostile",
            "__buffer__": memoryview(np.ones(3, "f") if not isinstance(value, np.ndarray) else value),
            "__int__": int(self.rng.integers(-3, 9)), "__index__": int(self.rng.integers(-3, 9)), "__hash__": 1,
            "__fspath__": "/nowhere/at/all", "write": int(self.rng.integers(-1, 999)), "read": b"", "keys": ["bias_ih"],
            "items": [("weight_ih", value), ("weight_hh", value)], "dtype": np.dtype("f"), "shape": (size,),
            "mask": False, "detach": value, "ndim": 1, "__array_interface__": getattr(value, "__array_interface__", {}),
            "__class__": self.one(np.ndarray, dict, str, float, tuple, np.ma.MaskedArray, slice, fastgate.Gate),
        }.get(name, self.chance(0.5))  # fmt: skip

    def make_hostile(self, value):
        """An object that has some of METHODS, and of a class that says what it is."""
        self.hostile = True
        names = {self.one(*METHODS) for _ in range(self.rng.integers(1, 5))} | {self.one("__array__", "__buffer__")}
        methods = {}
        for name in names:
            def method(_, *args, name=name, **options):
                return self.answer(name, value)
            methods[name] = property(method) if name in PROPERTIES else method
        base = self.one(object, object, object, float, int, str, dict, list)
        kind = type("Hostile", (base,), methods)
        if self.chance(0.3):
            numbers.Real.register(kind)
        return kind()

    def finalizer(self):
        """Garbage in a cycle, whose finalizer acts whenever the collector runs."""
        others = self.others

        class Cycle:
            def __del__(cycle):
                for a in others:
                    self.change(a)

        cycle = Cycle()
        cycle.own = cycle
        self.hostile = True

    # ---- arguments ----------------------------------------------------------------------------

    def right(self, shape, dtype=np.float32):
        value = np.asarray(self.rng.standard_normal(shape))
        return np.asarray(value / max(1, *value.shape[-1:], 1) ** 0.5, dtype)

    def argument(self, shape, dtype=np.float32, layouts=True):
        """An array that is right, mostly; else one that is not, or hostile."""
        value = self.right(shape, dtype)
        if self.chance(0.08):
            value = self.right(self.one((), (0,), (1,), (2, 3), (*shape, 1), shape[1:], shape[::-1]), dtype)
        if self.chance(0.04):
            with np.errstate(all="ignore"):
                value = value.astype(self.one(">f4", "O", "f2", "f4", "f8", "i8", "c8", "?", "U5", "M8[s]"))
        if layouts and self.chance(0.4):
            value = self.layout(np.asarray(value))
        if self.chance(0.25):
            value = self.make_hostile(value)
        elif type(value) is np.ndarray:
            self.others.append(value)
        return value

    def layout(self, a):
        kind = self.rng.integers(10)
        if kind == 0:
            return np.asfortranarray(a)
        if kind == 1 and a.ndim:
            return np.repeat(a, 2, axis=-1)[..., ::2]
        if kind == 2 and a.ndim:
            return a[::-1]
        if kind == 3 and a.dtype.kind == "f":
            return np.frombuffer(b"x" + a.tobytes(), a.dtype, offset=1).reshape(a.shape)
        if kind == 4:
            return a.tolist()
        if kind == 5 and a.ndim and a.dtype.kind == "f" and a.dtype.isnative:
            return memoryview(a)
        if kind == 6:
            return a.view(type("Subclass", (np.ndarray,), {}))
        if kind == 7 and a.ndim:
            return np.ma.masked_array(a, self.one(False, a > 1) if a.dtype.kind == "f" else False)
        if kind == 8 and a.ndim == 1 and a.dtype == np.float32:
            return array.array("f", a.tolist())
        return np.broadcast_to(a[:1], a.shape) if kind == 9 and a.size and a.ndim else a

    def scalar(self, *choices):
        value = self.one(*choices)
        return self.make_hostile(value) if self.chance(0.1) else value

    def lead(self):
        return self.one((), (), (1,), (3,), (2, 2), (0,), (50,))

    def options(self, **choices):
        """Some of the options, each one of its choices."""
        given = {name: self.scalar(*values) for name, values in choices.items() if self.chance(0.3)}
        return {"storage": self.storage, "threads": self.scalar(1, 2), **given}

    def parameters(self, inputs, hidden, outputs, dtype):
        layer = {"weight_ih": self.argument((4 * hidden, inputs), dtype),
                 "weight_hh": self.argument((4 * hidden, outputs), dtype)}  # fmt: skip
        for name, shape in {"bias_ih": (4 * hidden,), "bias_hh": (4 * hidden,), "peephole": (3, hidden)}.items():
            if self.chance(0.3):
                layer[name] = self.argument(shape, dtype)
        if outputs != hidden:
            layer["projection"] = self.argument((outputs, hidden), dtype)
        self.others.append(layer)
        return layer

    def pair(self, *values):
        value = self.one(tuple, tuple, list)(values)
        if type(value) is list:
            self.others.append(value)
        return value

    # ---- calls --------------------------------------------------------------------------------

    def draw(self):
        """What to call, of the core and of the reference or None; its arguments; where a result is kept."""
        self.storage = self.one(*STORAGES)
        dtype = np.float64 if self.storage == "float64" else np.float32
        m, n, hidden = self.one(*SIZES), self.one(*SIZES), self.one(*SIZES[:-1])
        outputs = hidden if self.chance(0.7) else self.one(1, 3, 8)
        kind = self.one("Gate", "augmented", "gate", "LSTMCell", "LSTM", "gates",
                        *["Gate()", "bind", "LSTMCell()", "LSTM()"] * 2,
                        "stream", "step", "step", "state", "reset", "copy", "save", "load",
                        "set_threads")  # fmt: skip
        if kind in ("Gate", "augmented", "gate"):
            arguments = [self.argument((m, n), dtype), self.argument((m,), dtype)][: self.one(1, 2)]
            if kind == "augmented":
                make, twin = fastgate.Gate.from_augmented, reference.Gate.from_augmented
                return make, twin, arguments[:1], self.options(), "Gate"
            if kind == "Gate":
                return fastgate.Gate, reference.Gate, arguments, self.options(), "Gate"
            x, lead = self.lead_argument(n, dtype)
            return fastgate.gate, reference.gate, [x, *arguments], self.out((*lead, m), dtype), ""
        clips = {"clip": (None, 1.0, 0, -1, "x"), "gate_clip": (None, 2, np.inf), "input_forget": (False, True)}
        if kind == "LSTMCell":
            layer = self.parameters(n, hidden, outputs, dtype)
            positional = [layer.pop("weight_ih"), layer.pop("weight_hh")]
            return fastgate.LSTMCell, reference.LSTMCell, positional, {**layer, **self.options(**clips)}, "LSTMCell"
        if kind == "LSTM":
            directions, layers = self.one(1, 1, 2), []
            for k in range(self.one(1, 1, 2, 3)):
                sides = [self.parameters(directions * outputs if k else n, hidden, outputs, dtype)
                         for _ in range(directions)]  # fmt: skip
                layers.append(self.pair(*sides) if directions == 2 else sides[0])
            self.others.append(layers)
            more = {"reverse": (directions == 1, False), "batch_first": (False, True)}
            return fastgate.LSTM, reference.LSTM, [layers], self.options(**clips, **more), "LSTM"
        if kind == "set_threads":
            return fastgate.set_threads, None, [self.scalar(None, 1, 2, "auto", -1, 1.5, "x")], {}, ""
        if kind == "load":
            data = bytearray(self.saved) if self.made["LSTM"] else bytearray(100)
            data[self.rng.integers(len(data))] ^= int(self.rng.integers(2))
            value = self.make_hostile(np.frombuffer(data, np.uint8)) if self.chance(0.5) else bytes(data)
            return self.one(fastgate.LSTM, fastgate.LSTMCell, fastgate.Gate).load, None, [value], {}, ""
        return self.draw_use(kind)

    def lead_argument(self, n, dtype):
        lead = self.lead()
        return self.argument((*lead, n), dtype), lead

    def out(self, shape, dtype):
        return {"out": self.argument(shape, dtype, layouts=self.chance(0.1))} if self.chance(0.4) else {}

    def draw_use(self, kind):
        """The same, of something that was made before."""
        name = {
            "Gate()": "Gate", "bind": "Gate", "LSTMCell()": "LSTMCell", "LSTM()": "LSTM", "gates": "LSTM",
            "step": "Stream", "state": "Stream", "reset": "Stream", "stream": self.one("LSTM", "LSTMCell"),
        }.get(kind) or self.one(*self.made)  # fmt: skip
        if not self.made[name]:
            return None
        core, twin = self.one(*self.made[name])
        if kind == "copy":
            def whole(o, how=self.one(copy.copy, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o)), repr)):
                return how(o)
            return whole, None, [core], {}, ""
        if kind == "save":
            if name == "Stream":
                return None
            file = self.scalar(io.BytesIO(), io.StringIO(), None, "/nowhere/at/all", 3.5)
            return core.save, None, [file], {}, ""
        if kind == "stream":
            return core.stream, twin.stream, [self.scalar(None, None, 0, 1, 3, 50, -1, 2**80)], {}, "Stream"
        source = core.source if name == "Stream" else core
        dtype, self.storage = (np.float64 if source.storage == "float64" else np.float32), source.storage
        if name == "Stream":
            twin.state = core.state  # after hostile calls it may be another
            lead = () if core.batch is None else (core.batch,)
            if kind == "step":
                x = self.argument((*lead, source.input_size), dtype)
                return core.step, twin.step, [x], self.out((*lead, source.output_size), dtype), ""
            if kind == "reset":
                rows = self.scalar(None, 0, -1, 99, slice(None), [0], [True], np.ones(core.batch or 0, bool), 1.5)
                return core.reset, twin.reset, [rows], {}, ""
            states = self.pair(*(self.argument(a.shape, dtype) for a in core.state))
            return (lambda s: setattr(core, "state", s)), (lambda s: setattr(twin, "state", s)), [states], {}, ""
        if name == "Gate":
            lead, n = self.lead(), core.input_size
            cuts = np.sort(self.rng.integers(0, n + 1, self.one(0, 0, 1, 2, 9)))
            arguments = [self.argument((*lead, size), dtype) for size in np.diff([0, *cuts, n]).tolist()]
            options = self.out((*lead, core.output_size), dtype)
            if kind == "bind":
                options.setdefault("out", np.empty((*lead, core.output_size), dtype))
                return core.bind, twin.bind, arguments, options, ""
            return core, twin, arguments, options, ""
        outputs, hidden = core.output_size, core.hidden_size
        if name == "LSTMCell":
            x, lead = self.lead_argument(core.input_size, dtype)
            shapes = ((*lead, outputs), (*lead, hidden))
            states = [self.argument(s, dtype) for s in shapes] if self.chance(0.8) else []
            out = {"out": self.pair(*(self.argument(s, dtype, layouts=False) for s in shapes))}
            return core, twin, [x, *states], out if self.chance(0.4) else {}, ""
        lead = self.one((5,), (1,), (0,), (5, 3), (3, 1), (30, 4), (2, 0))
        x = self.argument((*lead, core.input_size), dtype)
        batch = lead[:1] if core.batch_first and len(lead) == 2 else lead[1:]
        sides = core.num_layers * (2 if core.bidirectional else 1)
        states = self.pair(*(self.argument((sides, *batch, size), dtype)
                             for size in (outputs * core.num_layers // sides, hidden)))  # fmt: skip
        options = {}
        if batch and self.chance(0.3):
            lengths = self.rng.integers(0, 4, batch).astype(self.one(np.int64, np.uint8, np.float32))
            options["lengths"] = self.scalar(lengths, lengths.tolist())
        if kind == "gates":
            options.update(layer=self.scalar(0, -1, 5), direction=self.scalar(0, 1))
            return core.gates, twin.gates, [x, states], options, ""
        return core, twin, [x, states][: self.one(1, 2)], {**options, **self.out((*lead, outputs), dtype)}, ""

    def call(self):
        """One call, checked."""
        before = self.others, self.hostile
        self.others, self.hostile, self.depth = [], self.depth > 0, self.depth + 1
        try:
            drawn = self.draw()
            if drawn:
                self.perform(*drawn)
        finally:
            (self.others, self.hostile), self.depth = before, self.depth - 1

    def perform(self, core, twin, arguments, options, kept):
        if self.chance(0.2):
            self.finalizer()
            gc.set_threshold(int(self.rng.integers(1, 40)))
        threaded = self.depth == 1 and self.chance(0.2)
        self.hostile = self.hostile or threaded
        given = None if self.hostile else (list(arguments), dict(options))
        positional = tuple(arguments)
        arguments.clear()  # nothing else holds them, so that NumPy resizes
        if threaded:
            reshaping.extend(a for a in self.others if type(a) is np.ndarray)
        try:
            result = outcome(core, positional, options)
            while self.depth == 1 and reshaping:
                reshaping.pop()
            if type(result).__name__ == "BoundGate":
                if self.hostile:
                    outcome(self.act, (), {})
                result = outcome(result, (), {})
        finally:
            gc.set_threshold(700, 10, 10)
        if "out" not in options:
            sound(result)
        expected = None
        if twin and given:
            got, expected = snapshot(result), outcome(twin, *given)
            if type(expected).__name__ == "BoundGate":
                expected = outcome(expected, (), {})
            same(got, expected, 5e-3 if self.storage == "int8" else 2e-6)
        if kept and type(result).__name__ == kept:
            if expected is None:
                _, (name, *made) = result.__reduce__() if kept != "Stream" else (None, (None,))
                expected = getattr(reference, name)(*made[0], **made[1]) if name else twin(result.batch)
            self.made[kept] = [*self.made[kept][-5:], (result, expected)]
            if kept == "LSTM":
                file = io.BytesIO()
                result.save(file)
                self.saved = file.getvalue()


reshaping = []  # arrays of the call that runs, which another thread reshapes


def reshape_forever():
    for k in itertools.count():
        try:
            a = reshaping[k % len(reshaping)]
            a.shape = ((a.size, 1), (1, a.size), (a.size,), (2, -1), (-1, 2))[k % 5]
        except (ValueError, AttributeError, IndexError, ZeroDivisionError):
            time.sleep(1e-5)


def outcome(function, arguments, options):
    """What a call returns, or the exception that it raises, if it may."""
    global calls
    calls += 1
    faulthandler.dump_traceback_later(20, exit=True)
    try:
        return function(*arguments, **options)
    except ALLOWED as error:
        return error.with_traceback(None)
    finally:
        faulthandler.cancel_dump_traceback_later()


def snapshot(result):
    """A copy of the arrays of a result, which the reference may write to next."""
    if isinstance(result, (tuple, list)):
        return [snapshot(part) for part in result]
    return np.array(result) if isinstance(result, (np.ndarray, memoryview, array.array)) else result


def sound(result):
    """Assert that arrays are of a dtype of results."""
    if isinstance(result, (tuple, list)):
        for part in result:
            sound(part)
    if isinstance(result, np.ndarray) and result.dtype not in (np.float32, np.float64):
        raise AssertionError(f"a result of {result.dtype}")


def same(got, expected, tolerance):
    """Assert that results are the same, within the tolerance, or that both are exceptions."""
    if isinstance(expected, (tuple, list)) and len(got) == len(expected):
        for a, b in zip(got, expected):
            same(a, b, tolerance)
    elif isinstance(expected, dict):
        same([*got.values()], [*expected.values()], tolerance)
    elif isinstance(expected, (np.ndarray, memoryview, array.array)):
        got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
        assert got.shape == expected.shape, f"{got.shape}, but of the reference {expected.shape}"
        sane = ~(np.abs(expected) > 1e3)  # weights that hostile code retyped may be huge, so that sums overflow
        right = np.isclose(got, expected, tolerance, tolerance, equal_nan=True)
        assert (right | ~sane).all(), f"{got}, but of the reference {expected}"
    elif isinstance(expected, Exception):
        assert isinstance(got, Exception), f"{got!r}, but of the reference {expected!r}"
    else:
        assert type(got).__name__ == type(expected).__name__, f"{got!r}, but of the reference {expected!r}"


def main(seconds, seed=None):
    global calls
    calls, findings, end = 0, 0, time.monotonic() + float(seconds)
    warnings.simplefilter("ignore")
    sys.setswitchinterval(1e-5)
    threading.Thread(target=reshape_forever, daemon=True).start()
    for seed in [int(seed)] if seed else itertools.count(time.time_ns() % 10**9):
        print(f"\r{calls} calls, seed {seed}", end=" ", flush=True)
        fuzzer = Fuzzer(seed)
        try:
            for _ in range(CALLS_OF_A_SEED):
                fuzzer.call()
        except Exception:
            findings += 1
            traceback.print_exc()
        finally:
            fastgate.set_threads(None)
        if time.monotonic() > end or findings == 10:
            break
    print(f"\r{calls} calls, {findings} findings")
    return findings


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
