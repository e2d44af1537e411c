"""Keras 3 models whose LSTM layers compute with fastgate: fastgate.keras.convert(model).

A converted layer is still a keras.layers.LSTM or RNN.  Only its method `inner_loop`, which loops over time, is
replaced, and only on this object.  Keras itself does the rest: masks from other layers, stateful layers,
Bidirectional, saving and cloning.  A saved model is a plain Keras model.
"""

from __future__ import annotations

import functools
import importlib
import sys

import numpy as np

from fastgate import LSTM, _parameters

TYPE_CHECKING = False  # importing typing takes too long
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from numpy.typing import NDArray

    _Array = NDArray[Any]

keras = importlib.import_module("keras")  # an import statement would fail the type check where there is no Keras


def convert(model: Any, *, storage: str = "float32", threads: int | str = 1) -> Any:
    """Make the LSTM layers of a Keras 3 model compute with fastgate, in place, and return the model.

    It converts keras.layers.LSTM, and RNN of an LSTMCell or of StackedRNNCells of LSTMCells, with the activations tanh
    and sigmoid, also inside Bidirectional and other layers.  Other layers stay unchanged.  fastgate computes inference:
    predict, evaluate, and calls without training=True.  Keras computes training and all gradients, and also models that
    XLA or torch.compile compile, that are traced for an export, or that are neither float32 nor float64.

    Weights may change at any time, for example by fit, set_weights, load_weights or assign: the next call packs them
    again.  (On the torch backend, it does not find changes through `.data` or through an array that shares the memory,
    because torch does not count them.)  The model is saved as a plain Keras model: convert it again after loading it.

    Parameters
    ----------
    model : keras.Model or keras.layers.Layer
        A model on the backend torch or TensorFlow.
    storage, threads
        As in fastgate.LSTM.  A float64 layer is always stored as float64.

    Returns
    -------
    keras.Model or keras.layers.Layer
        The same model.

    Raises
    ------
    TypeError
        If model is not a model or layer of Keras 3.
    ValueError
        If the backend is another one, or if there is no such storage or number of threads.
    """
    storage, threads = _parameters.storage_of(storage), _parameters.thread_count(threads)
    if not isinstance(model, keras.layers.Layer):
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        raise TypeError(f"convert takes a model or layer of Keras 3, not {kind}")
    backend = keras.backend.backend()
    if backend not in _RUNS:
        raise ValueError(f"convert works on the backends {', '.join(_RUNS)}, not on {backend!r}")
    layers = model._flatten_layers()
    for layer in layers:
        if cells := _cells(layer):
            layer.inner_loop = _Loop(layer, cells, storage, threads)
            if backend == "tensorflow":
                layer.supports_jit = False  # XLA takes no Python function
    for layer in layers:
        if hasattr(layer, "predict_function"):  # a model, which may hold a trace of its layers before the conversion
            layer.predict_function = layer.test_function = None
            if backend == "tensorflow" and layer.jit_compile:
                layer.jit_compile = False
    return model


def _cells(layer: Any) -> list[Any]:
    """The LSTMCells of a layer whose loop fastgate can run; [] for other layers."""
    RNN, KerasLSTM = keras.layers.RNN, keras.layers.LSTM
    if not isinstance(layer, RNN):
        return []
    if type(layer).inner_loop not in (RNN.inner_loop, KerasLSTM.inner_loop):
        return []
    if type(layer).call not in (RNN.call, KerasLSTM.call):
        return []
    stacked = type(layer.cell) is keras.layers.StackedRNNCells and len(layer.cell.cells) > 1
    cells = layer.cell.cells if stacked else [layer.cell]
    fit = all(
        type(cell) is keras.layers.LSTMCell
        and cell.activation is keras.activations.tanh
        and cell.recurrent_activation is keras.activations.sigmoid
        for cell in cells
    )
    return list(cells) if fit else []


