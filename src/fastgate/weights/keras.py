"""Imports the weights of Keras's LSTM layers from objects, lists and files."""

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
    """Import the weights of an LSTM layer of Keras 3 or 2.

    fastgate's y is always the whole sequence: the output for return_sequences=False is h_n[-1], or for Bidirectional
    numpy.concatenate(h_n, -1).  go_backwards becomes reverse=True, whose outputs are in the order of time, while
    Keras's are in the order of processing.  Masks of the model are ignored: call with lengths= or mask=.  stateful,
    unroll and dropout are ignored too.

    Parameters
    ----------
    source : layer, path, group, sequence of arrays, or mapping
        One of these:

        - a layer: LSTM, CuDNNLSTM, LSTMCell, RNN of an LSTMCell, or Bidirectional of these
        - the path of a .keras, .h5 or .weights.h5 file, or a group of such a file that h5py opened.  The configuration
          of the model is respected: .keras and .h5 files have it, and for a .weights.h5 file it may be in a config.json
          beside it, as in an unpacked .keras file
        - the list that layer.get_weights() returns: [kernel, recurrent_kernel, bias], or without the bias; for
          Bidirectional, both lists joined or as a pair.  A bias of twice the length means CuDNNLSTM
        - a nested or flat dict of the arrays of a file

        Without a configuration, the activation must be "tanh" and the recurrent_activation "sigmoid".  (Before
        TensorFlow 2, its default was "hard_sigmoid".)
    prefix : str
        The path of the layer in the file of a model, e.g. "layers/lstm_1/" or "model_weights/lstm_1/".
    bidirectional : bool, optional
        Without a configuration, whether two sets of weights are the directions of a Bidirectional; if not, two sets in
        a list are two layers.

    Raises
    ------
    ImportError
        If a path is given without the h5py package.
    ValueError
        If activations or merge_mode are others than "tanh", "sigmoid" and "concat", if there is no such layer or more
        than one, or if bidirectional is needed.
    TypeError
        If source is another kind of layer or object.
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
                "the weights of an LSTM are [kernel, recurrent_kernel, bias], or without the bias, and twice these for "
                f"Bidirectional, not {len(flat)} arrays"
            )
        size = len(flat) if len(flat) < 4 else len(flat) // 2
        lists = [flat[k : k + size] for k in range(0, len(flat), size)]
        if bidirectional is None and len(source) == len(flat) > 3:  # a pair of lists is always Bidirectional
            (kernel, recurrent), others = ([np.shape(array) for array in half[:2]] for half in lists)
            bidirectional = kernel == others[0]
            if kernel == recurrent == others[0]:
                raise ValueError(
                    "these may be the directions of a Bidirectional, or two layers: write bidirectional=True or False"
                )
    else:
        raise TypeError(f"from_keras takes a Keras layer, a path, or weights, not {class_of(source)}")

    for config, weights in zip(told, lists):
        is_cudnn = config["class_name"] == "CuDNNLSTM"
        only: dict[str, Any] = {"merge_mode": "concat"}
        if not is_cudnn:  # CuDNNLSTM has no other activations
            only |= {"activation": "tanh", "recurrent_activation": "sigmoid"}
        if weights:
            only |= {"units": len(weights[1])} | ({} if is_cudnn else {"use_bias": len(weights) == 3})
            if is_cudnn != _is_cudnn(weights):
                raise ValueError(f"a bias of {len(weights[-1])} elements does not fit a layer {config['class_name']}")
        for name, value in only.items():
            if config.get(name) != value:
                raise ValueError(f"{name} {config.get(name)!r} is not supported, only {value!r} with these weights")
    backwards = [bool(config.get("go_backwards")) for config in told]
    if len(backwards) == 2 and backwards != [False, True]:
        raise ValueError("the two directions are swapped: forward_layer has go_backwards=True")
    if not all(lists):
        raise ValueError(f"layer {source.name!r} has no weights yet: build it or call it first")
    options = {"batch_first": not any(config.get("time_major") for config in told)}
    if backwards == [True]:
        options["reverse"] = True
    directions = [_keras_parameters([array_of(w) for w in weights]) for weights in lists]
    if bidirectional is False and not told:
        return [*directions], options
    return [layer_of(directions)], options


def _is_cudnn(weights: Any) -> bool:
    """Whether these are weights of CuDNNLSTM, whose bias is two biases, one after the other."""
    kernel, recurrent, *bias = map(np.shape, weights)
    units = recurrent[0] if recurrent else 0
    return bias == [(8 * units,)] and kernel[1:] == recurrent[1:] == (4 * units,)


def _keras_parameters(weights: list[Array]) -> dict[str, Array]:
    """The parameters of a layer of fastgate.LSTM, which has Keras's order of gates.

    CuDNNLSTM has a matrix (units, n) for each gate, but gives it the shape (n, units) without moving its elements.
    """
    names = ("weight_ih", "weight_hh", "bias_ih")
    if not _is_cudnn(weights):
        return {name: array.T for name, array in zip(names, weights)}
    units = len(weights[1])
    gates = [[gate.reshape(units, -1) for gate in np.split(array, 4, 1)] for array in weights[:2]]
    bias_ih, bias_hh = np.split(weights[2], 2)
    return {**dict(zip(names, map(np.concatenate, gates))), "bias_ih": bias_ih, "bias_hh": bias_hh}


def _keras_config(layer: Any) -> dict[str, Any]:
    """The configuration of a layer with one direction, and of its cell, as one dict."""
    kind = type(layer).__name__
    cell = layer if kind == "CuDNNLSTM" else getattr(layer, "cell", layer)
    is_keras = re.match(r"(tf_)?keras\.|tensorflow\.", type(cell).__module__)
    if type(cell).__name__ not in ("LSTMCell", "CuDNNLSTM") or not is_keras:
        raise TypeError(f"{class_of(layer)} is not an LSTM: its cell is {class_of(cell)}")
    return {**layer.get_config(), **cell.get_config(), "class_name": kind}


def _keras_open(path: Any) -> tuple[Any, Any]:
    """The h5py.File at a path, or in the .keras archive at a path, and the configuration in the archive or None."""
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
    if config is None and os.path.isfile(group.file.filename) and os.path.isfile(beside):  # the file may be in memory
        with open(beside, "rb") as file:
            config = file.read()
    return config


def _keras_children(layer: Any, is_keras_3: bool) -> dict[str, Any]:
    """The layers of a model by the names of their groups: the layers' names, or in Keras 3 their classes' (lstm_1)."""
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
    """The name and direction of the layer that a group of weights belongs to, and its configuration.

    None if the configuration does not list layers, as that of a model of the user's own class.
    """
    parts = [part for part in path.split("/") if part]
    is_keras_3 = parts[-1] == "vars"
    del parts[: parts[0] in ("model_weights", "layers", "_layer_checkpoint_dependencies")]
    children = _keras_children(model, is_keras_3)
    if not children:
        return None
    if parts[0] not in children:
        raise ValueError(f"the configuration of the model does not contain {path!r}: give the layer, or its weights")
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
    """The weights of the only LSTM under prefix, and its configuration, both a list with an element for each direction.

    The arrays are .../lstm_cell/kernel, recurrent_kernel, bias, each perhaps with :0, or .../cell/vars/0, 1, 2.
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
    found: dict[str, dict[str, tuple[str, Any]]] = {}  # layer: {direction: (group, configuration)}
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
        layer = group if direction in found.get(layer, ()) else layer  # a second layer of this name
        found.setdefault(layer, {})[direction] = group, config
    if not found:
        raise ValueError(f"there is no LSTM under {prefix!r}, among the arrays {listed(leaves(source))}")
    if len(found) > 1:
        there = listed(sorted(f"{group}/" for halves in found.values() for group, _ in halves.values()))
        raise ValueError(
            f"there is more than one LSTM under {prefix!r}: choose a prefix from {there}; "
            "if they are the directions of one layer, write bidirectional=True"
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
