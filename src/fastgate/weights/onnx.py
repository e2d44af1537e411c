"""Imports the weights of ONNX's LSTM nodes, and of ONNX Runtime's quantized ones."""

from __future__ import annotations

import importlib
import os
from collections import Counter
from collections.abc import Mapping

import numpy as np

from fastgate.weights._shared import class_of, layer_of, listed
from fastgate.weights.constants import DOMAINS, Constants, Graph, NoValueError, graphs_of, name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from fastgate.weights._shared import Array, Result


def from_onnx(
    source: Any, node: str | Sequence[str] | None = None, *, weights: Mapping[str, Any] | None = None
) -> Result:
    """Import the weights of an LSTM node of an ONNX model, or of several nodes, which become layers.

    sequence_lens, initial_h and initial_c become arguments of calls.  fastgate's y has the two directions next to each
    other in its last axis, where Y has an axis for them.  The states are never batch first, while layout 1 makes
    ONNX's so.  clip becomes gate_clip, which like ONNX Runtime limits the arguments of the sigmoids and of the cell
    gate's tanh, and not of tanh(C).  The weights of ONNX Runtime's DynamicQuantizeLSTM are dequantized.

    Parameters
    ----------
    source : onnx.ModelProto, bytes, or path
        The model.  Only from a path, data in other files of the model are read too.
    node : str, or sequence of str, optional
        The name of the node, or of one of its outputs.  Nodes in branches, loops and functions can be chosen too, by
        a path of the nodes around them, e.g. "if_1/then_branch/lstm".  With several nodes, each must take the outputs
        of the one before, as in exported LSTMs of several layers.  None means the only such chain of nodes.
    weights : mapping of arrays, optional
        Values by name for tensors that the model does not contain, for example inputs of the graph.  W, R, B and P
        may be initializers, or computed from them by operators such as Transpose, Concat and DequantizeLinear.

    Raises
    ------
    ImportError
        If the onnx package is not installed.
    ValueError
        If activations are not Sigmoid, Tanh, Tanh; if there is no such node or chain, or more than one; if nodes
        differ in their options, or one does not take the outputs of the one before; if a weight cannot be computed; if
        the lengths, or an initial state that is not zero (see onnx_state), are constants of the model.
    TypeError
        If source or node has another type.
    """
    lstms = _chosen(_Model(source, weights), node)
    for lstm in lstms[1:]:
        if lstm.options != lstms[0].options:
            raise ValueError(
                f"{lstm.name!r} has {lstm.options}, but {lstms[0].name!r} {lstms[0].options}: "
                "they cannot be layers of one LSTM, so import each node by itself"
            )
        if lstm.key("sequence_lens") != lstms[0].key("sequence_lens"):
            raise ValueError(f"{lstm.name!r} has another input sequence_lens than {lstms[0].name!r}")
    _refuse_constants(lstms)
    return [lstm.layer() for lstm in lstms], lstms[0].options


def onnx_state(
    source: Any, node: str | Sequence[str] | None = None, *, weights: Mapping[str, Any] | None = None
) -> tuple[Array, Array]:
    """Return the initial state (h, c) that an ONNX model contains as constants, or zeros if it contains none.

    The parameters are those of from_onnx.  h and c are (layers * directions, B, hidden_size), as for calls of the LSTM.
    B is 1 if the model repeats the state for the rows of a batch: use numpy.repeat(h, B, axis=1) for that.

    Raises what from_onnx raises, and ValueError if the state depends on inputs of the model.
    """
    states: list[list[Array]] = [[], []]
    for lstm in _chosen(_Model(source, weights), node):
        for name, found in zip(("initial_h", "initial_c"), states):
            state = lstm.state(name)
            if state is None:
                raise ValueError("the initial state depends on inputs of the model: it belongs to calls")
            if state.ndim != 3 or state.shape[::2] != (lstm.directions, lstm.hidden):
                wanted = f"({lstm.directions}, B, {lstm.hidden})"
                raise ValueError(f"the initial state is of shape {state.shape}, not {wanted}")
            found.append(state)
    batch = max(state.shape[1] for found in states for state in found)
    h, c = (
        np.concatenate([np.broadcast_to(state, (len(state), batch, state.shape[2])) for state in found])
        for found in states
    )
    return h, c


