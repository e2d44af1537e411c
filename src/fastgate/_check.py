"""What the compiled core and the reference accept: one place for every conversion and refusal.

The compiled core comes here only with what it cannot take as it lies, so nothing in here counts
for its speed.
"""

from __future__ import annotations

import operator
import os

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
    return override or made_with


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


def as_array(value: ArrayLike, name: str, dtype: np.dtype[Any], storage: str = "") -> _Array:
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
    if name == "weight" and given in STORAGES and given != "int8":
        cast += f", or fastgate.Gate({name}, storage={given!r})"
    raise TypeError(f"{name} is {array.dtype}, but the gate takes {dtype}: write {cast}")


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


def refusal(weight: _Array, storage: str) -> str:
    """Why a 16-bit or int8 storage cannot hold weight, an array of float32; "" if it can."""
    finite = np.isfinite(weight)
    if storage == "int8":
        if finite.all():
            return ""
        example = weight[~finite].flat[0]
        return f"weight has elements that are not finite ({example}): storage='int8' cannot hold them"
    largest_held, limit = RANGES[storage]
    largest = np.abs(weight).max(initial=0, where=finite)
    if largest < limit:
        return ""
    return f"weight has magnitudes up to {largest:g}, but storage={storage!r} ends at {largest_held:g}"


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


def output(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> _Array:
    """The array that writes into `out`, an array or writable buffer of this very shape."""
    if not isinstance(out, np.ndarray) and not is_buffer(out):
        raise TypeError(f"out must be an array or a writable buffer, not {type(out).__name__}")
    array: _Array = np.asarray(out)
    if array.dtype != dtype:
        raise TypeError(
            f"out is {array.dtype}, but the result is {dtype}: "
            f"make it with numpy.empty({shape}, numpy.{dtype})"
        )
    if array.shape != shape:
        raise ValueError(f"out is of shape {array.shape}, but the result is of shape {shape}")
    if not array.flags.writeable:
        raise ValueError("out is read-only")
    refuse_layout(array, "out")
    return array


def bindable(
    parts: Sequence[Any], out: Any, weight_shape: tuple[int, int], dtype: np.dtype[Any]
) -> tuple[list[_Array], _Array]:
    """The arrays of a bound call: they must be usable as they lie, call after call."""
    for part in parts:
        if not isinstance(part, np.ndarray) and not is_buffer(part):
            raise TypeError(f"bind reads its inputs in place: not from a {type(part).__name__}")
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
