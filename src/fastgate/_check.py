"""What the compiled core and the reference accept: one place for every conversion and refusal.

The compiled core comes here only with what it cannot take as it lies, so nothing in here counts
for its speed.
"""

from __future__ import annotations

import math
import operator
import os
import sys
from collections.abc import Mapping
from numbers import Real

import numpy as np

TYPE_CHECKING = False  # not from typing, for the sake of the import time
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

    _Array = NDArray[Any]

STORAGES = ("float32", "float16", "bfloat16", "int8", "float64")
# Of the 16-bit storages: the largest finite number, and from where on it is rounded to infinity,
# halfway to the next that there would be.
RANGES = {
    "float16": (65504.0, 65520.0),
    "bfloat16": (float.fromhex("0x1.fep127"), float.fromhex("0x1.ffp127")),
}
MOST_THREADS = 256  # that csrc shares a call among


def options(storage: str, threads: int | str) -> tuple[str, int]:
    """A gate's storage and its number of threads."""
    if not isinstance(storage, str) or storage not in STORAGES:
        there = ", ".join(map(repr, STORAGES))
        raise ValueError(f"storage {storage!r} does not exist; there are {there}")
    return STORAGES[STORAGES.index(storage)], thread_count(threads)


# ---- threads ----------------------------------------------------------------------------------

override = 0  # the threads of every gate; 0: those it was made with


