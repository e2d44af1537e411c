"""What the compiled core and the reference accept: one place for every conversion and refusal.

The compiled core comes here only with what it cannot take as it lies, so nothing in here counts
for its speed.
"""

from __future__ import annotations

import numpy as np

TYPE_CHECKING = False  # not from typing, for the sake of the import time
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

    _Array = NDArray[np.float32]


def options(storage: str, threads: int) -> None:
    if storage != "float32":
        raise ValueError(f"storage {storage!r} does not exist; there is 'float32'")
    if threads != 1:
        raise ValueError(f"threads must be 1, not {threads!r}")


def is_buffer(value: object) -> bool:
    try:
        memoryview(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def as_float32(value: ArrayLike, name: str) -> _Array:
    """An array of native float32: any layout, shared with `value` where it is an array already.

    Arrays and buffers of another dtype are a TypeError, plain sequences are converted.
    """
    array_like = ("dtype", "__array__", "__array_interface__", "__array_struct__")
    if not (any(hasattr(value, name) for name in array_like) or is_buffer(value)):
        return np.asarray(value, np.float32)
    array: NDArray[Any] = np.asarray(value)
    if array.dtype != np.float32:
        cast = f"{name}.astype(numpy.float32)"
        if not isinstance(value, np.ndarray):
            cast = f"numpy.asarray({name}, numpy.float32)"
        raise TypeError(f"{name} is {array.dtype}, but the gate holds float32: write {cast}")
    return array


def aligned(array: _Array) -> _Array:
    """`array`, or a C-ordered copy if its elements do not lie at multiples of their size."""
    return array if array.flags.aligned else array.copy(order="C")


def parameters(weight: ArrayLike, bias: ArrayLike | None) -> tuple[_Array, _Array | None]:
    """weight (m, n) in any layout, bias (m,) contiguous or None; both aligned."""
    w = as_float32(weight, "weight")
    if w.ndim != 2:
        raise ValueError(f"weight must be (output_size, input_size), not of shape {w.shape}")
    if bias is None:
        return aligned(w), None
    b = as_float32(bias, "bias")
    if b.shape != w.shape[:1]:
        raise ValueError(
            f"bias of shape {b.shape} does not fit weight of shape {w.shape}: "
            f"it must be {w.shape[:1]}"
        )
    return aligned(w), np.ascontiguousarray(aligned(b))


def augmented(weight: ArrayLike) -> tuple[_Array, _Array]:
    """[bias, weight] of shape (m, 1 + n) -> weight, bias; both views."""
    w = as_float32(weight, "weight")
    if w.ndim != 2 or w.shape[1] == 0:
        raise ValueError(f"weight must be (output_size, 1 + input_size), not of shape {w.shape}")
    return w[:, 1:], w[:, 0]


def inputs(parts: Sequence[ArrayLike], weight_shape: tuple[int, int]) -> list[_Array]:
    """The parts of x as C-ordered, aligned arrays (..., n_i), whose n_i add up to n."""
    if not parts:
        raise TypeError("a gate needs at least one input")
    names = ["x"] if len(parts) == 1 else [f"parts[{i}]" for i in range(len(parts))]
    arrays = [as_float32(part, name) for part, name in zip(parts, names)]
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


def refuse_layout(array: NDArray[Any], name: str) -> None:
    if not array.flags.c_contiguous:
        raise ValueError(
            f"{name} must be C-contiguous, but shape {array.shape} has strides {array.strides}"
        )
    if not array.flags.aligned:
        raise ValueError(f"{name} must be aligned: begin at a multiple of 4 bytes")


def output(out: Any, shape: tuple[int, ...]) -> _Array:
    """The array that writes into `out`, an array or writable buffer of this very shape."""
    if not isinstance(out, np.ndarray) and not is_buffer(out):
        raise TypeError(f"out must be an array or a writable buffer, not {type(out).__name__}")
    array: _Array = np.asarray(out)
    if array.dtype != np.float32:
        raise TypeError(
            f"out is {array.dtype}, but the result is float32: "
            f"make it with numpy.empty({shape}, numpy.float32)"
        )
    if array.shape != shape:
        raise ValueError(f"out is of shape {array.shape}, but the result is of shape {shape}")
    if not array.flags.writeable:
        raise ValueError("out is read-only")
    refuse_layout(array, "out")
    return array


def bindable(
    parts: Sequence[Any], out: Any, weight_shape: tuple[int, int]
) -> tuple[list[_Array], _Array]:
    """The arrays of a bound call: they must be usable as they lie, call after call."""
    for part in parts:
        if not isinstance(part, np.ndarray) and not is_buffer(part):
            raise TypeError(f"bind reads its inputs in place: not from a {type(part).__name__}")
    arrays = inputs(parts, weight_shape)
    for part in parts:
        refuse_layout(np.asarray(part), "an input, which bind reads in place,")
    target = output(out, arrays[0].shape[:-1] + weight_shape[:1])
    if any(np.may_share_memory(array, target) for array in arrays):
        raise ValueError("out overlaps an input: bind calls the gate in place, again and again")
    return arrays, target


def unpickle(weight: _Array, bias: _Array) -> Any:
    """The gate of a pickle, whether or not the core is there where it is loaded."""
    import fastgate

    return fastgate.Gate(weight, bias)
