"""compare.py --lstm: the LSTM beside the libraries that are used for it today, float32, one core.

A step gives the next h and c of one layer from x, h and c, for one row.  If a library can, it reads x and the state
from arrays that stay the same, and writes the new state over the old one.  A sequence is 100 steps in one call, from a
state, for 1, 4, 16 and 64 rows.  Weights are of order 1/sqrt(n + h).

Storages are fastgate's own, in a step.  Their error is that of h after 100 steps, against float64 with weights that are
not rounded.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from figures import Array, Table, is_peer, ratio, side_table, storage_table
from machine import stage
from peers import nans, onnx_binding, openvino_infer, torch_mode
from turns import STORAGES, Call, Side, Sides

SIZES = "32/32 64/128 128/128 128/256 256/512 512/512"
STEPS = 100
BATCHES = (1, 4, 16, 64)
CALL, STREAM = "cell(x, h, c, out=state)", "s.step(x, out=y)"
SEQUENCE = "lstm(x, state, out=y)"
PEER = "onnxruntime"


class Problem(NamedTuple):
    """The gates in the order i, f, g, o; T steps of B rows."""

    W: Array  # (4 H, n)
    R: Array  # (4 H, H)
    b: Array  # (4 H,)
    x: Array  # (T, B, n)
    h: Array  # (1, B, H), before the first step, as c
    c: Array

    def layer(self) -> dict[str, Array]:
        """The weights as fastgate.LSTM takes them."""
        return {"weight_ih": self.W, "weight_hh": self.R, "bias_ih": self.b}


def problem(n: int, H: int, steps: int, batch: int, *, last: bool) -> tuple[tuple[Problem], Any]:
    """The same arguments in every process, and the true h of every step or of the last one."""
    rng = np.random.default_rng([n, H])
    shapes = (4 * H, n), (4 * H, H), (4 * H,), (steps, batch, n), (1, batch, H), (1, batch, H)
    W, R, b, x, h, c = (rng.standard_normal(shape, np.float32) for shape in shapes)
    scale = np.float32((n + H) ** 0.5)
    p = Problem(W / scale, R / scale, b / np.float32(2), x, np.tanh(h), c)
    W, R, h, c = (a.astype(np.float64) for a in (p.W, p.R, p.h[0], p.c[0]))
    outputs = []
    for x in p.x:
        i, f, g, o = np.split(x @ W.T + h @ R.T + p.b, 4, axis=-1)
        i, f, o = (1 / (1 + np.exp(-z)) for z in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
        outputs.append(h)
    return (p,), h if last else np.array(outputs)


def reordered(p: Problem, gates: str) -> tuple[Array, Array, Array]:
    """W, R and b with the gates in another order."""
    order = ["ifgo".index(gate) for gate in gates]
    split = ([np.split(a, 4)[k] for k in order] for a in (p.W, p.R, p.b))
    W, R, b = (np.concatenate(a) for a in split)
    return W, R, b


# ---- the sides -------------------------------------------------------------------------------
# What lost, in the comments, was measured on an AMD EPYC (Zen 3), one core.


def fastgate_(code: str, p: Problem, storage: str = "float32") -> Iterator[Call]:
    """A sequence, or the last step of one."""
    import fastgate

    dtype = np.float64 if storage == "float64" else np.float32
    p = Problem(*(a.astype(dtype) for a in p))
    x, h, c = p.x, p.h, p.c
    lstm = fastgate.LSTM([p.layer()], storage=storage)
    y = nans(*x.shape[:2], lstm.output_size, dtype=dtype)
    if code == SEQUENCE:
        yield Call("LSTM", code, {"lstm": lstm, "x": x, "state": (h, c), "y": y})
        return
    _, (h, c) = lstm(x[:-1], (h, c))
    x, y, state = x[-1, 0], y[-1, 0], (h[0, 0], c[0, 0])
    cell = fastgate.LSTMCell(**p.layer(), storage=storage)
    stream = lstm.stream()
    stream.state = h[:, 0], c[:, 0]
    names = {"cell": cell, "s": stream, "x": x, "state": state, "h": state[0], "c": state[1]}
    if code == STREAM:
        yield Call("LSTM", code, {**names, "y": y})
    else:
        yield Call("LSTMCell", code, {**names, "y": state[0]})


def numpy_(p: Problem) -> Iterator[Call]:
    # One product for [W R], the signs of three gates in the weights.
    W, R, b = reordered(p, "ifog")
    V, H = np.hstack([W, R]), R.shape[1]
    signs = np.repeat(np.array([-1, -1, -1, 1], np.float32), H)
    code = "u[:n] = x; dot(u, z); add(z, b, z); exp(s, s); add(s, one, s); reciprocal(s, s)"
    code += "; tanh(g, g); multiply(i, g, g); multiply(f, c, c); add(c, g, c)"
    code += "; tanh(c, y); multiply(o, y, y)"
    ufuncs = (np.add, np.exp, np.reciprocal, np.tanh, np.multiply)
    shared = {ufunc.__name__: ufunc for ufunc in ufuncs} | {"one": np.float32(1), "b": b * signs}
    for order, V in (("rows", V), ("columns", np.asfortranarray(V))):
        u, z = np.concatenate([p.x[0, 0], p.h[0, 0]]), nans(4 * H)
        names = {**shared, "dot": (V * signs[:, None]).dot, "u": u, "x": p.x[0, 0], "z": z}
        names |= dict(zip("ifog", np.split(z, 4)), s=z[: 3 * H], c=p.c[0, 0].copy())
        names |= {"n": W.shape[1], "y": u[W.shape[1] :]}
        yield Call(order, code, names)


def tensors(p: Problem) -> Any:
    """Tensors of p, and their bias of zeros."""
    import torch

    torch_mode()
    return *(torch.from_numpy(a) for a in p), torch.zeros(len(p.b))


def torch_cell(p: Problem) -> Iterator[Call]:
    # The state is read where it lies, and the next one is a new tensor.
    import torch

    W, R, b, x, h, c, zero = tensors(p)
    weights = {**Problem(W, R, b, x, h, c).layer(), "bias_hh": zero}
    cell = torch.nn.LSTMCell(W.shape[1], R.shape[1]).eval()
    cell.load_state_dict(weights)
    arguments = x[0], (h[0], c[0])
    names = {"cell": cell, "x": arguments[0], "state": arguments[1]}
    for name, code in (("module", "y, n = cell(x, state)"), ("function", "y, n = f(x, state, *W)")):
        function = {"f": torch.lstm_cell, "W": list(weights.values())}
        yield Call(name, code, {**names, **function})
    frozen = torch.jit.freeze(torch.jit.trace(cell, arguments))
    yield Call("frozen", "y, n = cell(x, state)", {**names, "cell": frozen})


def torch_lstm(p: Problem) -> Iterator[Call]:
    # oneDNN costs 2 to 3 times as much where there is one step, and wins with 100.
    import torch

    W, R, b, x, h, c, zero = tensors(p)
    lstm = torch.nn.LSTM(W.shape[1], R.shape[1]).eval()
    lstm.load_state_dict(dict(zip(lstm.state_dict(), (W, R, b, zero))))
    names = {"lstm": lstm, "x": x, "state": (h, c), "mkldnn": torch.backends.mkldnn}
    for name, enabled in (("oneDNN", True), ("native", False)):
        code = f"mkldnn.enabled = {enabled}; y, n = lstm(x, state)"
        yield Call(name, code, dict(names))


def onnxruntime_(p: Problem) -> Iterator[Call]:
    # The state in place, as fastgate's; separate outputs cost the same.
    W, R, b = reordered(p, "iofg")
    weights = {"W": W[None], "R": R[None], "B": np.concatenate([b, 0 * b])[None]}
    h, c = p.h.copy(), p.c.copy()
    all_h = {"Y": nans(len(p.x), *p.h.shape)} if len(p.x) > 1 else {}
    text = f"{'Y' * len(all_h)}, H, C = LSTM <hidden_size = {R.shape[1]}> (x, W, R, B, , h, c)"
    names = onnx_binding(text, weights, {"x": p.x, "h": h, "c": c}, {**all_h, "H": h, "C": c})
    yield Call("io-binding", "run(binding)", {**names, "y": all_h.get("Y", h)})


def openvino_(p: Problem) -> Iterator[Call]:
    # A step as LSTMCell, the state in place; a sequence (B, T, n).
    import openvino as ov
    from openvino import opset8 as op

    W, R, b = reordered(p, "figo")
    H = R.shape[1]
    if len(p.x) == 1:
        arrays = p.x[0], p.h[0].copy(), p.c[0].copy()
        at = [op.parameter(a.shape, ov.Type.f32) for a in arrays]
        node = op.lstm_cell(*at, op.constant(W), op.constant(R), op.constant(b), H)
        outputs = list(arrays[1:])
        name, y = "LSTMCell", arrays[1]
    else:
        x, h, c = (np.ascontiguousarray(a.swapaxes(0, 1)) for a in (p.x, p.h, p.c))
        arrays = x, h, c
        at = [op.parameter(a.shape, ov.Type.f32) for a in arrays]
        lengths = op.constant(np.full(len(arrays[0]), len(p.x), np.int32))
        weights = (op.constant(a[None]) for a in (W, R, b))
        node = op.lstm_sequence(*at, lengths, *weights, H, "forward")
        y = nans(len(arrays[0]), 1, len(p.x), H)
        outputs = [y, *(nans(*a.shape) for a in arrays[1:])]
        name, y = "LSTMSequence", y[:, 0].swapaxes(0, 1)
    names = openvino_infer(node.outputs(), list(zip(at, arrays)), outputs)
    yield Call(name, "infer()", {**names, "y": y})


STEP: dict[str, Side] = {
    STREAM: functools.partial(fastgate_, STREAM),
    CALL: functools.partial(fastgate_, CALL),
    "numpy": numpy_,
    "torch LSTMCell": torch_cell,
    "torch LSTM": torch_lstm,
    "onnxruntime": onnxruntime_,
    "openvino": openvino_,
}
SEQUENCES: dict[str, Side] = {
    SEQUENCE: functools.partial(fastgate_, SEQUENCE),
    **{name: STEP[name] for name in ("torch LSTM", PEER, "openvino")},
}
OWN_STORAGES: dict[str, Side] = {
    storage: functools.partial(fastgate_, STREAM, storage=storage) for storage in STORAGES
}
TABLES = {  # sides, what is true, steps, batches
    "step": (STEP, functools.partial(problem, last=True), 1, (1,)),
    "sequence": (SEQUENCES, functools.partial(problem, last=False), STEPS, BATCHES),
    "storage": (OWN_STORAGES, functools.partial(problem, last=True), STEPS, (1,)),
}

# ---- what is measured and shown --------------------------------------------------------------


def measure(options: argparse.Namespace, report: dict[str, Any]) -> None:
    sizes = re.split(r"[,\s]+", (options.sizes or SIZES).strip())
    total = len(sizes) * sum(len(batches) for *_, batches in TABLES.values())
    for kind, (sides, true, steps, batches) in TABLES.items():
        if options.peers:
            chosen = (s for s in sides if not is_peer(s) or s.split()[0] in options.peers)
            sides = {name: sides[name] for name in chosen}
        processes = Sides(sides, true, report["core"])
        for size, batch in itertools.product(sizes, batches):
            n, H = map(int, size.split("/"))
            results = processes.compare(
                n, H, steps, batch, rounds=options.rounds, turn=options.turn / 1e3
            )
            label = size if batches == (1,) else f"{size} x {batch}"
            result = {"table": kind, "size": label, "n": n, "H": H, "steps": steps, "batch": batch}
            report["sizes"].append({**result, "sides": results})
            stage(len(report["sizes"]), total, f"{kind} {label}")


def tables(sizes: list[dict[str, Any]]) -> list[Table]:
    step, sequence, storage = ([s for s in sizes if s["table"] == kind] for kind in TABLES)

    def beside(*ours: str) -> Any:
        return {
            f"{PEER} / {name}": lambda size, name=name: ratio(size["sides"], PEER, name)
            for name in ours
        }

    return [
        side_table(step, "n/h", STREAM, beside(STREAM), "One step, µs"),
        side_table(
            sequence, "n/h x B", SEQUENCE, beside(SEQUENCE), f"A sequence of {STEPS} steps, µs"
        ),
        storage_table(storage, "n/h", f"One step by storage; errors of h after {STEPS} steps"),
    ]
