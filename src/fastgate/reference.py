"""The same API in NumPy: the oracle of the tests, and the fallback where the compiled core cannot be loaded.

It computes in float64, and rounds to float32 once, at the end of a gate or of an LSTM's step.  Weights are first
rounded as by the storage.  With the storage "float64" it computes in long double, which has more bits on x86-64 and
AArch64 Linux, and rounds to float64.  It cannot save and load.
"""

from __future__ import annotations

import numpy as np

from fastgate import _arrays, _parameters
from fastgate._arrays import as_input, dtype_of
from fastgate._sources import CellSources, LSTMSources

TYPE_CHECKING = False  # importing typing takes too long
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

    from numpy.typing import ArrayLike, NDArray

    _Array = NDArray[Any]
    _Cell = dict[str, Any]

GATES = ("input", "forget", "cell", "output", "c")  # the keys of LSTM.gates


# ---- numbers ----------------------------------------------------------------------------------


def rounded(weight: _Array, storage: str) -> _Array:
    """weight (m, n) of dtype_of(storage) -> the values that a gate of this storage holds.

    Raises ValueError if it cannot hold them.
    """
    if storage in ("float32", "float64"):
        return weight
    if problem := _parameters.storage_problem(weight, storage):
        raise ValueError(problem)
    with np.errstate(all="ignore"):  # underflow
        if storage == "float16":
            return weight.astype(np.float16).astype(np.float32)
        if storage == "bfloat16":
            bits = weight.astype(np.float32, order="C").view(np.uint32)
            bits += 0x7FFF + (bits >> 16 & 1)  # half a unit of the last place, or a little less if it is even
            bits &= 0xFFFF0000
            return np.where(np.isnan(weight), weight, bits.view(np.float32))
        # int8: integers from -127 to 127 times a scale for each row
        scale = np.abs(weight).max(axis=1, initial=0, keepdims=True) / np.float32(127)
        scale = (scale.view(np.uint32) & 0xFFFFFF80).view(np.float32)  # so that integer * scale is exact
        integers = np.rint(weight / np.where(scale == 0, np.float32(np.inf), scale))
        result: _Array = np.clip(integers, -127, 127) * scale
        return result


def sigmoid(z: _Array) -> _Array:
    """1 / (1 + exp(-z)), computed so that exp cannot overflow."""
    t = np.exp(-np.abs(z))
    result: _Array = np.where(z < 0, t, 1.0) / (1 + t)
    return result


def affine(x: _Array, weight: _Array, bias: _Array) -> _Array:
    """x (..., n), weight (m, n), bias (m,) -> (..., m), of the dtype of x.

    Each output is a pairwise sum of contiguous products.  Unlike those of a BLAS call, its bits depend only on its row
    of x and its row of the weights.
    """
    z = np.empty((*x.shape[:-1], len(weight)), x.dtype)
    for row in np.ndindex(x.shape[:-1] if z.size else (0,)):
        np.sum(weight * x[row], axis=1, out=z[row])
    z += bias
    return z


def cell_gates(cell: _Cell, x: _Array, h: _Array, c: _Array) -> tuple[_Array, ...]:
    """x (..., n), h (..., output_size), c (..., hidden_size) -> i, f, g, o and the next c, before rounding."""
    precise = np.longdouble if cell["dtype"] == np.float64 else np.float64
    clip, gate_clip, peephole = cell["clip"], cell["gate_clip"], cell["peephole"]
    c = c.astype(precise)
    with np.errstate(all="ignore"):  # NaN, infinity and underflow are valid results
        z = affine(np.concatenate([x, h], axis=-1, dtype=precise), cell["weight"], cell["bias"])
        z_i, z_f, z_g, z_o = np.split(z, 4, axis=-1)
        if peephole is not None:
            z_i += peephole[0] * c
            z_f += peephole[1] * c
        i, f = (sigmoid(np.clip(gate, -gate_clip, gate_clip)) for gate in (z_i, z_f))
        if cell["input_forget"]:
            f = 1 - i
        g = np.tanh(np.clip(z_g, -gate_clip, gate_clip))
        c = _flushed(np.clip(f * c + i * g, -clip, clip), cell["dtype"])
        if peephole is not None:
            z_o += peephole[2] * c
        return i, f, g, sigmoid(np.clip(z_o, -gate_clip, gate_clip)), c