def _refuse_constants(lstms: list[_LSTM]) -> None:
    """Refuse constants of the model that would have to be arguments of every call."""
    told = {}
    for lstm in lstms:
        for name in ("initial_h", "initial_c"):
            state = None if lstm.is_given(name) else lstm.state(name)
            if state is not None and state.any():
                told[lstm.key(name)[1]] = name
    if told:
        names = ", ".join(f"{given!r}: array" for given in told)
        raise ValueError(
            f"{next(iter(told.values()))} is a constant of the model and not zero, and an LSTM keeps no initial state: "
            "get it from h, c = fastgate.weights.onnx_state(model, node), pass (h, c) to each call, and confirm this "
            f"to from_onnx with weights={{{names}}}"
        )
    name = lstms[0].key("sequence_lens")[1]
    if name and name not in lstms[0].model.given:
        try:
            lengths = lstms[0].value("sequence_lens").tolist()
        except NoValueError:
            return
        raise ValueError(
            f"sequence_lens is a constant of the model, and an LSTM keeps no lengths: pass lengths={lengths} to each "
            f"call, and confirm this to from_onnx with weights={{{name!r}: array}}"
        )


class _Model:
    """A model, its LSTM nodes, and the values of its tensors."""

    def __init__(self, source: Any, weights: Mapping[str, Any] | None) -> None:
        try:
            onnx = importlib.import_module("onnx")
        except ImportError as error:
            raise ImportError("from_onnx needs the onnx package: pip install onnx") from error
        if weights is not None and not isinstance(weights, Mapping):
            raise TypeError(f"weights must be a mapping from names to arrays, not {class_of(weights)}")
        try:
            if isinstance(source, (str, os.PathLike)):
                source = onnx.load(source)
            elif isinstance(source, (bytes, bytearray, memoryview)):
                source = onnx.load_from_string(bytes(source))
        except importlib.import_module("google.protobuf.message").DecodeError as error:
            raise ValueError(f"source is not an ONNX model, or it is damaged: {error}") from error
        if not isinstance(source, onnx.ModelProto):
            raise TypeError(f"from_onnx takes an onnx.ModelProto, bytes or a path, not {class_of(source)}")
        self.onnx, self.given = onnx, weights or {}
        self.constants = Constants(onnx, self.given)
        self.states = Constants(onnx, self.given, is_state=True)
        self.places = [
            (graph, graph.resolved(node))
            for graph in graphs_of(source)
            for node in graph.proto.node
            if node.op_type in _INPUTS and node.domain in _INPUTS[node.op_type][0]
        ]
        self.outputs = {(graph, node.output[0]): k for k, (graph, node) in enumerate(self.places) if node.output}
        self.counts = Counter(name_of(node) for _, node in self.places)

    def label(self, k: int) -> str:
        """The name of LSTM node k, or its path if several nodes have this name."""
        graph, node = self.places[k]
        return name_of(node) if self.counts[name_of(node)] == 1 else graph.path(name_of(node))

    def find(self, called: str) -> int:
        """The index of the LSTM node that has this name, path or output."""
        chosen = [
            k
            for k, (graph, node) in enumerate(self.places)
            if called in (each for name in (node.name, *node.output) for each in (name, graph.path(name)))
        ]
        if len(chosen) != 1:
            there = listed(map(self.label, chosen or range(len(self.places)))) or "none"
            raise ValueError(f"{len(chosen)} LSTM nodes or outputs are called {called!r}; there are {there}")
        return chosen[0]

    def before(self, k: int) -> tuple[int | None, list[str]]:
        """The index of the LSTM node whose output becomes X of node k, or None, and the operators between them."""
        graph, node = self.places[k]
        name = node.input[0] if node.input else ""
        between: list[str] = []
        place: Graph | None = graph
        while len(between) < _MOST_BETWEEN:
            place, name = self.constants.key(place, name)
            if place is None or (place, name) in self.outputs:
                return self.outputs.get((place, name)), between  # type: ignore[arg-type]
            source = place.sources[name]
            between.append(getattr(source, "op_type", "a constant"))
            name = next(iter(getattr(source, "input", ())), "")
        return None, between

    def chain(self) -> list[int]:
        """The indices of the LSTM nodes, if they form a single chain, each taking the output of the one before."""
        befores: dict[int, int] = {}
        for k in range(len(self.places)):
            first, between = self.before(k)
            if first is not None and set(between) <= _LAYOUT:
                befores[k] = first
        chains = []
        for last in sorted(set(range(len(self.places))) - set(befores.values())):
            chain = {last: None}  # an ordered set
            while last in befores:
                last = befores[last]
                if last in chain:
                    raise ValueError(f"the input of {self.label(last)!r} is computed from itself")
                chain[last] = None
            chains.append([*chain][::-1])
        if len(chains) != 1:
            names = ([*map(self.label, chain)] for chain in chains)
            there = listed(chain if len(chain) > 1 else chain[0] for chain in names)
            kind = "LSTM nodes" if len(chains) == len(self.places) else "chains of LSTM nodes"
            hint = "; choose one with node=" if chains else ""
            raise ValueError(f"there are {len(chains)} {kind}: {there or 'none'}{hint}")
        return chains[0]


