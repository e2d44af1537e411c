"""Converts the arrays that users give, or refuses them with a message that says what to write instead.

A conversion may run the user's code, such as `__array__`, which may change arrays that were converted before.  So an
entry point first converts all its arguments, with the functions as_* and *_arguments, and then checks them, with the
functions check_*, which run only code of fastgate and NumPy.
"""

from __future__ import annotations

import sys
from numbers import Real

import numpy as np

TYPE_CHECKING = False  # importing typing takes too long
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

    _Array = NDArray[Any]

STORAGES = ("float32", "float16", "bfloat16", "int8", "float64")


def dtype_of(storage: str) -> np.dtype[Any]:
    """The dtype of inputs and outputs: float64 for the storage "float64", float32 for all others."""
    return np.dtype(np.float64 if storage == "float64" else np.float32)


# ---- conversions ------------------------------------------------------------------------------


def is_buffer(value: object) -> bool:
    try:
        memoryview(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def is_array(value: object) -> bool:
    """Whether a value has a dtype of its own, unlike a number or a plain sequence."""
    array_like = ("dtype", "__array__", "__array_interface__", "__array_struct__")
    return any(hasattr(value, name) for name in array_like) or is_buffer(value)


def converted(value: ArrayLike, name: str) -> _Array:
    """value as an ndarray, not of a subclass.  Raises TypeError, with what to write, if it cannot be one."""
    masked = sys.modules.get("numpy.ma")  # importing it takes long, and without it there are no masked arrays
    if masked and isinstance(value, masked.MaskedArray) and np.any(value.mask):
        raise TypeError(f"{name} is a masked array, whose masked elements have no value: write {name}.filled(...)")
    if type(value).__name__ == "PackedSequence":
        raise TypeError(
            f"{name} is a PackedSequence: write x, lengths = torch.nn.utils.rnn.pad_packed_sequence({name}), "
            "and give x.numpy() and lengths="
        )
    try:
        return np.asarray(value)
    except Exception as error:
        if not is_array(value) or isinstance(error, MemoryError):
            raise
        hint = ""
        if hasattr(value, "detach"):  # a torch tensor that requires a gradient, is on a GPU or is of bfloat16
            hint = f": write {name}.detach().cpu().float().numpy()"
        raise TypeError(f"{name} of type {type(value).__name__} cannot be an array ({error}){hint}") from error


def as_array(
    value: ArrayLike, name: str, dtype: np.dtype[Any], storage: str = "", taker: str = "gate"
) -> _Array:
    """value as an array of this dtype, in any layout.  An array that has the dtype is not copied.

    Plain sequences of numbers are converted.  An array or buffer of another dtype raises TypeError, except that
    weights and biases may be of the type of a 16-bit `storage`.  `taker` is "gate" or "LSTM", for messages.
    """
    array = converted(value, name)
    if not is_array(value):
        numbers = array.dtype.kind in "biuf"
        if array.dtype.kind == "O":  # fractions and large integers
            numbers = all(isinstance(element, Real) for element in array.flat)
        if not numbers and array.size:
            raise TypeError(f"{name} must be numbers, not {array.dtype}")
        with np.errstate(all="ignore"):  # numbers beyond the range become infinite, tiny ones become 0
            return array.astype(dtype)
    if array.dtype == dtype:  # two C types may be equal but have different numbers, such as double and long double
        return array if array.dtype.num == dtype.num else array.astype(dtype)
    given = array.dtype.name if array.dtype.isnative else ""  # compared by name, as bfloat16 is ml_dtypes' own type
    if given == storage and given in ("float16", "bfloat16"):
        return array.astype(dtype)
    cast = f"{name}.astype(numpy.{dtype})"
    if not isinstance(value, np.ndarray):
        cast = f"numpy.asarray({name}, numpy.{dtype})"
    is_weight = name == "weight" or name.rpartition(".")[2].startswith(("weight", "bias", "peep", "proj"))
    if is_weight and given in STORAGES and given != "int8" and (taker != "gate" or name == "weight"):
        stored = f"storage={given!r}"
        cast += f", or {stored if taker != 'gate' else f'fastgate.Gate({name}, {stored})'}"
    raise TypeError(f"{name} is {array.dtype}, but the {taker} takes {dtype}: write {cast}")


def as_input(value: ArrayLike, name: str, dtype: np.dtype[Any], taker: str = "gate") -> _Array:
    """value as as_array converts it, C-contiguous and aligned."""
    return contiguous(as_array(value, name, dtype, taker=taker))


def as_bound(value: Any, name: str, dtype: np.dtype[Any]) -> _Array:
    """An array over the memory of value, an array or buffer of this dtype.  check_layout checks its layout later."""
    if not isinstance(value, np.ndarray) and not is_buffer(value):
        raise TypeError(f"bind takes arrays or buffers, which it reads in place, not {type(value).__name__}")
    return as_array(value, name, dtype)


def gate_arguments(
    parts: Sequence[Any], out: Any, dtype: np.dtype[Any], bound: bool = False
) -> tuple[tuple[_Array, ...], _Array | None]:
    """Convert the arguments of Gate.__call__, or of Gate.bind -> the parts of x, an array over out (None without)."""
    convert = as_bound if bound else as_input
    arrays = tuple([convert(part, name, dtype) for part, name in zip(parts, part_names(len(parts)))])
    return arrays, as_output(out) if bound or out is not None else None


def joined(arrays: Sequence[_Array], weight_shape: tuple[int, int]) -> _Array:
    """All parts of x, checked, as one array."""
    check_inputs(arrays, weight_shape)
    return contiguous(np.concatenate(arrays, axis=-1))


def cell_arguments(
    x: Any, h: Any, c: Any, out: Any, sizes: tuple[int, int, int], dtype: np.dtype[Any]
) -> tuple[Any, ...]:
    """Convert the arguments of LSTMCell.__call__ -> x, h, c, out, an array over each of the two in out.

    sizes are the last axes of x, h and c.  The last three results are None without out.
    """
    x = as_input(x, "x", dtype, "LSTM")
    if (h is None) != (c is None):
        raise TypeError("h and c belong together: give both, or neither")
    if h is None:
        check_last(x, "x", sizes[0])
        h, c = (np.zeros((*x.shape[:-1], size), dtype) for size in sizes[1:])
    h, c = as_input(h, "h", dtype, "LSTM"), as_input(c, "c", dtype, "LSTM")
    if out is None:
        return x, h, c, None, None, None
    out = as_pair(out, "out")
    return x, h, c, out, as_output(out[0], "out[0]"), as_output(out[1], "out[1]")


def aligned(array: _Array) -> _Array:
    """array, or a copy if the addresses of its elements are not multiples of their size."""
    return array if array.flags.aligned else array.copy(order="C")


def contiguous(array: _Array) -> _Array:
    """array if it is C-contiguous and aligned, or a copy that is."""
    return np.require(array, requirements=["C", "A"])


def as_output(out: Any, name: str = "out") -> _Array:
    """An array over the memory of out, of any shape and dtype.  check_output checks these later."""
    if isinstance(out, np.ndarray) or is_buffer(out):
        return converted(out, name)
    if not hasattr(out, "__dlpack__"):
        raise TypeError(f"{name} must be an array, a writable buffer or a tensor, not {type(out).__name__}")
    try:
        array = np.from_dlpack(out)
    except Exception as error:
        raise TypeError(f"{name} of type {type(out).__name__} is not in the memory of the CPU ({error})") from error
    if not array.flags.writeable:  # as all from NumPy before 2.1: another array over the same memory may be writable
        other = converted(out, name)
        if (other.ctypes.data, other.shape, other.strides) == (array.ctypes.data, array.shape, array.strides):
            return other
    return array


def sequence_arguments(
    x: Any, state: Any, lengths: Any, out: Any, dtype: np.dtype[Any]
) -> tuple[Any, ...]:
    """Convert the arguments of LSTM.__call__ -> x, h, c, the two arrays of as_lengths, an array over out.

    All but x are None where the argument is.
    """
    x = as_input(x, "x", dtype, "LSTM")
    h = c = counts = unsigned = None
    if state is not None:
        h, c = (as_input(a, f"state[{i}]", dtype, "LSTM") for i, a in enumerate(as_pair(state, "state")))
    if lengths is not None:
        counts, unsigned = as_lengths(lengths)
    return x, h, c, counts, unsigned, None if out is None else as_output(out)


def as_pair(value: Any, name: str) -> tuple[Any, Any]:
    """value as a tuple (h, c)."""
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name} must be a pair (h, c), not {type(value).__name__}")
    if len(value) != 2:
        raise TypeError(f"{name} must be a pair (h, c), not {len(value)} values")
    return value if type(value) is tuple else (value[0], value[1])


