"""The weights of LSTMs made elsewhere: torch, Keras, ONNX.

from_torch, from_keras and from_onnx give (layers, options): an LSTM of the layers, with the options as keywords,
computes what its source does.  torch and Keras are never imported, since their objects are known by their form; onnx
and h5py are imported where a model or a file has to be read.
"""

from __future__ import annotations

import importlib
import io
import json
import math
import os
import re
import zipfile
from collections.abc import Mapping

import numpy as np

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
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


def _names(names: Iterable[Any]) -> str:
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
        If it is another kind of module, such as a scripted or a quantized one, or if a key is not a string.
    ValueError
        If keys are missing or unknown, or if weights are computed from others, such as by weight norm or pruning.
    """
    options = {}
    if hasattr(source, "state_dict"):
        bases = {(base.__module__, base.__name__) for base in type(source).__mro__}
        if not {("torch.nn.modules.rnn", "LSTM"), ("torch.nn.modules.rnn", "LSTMCell")} & bases:
            hint = "give the torch.nn.LSTM inside it, or its state_dict() and prefix="
            if ".quantized" in _class(source):
                hint = "give the module before quantization, and storage='int8' if the LSTM is to be quantized"
            elif "torch.jit" in _class(source):
                hint = "give its state_dict(), and batch_first=True if it has that"
            raise TypeError(f"{_class(source)} is neither a torch.nn.LSTM nor a torch.nn.LSTMCell: {hint}")
        if getattr(source, "batch_first", False):
            options["batch_first"] = True
        source = source.state_dict()
    if not isinstance(source, Mapping):
        raise TypeError(f"from_torch takes an LSTM, an LSTMCell or a state dict, not {_class(source)}")
    if strange := [key for key in source if not isinstance(key, str)]:
        raise TypeError(f"the keys of a state dict are strings such as 'weight_ih_l0', not {_names(strange)}")

    there = {key[len(prefix) :]: source[key] for key in source if key.startswith(prefix)}
    name = r"((?:weight|bias)_(?:ih|hh)|weight_hr)(?:_l([0-9]+)(_reverse)?)?"
    others = rf"parametrizations\..*|{name}_(g|v|u|orig|mask)"
    if computed := [prefix + key for key in there if re.fullmatch(others, key)]:
        raise ValueError(
            f"weights are computed from {_names(computed)}: make them plain first, by torch.nn.utils."
            "parametrize.remove_parametrizations, .remove_weight_norm, .remove_spectral_norm or .prune.remove"
        )
    found = [match for key in there if (match := re.fullmatch(name, key))]
    if not found:
        ends = re.compile(r"(?<![^.])weight_ih(_l0)?$")
        prefixes = sorted({key[: match.start()] for key in source if (match := ends.search(key))})
        hint = f"prefix may be {_names(prefixes)}" if prefixes else f"there are {_names(source) or 'none'}"
        raise ValueError(f"there is no {prefix + 'weight_ih_l0'!r}: {hint}")

    kinds = {"weight_ih", "weight_hh"} | {match[1] for match in found}
    if any(kind.startswith("bias") for kind in kinds):
        kinds |= {"bias_ih", "bias_hh"}  # torch has both or none
    suffixes = ("", "_reverse") if any(match[3] for match in found) else ("",)
    depth = 1  # layers follow each other: a number alone, which may be huge, does not make one
    while any(f"{kind}_l{depth}{suffix}" in there for kind in kinds for suffix in suffixes):
        depth += 1
    tails = [[f"_l{k}{suffix}" for suffix in suffixes] for k in range(depth)]
    if not any(match[2] for match in found):
        tails = [[""]]  # LSTMCell's names
    wanted = {kind + tail for layer in tails for tail in layer for kind in kinds}
    if missing := sorted(wanted - there.keys()):
        names = _names(prefix + key for key in missing)
        raise ValueError(f"there is no {names} beside {_names(prefix + key for key in there)}")
    if unknown := sorted(there.keys() - wanted):
        raise ValueError(f"{_names(prefix + key for key in unknown)} is not of an LSTM of {len(tails)} layers")
    keys = {kind: "projection" if kind == "weight_hr" else kind for kind in sorted(kinds)}
    return [
        _layer([{keys[kind]: _array(there[kind + tail]) for kind in keys} for tail in layer]) for layer in tails
    ], options


# ---- Keras ------------------------------------------------------------------------------------


def from_keras(source: Any, *, prefix: str = "", bidirectional: bool | None = None) -> _Result:
    """A Keras layer, of Keras 3 or 2: LSTM, LSTMCell, RNN of an LSTMCell, or Bidirectional of these.

    Or what was saved of it:

    - the path of a .keras, .h5 or .weights.h5 file, or a group of such a file that h5py opened.  What the model's
      configuration says of the layer counts as if the layer were given: .keras and .h5 files have one, and a
      .weights.h5 file may have one beside it, the config.json of an unpacked .keras file;
    - what layer.get_weights() gives: [kernel, recurrent_kernel, bias], or without the bias; for Bidirectional both
      after each other, or a pair of such lists;
    - a nested or flat dict of the arrays of a file.

    Where no configuration tells, the activation is taken to be "tanh" and the recurrent_activation "sigmoid" (beware:
    before TensorFlow 2 the default was "hard_sigmoid").

    go_backwards becomes reverse=True: fastgate's outputs are in the order of time, Keras's in the order of processing.
    y is the whole sequence: what return_sequences=False gives is h_n[-1], or for Bidirectional
    numpy.concatenate(h_n, -1).  Masks are not taken: pass lengths= instead.  stateful, unroll and dropout are ignored.

    Parameters
    ----------
    source : layer, path, group, sequence of arrays, or mapping
        As above.
    prefix : str
        Chooses the layer among those of a model's file, e.g. "layers/lstm_1/" or "model_weights/lstm_1/".
    bidirectional : bool, optional
        Where no configuration tells, whether two sets of weights are the directions of a Bidirectional or, in a list,
        two layers, one on the other.

    Raises
    ------
    ImportError
        If a path is given without the h5py package.
    ValueError
        If there is another activation, a merge_mode other than Bidirectional's "concat", or not one such layer, or if
        bidirectional is needed.
    TypeError
        If it is another kind of layer.
    """
    told: list[dict[str, Any]] = []  # the configuration of each direction
    if hasattr(source, "get_weights"):
        is_pair = hasattr(source, "forward_layer")
        layers = [source.forward_layer, source.backward_layer] if is_pair else [source]
        told = [{**_keras_config(layer), "merge_mode": getattr(source, "merge_mode", "concat")} for layer in layers]
        lists = [layer.get_weights() for layer in layers]
    elif isinstance(source, (str, os.PathLike)):
        file, config = _keras_open(source)
        with file:
            lists, told = _keras_groups(file, prefix, bidirectional, config or _keras_model(file))
    elif hasattr(source, "items"):
        config = _keras_model(source) if hasattr(source, "file") else None
        lists, told = _keras_groups(source, prefix, bidirectional, config)
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
        if bidirectional is None and len(source) == len(flat) > 3:  # a pair of lists does tell
            (kernel, recurrent), others = ([np.shape(array) for array in half[:2]] for half in lists)
            bidirectional = kernel == others[0]
            if kernel == recurrent == others[0]:
                raise ValueError(
                    "these may be the directions of a Bidirectional, or two layers, one on the other: "
                    "say bidirectional=True or False"
                )
    else:
        raise TypeError(f"from_keras takes a Keras layer, a path, or weights, not {_class(source)}")

    for config, weights in zip(told, lists):
        only: dict[str, Any] = {"activation": "tanh", "recurrent_activation": "sigmoid", "merge_mode": "concat"}
        if weights:
            only |= {"units": len(weights[1]), "use_bias": len(weights) == 3}
        for name, value in only.items():
            if config.get(name) != value:
                raise ValueError(f"{name} {config.get(name)!r} is not supported, only {value!r} with these weights")
    backwards = [bool(config.get("go_backwards")) for config in told]
    if len(backwards) == 2 and backwards != [False, True]:
        raise ValueError("the two directions are swapped: forward_layer has go_backwards=True")
    if not all(lists):
        raise ValueError(f"layer {source.name!r} has no weights yet: build it, or call it once")
    options = {"batch_first": not any(config.get("time_major") for config in told)}
    if backwards == [True]:
        options["reverse"] = True
    names = ("weight_ih", "weight_hh", "bias_ih")  # the gates are in the same order, i, f, c, o
    directions = [{name: _array(w).T for name, w in zip(names, weights)} for weights in lists]
    if bidirectional is False and not told:
        return [*directions], options
    return [_layer(directions)], options


def _keras_config(layer: Any) -> dict[str, Any]:
    """The configuration of a layer object that has one direction, and of its cell."""
    cell = getattr(layer, "cell", layer)
    if type(cell).__name__ != "LSTMCell" or not re.match(r"(tf_)?keras\.|tensorflow\.", type(cell).__module__):
        raise TypeError(f"{_class(layer)} is not an LSTM: its cell is {_class(cell)}")
    return {**layer.get_config(), **cell.get_config()}


def _keras_open(path: Any) -> tuple[Any, Any]:
    """The h5py.File at a path, which may be a .keras archive that holds it, and the configuration in the archive."""
    try:
        h5py = importlib.import_module("h5py")
    except ImportError as error:
        raise ImportError("from_keras needs the h5py package to read files: pip install h5py") from error
    if not zipfile.is_zipfile(path):
        return h5py.File(path), None
    with zipfile.ZipFile(path) as archive:
        if missing := {"config.json", "model.weights.h5"} - set(archive.namelist()):
            raise ValueError(f"{str(path)!r} is not a .keras file: there is no {_names(sorted(missing))} in it")
        return h5py.File(io.BytesIO(archive.read("model.weights.h5"))), archive.read("config.json")


def _keras_model(group: Any) -> Any:
    """The configuration in the file that an h5py group belongs to, or in the config.json beside that file."""
    config = group.file.attrs.get("model_config")
    beside = os.path.join(os.path.dirname(group.file.filename), "config.json")
    if config is None and os.path.isfile(group.file.filename) and os.path.isfile(beside):  # it may be a buffer
        with open(beside, "rb") as file:
            config = file.read()
    return config


def _keras_children(layer: Any, is_keras_3: bool) -> dict[str, Any]:
    """The layers of a model by the names of their groups: their own, or in Keras 3 lstm, lstm_1 for the class LSTM."""
    config = layer["config"]
    found: dict[str, Any] = {}
    numbers: dict[str, int] = {}
    for each in config if isinstance(config, list) else config.get("layers", ()):
        name = each["config"]["name"]
        if is_keras_3:
            name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", each["class_name"])
            name = re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
            numbers[name] = numbers.get(name, -1) + 1
            name += f"_{numbers[name]}" if numbers[name] else ""
        found[name] = each
    return found


def _keras_told(model: Any, path: str) -> tuple[str, str, dict[str, Any]] | None:
    """The name of the layer that has a group of weights, their direction, and its configuration as _keras_config gives
    it; None if the configuration of the model, which may be of a class of its own, does not list layers."""
    parts = [part for part in path.split("/") if part]
    is_keras_3 = parts[-1] == "vars"
    del parts[: parts[0] in ("model_weights", "layers", "_layer_checkpoint_dependencies")]
    children = _keras_children(model, is_keras_3)
    if not children:
        return None
    if parts[0] not in children:
        raise ValueError(f"the configuration of the model does not tell of {path!r}: give the layer, or its weights")
    for k, part in enumerate(parts):
        if part in children:
            layer, depth = children[part], k + 1
            children = _keras_children(layer, is_keras_3)
    half, direction, config = layer, "forward", layer["config"]
    if layer["class_name"] == "Bidirectional":
        half = config["layer"]
        if not any(part.startswith("forward_") for part in parts[depth:]):
            direction = "backward"
            backward = {**half["config"], "go_backwards": not half["config"].get("go_backwards")}
            half = config.get("backward_layer") or {**half, "config": backward}
    cell = half["config"]["cell"] if half["class_name"] == "RNN" else half
    told = {"class_name": cell["class_name"], "merge_mode": config.get("merge_mode", "concat")}
    return "/".join(parts[:depth]), direction, {**half["config"], **cell["config"], **told}


def _keras_leaves(source: Any, prefix: str) -> dict[str, Any]:
    """The arrays under prefix, by their paths.  Each group is searched once, however many lead to it."""
    found, searched = {}, set()
    pending = [("", source)]
    for path, value in pending:  # which grows
        if not hasattr(value, "items"):
            found[path] = value
        elif (identity := getattr(value, "id", id(value))) not in searched:  # h5py makes an object each time
            searched.add(identity)
            for key, each in value.items():
                inner = f"{path}{key}/" if hasattr(each, "items") else f"{path}{key}"
                if inner.startswith(prefix) or prefix.startswith(inner):
                    pending.append((inner, each))
    return found


def _keras_groups(source: Any, prefix: str, bidirectional: Any, config: Any) -> tuple[list[Any], list[Any]]:
    """The weights of the only LSTM under prefix, in each direction, and what the configuration of the model says.

    .../lstm_cell/kernel, recurrent_kernel, bias, each perhaps with :0, or .../cell/vars/0, 1, 2.
    """
    names = {"kernel": 0, "recurrent_kernel": 1, "bias": 2, "0": 0, "1": 1, "2": 2}
    groups: dict[str, dict[int, Any]] = {}
    for path, value in _keras_leaves(source, prefix).items():
        group, _, name = path.rpartition("/")
        number = names.get(name.removesuffix(":0"))
        if number is not None and path.startswith(prefix) and not path.startswith("optimizer"):
            groups.setdefault(group, {})[number] = value
    try:
        model = json.loads(config or "{}") or {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the configuration of the model is not JSON: {error}") from error
    found: dict[str, dict[str, tuple[str, Any]]] = {}  # layer: {direction: (group, what the model says)}
    for group, arrays in groups.items():
        kernel, recurrent = np.shape(arrays.get(0, ())), np.shape(arrays.get(1, ()))
        if len(recurrent) != 2 or not kernel[1:] == recurrent[1:] == (4 * recurrent[0],):
            continue
        try:
            told = _keras_told(model, f"{source.name}/{group}") if "class_name" in model else None
        except (AttributeError, LookupError, TypeError) as error:
            raise ValueError(f"the configuration of the model is damaged: {error!r}") from error
        match = re.fullmatch(r"(?:(.*)/)?(forward|backward)_.*", group) if bidirectional else None
        layer, direction, config = told or (match[1] or "" if match else group, match[2] if match else "forward", None)
        layer = group if direction in found.get(layer, ()) else layer  # another one
        found.setdefault(layer, {})[direction] = group, config
    if not found:
        there = _names(_keras_leaves(source, ""))
        raise ValueError(f"there is no LSTM under {prefix!r}: there are {there}")
    if len(found) > 1:
        there = _names(sorted(f"{group}/" for halves in found.values() for group, _ in halves.values()))
        raise ValueError(
            f"there is more than one LSTM under {prefix!r}: choose by prefix, of {there}; "
            "if they are the directions of one layer, say bidirectional=True"
        )
    [halves] = found.values()
    chosen = [halves[direction] for direction in ("forward", "backward") if direction in halves]
    configs = [config for _, config in chosen if config]
    for config in configs:
        if config["class_name"] not in ("LSTM", "LSTMCell"):
            raise TypeError(f"layer {config.get('name')!r} is not an LSTM: its class is {config['class_name']!r}")
    for array in (array for group, _ in chosen for array in groups[group].values()):
        if hasattr(array, "id") and array.nbytes > _ROOM + 1000 * array.id.get_storage_size():
            raise ValueError(f"{array.name!r} is of shape {array.shape}, but most of it is not in the file")
    lists = [[_array(groups[group][number]) for number in sorted(groups[group])] for group, _ in chosen]
    return lists, configs


# ---- ONNX -------------------------------------------------------------------------------------


def from_onnx(source: Any, node: str | None = None, *, weights: Mapping[str, Any] | None = None) -> _Result:
    """One LSTM node of an onnx.ModelProto, of its bytes, or of the file at a path.

    The inputs initial_h, initial_c and sequence_lens belong to the call.  Outputs are the same but
    for Y's axis of directions, which fastgate's y has as halves of its last axis; with layout 1
    (batch_first) also initial and final states, which ONNX has batch first.  clip becomes gate_clip,
    which bounds the inputs of sigmoids and of the cell gate's tanh, as ONNX Runtime does it, not of
    tanh(C).

    Parameters
    ----------
    source : onnx.ModelProto, bytes, or path
        The model.  Of a path, data that are in files beside the model are read too.
    node : str, optional
        The name of the node or of one of its outputs, None if there is but one; those inside branches
        and loops count.
    weights : mapping of arrays, optional
        W, R, B and P are initializers, or computed from such by operators that exporters put there, like
        Transpose, Concat and DequantizeLinear; this gives the values of others by name, such as inputs of
        the graph.

    Raises
    ------
    ImportError
        Without the onnx package.
    ValueError
        If there are other activations than Sigmoid, Tanh, Tanh, or not one such node; if a weight cannot be
        computed; if an initial state is a constant and not zero, which onnx_state gives.
    TypeError
        If source is something else.
    """
    lstm = _OnnxLSTM(source, node, weights)
    for name in ("initial_h", "initial_c"):
        state = None if lstm.names.get(name) in lstm.given else lstm.state(name)
        if state is not None and state.any():
            raise ValueError(
                f"{name} is a constant of the model and not zero, and an LSTM keeps no initial state: get it by "
                "h, c = fastgate.weights.onnx_state(model, node), pass (h, c) to each call, and tell from_onnx that "
                f"you do by weights={{{lstm.names[name]!r}: array}}"
            )
    layer = []
    for k in range(lstm.directions):
        arrays = {name: array[k] for name, array in lstm.arrays.items()}
        parameters = {"weight_ih": arrays["W"], "weight_hh": arrays["R"]}
        if "B" in arrays:
            parameters["bias_ih"], parameters["bias_hh"] = np.split(arrays["B"], 2)
        for name, array in parameters.items():
            i, o, f, c = np.split(array, 4)
            parameters[name] = np.concatenate([i, f, c, o])
        if "P" in arrays:
            parameters["peephole"] = arrays["P"].reshape(3, -1)[[0, 2, 1]]  # from i, o, f
        layer.append(parameters)
    return [_layer(layer)], lstm.options


def onnx_state(
    source: Any, node: str | None = None, *, weights: Mapping[str, Any] | None = None
) -> tuple[_Array, _Array]:
    """The initial state (h, c) that an ONNX model has as constants: zeros where it has none.

    The parameters are those of from_onnx.  h and c are (directions, B, hidden_size), as calls of the LSTM take
    them.  B is 1 where the model repeats the state for each batch: numpy.repeat(h, B, axis=1) does so.

    Raises what from_onnx raises, and ValueError if the state depends on inputs of the model.
    """
    lstm = _OnnxLSTM(source, node, weights)
    state_h, state_c = (lstm.state(name) for name in ("initial_h", "initial_c"))
    if state_h is None or state_c is None:
        raise ValueError("the initial state depends on inputs of the model: it belongs to calls")
    h, c = (array.copy() for array in np.broadcast_arrays(state_h, state_c))
    if h.ndim != 3 or h.shape[::2] != (lstm.directions, lstm.hidden):
        raise ValueError(f"the initial state is of shape {h.shape}, not ({lstm.directions}, B, {lstm.hidden})")
    return h, c


class _OnnxLSTM:
    """An LSTM node of a model: the names and arrays of its inputs, and the options for fastgate.LSTM."""

    def __init__(self, source: Any, node: str | None, weights: Mapping[str, Any] | None) -> None:
        try:
            onnx = importlib.import_module("onnx")
        except ImportError as error:
            raise ImportError("from_onnx needs the onnx package: pip install onnx") from error
        if weights is not None and not isinstance(weights, Mapping):
            raise TypeError(f"weights is a mapping from names to arrays, not {_class(weights)}")
        try:
            if isinstance(source, (str, os.PathLike)):
                source = onnx.load(source)
            elif isinstance(source, (bytes, bytearray, memoryview)):
                source = onnx.load_from_string(bytes(source))
        except importlib.import_module("google.protobuf.message").DecodeError as error:
            raise ValueError(f"source is not an ONNX model, or a damaged one: {error}") from error
        if not isinstance(source, onnx.ModelProto):
            raise TypeError(f"from_onnx takes an onnx.ModelProto, bytes or a path, not {_class(source)}")
        self.graph, lstm = _onnx_node(source, node)

        for each in lstm.attribute:
            kind = onnx.AttributeProto.AttributeType.Name(each.type)
            if kind != _LSTM_ATTRIBUTES.get(each.name, kind):
                raise ValueError(f"attribute {each.name} is of type {kind}, not {_LSTM_ATTRIBUTES[each.name]}")
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in lstm.attribute}
        direction = attributes.get("direction", b"forward").decode()
        known = {"direction": ("forward", "reverse", "bidirectional"), "layout": (0, 1), "input_forget": (0, 1)}
        for name, values in known.items():
            value = direction if name == "direction" else attributes.get(name, 0)
            if value not in values:
                raise ValueError(f"{name} {value!r} is not supported, only {_names(values)}")
        self.directions = 1 + (direction == "bidirectional")
        only = ["Sigmoid", "Tanh", "Tanh"] * self.directions
        activations = [name.decode() for name in attributes.get("activations", ())] or only
        if [name.title() for name in activations] != only:
            raise ValueError(f"activations {activations} are not supported, only {only}")
        self.options = {
            "batch_first": bool(attributes.get("layout")),
            "reverse": direction == "reverse",
            "gate_clip": attributes.get("clip"),
            "input_forget": bool(attributes.get("input_forget")),
        }

        inputs = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
        self.names = {name: given for name, given in zip(inputs, lstm.input) if given}
        self.given = weights or {}
        self.model = onnx, source, self.given
        constants = _Constants(*self.model)
        if missing := {"W", "R"} - self.names.keys():
            raise ValueError(f"the LSTM node {lstm.name!r} has no {_names(sorted(missing))}")
        self.arrays = {n: constants.value(self.graph, self.names[n]) for n in "WRBP" if n in self.names}
        w, r = self.arrays["W"], self.arrays["R"]
        n, h = (array.shape[-1] if array.ndim else 0 for array in (w, r))
        self.hidden = h = attributes["hidden_size"] if "hidden_size" in attributes else h
        shapes = {"W": (4 * h, n), "R": (4 * h, h), "B": (8 * h,), "P": (3 * h,)}
        for name, array in self.arrays.items():
            if array.shape != (shape := (self.directions, *shapes[name])):
                told = f"{direction!r} with hidden_size {h} needs {shape}"
                raise ValueError(f"{name} is of shape {array.shape}, but {told}")

    def state(self, name: str) -> Any:
        """initial_h or initial_c, with layout 0: zeros if there is none, None if it depends on inputs of the model."""
        if name not in self.names:
            return np.zeros((self.directions, 1, self.hidden), self.arrays["R"].dtype)
        try:
            state = _Constants(*self.model, is_state=True).value(self.graph, self.names[name])
        except _NoValueError:
            return None
        if not state.size:  # sizes that are not known are not 1
            given = self.names[name]
            raise ValueError(f"the shape of {given!r} is not known: give it as weights={{{given!r}: array}}")
        return state.swapaxes(0, 1) if self.options["batch_first"] and state.ndim > 1 else state


class _Graph:
    """A graph of a model, its tensors by name, and the graph around it."""

    def __init__(self, proto: Any, outer: _Graph | None) -> None:
        self.proto, self.outer = proto, outer
        self.sources = {name: node for node in reversed(proto.node) for name in node.output}
        self.sources.update((tensor.name, tensor) for tensor in proto.initializer)


def _onnx_node(model: Any, called: str | None) -> tuple[_Graph, Any]:
    """The graph that has the LSTM node of this name, and the node.  Graphs in branches and loops are searched too."""
    graphs = [_Graph(model.graph, None)]
    for graph in graphs:  # which grows
        for attribute in (attribute for node in graph.proto.node for attribute in node.attribute):
            inner = [attribute.g] if attribute.HasField("g") else []
            graphs.extend(_Graph(each, graph) for each in (*inner, *attribute.graphs))
    nodes = [(graph, node) for graph in graphs for node in graph.proto.node]
    there = [pair for pair in nodes if pair[1].op_type == "LSTM" and pair[1].domain in _ONNX_DOMAINS]
    chosen = [pair for pair in there if called is None or called in (pair[1].name, *pair[1].output)]
    if len(chosen) == 1:
        return chosen[0]
    listed = _names(node.name or next(filter(None, node.output), "") for _, node in there) or "none"
    if called is None and there:
        listed += "; say which one, by node="
    if any(node.op_type == "DynamicQuantizeLSTM" for _, node in nodes):
        listed += "; DynamicQuantizeLSTM is not supported: give the model before quantization, and storage='int8'"
    if any(node.op_type == "LSTM" for function in model.functions for node in function.node):
        listed += "; others are in functions: inline them, by onnx.inliner.inline_local_functions(model)"
    if called is None:
        raise ValueError(f"there are {len(there)} LSTM nodes: {listed}")
    raise ValueError(f"{len(chosen)} LSTM nodes or outputs are called {called!r}; there are {listed}")


_ONNX_DOMAINS = ("", "ai.onnx")
_LSTM_ATTRIBUTES = {"direction": "STRING", "activations": "STRINGS", "clip": "FLOAT"}
_LSTM_ATTRIBUTES |= {"hidden_size": "INT", "layout": "INT", "input_forget": "INT"}
_ROOM = 2**28  # bytes that arrays may take however small the file is


class _NoValueError(ValueError):
    """A tensor depends on inputs of the model."""


class _Constants:
    """The values of tensors: given, initializers or computed from these, each once and without recursion.

    A state may be repeated for the batch of X: if is_state, tensors without a value count as of shape (1, 1, 1).
    """

    def __init__(self, onnx: Any, model: Any, given: Mapping[str, Any], is_state: bool = False) -> None:
        self.onnx, self.given, self.is_state = onnx, given, is_state
        self.opset = max((each.version for each in model.opset_import if each.domain in _ONNX_DOMAINS), default=1)
        self.known: dict[tuple[_Graph | None, str], Any] = {(None, name): _array(given[name]) for name in given}
        self.room = _ROOM + 64 * sum(array.nbytes for array in self.known.values())

    def key(self, graph: _Graph | None, name: str) -> tuple[_Graph | None, str]:
        """The graph that has a tensor, None if it is given or nowhere, and its name."""
        while graph and (name in self.given or name not in graph.sources):
            graph = None if name in self.given else graph.outer
        return graph, name

    def value(self, graph: _Graph, name: str) -> _Array:
        """The value of a tensor of a graph.  What has none leaves an error, which a state's Shape does not need."""
        wanted = self.key(graph, name)
        pending, opened = [wanted], set()
        while pending:
            place, called = key = pending[-1]
            source = place.sources[called] if place else None
            inputs = [self.key(place, each) for each in getattr(source, "input", ()) if each]
            needed = [each for each in inputs if each not in self.known]
            if key in self.known:
                pending.pop()
            elif key in opened and needed:
                raise ValueError(f"{called!r} is computed from itself")
            elif needed:
                opened.add(key)
                pending.extend(needed)
            else:
                outputs = self.outputs(name, called, source, [self.known[each] for each in inputs])
                self.known.update(((place, output), value) for output, value in outputs)
        if isinstance(self.known[wanted], ValueError):
            raise self.known[wanted]
        array: _Array = self.known[wanted]
        return array

    def outputs(self, wanted: str, called: str, source: Any, inputs: list[Any]) -> list[tuple[str, Any]]:
        """What a source gives, by name: arrays, or the error for which it gives none."""
        missing: list[ValueError] = [each for each in inputs if isinstance(each, _NoValueError)]
        errors: list[ValueError] = missing or [each for each in inputs if isinstance(each, ValueError)]
        try:
            if source is None:
                raise _NoValueError(
                    f"the model has no value for {called!r}, which the LSTM needs: "
                    f"give it as weights={{{called!r}: array}}"
                )
            if not hasattr(source, "op_type"):
                return [(called, self.tensor(source))]
            is_supported = source.op_type in _OPERATORS and source.domain in _ONNX_DOMAINS
            if not is_supported and not (self.is_state and missing):
                raise ValueError(
                    f"{called!r} is computed by {source.op_type}, which from_onnx does not evaluate: "
                    f"give {wanted!r} as weights={{{wanted!r}: array}}"
                )
            if errors and not (self.is_state and source.op_type == "Shape"):
                raise errors[0]
            return self.compute(source, [np.zeros((1, 1, 1))] if errors else inputs)
        except ValueError as error:
            return [(name, error) for name in getattr(source, "output", (called,))]

    def tensor(self, proto: Any) -> _Array:
        if proto.data_location == self.onnx.TensorProto.EXTERNAL:
            raise ValueError(f"the data of {proto.name!r} are in another file: give the path of the model")
        try:
            array = _array(self.onnx.numpy_helper.to_array(proto))
        except Exception as error:  # of many kinds, since onnx does not check what it reads
            raise ValueError(f"the tensor {proto.name!r} is damaged: {error!r}") from error
        self.room += 64 * array.nbytes
        return array

    def compute(self, node: Any, inputs: list[_Array]) -> list[tuple[str, Any]]:
        """The outputs of a node by name, from the inputs that are not left out."""
        helper, names = self.onnx.helper, [name for name in node.input if name]
        try:
            attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
            for value in attributes.values():
                if isinstance(value, self.onnx.TensorProto):
                    self.tensor(value)
            if (size := _bytes(node.op_type, inputs, attributes)) > self.room:
                raise ValueError(f"it takes {size} bytes, far more than there are in the model")
            opsets = {"": self.opset} if node.op_type != "DequantizeLinear" else {"": max(self.opset, 19)}
            if "axis" in attributes and node.op_type in ("Add", "Sub", "Mul", "Div"):  # where the axes of b are in a
                a, b = inputs  # before opset 7
                inputs = [a, b.reshape(b.shape + (1,) * (a.ndim - b.ndim - attributes["axis"]))]
            outputs = [name for name in node.output if name]
            infos = [helper.make_tensor_value_info(name, self.onnx.TensorProto.UNDEFINED, None) for name in outputs]
            alone = helper.make_graph([node], "alone", [], infos)
            evaluator = importlib.import_module("onnx.reference").ReferenceEvaluator(alone, opsets=opsets)
            with np.errstate(all="ignore"):
                results = [_array(each) for each in evaluator.run(None, dict(zip(names, inputs)))]
        except Exception as error:  # of many kinds, since the evaluator does not check what it is given
            raise ValueError(f"{node.op_type} cannot compute {node.output[0]!r}: {error}") from error
        self.room -= sum(each.nbytes for each in results if not any(np.may_share_memory(each, x) for x in inputs))
        return list(zip(outputs, results))