def cpu_count() -> int:
    """The CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_count(threads: int | str) -> int:
    """threads, an integer from 1, or the number of CPUs for "auto"; at most MOST_THREADS."""
    allowed = f"threads must be an integer from 1, or 'auto', not {threads!r}"
    if isinstance(threads, str):
        if threads != "auto":
            raise ValueError(allowed)
        threads = cpu_count()
    elif isinstance(threads, (bool, np.bool_)) or not hasattr(threads, "__index__"):
        raise TypeError(allowed)
    if operator.index(threads) < 1:
        raise ValueError(allowed)
    return min(operator.index(threads), MOST_THREADS)


def threads_now(made_with: int) -> int:
    """The threads that a call of a gate runs on."""
    return override or min(max(made_with, 1), MOST_THREADS)  # in C they may be any


# ---- arrays -----------------------------------------------------------------------------------


def dtype_of(storage: str) -> np.dtype[Any]:
    """What a gate takes and gives: float32, or float64 where it is stored so."""
    return np.dtype(np.float64 if storage == "float64" else np.float32)


def is_buffer(value: object) -> bool:
    try:
        memoryview(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def is_array(value: object) -> bool:
    """Whether it has a dtype of its own; else it is a plain sequence or number."""
    array_like = ("dtype", "__array__", "__array_interface__", "__array_struct__")
    return any(hasattr(value, name) for name in array_like) or is_buffer(value)


def as_array(
    value: ArrayLike, name: str, dtype: np.dtype[Any], storage: str = "", taker: str = "gate"
) -> _Array:
    """An array of this dtype: any layout, shared with `value` where it is an array already.

    Plain sequences are converted, arrays and buffers of another dtype are a TypeError, but for the
    parameters of a 16-bit storage, which may be of its type.
    """
    if not is_array(value):
        return np.asarray(value, dtype)
    array: _Array = np.asarray(value)
    if array.dtype == dtype:
        return array
    given = array.dtype.name if array.dtype.isnative else ""  # not of a class: ml_dtypes has its own
    if given == storage and given in RANGES:
        return array.astype(dtype)
    cast = f"{name}.astype(numpy.{dtype})"
    if not isinstance(value, np.ndarray):
        cast = f"numpy.asarray({name}, numpy.{dtype})"
    is_weight = name == "weight" or name.rpartition(".")[2] in PARAMETERS
    if is_weight and given in STORAGES and given != "int8" and (taker != "gate" or name == "weight"):
        stored = f"storage={given!r}"
        cast += f", or {stored if taker != 'gate' else f'fastgate.Gate({name}, {stored})'}"
    raise TypeError(f"{name} is {array.dtype}, but the {taker} takes {dtype}: write {cast}")


def aligned(array: _Array) -> _Array:
    """`array`, or a C-ordered copy if its elements do not lie at multiples of their size."""
    return array if array.flags.aligned else array.copy(order="C")


def parameters(
    weight: ArrayLike, bias: ArrayLike | None, storage: str
) -> tuple[_Array, _Array | None]:
    """weight (m, n) in any layout, bias (m,) contiguous or None; both aligned, of dtype_of(storage)."""
    w = as_array(weight, "weight", dtype_of(storage), storage)
    if w.ndim != 2:
        raise ValueError(f"weight must be (output_size, input_size), not of shape {w.shape}")
    if bias is None:
        return aligned(w), None
    b = as_array(bias, "bias", w.dtype, storage)
    if b.shape != w.shape[:1]:
        raise ValueError(
            f"bias of shape {b.shape} does not fit weight of shape {w.shape}: "
            f"it must be {w.shape[:1]}"
        )
    return aligned(w), np.ascontiguousarray(aligned(b))


def one_shot_storage(weight: ArrayLike) -> str:
    """gate() holds nothing: it computes in float64 if the weights are an array of float64."""
    return "float64" if is_array(weight) and np.asarray(weight).dtype == np.float64 else "float32"


def augmented(weight: ArrayLike, storage: str) -> tuple[_Array, _Array]:
    """[bias, weight] of shape (m, 1 + n) -> weight, bias; both views."""
    w = as_array(weight, "weight", dtype_of(storage), storage)
    if w.ndim != 2 or w.shape[1] == 0:
        raise ValueError(f"weight must be (output_size, 1 + input_size), not of shape {w.shape}")
    return w[:, 1:], w[:, 0]


def refusal(weight: _Array, storage: str, name: str = "weight") -> str:
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


def inputs(
    parts: Sequence[ArrayLike], weight_shape: tuple[int, int], dtype: np.dtype[Any]
) -> list[_Array]:
    """The parts of x as C-ordered, aligned arrays (..., n_i), whose n_i add up to n."""
    if not parts:
        raise TypeError("a gate needs at least one input")
    names = ["x"] if len(parts) == 1 else [f"parts[{i}]" for i in range(len(parts))]
    arrays = [as_array(part, name, dtype) for part, name in zip(parts, names)]
    for array, name in zip(arrays, names):
        if array.ndim == 0:
            raise ValueError(f"{name} of shape () has no axis; weight is of shape {weight_shape}")
    shapes = ", ".join(str(array.shape) for array in arrays)
    if len({array.shape[:-1] for array in arrays}) > 1:
        raise ValueError(f"the parts must share their leading axes, but are of shapes {shapes}")
    size = sum(array.shape[-1] for array in arrays)
    if size != weight_shape[1]:
        what = "x of shape" if len(parts) == 1 else "parts of shapes"
        raise ValueError(
            f"{what} {shapes} {'has' if len(parts) == 1 else 'have'} {size} elements in the last "
            f"axis, but weight of shape {weight_shape} takes {weight_shape[1]}"
        )
    return [np.ascontiguousarray(aligned(array)) for array in arrays]


def refuse_layout(array: _Array, name: str) -> None:
    if not array.flags.c_contiguous:
        raise ValueError(
            f"{name} must be C-contiguous, but shape {array.shape} has strides {array.strides}"
        )
    if not array.flags.aligned:
        raise ValueError(f"{name} must be aligned: begin at a multiple of {array.itemsize} bytes")


def output(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], name: str = "out") -> _Array:
    """The array that writes into `out`, an array or writable buffer of this very shape."""
    if not isinstance(out, np.ndarray) and not is_buffer(out):
        raise TypeError(f"{name} must be an array or a writable buffer, not {type(out).__name__}")
    array: _Array = np.asarray(out)
    if array.dtype != dtype:
        raise TypeError(
            f"{name} is {array.dtype}, but the result is {dtype}: "
            f"make it with numpy.empty({shape}, numpy.{dtype})"
        )
    if array.shape != shape:
        raise ValueError(f"{name} is of shape {array.shape}, but the result is of shape {shape}")
    if not array.flags.writeable:
        raise ValueError(f"{name} is read-only")
    refuse_layout(array, name)
    return array


def refuse_values(parts: Sequence[Any]) -> None:
    """TypeError unless all are arrays or buffers."""
    for part in parts:
        if not isinstance(part, np.ndarray) and not is_buffer(part):
            raise TypeError(f"bind reads its inputs in place: not from a {type(part).__name__}")


def bindable(
    parts: Sequence[Any], out: Any, weight_shape: tuple[int, int], dtype: np.dtype[Any]
) -> tuple[list[_Array], _Array]:
    """The arrays of a bound call: they must be usable as they lie, call after call."""
    refuse_values(parts)
    arrays = inputs(parts, weight_shape, dtype)
    for part in parts:
        refuse_layout(np.asarray(part), "an input, which bind reads in place,")
    target = output(out, arrays[0].shape[:-1] + weight_shape[:1], dtype)
    if any(np.may_share_memory(array, target) for array in arrays):
        raise ValueError("out overlaps an input: bind calls the gate in place, again and again")
    return arrays, target


def unpickle(weight: _Array, bias: _Array, storage: str = "float32", threads: int = 1) -> Any:
    """The gate of a pickle, whether or not the core is there where it is loaded.

    Pickles from before there were storages have two arguments.
    """
    import fastgate

    return fastgate.Gate(weight, bias, storage=storage, threads=threads)


# ---- LSTM: parameters -------------------------------------------------------------------------

PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "peephole", "projection")


def cell_parameters(parameters: Mapping[str, Any], storage: str, where: str = "") -> dict[str, Any]:
    """A layer's parameters, one direction's: C-contiguous and aligned, of dtype_of(storage).

    weight_ih (4 H, n), weight_hh (4 H, P or H), bias (4 H,), the sum of both or zeros, peephole
    (3, H) or None, projection (P, H) or None. They may be the arrays given. `where` is what the
    names in messages begin with.
    """
    dtype = dtype_of(storage)
    arrays = {}
    for key, value in parameters.items():
        if key not in PARAMETERS:
            raise TypeError(f"{where}{key} is not a parameter; there are {', '.join(PARAMETERS)}")
        if value is not None:
            arrays[key] = as_array(value, where + key, dtype, storage, "LSTM")
    for key in PARAMETERS[:2]:
        if key not in arrays:
            raise TypeError(f"{where}{key} is missing")

    given = arrays["weight_ih"].shape
    if len(given) != 2 or given[0] % 4:
        raise ValueError(
            f"{where}weight_ih must be (4 * hidden_size, input_size), not of shape {given}"
        )
    rows, hidden = given[0], given[0] // 4
    outputs, than = hidden, f"weight_ih of shape {given}"
    shapes = {"bias_ih": (rows,), "bias_hh": (rows,), "peephole": (3, hidden)}
    if "projection" in arrays:
        projection = arrays["projection"].shape
        if len(projection) != 2 or projection[1] != hidden or not projection[0]:
            raise ValueError(
                f"{where}projection of shape {projection} does not fit {than}: "
                f"it must be (output_size, {hidden}), output_size from 1"
            )
        outputs, than = projection[0], f"{than} and projection of shape {projection}"
    for key, shape in {"weight_hh": (rows, outputs), **shapes}.items():
        if key in arrays and arrays[key].shape != shape:
            raise ValueError(
                f"{where}{key} of shape {arrays[key].shape} does not fit {than}: it must be {shape}"
            )

    held = {key: np.ascontiguousarray(aligned(array)) for key, array in arrays.items()}
    if storage not in ("float32", "float64"):
        for key in held.keys() & {"weight_ih", "weight_hh", "projection"}:
            if why := refusal(held[key], storage, where + key):
                raise ValueError(why)
    biases = [held[key] for key in PARAMETERS[2:4] if key in held]
    with np.errstate(all="ignore"):  # infinite ones
        bias = biases[0] + biases[1] if len(biases) == 2 else np.zeros(rows, dtype)
    return {
        "weight_ih": held["weight_ih"],
        "weight_hh": held["weight_hh"],
        "bias": biases[0] if len(biases) == 1 else bias,
        "peephole": held.get("peephole"),
        "projection": held.get("projection"),
    }


def lstm_parameters(
    layers: Any, storage: str, reverse: bool = False
) -> tuple[list[dict[str, Any]], int]:
    """cell_parameters of all layers and directions, at layer * directions + direction; directions."""
    if isinstance(layers, (Mapping, str, bytes)) or not hasattr(layers, "__iter__"):
        raise TypeError(f"layers must be a sequence of layers, not {type(layers).__name__}")
    cells: list[dict[str, Any]] = []
    directions = 0
    for k, layer in enumerate(layers):
        name = f"layers[{k}]"
        one_way = isinstance(layer, Mapping)
        sides = (layer,) if one_way else layer
        if not isinstance(sides, (tuple, list)) or not all(isinstance(s, Mapping) for s in sides):
            raise TypeError(f"{name} must be a mapping of its parameters, or a pair of mappings")
        if not one_way and len(sides) != 2:
            raise ValueError(f"{name} must be a pair (forward, backward), not {len(sides)} mappings")
        directions = directions or len(sides)
        if len(sides) != directions:
            raise ValueError(
                f"{name} has {len(sides)} direction(s), but layers[0] has {directions}"
            )
        for d, side in enumerate(sides):
            where = f"{name}." if one_way else f"{name}[{d}]."
            cells.append(cell_parameters(side, storage, where))
            first, cell = cells[0], cells[-1]
            inputs = first["weight_ih"].shape[1]
            if k:
                inputs = directions * first["weight_hh"].shape[1]
            shapes = {"weight_ih": (len(first["weight_ih"]), inputs)}
            shapes["weight_hh"] = first["weight_hh"].shape
            for key, shape in shapes.items():
                if cell[key].shape != shape:
                    raise ValueError(
                        f"{where}{key} of shape {cell[key].shape} does not fit the layers before, "
                        f"which make it {shape}"
                    )
            if (first["projection"] is None) != (cell["projection"] is None):
                raise ValueError(f"{where}projection: all layers have one, or none has")
    if not cells:
        raise ValueError("layers is empty: an LSTM has at least one layer")
    if reverse and directions == 2:
        raise ValueError("reverse is for one direction, but the layers are pairs")
    return cells, directions


def one_layer(layers: Sequence[Any]) -> Any:
    """The parameters of an LSTMCell, of the layers of an LSTM."""
    if len(layers) != 1 or not isinstance(layers[0], Mapping):
        raise ValueError("an LSTMCell has one layer and one direction; this is for LSTM")
    return layers[0]


def limit(value: Any, name: str) -> float:
    """clip or gate_clip: a positive number, infinity for None."""
    if value is None:
        return math.inf
    if isinstance(value, bool) or not issubclass(type(value), Real):
        raise TypeError(f"{name} must be a positive number or None, not {value!r}")
    if not value > 0:
        raise ValueError(f"{name} must be positive, not {value!r}")
    try:
        return float(value)
    except OverflowError:  # an integer or fraction
        return math.inf


# ---- LSTM: calls ------------------------------------------------------------------------------
# sizes are (input_size, output_size, hidden_size), output_size being that of one direction. The
# arrays that come back are C-contiguous and aligned, and may be those given.


def _pair(value: Any, name: str) -> tuple[Any, Any]:
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name} must be a pair (h, c), not {type(value).__name__}")
    if len(value) != 2:
        raise TypeError(f"{name} must be a pair (h, c), not {len(value)} values")
    return value[0], value[1]


def _shaped(
    value: ArrayLike, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], why: str = ""
) -> _Array:
    array = as_array(value, name, dtype, taker="LSTM")
    if array.shape != shape:
        raise ValueError(f"{name} of shape {array.shape} must be of shape {shape}{why}")
    return np.ascontiguousarray(aligned(array))


def cell_inputs(
    x: ArrayLike,
    h: ArrayLike | None,
    c: ArrayLike | None,
    sizes: tuple[int, int, int],
    dtype: np.dtype[Any],
) -> tuple[_Array, _Array, _Array]:
    """x (..., n), h (..., output_size) and c (..., hidden_size), zeros if both are None."""
    x = as_array(x, "x", dtype, taker="LSTM")
    if x.ndim == 0 or x.shape[-1] != sizes[0]:
        raise ValueError(f"x of shape {x.shape} must be of shape (..., {sizes[0]})")
    if (h is None) != (c is None):
        raise TypeError("h and c must be given together, or neither")
    h_shape, c_shape = (x.shape[:-1] + (size,) for size in sizes[1:])
    if h is None or c is None:
        h, c = np.zeros(h_shape, dtype), np.zeros(c_shape, dtype)
    why = f" for x of shape {x.shape}"
    return (
        np.ascontiguousarray(aligned(x)),
        _shaped(h, "h", h_shape, dtype, why),
        _shaped(c, "c", c_shape, dtype, why),
    )


def cell_outputs(
    out: Any, h_shape: tuple[int, ...], c_shape: tuple[int, ...], dtype: np.dtype[Any]
) -> tuple[_Array, _Array]:
    """The arrays that write into out = (h, c)."""
    h, c = _pair(out, "out")
    h, c = output(h, h_shape, dtype, "out[0]"), output(c, c_shape, dtype, "out[1]")
    if np.may_share_memory(h, c):
        raise ValueError("out[0] and out[1] overlap")
    return h, c


def cell_bindable(
    x: Any, h: Any, c: Any, out: Any, sizes: tuple[int, int, int], dtype: np.dtype[Any]
) -> tuple[_Array, _Array, _Array, _Array, _Array]:
    """The arrays of a bound call, x, h, c and out: they must be usable as they lie, call after call.

    Where out overlaps h or c, it is the same memory.
    """
    refuse_values((x, h, c))
    arrays = cell_inputs(x, h, c, sizes, dtype)
    for given in (x, h, c):
        refuse_layout(np.asarray(given), "an input, which bind reads in place,")
    targets = cell_outputs(out, arrays[1].shape, arrays[2].shape, dtype)
    for i, target in enumerate(targets):
        for j, array in enumerate(arrays):
            in_place = j == i + 1 and address(array) == address(target)
            if not in_place and np.may_share_memory(array, target):
                raise ValueError(
                    f"out[{i}] overlaps {'xhc'[j]}: bind calls the cell in place, again and again, "
                    f"so h may be out[0] and c out[1], and nothing else"
                )
    return (*arrays, *targets)


def address(array: _Array) -> int:
    return int(array.__array_interface__["data"][0])


def states(
    state: Any, h_shape: tuple[int, ...], c_shape: tuple[int, ...], dtype: np.dtype[Any]
) -> tuple[_Array, _Array]:
    """The two arrays of a state (h, c), of exactly these shapes."""
    h, c = _pair(state, "state")
    return _shaped(h, "state[0]", h_shape, dtype), _shaped(c, "state[1]", c_shape, dtype)


def sequence(
    x: ArrayLike,
    state: Any,
    lengths: ArrayLike | None,
    sizes: tuple[int, int, int],
    layers: int,
    batch_first: bool,
    dtype: np.dtype[Any],
) -> tuple[_Array, _Array, _Array, _Array | None]:
    """x, as given, h_0 and c_0 (layers, [B,] size), zeros if state is None, lengths (B,) of int64.

    layers is layers times directions.
    """
    x = as_array(x, "x", dtype, taker="LSTM")
    if x.ndim not in (2, 3) or x.shape[-1] != sizes[0]:
        batched = "B, T" if batch_first else "T, B"
        raise ValueError(
            f"x of shape {x.shape} must be (T, {sizes[0]}) or ({batched}, {sizes[0]})"
        )
    steps = x.shape[x.ndim - 2 if batch_first else 0]
    batch = x.shape[1 - batch_first : 2 - batch_first] if x.ndim == 3 else ()
    h_shape, c_shape = ((layers, *batch, size) for size in sizes[1:])
    if state is None:
        h, c = np.zeros(h_shape, dtype), np.zeros(c_shape, dtype)
    else:
        h, c = states(state, h_shape, c_shape, dtype)
    x = np.ascontiguousarray(aligned(x))
    if lengths is None:
        return x, h, c, None
    if not batch:
        raise ValueError(f"lengths are for a batch, but x is of shape {x.shape}")
    counts = integers(lengths, "lengths", "iu").copy()  # what is checked here is used, whoever changes lengths
    if counts.shape != batch:
        raise ValueError(
            f"lengths of shape {counts.shape} must be of shape {batch} for x of shape {x.shape}"
        )
    wrong = (counts < 0) | (counts > steps)
    if wrong.any():
        raise ValueError(f"lengths must be 0 to {steps}, but there is {counts[wrong][0]}")
    return x, h, c, counts.astype(np.int64)  # not the C type of the same size, which NumPy 1 takes for it


def integers(value: ArrayLike, name: str, kinds: str) -> _Array:
    """An array whose dtype is of one of these kinds; an empty sequence counts as integers."""
    array: _Array = np.asarray(value)
    if array.size == 0 and not is_array(value):
        return array.astype(np.int64)
    if array.dtype.kind not in kinds:
        raise TypeError(f"{name} must be integers, not {array.dtype}")
    return array


# ---- LSTM: streams ----------------------------------------------------------------------------


def streamable(bidirectional: bool, reverse: bool) -> None:
    if bidirectional or reverse:
        raise ValueError("an LSTM that begins at the last step, in any direction, has no stream")


def stream_batch(batch: Any) -> int | None:
    if batch is None:
        return None
    if isinstance(batch, (bool, np.bool_)) or not hasattr(batch, "__index__"):
        raise TypeError(f"batch must be an integer from 0, or None, not {batch!r}")
    if operator.index(batch) < 0:
        raise ValueError(f"batch must be an integer from 0, or None, not {batch!r}")
    if operator.index(batch) > sys.maxsize:
        raise MemoryError(f"no memory for {batch!r} streams")
    return operator.index(batch)


def stream_input(
    x: ArrayLike, batch: int | None, input_size: int, dtype: np.dtype[Any]
) -> _Array:
    """x (n,), or (batch, n)."""
    shape = (input_size,) if batch is None else (batch, input_size)
    return _shaped(x, "x", shape, dtype)


def stream_rows(rows: Any, batch: int | None) -> _Array:
    """Which of a batch are meant by an integer, integers, a slice or a mask: bool (batch,)."""
    if batch is None:
        raise TypeError("this stream has no batch, so no rows to choose: leave rows out")
    chosen = np.zeros(batch, np.bool_)
    if not isinstance(rows, slice):
        rows = integers(rows, "rows", "iub")
        if rows.dtype == np.bool_ and rows.shape != chosen.shape:
            raise IndexError(f"rows of shape {rows.shape} must be of shape {chosen.shape}, as a mask")
    chosen[rows] = True
    return chosen


# ---- LSTM: pickles ----------------------------------------------------------------------------


def make(name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """The LSTM or LSTMCell of a pickle, whether or not the core is there where it is loaded."""
    import fastgate

    return getattr(fastgate, name)(*arguments, **options)


def make_stream(source: Any, batch: int | None, h: _Array, c: _Array) -> Any:
    """The stream of a pickle or a copy."""
    stream = source.stream(batch)
    stream.state = (h, c)
    return stream