def as_integers(value: ArrayLike, name: str, kinds: str = "iu") -> _Array:
    """A copy of value as an array.  Raises TypeError if the kind of its dtype is not one of `kinds`.

    An empty plain sequence counts as integers.
    """
    array = converted(value, name)
    if array.size == 0 and not is_array(value):
        return array.astype(np.int64)
    if array.dtype.kind not in kinds:
        raise TypeError(f"{name} must be {'bool' if kinds == 'b' else 'integers'}, not {array.dtype}")
    return array.copy()


def as_state(value: Any, shapes: Sequence[tuple[int, ...]], batch: int | None, dtype: np.dtype[Any]) -> list[_Array]:
    """Copies of (h, c) in these shapes, for a stream.  For a batch of one, or None, its axis may be there or not."""
    arrays = [as_input(array, f"state[{i}]", dtype, "LSTM") for i, array in enumerate(as_pair(value, "state"))]
    copies = [array.astype(dtype, order="C") for array in arrays]  # other threads cannot change these
    for i, shape in enumerate(shapes):
        lead = shape[:-1] if batch is None else shape[:-2]
        if batch in (None, 1) and copies[i].shape in ((*lead, 1, shape[-1]), (*lead, shape[-1])):
            copies[i] = copies[i].reshape(shape)
        check_shape(copies[i], f"state[{i}]", shape)
    return copies


