#!/usr/bin/env python3
"""Time y = sigmoid(W x + b) against the libraries used for it today: one vector, one core.

    pip install '.[bench]'                    # torch is optional; a missing peer is reported
    python bench/compare.py --json compare.json --plot compare.png
    python bench/compare.py --batch           # B vectors in one call
    python bench/compare.py --threads 2       # every side on two threads, not pinned
    python bench/compare.py --storage         # fastgate's storages: time and error

What is timed: the whole Python call in float32, output preallocated where the library can,
the same gate over and over, so weights are as warm as they fit in the caches. Each side runs
in a process of its own, on one thread, pinned to one core shared by all; the sides take turns
of some 20 ms in a new random order each round, the others asleep meanwhile. A side may
list several configurations: at each size the fastest runs, and only if its result agrees with
float64. Cells are medians over the rounds, with half the interquartile range; a ratio is the
median, with its quartiles, of the per-round ratios best peer / g(x, out=y).

--storage compares fastgate's own: microseconds a call, the same over float32's in the same round,
and the largest and root mean square error of y against float64, from weights not rounded.
With --threads, the sides rest between turns until the threads of the last one sleep.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import importlib.metadata
import json
import multiprocessing
import os
import platform
import random
import re
import sys
import time
import timeit
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

SIZES = "32 64 128 256 512 1024 2048 4096 512x128 128x512 1000x300 48x40"
THREADS = ("OMP", "OPENBLAS", "MKL", "NUMBA", "NUMEXPR", "VECLIB_MAXIMUM")
BATCHES = "2 3 4 7 8 16 64 256"
TOLERANCE = 2e-6  # of y, against float64: float32 passes at every size, bfloat16 and float16 do not
TOLERANCES = {"float16": 1e-3, "bfloat16": 1e-2, "int8": 2e-2}  # where they are asked for
REST = 0.01  # seconds until another side's threads sleep
OURS = "g(x, out=y)"
UNDISTURBED = 0.97  # of the core during a turn
Array = np.ndarray[Any, np.dtype[np.float32]]


@dataclass
class Call:
    """One configuration of a side: a statement that leaves its result in names["y"]."""

    name: str
    code: str
    names: dict[str, Any]


Side = Callable[[Array, Array, Array], Iterator[Call]]

# ---- the sides: (W, b, x) -> configurations; x is (n,), or (B, n) for a batch ------------------
# What lost, in the comments, was measured on a Xeon with AVX-512 (Emerald Rapids), one core.


def fastgate_(code: str, W: Array, b: Array, x: Array, storage: str = "float32") -> Iterator[Call]:
    import fastgate

    if storage == "float64":
        W, b, x = (a.astype(np.float64) for a in (W, b, x))
    g, y = fastgate.Gate(W, b, storage=storage, threads=threads()), output(b, x)
    names = {"g": g, "call": g.bind(x, out=y), "gate": fastgate.gate, "b": b, "x": x, "y": y}
    unpacked = "W" in code
    yield Call("rows" if unpacked else "packed", code, {**names, "W": W})
    if unpacked:  # the peers choose their order too
        yield Call("columns", code, {**names, "W": np.asfortranarray(W)})


def numpy_(W: Array, b: Array, x: Array) -> Iterator[Call]:
    # Column order wins from 128 to 512 (14 µs against 19 at 512x512): OpenBLAS then adds columns.
    # expit is one slow pass; exp and its helpers are vectorised, and win with many rows. The sign
    # goes into the weights. np.matmul, np.matvec and SciPy's sgemv cost 0.2 to 0.9 µs more.
    from scipy.special import expit

    by_expit = "dot(x, y); add(y, b, y); expit(y, y)"
    by_exp = "dot(x, y); subtract(y, b, y); exp(y, y); add(y, one, y); reciprocal(y, y)"
    ufuncs = (np.add, np.subtract, np.exp, np.reciprocal, expit)
    shared = {f.__name__: f for f in ufuncs} | {"one": np.float32(1), "b": b, "x": x}
    for order, V in (("rows", W), ("columns", np.asfortranarray(W))):
        for name, code, U in (("expit", by_expit, V), ("exp", by_exp, -V)):
            if x.ndim == 1:
                names = {**shared, "dot": U.dot}
            else:
                code = code.replace("dot(x", "dot(U")
                names = {**shared, "dot": x.dot, "U": U.T}
            yield Call(f"{order}, {name}", code, {**names, "y": output(b, x)})
            if x.ndim > 1 and hasattr(np, "matvec"):  # sgemm is slow on few rows
                code = code.replace("dot(U, y)", "matvec(V, x, y)")
                names |= {"matvec": np.matvec, "V": U}
                yield Call(f"{order}, {name}, matvec", code, {**names, "y": output(b, x)})


def numba_(W: Array, b: Array, x: Array) -> Iterator[Call]:
    # A row at a time wins beyond the L2 cache, four rows or eight columns below. Most of a small
    # call is unpacking four array arguments (0.45 µs): weights captured as constants save 0.1 µs.
    # cfunc through ctypes, 512-bit vectors and np.dot inside were no faster.
    if x.ndim > 1:
        raise NotImplementedError("one vector a call")
    rows, rows4, columns8, freeze, parallel = numba_kernels()
    names = {"W": W, "b": b, "x": x, "y": output(b, x)}
    if threads() > 1:
        yield Call("a row, parallel", "f(W, b, x, y)", {**names, "f": parallel})
    yield Call("a row", "f(W, b, x, y)", {**names, "f": rows})
    yield Call("4 rows", "f(W, b, x, y)", {**names, "f": rows4})
    names["W"] = np.ascontiguousarray(W.T)
    yield Call("8 columns", "f(W, b, x, y)", {**names, "f": columns8})
    if W.size <= 2**14:  # constants are compiled in
        yield Call("4 rows, constant", "f(x, y)", {**names, "f": freeze(W, b)})


@functools.cache
def numba_kernels() -> tuple[Callable[..., Any], ...]:
    import numba

    jit = numba.njit(fastmath=True, boundscheck=False, error_model="numpy")
    one = np.float32(1)

    @jit
    def rows(W, b, x, y):  # type: ignore[no-untyped-def]
        for i in range(W.shape[0]):
            s = b[i]
            for k in range(W.shape[1]):
                s += W[i, k] * x[k]
            y[i] = one / (one + np.exp(-s))

    @jit
    def rows4(W, b, x, y):  # type: ignore[no-untyped-def]
        m, n = W.shape
        for i in range(0, m - 3, 4):
            s0 = s1 = s2 = s3 = np.float32(0)
            for k in range(n):
                s0 += W[i, k] * x[k]
                s1 += W[i + 1, k] * x[k]
                s2 += W[i + 2, k] * x[k]
                s3 += W[i + 3, k] * x[k]
            y[i], y[i + 1], y[i + 2], y[i + 3] = s0, s1, s2, s3
        for i in range(m - m % 4, m):
            y[i] = 0
            for k in range(n):
                y[i] += W[i, k] * x[k]
        for i in range(m):
            y[i] = one / (one + np.exp(-y[i] - b[i]))

    @jit
    def columns8(Wt, b, x, y):  # type: ignore[no-untyped-def]
        n, m = Wt.shape
        y[:] = b
        for k in range(0, n - 7, 8):
            for i in range(m):
                s = y[i]
                for j in range(8):
                    s += Wt[k + j, i] * x[k + j]
                y[i] = s
        for k in range(n - n % 8, n):
            for i in range(m):
                y[i] += Wt[k, i] * x[k]
        for i in range(m):
            y[i] = one / (one + np.exp(-y[i]))

    def freeze(W, b):  # type: ignore[no-untyped-def]
        return jit(lambda x, y: rows4(W, b, x, y))

    def parallel(W, b, x, y):  # type: ignore[no-untyped-def]
        for i in numba.prange(W.shape[0]):
            s = b[i]
            for k in range(W.shape[1]):
                s += W[i, k] * x[k]
            y[i] = one / (one + np.exp(-s))

    options = {"fastmath": True, "boundscheck": False, "error_model": "numpy"}
    return rows, rows4, columns8, freeze, numba.njit(parallel, parallel=True, **options)


@functools.cache
def torch_mode() -> Any:
    import torch

    torch.set_num_threads(threads())
    mode = torch.inference_mode()  # 0.2 to 0.4 µs a call below no_grad
    mode.__enter__()  # for as long as this process
    return mode


def torch_(W: Array, b: Array, x: Array) -> Iterator[Call]:
    # MKL's gemv over columns: 12 µs at 512x512 against 22 over rows. linear costs 2 to 3 µs more
    # than addmv, a frozen TorchScript 6 to 9, AOTInductor 25, torch.compile 35 to 60 or worse.
    import torch

    torch_mode()
    rows = torch.from_numpy(W)
    names = {"addmv": torch.addmv, "b": torch.from_numpy(b), "x": torch.from_numpy(x)}
    names |= {"addmm": torch.addmm, "linear": torch.nn.functional.linear}
    for order, V in (("rows", rows), ("columns", rows.T.contiguous().T)):
        names |= {"W": V, "V": V.T, "y": torch.from_numpy(output(b, x))}
        if x.ndim == 1:
            yield Call(f"addmv, {order}", "addmv(b, W, x, out=y).sigmoid_()", dict(names))
        else:
            yield Call(f"addmm, {order}", "addmm(b, x, V, out=y).sigmoid_()", dict(names))
            yield Call(f"linear, {order}", "y = linear(x, W, b).sigmoid_()", dict(names))


def onnxruntime_(W: Array, b: Array, x: Array) -> Iterator[Call]:
    # Bound input and output save 4 µs a call. MatMul and Add is as fast as Gemm; x as a vector is
    # slower, W on the left much so (700 µs at 512x512); arena and memory plan: no difference.
    import onnxruntime as ort
    from onnx import helper, numpy_helper, parser

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads(), 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    spinning = "1" if threads() > 1 else "0"  # without, the second thread costs more than it gives
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    x = np.atleast_2d(x)
    (m, n), B, y = W.shape, len(x), output(b, x)
    text = "z = Gemm <transB = 1> (x, W, b) y = Sigmoid(z)"
    graph = parser.parse_graph(f"gate (float[{B},{n}] x) => (float[{B},{m}] y) {{{text}}}")
    graph.initializer.extend([numpy_helper.from_array(W, "W"), numpy_helper.from_array(b, "b")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    cpu = ["CPUExecutionProvider"]
    session = ort.InferenceSession(model.SerializeToString(), options, providers=cpu)
    bound = [ort.OrtValue.ortvalue_from_numpy(a) for a in (x, y)]  # these share memory
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", bound[0])
    binding.bind_ortvalue_output("y", bound[1])
    names = {"run": session.run_with_iobinding, "binding": binding, "keep": bound, "y": y}
    yield Call("Gemm, io-binding", "run(binding)", names)


def openvino_(W: Array, b: Array, x: Array) -> Iterator[Call]:
    # Tensors set once, infer() without arguments: half the time of calling the compiled model,
    # start_async() and wait() cost 8 µs more. W on the left is slower below 1024, faster above.
    # The f32 hint keeps it from computing in bfloat16 where the CPU can.
    import openvino as ov
    import openvino.properties as props
    from openvino import opset8 as op
    from openvino.properties import hint

    options = {
        hint.performance_mode(): hint.PerformanceMode.LATENCY,
        hint.inference_precision(): ov.Type.f32,
        hint.execution_mode(): hint.ExecutionMode.ACCURACY,
        hint.enable_cpu_pinning(): False,
        props.inference_num_threads(): threads(),
    }
    weights, bias = op.constant(W), op.constant(b)
    X = np.atleast_2d(x)
    row = op.parameter(X.shape, ov.Type.f32)
    forms = {"x Wᵀ": (row, op.matmul(row, weights, False, True), X, output(b, X))}
    if x.ndim == 1:
        column = op.parameter(x.shape, ov.Type.f32)
        forms["W x"] = column, op.matmul(weights, column, False, False), x, output(b)
    for name, (at, product, x_, y) in forms.items():
        model = ov.Model([op.sigmoid(op.add(product, bias))], [at])
        request = ov.Core().compile_model(model, "CPU", options).create_infer_request()
        request.set_input_tensor(ov.Tensor(x_, shared_memory=True))
        request.set_output_tensor(ov.Tensor(y, shared_memory=True))
        yield Call(name, "infer()", {"infer": request.infer, "x": x_, "y": y})


def numkong_(W: Array, b: Array, x: Array) -> Iterator[Call]:
    # The float32 product is accumulated and returned in float64: out is a float64 Tensor, so a
    # cast is due. Casting first beats adding or expit in float64 (or casting inside a ufunc);
    # packing x instead of W takes twice as long.
    if x.ndim > 1:
        raise NotImplementedError("one vector a call")
    import numkong as nk
    from scipy.special import expit

    product = nk.empty((1, len(b)), dtype="float64")
    names = {"dots": nk.dots_packed, "x": nk.Tensor(x[None]), "W": nk.dots_pack(W, dtype="f32")}
    names |= {"out": product, "product": np.asarray(product)[0]}  # shares memory
    names |= {"add": np.add, "expit": expit, "b": b, "y": output(b)}
    code = "dots(x, W, out=out); y[:] = product; add(y, b, y); expit(y, y)"
    yield Call("dots_packed, expit", code, names)


FASTGATE: dict[str, Side] = {
    "g.bind": functools.partial(fastgate_, "call()"),
    OURS: functools.partial(fastgate_, "g(x, out=y)"),
    "gate(x, W, b)": functools.partial(fastgate_, "gate(x, W, b, out=y)"),
}
STORAGES: dict[str, Side] = {
    storage: functools.partial(fastgate_, OURS, storage=storage)
    for storage in ("float32", "float16", "bfloat16", "int8", "float64")
}
PEERS: dict[str, Side] = {
    "numpy": numpy_,
    "numba": numba_,
    "torch": torch_,
    "onnxruntime": onnxruntime_,
    "openvino": openvino_,
    "numkong": numkong_,
}
BATCHED = ("numpy", "torch", "onnxruntime", "openvino")  # peers that take a batch in one call

# ---- one side, in its own process ------------------------------------------------------------


def problem(m: int, n: int, batch: int = 1) -> tuple[Array, Array, Array]:
    """W, b, x: the same in every process; z = W x + b is of order 1 at every size."""
    rng = np.random.default_rng([m, n])
    W, b = (rng.standard_normal(shape, np.float32) for shape in ((m, n), m))
    x = rng.standard_normal(n if batch == 1 else (batch, n), np.float32)
    return W / np.float32(n**0.5), b / np.float32(2), x


def output(b: Array, x: Array | None = None) -> Array:
    shape = len(b) if x is None else (*x.shape[:-1], len(b))
    return np.full(shape, np.nan, b.dtype)  # a call that writes nothing fails the check


def threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS", "1"))  # set for every side by Sides


@dataclass
class Prepared:
    """What a side runs at one size, or why it does not."""

    configuration: str = ""
    seconds: float = 0.0  # a call, estimated
    error: float = 0.0  # the largest, against float64
    rms: float = 0.0  # the root mean square
    failure: str = ""
    gone: bool = False  # not installed, or crashed: not asked again


class Worker:
    """Inside a side's process: prepares a size, then runs it in turns."""

    def __init__(self, side: Side, tolerance: float) -> None:
        self.side = side
        self.tolerance = tolerance

    def prepare(self, m: int, n: int, batch: int) -> Prepared:
        W, b, x = problem(m, n, batch)
        expected = 1 / (1 + np.exp(-(x @ W.astype(np.float64).T + b))).ravel()
        candidates: list[tuple[timeit.Timer, Prepared]] = []
        failure = ""
        try:
            for call in self.side(W, b, x):
                exec(call.code, call.names)
                errors = np.abs(np.asarray(call.names["y"]).ravel() - expected)
                error, rms = float(errors.max()), float(np.sqrt(np.mean(errors**2)))
                if error <= self.tolerance:
                    timer = timeit.Timer(call.code, globals=call.names)
                    seconds = min(timer.repeat(3, 2)) / 2
                    candidates.append((timer, Prepared(call.name, seconds, error, rms)))
                else:
                    failure = f"{call.name}: wrong by {error:.1e}"
        except ImportError as e:
            return Prepared(failure=f"missing: {e}", gone=True)
        except Exception as e:  # a peer that fails at a size is a result
            failure = f"{type(e).__name__}: {e}"
        for _ in range(7):  # in turn, for the speed of the machine changes
            for timer, found in candidates:
                number = max(1, round(0.004 / found.seconds))
                found.seconds = min(found.seconds, timer.timeit(number) / number)
        if not candidates:
            return Prepared(failure=failure)
        self.timer, best = min(candidates, key=lambda candidate: candidate[1].seconds)
        return best

    def turn(self, number: int) -> tuple[float, float]:
        """Seconds a call, and the share of the core that this process had meanwhile."""
        self.timer.timeit(max(1, number // 10))  # bring the weights back into the caches
        cpu = time.process_time()
        wall = self.timer.timeit(number)
        return wall / number, (time.process_time() - cpu) / wall


def serve(side: Side, tolerance: float, core: int | None, link: Any) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})  # before any library starts a thread
    worker = Worker(side, tolerance)
    with contextlib.suppress(EOFError):  # the parent is gone
        while True:
            method, *args = link.recv()  # asleep until the next turn
            link.send(getattr(worker, method)(*args))


