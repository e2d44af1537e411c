"""What compare.py and lstm.py share: sides that take turns, libraries set up, tables, pictures.

A side is a generator of configurations of one library. It runs in a process of its own, on one
core shared by all; at each size the fastest configuration whose result agrees with float64 runs, in
turns in a new random order each round, the other sides asleep meanwhile.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import multiprocessing
import os
import platform
import random
import sys
import time
import timeit
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

THREADS = ("OMP", "OPENBLAS", "MKL", "NUMBA", "NUMEXPR", "VECLIB_MAXIMUM")
STORAGES = ("float32", "float16", "bfloat16", "int8", "float64")
TOLERANCE = 2e-6  # of y, against float64: float32 passes at every size, bfloat16 and float16 do not
TOLERANCES = {"float16": 1e-3, "bfloat16": 1e-2, "int8": 2e-2}  # where they are asked for
REST = 0.01  # seconds until another side's threads sleep
UNDISTURBED = 0.97  # of the core during a turn
COLOURS = {  # of the peers; fastgate's stands out
    "numpy": "#3b6fb6",
    "numba": "#3f8f4f",
    "torch": "#8a5aa8",
    "onnxruntime": "#2a9d9d",
    "openvino": "#8c6d4f",
    "numkong": "#b8860b",
}
FASTGATE_COLOUR = "#d1350f"
Array = np.ndarray[Any, np.dtype[np.float32]]


@dataclass
class Call:
    """One configuration of a side: a statement that leaves its result in names["y"]."""

    name: str
    code: str
    names: dict[str, Any]


Side = Callable[..., Iterator[Call]]
Problem = Callable[..., tuple[tuple[Any, ...], Any]]  # a size -> a side's arguments, the true y

# ---- the libraries ---------------------------------------------------------------------------
# What lost, in the comments, was measured on a Xeon with AVX-512 (Emerald Rapids), one core.


def threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS", "1"))  # set for every side by Sides


@functools.cache
def torch_mode() -> Any:
    import torch

    torch.set_num_threads(threads())
    mode = torch.inference_mode()  # 0.2 to 0.4 µs a call below no_grad
    mode.__enter__()  # for as long as this process
    return mode


def onnx_binding(
    text: str, weights: dict[str, Array], inputs: dict[str, Array], outputs: dict[str, Array]
) -> dict[str, Any]:
    """A graph bound to arrays that it reads and writes: names for the statement run(binding).

    Bound input and output save 4 µs a call. Arena and memory plan: no difference.
    """
    import onnxruntime as ort
    from onnx import helper, numpy_helper, parser

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads(), 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    spinning = "1" if threads() > 1 else "0"  # without, the second thread costs more than it gives
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    sides = [
        ", ".join(f"float{list(a.shape)} {name}" for name, a in arrays.items())
        for arrays in (inputs, outputs)
    ]
    graph = parser.parse_graph(f"graph ({sides[0]}) => ({sides[1]}) {{{text}}}")
    graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in weights.items())
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    cpu = ["CPUExecutionProvider"]
    session = ort.InferenceSession(model.SerializeToString(), options, providers=cpu)
    binding, keep = session.io_binding(), []
    for bind, arrays in (
        (binding.bind_ortvalue_input, inputs),
        (binding.bind_ortvalue_output, outputs),
    ):
        for name, array in arrays.items():
            keep.append(ort.OrtValue.ortvalue_from_numpy(array))  # shares memory
            bind(name, keep[-1])
    return {"run": session.run_with_iobinding, "binding": binding, "keep": (keep, inputs, outputs)}


def openvino_infer(
    results: list[Any], inputs: list[tuple[Any, Array]], outputs: list[Array]
) -> dict[str, Any]:
    """A model of (parameter, array) pairs, set to read and write arrays: names for infer().

    Tensors set once, infer() without arguments: half the time of calling the compiled model,
    start_async() and wait() cost 8 µs more. The f32 hint keeps it from computing in bfloat16
    where the CPU can.
    """
    import openvino as ov
    import openvino.properties as props
    from openvino.properties import hint

    options = {
        hint.performance_mode(): hint.PerformanceMode.LATENCY,
        hint.inference_precision(): ov.Type.f32,
        hint.execution_mode(): hint.ExecutionMode.ACCURACY,
        hint.enable_cpu_pinning(): False,
        props.inference_num_threads(): threads(),
    }
    model = ov.Model(results, [parameter for parameter, _ in inputs])
    request = ov.Core().compile_model(model, "CPU", options).create_infer_request()
    for i, (_, array) in enumerate(inputs):
        request.set_input_tensor(i, ov.Tensor(array, shared_memory=True))
    for i, array in enumerate(outputs):
        request.set_output_tensor(i, ov.Tensor(array, shared_memory=True))
    return {"infer": request.infer, "keep": (inputs, outputs)}


def nans(*shape: int, dtype: Any = np.float32) -> Array:
    return np.full(shape, np.nan, dtype)  # a call that writes nothing fails the check


# ---- one side, in its own process ------------------------------------------------------------


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

    def __init__(self, side: Side, problem: Problem, tolerance: float) -> None:
        self.side = side
        self.problem = problem
        self.tolerance = tolerance

    def prepare(self, *size: int) -> Prepared:
        arguments, expected = self.problem(*size)
        candidates: list[tuple[timeit.Timer, Prepared]] = []
        failure = ""
        try:
            for call in self.side(*arguments):
                exec(call.code, call.names)
                errors = np.abs(np.asarray(call.names["y"]).ravel() - expected.ravel())
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


def serve(worker: Worker, core: int | None, link: Any) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})  # before any library starts a thread
    with contextlib.suppress(EOFError):  # the parent is gone
        while True:
            method, *args = link.recv()  # asleep until the next turn
            link.send(getattr(worker, method)(*args))


# ---- the parent ------------------------------------------------------------------------------


class Sides:
    """The processes, one a side, asked one at a time."""

    def __init__(
        self, sides: dict[str, Side], problem: Problem, core: int | None, threads: int = 1
    ) -> None:
        os.environ.update({f"{name}_NUM_THREADS": str(threads) for name in THREADS})  # inherited
        self.rest = REST if threads > 1 else 0
        spawn = multiprocessing.get_context("spawn")
        self.links = {}
        for name, side in sides.items():
            self.links[name], theirs = spawn.Pipe()
            worker = Worker(side, problem, TOLERANCES.get(name, TOLERANCE))
            spawn.Process(target=serve, args=(worker, core, theirs), daemon=True).start()
            theirs.close()

    def ask(self, name: str, method: str, *args: float) -> Any:
        self.links[name].send((method, *args))
        return self.links[name].recv()

    def compare(self, *size: int, rounds: int, turn: float) -> dict[str, Any]:
        """All at one size: {side: its Prepared, and a list of seconds a call, a round each}."""
        ready: dict[str, Any] = {}
        for name in list(self.links):
            try:
                prepared = self.ask(name, "prepare", *size)
            except (EOFError, ConnectionError):
                prepared = Prepared(failure="its process died", gone=True)
            if prepared.gone:
                del self.links[name]
            ready[name] = {**asdict(prepared), "rounds": [], "shares": []}
        order = [name for name in ready if ready[name]["configuration"]]
        for _ in range(rounds):
            random.shuffle(order)
            for name in order:
                number = max(1, round(turn / ready[name]["seconds"]))
                time.sleep(self.rest)
                for _ in range(3):  # a turn that another process cut into is taken again, twice
                    seconds, share = self.ask(name, "turn", number)
                    if share > UNDISTURBED:
                        break
                ready[name]["rounds"].append(seconds)
                ready[name]["shares"].append(share)
        return ready


def pinned() -> int | None:
    """The last core that this process may use, where it can be chosen."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def about() -> dict[str, Any]:
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        cpuinfo = []
    models = [line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")]
    versions = {"python": platform.python_version()}
    for name in ("fastgate", *COLOURS, "scipy"):
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


def machine(report: dict[str, Any]) -> str:
    return ", ".join([report["cpu"], *(f"{k} {v}" for k, v in report["versions"].items())])


def add(report: dict[str, Any], result: dict[str, Any], path: Path | None) -> None:
    """A size's result joins the report, and the file."""
    report["sizes"].append(result)
    if path:
        path.write_text(json.dumps(report, indent=1) + "\n")


# ---- tables ----------------------------------------------------------------------------------


def micro(seconds: float) -> str:
    return f"{seconds * 1e6:.0f}" if seconds >= 1e-4 else f"{seconds * 1e6:#.3g}"


def cell(seconds: list[float]) -> str:
    low, middle, high = np.percentile(seconds, (25, 50, 75))
    return f"{micro(middle)} ±{(high - low) / 2 / middle:.0%}"


def spread(values: Any) -> str:
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def over(sides: dict[str, Any], name: str | None, other: str) -> list[float]:
    """The time of one side over that of another in each round; [] if one did not run."""
    rounds = [sides[side]["rounds"] for side in (name, other) if side in sides]
    return [a / b for a, b in zip(*rounds)] if len(rounds) == 2 else []


def best(sides: dict[str, Any]) -> str | None:
    """The fastest peer."""
    peers = [name for name in sides if is_peer(name) and sides[name]["rounds"]]
    return min(peers, key=lambda name: float(np.median(sides[name]["rounds"])), default=None)


def is_peer(name: str) -> bool:
    return name.split()[0] in COLOURS


def table(
    sizes: list[dict[str, Any]], column: str, further: dict[str, Callable[[dict[str, Any]], str]]
) -> str:
    """Markdown: microseconds a call at each size, then what each side ran."""
    names = list(dict.fromkeys(name for size in sizes for name in size["sides"]))
    head = [column, *names, *further]
    lines = [head, ["---"] * len(head)]
    notes: dict[str, dict[str, list[str]]] = {name: {} for name in names}
    for size in sizes:
        line = [size["size"]]
        for name in names:
            side = size["sides"].get(name)
            line.append(cell(side["rounds"]) if side and side["rounds"] else "-")
            if side:
                note = side["failure"] or side["configuration"]
                notes[name].setdefault(note, []).append(size["size"])
        lines.append([*line, *(value(size) for value in further.values())])
    text = ["| " + " | ".join(line) + " |" for line in lines] + [""]
    for name, found in notes.items():
        how = [f"{note} ({', '.join(at)})" for note, at in found.items()]
        text.append(f"- {name}: {'; '.join(how if len(found) > 1 else found)}")
    return "\n".join(text)


def best_over(ours: str) -> dict[str, Callable[[dict[str, Any]], str]]:
    """Columns of a table."""
    return {
        "best peer": lambda size: best(size["sides"]) or "",
        f"best peer / {ours}": lambda size: ratio(size, best(size["sides"]), ours),
    }


def ratio(size: dict[str, Any], name: str | None, other: str) -> str:
    ratios = over(size["sides"], name, other)
    return spread(ratios) if ratios else ""


def storage_table(sizes: list[dict[str, Any]], column: str) -> str:
    """Markdown: a line a size and storage: microseconds, over float32's, errors."""
    text = [f"| {column} | storage | µs | time / float32's | largest error | RMS error |"]
    text.append("|---" * 6 + "|")
    for size in sizes:
        for name, side in size["sides"].items():
            line = f"| {size['size']} | {name} | "
            if side["rounds"]:
                times = "1" if name == "float32" else ratio(size, name, "float32")
                line += f"{cell(side['rounds'])} | {times} | "
                line += f"{side['error']:.1e} | {side['rms']:.1e} |"
            else:
                line += f"{side['failure']} | | | |"
            text.append(line)
    return "\n".join(text)


# ---- pictures --------------------------------------------------------------------------------


def pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def plain(axes: Any) -> None:
    axes.minorticks_off()
    axes.grid(axis="y", color="0.9", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, labelcolor="0.3")


def sign(figure: Any, report: dict[str, Any], note: str) -> None:
    text = f"{report['cpu']}, {report['date'][:10]}; {note} is better"
    figure.text(0.99, 0.01, text, ha="right", fontsize=8, color="0.45")
    figure.tight_layout(rect=(0, 0.02, 1, 1))


def chart(lines: dict[str, Array], ours: str, styles: dict[str, str]) -> tuple[Any, Any]:
    """Time, logarithmic, of each side: (places, microseconds), a label at each line's start."""
    figure, axes = pyplot().subplots(figsize=(9, 5.6), dpi=100)
    for name, (at, microseconds) in lines.items():
        width = 3 if name == ours else 1.3 if is_peer(name) else 1.8
        marker = "o" if name == ours or is_peer(name) else ""
        axes.plot(at, microseconds, styles.get(name, "-"), c=colour(name), lw=width, marker=marker,
                  ms=2.5 + width)  # fmt: skip
    everything = np.concatenate([times for _, times in lines.values()])
    bottom, top = everything.min() / 1.6, everything.max() * 1.6
    axes.set(yscale="log", ylim=(bottom, top))
    names = sorted(lines, key=lambda name: lines[name][1][0])
    at = np.log([lines[name][1][0] for name in names])
    gap = np.log(top / bottom) / 24
    for _ in range(500):  # move labels apart until none overlap
        push = np.maximum(gap - np.diff(at), 0) / 2
        at[:-1] -= push
        at[1:] += push
    at += max(0.0, np.log(bottom) + gap / 2 - at[0])
    for name, log in zip(names, at):
        label = name if is_peer(name) else f"fastgate {name}"
        weight = "bold" if name == ours else "normal"
        axes.text(lines[name][0][0] - 0.16, np.exp(log), label, ha="right", va="center",
                  color=colour(name), fontsize=9.5, fontweight=weight)  # fmt: skip
    axes.yaxis.set_major_formatter(lambda t, _: f"{t:g} µs" if t < 1e3 else f"{t / 1e3:g} ms")
    plain(axes)
    axes.yaxis.tick_right()
    return figure, axes


def colour(name: str) -> str:
    return COLOURS[name.split()[0]] if is_peer(name) else FASTGATE_COLOUR


def lines_of(sizes: list[dict[str, Any]], names: list[str], places: Any) -> dict[str, Array]:
    """(places, microseconds) of the sides that ran, medians."""
    lines = {}
    for name in names:
        rounds = [(at, s["sides"].get(name, {}).get("rounds")) for at, s in zip(places, sizes)]
        if found := [(at, np.median(r) * 1e6) for at, r in rounds if r]:
            lines[name] = np.array(found).T
    return lines
