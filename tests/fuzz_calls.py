"""A fuzzer of the entry points of Python, with arguments of all kinds, hostile objects, finalizers and other threads.

    python tests/fuzz_calls.py SECONDS [SEED]     run it on a build with FASTGATE_SANITIZE=address, as .ci/full does

A call without hostile arguments must give what fastgate.reference gives.  Then some arguments become hostile: while
they are converted they reshape, resize, retype or replace the others, raise, call fastgate, use objects that are not
made yet, or answer wrongly.  Such a call must return a result or raise an exception that calls may raise, and it must
do no harm.  With a SEED it prints each call before it runs, because AddressSanitizer's report does not show it.
"""

import array
import copy
import faulthandler
import functools
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
import hypothesis
import numpy as np
from hypothesis import strategies as st
from helpers.saved_form import sealed

REFUSALS = (TypeError, ValueError, MemoryError, IndexError, OSError, NotImplementedError)
OTHERS = (RuntimeError, AttributeError, OverflowError, BufferError)  # these come from hostile code
MADE = ("Gate", "LSTMCell", "LSTM", "Stream", "BoundGate")
SIZES = [0, 1, 2, 3, 5, 8, 16, 17, 33, 64, 200]
STORAGES = ["float32", "float32", "float64", "float16", "bfloat16", "int8"]
CHANGES = ["reshape"] * 6 + ["retype", "restride", "resize", "replace", "write"]
PROPERTIES = ["dtype", "shape", "mask", "ndim", "__class__", "__array_interface__"]
METHODS = """__array__ __buffer__ __len__ __iter__ __getitem__ __fspath__ write keys items detach __float__ __bool__
    __index__ __int__ __gt__ __lt__ __eq__ __repr__""".split() + PROPERTIES  # fmt: skip
WRONG = [None, 0, -1, 2**70, 1.5, "/nowhere", (), [1], np.ones((2, 3)), np.ones(4, "f"), np.ndarray, fastgate.Gate]
EDITS = {  # they change a right array; all but the last three keep its values
    "fortran": np.asfortranarray,
    "spread": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "backwards": lambda a: a[::-1].copy()[::-1],
    "misaligned": lambda a: np.frombuffer(b"x" + a.tobytes(), a.dtype, offset=1).reshape(a.shape),
    "list": np.ndarray.tolist,
    "buffer": lambda a: array.array("f", a.tolist()) if a.ndim == 1 and a.dtype == "f" else memoryview(a),
    "subclass": lambda a: a.view(np.memmap),
    "masked": np.ma.masked_array,
    "not a number": lambda a: np.where(np.arange(a.shape[-1]) == 1, np.nan, a).astype(a.dtype),
    "shape": lambda a: np.ones([(*a.shape, 1), a.shape[1:], (a.size,), a.shape[::-1]][a.size % 4], a.dtype),
    "dtype": lambda a: np.zeros(a.shape, ["f4", "f8", "f2", "i8", "O", ">f4", "c8", "M8[s]", "?"][a.size % 9]),
}
SCRIPTS = st.lists(  # what hostile code does each time that it runs, to which argument, and how
    st.tuples(st.sampled_from(["nothing", "raise", "collect", "again", "half-made", *CHANGES]),
              st.integers(0, 9), st.integers(0, 99)), min_size=1, max_size=3)  # fmt: skip
HOSTILE = st.tuples(  # a hostile object's methods, its base class, and its answers: for None a right one
    st.one_of(st.just({"__array__"}), st.sets(st.sampled_from(METHODS), min_size=1)),
    st.sampled_from([object] * 6 + [float, int, str, dict, list]),
    st.one_of(st.just([None]), st.lists(st.sampled_from([None, *range(len(WRONG))]), min_size=1, max_size=3)),
)


# ---- hostile code -----------------------------------------------------------------------------