# ---- the parent ------------------------------------------------------------------------------


class Sides:
    """The processes, one a side, asked one at a time."""

    def __init__(self, names: list[str], core: int | None, threads: int) -> None:
        os.environ.update({f"{name}_NUM_THREADS": str(threads) for name in THREADS})  # inherited
        spawn = multiprocessing.get_context("spawn")
        self.links = {}
        for name in names:
            self.links[name], theirs = spawn.Pipe()
            side = {**FASTGATE, **STORAGES, **PEERS}[name]
            args = (side, TOLERANCES.get(name, TOLERANCE), core, theirs)
            spawn.Process(target=serve, args=args, daemon=True).start()
            theirs.close()

    def ask(self, name: str, method: str, *args: float) -> Any:
        self.links[name].send((method, *args))
        return self.links[name].recv()


def compare(
    sides: Sides, m: int, n: int, batch: int, rounds: int, turn: float, rest: float
) -> dict[str, Any]:
    """All sides at one size: {side: its Prepared, and a list of seconds a call, a round each}."""
    ready: dict[str, Any] = {}
    for name in list(sides.links):
        try:
            prepared = sides.ask(name, "prepare", m, n, batch)
        except (EOFError, ConnectionError):
            prepared = Prepared(failure="its process died", gone=True)
        if prepared.gone:
            del sides.links[name]
        ready[name] = {**asdict(prepared), "rounds": [], "shares": []}
    order = [name for name in ready if ready[name]["configuration"]]
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            number = max(1, round(turn / ready[name]["seconds"]))
            time.sleep(rest)
            for _ in range(3):  # a turn that another process cut into is taken again, twice at most
                seconds, share = sides.ask(name, "turn", number)
                if share > UNDISTURBED:
                    break
            ready[name]["rounds"].append(seconds)
            ready[name]["shares"].append(share)
    return ready


