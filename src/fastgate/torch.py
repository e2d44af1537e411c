"""torch.nn.LSTM and torch.nn.LSTMCell that compute with fastgate.

    fastgate.torch.convert(model)           # converts every nn.LSTM and nn.LSTMCell in the model, in place
    lstm = fastgate.torch.LSTM(40, 64)      # makes a single one, with the arguments of torch.nn.LSTM

The classes are subclasses of torch's, with the same parameters, state_dict, hooks, arguments and results.  fastgate
computes a call if it is on a CPU, in float32 or float64, without gradients and without dropout.  Torch computes all
other calls: in training, under autocast, while a model is traced, compiled or exported, and with invalid arguments.
No other module of fastgate imports this one, because it imports torch.
"""

from __future__ import annotations

import functools
from operator import attrgetter, is_
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import _VF, Tensor  # noqa: F401  (torch.jit.script looks up the names in torch's forward here)
from torch._C._dynamo import eval_frame
from torch.autograd import forward_ad
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import fastgate
from fastgate import _parameters

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from numpy.typing import NDArray

    _Model = TypeVar("_Model", bound=torch.nn.Module)

__all__ = ["LSTM", "LSTMCell", "convert"]

_KINDS = frozenset([Tensor, torch.nn.Parameter])  # other classes of tensors may redefine operations
_CELL = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_POINTS = 4  # elements along each axis of a weight that are compared to find changes
_STEPS = 16  # with fewer, packing the weights takes longer than torch
_array, _pointer, _version = Tensor.numpy, Tensor.data_ptr, attrgetter("_version")
_autocast, _grad = torch.is_autocast_enabled, torch.is_grad_enabled
_tracing, _dispatch_modes = torch._C._get_tracing_state, torch._C._len_torch_dispatch_stack

torch.empty(0).numpy()  # if torch was built for another NumPy, this raises here, and not at each call


class _Packed:
    """The packed weights of a module, and the options for packing.  Copies and pickles have only the options."""

    def __init__(self, storage: str, threads: int | str) -> None:
        self.storage = _parameters.storage_of(storage)
        if storage == "float64":
            raise ValueError("a float64 module always has storage='float64': leave it out, and write model.double()")
        self.threads = _parameters.thread_count(threads)
        self.found: tuple[Any, ...] | None = None  # replaced as a whole, because other threads may read it

    def __reduce__(self) -> tuple[Any, ...]:
        return _Packed, (self.storage, self.threads)

    def pack(self, module: Any, weights: list[Any]) -> Any:
        """Pack these weights -> the LSTM or LSTMCell, or None if torch must compute with them.

        Tensor._version counts changes, except for those through Tensor.data or by other processes.  So some elements of
        each weight are remembered too; of inference tensors, which have no version, all elements.
        """
        dtype = weights[0].dtype
        for weight in weights:
            if type(weight) not in _KINDS or not weight.is_cpu or weight.dtype != dtype:
                return None
        if dtype not in (torch.float32, torch.float64):
            return None
        # These are read before the weights are packed, so that the next call finds changes by another thread meanwhile.
        pointers, arrays = [*map(_pointer, weights)], [weight.detach().numpy() for weight in weights]
        unversioned = any(weight.is_inference() for weight in weights)
        versions = None if unversioned else [*map(_version, weights)]
        parts: list[Any] = arrays if unversioned else [*map(_points, arrays)]
        copies: list[Any] = [*map(np.array, parts)]
        values = copies if unversioned else [memoryview(copy) for copy in copies]
        storage = "float64" if dtype == torch.float64 else self.storage
        lstm = module._fastgate_pack(arrays, storage=storage, threads=self.threads)
        self.found = (weights, pointers, versions, parts, values, lstm)
        return lstm