def _chosen(model: _Model, node: Any) -> list[_LSTM]:
    """The nodes with these names, or the only chain of nodes; each must take the outputs of the one before."""
    names = [node] if isinstance(node, str) else node
    if names is not None:
        names = list(names) if hasattr(names, "__iter__") else [names]
        if not names or not all(isinstance(name, str) for name in names):
            raise TypeError(f"node must be the name of a node, or a sequence of at least one name, not {node!r}")
    lstms = [_LSTM(model, k) for k in (model.chain() if names is None else map(model.find, names))]
    for first, second in zip(lstms, lstms[1:]):
        if why := _is_not_fed(first, second):
            raise ValueError(f"{second.name!r} does not take the output of {first.name!r} as its input: {why}")
    return lstms


def _is_not_fed(first: _LSTM, second: _LSTM) -> str:
    """Why the outputs of one node are not the input of another; "" if they are.

    It gives each output another number, and computes where the operators between the nodes move these.
    """
    model = first.model
    before, between = model.before(second.index)
    operators = listed(reversed(between)) or "nothing"
    if before != first.index:
        return f"it comes from {'no LSTM' if before is None else repr(model.label(before))}, through {operators}"
    if not set(between) <= _LAYOUT:
        return f"{operators} is between them"
    steps, batch = first.lengths()
    shape = (steps, first.directions, batch, first.hidden)
    y = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    want = y.swapaxes(1, 2).reshape(steps, batch, -1)
    given = y.transpose(2, 0, 1, 3) if first.options["batch_first"] else y
    try:
        known = {(first.graph, first.node.output[0]): given}
        x = Constants(model.onnx, model.given, known).value(second.graph, second.names["X"])
    except ValueError as error:
        return str(error)
    want = want.swapaxes(0, 1) if second.options["batch_first"] else want
    return "" if np.array_equal(x, want) else f"{operators} between them changes the order of elements"


_COMMON = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]
_INPUTS = {  # domains and inputs of operators
    "LSTM": (DOMAINS, _COMMON),
    "DynamicQuantizeLSTM": (
        ("com.microsoft",),
        [*_COMMON, "W_scale", "W_zero_point", "R_scale", "R_zero_point"],
    ),
}
_ATTRIBUTES = {"direction": "STRING", "activations": "STRINGS", "clip": "FLOAT"}
_ATTRIBUTES |= {"hidden_size": "INT", "layout": "INT", "input_forget": "INT"}
_LAYOUT = {"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Split", "Concat"}
_MOST_BETWEEN = 32
_MOST_NUMBERS = 2**24  # float32 has every integer up to this one


