"""The weights of Keras's LSTM layers: of objects, lists and files."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import zipfile

import numpy as np

from fastgate.weights._shared import ROOM, array_of, class_of, layer_of, leaves, listed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastgate.weights._shared import Array, Result


def from_keras(source: Any, *, prefix: str = "", bidirectional: bool | None = None) -> Result:
    """A Keras layer, of Keras 3 or 2: LSTM, CuDNNLSTM, LSTMCell, RNN of an LSTMCell, or Bidirectional of these.

    Or what was saved of it:

    - the path of a .keras, .h5 or .weights.h5 file, or a group of such a file that h5py opened.  What the model's
      configuration says of the layer counts as if the layer were given: .keras and .h5 files have one, and a
      .weights.h5 file may have one beside it, the config.json of an unpacked .keras file;
    - what layer.get_weights() gives: [kernel, recurrent_kernel, bias], or without the bias; for Bidirectional both
      after each other, or a pair of such lists; those of CuDNNLSTM are known by their bias, twice as long;
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
        raise TypeError(f"from_keras takes a Keras layer, a path, or weights, not {class_of(source)}")

    for config, weights in zip(told, lists):
        is_cudnn = config["class_name"] == "CuDNNLSTM"
        only: dict[str, Any] = {"merge_mode": "concat"}
        if not is_cudnn:  # which has no others
            only |= {"activation": "tanh", "recurrent_activation": "sigmoid"}
        if weights:
            only |= {"units": len(weights[1])} | ({} if is_cudnn else {"use_bias": len(weights) == 3})
            if is_cudnn != _is_cudnn(weights):
                raise ValueError(f"a bias of {len(weights[-1])} elements is not of a layer {config['class_name']}")
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
    directions = [_keras_parameters([array_of(w) for w in weights]) for weights in lists]
    if bidirectional is False and not told:
        return [*directions], options
    return [layer_of(directions)], options


def _is_cudnn(weights: Any) -> bool:
    """Whether the weights are of CuDNNLSTM, which has two biases."""
    kernel, recurrent, *bias = map(np.shape, weights)
    units = recurrent[0] if recurrent else 0
    return bias == [(8 * units,)] and kernel[1:] == recurrent[1:] == (4 * units,)


def _keras_parameters(weights: list[Array]) -> dict[str, Array]:
    """As LSTM takes them: the gates are in the same order, i, f, c, o.

    cuDNN's matrices are (units, n) for each gate, and CuDNNLSTM keeps their numbers, row by row, as (n, units).
    """
    names = ("weight_ih", "weight_hh", "bias_ih")
    if not _is_cudnn(weights):
        return {name: array.T for name, array in zip(names, weights)}
    units = len(weights[1])
    gates = [[gate.reshape(units, -1) for gate in np.split(array, 4, 1)] for array in weights[:2]]
    bias_ih, bias_hh = np.split(weights[2], 2)
    return {**dict(zip(names, map(np.concatenate, gates))), "bias_ih": bias_ih, "bias_hh": bias_hh}


def _keras_config(layer: Any) -> dict[str, Any]:
    """The configuration of a layer object that has one direction, and of its cell."""
    kind = type(layer).__name__
    cell = layer if kind == "CuDNNLSTM" else getattr(layer, "cell", layer)
    is_keras = re.match(r"(tf_)?keras\.|tensorflow\.", type(cell).__module__)
    if type(cell).__name__ not in ("LSTMCell", "CuDNNLSTM") or not is_keras:
        raise TypeError(f"{class_of(layer)} is not an LSTM: its cell is {class_of(cell)}")
    return {**layer.get_config(), **cell.get_config(), "class_name": kind}


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
            raise ValueError(f"{str(path)!r} is not a .keras file: there is no {listed(sorted(missing))} in it")
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


def _keras_groups(source: Any, prefix: str, bidirectional: Any, config: Any) -> tuple[list[Any], list[Any]]:
    """The weights of the only LSTM under prefix, in each direction, and what the configuration of the model says.

    .../lstm_cell/kernel, recurrent_kernel, bias, each perhaps with :0, or .../cell/vars/0, 1, 2.
    """
    names = {"kernel": 0, "recurrent_kernel": 1, "bias": 2, "0": 0, "1": 1, "2": 2}
    groups: dict[str, dict[int, Any]] = {}
    for path, value in leaves(source, prefix).items():
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
        there = listed(leaves(source))
        raise ValueError(f"there is no LSTM under {prefix!r}: there are {there}")
    if len(found) > 1:
        there = listed(sorted(f"{group}/" for halves in found.values() for group, _ in halves.values()))
        raise ValueError(
            f"there is more than one LSTM under {prefix!r}: choose by prefix, of {there}; "
            "if they are the directions of one layer, say bidirectional=True"
        )
    [halves] = found.values()
    chosen = [halves[direction] for direction in ("forward", "backward") if direction in halves]
    configs = [config for _, config in chosen if config]
    for config in configs:
        if config["class_name"] not in ("LSTM", "LSTMCell", "CuDNNLSTM"):
            raise TypeError(f"layer {config.get('name')!r} is not an LSTM: its class is {config['class_name']!r}")
    for array in (array for group, _ in chosen for array in groups[group].values()):
        if hasattr(array, "id") and array.nbytes > ROOM + 1000 * array.id.get_storage_size():
            raise ValueError(f"{array.name!r} is of shape {array.shape}, but most of it is not in the file")
    lists = [[array_of(groups[group][number]) for number in sorted(groups[group])] for group, _ in chosen]
    return lists, configs