class _Loop:
    """The replacement for the method inner_loop of a converted layer."""

    def __init__(self, layer: Any, cells: list[Any], storage: str, threads: int | str) -> None:
        self.layer, self.cells, self.storage, self.threads = layer, cells, storage, threads
        # A key that identifies the packed weights, the objects that keep the key from being reused, and the LSTMs.
        # They are one value, which is replaced as a whole, because threads may share this object.
        self.packed: tuple[list[Any], Any, list[LSTM]] = ([], None, [])

    def __call__(self, sequences: Any, initial_state: Any, mask: Any = None, training: Any = False) -> Any:
        """Keras's (last output, outputs, states).  The first two are the same: RNN.call uses only one of them."""
        layer, tree = self.layer, keras.tree
        first = mask[0] if tree.is_nested(mask) else mask
        tensors = [sequences, *tree.flatten(initial_state), *[variable.value for variable in self.variables()]]
        dtypes = {keras.backend.standardize_dtype(tensor.dtype) for tensor in tensors}
        is_masked = first is not None
        result = None
        if (
            not training
            and dtypes in ({"float32"}, {"float64"})
            and not (is_masked and (layer.unroll or len(first.shape) != 2))  # backends differ if layers are unrolled
        ):
            result = _RUNS[keras.backend.backend()](self, tensors, first)
        if result is None:
            return self.plain(sequences, initial_state, mask, training)
        y, *states = result
        return y, y, tree.pack_sequence_as(initial_state, states)

    def plain(self, sequences: Any, initial_state: Any, mask: Any, training: Any) -> Any:
        """What Keras's own inner_loop returns."""
        return type(self.layer).inner_loop(self.layer, sequences, initial_state, mask=mask, training=training)

    def variables(self) -> list[Any]:
        """The weights of all cells, in order: kernel, recurrent kernel, and the bias if there is one."""
        all_of = [(cell.kernel, cell.recurrent_kernel, cell.bias) for cell in self.cells]
        return [variable for weights in all_of for variable in weights if variable is not None]

    def lstms(self, key: list[Any], weights: Sequence[Any], held: Any) -> list[LSTM]:
        """An LSTM for each cell, packed again if the key has changed.  `held` keeps the key from being reused."""
        if key != self.packed[0]:
            rest, lstms = iter(weights), []
            for cell in self.cells:
                arrays = [np.asarray(next(rest)) for _ in range(2 if cell.bias is None else 3)]
                storage = "float64" if arrays[0].dtype == np.float64 else self.storage
                lstms.append(LSTM.from_keras(arrays, storage=storage, threads=self.threads))
            self.packed = (key, held, lstms)
        return self.packed[2]

    def compute(self, *arrays: Any) -> list[_Array]:
        """Compute [output, h, c, ...] from arrays of x, the states, the weights and, if there is one, the mask.

        Addresses identify the weights, which are held: TensorFlow does not change a tensor in place while another
        object holds it, but writes the new value elsewhere.
        """
        states, weights = 1 + 2 * len(self.cells), len(self.variables())
        arrays = tuple([np.asarray(array) for array in arrays])
        held = arrays[states : states + weights]
        key = [array.__array_interface__["data"][0] for array in held]
        mask = arrays[states + weights] if len(arrays) > states + weights else None
        return self.run(self.lstms(key, held, held), arrays[0], arrays[1:states], mask)

    def run(self, lstms: list[LSTM], x: _Array, states: Sequence[_Array], mask: _Array | None) -> list[_Array]:
        """Compute [output, h, c, ...]; the output is that of all steps or of the last one, as the layer returns it."""
        layer = self.layer
        if layer.go_backwards:  # Keras returns the outputs in this order too
            x, mask = x[:, ::-1], None if mask is None else mask[:, ::-1]
        if mask is not None:
            mask = mask.astype(np.bool_)
            mask = None if mask.all() else mask
        new = []
        for lstm, h, c in zip(lstms, states[::2], states[1::2]):
            state = (h[np.newaxis], c[np.newaxis])
            x, (h, c) = lstm(x, state, mask=mask)
            new += [h[0], c[0]]
        if mask is not None and not layer.zero_output_for_mask:
            x = _repeated(x, mask)
        if layer.return_sequences:
            return [x, *new]
        return [new[-2] if mask is None else np.ascontiguousarray(x[:, -1]), *new]

    def by_keras(self, *tensors: Any) -> list[Any]:
        """Compute [output, h, c, ...] with Keras, as a function of all inputs, which a backend can differentiate."""
        states, variables = 1 + 2 * len(self.cells), self.variables()
        weights, mask = tensors[states : states + len(variables)], [*tensors[states + len(variables) :], None][0]
        initial = list(tensors[1:states])
        if type(self.layer.cell) is keras.layers.StackedRNNCells:
            initial = [initial[k : k + 2] for k in range(0, len(initial), 2)]
        with keras.StatelessScope(state_mapping=list(zip(variables, weights))):
            last, outputs, new = self.plain(tensors[0], initial, mask, False)
        return [outputs if self.layer.return_sequences else last, *keras.tree.flatten(new)]