class Script:
    def __init__(self, acts, again):
        self.acts, self.again, self.arguments = itertools.cycle(acts), again, []

    def act(self):
        what, which, how = next(self.acts)
        if what == "raise":
            raise (RuntimeError, ValueError, MemoryError)[how % 3]("hostile")
        if what == "collect":
            gc.collect(0)
        if what == "again" and self.again:
            again, self.again = self.again, None
            again()
        for o in gc.get_objects(0) if what == "half-made" else ():
            for use in (repr, plain, fastgate.Stream, lambda o: o.threads, lambda o: o.save(io.BytesIO())):
                if type(o).__name__ in MADE:
                    outcome(use, (o,), {}, OTHERS)
        if what in CHANGES and self.arguments:
            self.change(what, which % len(self.arguments), how)

    def change(self, what, which, how):
        a = self.arguments[which]
        try:
            if isinstance(a, (list, dict)):
                a[[*a][how % len(a)] if isinstance(a, dict) else how % len(a)] = WRONG[how % len(WRONG)]
            elif what == "resize":
                del a  # NumPy resizes an array only if nobody else seems to hold it
                self.arguments.pop(which).resize((0, 1, 7, 5000)[how % 4])
            elif what == "write":
                a[...] = (np.nan, 0, 1e30)[how % 3]
            elif what == "retype":
                a.dtype = ("f2", "f4", "f8", "i1", "i4", "c8")[how % 6]
            elif what == "restride" and a.dtype != object:  # NumPy frees objects along the strides
                a.strides = [stride // (1 + how % 3) for stride in a.strides]
            else:
                a.shape = [(-1,), (-1, 1), (1, -1), (4, -1), (-1, 4), (1, 1, -1), (2, -1), a.shape[::-1]][how % 8]
        except (ValueError, TypeError, AttributeError, ZeroDivisionError):
            return  # NumPy refused, or there is nothing to replace

    def __del__(self):
        """Acts when the script is collected as garbage: before Python 3.12 this happens in the middle of calls."""
        for _ in range(3):
            outcome(self.act, (), {}, OTHERS)


def hostile(value, script, names, base, answers):
    """An object whose methods run the script, and then answer as `value` would, or wrongly."""
    answers, items = itertools.cycle(answers), itertools.count()
    right = {"__array__": lambda: value, "__buffer__": lambda: memoryview(value), "__float__": lambda: float(value),
             "__bool__": lambda: bool(value), "__index__": lambda: int(value), "__int__": lambda: int(value),
             "__len__": lambda: len(value), "__iter__": lambda: iter(value), "__fspath__": lambda: "/nowhere/at/all",
             "items": lambda: [("weight_ih", value)], "keys": lambda: ["bias_ih"], "detach": lambda: value,
             "dtype": lambda: np.dtype("f"), "shape": lambda: np.shape(value), "__repr__": str}  # fmt: skip

    def method(name):
        def run(*_, **options):
            script.act()
            if name == "__getitem__" and next(items) % 5 == 4:
                raise IndexError  # otherwise NumPy would ask for items without end
            wrong = next(answers)
            return right.get(name, lambda: 7)() if wrong is None else WRONG[wrong]
        return property(run) if name in PROPERTIES else run

    kind = type("Hostile", (base,), {name: method(name) for name in names})
    if "__float__" in names:
        numbers.Real.register(kind)
    return kind()


reshaping = []  # the script of the call that runs: another thread reshapes its arguments


def reshape_forever():
    for k in itertools.count():
        try:
            reshaping[0].change("reshape", k % len(reshaping[0].arguments), k // 3)
        except (IndexError, ZeroDivisionError):
            time.sleep(1e-5)


# ---- calls ------------------------------------------------------------------------------------


class Case:
    """A call that hypothesis draws: right arguments, and a function that takes fastgate or the reference to call."""

    def __init__(self, data):
        self.draw, self.rng = data.draw, np.random.default_rng(data.draw(st.integers(0, 99)))
        self.storage, self.options, self.has_twin = self.one(*STORAGES), {}, True
        self.name = self.one(*(name for name in vars(Case) if name.startswith("call_")))
        self.function, *self.arguments = getattr(self, self.name)()

    def one(self, *choices):
        return self.draw(st.sampled_from(choices))

    def some(self, **options):
        return {name: value for name, value in options.items() if self.one(False, True)}

    def array(self, *shape):
        values = self.rng.standard_normal(shape) / max(1, *shape[-1:]) ** 0.5
        return np.asarray(values, "f8" if self.storage == "float64" else "f4")

    def out(self, *shape):
        self.options |= self.some(out=self.array(*shape))

    def lead(self):
        return self.one((), (1,), (3,), (2, 2), (0,), (50,))

    def made(self, kind):
        """The name of a class, and arguments and options that make a gate, cell or LSTM."""
        options = {"storage": self.storage, **self.some(threads=self.one(1, 2, "auto"))}
        m, n, hidden = (self.one(*SIZES) for _ in range(3))
        if kind == "Gate":
            return kind, [self.array(m, n), *self.one([], [self.array(m)])], options
        options |= self.some(clip=1.0, gate_clip=2.0, input_forget=True)
        hidden, directions, layers = hidden % 65, 2 if kind == "Bidirectional" else 1, []
        outputs, peephole = self.one(hidden, hidden, 3), self.some(peephole=self.array(3, hidden)) if hidden else {}
        for k in range(self.one(1, 2, 3) if kind != "LSTMCell" else 1):
            cells = [{
                "weight_ih": self.array(4 * hidden, directions * outputs if k else n),
                "weight_hh": self.array(4 * hidden, outputs), **peephole, **self.some(bias_ih=self.array(4 * hidden)),
                **({"projection": self.array(outputs, hidden)} if outputs != hidden else {}),
            } for _ in range(directions)]  # fmt: skip
            layers.append(cells if directions == 2 else cells[0])
        if kind == "LSTMCell":
            return kind, [cells[0].pop("weight_ih"), cells[0].pop("weight_hh")], {**cells[0], **options}
        return "LSTM", [layers], {**options, **self.some(batch_first=True)}

    def object(self, *kinds):
        """A function that makes one of these kinds, with fastgate or the reference, and one that fastgate made."""
        name, arguments, options = self.made(self.one(*kinds))
        make = functools.partial(lambda api: getattr(api, name)(*arguments, **options))
        return make, make(fastgate)

    def call_gate(self):
        self.storage, lead = self.one("float32", "float64"), self.lead()
        _, weights, _ = self.made("Gate")
        self.out(*lead, len(weights[0]))
        return lambda api: api.gate, self.array(*lead, weights[0].shape[1]), *weights

    def call_make(self):
        name, arguments, self.options = self.made(self.one("Gate", "LSTMCell", "LSTM", "Bidirectional"))
        self.options |= self.some(threads=0) if self.one(0, 0, 1) else {}
        if name == "Gate" and len(arguments) == 1:
            return lambda api: api.Gate.from_augmented, *arguments
        return lambda api: getattr(api, name), *arguments

    def call_Gate(self):
        make, gate = self.object("Gate")
        lead, n, bound = self.lead(), gate.input_size, self.one(False, True)
        cuts = sorted(self.draw(st.lists(st.integers(0, n), max_size=9)))
        self.out(*lead, gate.output_size)
        if bound:
            self.options = {"out": self.array(*lead, gate.output_size)}
        parts = [self.array(*lead, size) for size in np.diff([0, *cuts, n])]
        return lambda api: make(api).bind if bound else make(api), *parts

    def call_LSTMCell(self):
        make, cell = self.object("LSTMCell")
        lead, sizes = self.lead(), [cell.input_size, cell.output_size, cell.hidden_size]
        self.options = self.some(out=self.one(tuple, list)(self.array(*lead, size) for size in sizes[1:]))
        return make, *[self.array(*lead, size) for size in sizes][: self.one(1, 3)]

    def call_LSTM(self):
        make, lstm = self.object("LSTM", "Bidirectional")
        lead, directions = self.one((5,), (1,), (0,), (5, 3), (3, 1), (30, 4), (2, 0)), 1 + lstm.bidirectional
        batch = lead[:1] if lstm.batch_first and len(lead) == 2 else lead[1:]
        sizes = lstm.output_size // directions, lstm.hidden_size
        state = self.one(tuple, list)(self.array(lstm.num_layers * directions, *batch, size) for size in sizes)
        self.options = self.some(state=state, **({"lengths": self.rng.integers(0, 4, batch)} if batch else {}))
        if self.one(False, False, True):
            self.options |= self.some(layer=self.one(0, 5), direction=0)
            return lambda api: make(api).gates, self.array(*lead, lstm.input_size)
        self.out(*lead, lstm.output_size)
        return make, self.array(*lead, lstm.input_size)

    def call_stream(self):
        make, source = self.object("LSTM", "LSTMCell")
        batch, use = self.one(None, 0, 1, 3, 50), self.one("step", "step", "state", "reset", "stream")
        if use == "stream":
            return lambda api: make(api).stream, batch and batch - 1
        lead = () if batch is None else (batch,)
        state = [self.array(*a.shape) for a in source.stream(batch).state]

        def on(api):
            def used(*arguments, **options):
                stream = make(api).stream(batch)
                stream.state = state
                try:
                    if use == "state":
                        stream.state = arguments[0]
                    return use == "state" or getattr(stream, use)(*arguments, **options), stream.state
                except Exception:
                    same(plain(stream.state), plain(state), 0)
                    raise
            return used
        if use == "step":
            self.out(*lead, source.output_size)
        rows = self.one(None, 0, -1, 99, slice(1), [0], [True], 1.5)
        return on, {"step": self.array(*lead, source.input_size), "state": copied(state), "reset": rows}[use]

    def call_saved(self):
        make, made = self.object("Gate", "LSTMCell", "LSTM", "Bidirectional")
        self.has_twin, file, way = False, io.BytesIO(), self.one("save", "pickle", "load", "load")
        if way == "save":
            return lambda api: made.save, self.one(file, io.StringIO(), None, "/nowhere/at/all", 3.5)
        if way == "pickle":
            return lambda api: lambda: same(plain(pickle.loads(pickle.dumps(copy.copy(made)))), plain(made), 0),
        made.save(file)
        data = bytearray(file.getvalue())
        for place, value in self.draw(st.lists(st.tuples(st.integers(0, 127), st.integers(0, 255)), max_size=3)):
            data[place if value % 2 else place * 7919 % len(data)] = value
        data = bytes(data) if self.one(False, True, True) else sealed(bytes(data))

        def load(source):
            loaded, file = type(made).load(source), io.BytesIO()
            loaded.save(file)
            assert file.getvalue() == data or type(source) is not np.ndarray, "what was loaded is saved as other bytes"
            return loaded
        return lambda api: load, np.frombuffer(data, np.uint8)

    def call_weights(self):
        _, weights, more = self.made("LSTMCell")
        weights += [more["bias_ih"]] if "bias_ih" in more else []
        self.options = {"storage": self.storage}
        if self.one(False, True):
            names = "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"
            return lambda api: api.LSTM.from_torch, dict(zip(names, [*weights, weights[-1].copy()]))
        return lambda api: api.LSTM.from_keras, [a.T for a in weights]

    def call_set_threads(self):
        self.has_twin = False
        return lambda api: fastgate.set_threads, self.one(1, None, 2, "auto", -1, 1.5, "x")


# ---- checks -----------------------------------------------------------------------------------

calls, verbose = 0, False


def mapped(tree, function, number=None):
    """A copy of a tree of lists, tuples and dicts, with function(leaf, number of the leaf) for each leaf."""
    number = number or itertools.count()
    if type(tree) is dict:
        return {key: mapped(part, function, number) for key, part in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)([mapped(part, function, number) for part in tree])
    return function(tree, next(number))


def nodes(tree, *kinds):
    """All nodes of a tree that are of these types."""
    inner = tree.values() if type(tree) is dict else tree if type(tree) in (list, tuple) else ()
    return [tree] * (type(tree) in kinds) + [node for part in inner for node in nodes(part, *kinds)]


def copied(tree):
    return mapped(tree, lambda leaf, _: np.array(leaf) if type(leaf) is np.ndarray else leaf)


def outcome(function, arguments, options, others=()):
    """The result of a call, made `plain`, or the name of its exception, if it is one that calls may raise."""
    global calls
    calls += 1
    try:
        return plain(function(*arguments, **options))
    except (*REFUSALS, *others) as error:
        return type(error).__name__ + ("" if others else f": {error}")  # to make a message may run hostile code


def plain(result):
    """Copies of the arrays of a result; for an object of fastgate, of those that would make it again."""
    name = type(result).__name__
    if name == "BoundGate":
        return plain(result())
    if name in MADE:
        return plain(result.__reduce__()[1][-3 if name == "Stream" else 1 :])
    if isinstance(result, (tuple, list, dict)):
        return [plain(part) for part in (result.values() if isinstance(result, dict) else result)]
    return np.array(result) if isinstance(result, (np.ndarray, memoryview, array.array)) else type(result)


def same(got, expected, tolerance):
    """Assert that two outcomes are equal within a tolerance, or that both are refusals."""
    if isinstance(expected, list):
        assert isinstance(got, list) and len(got) == len(expected), f"{got} instead of {expected}"
        for a, b in zip(got, expected):
            same(a, b, tolerance)
    elif not isinstance(expected, np.ndarray):
        assert type(got) is type(expected), f"{got} instead of {expected}"
    else:
        assert isinstance(got, np.ndarray) and got.dtype == expected.dtype, f"{got} instead of {expected}"
        check = np.testing.assert_allclose if tolerance else np.testing.assert_array_equal
        check(got, expected, *[tolerance] * 2 if tolerance else ())  # NaN equals NaN


def example(data):
    """Makes a call with arguments that are right or nearly so, and then with hostile ones."""
    faulthandler.dump_traceback_later(300, exit=True)  # if a call does not end
    case = Case(data)
    function, right = case.function(fastgate), [case.arguments, case.options]
    index = st.integers(0, max(len(nodes(mapped(right, lambda _, k: k), int)) - 1, 0))
    edits = data.draw(st.dictionaries(index, st.sampled_from([*EDITS]), max_size=2))

    def edit(leaf, k):
        return EDITS[edits[k]](leaf) if k in edits and type(leaf) is np.ndarray and leaf.ndim else leaf

    given, others = mapped(right, edit), mapped(copied(right), edit)
    if verbose:
        print(calls, case.name, edits, flush=True)
    arrays = nodes(given, np.ndarray)
    counts, before = [sys.getrefcount(a) for a in arrays], copied(arrays)
    got = outcome(function, *given)
    assert counts == [sys.getrefcount(a) for a in arrays], "the call left references to arguments behind"
    if isinstance(got, str) or not nodes(case.options.get("out"), np.ndarray):
        same(arrays, before, 0)
    if case.has_twin:
        same(got, outcome(case.function(fastgate.reference), *others), 5e-3 if case.storage == "int8" else 2e-6)

    for _ in range(5):
        attack(data, function, copied(given), index, got)


def attack(data, function, clean, index, got):
    """Makes the call with hostile arguments; with the arguments `clean` it gave `got`."""
    acts, chosen = data.draw(SCRIPTS), data.draw(st.dictionaries(index, HOSTILE, min_size=1, max_size=2))
    threaded, collects = data.draw(st.sampled_from([False] * 4 + [True])), data.draw(st.integers(0, 100))
    if verbose:
        print(calls, acts, chosen, threaded, collects, flush=True)
    again = functools.partial(outcome, function, *clean, OTHERS)
    script = Script(acts, again)
    given = mapped(clean, lambda leaf, k: hostile(copied(leaf), script, *chosen[k]) if k in chosen else copied(leaf))
    given[0] = tuple(given[0])
    script.arguments = nodes(given, np.ndarray, list, dict)
    acts = {what for what, *_ in acts}
    arrays = [] if "resize" in acts else nodes(given, np.ndarray)
    before = [a.tobytes() for a in arrays]
    if threaded:
        reshaping.append(script)
    if collects < 20:
        script.own = script
        gc.set_threshold(1 + collects)
    del script
    try:
        result = outcome(function, *given, OTHERS)
    finally:
        reshaping.clear()
        gc.set_threshold(700)
    if isinstance(result, str) and not {"write", "restride"} & acts:
        assert before == [a.tobytes() for a in arrays], "a refused call wrote"
    if not isinstance(got, str):  # else the call may accept the copies, which are contiguous
        same(again(), got, 0)
        honest = all(kind[0] == {"__array__"} and kind[2] == [None] for kind in chosen.values())
        if honest and not (threaded or isinstance(result, str) or {*CHANGES, "raise"} & acts):
            same(result, got, 0)


def main(seconds, number=None):
    global verbose
    verbose, findings, end = number is not None, 0, time.monotonic() + float(seconds)
    warnings.simplefilter("ignore")
    sys.setswitchinterval(1e-5)
    threading.Thread(target=reshape_forever, daemon=True).start()
    options = {"deadline": None, "database": None, "suppress_health_check": list(hypothesis.HealthCheck),
               "phases": [hypothesis.Phase.generate, hypothesis.Phase.shrink]}  # fmt: skip
    run = hypothesis.settings(max_examples=300, **options)(hypothesis.given(st.data())(example))
    for seed in [int(number)] if verbose else itertools.count(time.time_ns() % 10**9):
        print(f"{calls} calls, {findings} findings; seed {seed}", flush=True)
        try:
            hypothesis.seed(seed)(run)()
        except Exception:
            findings += 1
            traceback.print_exc()
        finally:
            fastgate.set_threads(None)
        if time.monotonic() > end or findings == 10:
            break
    print(f"{calls} calls, {findings} findings")
    return findings


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
