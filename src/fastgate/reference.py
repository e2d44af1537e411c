"""The same API in NumPy: float64 throughout, rounded to float32 once at the end of a gate, or of a
step of an LSTM.

Weights are first rounded as the storage does it, and for float64 storage all is computed in
long double, where that has more bits (x86-64, AArch64 Linux), and rounded to float64.

It is the oracle of the tests, and what runs where the compiled core cannot be loaded.  It saves and
loads nothing.
"""

from __future__ import annotations

import numpy as np

from fastgate import _arrays, _parameters
from fastgate._arrays import as_array, as_input, dtype_of

TYPE_CHECKING = False  # not from typing, for the sake of the import time
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

    from numpy.typing import ArrayLike, NDArray

    _Array = NDArray[Any]
    _Cell = dict[str, Any]

GATES = ("input", "forget", "cell", "output", "c")  # what LSTM.gates gives


# ---- numbers ----------------------------------------------------------------------------------


def rounded(weight: _Array, storage: str) -> _Array:
    """weight (m, n) of dtype_of(storage) -> the values that a gate of this storage holds.

    ValueError if it cannot hold them.
    """
    if storage in ("float32", "float64"):
        return weight
    if why := _parameters.refusal(weight, storage):
        raise ValueError(why)
    with np.errstate(all="ignore"):  # underflow
        if storage == "float16":
            return weight.astype(np.float16).astype(np.float32)
        if storage == "bfloat16":
            bits = weight.astype(np.float32, order="C").view(np.uint32)  # a copy
            bits += 0x7FFF + (bits >> 16 & 1)  # half a unit, or a little less if the last bit is even
            bits &= 0xFFFF0000
            return np.where(np.isnan(weight), weight, bits.view(np.float32))
        # int8: integers of -127 to 127 times a scale for each row
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


def cell_gates(cell: _Cell, x: _Array, h: _Array, c: _Array) -> tuple[_Array, ...]:
    """x (..., n), h (..., output_size), c (..., hidden_size) -> i, f, g, o and the next c, not rounded yet."""
    precise = np.longdouble if cell["dtype"] == np.float64 else np.float64
    clip, gate_clip, peephole = cell["clip"], cell["gate_clip"], cell["peephole"]
    c = c.astype(precise)
    with np.errstate(all="ignore"):  # NaN, infinity and underflow are results like others
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
    """The same -> the next h and c, rounded."""
    *_, o, c = cell_gates(cell, x, h, c)
    with np.errstate(all="ignore"):
        h = _flushed(o * np.tanh(c), cell["dtype"])
        if cell["projection"] is not None:
            h = affine(h, cell["projection"], np.zeros(len(cell["projection"])))
        return h.astype(cell["dtype"]), c.astype(cell["dtype"])


def _flushed(value: _Array, dtype: np.dtype[Any]) -> _Array:
    """A silent stream fades to 0, not to subnormal numbers, which some CPUs handle slowly."""
    return np.where(np.abs(value) < (2.0**-960 if dtype == np.float64 else 2.0**-100), 0.0, value)