def _repeated(y: _Array, mask: _Array) -> _Array:
    """y, but where the mask is False with the last output before instead of 0; before the first output, 0 stays."""
    steps = np.where(mask, np.arange(mask.shape[1]), 0)
    return np.take_along_axis(y, np.maximum.accumulate(steps, axis=1)[..., np.newaxis], 1)


# ---- the backends: [output, h, c, ...] as tensors, or None if Keras must compute it -----------------------


def _run_torch(loop: _Loop, tensors: list[Any], mask: Any) -> list[Any] | None:
    torch = sys.modules["torch"]
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or tensors[0].device.type != "cpu":
        return None
    if any(tensor.is_inference() for tensor in tensors[1 + 2 * len(loop.cells) :]):  # these have no versions
        return None
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return list(_torch_function().apply(loop, mask, *tensors))
    return _torch_compute(loop, mask, tensors)


def _torch_compute(loop: _Loop, mask: Any, tensors: Sequence[Any]) -> list[Any]:
    states = 1 + 2 * len(loop.cells)
    weights = tensors[states:]
    key = [(id(weight), weight._version, weight.data_ptr()) for weight in weights]
    x, *initial = [tensor.detach().numpy() for tensor in tensors[:states]]
    lstms = loop.lstms(key, [weight.detach() for weight in weights], weights)
    result = loop.run(lstms, x, initial, None if mask is None else mask.numpy())
    return [sys.modules["torch"].from_numpy(array) for array in result]


@functools.cache
def _torch_function() -> Any:
    torch: Any = sys.modules["torch"]

    class Function(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(context: Any, loop: _Loop, mask: Any, *tensors: Any) -> Any:
            context.loop, context.mask = loop, [] if mask is None else [mask]
            context.save_for_backward(*tensors)
            return tuple(_torch_compute(loop, mask, tensors))

        @staticmethod
        @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
        def backward(context: Any, *upstream: Any) -> Any:
            with torch.enable_grad():
                tensors = [tensor.detach().requires_grad_() for tensor in context.saved_tensors]
                result = context.loop.by_keras(*tensors, *context.mask)
            return None, None, *torch.autograd.grad(result, tensors, upstream)

    return Function


def _run_tensorflow(loop: _Loop, tensors: list[Any], mask: Any) -> list[Any] | None:
    tf = sys.modules["tensorflow"]
    eager = tf.executing_eagerly()
    if not eager and (_is_in_xla() or _is_exporting()):
        return None

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(*tensors: Any) -> tuple[list[Any], Callable[..., Any]]:
        if eager:
            result = [tf.convert_to_tensor(array) for array in loop.compute(*tensors)]
        else:
            result = tf.numpy_function(loop.compute, tensors, [tensors[0].dtype] * (1 + 2 * len(loop.cells)))
            for tensor, shape in zip(result, _shapes(loop, tensors[0].shape)):
                tensor.set_shape(shape)

        def gradient(*upstream: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(floating := [tensor for tensor in tensors if tensor.dtype.is_floating])
                result = loop.by_keras(*tensors)
            return tape.gradient(result, floating, upstream) + [None] * (len(tensors) - len(floating))

        return result, gradient

    arguments = tensors if mask is None else [*tensors, mask]
    result: list[Any] = run(*[tf.convert_to_tensor(tensor) for tensor in arguments])
    return result


_RUNS: dict[str, Callable[[_Loop, list[Any], Any], list[Any] | None]] = {
    "torch": _run_torch,
    "tensorflow": _run_tensorflow,
}


def _shapes(loop: _Loop, shape: Any) -> list[tuple[Any, ...]]:
    """The shapes of [output, h, c, ...] for x of this shape."""
    sizes = [cell.units for cell in loop.cells for _ in "hc"]
    steps = (shape[1],) if loop.layer.return_sequences else ()
    return [(shape[0], *steps, sizes[-1]), *[(shape[0], size) for size in sizes]]


def _is_in_xla() -> bool:
    util = importlib.import_module("tensorflow.python.ops.control_flow_util")
    return bool(util.GraphOrParentsInXlaContext(sys.modules["tensorflow"].compat.v1.get_default_graph()))


def _is_exporting() -> bool:
    """Whether the call is traced for an export, whose file cannot hold a Python function."""
    frame: Any = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(("keras.src.export", "tensorflow.python.saved_model")):
            return True
        frame = frame.f_back
    return False
