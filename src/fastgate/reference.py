"""The same API in NumPy: float64 throughout, rounded to float32 once at the end of a gate, or of a
step of an LSTM.

Weights are first rounded as the storage does it, and for float64 storage all is computed in
long double, where that has more bits (x86-64, AArch64 Linux), and rounded to float64.

It is the oracle of the tests, and what runs where the compiled core cannot be loaded.
"""

from __future__ import annotations

import operator

import numpy as np

from fastgate import _check, _saved

TYPE_CHECKING = False  # not from typing, for the sake of the import time
if TYPE_CHECKING:
    from collections.abc import Sequence
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
        integers, scale = quantized(weight)
        result: _Array = integers * scale
        return result


def quantized(weight: _Array) -> tuple[_Array, _Array]:
    """weight (m, n), finite -> integers (m, n) of -127 to 127 and a scale (m, 1) for each row: int8."""
    with np.errstate(all="ignore"):  # underflow
        scale = np.abs(weight).max(axis=1, initial=0, keepdims=True) / np.float32(127)
        scale = (scale.view(np.uint32) & 0xFFFFFF80).view(np.float32)  # integer * scale is then exact
        integers = np.rint(weight / np.where(scale == 0, np.float32(np.inf), scale))
        return np.clip(integers, -127, 127), scale


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

    def save(self, file: Any) -> None:
        """Write to a path or binary file object what load reads; see fastgate.Gate.save."""
        sizes = {"input_size": self.input_size, "output_size": self.output_size}
        packed = _saved.pack(self._weight, self._bias, self._storage)
        data = _saved.seal(_saved.GATE, self._storage, [packed], threads=self._threads, **sizes)
        _saved.write(file, data)

    @classmethod
    def load(cls, source: Any) -> Gate:
        """The gate that save wrote to this path, or into these bytes."""
        data = _saved.read(source)
        unsealed = _saved.unseal(data, _saved.GATE)
        if unsealed is None:
            raise _saved.refuse("gate", source, data)
        head, saved = unsealed
        storage = _check.STORAGES[head["storage"]]
        rows, columns = int(head["output_size"]), int(head["input_size"])
        sections = _saved.Sections(saved)
        packed = sections.take(_saved.packed_size(rows, (columns,), storage))
        sections.finish(head)
        _saved.refuse_size(columns)
        return cls(*_saved.unpack(packed, rows, storage, columns), storage=storage, threads=head["threads"])

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


# ---- LSTM -------------------------------------------------------------------------------------