def make_cell(parameters: dict[str, Any], storage: str, options: dict[str, Any]) -> _Cell:
    """What _parameters.cell_parameters gives -> [W_ih | W_hh] and the others, as rounded, in float64."""
    dtype = dtype_of(storage)
    joined = rounded(np.hstack([parameters["weight_ih"], parameters["weight_hh"]]), storage)
    projection = parameters["projection"]
    if projection is not None:
        projection = rounded(projection, storage).astype(np.float64)
    peephole = parameters["peephole"]
    with np.errstate(all="ignore"):  # overflow: no limit
        clip, gate_clip = (dtype.type(options[key]) for key in ("clip", "gate_clip"))
    outputs = parameters["weight_hh"].shape[1]
    return {
        "weight": joined.astype(np.float64),
        "bias": parameters["bias"].astype(np.float64),
        "peephole": None if peephole is None else peephole.astype(np.float64),
        "projection": projection,
        "sizes": (joined.shape[1] - outputs, outputs, len(joined) // 4),  # of x, h and c
        "dtype": dtype,
        "clip": clip,
        "gate_clip": gate_clip,
        "input_forget": options["input_forget"],
    }


def cell_weights(cell: _Cell) -> dict[str, _Array]:
    """The parameters of a cell as a user gives them, as rounded by the storage."""
    weight_ih, weight_hh = np.split(cell["weight"], [cell["sizes"][0]], axis=1)
    arrays = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": cell["bias"]}
    arrays |= {key: cell[key] for key in ("peephole", "projection") if cell[key] is not None}
    return {key: array.astype(cell["dtype"], order="C") for key, array in arrays.items()}


def time_major(x: _Array, batch_first: bool) -> _Array:
    """x (T, n), (T, B, n), or (B, T, n) if batch_first -> (T, B, n)"""
    return x[:, np.newaxis] if x.ndim == 2 else x.swapaxes(0, 1) if batch_first else x


def like_input(y: _Array, x: _Array, batch_first: bool) -> _Array:
    """y (T, B, ..) -> with the axes of x"""
    return y[:, 0] if x.ndim == 2 else y.swapaxes(0, 1) if batch_first else y


def sequence(
    x: ArrayLike, state: Any, lengths: Any, batch_first: bool, sizes: tuple[int, int, int, int], dtype: Any
) -> tuple[_Array, _Array, _Array, _Array]:
    """The arguments of LSTM.__call__ -> x, copies of h_0 and c_0 (layers, B, size), and lengths (B,).

    sizes are those of x, h and c, and the number of layers times directions.
    """
    x = as_input(x, "x", dtype, "LSTM")
    given = []
    if state is not None:
        pair = _arrays.as_pair(state, "state")
        given = [as_input(a, f"state[{i}]", dtype, "LSTM").copy() for i, a in enumerate(pair)]
    counts = None if lengths is None else _arrays.as_lengths(lengths)[0]

    _arrays.check_sequence(x, sizes[0], batch_first)
    batch = x.shape[1 - batch_first : 2 - batch_first] if x.ndim == 3 else ()
    steps = x.shape[x.ndim - 2 if batch_first else 0]
    shapes = [(sizes[3], *batch, size) for size in sizes[1:3]]
    for i, array in enumerate(given):
        _arrays.check_shape(array, f"state[{i}]", shapes[i])
    if counts is None:
        counts = np.full(batch or 1, steps)
    else:
        _arrays.check_lengths(counts, batch, steps, x.shape)
    h, c = given or (np.zeros(shape, dtype) for shape in shapes)
    rows = len(counts)
    return x, h.reshape(sizes[3], rows, sizes[1]), c.reshape(sizes[3], rows, sizes[2]), counts.astype(np.int64)


# ---- classes ----------------------------------------------------------------------------------


class _Packed:
    """What gates and LSTMs have in common."""

    __slots__ = ("_storage", "_threads")
    _storage: str
    _threads: int

    def save(self, file: Any) -> NoReturn:
        """The compiled core saves."""
        raise NotImplementedError("fastgate.reference saves nothing; the compiled core does, and pickle does")

    @classmethod
    def load(cls, source: Any) -> NoReturn:
        """The compiled core loads."""
        raise NotImplementedError("fastgate.reference loads nothing; the compiled core does")

    @property
    def storage(self) -> str:
        """What the weights are rounded to."""
        return self._storage

    @property
    def threads(self) -> int:
        """Threads that a call of the compiled core would run on."""
        return _parameters.threads_now(self._threads)

    def _arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What makes the same again."""
        raise NotImplementedError

    def __reduce__(self) -> Any:
        import fastgate

        # as the fallback it becomes what fastgate has where the pickle is loaded
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
    """sigmoid(weight @ x + bias), on one thread; see fastgate.Gate."""

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
        """A gate from the textbook form W [1; x]: column 0 of weight is the bias."""
        weight, bias = _parameters.augmented(weight, storage)
        return cls(weight, bias, storage=storage, threads=threads)

    def __call__(self, *parts: ArrayLike, out: Any = None) -> Any:
        """sigmoid(weight @ x + bias) -> y: (n,) -> (m,), (..., n) -> (..., m)."""
        dtype = dtype_of(self._storage)
        arrays = [as_array(part, name, dtype) for part, name in zip(parts, _arrays.part_names(len(parts)))]
        target = None if out is None else _arrays.as_output(out)
        _arrays.check_inputs(arrays, (self.output_size, self.input_size))
        x = np.concatenate(arrays, axis=-1, dtype=np.longdouble if dtype == np.float64 else np.float64)
        if target is not None:
            _arrays.check_output(target, x.shape[:-1] + self._bias.shape, dtype)
        with np.errstate(all="ignore"):  # NaN, infinity and underflow are results like others
            y = sigmoid(affine(x, self._weight, self._bias)).astype(dtype)
        if target is None:
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
    def nbytes(self) -> int:
        """Bytes of the weights and biases."""
        return self._weight.nbytes + self._bias.nbytes

    def _arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return tuple(a.astype(dtype_of(self._storage)) for a in (self._weight, self._bias)), {}

    def __repr__(self) -> str:
        return (
            f"Gate(input_size={self.input_size}, output_size={self.output_size}, "
            f"storage={self.storage!r}, threads={self.threads})"
        )


class BoundGate:
    """A gate with its inputs and its output: call it without arguments. Made by Gate.bind."""

    __slots__ = ("_gate", "_out", "_parts", "_target")

    def __init__(self, gate: Gate, parts: tuple[Any, ...], out: Any) -> None:
        dtype = dtype_of(gate.storage)
        names = _arrays.part_names(len(parts))
        arrays = [_arrays.as_bound(part, name, dtype) for part, name in zip(parts, names)]
        target = _arrays.as_output(out)
        _arrays.check_inputs(arrays, (gate.output_size, gate.input_size))
        for array in arrays:
            _arrays.check_layout(array, "an input, which bind reads in place,")
        _arrays.check_output(target, (*arrays[0].shape[:-1], gate.output_size), dtype)
        if any(np.may_share_memory(array, target) for array in arrays):
            raise ValueError("out overlaps an input: bind calls the gate in place, again and again")
        self._gate, self._parts, self._target, self._out = gate, arrays, target, out

    def __call__(self) -> Any:
        """Read the inputs, write the output and return it."""
        self._gate(*self._parts, out=self._target)
        return self._out

    def __repr__(self) -> str:
        return f"<bound {self._gate!r}>"

    def __reduce__(self) -> Any:
        raise TypeError("a bound call belongs to its arrays: it is neither pickled nor copied")


def gate(x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None, *, out: Any = None) -> Any:
    """sigmoid(weight @ x + bias) once; see fastgate.gate."""
    array = _parameters.once_weight(weight)
    return Gate(array, bias, storage=array.dtype.name)(x, out=out)


class _Recurrent(_Packed):
    """What LSTMCell and LSTM have in common."""

    __slots__ = ("_cells", "_options")
    _cells: list[_Cell]  # at layer * directions + direction
    _options: dict[str, Any]

    @property
    def input_size(self) -> int:
        """Elements of x in a step."""
        return int(self._cells[0]["sizes"][0])

    @property
    def hidden_size(self) -> int:
        """Elements of c, of one layer and direction."""
        return int(self._cells[0]["sizes"][2])

    @property
    def nbytes(self) -> int:
        """Bytes of the weights, biases and peepholes."""
        return sum(array.nbytes for cell in self._cells for array in cell_weights(cell).values())

    def _limits(self) -> dict[str, Any]:
        limits = {key: self._options[key] for key in ("clip", "gate_clip")}
        limits = {key: None if np.isinf(value) else value for key, value in limits.items()}
        return {**limits, "input_forget": self._options["input_forget"]}


class LSTMCell(_Recurrent):
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

    @classmethod
    def from_torch(
        cls, source: Any, *, prefix: str = "", storage: str = "float32", threads: int | str = 1
    ) -> LSTMCell:
        """A cell with the weights of a torch.nn.LSTMCell, or its state_dict; see fastgate.weights."""
        from fastgate import weights

        layers, _ = weights.from_torch(source, prefix=prefix)
        return cls(**_parameters.one_layer(layers), storage=storage, threads=threads)

    @classmethod
    def from_flax(
        cls, source: Any, cell: str | None = None, *, storage: str = "float32", threads: int | str = 1
    ) -> LSTMCell:
        """A cell with the weights of an LSTMCell of Flax; see fastgate.weights."""
        from fastgate import weights

        layers, _ = weights.from_flax(source, cell)
        return cls(**_parameters.one_layer(layers), storage=storage, threads=threads)

    def __call__(
        self, x: ArrayLike, h: ArrayLike | None = None, c: ArrayLike | None = None, *, out: Any = None
    ) -> tuple[Any, Any]:
        """x (..., n), h (..., output_size), c (..., hidden_size) -> the next h and c."""
        sizes, dtype = self._cells[0]["sizes"], self._cells[0]["dtype"]
        x = as_array(x, "x", dtype, taker="LSTM")
        if (h is None) != (c is None):
            raise TypeError("h and c must be given together, or neither")
        state = [None if a is None else as_array(a, name, dtype, taker="LSTM") for a, name in zip((h, c), "hc")]
        targets: list[_Array] = []
        if out is not None:
            pair = _arrays.as_pair(out, "out")
            targets = [_arrays.as_output(target, f"out[{i}]") for i, target in enumerate(pair)]

        _arrays.check_last(x, "x", sizes[0])
        shapes = [x.shape[:-1] + (size,) for size in sizes[1:]]
        arrays = [np.zeros(shape, dtype) if a is None else a for shape, a in zip(shapes, state)]
        for array, name, shape in zip(arrays, "hc", shapes):
            _arrays.check_shape(array, name, shape, f" for x of shape {x.shape}")
        for i, target in enumerate(targets):
            _arrays.check_output(target, shapes[i], dtype, f"out[{i}]")
        if targets and np.may_share_memory(targets[0], targets[1]):
            raise ValueError("out[0] and out[1] overlap")
        result = cell_step(self._cells[0], x, *arrays)
        if not targets:
            return result
        for target, array in zip(targets, result):
            target[...] = array
        return pair

    def stream(self, batch: int | None = None) -> Stream:
        """A Stream: it keeps the state, zeros at first, from step to step."""
        return Stream(self, _parameters.stream_batch(batch))

    @property
    def output_size(self) -> int:
        """Elements of h."""
        return int(self._cells[0]["sizes"][1])

    def _arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (), {**cell_weights(self._cells[0]), **self._limits()}

    def __repr__(self) -> str:
        return (
            f"LSTMCell(input_size={self.input_size}, hidden_size={self.hidden_size}, "
            f"output_size={self.output_size}, storage={self.storage!r}, threads={self.threads})"
        )


class LSTM(_Recurrent):
    """Layers of an LSTM over sequences, on one thread; see fastgate.LSTM."""

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

    @classmethod
    def from_torch(
        cls,
        source: Any,
        *,
        prefix: str = "",
        batch_first: bool | None = None,
        storage: str = "float32",
        threads: int | str = 1,
    ) -> LSTM:
        """An LSTM with the weights of a torch.nn.LSTM, or of its state_dict; see fastgate.weights."""
        from fastgate import weights

        layers, options = weights.from_torch(source, prefix=prefix, batch_first=batch_first)
        return cls(layers, storage=storage, threads=threads, **options)

    @classmethod
    def from_paddle(
        cls, source: Any, *, prefix: str = "", batch_first: bool | None = None, storage: str = "float32",
        threads: int | str = 1,
    ) -> LSTM:
        """An LSTM with the weights of a paddle.nn.LSTM, or of its state_dict; see fastgate.weights."""
        from fastgate import weights

        layers, options = weights.from_paddle(source, prefix=prefix, batch_first=batch_first)
        return cls(layers, storage=storage, threads=threads, **options)

    @classmethod
    def from_flax(
        cls, source: Any, cells: Any = None, *, batch_first: bool = True, storage: str = "float32",
        threads: int | str = 1,
    ) -> LSTM:
        """An LSTM with the weights of one or several LSTM cells of Flax; see fastgate.weights."""
        from fastgate import weights

        layers, options = weights.from_flax(source, cells, batch_first=batch_first)
        return cls(layers, storage=storage, threads=threads, **options)

    @classmethod
    def from_keras(
        cls,
        source: Any,
        *,
        prefix: str = "",
        bidirectional: bool | None = None,
        storage: str = "float32",
        threads: int | str = 1,
    ) -> LSTM:
        """An LSTM with the weights of one of Keras; see fastgate.weights."""
        from fastgate import weights

        layers, options = weights.from_keras(source, prefix=prefix, bidirectional=bidirectional)
        return cls(layers, storage=storage, threads=threads, **options)

    @classmethod
    def from_onnx(
        cls,
        source: Any,
        node: Any = None,
        *,
        weights: Any = None,
        storage: str = "float32",
        threads: int | str = 1,
    ) -> LSTM:
        """An LSTM with the weights of a node of an ONNX model, or of several, its layers; see fastgate.weights."""
        from fastgate.weights import from_onnx

        layers, options = from_onnx(source, node, weights=weights)
        return cls(layers, storage=storage, threads=threads, **options)

    def __call__(
        self, x: ArrayLike, state: Any = None, *, lengths: ArrayLike | None = None, out: Any = None
    ) -> tuple[Any, tuple[_Array, _Array]]:
        """x (T, [B,] n), state (h_0, c_0) -> y (T, [B,] output_size), (h_n, c_n)."""
        target = None if out is None else _arrays.as_output(out)
        x, h, c, counts = sequence(x, state, lengths, self.batch_first, self._sizes(), self._cells[0]["dtype"])
        shape = (*x.shape[:-1], self.output_size)
        if target is None:
            out = target = np.empty(shape, self._cells[0]["dtype"])
        _arrays.check_output(target, shape, self._cells[0]["dtype"])
        y = self._run(time_major(x, self.batch_first), h, c, counts)
        target[...] = like_input(y, x, self.batch_first)
        return out, (h[:, 0], c[:, 0]) if x.ndim == 2 else (h, c)

    def gates(
        self,
        x: ArrayLike,
        state: Any = None,
        *,
        lengths: ArrayLike | None = None,
        layer: int = -1,
        direction: int = 0,
    ) -> dict[str, _Array]:
        """x (T, [B,] n) -> "input", "forget", "cell", "output" and "c", (T, [B,] hidden_size) each."""
        layer, direction = _parameters.chosen_layer(layer, direction, self.num_layers, self._directions)
        x, h, c, counts = sequence(x, state, lengths, self.batch_first, self._sizes(), self._cells[0]["dtype"])
        y = time_major(x, self.batch_first)
        arrays = np.zeros((len(GATES), *y.shape[:2], self.hidden_size), y.dtype)
        self._run(y, h, c, counts, layer * self._directions + direction, arrays)
        return {name: like_input(a, x, self.batch_first) for name, a in zip(GATES, arrays)}

    def _sizes(self) -> Any:
        return *self._cells[0]["sizes"], len(self._cells)

    def _run(
        self, y: _Array, h: _Array, c: _Array, counts: _Array, watched: int = -1, gates: _Array | None = None
    ) -> _Array:
        """Run all layers over y (T, B, n), from states that become those after the last step.

        What the gates of the cell `watched` give is written to gates (5, T, B, hidden_size).
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
        """A Stream: it keeps the state, zeros at first, from step to step."""
        _parameters.check_streamable(self.bidirectional, self.reverse)
        return Stream(self, _parameters.stream_batch(batch))

    @property
    def output_size(self) -> int:
        """Elements of y in a step."""
        return int(self._directions * self._cells[0]["sizes"][1])

    @property
    def num_layers(self) -> int:
        """Layers, each of one or two directions."""
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
        """Whether the one direction is from the last step to the first."""
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
    """A sequence that comes step by step, or a batch of them. Made by stream() of LSTM or LSTMCell."""

    __slots__ = ("_batch", "_c", "_h", "_source")

    def __init__(self, source: LSTMCell | LSTM, batch: int | None) -> None:
        self._source = source
        self._batch = batch
        lead = (len(source._cells),) if batch is None else (len(source._cells), batch)
        _, outputs, hidden = source._cells[0]["sizes"]
        self._h: _Array = np.zeros((*lead, outputs), source._cells[0]["dtype"])
        self._c: _Array = np.zeros((*lead, hidden), source._cells[0]["dtype"])

    def step(self, x: ArrayLike, out: Any = None) -> Any:
        """x (n,) -> y (output_size,), or with a batch (B, n) -> (B, output_size)."""
        dtype = self._h.dtype
        y = as_input(x, "x", dtype, "LSTM")
        target = None if out is None else _arrays.as_output(out)
        lead = () if self._batch is None else (self._batch,)
        _arrays.check_shape(y, "x", (*lead, self._source.input_size))
        if target is not None:
            _arrays.check_output(target, self._h.shape[1:], dtype)
        for k, cell in enumerate(self._source._cells):
            self._h[k], self._c[k] = cell_step(cell, y, self._h[k], self._c[k])
            y = self._h[k]
        if target is None:
            return y.copy()
        target[...] = y
        return out

    @property
    def state(self) -> tuple[_Array, _Array]:
        """Copies of h and c, (num_layers, [B,] size), of an LSTMCell ([B,] size)."""
        h, c = self._own()
        return h.copy(), c.copy()

    @state.setter
    def state(self, state: tuple[ArrayLike, ArrayLike]) -> None:
        pair = _arrays.as_pair(state, "state")
        given = [as_input(a, f"state[{i}]", self._h.dtype, "LSTM") for i, a in enumerate(pair)]
        for i, (mine, array) in enumerate(zip(self._own(), given)):
            _arrays.check_shape(array, f"state[{i}]", mine.shape)
        for mine, array in zip(self._own(), given):
            mine[...] = array

    def _own(self) -> tuple[_Array, _Array]:
        if isinstance(self._source, LSTMCell):
            return self._h[0], self._c[0]
        return self._h, self._c

    def reset(self, rows: Any = None) -> None:
        """Zeros for all, or those rows of the batch: an integer, integers, a slice or a bool mask."""
        chosen = ... if rows is None else _parameters.stream_rows(rows, self._batch)
        self._h[:, chosen] = 0
        self._c[:, chosen] = 0

    @property
    def batch(self) -> int | None:
        """Sequences that run side by side; None: one, without an axis for them."""
        return self._batch

    @property
    def source(self) -> LSTMCell | LSTM:
        """The LSTM or LSTMCell."""
        return self._source

    def __repr__(self) -> str:
        return f"<stream of {self._source!r}, batch={self._batch}>"

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return _parameters.make_stream, (self._source, self._batch, *self.state)