def ratio(sides: dict[str, Any]) -> tuple[str, list[float]] | None:
    """The fastest peer, and its time over that of g(x, out=y) in each round."""
    peers = [name for name in sides if name in PEERS and sides[name]["rounds"]]
    if not peers or not sides.get(OURS, {}).get("rounds"):
        return None
    best = min(peers, key=lambda name: float(np.median(sides[name]["rounds"])))
    return best, [p / g for p, g in zip(sides[best]["rounds"], sides[OURS]["rounds"])]


def micro(seconds: float) -> str:
    return f"{seconds * 1e6:.0f}" if seconds >= 1e-4 else f"{seconds * 1e6:#.3g}"


def cell(seconds: list[float]) -> str:
    low, middle, high = np.percentile(seconds, (25, 50, 75))
    return f"{micro(middle)} ±{(high - low) / 2 / middle:.0%}"


def table(report: dict[str, Any]) -> str:
    """Markdown: microseconds a call at each size, then what each peer ran."""
    present = {name for size in report["sizes"] for name in size["sides"]}
    names = [name for name in (*FASTGATE, *PEERS) if name in present]
    limits = any(size["read_limit"] for size in report["sizes"])
    column = "m x n x B" if any(size["batch"] > 1 for size in report["sizes"]) else "m x n"
    head = [column, *names, *["reading W"] * limits, "best peer", f"best peer / {OURS}"]
    lines = [head, ["---"] * len(head)]
    notes: dict[str, dict[str, list[str]]] = {name: {} for name in names}
    for size in report["sizes"]:
        line = [size["size"]]
        for name in names:
            side = size["sides"].get(name)
            line.append(cell(side["rounds"]) if side and side["rounds"] else "-")
            if side:
                note = side["failure"] or side["configuration"]
                notes[name].setdefault(note, []).append(size["size"])
        if limits:
            line.append(micro(size["read_limit"]) if size["read_limit"] else "")
        best = ratio(size["sides"])
        low, middle, high = np.percentile(best[1], (25, 50, 75)) if best else (0, 0, 0)
        line += [best[0], f"{middle:.2f} ({low:.2f} to {high:.2f})"] if best else ["", ""]
        lines.append(line)
    text = ["| " + " | ".join(line) + " |" for line in lines] + [""]
    for name, sizes in notes.items():
        how = [f"{note} ({', '.join(at)})" for note, at in sizes.items()]
        text.append(f"- {name}: {'; '.join(how if len(sizes) > 1 else sizes)}")
    return "\n".join(text)


