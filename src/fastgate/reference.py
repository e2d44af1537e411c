"""The same API in NumPy: float64 throughout, rounded to float32 once at the end.

It is the oracle of the tests, and what runs where the compiled core cannot be loaded.
"""

from __future__ import annotations

import numpy as np

from fastgate import _check

TYPE_CHECKING = False  # not from typing, for the sake of the import time
if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

    _Array = NDArray[np.float32]
    _Float64 = NDArray[np.float64]


def sigmoid(z: _Float64) -> _Float64:
    """1 / (1 + exp(-z)), from an exp that cannot overflow."""
    t = np.exp(-np.abs(z))
    result: _Float64 = np.where(z < 0, t, 1.0) / (1 + t)
    return result


def affine(x: _Float64, weight: _Float64, bias: _Float64) -> _Float64:
    """x (..., n), weight (m, n), bias (m,) -> (..., m).

    Row by row of the batch, each output a pairwise sum over contiguous products: unlike a BLAS
    call, its bits depend on nothing but the row of x and the row of the weights.
    """
    z = np.empty((*x.shape[:-1], len(weight)))
    for row in np.ndindex(x.shape[:-1] if z.size else (0,)):
        np.sum(weight * x[row], axis=1, out=z[row])
    z += bias
    return z


class Gate:
    """sigmoid(weight @ x + bias); see fastgate.Gate."""

    __slots__ = ("_bias", "_weight")

    def __init__(
        self,
        weight: ArrayLike,
        bias: ArrayLike | None = None,
        *,
        storage: str = "float32",
        threads: int = 1,
    ) -> None:
        _check.options(storage, threads)
        weight, bias = _check.parameters(weight, bias)
        self._weight: _Float64 = weight.astype(np.float64, order="C")
        self._bias: _Float64 = np.zeros(len(weight)) if bias is None else bias.astype(np.float64)

    @classmethod
    def from_augmented(
        cls, weight: ArrayLike, *, storage: str = "float32", threads: int = 1
    ) -> Gate:
        """A gate from the textbook form W [1; x]: column 0 of weight is the bias."""
        weight, bias = _check.augmented(weight)
        return cls(weight, bias, storage=storage, threads=threads)

    def __call__(self, *parts: ArrayLike, out: Any = None) -> Any:
        """sigmoid(weight @ x + bias) -> y: (n,) -> (m,), (..., n) -> (..., m)."""
        x = np.concatenate(_check.inputs(parts, self._weight.shape), axis=-1, dtype=np.float64)
        if out is not None:
            target = _check.output(out, x.shape[:-1] + self._bias.shape)
        with np.errstate(all="ignore"):  # NaN, infinity and underflow are results like others
            y = sigmoid(affine(x, self._weight, self._bias)).astype(np.float32)
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
        """How fastgate.Gate holds the weights."""
        return "float32"

    @property
    def nbytes(self) -> int:
        """Bytes of the weights and biases."""
        return self._weight.nbytes + self._bias.nbytes

    @property
    def threads(self) -> int:
        """Threads that a call runs on."""
        return 1

    def __repr__(self) -> str:
        return (
            f"Gate(input_size={self.input_size}, output_size={self.output_size}, "
            f"storage={self.storage!r}, threads={self.threads})"
        )

    def __reduce__(self) -> tuple[Any, tuple[_Array, _Array]]:
        import fastgate

        # as the fallback it becomes what fastgate.Gate is where the pickle is loaded
        make = _check.unpickle if fastgate._core is None else Gate
        return make, (self._weight.astype(np.float32), self._bias.astype(np.float32))

    def __copy__(self) -> Gate:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Gate:
        return self


class BoundGate:
    """A gate with its inputs and its output: call it without arguments. Made by Gate.bind."""

    __slots__ = ("_gate", "_out", "_parts", "_target")

    def __init__(self, gate: Gate, parts: tuple[Any, ...], out: Any) -> None:
        shape = (gate.output_size, gate.input_size)
        self._parts, self._target = _check.bindable(parts, out, shape)
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
    return Gate(weight, bias)(x, out=out)
