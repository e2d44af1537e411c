"""The same API in NumPy: float64 throughout, rounded to float32 once at the end.

Weights are first rounded as the storage does it, and for float64 storage all is computed in
long double, where that has more bits (x86-64, AArch64 Linux), and rounded to float64.

It is the oracle of the tests, and what runs where the compiled core cannot be loaded.
"""

from __future__ import annotations

import numpy as np

from fastgate import _check

TYPE_CHECKING = False  # not from typing, for the sake of the import time
if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

    _Array = NDArray[Any]


def rounded(weight: _Array, storage: str) -> _Array:
    """weight (m, n), as _check.parameters gives it -> the values that a gate of this storage holds.

    ValueError if it cannot hold them.
    """
    if storage in ("float32", "float64"):
        return weight
    if why := _check.refusal(weight, storage):
        raise ValueError(why)
    with np.errstate(all="ignore"):  # underflow
        if storage == "float16":
            return weight.astype(np.float16).astype(np.float32)
        if storage == "bfloat16":
            bits = weight.astype(np.float32, order="C").view(np.uint32)  # a copy
            bits += 0x7FFF + (bits >> 16 & 1)  # half a unit, or a little less if the last bit is even
            bits &= 0xFFFF0000
            return np.where(np.isnan(weight), weight, bits.view(np.float32))
        scale = np.abs(weight).max(axis=1, initial=0, keepdims=True) / np.float32(127)
        scale = (scale.view(np.uint32) & 0xFFFFFF80).view(np.float32)  # integer * scale is then exact
        integers = np.rint(weight / np.where(scale == 0, np.float32(np.inf), scale))
        result: _Array = np.clip(integers, -127, 127) * scale
        return result


def sigmoid(z: _Array) -> _Array:
    """1 / (1 + exp(-z)), from an exp that cannot overflow."""
    t = np.exp(-np.abs(z))
    result: _Array = np.where(z < 0, t, 1.0) / (1 + t)
    return result


def affine(x: _Array, weight: _Array, bias: _Array) -> _Array:
    """x (..., n), weight (m, n), bias (m,) -> (..., m), of the dtype of x.

    Row by row of the batch, each output a pairwise sum over contiguous products: unlike a BLAS
    call, its bits depend on nothing but the row of x and the row of the weights.
    """
    z = np.empty((*x.shape[:-1], len(weight)), x.dtype)
    for row in np.ndindex(x.shape[:-1] if z.size else (0,)):
        np.sum(weight * x[row], axis=1, out=z[row])
    z += bias
    return z


class Gate:
    """sigmoid(weight @ x + bias), on one thread; see fastgate.Gate."""

    __slots__ = ("_bias", "_storage", "_threads", "_weight")

    def __init__(
        self,
        weight: ArrayLike,
        bias: ArrayLike | None = None,
        *,
        storage: str = "float32",
        threads: int | str = 1,
    ) -> None:
        self._storage, self._threads = _check.options(storage, threads)
        weight, bias = _check.parameters(weight, bias, self._storage)
        self._weight: _Array = rounded(weight, self._storage).astype(np.float64, order="C")
        self._bias: _Array = np.zeros(len(weight)) if bias is None else bias.astype(np.float64)

    @classmethod
    def from_augmented(
        cls, weight: ArrayLike, *, storage: str = "float32", threads: int | str = 1
    ) -> Gate:
        """A gate from the textbook form W [1; x]: column 0 of weight is the bias."""
        weight, bias = _check.augmented(weight, storage)
        return cls(weight, bias, storage=storage, threads=threads)

    def __call__(self, *parts: ArrayLike, out: Any = None) -> Any:
        """sigmoid(weight @ x + bias) -> y: (n,) -> (m,), (..., n) -> (..., m)."""
        dtype = _check.dtype_of(self._storage)
        precise = np.longdouble if dtype == np.float64 else np.float64
        arrays = _check.inputs(parts, self._weight.shape, dtype)
        x = np.concatenate(arrays, axis=-1, dtype=precise)
        if out is not None:
            target = _check.output(out, x.shape[:-1] + self._bias.shape, dtype)
        with np.errstate(all="ignore"):  # NaN, infinity and underflow are results like others
            y = sigmoid(affine(x, self._weight, self._bias)).astype(dtype)
        if out is None:
            return y
        target[...] = y
        return out

    def bind(self, *parts: Any, out: Any) -> BoundGate:
        """A function of no arguments: self(*parts, out=out)."""
        return BoundGate(self, parts, out)

    @property
    def input_size(self) -> int:
        """Elements of x."""
        return int(self._weight.shape[1])

    @property
    def output_size(self) -> int:
        """Elements of y."""
        return len(self._weight)

    @property
    def storage(self) -> str:
        """What the weights are rounded to."""
        return self._storage

    @property
    def nbytes(self) -> int:
        """Bytes of the weights and biases."""
        return self._weight.nbytes + self._bias.nbytes

    @property
    def threads(self) -> int:
        """Threads that a call of fastgate.Gate would run on."""
        return _check.threads_now(self._threads)

    def __repr__(self) -> str:
        return (
            f"Gate(input_size={self.input_size}, output_size={self.output_size}, "
            f"storage={self.storage!r}, threads={self.threads})"
        )

    def __reduce__(self) -> tuple[Any, tuple[_Array, _Array, str, int]]:
        import fastgate

        # as the fallback it becomes what fastgate.Gate is where the pickle is loaded
        make = _check.unpickle if fastgate._core is None else _unpickle
        dtype = _check.dtype_of(self._storage)
        weight, bias = (array.astype(dtype) for array in (self._weight, self._bias))
        return make, (weight, bias, self._storage, self._threads)

    def __copy__(self) -> Gate:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Gate:
        return self


def _unpickle(weight: _Array, bias: _Array, storage: str, threads: int) -> Gate:
    return Gate(weight, bias, storage=storage, threads=threads)


class BoundGate:
    """A gate with its inputs and its output: call it without arguments. Made by Gate.bind."""

    __slots__ = ("_gate", "_out", "_parts", "_target")

    def __init__(self, gate: Gate, parts: tuple[Any, ...], out: Any) -> None:
        shape = (gate.output_size, gate.input_size)
        dtype = _check.dtype_of(gate.storage)
        self._parts, self._target = _check.bindable(parts, out, shape, dtype)
        self._gate = gate
        self._out = out

    def __call__(self) -> Any:
        """Read the inputs, write the output and return it."""
        self._gate(*self._parts, out=self._target)
        return self._out

    def __repr__(self) -> str:
        return f"<bound {self._gate!r}>"

    def __reduce__(self) -> Any:
        raise TypeError("a bound call belongs to its arrays: it is neither pickled nor copied")


def gate(
    x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None, *, out: Any = None
) -> Any:
    """sigmoid(weight @ x + bias) once; see fastgate.gate."""
    return Gate(weight, bias, storage=_check.one_shot_storage(weight))(x, out=out)