def storage_table(report: dict[str, Any]) -> str:
    """Markdown: a line a size and storage: microseconds, over float32's, errors."""
    text = ["| m x n | storage | µs | time / float32's | largest error | RMS error |"]
    text.append("|---" * 6 + "|")
    for size in report["sizes"]:
        for name, side in size["sides"].items():
            if not side["rounds"]:
                text.append(f"| {size['size']} | {name} | {side['failure']} | | | |")
                continue
            over = np.divide(side["rounds"], size["sides"]["float32"]["rounds"])
            low, middle, high = np.percentile(over, (25, 50, 75))
            line = f"| {size['size']} | {name} | {cell(side['rounds'])} | "
            line += "1 " if name == "float32" else f"{middle:.2f} ({low:.2f} to {high:.2f}) "
            text.append(line + f"| {side['error']:.1e} | {side['rms']:.1e} |")
    return "\n".join(text)


COLOURS = {  # fastgate in one colour, the peers in quieter ones
    **dict.fromkeys(FASTGATE, "#d1350f"),
    **dict(zip(PEERS, ("#3b6fb6", "#3f8f4f", "#8a5aa8", "#2a9d9d", "#8c6d4f", "#b8860b"))),
}


def draw(report: dict[str, Any], path: str) -> None:
    """Time against n for the square gates, both axes logarithmic, a label at each line's start."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    squares = sorted((s for s in report["sizes"] if s["m"] == s["n"]), key=lambda s: s["n"])
    lines: dict[str, Any] = {}
    for name in (*PEERS, *reversed(FASTGATE)):
        rounds = [(s["n"], s["sides"].get(name, {}).get("rounds")) for s in squares]
        if times := [(n, np.median(r) * 1e6) for n, r in rounds if r]:
            lines[name] = np.array(times).T
    if not lines:
        raise SystemExit("nothing to plot: no square size")
    limit = np.array([(s["n"], s["read_limit"] * 1e6) for s in squares if s["read_limit"]])

    figure, axes = plt.subplots(figsize=(9, 5.6), dpi=100)
    styles = {OURS: "-", "g.bind": "--", "gate(x, W, b)": ":"}
    for name, (n, microseconds) in lines.items():
        ours = name in FASTGATE
        width = 3 if name == OURS else 1.8 if ours else 1.3
        marker = "o" if name == OURS or not ours else ""
        style = styles.get(name, "-")
        axes.plot(n, microseconds, style, c=COLOURS[name], lw=width, marker=marker, ms=2.5 + width)
    if len(limit):
        n, microseconds = limit.T
        axes.fill_between(n, microseconds, 1e-9, color="0.93", lw=0)
        axes.plot(n, microseconds, color="0.45", lw=1)
        axes.text(0.93, 0.1, "faster than W can be read", ha="right", transform=axes.transAxes,
                  color="0.45", fontsize=9.5)  # fmt: skip

    everything = np.concatenate([times for _, times in lines.values()])
    bottom, top = everything.min() / 1.6, everything.max() * 1.6
    axes.set(xscale="log", yscale="log", ylim=(bottom, top))
    names = sorted(lines, key=lambda name: lines[name][1][0])
    at = np.log([lines[name][1][0] for name in names])
    gap = np.log(top / bottom) / 24
    for _ in range(500):  # move labels apart until none overlap
        push = np.maximum(gap - np.diff(at), 0) / 2
        at[:-1] -= push
        at[1:] += push
    at += max(0.0, np.log(bottom) + gap / 2 - at[0])
    for name, log in zip(names, at):
        label = f"fastgate {name}" if name in FASTGATE else name
        weight = "bold" if name == OURS else "normal"
        axes.text(lines[name][0][0] / 1.12, np.exp(log), label, ha="right", va="center",
                  color=COLOURS[name], fontsize=9.5, fontweight=weight)  # fmt: skip
    ticks = [s["n"] for s in squares]
    axes.set_xticks(ticks, [f"{n}²" for n in ticks])
    axes.yaxis.set_major_formatter(lambda t, _: f"{t:g} µs" if t < 1e3 else f"{t / 1e3:g} ms")
    plain(axes)
    axes.yaxis.tick_right()
    axes.set_title("One gate call from Python: σ(W x + b), float32, one core", loc="left")
    about = f"{report['cpu']}, {report['date'][:10]}; lower is better"
    figure.text(0.99, 0.01, about, ha="right", fontsize=8, color="0.45")
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    figure.savefig(path)


def plain(axes: Any) -> None:
    axes.minorticks_off()
    axes.grid(axis="y", color="0.9", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, labelcolor="0.3")


def draw_batch(report: dict[str, Any], path: str) -> None:
    """2 m n B operations a second against B, a panel a size; and the FMA peak, if it was given."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shapes = list(dict.fromkeys((s["m"], s["n"]) for s in report["sizes"]))
    figure, panels = plt.subplots(
        1, len(shapes), figsize=(11, 4.6), dpi=100, sharey=True, squeeze=False
    )
    for axes, (m, n) in zip(panels[0], shapes):
        sizes = [s for s in report["sizes"] if (s["m"], s["n"]) == (m, n)]
        for name in (*PEERS, OURS):
            rounds = [(s["batch"], s["sides"].get(name, {}).get("rounds")) for s in sizes]
            rates = [(B, 2e-9 * m * n * B / np.median(r)) for B, r in rounds if r]
            if rates:
                label = "fastgate" if name == OURS else name
                axes.plot(*np.array(rates).T, c=COLOURS[name], lw=3 if name == OURS else 1.3,
                          marker="o", ms=5.5 if name == OURS else 3.8, label=label)  # fmt: skip
        if report["fma"]:
            axes.axhline(report["fma"] / 1e9, color="0.45", lw=1, ls="--")
            axes.text(2, report["fma"] / 1e9, "FMA peak", color="0.45", fontsize=9, va="bottom")
        axes.set(xscale="log", ylim=(0, None))
        axes.set_title(f"{n}²" if m == n else f"{m}x{n}", loc="left", fontsize=11)
        ticks = [s["batch"] for s in sizes if s["batch"] not in (3, 7)]
        axes.set_xticks(ticks, ticks)
        plain(axes)
    panels[0][0].set_ylabel("GFLOP/s", color="0.3")
    panels[0][0].legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(0, 0.92))
    figure.supxlabel("vectors in a call", fontsize=10, color="0.3")
    figure.suptitle("A batch from Python: σ(X Wᵀ + b), float32, one core", x=0.01, ha="left")
    about = f"{report['cpu']}, {report['date'][:10]}; higher is better"
    figure.text(0.99, 0.01, about, ha="right", fontsize=8, color="0.45")
    figure.tight_layout()
    figure.savefig(path)


