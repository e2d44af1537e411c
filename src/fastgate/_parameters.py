"""Converts the weights and options of gates and LSTMs, or refuses them with a message that says what to write."""

from __future__ import annotations

import math
import operator
import os
import sys
from collections.abc import Mapping
from numbers import Real

import numpy as np

from fastgate._arrays import (
    STORAGES,
    aligned,
    as_array,
    as_input,
    as_integers,
    as_output,
    contiguous,
    converted,
    dtype_of,
    is_array,
)

TYPE_CHECKING = False  # importing typing takes too long
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

    _Array = NDArray[Any]

# The largest finite number of a 16-bit storage, and the smallest number that rounds to infinity instead.
RANGES = {
    "float16": (65504.0, 65520.0),
    "bfloat16": (float.fromhex("0x1.fep127"), float.fromhex("0x1.ffp127")),
}
MOST_THREADS = 256  # csrc shares a call among no more


def storage_of(storage: Any) -> str:
    """storage as a plain str.  Raises ValueError if there is no such storage."""
    if not isinstance(storage, str) or storage not in STORAGES:
        raise ValueError(f"storage {storage!r} does not exist: choose from {', '.join(map(repr, STORAGES))}")
    return STORAGES[STORAGES.index(storage)]


# ---- threads ----------------------------------------------------------------------------------

override = 0  # the number of threads of all gates and LSTMs; 0 for the number that each was made with


