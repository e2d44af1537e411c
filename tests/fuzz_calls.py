"""A fuzzer of the entry points of Python: arguments of all kinds, hostile objects, finalizers and other threads.

    python tests/fuzz_calls.py SECONDS [SEED]     run it on a build with FASTGATE_SANITIZE=address, as .ci/full does

A call without hostile arguments must do as fastgate.reference does.  Then some arguments become hostile: while they
are converted they reshape, resize, retype or replace the others, raise, call fastgate, use objects that are not made
yet, or answer wrongly.  Such a call must give a sound result, or an exception that calls have, and do no harm.  With
a SEED it prints each call before it runs, because AddressSanitizer's report does not tell what Python did.
"""

import array
import copy
import ctypes
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
from fastgate import reference
from hypothesis import strategies as st
from saved_form import sealed


class Own(Exception):
    """What hostile objects raise."""


REFUSALS = (TypeError, ValueError, MemoryError, IndexError, OSError, NotImplementedError)
OTHERS = (RuntimeError, AttributeError, OverflowError, BufferError, Own)  # of code of the user
SIZES = [0, 1, 2, 3, 5, 8, 16, 17, 33, 64, 200]
STORAGES = ["float32", "float32", "float64", "float16", "bfloat16", "int8"]
MADE = ("Gate", "LSTMCell", "LSTM", "Stream", "BoundGate")
CHANGES = ["reshape", "reshape", "reshape", "retype", "restride", "resize", "replace", "write"]
ACTS = ["nothing", "raise", "collect", "again", "half-made", *CHANGES]
NUMBERS = ["__float__", "__bool__", "__index__", "__int__", "__gt__", "__lt__", "__eq__", "__repr__"]
PROPERTIES = ["dtype", "shape", "mask", "ndim", "__class__", "__array_interface__"]
METHODS = ["__array__", "__buffer__", "__len__", "__iter__", "__getitem__", "__fspath__", "write", "keys", "items",
           "detach", *NUMBERS, *PROPERTIES]  # fmt: skip
WRONG = [None, 0, -1, 2**70, 1.5, "/nowhere", (), [1], np.ones((2, 3)), np.ones(4, "f"), np.ndarray, fastgate.Gate]
EDITS = {  # of an array that is right, all but the last two to another of the same values
    "fortran": np.asfortranarray,
    "spread": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "backwards": lambda a: a[::-1].copy()[::-1],
    "misaligned": lambda a: np.frombuffer(b"x" + a.tobytes(), a.dtype, offset=1).reshape(a.shape),
    "constant": lambda a: np.broadcast_to(a[:1], a.shape) if a.size else a,
    "list": np.ndarray.tolist,
    "buffer": lambda a: array.array("f", a.tolist()) if a.ndim == 1 and a.dtype == "f" else memoryview(a),
    "subclass": lambda a: a.view(np.memmap),
    "masked": np.ma.masked_array,
    "not a number": lambda a: np.where(np.arange(a.shape[-1]) == 1, np.nan, a).astype(a.dtype),
    "shape": lambda a: np.ones([(*a.shape, 1), a.shape[1:], (a.size,), a.shape[::-1]][a.size % 4], a.dtype),
    "dtype": lambda a: np.zeros(a.shape, ["f4", "f8", "f2", "i8", "O", ">f4", "c8", "M8[s]", "?"][a.size % 9]),
}


# ---- hostile code -----------------------------------------------------------------------------