_OPERATORS = (
    "Identity Constant Cast Transpose Reshape Squeeze Unsqueeze Concat Slice Split Gather Add Sub Mul Div "
    "DequantizeLinear ConstantOfShape Shape Expand Pad Equal Where"  # the last two are of torch's Tensor.expand
).split()


def _bytes(operator: str, x: list[_Array], attributes: dict[str, Any]) -> int:
    """An upper bound of the memory that an operator takes, some of which give far more than they are given."""
    counts = [array.size for array in x]
    if operator == "ConstantOfShape":
        counts = [math.prod(map(int, x[0]))]
    elif operator == "Expand":
        counts = [math.prod(np.broadcast_shapes(x[0].shape, tuple(map(int, x[1]))))]
    elif operator in ("Add", "Sub", "Mul", "Div", "Equal", "Where"):
        counts = [math.prod(np.broadcast_shapes(*(array.shape for array in x)))]
    elif operator == "Gather":
        counts = [x[1].size * x[0].size // max(x[0].shape[attributes.get("axis", 0)], 1)]
    elif operator == "Pad":
        total = sum(abs(int(pad)) for pad in (x[1] if len(x) > 1 else attributes["pads"]))
        counts = [math.prod(size + total for size in x[0].shape)]
    elif operator == "DequantizeLinear":
        counts.append(x[1].size * max(attributes.get("block_size", 0), 1))
    elif operator == "Split":
        counts.append(attributes.get("num_outputs", 0))
    return 8 * sum(counts)