def as_lengths(lengths: ArrayLike) -> tuple[_Array, _Array]:
    """A copy of lengths, and a contiguous one of size_t, in which negative lengths become larger than any steps."""
    counts = as_integers(lengths, "lengths")
    return counts, counts.astype(np.uintp, order="C")


# ---- checks, which raise ValueError or TypeError ------------------------------------------------


def check_layout(array: _Array, name: str) -> None:
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} must be C-contiguous, but shape {array.shape} has strides {array.strides}")
    if not array.flags.aligned:
        raise ValueError(f"{name} must be aligned: its address must be a multiple of {array.itemsize}")


def check_output(array: _Array, shape: tuple[int, ...], dtype: np.dtype[Any], name: str = "out") -> None:
    """Check that a result of this shape and dtype can be written to an array of as_output."""
    if array.dtype != dtype:
        raise TypeError(
            f"{name} is {array.dtype}, but the result is {dtype}: make it with numpy.empty({shape}, numpy.{dtype})"
        )
    if array.shape != shape:
        raise ValueError(f"{name} is of shape {array.shape}, but the result is of shape {shape}")
    if not array.flags.writeable:
        raise ValueError(f"{name} is read-only")
    check_layout(array, name)


def check_inputs(arrays: Sequence[_Array], weight_shape: tuple[int, int]) -> None:
    """Check that the parts of x are (..., n_i), with the same leading axes, and that the n_i add up to n."""
    names = part_names(len(arrays))
    for array, name in zip(arrays, names):
        if array.ndim == 0:
            raise ValueError(f"{name} of shape () has no axis; weight is of shape {weight_shape}")
    shapes = ", ".join(str(array.shape) for array in arrays)
    if len({array.shape[:-1] for array in arrays}) > 1:
        raise ValueError(f"the parts must share their leading axes, but are of shapes {shapes}")
    size = sum(array.shape[-1] for array in arrays)
    if size != weight_shape[1]:
        one = len(arrays) == 1
        raise ValueError(
            f"{'x of shape' if one else 'parts of shapes'} {shapes} {'has' if one else 'have'} {size} elements in the "
            f"last axis, but weight of shape {weight_shape} takes {weight_shape[1]}"
        )