class Script:
    """What code of the user does: an act of (what, to which argument, how) each time that it runs."""

    def __init__(self, acts, arguments, again):
        self.acts, self.arguments, self.again = acts, arguments, again
        self.turn = itertools.cycle(acts)

    def act(self):
        what, which, how = next(self.turn)
        if what == "raise":
            raise (Own, ValueError, MemoryError)[how % 3]("hostile")
        if what == "collect":
            gc.collect(0)
        if what == "again" and self.again:
            again, self.again = self.again, None
            again()
        for o in gc.get_objects(0) if what == "half-made" else ():
            if type(o).__name__ in MADE:
                for use in (repr, plain, fastgate.Stream, lambda o: o.threads, lambda o: o.save(io.BytesIO())):
                    outcome(use, (o,), {}, OTHERS)
        if what in CHANGES and self.arguments:
            self.change(what, which % len(self.arguments), how)

    def change(self, what, which, how):
        a = self.arguments[which]
        try:
            if isinstance(a, (list, dict)):
                a[[*a][how % len(a)] if isinstance(a, dict) else how % len(a)] = WRONG[how % len(WRONG)]
            elif what == "resize":
                del a  # NumPy resizes what nobody else seems to hold
                self.arguments.pop(which).resize((0, 1, 7, 5000)[how % 4])
            elif what == "write":
                a[...] = (np.nan, 0, 1e30)[how % 3]
            elif what == "retype":
                a.dtype = ("f2", "f4", "f8", "i1", "i4", "c8")[how % 6]
            elif what == "restride":
                a.strides = [stride // (1 + how % 3) for stride in a.strides]
            else:
                n, *shape = a.size, *a.shape
                a.shape = [(n,), (n, 1), (1, n), (4, -1), (-1, 4), (1, 1, n), shape[::-1], (2, -1), (-1, 2)][how % 9]
        except (ValueError, TypeError, AttributeError, ZeroDivisionError):
            return  # NumPy refused, or there is nothing to replace

    def __del__(self):
        """Of garbage: whenever the collector runs, which before Python 3.12 is in the middle of a call."""
        for _ in range(3):
            outcome(self.act, (), {}, OTHERS)


def hostile(value, script, names, base, answers):
    """An object with methods of these names, which act, and answer as `value` or wrongly, with one of WRONG."""
    answers = itertools.cycle(answers)
    right = {"__array__": lambda: value, "__buffer__": lambda: memoryview(value), "__float__": lambda: float(value),
             "__bool__": lambda: bool(value), "__index__": lambda: int(value), "__int__": lambda: int(value),
             "__len__": lambda: len(value), "__iter__": lambda: iter(value), "__fspath__": lambda: "/nowhere/at/all",
             "items": lambda: [("weight_ih", value)], "keys": lambda: ["bias_ih"], "detach": lambda: value,
             "dtype": lambda: np.dtype("f"), "shape": lambda: np.shape(value), "__repr__": lambda: "hostile"}  # fmt: skip

    def method(name):
        def run(*_, **options):
            script.act()
            wrong = next(answers)
            return right.get(name, lambda: 7)() if wrong is None else WRONG[wrong]
        return property(run) if name in PROPERTIES else run

    kind = type("Hostile", (base,), {name: method(name) for name in names})
    if "__float__" in names:
        numbers.Real.register(kind)
    return kind()


reshaping = []  # the script of a call that runs, which another thread performs


def reshape_forever():
    for k in itertools.count():
        try:
            reshaping[0].change("reshape", k % len(reshaping[0].arguments), k // 3)
        except (IndexError, ZeroDivisionError):
            time.sleep(1e-5)


# ---- calls ------------------------------------------------------------------------------------


class Case:
    """A call of the core, the same of the reference or None, and right arguments, as hypothesis draws them."""

    def __init__(self, data):
        self.draw, self.rng = data.draw, np.random.default_rng(data.draw(st.integers(0, 99)))
        self.storage = self.one(*STORAGES)
        self.name = self.one(*(name for name in vars(Case) if name.startswith("call_")))
        self.core, self.twin, self.arguments, self.options = getattr(self, self.name)()

    def one(self, *choices):
        return self.draw(st.sampled_from(choices))

    def some(self, **options):
        return {name: choice() for name, choice in options.items() if self.one(False, True)}

    def size(self):
        return self.one(*SIZES)

    def array(self, *shape):
        values = self.rng.standard_normal(shape) / max(1, *shape[-1:]) ** 0.5
        return np.asarray(values, "f8" if self.storage == "float64" else "f4")

    def out(self, *shape):
        return self.some(out=lambda: self.array(*shape))

    def lead(self):
        return self.one((), (1,), (3,), (2, 2), (0,), (50,))

    def how(self):
        return {"storage": self.storage, **self.some(threads=lambda: self.one(1, 2, "auto"))}

    def limits(self):
        return {**self.how(), **self.some(clip=lambda: 1.0, gate_clip=lambda: 2.0, input_forget=lambda: True)}

    def layer(self, inputs, hidden, outputs):
        layer = {"weight_ih": self.array(4 * hidden, inputs), "weight_hh": self.array(4 * hidden, outputs)}
        layer |= self.some(bias_ih=lambda: self.array(4 * hidden), peephole=lambda: self.array(3, hidden) if hidden else None)
        return layer if outputs == hidden else {**layer, "projection": self.array(outputs, hidden)}

    def layers(self, directions=1, most=3):
        n, hidden = self.size(), self.size() % 65
        outputs, layers = self.one(hidden, hidden, 3), []
        for k in range(self.one(*range(1, most + 1))):
            sides = [self.layer(directions * outputs if k else n, hidden, outputs) for _ in range(directions)]
            layers.append(sides if directions == 2 else sides[0])
        return layers

    def any(self, *kinds):
        """A gate, cell or LSTM, of the core and of the reference."""
        kind, options = self.one(*kinds), self.how() if kinds == ("Gate",) else self.limits()
        if kind == "Gate":
            given = [self.array(self.size(), self.size())], self.how()
        elif kind == "LSTMCell":
            given = [], {**self.layers()[0], **options}
        else:
            given = [self.layers(2 if kind == "Bidirectional" else 1)], {**options, **self.some(batch_first=bool)}
            kind = "LSTM"
        return getattr(fastgate, kind)(*given[0], **given[1]), getattr(reference, kind)(*given[0], **given[1])

    def call_gate(self):
        m, n, lead, self.storage = self.size(), self.size(), self.lead(), self.one("float32", "float64")
        return fastgate.gate, reference.gate, [self.array(*lead, n), self.array(m, n), self.array(m)], self.out(*lead, m)

    def call_Gate(self):
        weight, options = self.array(self.size(), self.size()), self.how() | self.some(threads=lambda: 0)
        if self.one(False, True):
            return fastgate.Gate.from_augmented, reference.Gate.from_augmented, [weight], options
        return fastgate.Gate, reference.Gate, [weight, self.array(len(weight))], options

    def call_Gate_call(self):
        core, twin = self.any("Gate")
        lead, n = self.lead(), core.input_size
        cuts = sorted(self.draw(st.lists(st.integers(0, n), max_size=9)))
        out = {"out": self.array(*lead, core.output_size)}
        if self.one(True, False):
            core, twin = core.bind, twin.bind
        elif self.one(True, False):
            out = {}
        return core, twin, [self.array(*lead, size) for size in np.diff([0, *cuts, n])], out

    def call_LSTMCell(self):
        layer = {"weight_ih": None, "weight_hh": None, **self.layers()[0]}
        return fastgate.LSTMCell, reference.LSTMCell, [layer.pop("weight_ih"), layer.pop("weight_hh")], {
            **layer, **self.limits(), **self.some(clip=lambda: -1)}  # fmt: skip

    def call_LSTMCell_call(self):
        core, twin = self.any("LSTMCell")
        lead = self.lead()
        sizes = core.input_size, core.output_size, core.hidden_size
        arrays = [self.array(*lead, size) for size in sizes + sizes[1:]]
        return core, twin, arrays[: self.one(1, 3)], self.some(out=lambda: self.one(tuple, list)(arrays[3:]))

    def call_LSTM(self):
        directions = self.one(1, 2)
        options = self.some(reverse=lambda: directions == 1, batch_first=lambda: True)
        return fastgate.LSTM, reference.LSTM, [self.layers(directions)], {**self.limits(), **options}

    def call_LSTM_call(self):
        core, twin = self.any("LSTM", "Bidirectional")
        lead = self.one((5,), (1,), (0,), (5, 3), (3, 1), (30, 4), (2, 0))
        batch = lead[:1] if core.batch_first and len(lead) == 2 else lead[1:]
        sides = core.num_layers * (1 + core.bidirectional)
        sizes = core.output_size // (1 + core.bidirectional), core.hidden_size
        options = self.some(state=lambda: self.one(tuple, list)([self.array(sides, *batch, size) for size in sizes]))
        if batch:
            options |= self.some(lengths=lambda: self.rng.integers(0, 4, batch).astype(self.one("i8", "u1", "f4")))
        x = self.array(*lead, core.input_size)
        if self.one(False, False, True):
            return core.gates, twin.gates, [x], options | self.some(layer=lambda: self.one(0, 5), direction=lambda: 0)
        return core, twin, [x], options | self.out(*lead, core.output_size)

    def call_Stream(self):
        source, twin = self.any("LSTM", "LSTMCell")
        batch = self.one(None, 0, 1, 3, 50)
        if self.one(False, False, True):
            return source.stream, twin.stream, [batch if batch is None else batch - 1], {}
        streams, lead = [source.stream(batch), twin.stream(batch)], () if batch is None else (batch,)
        state = [self.array(*a.shape) for a in streams[0].state]
        for stream in streams:
            stream.state = state
        use, arguments, options = self.one(
            (lambda stream, *a, **o: stream.step(*a, **o), [self.array(*lead, source.input_size)], self.out(*lead, source.output_size)),
            (lambda stream, state: setattr(stream, "state", state), [self.one(tuple, list)(state)], {}),
            (lambda stream, rows: stream.reset(rows), [self.one(None, 0, -1, 99, slice(1), [0], [True], 1.5)], {}),
        )  # fmt: skip

        def on(stream):
            def used(*arguments, **options):
                own = copy.copy(stream)
                try:
                    return use(own, *arguments, **options), own.state
                except Exception:
                    same(plain(own.state), plain(stream.state), 0)
                    raise
            return used
        return on(streams[0]), on(streams[1]), arguments, options

    def call_save(self):
        core, _ = self.any("Gate", "LSTMCell", "LSTM", "Bidirectional")
        file = io.BytesIO()
        if self.one(False, True):
            return core.save, None, [self.one(file, io.StringIO(), None, "/nowhere/at/all", 3.5)], {}
        if self.one(False, True):
            return lambda: pickle.loads(pickle.dumps(core)), lambda: core, [], {}
        core.save(file)
        data = bytearray(file.getvalue())
        for place, value in self.draw(st.lists(st.tuples(st.integers(0, 127), st.integers(0, 255)), max_size=3)):
            data[place if value % 2 else place * 7919 % len(data)] = value
        data = bytes(data) if self.one(False, True, True) else sealed(bytes(data))

        def load(source):
            loaded, file = type(core).load(source), io.BytesIO()
            loaded.save(file)
            assert file.getvalue() == data or type(source) is not np.ndarray, "it is saved again otherwise"
            return loaded
        return load, None, [np.frombuffer(data, np.uint8)], {}

    def call_weights(self):
        (layer, *_), options = self.layers(), self.how()
        layer = [layer["weight_ih"], layer["weight_hh"], layer.get("bias_ih")]
        if self.one(False, True):
            names = "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"
            return fastgate.LSTM.from_torch, reference.LSTM.from_torch, [dict(zip(names, [*layer, layer[2]]))], options
        layer = [a if a is None else a.T for a in layer]
        return fastgate.LSTM.from_keras, reference.LSTM.from_keras, [layer[: self.one(2, 3)]], options

    def call_set_threads(self):
        return fastgate.set_threads, None, [self.one(1, None, 2, "auto", -1, 1.5, "x")], {}


WRONGS = st.sampled_from([None, None, None, *range(len(WRONG))])
SCRIPTS = st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 9), st.integers(0, 99)), min_size=1, max_size=3)
KINDS = st.tuples(  # of hostile objects
    st.one_of(st.just({"__array__"}), st.sets(st.sampled_from(METHODS), min_size=1)),
    st.sampled_from([object, object, float, int, str, dict, list]),
    st.one_of(st.just([None]), st.lists(WRONGS, min_size=1, max_size=3)),
)