def cpu_count() -> int:
    """The number of CPUs that the affinity of this process and the quota of its container, rounded up, allow."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(count, _quota())))


def _quota() -> float:
    """The number of CPUs that Linux's control groups grant this process; infinity without a limit.

    Version 2 has "quota period" in cpu.max, version 1 a file for each; see cgroups(7) and proc_pid_cgroup(5).  The
    limits of a group also apply to the groups inside it.
    """
    quota = math.inf
    for line in _lines("/proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = "/sys/fs/cgroup/cpu" if controllers else "/sys/fs/cgroup"
        folders = [path[:i] for i, c in enumerate(path) if c == "/" and i] + [path if path != "/" else "", ""]
        for folder in folders:  # the last one is "": in a container, the mount may be the group itself
            if controllers:
                files = _lines(f"{mount}{folder}/cpu.cfs_quota_us") + _lines(f"{mount}{folder}/cpu.cfs_period_us")
            else:
                files = " ".join(_lines(f"{mount}{folder}/cpu.max")).split()
            if len(files) == 2 and files[0].isdigit() and files[1].isdigit() and int(files[1]):
                quota = min(quota, int(files[0]) / int(files[1]))
    return quota


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


def thread_count(threads: Any) -> int:
    """threads as a number from 1 to MOST_THREADS: an integer, or the number of CPUs for "auto"."""
    allowed = f"threads must be an integer from 1, or 'auto', not {threads!r}"
    if isinstance(threads, str):
        if threads != "auto":
            raise ValueError(allowed)
        return min(cpu_count(), MOST_THREADS)
    count = _index(threads, allowed)
    if count < 1:
        raise ValueError(allowed)
    return min(count, MOST_THREADS)


def _index(value: Any, allowed: str) -> int:
    """value as an int, converted once.  Raises TypeError(allowed) if it is a bool or not an integer."""
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise TypeError(allowed)
    return int(operator.index(value))


def threads_now(made_with: int) -> int:
    """The number of threads that a call uses now."""
    return override or min(max(made_with, 1), MOST_THREADS)  # a file that C wrote may have any number


# ---- a gate -----------------------------------------------------------------------------------


def gate_parameters(weight: ArrayLike, bias: ArrayLike | None, storage: str) -> tuple[_Array, _Array | None]:
    """Convert weight (any layout) and bias (C-contiguous, or None) to dtype_of(storage), both aligned."""
    w = as_array(weight, "weight", dtype_of(storage), storage)
    b = None if bias is None else contiguous(as_array(bias, "bias", w.dtype, storage))
    return aligned(w), b


def check_gate(weight: _Array, bias: _Array | None) -> None:
    """Check that weight is (m, n) and bias (m,)."""
    if weight.ndim != 2:
        raise ValueError(f"weight must be (output_size, input_size), not of shape {weight.shape}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"bias of shape {bias.shape} does not fit weight of shape {weight.shape}: it must be {weight.shape[:1]}"
        )


def once_arguments(
    x: Any, weight: Any, bias: Any, out: Any
) -> tuple[_Array, _Array, _Array | None, _Array | None]:
    """Convert the arguments of gate() -> x, weight, bias, an array over out; in float64 if weight is, else float32."""
    storage = "float32"
    if is_array(weight):
        weight = converted(weight, "weight")
        storage = "float64" if weight.dtype.name == "float64" else "float32"
    w, b = gate_parameters(weight, bias, storage)
    return as_input(x, "x", w.dtype), w, b, None if out is None else as_output(out)


def augmented(weight: ArrayLike, storage: str) -> tuple[_Array, _Array]:
    """weight (m, 1 + n), the bias in column 0 -> the other columns (m, n), the bias (m,), as views."""
    w = as_array(weight, "weight", dtype_of(storage), storage)
    if w.ndim != 2 or w.shape[1] == 0:
        raise ValueError(f"weight must be (output_size, 1 + input_size), not of shape {w.shape}")
    return w[:, 1:], w[:, 0]


def storage_problem(weight: _Array, storage: str, name: str = "weight") -> str:
    """Why a 16-bit or int8 storage cannot hold weight, an array of float32; "" if it can."""
    finite = np.isfinite(weight)
    if storage == "int8":
        if finite.all():
            return ""
        example = weight[~finite].flat[0]
        return f"{name} has elements that are not finite ({example}): storage='int8' cannot hold them"
    largest_held, limit = RANGES[storage]
    largest = np.abs(weight).max(initial=0, where=finite)
    if largest < limit:
        return ""
    return f"{name} has magnitudes up to {largest:g}, but storage={storage!r} ends at {largest_held:g}"


# ---- an LSTM ----------------------------------------------------------------------------------

PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "peephole", "projection")


def lstm_options(
    clip: Any, gate_clip: Any, input_forget: Any, reverse: Any = False, batch_first: Any = False
) -> dict[str, Any]:
    return {
        "clip": limit(clip, "clip"),
        "gate_clip": limit(gate_clip, "gate_clip"),
        "input_forget": bool(input_forget),
        "reverse": bool(reverse),
        "batch_first": bool(batch_first),
    }


def limit(value: Any, name: str) -> float:
    """clip or gate_clip, checked, as a float: infinity for None."""
    if value is None:
        return math.inf
    if isinstance(value, bool) or not issubclass(type(value), Real):
        raise TypeError(f"{name} must be a positive number or None, not {value!r}")
    try:
        result = float(value)
    except OverflowError:  # a huge integer or fraction
        result = math.inf if value > 0 else -math.inf
    if not result > 0:  # NaN too, and a fraction that is 0 as a float
        raise ValueError(f"{name} must be positive, not {value!r}")
    return result


def cell_parameters(parameters: Mapping[str, Any], storage: str, where: str = "") -> dict[str, Any]:
    """Check the parameters of a layer in one direction -> C-contiguous copies of dtype_of(storage).

    The result has weight_ih (4 H, n), weight_hh (4 H, P or H), bias (4 H,), which is the sum of both, peephole (3, H)
    or None, and projection (P, H) or None. Names in messages begin with `where`.
    """
    dtype = dtype_of(storage)
    held = {}
    for key, value in parameters.items():
        if key not in PARAMETERS:
            raise TypeError(f"{where}{key} is not a parameter: choose from {', '.join(PARAMETERS)}")
        if value is not None:  # copied, because a generator of layers may reuse its buffer
            held[key] = as_array(value, where + key, dtype, storage, "LSTM").astype(dtype, order="C")
    for key in PARAMETERS[:2]:
        if key not in held:
            raise TypeError(f"{where}{key} is missing")

    given = held["weight_ih"].shape
    if len(given) != 2 or given[0] % 4:
        raise ValueError(f"{where}weight_ih must be (4 * hidden_size, input_size), not of shape {given}")
    rows, hidden = given[0], given[0] // 4
    outputs, others = hidden, f"weight_ih of shape {given}"
    shapes = {"bias_ih": (rows,), "bias_hh": (rows,), "peephole": (3, hidden)}
    if "projection" in held:
        projection = held["projection"].shape
        if len(projection) != 2 or projection[1] != hidden or not projection[0]:
            raise ValueError(
                f"{where}projection of shape {projection} does not fit {others}: "
                f"it must be (output_size, {hidden}), output_size from 1"
            )
        outputs, others = projection[0], f"{others} and projection of shape {projection}"
    for key, shape in {"weight_hh": (rows, outputs), **shapes}.items():
        if key in held and held[key].shape != shape:
            raise ValueError(
                f"{where}{key} of shape {held[key].shape} does not fit {others}: it must be {shape}"
            )
    if storage not in ("float32", "float64"):
        for key in held.keys() & {"weight_ih", "weight_hh", "projection"}:
            if problem := storage_problem(held[key], storage, where + key):
                raise ValueError(problem)
    biases = [held[key] for key in PARAMETERS[2:4] if key in held]
    with np.errstate(all="ignore"):  # biases may be infinite
        bias = biases[0] + biases[1] if len(biases) == 2 else np.zeros(rows, dtype)
    return {
        "weight_ih": held["weight_ih"],
        "weight_hh": held["weight_hh"],
        "bias": biases[0] if len(biases) == 1 else bias,
        "peephole": held.get("peephole"),
        "projection": held.get("projection"),
    }


def lstm_parameters(layers: Any, storage: str, reverse: bool = False) -> tuple[list[dict[str, Any]], int]:
    """Check the layers of an LSTM -> (cell_parameters at layer * directions + direction, directions)."""
    if isinstance(layers, (Mapping, str, bytes)) or not hasattr(layers, "__iter__"):
        raise TypeError(f"layers must be a sequence of layers, not {type(layers).__name__}")
    cells: list[dict[str, Any]] = []
    directions = 0
    for k, layer in enumerate(layers):
        name = f"layers[{k}]"
        is_single = isinstance(layer, Mapping)
        mappings = (layer,) if is_single else layer
        if not isinstance(mappings, (tuple, list)) or not all(isinstance(m, Mapping) for m in mappings):
            raise TypeError(f"{name} must be a mapping of its parameters, or a pair of mappings")
        if not is_single and len(mappings) != 2:
            raise ValueError(f"{name} must be a pair (forward, backward), not {len(mappings)} mappings")
        directions = directions or len(mappings)
        if len(mappings) != directions:
            raise ValueError(f"{name} has {len(mappings)} direction(s), but layers[0] has {directions}")
        for d, parameters in enumerate(mappings):
            where = f"{name}." if is_single else f"{name}[{d}]."
            cells.append(cell_parameters(parameters, storage, where))
            _check_layer(cells[-1], cells[0], directions if k else 0, where)
    if not cells:
        raise ValueError("layers is empty: an LSTM has at least one layer")
    if reverse and directions == 2:
        raise ValueError("reverse is for one direction, but the layers are pairs")
    return cells, directions


def _check_layer(cell: dict[str, Any], first: dict[str, Any], directions: int, where: str) -> None:
    """Check that a cell fits the first one; directions is 0 for the cells of the first layer."""
    outputs = first["weight_hh"].shape[1]
    inputs = directions * outputs if directions else first["weight_ih"].shape[1]
    shapes = {"weight_ih": (len(first["weight_ih"]), inputs), "weight_hh": first["weight_hh"].shape}
    for key, shape in shapes.items():
        if cell[key].shape != shape:
            raise ValueError(
                f"{where}{key} of shape {cell[key].shape} does not fit the layers before: it must be {shape}"
            )
    if (first["projection"] is None) != (cell["projection"] is None):
        raise ValueError(f"{where}projection must be given for all layers, or for none")


def one_layer(layers: Sequence[Any]) -> Any:
    """The only layer of these, for an LSTMCell."""
    if len(layers) != 1 or not isinstance(layers[0], Mapping):
        raise ValueError("an LSTMCell has one layer and one direction, but these weights have more: make an LSTM")
    return layers[0]


def chosen_layer(layer: Any, direction: Any, layers: int, directions: int) -> tuple[int, int]:
    """Check the indices of a layer, where -1 is the last one, and of a direction -> both, from 0."""
    layer, direction = operator.index(layer), operator.index(direction)
    if not -layers <= layer < layers:
        raise IndexError(f"layer must be from {-layers} to {layers - 1}, not {layer}")
    if not 0 <= direction < directions:
        raise IndexError(f"direction must be from 0 to {directions - 1}, not {direction}")
    return layer % layers, direction


# ---- streams ----------------------------------------------------------------------------------


def check_streamable(bidirectional: bool, reverse: bool) -> None:
    if bidirectional or reverse:
        raise ValueError("a bidirectional or reverse LSTM has no stream: it begins at the last step")


def stream_batch(batch: Any) -> int | None:
    """batch, checked, as an int from 0, or None."""
    if batch is None:
        return None
    allowed = f"batch must be an integer from 0, or None, not {batch!r}"
    count = _index(batch, allowed)
    if count < 0:
        raise ValueError(allowed)
    if count > sys.maxsize:
        raise MemoryError(f"no memory for {batch!r} streams")
    return count


def new_batch(batch: Any, old: int | None) -> int:
    """The batch to which a stream of the batch `old` is resized, checked."""
    if old is None:
        raise TypeError("this stream has no batch, so it cannot be resized: make it with stream(batch=1)")
    if batch is None:
        raise TypeError("batch must be an integer from 0, not None")
    return stream_batch(batch)  # type: ignore[return-value]


def stream_rows(rows: Any, batch: int | None, distinct: bool = False) -> _Array:
    """rows, an integer, integers, a slice or a bool mask (batch,) -> intp indices () or (count,)."""
    if batch is None:
        raise TypeError("this stream has no batch to choose rows from: leave rows out")
    if isinstance(rows, slice):
        return np.arange(*rows.indices(batch), dtype=np.intp)
    rows = as_integers(rows, "rows", "iub")
    if rows.dtype == np.bool_:
        if rows.shape != (batch,):
            raise IndexError(f"rows of shape {rows.shape} must be of shape {(batch,)}, as a mask")
        return np.flatnonzero(rows)
    if rows.ndim > 1:
        raise IndexError(f"rows of shape {rows.shape} must be an integer or of one axis")
    if ((rows < -batch) | (rows >= batch)).any():
        raise IndexError(f"rows must be from {-batch} to {batch - 1}, but are {rows}")
    chosen: _Array = rows.astype(np.intp, order="C")
    chosen[chosen < 0] += batch
    if distinct and len(set(chosen.flat)) < chosen.size:
        raise ValueError(f"rows must not repeat a row, but are {rows}")
    return chosen


# ---- pickles ----------------------------------------------------------------------------------


def make(name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Make the object of a pickle, with or without the compiled core.  Pickles refer to this function by its name."""
    import fastgate

    return getattr(fastgate, name)(*arguments, **options)


def make_stream(source: Any, batch: int | None, h: _Array, c: _Array) -> Any:
    """Make the stream of a pickle or copy."""
    stream = source.stream(batch)
    stream.state = (h, c)
    return stream