def check_gate_call(
    arrays: Sequence[_Array], target: _Array | None, weight_shape: tuple[int, int], dtype: np.dtype[Any]
) -> None:
    """Check what gate_arguments gave for a gate of this weight."""
    check_inputs(arrays, weight_shape)
    if target is not None:
        check_output(target, (*arrays[0].shape[:-1], weight_shape[0]), dtype)


def check_cell_call(
    x: _Array, state: Sequence[_Array], targets: Sequence[_Array | None], sizes: tuple[int, int, int], dtype: Any
) -> None:
    """Check what cell_arguments gave for an LSTMCell of these sizes."""
    check_last(x, "x", sizes[0])
    shapes = [(*x.shape[:-1], size) for size in sizes[1:]]
    for array, name, shape in zip(state, "hc", shapes):
        check_shape(array, name, shape, f" for x of shape {x.shape}")
    for i, target in enumerate(targets):
        if target is not None:
            check_output(target, shapes[i], dtype, f"out[{i}]")


def check_sequence_call(
    x: _Array,
    state: Sequence[_Array | None],
    counts: _Array | None,
    target: _Array | None,
    batch_first: bool,
    sizes: tuple[int, ...],
    dtype: np.dtype[Any],
) -> None:
    """Check what sequence_arguments gave for an LSTM.  sizes: of x, h and c, layers * directions, of y."""
    check_sequence(x, sizes[0], batch_first)
    batch = x.shape[1 - batch_first : 2 - batch_first] if x.ndim == 3 else ()
    for i, array in enumerate(state):
        if array is not None:
            check_shape(array, f"state[{i}]", (sizes[3], *batch, sizes[1 + i]))
    if counts is not None:
        check_lengths(counts, batch, x.shape[x.ndim - 2 if batch_first else 0], x.shape)
    if target is not None:
        check_output(target, (*x.shape[:-1], sizes[4]), dtype)


def part_names(count: int) -> list[str]:
    """The names of the parts of x in messages.  Raises TypeError if there are none."""
    if not count:
        raise TypeError("a gate needs at least one input")
    return ["x"] if count == 1 else [f"parts[{i}]" for i in range(count)]


def check_shape(array: _Array, name: str, shape: tuple[int, ...], why: str = "") -> None:
    if array.shape != shape:
        raise ValueError(f"{name} of shape {array.shape} must be of shape {shape}{why}")


def check_last(array: _Array, name: str, size: int) -> None:
    """Check that array is (..., size)."""
    if array.ndim == 0 or array.shape[-1] != size:
        raise ValueError(f"{name} of shape {array.shape} must be of shape (..., {size})")


def check_sequence(x: _Array, input_size: int, batch_first: bool) -> None:
    """Check that x is (T, n) or, with a batch, (T, B, n), which is (B, T, n) if batch_first."""
    if x.ndim not in (2, 3) or x.shape[-1] != input_size:
        batched = "B, T" if batch_first else "T, B"
        raise ValueError(f"x of shape {x.shape} must be (T, {input_size}) or ({batched}, {input_size})")


def check_lengths(counts: _Array, batch: tuple[int, ...], steps: int, shape: tuple[int, ...]) -> None:
    """Check that counts has a length from 0 to `steps` for each row of the batch.

    batch is (B,), or () if x, of this shape, has no batch.
    """
    if not batch:
        raise ValueError(f"lengths are for a batch, but x is of shape {shape}")
    if counts.shape != batch:
        raise ValueError(f"lengths of shape {counts.shape} must be of shape {batch} for x of shape {shape}")
    wrong = (counts < 0) | (counts > steps)
    if wrong.any():
        raise ValueError(f"lengths must be from 0 to {steps}, but one is {counts[wrong][0]}")