# ---- arguments as trees -----------------------------------------------------------------------


def mapped(tree, function, number=None):
    """The same tree of lists, tuples and dicts, of what `function` makes of each leaf and its number."""
    number = number or itertools.count()
    if type(tree) is dict:
        return {key: mapped(part, function, number) for key, part in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)([mapped(part, function, number) for part in tree])
    return function(tree, next(number))


def nodes(tree, kinds):
    """All that are of these types in it."""
    inner = tree.values() if type(tree) is dict else tree if type(tree) in (list, tuple) else ()
    return [tree] * (type(tree) in kinds) + [node for part in inner for node in nodes(part, kinds)]


def leaves(tree):
    found = []
    mapped(tree, lambda leaf, _: found.append(leaf))
    return found


def copied(tree):
    return mapped(tree, lambda leaf, _: np.array(leaf) if type(leaf) is np.ndarray else leaf)


# ---- checks -----------------------------------------------------------------------------------

calls = 0


def outcome(function, arguments, options, others=()):
    """What a call gives, by `plain`, or the exception that it raises, if it may."""
    global calls
    calls += 1
    try:
        return plain(function(*arguments, **options))
    except (*REFUSALS, *others) as error:
        return f"{type(error).__name__}: {error}"


def plain(result):
    """Copies of the arrays of a result; of an object those that make it again."""
    name = type(result).__name__
    if isinstance(result, dict):
        return plain([*result.values()])
    if isinstance(result, (tuple, list)):
        return [plain(part) for part in result]
    if name == "BoundGate":
        return plain(result())
    if name in MADE:
        return plain(result.__reduce__()[1][-3 if name == "Stream" else 1 :])
    return np.array(result) if isinstance(result, (np.ndarray, memoryview, array.array)) else type(result)