class _LSTM:
    """An LSTM node of a model: the names and arrays of its inputs, and the options for fastgate.LSTM."""

    def __init__(self, model: _Model, index: int) -> None:
        self.model, self.index, self.name = model, index, model.label(index)
        self.graph, self.node = model.places[index]
        for each in self.node.attribute:
            kind = model.onnx.AttributeProto.AttributeType.Name(each.type)
            if kind != _ATTRIBUTES.get(each.name, kind):
                raise ValueError(f"attribute {each.name} is of type {kind}, not {_ATTRIBUTES[each.name]}")
        attributes = {each.name: model.onnx.helper.get_attribute_value(each) for each in self.node.attribute}
        direction = attributes.get("direction", b"forward").decode()
        known = {"direction": ("forward", "reverse", "bidirectional"), "layout": (0, 1), "input_forget": (0, 1)}
        for name, values in known.items():
            value = direction if name == "direction" else attributes.get(name, 0)
            if value not in values:
                raise ValueError(f"{name} {value!r} is not supported, only {listed(values)}")
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

        inputs = _INPUTS[self.node.op_type][1]
        self.names = {name: given for name, given in zip(inputs, self.node.input) if given}
        self.names = {name: given for name, given in self.names.items() if self.key(name)[1]}
        needed = {"W", "R"} if self.node.op_type == "LSTM" else {"W", "R", "W_scale", "R_scale"}
        if missing := needed - self.names.keys():
            raise ValueError(f"the LSTM node {self.name!r} has no {listed(sorted(missing))}")
        self.arrays = {name: self.value(name) for name in "WRBP" if name in self.names}
        if self.node.op_type != "LSTM":
            self.arrays |= {name: self.dequantized(name) for name in "WR"}
        w, r = self.arrays["W"], self.arrays["R"]
        n, h = (array.shape[-1] if array.ndim else 0 for array in (w, r))
        self.hidden = h = attributes["hidden_size"] if "hidden_size" in attributes else h
        shapes = {"W": (4 * h, n), "R": (4 * h, h), "B": (8 * h,), "P": (3 * h,)}
        for name, array in self.arrays.items():
            if array.shape != (shape := (self.directions, *shapes[name])):
                told = f"{direction!r} with hidden_size {h} needs {shape}"
                raise ValueError(f"{name} is of shape {array.shape}, but {told}")

    def key(self, name: str) -> tuple[Graph | None, str]:
        """The graph and the name of the tensor that an input is; see Constants.key."""
        return self.model.constants.key(self.graph, self.names.get(name, ""))

    def is_given(self, name: str) -> bool:
        return self.key(name)[1] in self.model.given

    def value(self, name: str) -> Array:
        return self.model.constants.value(self.graph, self.names[name])

    def dequantized(self, name: str) -> Array:
        """W or R of DynamicQuantizeLSTM, whose integers are (directions, n, 4 * H), as floats in the layout of LSTM."""
        integers, scale = self.arrays[name], self.value(f"{name}_scale")
        zero = self.value(f"{name}_zero_point") if f"{name}_zero_point" in self.names else np.zeros_like(scale)
        if integers.dtype not in (np.int8, np.uint8) or integers.ndim != 3:
            raise ValueError(f"{name} is {integers.dtype} of shape {integers.shape}, not int8 or uint8 of 3 axes")
        for each in (scale, zero):  # one for each direction, or for each column of each direction
            if each.shape not in ((len(integers),), (len(integers), integers.shape[2])):
                shapes = f"of shape {each.shape}, but {name} is of shape {integers.shape}"
                raise ValueError(f"a scale or zero point of {name} is {shapes}")
        scale, zero = (each.reshape(len(integers), 1, -1).astype(np.float32) for each in (scale, zero))
        return ((integers.astype(np.float32) - zero) * scale).swapaxes(1, 2)

    def lengths(self) -> tuple[int, int]:
        """The numbers of steps and rows of Y: those in the model, or arbitrary ones that suffice for a trial."""
        order = (1, 0) if self.options["batch_first"] else (0, 2)
        steps, batch = 7, 5
        for info in self.graph.proto.value_info:
            dims = [each.dim_value for each in info.type.tensor_type.shape.dim]
            if info.name == self.node.output[0] and len(dims) == 4:
                told = dims[order[0]] or steps, dims[order[1]] or batch
                if 0 < told[0] * told[1] * self.directions * self.hidden <= _MOST_NUMBERS:
                    return told
        return steps, batch

    def layer(self) -> Any:
        """The parameters as a layer of fastgate.LSTM."""
        layer = []
        for k in range(self.directions):
            arrays = {name: array[k] for name, array in self.arrays.items()}
            parameters = {"weight_ih": arrays["W"], "weight_hh": arrays["R"]}
            if "B" in arrays:
                parameters["bias_ih"], parameters["bias_hh"] = np.split(arrays["B"], 2)
            for name, array in parameters.items():
                i, o, f, c = np.split(array, 4)
                parameters[name] = np.concatenate([i, f, c, o])
            if "P" in arrays:
                parameters["peephole"] = arrays["P"].reshape(3, -1)[[0, 2, 1]]  # from i, o, f
            layer.append(parameters)
        return layer_of(layer)

    def state(self, name: str) -> Any:
        """initial_h or initial_c in layout 0: zeros if it is left out, None if it depends on inputs of the model."""
        if name not in self.names:
            return np.zeros((self.directions, 1, self.hidden), self.arrays["R"].dtype)
        try:
            state = self.model.states.value(self.graph, self.names[name])
        except NoValueError:
            return None
        if not state.size:  # a state was computed from shapes that are not known
            given = self.names[name]
            raise ValueError(f"the shape of {given!r} is not known: give it as weights={{{given!r}: array}}")
        return state.swapaxes(0, 1) if self.options["batch_first"] and state.ndim > 1 else state
