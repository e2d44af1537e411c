#!/usr/bin/env python3
"""Time y = sigmoid(W x + b) beside the libraries that are used for it today: one vector, one core.

    pip install '.[bench]'               # torch is optional; a missing peer is reported
    python bench/compare.py              # report.py runs it with the other benchmarks, and draws the pictures
    python bench/compare.py --batch      # B vectors in one call
    python bench/compare.py --threads 2  # every side on two threads, not pinned
    python bench/compare.py --storage    # fastgate's storages: time and error
    python bench/compare.py --lstm       # the LSTM: steps, sequences, storages; see lstm.py

It times the whole Python call in float32, with a preallocated output if the library can use one.  It calls the same
gate again and again, so that weights stay in the caches as far as they fit.  turns.py says how sides take turns.  Cells
are medians over the rounds, with half the interquartile range.  A ratio is the median of the rounds' ratios best peer /
g(x, out=y), with its quartiles.

--storage compares fastgate's own storages: microseconds a call, the same over float32's in the same round, and the
largest and the root mean square error of y against float64 with weights that are not rounded.  With --threads, the
sides rest between turns until the threads of the last side sleep.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lstm
import numpy as np
from figures import Array, Table, side_table, storage_table, text
from machine import about, heading, note, pinned, stage, store
from peers import nans, onnx_binding, openvino_infer, threads, torch_mode
from turns import STORAGES, Call, Side, Sides

SIZES = "32 64 128 256 512 1024 2048 4096 512x128 128x512 1000x300 48x40"
BATCHES = "2 3 4 7 8 16 64 256"
OURS = "g(x, out=y)"

# ---- the sides: (W, b, x) -> configurations; x is (n,), or (B, n) for a batch ------------------
# What lost, in the comments, was measured where peers.py says.


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
    # MatMul and Add is as fast as Gemm; x as a vector is slower, W on the left much so (700 µs at
    # 512x512).
    x, y = np.atleast_2d(x), output(b, np.atleast_2d(x))
    text = "z = Gemm <transB = 1> (x, W, b) y = Sigmoid(z)"
    names = onnx_binding(text, {"W": W, "b": b}, {"x": x}, {"y": y})
    yield Call("Gemm, io-binding", "run(binding)", {**names, "y": y})


def openvino_(W: Array, b: Array, x: Array) -> Iterator[Call]:
    # W on the left is slower below 1024, faster above.
    import openvino as ov
    from openvino import opset8 as op

    weights, bias = op.constant(W), op.constant(b)
    X = np.atleast_2d(x)
    row = op.parameter(X.shape, ov.Type.f32)
    forms = {"x Wᵀ": (row, op.matmul(row, weights, False, True), X, output(b, X))}
    if x.ndim == 1:
        column = op.parameter(x.shape, ov.Type.f32)
        forms["W x"] = column, op.matmul(weights, column, False, False), x, output(b)
    for name, (at, product, x_, y) in forms.items():
        names = openvino_infer([op.sigmoid(op.add(product, bias))], [(at, x_)], [y])
        yield Call(name, "infer()", {**names, "y": y})


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
OWN_STORAGES: dict[str, Side] = {
    storage: functools.partial(fastgate_, OURS, storage=storage) for storage in STORAGES
}
OTHERS: dict[str, Side] = {
    "numpy": numpy_,
    "numba": numba_,
    "torch": torch_,
    "onnxruntime": onnxruntime_,
    "openvino": openvino_,
    "numkong": numkong_,
}
BATCHED = ("numpy", "torch", "onnxruntime", "openvino")  # peers that take a batch in one call


def problem(m: int, n: int, batch: int = 1) -> tuple[tuple[Array, Array, Array], Any]:
    """W, b, x, and y: the same in every process; z = W x + b is of order 1 at every size."""
    rng = np.random.default_rng([m, n])
    W, b = (rng.standard_normal(shape, np.float32) for shape in ((m, n), m))
    x = rng.standard_normal(n if batch == 1 else (batch, n), np.float32)
    W, b = W / np.float32(n**0.5), b / np.float32(2)
    return (W, b, x), 1 / (1 + np.exp(-(x @ W.astype(np.float64).T + b)))


def output(b: Array, x: Array | None = None) -> Array:
    return nans(*(() if x is None else x.shape[:-1]), len(b), dtype=b.dtype)


# ---- what is measured and shown --------------------------------------------------------------


def measure_gate(options: argparse.Namespace, report: dict[str, Any]) -> None:
    numbers = re.compile(r"[,\s]+")
    single, batches = SIZES, [1]
    if options.batch:
        single, batches = "128 512 1024", [int(B) for B in numbers.split(options.batch)]
    elif options.threads > 1:
        single, batches = "256 1024 2048 4096", [1, 64]
    elif options.storage:
        single = "128 256 512 1024 2048 4096"
    able = list(OTHERS)
    if options.threads > 1 or batches != [1]:
        able = [*BATCHED, *["numba"] * (1 in batches)]

    if options.storage:
        sides = OWN_STORAGES
    else:
        ours = FASTGATE if able == list(OTHERS) else {OURS: FASTGATE[OURS]}
        sides = {**ours, **{name: OTHERS[name] for name in options.peers or able}}
    processes = Sides(sides, problem, report["core"], options.threads)
    cells = list(itertools.product(numbers.split((options.sizes or single).strip()), batches))
    for done, (size, batch) in enumerate(cells, 1):
        m, n = map(int, size.split("x")) if "x" in size else (int(size), int(size))
        results = processes.compare(m, n, batch, rounds=options.rounds, turn=options.turn / 1e3)
        label = f"{m}x{n}" if batches == [1] else f"{m}x{n}x{batch}"
        result = {"size": label, "m": m, "n": n, "batch": batch, "sides": results}
        report["sizes"].append(result)
        stage(done, len(cells), label)


def tables(report: dict[str, Any]) -> list[Table]:
    """Of what main stored; of one vector a call with limits, if report.py knows them."""
    sizes = report["sizes"]
    if report["mode"] == "lstm":
        return lstm.tables(sizes)
    if report["mode"] == "storage":
        return [storage_table(sizes, "m x n")]
    limits, further = report.get("limits", {}), {}
    if any(size["size"] in limits for size in sizes):
        further["reading W"] = lambda size: limits.get(size["size"], "-")
    column = "m x n x B" if any(size["batch"] > 1 for size in sizes) else "m x n"
    return [side_table(sizes, column, OURS, further)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", help="n or mxn, of an LSTM n/h; comma or space separated")
    parser.add_argument("--batch", nargs="?", const=BATCHES, metavar="B,...", help="vectors a call")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of every side")
    parser.add_argument("--storage", action="store_true", help="fastgate's storages, no peers")
    parser.add_argument("--lstm", action="store_true", help="the LSTM instead of the gate")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--turn", type=float, default=20, metavar="MS", help="a side in a round")
    parser.add_argument("--peers", help="default: those that can, of " + ",".join(OTHERS))
    parser.add_argument("--core", type=int, help="default: the last that this process may use")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's time")
    options = parser.parse_args()
    if options.peers:
        options.peers = options.peers.split(",")
        if unknown := set(options.peers) - set(OTHERS):
            parser.error(f"no such peer: {', '.join(unknown)}")
    if options.lstm and (options.batch or options.storage or options.threads > 1):
        parser.error("--lstm runs all its tables, on one thread")
    core = options.core
    if core is None and options.threads == 1:
        core = pinned()
    mode = "lstm" if options.lstm else "storage" if options.storage else "gate"
    report = {**about(), "core": core, "threads": options.threads, "mode": mode, "sizes": []}
    (lstm.measure if options.lstm else measure_gate)(options, report)
    print(f"{heading(report)}\n\n{text(tables(report))}")
    store(report, options.json)
    sides = [side for size in report["sizes"] for side in size["sides"].values()]
    if shared := sum(side["shared"] for side in sides) if core is not None else 0:
        turns = sum(len(side["rounds"]) for side in sides)
        note(f"{shared} of {turns} turns had to share core {core}")


if __name__ == "__main__":
    main()