def same(got, expected, tolerance):
    """Assert that outcomes are the same within a tolerance, or both refusals."""
    if isinstance(expected, list):
        assert isinstance(got, list) and len(got) == len(expected), f"{got} instead of {expected}"
        for a, b in zip(got, expected):
            same(a, b, tolerance)
    elif isinstance(expected, np.ndarray):
        assert isinstance(got, np.ndarray) and got.dtype == expected.dtype, f"{got} instead of {expected}"
        if tolerance:
            np.testing.assert_allclose(got, expected, tolerance, tolerance)
        else:
            np.testing.assert_array_equal(got, expected)  # NaN equals NaN
    else:
        assert type(got) is type(expected), f"{got} instead of {expected}"


def example(data):
    """A call that is right or nearly so, and the same with hostile arguments."""
    case = Case(data)
    tree = [case.arguments, case.options]
    index = st.integers(0, max(len(leaves(tree)) - 1, 0))
    edits = data.draw(st.dictionaries(index, st.sampled_from([*EDITS]), max_size=2))

    def edit(leaf, number):
        return EDITS[edits[number]](leaf) if number in edits and type(leaf) is np.ndarray and leaf.ndim else leaf

    tree, twin_tree = mapped(tree, edit), mapped(copied(tree), edit)
    show(case.name, edits)
    arrays = nodes(tree, [np.ndarray])
    counts, before = [sys.getrefcount(a) for a in arrays], copied(arrays)
    got = outcome(case.core, *tree)
    assert counts == [sys.getrefcount(a) for a in arrays], f"references {case.name} {edits} {got}"
    if isinstance(got, str) or not nodes(case.options.get("out"), [np.ndarray]):
        same(plain(arrays), plain(before), 0)
    if case.twin:
        same(got, outcome(case.twin, *twin_tree), 5e-3 if case.storage == "int8" else 2e-6)

    clean = copied(tree)
    again = functools.partial(outcome, case.core, *clean, OTHERS)
    script = Script(data.draw(SCRIPTS), [], again)
    acts, chosen = {what for what, *_ in script.acts}, data.draw(st.dictionaries(index, KINDS, max_size=2))
    honest = all(kind[0] == {"__array__"} and kind[2] == [None] for kind in chosen.values())
    honest = honest and all(type(leaf) is np.ndarray for leaf in [leaf for k, leaf in enumerate(leaves(clean)) if k in chosen])
    given = mapped(clean, lambda leaf, k: hostile(copied(leaf), script, *chosen[k]) if k in chosen else copied(leaf))
    given[0] = tuple(given[0])
    script.arguments = nodes(given, [np.ndarray, list, dict])
    threaded, finalized = data.draw(st.integers(0, 4)) == 4, data.draw(st.integers(0, 4)) == 4
    show(" hostile", chosen, acts, threaded, finalized)
    changed = threaded or {*CHANGES, "raise"} & acts
    arrays = [] if "resize" in acts else nodes(given, [np.ndarray])
    before = [a.tobytes() for a in arrays]
    if threaded:
        reshaping.append(script)
    if finalized:
        script.own = script
    del script
    gc.set_threshold(data.draw(st.integers(1, 40)) if finalized else 700, 10)
    try:
        result = outcome(case.core, *given, OTHERS)
    finally:
        reshaping.clear()
        gc.set_threshold(700, 10)
    if isinstance(result, str) and not {"write", "restride"} & acts:
        assert before == [a.tobytes() for a in arrays], "arrays of a call that was refused"
    for a in nodes(result, [np.ndarray]):
        assert a.dtype in ("f4", "f8") or case.options, f"a result of {a.dtype}"
    if not isinstance(got, str):  # copies may lie as the call takes them
        same(again(), got, 0)
        if honest and not changed and not isinstance(result, str):
            same(result, got, 0)


def show(*what):
    if verbose:
        print(*what, flush=True)


verbose = False


def main(seconds, number=None):
    global verbose
    verbose, findings, end = number is not None, 0, time.monotonic() + float(seconds)
    warnings.simplefilter("ignore")
    sys.setswitchinterval(1e-5)
    threading.Thread(target=reshape_forever, daemon=True).start()
    run = hypothesis.given(st.data())(example)
    run = hypothesis.settings(max_examples=300, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck), phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink])(run)
    start = None
    for seed in [int(number)] if number else itertools.count(time.time_ns() % 10**9):
        print(f"{calls} calls, {findings} findings; seed {seed}", flush=True)
        faulthandler.dump_traceback_later(300, exit=True)
        try:
            hypothesis.seed(seed)(run)()
        except Exception:
            findings += 1
            traceback.print_exc()
        finally:
            fastgate.set_threads(None)
        gc.collect()
        if hasattr(ctypes.CDLL(None), "__sanitizer_get_current_allocated_bytes"):
            print(ctypes.CDLL(None).__sanitizer_get_current_allocated_bytes())
        if time.monotonic() > end or findings == 10:
            break
    print(f"{calls} calls, {findings} findings")
    return findings


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
