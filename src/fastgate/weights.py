"""The weights of LSTMs made elsewhere: torch, Keras, ONNX.

Each function gives (layers, options), of which an LSTM made with the options as keywords computes the
same as its source.  torch, Keras and h5py are never imported: what they make is known by its form.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping

import numpy as np

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from numpy.typing import NDArray

    _Array = NDArray[Any]
    _Direction = dict[str, _Array]
    _Result = tuple[list[Any], dict[str, Any]]


def _array(value: Any) -> _Array:
    """A tensor or array, on the CPU; torch's bfloat16 as that of ml_dtypes, or float32 without it."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            value = value.float().numpy()
            try:
                return np.asarray(value, importlib.import_module("ml_dtypes").bfloat16)
            except ImportError:
                pass
    return np.asarray(value)


def _layer(directions: Sequence[_Direction]) -> Any:
    """As LSTM takes it: a mapping, or a pair of them."""
    return directions[0] if len(directions) == 1 else tuple(directions)


def _names(names: Iterable[str]) -> str:
    """For messages: the first few."""
    quoted = [repr(name) for name in names]
    return ", ".join(quoted[:8]) + (f" and {len(quoted) - 8} more" if len(quoted) > 8 else "")


def _class(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


# ---- torch ------------------------------------------------------------------------------------


def from_torch(source: Any, *, prefix: str = "") -> _Result:
    """A torch.nn.LSTM, a torch.nn.LSTMCell (one layer), or the state dict of either.

    Dropout, which is for training, is left out.

    Parameters
    ----------
    source : module or mapping
        A state dict may be any mapping of tensors or arrays, such as what safetensors loads.  It does
        not tell whether the module was made with batch_first=True: a module does.
    prefix : str
        Of a whole model's state dict it chooses the keys, e.g. "encoder.lstm.".

    Raises
    ------
    TypeError
        If it is another kind of module.
    ValueError
        If keys are missing or unknown.
    """
    options = {}
    if hasattr(source, "state_dict"):
        if not {"LSTM", "LSTMCell"} & {base.__name__ for base in type(source).__mro__}:
            raise TypeError(f"{_class(source)} is neither a torch.nn.LSTM nor a torch.nn.LSTMCell")
        if getattr(source, "batch_first", False):
            options["batch_first"] = True
        source = source.state_dict()
    if not isinstance(source, Mapping):
        raise TypeError(f"from_torch takes an LSTM, an LSTMCell or a state dict, not {_class(source)}")

    there = {key[len(prefix) :]: source[key] for key in source if key.startswith(prefix)}
    pattern = re.compile(r"((?:weight|bias)_(?:ih|hh)|weight_hr)(?:_l(\d+)(_reverse)?)?")
    found = [match for key in there if (match := pattern.fullmatch(key))]
    if not found:
        ends = re.compile(r"(?<![^.])weight_ih(_l0)?$")
        prefixes = sorted({key[: match.start()] for key in source if (match := ends.search(key))})
        hint = f"prefix may be {_names(prefixes)}" if prefixes else f"there are {_names(source) or 'none'}"
        raise ValueError(f"there is no {prefix + 'weight_ih_l0'!r}: {hint}")

    kinds = sorted({"weight_ih", "weight_hh"} | {match[1] for match in found})
    suffixes = ("", "_reverse") if any(match[3] for match in found) else ("",)
    depth = 1 + max(int(match[2] or 0) for match in found)
    tails = [[f"_l{k}{suffix}" for suffix in suffixes] for k in range(depth)]
    if not any(match[2] for match in found):
        tails = [[""]]  # LSTMCell's names
    wanted = {kind + tail for layer in tails for tail in layer for kind in kinds}
    if missing := sorted(wanted - there.keys()):
        names = _names(prefix + key for key in missing)
        raise ValueError(f"there is no {names} beside {_names(prefix + key for key in there)}")
    if unknown := sorted(there.keys() - wanted):
        raise ValueError(f"{_names(prefix + key for key in unknown)} is not of an LSTM")
    keys = {kind: "projection" if kind == "weight_hr" else kind for kind in kinds}
    return [
        _layer([{keys[kind]: _array(there[kind + tail]) for kind in kinds} for tail in layer])
        for layer in tails
    ], options


# ---- Keras ------------------------------------------------------------------------------------


def from_keras(source: Any, *, prefix: str = "") -> _Result:
    """A Keras layer, of Keras 3 or 2: LSTM, LSTMCell, RNN of an LSTMCell, or Bidirectional of these.

    Or arrays alone, which are taken as those of a layer with activation "tanh" and
    recurrent_activation "sigmoid" (beware: before TensorFlow 2 the default was "hard_sigmoid"):

    - what layer.get_weights() gives: [kernel, recurrent_kernel, bias], or without the bias; for
      Bidirectional both after each other, or a pair of such lists;
    - the h5py group, or nested or flat dict of arrays, of a file: .h5 or .weights.h5, or the
      model.weights.h5 inside a .keras file.

    go_backwards becomes reverse=True: fastgate's outputs are in the order of time, Keras's in the
    order of processing.  y is the whole sequence: what return_sequences=False gives is h_n[-1], or for
    Bidirectional numpy.concatenate(h_n, -1).  Masks are not taken: pass lengths= instead.  stateful,
    unroll and dropout are ignored.

    Parameters
    ----------
    source : layer, sequence of arrays, or mapping
        As above.
    prefix : str
        Chooses the layer among those of a model's file, e.g. "layers/lstm_1/" or
        "model_weights/lstm_1/".

    Raises
    ------
    ValueError
        If there is another activation, a merge_mode other than Bidirectional's "concat", or not one
        such layer.
    TypeError
        If it is another kind of layer.
    """
    options = {"batch_first": True}
    if hasattr(source, "get_weights"):
        layers = [source]
        if hasattr(source, "forward_layer"):
            if source.merge_mode != "concat":
                raise ValueError(f"merge_mode {source.merge_mode!r} is not supported, only 'concat'")
            layers = [source.forward_layer, source.backward_layer]
            if layers[0].go_backwards or not layers[1].go_backwards:
                raise ValueError("the two directions are swapped: forward_layer has go_backwards=True")
        elif getattr(source, "go_backwards", False):
            options["reverse"] = True
        if getattr(layers[0], "time_major", False):
            options["batch_first"] = False
        lists = [_keras_weights(layer) for layer in layers]
    elif hasattr(source, "items"):
        lists = _keras_groups(source, prefix)
    elif isinstance(source, (list, tuple)):
        flat: list[Any] = []
        for part in source:
            flat.extend(part if isinstance(part, (list, tuple)) else [part])
        if len(flat) not in (2, 3, 4, 6):
            raise ValueError(
                "an LSTM's weights are [kernel, recurrent_kernel, bias], or without the bias, "
                f"for Bidirectional twice, not {len(flat)} arrays"
            )
        size = len(flat) if len(flat) < 4 else len(flat) // 2
        lists = [flat[k : k + size] for k in range(0, len(flat), size)]
    else:
        raise TypeError(f"from_keras takes a Keras layer or its weights, not {_class(source)}")
    names = ("weight_ih", "weight_hh", "bias_ih")  # the gates are in the same order, i, f, c, o
    directions = [{name: _array(w).T for name, w in zip(names, weights)} for weights in lists]
    return [_layer(directions)], options


def _keras_weights(layer: Any) -> Sequence[Any]:
    """The weights of an LSTM layer, of one direction."""
    cell = getattr(layer, "cell", layer)
    if type(cell).__name__ != "LSTMCell":
        raise TypeError(f"{_class(layer)} is not an LSTM: its cell is {_class(cell)}")
    config = cell.get_config()
    for name, only in (("activation", "tanh"), ("recurrent_activation", "sigmoid")):
        if config[name] != only:
            raise ValueError(f"{name} {config[name]!r} is not supported, only {only!r}")
    weights: Sequence[Any] = layer.get_weights()
    if not weights:
        raise ValueError(f"layer {layer.name!r} has no weights yet: build it, or call it once")
    return weights


def _leaves(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in group.items():
        if hasattr(value, "items"):
            yield from _leaves(value, f"{path}{key}/")
        else:
            yield f"{path}{key}", value


def _keras_groups(source: Any, prefix: str) -> list[Sequence[Any]]:
    """The weights of the only LSTM under prefix, in each direction.

    .../lstm_cell/kernel, recurrent_kernel, bias, each perhaps with :0, or .../cell/vars/0, 1, 2.
    """
    names = {"kernel": 0, "recurrent_kernel": 1, "bias": 2, "0": 0, "1": 1, "2": 2}
    groups: dict[str, dict[int, Any]] = {}
    for path, value in _leaves(source):
        group, _, name = path.rpartition("/")
        number = names.get(name.removesuffix(":0"))
        if number is not None and path.startswith(prefix) and not path.startswith("optimizer"):
            groups.setdefault(group, {})[number] = value
    found = []  # layer, direction, group
    for group, arrays in groups.items():
        kernel, recurrent = np.shape(arrays.get(0, ())), np.shape(arrays.get(1, ()))
        if len(recurrent) == 2 and kernel[1:] == recurrent[1:] == (4 * recurrent[0],):
            match = re.search(r"(?:^|/)(forward|backward)_", group)
            layer, direction = (group[: match.start()], match[1]) if match else (group, "forward")
            found.append((layer, direction, group))
    if not found:
        there = _names(path for path, _ in _leaves(source))
        raise ValueError(f"there is no LSTM under {prefix!r}: there are {there}")
    chosen = {direction: groups[group] for _, direction, group in found}
    if len(chosen) < len(found) or len({layer for layer, _, _ in found}) > 1:
        there = _names(sorted({f"{layer or group}/" for layer, _, group in found}))
        raise ValueError(f"there is more than one LSTM under {prefix!r}: choose by prefix, of {there}")
    directions = [chosen[way] for way in ("forward", "backward") if way in chosen]
    return [[arrays[number] for number in sorted(arrays)] for arrays in directions]


# ---- ONNX -------------------------------------------------------------------------------------


def from_onnx(
    source: Any, node: str | None = None, *, weights: Mapping[str, Any] | None = None
) -> _Result:
    """One LSTM node of an onnx.ModelProto, of its bytes, or of the file at a path.

    The inputs initial_h, initial_c and sequence_lens belong to the call.  Outputs are the same but
    for Y's axis of directions, which fastgate's y has as halves of its last axis; with layout 1
    (batch_first) also initial and final states, which ONNX has batch first.  clip becomes gate_clip,
    which bounds the inputs of sigmoids and of the cell gate's tanh, as ONNX Runtime does it, not of
    tanh(C).

    Parameters
    ----------
    source : onnx.ModelProto, bytes, or path
        The model.
    node : str, optional
        The name of the node or of one of its outputs, None if there is but one; those inside branches
        and loops count.
    weights : mapping of arrays, optional
        W, R, B and P are initializers or computed from such; this gives the values of others by name,
        such as inputs of the graph.

    Raises
    ------
    ImportError
        Without the onnx package.
    ValueError
        If there are other activations than Sigmoid, Tanh, Tanh, or not one such node.
    TypeError
        If source is something else.
    """
    try:
        onnx = importlib.import_module("onnx")
    except ImportError as error:
        raise ImportError("from_onnx needs the onnx package: pip install onnx") from error
    if isinstance(source, (str, os.PathLike)):
        source = onnx.load(source)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        source = onnx.load_from_string(bytes(source))
    if not isinstance(source, onnx.ModelProto):
        raise TypeError(f"from_onnx takes an onnx.ModelProto, bytes or a path, not {_class(source)}")

    there = [
        (scope, each)
        for scope in _scopes(source.graph)
        for each in scope[0].node
        if each.op_type == "LSTM" and each.domain in ("", "ai.onnx")
    ]
    chosen = [pair for pair in there if node is None or node in (pair[1].name, *pair[1].output)]
    if len(chosen) != 1:
        called = [each.name or next(filter(None, each.output), "") for _, each in there]
        listed = _names(called) or "none"
        if node is None:
            raise ValueError(f"there are {len(there)} LSTM nodes: {listed}; say which one, by node=")
        raise ValueError(f"{len(chosen)} LSTM nodes or outputs are called {node!r}; there are {listed}")
    [(scope, lstm)] = chosen

    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in lstm.attribute}
    direction = attributes.get("direction", b"forward").decode()
    directions = 2 if direction == "bidirectional" else 1
    activations = [name.decode() for name in attributes.get("activations", ())]
    only = ["Sigmoid", "Tanh", "Tanh"] * directions
    if activations and [name.title() for name in activations] != only:
        raise ValueError(f"activations {activations} are not supported, only {only}")

    inputs = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
    names = dict(zip(inputs, lstm.input))
    arrays = {
        name: _value(onnx, source.opset_import, scope, names[name], weights or {})
        for name in ("W", "R", "B", "P")
        if names.get(name)
    }
    n, h = arrays["W"].shape[-1], arrays["R"].shape[-1]
    shapes = {"W": (4 * h, n), "R": (4 * h, h), "B": (8 * h,), "P": (3 * h,)}
    for name, array in arrays.items():
        if array.shape != (shape := (directions, *shapes[name])):
            raise ValueError(f"{name} is of shape {array.shape}, but {direction!r} needs {shape}")

    options = {
        "batch_first": bool(attributes.get("layout")),
        "reverse": direction == "reverse",
        "gate_clip": attributes.get("clip"),
        "input_forget": bool(attributes.get("input_forget")),
    }
    layer = [_onnx_direction({name: arrays[name][k] for name in arrays}) for k in range(directions)]
    return [_layer(layer)], options


def _onnx_direction(arrays: dict[str, _Array]) -> _Direction:
    """From the order i, o, f, c to i, f, g, o; peepholes from i, o, f to i, f, o."""
    parameters = {"weight_ih": arrays["W"], "weight_hh": arrays["R"]}
    if "B" in arrays:
        parameters["bias_ih"], parameters["bias_hh"] = np.split(arrays["B"], 2)
    for name, array in parameters.items():
        i, o, f, c = np.split(array, 4)
        parameters[name] = np.concatenate([i, f, c, o])
    if "P" in arrays:
        parameters["peephole"] = arrays["P"].reshape(3, -1)[[0, 2, 1]]
    return parameters


def _scopes(graph: Any, outer: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """graph and every graph inside it, each followed by those around it."""
    scope = (graph, *outer)
    yield scope
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _scopes(inner, scope)


def _value(
    onnx: Any, opsets: Any, scope: tuple[Any, ...], name: str, given: Mapping[str, Any]
) -> _Array:
    """The value of a tensor: given, an initializer, or computed from such."""
    if name in given:
        return _array(given[name])
    for graph in scope:
        for tensor in graph.initializer:
            if tensor.name == name:
                return _array(onnx.numpy_helper.to_array(tensor))
        for node in graph.node:
            if name in node.output:
                inputs = {
                    each: _value(onnx, opsets, scope, each, given) for each in node.input if each
                }
                output = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UNDEFINED, None)
                alone = onnx.helper.make_graph([node], "alone", [], [output])
                model = onnx.helper.make_model(alone, opset_imports=opsets)
                evaluator = importlib.import_module("onnx.reference").ReferenceEvaluator(model)
                return _array(evaluator.run([name], inputs)[0])
    raise ValueError(
        f"the model has no value for {name!r}, which the weights need: "
        f"give it as weights={{{name!r}: array}}"
    )