class _Cell:
    """The arithmetic: one layer's parameters, in one direction."""

    __slots__ = ("bias", "dtype", "limits", "peephole", "projection", "sizes", "weight")

    def __init__(self, parameters: dict[str, Any], storage: str, options: dict[str, Any]) -> None:
        self.dtype = _check.dtype_of(storage)
        with np.errstate(all="ignore"):  # overflow: no limit
            clip, gate_clip = (self.dtype.type(options[key]) for key in ("clip", "gate_clip"))
        self.limits = clip, gate_clip, options["input_forget"]
        joined = np.hstack([parameters["weight_ih"], parameters["weight_hh"]])
        self.weight: _Array = rounded(joined, storage).astype(np.float64)
        self.bias: _Array = parameters["bias"].astype(np.float64)
        self.peephole: _Array | None = None
        self.projection: _Array | None = None
        if parameters["peephole"] is not None:
            self.peephole = parameters["peephole"].astype(np.float64)
        if parameters["projection"] is not None:
            self.projection = rounded(parameters["projection"], storage).astype(np.float64)
        outputs = int(parameters["weight_hh"].shape[1])
        # input_size, output_size, hidden_size
        self.sizes = int(self.weight.shape[1]) - outputs, outputs, len(self.bias) // 4

    def parameters(self) -> dict[str, _Array]:
        """As rounded by the storage."""
        weight_ih, weight_hh = np.split(self.weight, [self.sizes[0]], axis=1)
        arrays = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": self.bias}
        if self.peephole is not None:
            arrays["peephole"] = self.peephole
        if self.projection is not None:
            arrays["projection"] = self.projection
        return {key: array.astype(self.dtype, order="C") for key, array in arrays.items()}

    def sections(self, storage: str) -> list[bytes]:
        """As they are saved: the gates in blocks of i, f, g and o of as many units as a panel has rows."""
        inputs, outputs, hidden = self.sizes
        panel = _saved.panel_rows(storage)
        padded = -(-hidden // panel) * panel

        def in_blocks(a: _Array) -> _Array:  # (4 hidden, ..) -> (4 padded, ..)
            units = np.zeros((4, padded, *a.shape[1:]))
            units[:, :hidden] = a.reshape(4, hidden, *a.shape[1:])
            return units.reshape(4, padded // panel, panel, *a.shape[1:]).swapaxes(0, 1).reshape(4 * padded, *a.shape[1:])

        packed = [_saved.pack(in_blocks(self.weight), in_blocks(self.bias), storage, inputs, outputs)]
        if self.projection is not None:
            packed.append(_saved.pack(self.projection, np.zeros(outputs), storage))
        if self.peephole is not None and hidden:
            peephole = np.zeros((3, padded), self.dtype)
            peephole[:, :hidden] = self.peephole
            packed.append(peephole.tobytes())
        return packed

    def gates(self, x: _Array, h: _Array, c: _Array) -> tuple[_Array, ...]:
        """x (..., n), h (..., output_size), c (..., hidden_size) -> i, f, g, o and the next c, not rounded yet."""
        precise = np.longdouble if self.dtype == np.float64 else np.float64
        clip, gate_clip, input_forget = self.limits
        c = c.astype(precise)
        with np.errstate(all="ignore"):  # NaN, infinity and underflow are results like others
            z = affine(np.concatenate([x, h], axis=-1, dtype=precise), self.weight, self.bias)
            z_i, z_f, z_g, z_o = np.split(z, 4, axis=-1)
            if self.peephole is not None:
                z_i += self.peephole[0] * c
                z_f += self.peephole[1] * c
            i, f = (sigmoid(np.clip(gate, -gate_clip, gate_clip)) for gate in (z_i, z_f))
            if input_forget:
                f = 1 - i
            g = np.tanh(np.clip(z_g, -gate_clip, gate_clip))
            c = self._flushed(np.clip(f * c + i * g, -clip, clip))
            if self.peephole is not None:
                z_o += self.peephole[2] * c
            return i, f, g, sigmoid(np.clip(z_o, -gate_clip, gate_clip)), c

    def step(self, x: _Array, h: _Array, c: _Array) -> tuple[_Array, _Array]:
        """x (..., n), h (..., output_size), c (..., hidden_size) -> the next h and c."""
        *_, o, c = self.gates(x, h, c)
        with np.errstate(all="ignore"):
            h = self._flushed(o * np.tanh(c))
            if self.projection is not None:
                h = affine(h, self.projection, np.zeros(self.sizes[1]))
            return h.astype(self.dtype), c.astype(self.dtype)

    def _flushed(self, value: _Array) -> _Array:
        """A silent stream fades to 0, not to subnormal numbers, which some CPUs handle slowly."""
        least = 2.0**-960 if self.dtype == np.float64 else 2.0**-100
        return np.where(np.abs(value) < least, 0.0, value)


class _Recurrent:
    """What LSTMCell and LSTM have in common."""

    __slots__ = ("_cells", "_options", "_storage", "_threads")
    _cells: list[_Cell]  # at layer * directions + direction
    _options: dict[str, Any]
    _storage: str
    _threads: int

    def _parameters(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The weights as arguments and keywords, to be made again with."""
        raise NotImplementedError

    def save(self, file: Any) -> None:
        """Write to a path or binary file object what load reads; see fastgate.LSTM.save."""
        sections = [bytes(cell.peephole is not None and cell.peephole.size > 0 for cell in self._cells)]
        for cell in self._cells:
            sections += cell.sections(self._storage)
        options, first = self._options, self._cells[0]
        backwards = _saved.BACKWARDS * options.get("reverse", False)
        data = _saved.seal(
            _saved.LSTM,
            self._storage,
            sections,
            threads=self._threads,
            directions=getattr(self, "_directions", 1),
            flags=backwards + _saved.INPUT_FORGET * options["input_forget"],
            input_size=first.sizes[0],
            output_size=first.sizes[2],
            projection_size=0 if first.projection is None else first.sizes[1],
            layers=len(self._cells) // getattr(self, "_directions", 1),
            clip=options["clip"],
            gate_clip=options["gate_clip"],
        )
        _saved.write(file, data)

    @property
    def input_size(self) -> int:
        """Elements of x."""
        return self._cells[0].sizes[0]

    @property
    def hidden_size(self) -> int:
        """Elements of c."""
        return self._cells[0].sizes[2]

    @property
    def storage(self) -> str:
        """What the weights are rounded to."""
        return self._storage

    @property
    def nbytes(self) -> int:
        """Bytes of the parameters."""
        return sum(a.nbytes for cell in self._cells for a in cell.parameters().values())

    @property
    def threads(self) -> int:
        """Threads that a call of the compiled class would run on."""
        return _check.threads_now(self._threads)

    def __reduce__(self) -> tuple[Any, tuple[str, tuple[Any, ...], dict[str, Any]]]:
        import fastgate

        # as the fallback it becomes what fastgate's class is where the pickle is loaded
        make = _check.make if fastgate._core is None else _make
        arguments, keywords = self._parameters()
        keywords.update(self._options, storage=self._storage, threads=self._threads)
        return make, (type(self).__name__, arguments, keywords)

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self


def _make(name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return {"LSTMCell": LSTMCell, "LSTM": LSTM}[name](*arguments, **options)


def _options(clip: Any, gate_clip: Any, input_forget: Any) -> dict[str, Any]:
    return {
        "clip": _check.limit(clip, "clip"),
        "gate_clip": _check.limit(gate_clip, "gate_clip"),
        "input_forget": bool(input_forget),
    }


def _loaded(source: Any) -> tuple[list[Any], int, dict[str, Any]]:
    """The layers, one after the other, the directions and the options of a saved LSTM."""
    data = _saved.read(source)
    unsealed = _saved.unseal(data, _saved.LSTM)
    if unsealed is None:
        raise _saved.refuse("LSTM", source, data)
    head, saved = unsealed
    storage = _check.STORAGES[head["storage"]]
    names = ("input_size", "output_size", "projection_size", "layers", "directions")
    inputs, hidden, projected, layers, directions = (int(head[name]) for name in names)
    outputs = projected or hidden
    real = _check.dtype_of(storage)
    panel = _saved.panel_rows(storage)
    padded = -(-hidden // panel) * panel
    known_flags = _saved.BACKWARDS | _saved.INPUT_FORGET
    sections = _saved.Sections(saved)
    peepholes = sections.take(layers * directions)
    if directions not in (1, 2) or head["flags"] > known_flags or (peepholes > (hidden > 0)).any():
        raise ValueError("options that an LSTM has not")
    _saved.refuse_size(inputs)

    def matrix(rows: int, *segments: int) -> tuple[_Array, _Array]:
        return _saved.unpack(sections.take(_saved.packed_size(rows, segments, storage)), rows, storage, *segments)

    def from_blocks(a: _Array) -> _Array:  # (4 padded, ..) -> (4 hidden, ..)
        units = a.reshape(padded // panel, 4, panel, *a.shape[1:]).swapaxes(0, 1).reshape(4, padded, *a.shape[1:])
        return units[:, :hidden].reshape(4 * hidden, *a.shape[1:])

    cells = []
    for k, has_peephole in enumerate(peepholes):
        columns = inputs if k < directions else directions * outputs
        weight, bias = map(from_blocks, matrix(4 * padded, columns, outputs))
        cell = {"weight_ih": weight[:, :columns], "weight_hh": weight[:, columns:], "bias_ih": bias}
        if projected:
            cell["projection"], _ = matrix(projected, hidden)
        if has_peephole:
            peephole = sections.take(3 * padded * real.itemsize).view(real)
            cell["peephole"] = peephole.reshape(3, padded)[:, :hidden]
        cells.append(cell)
    sections.finish(head, "projection_size", "layers", "directions", "flags", "clip", "gate_clip")
    options = {
        "reverse": bool(head["flags"] & _saved.BACKWARDS),
        "input_forget": bool(head["flags"] & _saved.INPUT_FORGET),
        "clip": float(head["clip"]) or None,  # 0 is none to C
        "gate_clip": float(head["gate_clip"]) or None,
        "storage": storage,
        "threads": max(1, int(head["threads"])),
    }
    return cells, directions, options


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
        self._storage, self._threads = _check.options(storage, threads)
        given = (weight_ih, weight_hh, bias_ih, bias_hh, peephole, projection)
        parameters = _check.cell_parameters(dict(zip(_check.PARAMETERS, given)), self._storage)
        self._options = _options(clip, gate_clip, input_forget)
        self._cells = [_Cell(parameters, self._storage, self._options)]

    @classmethod
    def from_torch(
        cls, source: Any, *, prefix: str = "", storage: str = "float32", threads: int | str = 1
    ) -> LSTMCell:
        """A cell with the weights of a torch.nn.LSTMCell, or its state_dict; see fastgate.weights."""
        from fastgate import weights

        layers, _ = weights.from_torch(source, prefix=prefix)
        return cls(**_check.one_layer(layers), storage=storage, threads=threads)

    @classmethod
    def load(cls, source: Any) -> LSTMCell:
        """The cell that save wrote to this path, or into these bytes."""
        cells, directions, options = _loaded(source)
        _saved.refuse_cell(len(cells), directions, options.pop("reverse"))
        return cls(**cells[0], **options)

    def __call__(
        self,
        x: ArrayLike,
        h: ArrayLike | None = None,
        c: ArrayLike | None = None,
        *,
        out: Any = None,
    ) -> tuple[Any, Any]:
        """x (..., n), h (..., output_size), c (..., hidden_size) -> the next h and c."""
        [cell] = self._cells
        arrays = _check.cell_inputs(x, h, c, cell.sizes, cell.dtype)
        if out is None:
            return cell.step(*arrays)
        targets = _check.cell_outputs(out, arrays[1].shape, arrays[2].shape, cell.dtype)
        for target, result in zip(targets, cell.step(*arrays)):
            target[...] = result
        return out[0], out[1]

    def bind(self, x: Any, h: Any, c: Any, *, out: Any) -> BoundCell:
        """A function of no arguments: self(x, h, c, out=out)."""
        return BoundCell(self, x, h, c, out)

    def stream(self, batch: int | None = None) -> Stream:
        """A Stream: it keeps the state, zeros at first, from step to step."""
        return Stream(self, _check.stream_batch(batch))

    @property
    def output_size(self) -> int:
        """Elements of h."""
        return self._cells[0].sizes[1]

    def __repr__(self) -> str:
        return (
            f"LSTMCell(input_size={self.input_size}, hidden_size={self.hidden_size}, "
            f"output_size={self.output_size}, storage={self.storage!r}, threads={self.threads})"
        )

    def _parameters(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (), dict(self._cells[0].parameters())


class BoundCell:
    """A cell with its inputs and outputs: call it without arguments. Made by LSTMCell.bind."""

    __slots__ = ("_arrays", "_cell", "_out", "_targets")

    def __init__(self, cell: LSTMCell, x: Any, h: Any, c: Any, out: Any) -> None:
        sizes = (cell.input_size, cell.output_size, cell.hidden_size)
        arrays = _check.cell_bindable(x, h, c, out, sizes, _check.dtype_of(cell.storage))
        self._arrays, self._targets = arrays[:3], arrays[3:]
        self._cell = cell
        self._out = out[0], out[1]

    def __call__(self) -> tuple[Any, Any]:
        """Read the inputs, write the outputs and return them."""
        self._cell(*self._arrays, out=self._targets)
        return self._out

    def __repr__(self) -> str:
        return f"<bound {self._cell!r}>"

    def __reduce__(self) -> Any:
        raise TypeError("a bound call belongs to its arrays: it is neither pickled nor copied")


GATES = ("input", "forget", "cell", "output", "c")  # what LSTM.gates gives


def chosen_layer(layer: Any, direction: Any, layers: int, directions: int) -> tuple[int, int]:
    """The indices of a layer, which may count from the last, and of a direction."""
    layer, direction = operator.index(layer), operator.index(direction)
    if not -layers <= layer < layers:
        raise IndexError(f"layer {layer} of an LSTM of {layers}")
    if not 0 <= direction < directions:
        raise IndexError(f"direction {direction} of an LSTM of {directions}")
    return layer % layers, direction


def time_major(x: _Array, batch_first: bool) -> _Array:
    """x (T, n), (T, B, n), or (B, T, n) if batch_first -> (T, B, n)"""
    return x[:, np.newaxis] if x.ndim == 2 else x.swapaxes(0, 1) if batch_first else x


def like_input(y: _Array, x: _Array, batch_first: bool) -> _Array:
    """y (T, B, ..) -> with the axes of x"""
    return y[:, 0] if x.ndim == 2 else y.swapaxes(0, 1) if batch_first else y


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
        self._storage, self._threads = _check.options(storage, threads)
        cells, directions = _check.lstm_parameters(layers, self._storage, bool(reverse))
        options = _options(clip, gate_clip, input_forget)
        self._cells = [_Cell(parameters, self._storage, options) for parameters in cells]
        self._directions = directions
        self._options = {"batch_first": bool(batch_first), "reverse": bool(reverse), **options}

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

        layers, options = weights.from_torch(source, prefix=prefix)
        if batch_first is not None:
            options["batch_first"] = batch_first
        return cls(layers, storage=storage, threads=threads, **options)

    @classmethod
    def from_keras(
        cls, source: Any, *, prefix: str = "", storage: str = "float32", threads: int | str = 1
    ) -> LSTM:
        """An LSTM with the weights of one of Keras; see fastgate.weights."""
        from fastgate import weights

        layers, options = weights.from_keras(source, prefix=prefix)
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
        """An LSTM with the weights of a node of an ONNX model; see fastgate.weights."""
        from fastgate.weights import from_onnx

        layers, options = from_onnx(source, node, weights=weights)
        return cls(layers, storage=storage, threads=threads, **options)

    @classmethod
    def load(cls, source: Any, *, batch_first: bool = False) -> LSTM:
        """The LSTM that save wrote to this path, or into these bytes."""
        cells, directions, options = _loaded(source)
        layers = cells if directions == 1 else list(zip(cells[::2], cells[1::2]))
        return cls(layers, batch_first=batch_first, **options)

    def __call__(
        self,
        x: ArrayLike,
        state: Any = None,
        *,
        lengths: ArrayLike | None = None,
        out: Any = None,
    ) -> tuple[Any, tuple[_Array, _Array]]:
        """x (T, [B,] n), state (h_0, c_0) -> y (T, [B,] output_size), (h_n, c_n)."""
        sizes, dtype = self._cells[0].sizes, self._cells[0].dtype
        x, h_n, c_n, counts = _check.sequence(
            x, state, lengths, sizes, len(self._cells), self.batch_first, dtype
        )
        shape = (*x.shape[:-1], self.output_size)
        target = np.empty(shape, dtype) if out is None else _check.output(out, shape, dtype)
        h_n, c_n = h_n.copy(), c_n.copy()
        y = self._run(time_major(x, self.batch_first), h_n, c_n, counts)
        target[...] = like_input(y, x, self.batch_first)
        return target if out is None else out, (h_n, c_n)

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
        layer, direction = chosen_layer(layer, direction, self.num_layers, self._directions)
        sizes, dtype = self._cells[0].sizes, self._cells[0].dtype
        x, h, c, counts = _check.sequence(
            x, state, lengths, sizes, len(self._cells), self.batch_first, dtype
        )
        y = time_major(x, self.batch_first)
        arrays = np.zeros((len(GATES), *y.shape[:2], sizes[2]), dtype)
        self._run(y, h.copy(), c.copy(), counts, layer * self._directions + direction, arrays)
        return {name: like_input(a, x, self.batch_first) for name, a in zip(GATES, arrays)}

    def _run(
        self,
        y: _Array,
        h_n: _Array,
        c_n: _Array,
        counts: _Array | None,
        watched: int = -1,
        gates: _Array | None = None,
    ) -> _Array:
        """Run all layers over y (T, B, n), from states that become those after the last step.

        What the gates of the cell `watched` give is written to gates (5, T, B, hidden_size).
        """
        steps, batch = y.shape[:2]
        if counts is None:
            counts = np.full(batch, steps)
        h, c = (a.reshape(len(self._cells), batch, a.shape[-1]) for a in (h_n, c_n))  # views
        for k, cell in enumerate(self._cells):
            direction = k % self._directions
            if direction == 0:
                y, below = np.zeros((steps, batch, self.output_size), y.dtype), y
            outputs = slice(direction * cell.sizes[1], (direction + 1) * cell.sizes[1])
            for step in range(counts.max(initial=0)):
                rows = np.flatnonzero(step < counts)
                at = counts[rows] - 1 - step if self.reverse or direction else step
                if gates is not None and k == watched:
                    gates[:, at, rows] = cell.gates(below[at, rows], h[k, rows], c[k, rows])
                h[k, rows], c[k, rows] = cell.step(below[at, rows], h[k, rows], c[k, rows])
                y[at, rows, outputs] = h[k, rows]
        return y

    def stream(self, batch: int | None = None) -> Stream:
        """A Stream: it keeps the state, zeros at first, from step to step."""
        _check.streamable(self.bidirectional, self.reverse)
        return Stream(self, _check.stream_batch(batch))

    @property
    def output_size(self) -> int:
        """Elements of y in a step."""
        return self._directions * self._cells[0].sizes[1]

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

    def __repr__(self) -> str:
        return (
            f"LSTM(input_size={self.input_size}, hidden_size={self.hidden_size}, "
            f"output_size={self.output_size}, num_layers={self.num_layers}, "
            f"bidirectional={self.bidirectional}, batch_first={self.batch_first}, "
            f"reverse={self.reverse}, storage={self.storage!r}, threads={self.threads})"
        )

    def _parameters(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        layers: list[Any] = [cell.parameters() for cell in self._cells]
        if self.bidirectional:
            layers = list(zip(layers[::2], layers[1::2]))
        return (layers,), {}


class Stream:
    """A sequence that comes step by step, or a batch of them. Made by stream() of LSTM or LSTMCell."""

    __slots__ = ("_batch", "_c", "_h", "_source")

    def __init__(self, source: LSTMCell | LSTM, batch: int | None) -> None:
        self._source = source
        self._batch = batch
        lead = (len(source._cells),) if batch is None else (len(source._cells), batch)
        _, outputs, hidden = source._cells[0].sizes
        self._h: _Array = np.zeros((*lead, outputs), source._cells[0].dtype)
        self._c: _Array = np.zeros((*lead, hidden), source._cells[0].dtype)

    def step(self, x: ArrayLike, out: Any = None) -> Any:
        """x (n,) -> y (output_size,), or with a batch (B, n) -> (B, output_size)."""
        first = self._source._cells[0]
        y = _check.stream_input(x, self._batch, first.sizes[0], first.dtype)
        if out is not None:
            target = _check.output(out, self._h.shape[1:], first.dtype)
        for k, cell in enumerate(self._source._cells):
            self._h[k], self._c[k] = cell.step(y, self._h[k], self._c[k])
            y = self._h[k]
        if out is None:
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
        own = self._own()
        given = _check.states(state, own[0].shape, own[1].shape, own[0].dtype)
        for mine, array in zip(own, given):
            mine[...] = array

    def _own(self) -> tuple[_Array, _Array]:
        if isinstance(self._source, LSTMCell):
            return self._h[0], self._c[0]
        return self._h, self._c

    def reset(self, rows: Any = None) -> None:
        """Zeros for all, or those rows of the batch: an integer, integers, a slice or a bool mask."""
        chosen = ... if rows is None else _check.stream_rows(rows, self._batch)
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
        return _check.make_stream, (self._source, self._batch, *self.state)