def cell_step(cell: _Cell, x: _Array, h: _Array, c: _Array) -> tuple[_Array, _Array]:
    """The arguments of cell_gates -> the next h and c, rounded."""
    *_, o, c = cell_gates(cell, x, h, c)
    with np.errstate(all="ignore"):
        h = _flushed(o * np.tanh(c), cell["dtype"])
        if cell["projection"] is not None:
            h = affine(h, cell["projection"], np.zeros(len(cell["projection"])))
        return h.astype(cell["dtype"]), c.astype(cell["dtype"])


def _flushed(value: _Array, dtype: np.dtype[Any]) -> _Array:
    """value with 0 in place of tiny numbers: a silent stream then decays to 0, not to slow subnormal numbers."""
    return np.where(np.abs(value) < (2.0**-960 if dtype == np.float64 else 2.0**-100), 0.0, value)


def make_cell(parameters: dict[str, Any], storage: str, options: dict[str, Any]) -> _Cell:
    """Make a cell of what _parameters.cell_parameters gave; its [W_ih | W_hh] is rounded, in float64."""
    dtype = dtype_of(storage)
    joined = rounded(np.hstack([parameters["weight_ih"], parameters["weight_hh"]]), storage)
    projection = parameters["projection"]
    if projection is not None:
        projection = rounded(projection, storage).astype(np.float64)
    peephole = parameters["peephole"]
    with np.errstate(all="ignore"):  # a limit that overflows is none
        clip, gate_clip = (dtype.type(options[key]) for key in ("clip", "gate_clip"))
    outputs = parameters["weight_hh"].shape[1]
    return {
        "weight": joined.astype(np.float64),
        "bias": parameters["bias"].astype(np.float64),
        "peephole": None if peephole is None else peephole.astype(np.float64),
        "projection": projection,
        "sizes": (joined.shape[1] - outputs, outputs, len(joined) // 4),  # the last axes of x, h and c
        "dtype": dtype,
        "clip": clip,
        "gate_clip": gate_clip,
        "input_forget": options["input_forget"],
    }


def cell_weights(cell: _Cell) -> dict[str, _Array]:
    """The parameters that make this cell, as the storage rounded them."""
    weight_ih, weight_hh = np.split(cell["weight"], [cell["sizes"][0]], axis=1)
    arrays = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": cell["bias"]}
    arrays |= {key: cell[key] for key in ("peephole", "projection") if cell[key] is not None}
    return {key: array.astype(cell["dtype"], order="C") for key, array in arrays.items()}


def time_major(x: _Array, batch_first: bool) -> _Array:
    """x (T, n), (T, B, n), or (B, T, n) if batch_first -> (T, B, n)"""
    return x[:, np.newaxis] if x.ndim == 2 else x.swapaxes(0, 1) if batch_first else x


def like_input(y: _Array, x: _Array, batch_first: bool) -> _Array:
    """y (T, B, ..) -> y with the axes of x"""
    return y[:, 0] if x.ndim == 2 else y.swapaxes(0, 1) if batch_first else y


def sequence(
    x: Any, state: Any, lengths: Any, out: Any, batch_first: bool, sizes: tuple[int, ...], dtype: Any
) -> tuple[_Array, _Array, _Array, _Array, _Array | None]:
    """Convert and check the arguments of LSTM.__call__ -> x, copies of h_0 and c_0 (sizes[3], B, size), lengths (B,),
    an array over out.  sizes: of x, h and c, layers * directions, of y.
    """
    x, h, c, counts, _, target = _arrays.sequence_arguments(x, state, lengths, out, dtype)
    _arrays.check_sequence_call(x, (h, c), counts, target, batch_first, sizes, dtype)
    steps, rows, _ = time_major(x, batch_first).shape
    shapes = [(sizes[3], rows, size) for size in sizes[1:3]]
    h, c = (np.zeros(s, dtype) if a is None else a.reshape(s).copy() for s, a in zip(shapes, (h, c)))
    return x, h, c, np.full(rows, steps) if counts is None else counts.astype(np.int64), target


# ---- classes ----------------------------------------------------------------------------------


class _Packed:
    """What gates and LSTMs have in common."""

    __slots__ = ("_storage", "_threads")
    _storage: str
    _threads: int

    def save(self, file: Any) -> NoReturn:
        """Raise NotImplementedError: only the compiled core saves."""
        raise NotImplementedError("fastgate.reference cannot save: use the compiled core, or pickle")

    @classmethod
    def load(cls, source: Any) -> NoReturn:
        """Raise NotImplementedError: only the compiled core loads."""
        raise NotImplementedError("fastgate.reference cannot load: use the compiled core")

    @property
    def storage(self) -> str:
        """The storage that the weights are rounded to."""
        return self._storage

    @property
    def threads(self) -> int:
        """The number of threads that a call of the compiled core would use."""
        return _parameters.threads_now(self._threads)

    def _arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, except for storage and threads, that make the same object again."""
        raise NotImplementedError

    def __reduce__(self) -> Any:
        import fastgate

        # A pickle of the fallback may load as the compiled class, where there is one; others stay in this module.
        make = _parameters.make if fastgate._core is None else _make
        arguments, options = self._arguments()
        options = {**options, "storage": self._storage, "threads": self._threads}
        return make, (type(self).__name__, arguments, options)

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self


def _make(name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return globals()[name](*arguments, **options)


class Gate(_Packed):
    """A gate, sigmoid(weight @ x + bias), on one thread; see fastgate.Gate."""

    __slots__ = ("_bias", "_weight")

    def __init__(
        self,
        weight: ArrayLike,
        bias: ArrayLike | None = None,
        *,
        storage: str = "float32",
        threads: int | str = 1,
    ) -> None:
        self._storage, self._threads = _parameters.storage_of(storage), _parameters.thread_count(threads)
        weight, bias = _parameters.gate_parameters(weight, bias, self._storage)
        _parameters.check_gate(weight, bias)
        self._weight: _Array = rounded(weight, self._storage).astype(np.float64, order="C")
        self._bias: _Array = np.zeros(len(weight)) if bias is None else bias.astype(np.float64)

    @classmethod
    def from_augmented(cls, weight: ArrayLike, *, storage: str = "float32", threads: int | str = 1) -> Gate:
        """Make a gate from the textbook form W [1; x]: column 0 of weight is the bias."""
        weight, bias = _parameters.augmented(weight, storage)
        return cls(weight, bias, storage=storage, threads=threads)

    def __call__(self, *parts: ArrayLike, out: Any = None) -> Any:
        """Compute y = sigmoid(weight @ x + bias): (n,) -> (m,), or (..., n) -> (..., m)."""
        dtype = dtype_of(self._storage)
        arrays, target = _arrays.gate_arguments(parts, out, dtype)
        _arrays.check_gate_call(arrays, target, (self.output_size, self.input_size), dtype)
        x = np.concatenate(arrays, axis=-1, dtype=np.longdouble if dtype == np.float64 else np.float64)
        with np.errstate(all="ignore"):  # NaN, infinity and underflow are valid results
            y = sigmoid(affine(x, self._weight, self._bias)).astype(dtype)
        if target is None:
            return y
        target[...] = y
        return out

    def bind(self, *parts: Any, out: Any) -> BoundGate:
        """Return a function without arguments that calls self(*parts, out=out)."""
        return BoundGate(self, parts, out)

    @property
    def input_size(self) -> int:
        """The number of elements of x."""
        return int(self._weight.shape[1])

    @property
    def output_size(self) -> int:
        """The number of elements of y."""
        return len(self._weight)

    @property
    def nbytes(self) -> int:
        """The size of the weights and biases in bytes."""
        return self._weight.nbytes + self._bias.nbytes

    def _arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return tuple(a.astype(dtype_of(self._storage)) for a in (self._weight, self._bias)), {}

    def __repr__(self) -> str:
        return (
            f"Gate(input_size={self.input_size}, output_size={self.output_size}, "
            f"storage={self.storage!r}, threads={self.threads})"
        )


class BoundGate:
    """A gate with its inputs and its output, which is called without arguments. Gate.bind makes it."""

    __slots__ = ("_gate", "_out", "_parts", "_target")

    def __init__(self, gate: Gate, parts: tuple[Any, ...], out: Any) -> None:
        dtype = dtype_of(gate.storage)
        arrays, target = _arrays.gate_arguments(parts, out, dtype, bound=True)
        for array in arrays:
            _arrays.check_layout(array, "an input, which bind reads in place,")
        _arrays.check_gate_call(arrays, target, (gate.output_size, gate.input_size), dtype)
        if any(np.may_share_memory(array, target) for array in arrays):
            raise ValueError("out overlaps an input, which a bound call would overwrite")
        self._gate, self._parts, self._target, self._out = gate, arrays, target, out

    def __call__(self) -> Any:
        """Read the inputs, write the output and return it."""
        self._gate(*self._parts, out=self._target)
        return self._out

    def __repr__(self) -> str:
        return f"<bound {self._gate!r}>"

    def __reduce__(self) -> Any:
        raise TypeError("a BoundGate cannot be pickled or copied, because it is bound to its arrays")


def gate(x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None, *, out: Any = None) -> Any:
    """Compute sigmoid(weight @ x + bias) once; see fastgate.gate."""
    x, weight, bias, target = _parameters.once_arguments(x, weight, bias, out)
    y = Gate(weight, bias, storage=weight.dtype.name)(x, out=target)
    return y if out is None else out


class _Recurrent(_Packed):
    """What LSTMCell and LSTM have in common."""

    __slots__ = ("_cells", "_options")
    _cells: list[_Cell]  # the index is layer * directions + direction
    _options: dict[str, Any]

    @property
    def input_size(self) -> int:
        """The number of elements of x in a step."""
        return int(self._cells[0]["sizes"][0])

    @property
    def hidden_size(self) -> int:
        """The number of elements of c in one layer and direction."""
        return int(self._cells[0]["sizes"][2])

    @property
    def nbytes(self) -> int:
        """The size of the weights and biases in bytes."""
        return sum(array.nbytes for cell in self._cells for array in cell_weights(cell).values())

    def _limits(self) -> dict[str, Any]:
        limits = {key: self._options[key] for key in ("clip", "gate_clip")}
        limits = {key: None if np.isinf(value) else value for key, value in limits.items()}
        return {**limits, "input_forget": self._options["input_forget"]}


class LSTMCell(_Recurrent, CellSources):
    """One step of an LSTM, on one thread; see fastgate.LSTMCell."""

    __slots__ = ()

    def __init__(
        self,
        weight_ih: ArrayLike,
        weight_hh: ArrayLike,
        bias_ih: ArrayLike | None = None,
        bias_hh: ArrayLike | None = None,
        *,
        peephole: ArrayLike | None = None,
        projection: ArrayLike | None = None,
        clip: float | None = None,
        gate_clip: float | None = None,
        input_forget: bool = False,
        storage: str = "float32",
        threads: int | str = 1,
    ) -> None:
        self._storage, self._threads = _parameters.storage_of(storage), _parameters.thread_count(threads)
        self._options = _parameters.lstm_options(clip, gate_clip, input_forget)
        given = (weight_ih, weight_hh, bias_ih, bias_hh, peephole, projection)
        parameters = _parameters.cell_parameters(dict(zip(_parameters.PARAMETERS, given)), self._storage)
        self._cells = [make_cell(parameters, self._storage, self._options)]

    def __call__(self, x: Any, h: Any = None, c: Any = None, *, out: Any = None) -> Any:
        """Compute the next h and c: x (..., n), h (..., output_size), c (..., hidden_size) -> h, c."""
        sizes, dtype = self._cells[0]["sizes"], self._cells[0]["dtype"]
        x, h, c, out, *targets = _arrays.cell_arguments(x, h, c, out, sizes, dtype)
        _arrays.check_cell_call(x, (h, c), targets, sizes, dtype)
        if out is not None and np.may_share_memory(*targets):
            raise ValueError("out[0] and out[1] overlap")
        result = cell_step(self._cells[0], x, h, c)
        if out is None:
            return result
        for target, array in zip(targets, result):
            target[...] = array
        return out

    def stream(self, batch: int | None = None) -> Stream:
        """Return a Stream of `batch` independent sequences, which keeps h and c between steps and begins with zeros."""
        return Stream(self, _parameters.stream_batch(batch))

    @property
    def output_size(self) -> int:
        """The number of elements of h."""
        return int(self._cells[0]["sizes"][1])

    def _arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (), {**cell_weights(self._cells[0]), **self._limits()}

    def __repr__(self) -> str:
        return (
            f"LSTMCell(input_size={self.input_size}, hidden_size={self.hidden_size}, "
            f"output_size={self.output_size}, storage={self.storage!r}, threads={self.threads})"
        )


class LSTM(_Recurrent, LSTMSources):
    """An LSTM of one or several layers, on one thread; see fastgate.LSTM."""

    __slots__ = ("_directions",)

    def __init__(
        self,
        layers: Sequence[Any],
        *,
        batch_first: bool = False,
        reverse: bool = False,
        clip: float | None = None,
        gate_clip: float | None = None,
        input_forget: bool = False,
        storage: str = "float32",
        threads: int | str = 1,
    ) -> None:
        self._storage, self._threads = _parameters.storage_of(storage), _parameters.thread_count(threads)
        self._options = _parameters.lstm_options(clip, gate_clip, input_forget, reverse, batch_first)
        cells, self._directions = _parameters.lstm_parameters(layers, self._storage, self._options["reverse"])
        self._cells = [make_cell(parameters, self._storage, self._options) for parameters in cells]

    def __call__(
        self, x: Any, state: Any = None, *, lengths: Any = None, mask: Any = None, out: Any = None
    ) -> Any:
        """Compute the outputs: x (T, [B,] n), state (h_0, c_0) -> y (T, [B,] output_size), (h_n, c_n)."""
        if mask is not None:
            from fastgate._sequences import run_masked

            return run_masked(self, x, state, mask, lengths, out)
        x, h, c, counts, target = self._sequence(x, state, lengths, out)
        y = like_input(self._run(time_major(x, self.batch_first), h, c, counts), x, self.batch_first)
        if target is None:
            out = y.copy()
        else:
            target[...] = y
        return out, (h[:, 0], c[:, 0]) if x.ndim == 2 else (h, c)

    def gates(
        self, x: Any, state: Any = None, *, lengths: ArrayLike | None = None, layer: int = -1, direction: int = 0
    ) -> dict[str, _Array]:
        """Return what a layer's gates do: x (T, [B,] n) -> {each of GATES: (T, [B,] hidden_size)}."""
        layer, direction = _parameters.chosen_layer(layer, direction, self.num_layers, self._directions)
        x, h, c, counts, _ = self._sequence(x, state, lengths, None)
        y = time_major(x, self.batch_first)
        arrays = np.zeros((len(GATES), *y.shape[:2], self.hidden_size), y.dtype)
        self._run(y, h, c, counts, layer * self._directions + direction, arrays)
        return {name: like_input(a, x, self.batch_first) for name, a in zip(GATES, arrays)}

    def _sequence(self, x: ArrayLike, state: Any, lengths: Any, out: Any) -> Any:
        cell = self._cells[0]
        sizes = (*cell["sizes"], len(self._cells), self.output_size)
        return sequence(x, state, lengths, out, self.batch_first, sizes, cell["dtype"])

    def _run(
        self, y: _Array, h: _Array, c: _Array, counts: _Array, watched: int = -1, gates: _Array | None = None
    ) -> _Array:
        """Run all layers over y (T, B, n), and replace h and c by the states after the last step.

        The gates of the cell with the index `watched` are written to gates (5, T, B, hidden_size).
        """
        for k, cell in enumerate(self._cells):
            direction, size = k % self._directions, cell["sizes"][1]
            if direction == 0:
                y, below = np.zeros((*y.shape[:2], self.output_size), y.dtype), y
            for step in range(counts.max(initial=0)):
                rows = np.flatnonzero(step < counts)
                at = counts[rows] - 1 - step if self.reverse or direction else step
                if gates is not None and k == watched:
                    gates[:, at, rows] = cell_gates(cell, below[at, rows], h[k, rows], c[k, rows])
                h[k, rows], c[k, rows] = cell_step(cell, below[at, rows], h[k, rows], c[k, rows])
                y[at, rows, direction * size : (direction + 1) * size] = h[k, rows]
        return y

    def stream(self, batch: int | None = None) -> Stream:
        """Return a Stream of `batch` independent sequences, which keeps h and c between steps and begins with zeros."""
        _parameters.check_streamable(self.bidirectional, self.reverse)
        return Stream(self, _parameters.stream_batch(batch))

    @property
    def output_size(self) -> int:
        """The number of elements of y in a step."""
        return int(self._directions * self._cells[0]["sizes"][1])

    @property
    def num_layers(self) -> int:
        """The number of layers, each of one or two directions."""
        return len(self._cells) // self._directions

    @property
    def bidirectional(self) -> bool:
        """Whether there are two directions."""
        return self._directions == 2

    @property
    def batch_first(self) -> bool:
        """Whether x is (B, T, n)."""
        return bool(self._options["batch_first"])

    @property
    def reverse(self) -> bool:
        """Whether the only direction goes from the last step to the first."""
        return bool(self._options["reverse"])

    def _arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        layers: list[Any] = [cell_weights(cell) for cell in self._cells]
        if self.bidirectional:
            layers = list(zip(layers[::2], layers[1::2]))
        return (layers,), {"batch_first": self.batch_first, "reverse": self.reverse, **self._limits()}

    def __repr__(self) -> str:
        return (
            f"LSTM(input_size={self.input_size}, hidden_size={self.hidden_size}, "
            f"output_size={self.output_size}, num_layers={self.num_layers}, "
            f"bidirectional={self.bidirectional}, batch_first={self.batch_first}, "
            f"reverse={self.reverse}, storage={self.storage!r}, threads={self.threads})"
        )


class Stream:
    """A sequence, or a batch of them, that arrives step by step. LSTM.stream and LSTMCell.stream make it."""

    __slots__ = ("_batch", "_c", "_h", "_source")

    def __init__(self, source: LSTMCell | LSTM, batch: int | None) -> None:
        self._source = source
        self._batch = batch
        lead = (len(source._cells),) if batch is None else (len(source._cells), batch)
        _, outputs, hidden = source._cells[0]["sizes"]
        self._h: _Array = np.zeros((*lead, outputs), source._cells[0]["dtype"])
        self._c: _Array = np.zeros((*lead, hidden), source._cells[0]["dtype"])

    def step(self, x: ArrayLike, out: Any = None, *, rows: Any = None) -> Any:
        """Advance by one step: x (n,) -> y (output_size,), or (B, n) -> (B, output_size), B being the batch or rows."""
        dtype = self._h.dtype
        chosen = None if rows is None else _parameters.stream_rows(rows, self._batch, distinct=True)
        y = as_input(x, "x", dtype, "LSTM")
        target = None if out is None else _arrays.as_output(out)
        lead = chosen.shape if chosen is not None else () if self._batch is None else (self._batch,)
        _arrays.check_shape(y, "x", (*lead, self._source.input_size))
        if target is not None:
            _arrays.check_output(target, (*lead, self._h.shape[-1]), dtype)
        for k, cell in enumerate(self._source._cells):
            at = (k, ...) if chosen is None else (k, chosen)
            self._h[at], self._c[at] = cell_step(cell, y, self._h[at], self._c[at])
            y = self._h[at]
        if target is None:
            return y.copy()
        target[...] = y
        return out

    @property
    def state(self) -> tuple[_Array, _Array]:
        """The state (h, c), each (num_layers, [B,] size), or for an LSTMCell ([B,] size). Reading it gives copies."""
        h, c = self._own()
        return h.copy(), c.copy()

    @state.setter
    def state(self, state: tuple[ArrayLike, ArrayLike]) -> None:
        shapes = [mine.shape for mine in self._own()]
        for mine, array in zip(self._own(), _arrays.as_state(state, shapes, self._batch, self._h.dtype)):
            mine[...] = array

    def resize(self, batch: int) -> None:
        """Change the number of rows to batch: the first rows keep their states, and new rows begin with zeros."""
        made = Stream(self._source, _parameters.new_batch(batch, self._batch))
        for to, kept in ((made._h, self._h), (made._c, self._c)):
            to[:, : self._batch] = kept[:, :batch]
        self._h, self._c, self._batch = made._h, made._c, made._batch

    def _own(self) -> tuple[_Array, _Array]:
        if isinstance(self._source, LSTMCell):
            return self._h[0], self._c[0]
        return self._h, self._c

    def reset(self, rows: Any = None) -> None:
        """Set the state of all rows to zeros, or of these rows: an int, integers, a slice or a bool mask."""
        chosen = ... if rows is None else _parameters.stream_rows(rows, self._batch)
        self._h[:, chosen] = 0
        self._c[:, chosen] = 0

    @property
    def batch(self) -> int | None:
        """The number of sequences; None means one, without an axis for the batch."""
        return self._batch

    @property
    def source(self) -> LSTMCell | LSTM:
        """The LSTM or LSTMCell that made the stream."""
        return self._source

    def __repr__(self) -> str:
        return f"<stream of {self._source!r}, batch={self._batch}>"

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return _parameters.make_stream, (self._source, self._batch, *self.state)
