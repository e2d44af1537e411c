"""What the benchmarks share: sides that take turns, libraries set up, the machine, what is stored.

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
import re
import sys
import time
import timeit
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from show import PEERS, Array, significant, text

THREADS = ("OMP", "OPENBLAS", "MKL", "NUMBA", "NUMEXPR", "VECLIB_MAXIMUM")
STORAGES = ("float32", "float16", "bfloat16", "int8", "float64")
TOLERANCE = 2e-6  # of y, against float64: float32 passes at every size, bfloat16 and float16 do not
TOLERANCES = {"float16": 1e-3, "bfloat16": 1e-2, "int8": 2e-2}  # where they are asked for
REST = 0.01  # seconds until another side's threads sleep
UNDISTURBED = 0.97  # of the core during a turn


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
        """All at one size: {side: what it ran, its errors, and seconds a call, a round each}.

        shared counts the rounds in which another process had the core too.
        """
        ready: dict[str, Prepared] = {}
        results: dict[str, Any] = {}
        for name in list(self.links):
            try:
                ready[name] = found = self.ask(name, "prepare", *size)
            except (EOFError, ConnectionError):
                ready[name] = found = Prepared(failure="its process died", gone=True)
            if found.gone:
                del self.links[name]
                note(f"{name} {found.failure}")
            results[name] = {
                "configuration": found.configuration, "failure": found.failure,
                "error": significant(found.error), "rms": significant(found.rms),
                "shared": 0, "rounds": [],
            }  # fmt: skip
        order = [name for name in ready if ready[name].configuration]
        for _ in range(rounds):
            random.shuffle(order)
            for name in order:
                number = max(1, round(turn / ready[name].seconds))
                time.sleep(self.rest)
                for _ in range(3):  # a turn that another process cut into is taken again, twice
                    seconds, share = self.ask(name, "turn", number)
                    if share > UNDISTURBED:
                        break
                results[name]["rounds"].append(significant(seconds))
                results[name]["shared"] += share <= UNDISTURBED
        return results


# ---- what every benchmark says and stores ----------------------------------------------------


def stage(done: int, total: int, what: str) -> None:
    """Progress, which report.py reads too."""
    print(f"{done}/{total} {what}", file=sys.stderr, flush=True)


def note(what: str) -> None:
    """Something that the reader must know: report.py hands it on."""
    print(f"note: {what}", file=sys.stderr, flush=True)


def pinned() -> int | None:
    """The last core that this process may use, where it can be chosen."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def about() -> dict[str, Any]:
    """The command, when, and on what."""
    import fastgate

    versions = {"python": platform.python_version(), "fastgate": fastgate.__version__}
    for name in (*PEERS, "scipy", "dask"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "command": " ".join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **cpu(),
        "os": os_name(),
        **core(fastgate),
        "versions": versions,
    }


def cpu() -> dict[str, Any]:
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    model = fields.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in fields:
        model += f" (family {fields['cpu family']}, model {fields['model']})"
    caches = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / f).read_text().strip() for f in ("level", "type", "size"))
        if kind != "Instruction":
            caches.append(f"L{level} {size}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": model, "cores": cores, "caches": ", ".join(caches) or "unknown"}


def os_name() -> str:
    names = [f"{platform.system()} {platform.release().partition('-')[0]}", platform.machine()]
    with contextlib.suppress(OSError):
        names.insert(0, platform.freedesktop_os_release()["PRETTY_NAME"])
    return ", ".join([*names, " ".join(platform.libc_ver())])


def core(fastgate: Any) -> dict[str, str]:
    if fastgate._core is None:
        return {"isa": "none: the NumPy reference", "compiler": "none"}
    return {"isa": fastgate._core.instruction_set(), "compiler": fastgate._core.build_info()[1]}


def store(report: dict[str, Any], path: Path | None) -> None:
    """As JSON, lists of numbers on a line."""
    if path:
        lines = json.dumps(report, indent=1, ensure_ascii=False)
        lines = re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found[0].split()), lines)
        lines = lines.replace("[ ", "[").replace(" ]", "]")
        path.write_text(lines + "\n")


def publish(tables: list[dict[str, Any]], path: Path | None, **further: Any) -> None:
    """Prints tables (as show.table takes them) and stores them, with further figures."""
    report = {**about(), **further, "tables": tables}
    print(f"{machine(report)}\n\n{text(tables)}")
    store(report, path)


def machine(report: dict[str, Any]) -> str:
    return ", ".join([report["cpu"], *(f"{k} {v}" for k, v in report["versions"].items())])