def _points(array: Any) -> memoryview:
    """A view of some elements of array, as integers: comparing them is fast, and a NaN equals itself."""
    spread = tuple(slice(None, None, -(-size // _POINTS)) for size in array.shape)
    return memoryview(array.view(f"i{array.itemsize}")[spread])


def _uncompiled(compute: Callable[..., Any], *arguments: Any) -> Any:
    """compute(*arguments), or None if torch must compute the call.

    torch.compile does not compile a torch.nn.LSTM, but would compile the functions that it calls: here it is off.
    """
    compiler = eval_frame.set_eval_frame(None)
    try:
        return compute(*arguments)
    except (TypeError, ValueError, RuntimeError):  # torch's own error is the expected one
        return None
    finally:
        eval_frame.set_eval_frame(compiler)


def _lstm_of(module: Any, names: Any, inputs: tuple[Any, ...]) -> Any:
    """The LSTM or LSTMCell that computes a call with these tensors, or None if torch must compute it."""
    if (
        _tracing() is not None
        or _dispatch_modes()
        or _autocast("cpu")
        or forward_ad._current_level >= 0
    ):
        return None
    if not _KINDS.issuperset(map(type, inputs)):
        return None
    try:
        weights = [*map(module._parameters.__getitem__, names)]
    except KeyError:  # some weights are computed at each call: for a short one, packing them takes too long
        if inputs[0].numel() < _STEPS * module.input_size:
            return None
        weights = [getattr(module, name) for name in names]
    if _grad():
        if any(tensor.requires_grad for tensor in (*inputs, *weights)):
            return None
    packed = module._fastgate
    if packed.found is not None:
        seen, pointers, versions, parts, values, lstm = packed.found
        if all(map(is_, weights, seen)) and [*map(_pointer, weights)] == pointers:
            if versions is None:
                same = all(map(np.array_equal, parts, values))
            else:
                same = [*map(_version, weights)] == versions and parts == values
            if same:
                return lstm
    return packed.pack(module, weights)


def _arrays(tensors: tuple[Any, ...]) -> list[NDArray[Any]]:
    """Arrays over the memory of tensors.  Raises TypeError or RuntimeError for a tensor that is not on the CPU."""
    try:
        return [*map(_array, tensors)]
    except RuntimeError:  # a tensor requires a gradient, but gradients are disabled
        return [tensor.detach().numpy() for tensor in tensors]


class _Module(torch.nn.Module):
    """What both classes have in common."""

    if TYPE_CHECKING:  # torch.jit.script evaluates annotations, and does not know the class
        _fastgate: _Packed

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _set_up(self, _Packed("float32", 1))

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self._fastgate.found = None  # it would keep the old weights alive
        return super()._apply(*args, **kwargs)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, storage={self._fastgate.storage}"


class LSTM(_Module, torch.nn.LSTM):
    """A torch.nn.LSTM that computes with fastgate on a CPU, without gradients, as the module says.

    Its arguments, parameters, attributes and results are those of torch.nn.LSTM.  The first call that fastgate computes
    packs the weights, and so does a call after they changed.  They are stored as float32 and run on one thread;
    convert(lstm, storage=..., threads=...) chooses other values.
    """

    __wrapped__ = torch.nn.LSTM  # torch.jit.script reads the source of this class, for the overloads of forward

    @functools.wraps(torch.nn.LSTM.forward)
    def forward(self, input, hx=None):  # type: ignore[no-untyped-def]
        result = None
        if not torch.compiler.is_compiling():
            result = _uncompiled(_sequence, self, input, hx)
        return torch.nn.LSTM.forward(self, input, hx) if result is None else result

    def _fastgate_pack(self, arrays: list[NDArray[Any]], **options: Any) -> fastgate.LSTM:
        keys = (*(_CELL if self.bias else _CELL[:2]), *(("projection",) if self.proj_size else ()))
        cells = [dict(zip(keys, arrays[i:])) for i in range(0, len(arrays), len(keys))]
        return fastgate.LSTM([*zip(cells[::2], cells[1::2])] if self.bidirectional else cells, **options)


def _sequence(self: LSTM, input: Any, hx: Any) -> Any:
    """What LSTM.forward returns, or None if torch must compute it."""
    if self.training and self.dropout and self.num_layers > 1:
        return None
    packed = isinstance(input, PackedSequence)
    x = input.data if packed else input
    inputs = (x,) if hx is None else (x, *hx)
    lstm = _lstm_of(self, self._flat_weights_names, inputs)
    if lstm is None:
        return None
    if packed:
        return _packed_sequence(lstm, input, inputs[1:])
    x, *state = _arrays(inputs)
    swapped = self.batch_first and x.ndim == 3
    y, (h, c) = lstm(x.swapaxes(0, 1) if swapped else x, tuple(state) or None)
    if not y.size:  # torch has its own rules for empty tensors
        return None
    y = torch.from_numpy(y)  # (T, B, ..) in memory even if batch_first, like torch's outputs
    return y.transpose(0, 1) if swapped else y, (torch.from_numpy(h), torch.from_numpy(c))


def _packed_sequence(lstm: Any, input: PackedSequence, state: Any) -> Any:
    """_sequence for a PackedSequence, whose data are the first steps of all rows, then the second steps, and so on."""
    data, batch_sizes, order, back = input
    x, lengths = pad_packed_sequence(PackedSequence(data, batch_sizes))
    state = [part if order is None else part.index_select(1, order) for part in state]
    steps, counts, *initial = _arrays((x, lengths, *state))
    y, state = lstm(steps, tuple(initial) or None, lengths=counts)
    y = pack_padded_sequence(torch.from_numpy(y), lengths).data
    h, c = [part if back is None else part.index_select(1, back) for part in map(torch.from_numpy, state)]
    return PackedSequence(y, batch_sizes, order, back), (h, c)


class LSTMCell(_Module, torch.nn.LSTMCell):
    """A torch.nn.LSTMCell that computes with fastgate on a CPU, without gradients; see LSTM."""

    __wrapped__ = torch.nn.LSTMCell

    @functools.wraps(torch.nn.LSTMCell.forward)
    def forward(self, input, hx=None):  # type: ignore[no-untyped-def]
        result = None
        if not torch.compiler.is_compiling():
            result = _uncompiled(_step, self, input, hx)
        return torch.nn.LSTMCell.forward(self, input, hx) if result is None else result

    def _fastgate_pack(self, arrays: list[NDArray[Any]], **options: Any) -> fastgate.LSTMCell:
        return fastgate.LSTMCell(*arrays, **options)


def _step(self: LSTMCell, input: Any, hx: Any) -> Any:
    """What LSTMCell.forward returns, or None if torch must compute it."""
    inputs = (input,) if hx is None else (input, *hx)
    cell = _lstm_of(self, _CELL if self.bias else _CELL[:2], inputs)
    if cell is None or input.dim() not in (1, 2):
        return None
    h, c = cell(*_arrays(inputs))
    return torch.from_numpy(h), torch.from_numpy(c)


def _set_up(module: Any, packed: _Packed) -> None:
    module.__dict__["_fastgate"] = packed
    module.__dict__["__module__"] = "torch.nn.modules.rnn"  # torch.fx does not trace into modules of torch.nn


@functools.cache
def _subclass(user: type, ours: type) -> type:
    """A subclass of a user's class that derives from torch's, in which the methods of `ours` precede torch's."""

    def reduce(self: Any, protocol: Any) -> Any:
        return _blank, (user, ours), *object.__reduce_ex__(self, 2)[2:]

    return type(user.__name__, (user, ours), {"__module__": user.__module__, "__reduce_ex__": reduce})


def _blank(user: type, ours: type) -> Any:
    """Make an empty instance of _subclass(user, ours), for pickles."""
    kind: Any = _subclass(user, ours)
    return kind.__new__(kind)


def _converted(module: torch.nn.Module) -> type | None:
    """The class that a module is converted to; None if it stays as it is."""
    kind = type(module)
    parametrized = torch.nn.utils.parametrize.is_parametrized(module)  # kind is then a subclass that torch made
    base: Any = kind.__bases__[0] if parametrized else kind
    for plain, ours in ((torch.nn.LSTM, LSTM), (torch.nn.LSTMCell, LSTMCell)):
        if issubclass(base, ours):
            return kind
        if issubclass(base, plain) and base.forward is plain.forward:
            base = ours if base is plain else _subclass(base, ours)
            return type(kind.__name__, (base,), {**vars(kind)}) if parametrized else base
    return None


def convert(model: _Model, *, storage: str = "float32", threads: int | str = 1) -> _Model:
    """Make every torch.nn.LSTM and torch.nn.LSTMCell in a model, or the model itself, compute with fastgate.

    The classes of these modules are replaced in place by LSTM and LSTMCell of this module, or by subclasses of the
    user's own classes, except for classes with a forward of their own.  Parameters, state_dict, hooks, arguments and
    results stay the same, and the model can still be trained, copied, pickled, traced, scripted, compiled and exported.
    The outputs of fastgate are as close to float64 as torch's, and have the same strides.

    Parameters
    ----------
    model : torch.nn.Module
        A model on any device and of any dtype.  Torch computes every call that is not in float32 or float64 on a CPU.
    storage : str
        How the weights of float32 modules are held: "float32", "float16", "bfloat16" or "int8".  Torch computes with
        weights that the storage cannot hold.
    threads : int or "auto"
        The number of threads that share a large call, as in fastgate.LSTM; torch.set_num_threads does not affect it.

    Returns
    -------
    torch.nn.Module
        The same model.

    Raises
    ------
    ValueError
        If there is nothing to convert, or no such storage or number of threads.
    TypeError
        If model is not a torch.nn.Module, or threads is neither an integer nor a string.
    """
    packed = _Packed(storage, threads)
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"convert takes a torch.nn.Module, not {type(model).__name__}")
    converted = {module: kind for module in model.modules() if (kind := _converted(module))}
    if not converted:
        hint = ""
        if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
            hint = ": a scripted module runs in C++; convert the model before scripting it, or use LSTM.from_torch"
        raise ValueError(f"there is no torch.nn.LSTM or LSTMCell in this {type(model).__name__}{hint}")
    for module, kind in converted.items():
        module.__class__ = kind
        _set_up(module, _Packed(packed.storage, packed.threads))
    return model