def draw_storage(report: dict[str, Any], path: str) -> None:
    """Time over float32's, and the errors, of each storage."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), dpi=100)
    chosen = [s for s in report["sizes"] if s["n"] in (512, 1024, 4096)] or report["sizes"]
    names = [name for name in STORAGES if all(s["sides"][name]["rounds"] for s in chosen)]
    for i, size in enumerate(chosen):
        at = np.arange(len(names)) + (i - (len(chosen) - 1) / 2) * 0.8 / len(chosen)
        sides = [size["sides"][name] for name in names]
        shade = ("#f0a58f", "#d1350f", "#7d1f08")[i % 3]
        float32 = size["sides"]["float32"]["rounds"]
        over = [np.percentile(np.divide(s["rounds"], float32), (25, 50, 75)) for s in sides]
        low, middle, high = np.array(over).T
        label = f"{size['n']}²" if size["m"] == size["n"] else size["size"]
        left.bar(at, middle, 0.7 / len(chosen), color=shade, label=label)
        left.errorbar(at, middle, (middle - low, high - middle), fmt="none", ecolor="0.3", lw=1)
        right.plot(at, [s["error"] for s in sides], "o", c=shade, ms=6)
        right.plot(at, [s["rms"] for s in sides], "_", c=shade, ms=12, mew=2.5)
    left.set_title("Time of a call over float32's, one vector, one core", loc="left", fontsize=11)
    left.legend(frameon=False, fontsize=9, loc="upper left")
    right.set_yscale("log")
    right.set_title("Error of y against float64:  ● largest   ━ RMS", loc="left", fontsize=11)
    for axes in (left, right):
        axes.set_xticks(range(len(names)), names)
        plain(axes)
    about = f"{report['cpu']}, {report['date'][:10]}; random weights; lower is better"
    figure.text(0.99, 0.01, about, ha="right", fontsize=8, color="0.45")
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    figure.savefig(path)


def about() -> dict[str, Any]:
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        cpuinfo = []
    models = [line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")]
    versions = {"python": platform.python_version()}
    for name in ("fastgate", *PEERS, "scipy"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "command": " ".join(sys.argv),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "platform": platform.platform(),
        "versions": versions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", help="n or mxn, comma or space separated")
    parser.add_argument("--batch", nargs="?", const=BATCHES, metavar="B,...", help="vectors a call")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of every side")
    parser.add_argument("--storage", action="store_true", help="fastgate's storages, no peers")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--turn", type=float, default=20, metavar="MS", help="a side in a round")
    parser.add_argument("--peers", help=f"default: those that can, of {','.join(PEERS)}")
    parser.add_argument("--core", type=int, help="default: the last that this process may use")
    parser.add_argument("--read-limit", type=Path, metavar="JSON", help="of kernel.py, to draw")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's time")
    parser.add_argument("--plot", metavar="FILE.png")
    options = parser.parse_args()
    numbers = re.compile(r"[,\s]+")
    single, squares = SIZES, "128 512 1024"
    batches = [1]
    if options.batch:
        single, batches = squares, [int(B) for B in numbers.split(options.batch)]
    elif options.threads > 1:
        single, batches = "256 1024 2048 4096", [1, 64]
    elif options.storage:
        single = "128 256 512 1024 2048 4096"
    able = list(PEERS)
    if options.threads > 1 or batches != [1]:
        able = [*BATCHED, *["numba"] * (1 in batches)]
    peers = options.peers.split(",") if options.peers else able
    if unknown := set(peers) - set(PEERS):
        parser.error(f"no such peer: {', '.join(unknown)}")
    limits = json.loads(options.read_limit.read_text()) if options.read_limit else {}
    core = options.core
    if core is None and options.threads == 1 and hasattr(os, "sched_getaffinity"):
        core = max(os.sched_getaffinity(0))

    if options.storage:
        names = list(STORAGES)
    else:
        names = [*(FASTGATE if able == list(PEERS) else [OURS]), *peers]
    report: dict[str, Any] = {**about(), "core": core, "threads": options.threads}
    report |= {"fma": limits.get("fma"), "sizes": []}
    sides = Sides(names, core, options.threads)
    rest = REST if options.threads > 1 else 0
    cells = itertools.product(numbers.split((options.sizes or single).strip()), batches)
    for size, batch in cells:
        m, n = map(int, size.split("x")) if "x" in size else (int(size), int(size))
        results = compare(sides, m, n, batch, options.rounds, options.turn / 1e3, rest)
        label = f"{m}x{n}" if batches == [1] else f"{m}x{n}x{batch}"
        result = {"size": label, "m": m, "n": n, "batch": batch, "read_limit": limits.get(label)}
        report["sizes"].append({**result, "sides": results})
        best = ratio(results)
        found = f"{best[0]} / {OURS} = {np.median(best[1]):.2f}" if best else ""
        print(label, found, file=sys.stderr, flush=True)
        if options.json:
            options.json.write_text(json.dumps(report, indent=1) + "\n")
    show(report, options.plot)


def show(report: dict[str, Any], picture: str | None) -> None:
    """The tables on stdout, the picture in a file."""
    print(", ".join([report["cpu"], *(f"{k} {v}" for k, v in report["versions"].items())]) + "\n")
    storages = any("float16" in size["sides"] for size in report["sizes"])
    print(storage_table(report) if storages else table(report))
    shares = [x for s in report["sizes"] for side in s["sides"].values() for x in side["shares"]]
    cut = sum(share <= UNDISTURBED for share in shares)
    if cut and report["core"] is not None:
        print(f"{cut} of {len(shares)} turns had to share core {report['core']}", file=sys.stderr)
    if picture:
        batch = any(size["batch"] > 1 for size in report["sizes"])
        (draw_storage if storages else draw_batch if batch else draw)(report, picture)


if __name__ == "__main__":
    main()
