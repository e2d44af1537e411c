"""Finds the graphs of an ONNX model, and computes the values of tensors that do not depend on its inputs."""

from __future__ import annotations

import importlib
import math

import numpy as np

from fastgate.weights._shared import ROOM, array_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from fastgate.weights._shared import Array

DOMAINS = ("", "ai.onnx")
MOST_CALLS, MOST_LEVELS = 10_000, 100  # of functions: even in a small file they may call each other without end


class NoValueError(ValueError):
    """A tensor depends on inputs of the model."""


class Graph:
    """A graph of a model, or a call of one of its functions: its tensors by name, and the graph around it.

    around: the graph that contains this one; step: the name of its place there.  outer: the graph whose tensors it may
    use.  links: {a name in this graph: the graph and the name of the tensor that it stands for}, as for inputs and
    outputs of functions; the graph is None if the tensor has no value.
    """

    def __init__(self, proto: Any, around: Graph | None, step: str, opset: int, is_call: bool = False) -> None:
        self.proto, self.around, self.step, self.opset = proto, around, step, opset
        self.outer = outer = None if is_call else around
        self.level: int = around.level + 1 if around else 0
        self.given: dict[str, Any] = outer.given if outer else {}  # attributes of the function that contains it
        self.links: dict[str, tuple[Graph | None, str]] = {}
        self.sources = {name: node for node in reversed(proto.node) for name in node.output}
        if hasattr(proto, "initializer"):
            self.sources.update((tensor.name, tensor) for tensor in proto.initializer)
        if outer:
            self.links.update((each.name, (None, each.name)) for each in proto.input)

    def path(self, name: str) -> str:
        """The names of the nodes around a node of this graph, and its own, separated by slashes."""
        steps, graph = [name], self
        while graph.around:
            steps.append(graph.step)
            graph = graph.around
        return "/".join(map(str, reversed(steps)))

    def resolved(self, node: Any) -> Any:
        """A copy of node in which attributes of the function replace references to them, if there are references."""
        if not any(each.ref_attr_name for each in node.attribute):
            return node
        copy = type(node)()
        copy.CopyFrom(node)
        del copy.attribute[:]
        for each in node.attribute:
            given = self.given.get(each.ref_attr_name) if each.ref_attr_name else each
            if given is not None:
                copy.attribute.add().CopyFrom(given)
                copy.attribute[-1].name = each.name
        return copy


def graphs_in(node: Any) -> list[tuple[str, Any]]:
    """The graphs in the attributes of a node (branches, the body of a loop), and the attributes' names."""
    return [
        (attribute.name, graph)
        for attribute in node.attribute
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)
    ]


def taken_by(node: Any) -> list[str]:
    """The names of a node's inputs, and of the tensors that graphs in its attributes take from outside."""
    names, own, pending = list(node.input), {""}, graphs_in(node)
    for _, graph in pending:  # the loop adds to this list
        own.update(each.name for each in (*graph.input, *graph.initializer))
        names += [each.name for each in graph.output]
        for inner in graph.node:
            own.update(inner.output)
            names += inner.input
            pending += graphs_in(inner)
    return [name for name in names if name not in own]


def name_of(node: Any) -> str:
    """The name of a node, or of its first output."""
    return node.name or next(filter(None, node.output), "")


def opset_of(imports: Any, default: int = 1) -> int:
    return max((each.version for each in imports if each.domain in DOMAINS), default=default)


def graphs_of(model: Any) -> list[Graph]:
    """The graph of a model, and the graphs of its branches, loops and calls of functions."""
    functions = {(each.domain, each.name): each for each in model.functions}
    graphs, calls = [Graph(model.graph, None, "", opset_of(model.opset_import))], 0
    for graph in graphs:  # the loop adds to this list
        for node in graph.proto.node:
            inner = graphs_in(graph.resolved(node))
            graphs += [Graph(proto, graph, f"{name_of(node)}/{name}", graph.opset) for name, proto in inner]
            if function := functions.get((node.domain, node.op_type)):
                calls += 1
                if calls > MOST_CALLS or graph.level > MOST_LEVELS:
                    raise ValueError(
                        f"functions are called more than {MOST_CALLS} times, or in more than {MOST_LEVELS} levels: "
                        "inline them with onnx.inliner.inline_local_functions(model)"
                    )
                graphs.append(_call(function, node, graph))
    return graphs


def _call(function: Any, node: Any, graph: Graph) -> Graph:
    inner = Graph(function, graph, name_of(node), opset_of(function.opset_import, graph.opset), is_call=True)
    inner.given = {each.name: each for each in (*function.attribute_proto, *graph.resolved(node).attribute)}
    inner.links = dict.fromkeys(function.input, (None, ""))  # for inputs that the call leaves out
    inner.links.update((name, (graph, given)) for name, given in zip(function.input, node.input) if given)
    for given, name in zip(node.output, function.output):
        graph.links[given] = inner, name
        graph.sources.pop(given, None)
    return inner


class Constants:
    """Computes the values of tensors from initializers and given values, each once and without recursion.

    given: {name: value}; known: {(graph, name): value}.  If is_state, a tensor without a value has the shape (1, 1, 1),
    because models may repeat an initial state for the batch of X.
    """

    def __init__(
        self, onnx: Any, given: Mapping[str, Any], known: Mapping[Any, Array] | None = None, is_state: bool = False
    ) -> None:
        self.onnx, self.given, self.is_state = onnx, given, is_state
        self.known: dict[Any, Any] = {**{(None, name): array_of(given[name]) for name in given}, **(known or {})}
        self.room = ROOM + 64 * sum(array.nbytes for array in self.known.values())

    def key(self, graph: Graph | None, name: str) -> tuple[Graph | None, str]:
        """The graph and the name of a tensor: None for a graph if its value is given or missing, "" if left out."""
        passed = set()
        while graph and name not in self.given and (graph, name) not in passed:
            if name in graph.sources:
                return graph, name
            passed.add((graph, name))
            graph, name = graph.links.get(name, (graph.outer, name))
        return None, name

    def value(self, graph: Graph, name: str) -> Array:
        """The value of a tensor of a graph.  Raises ValueError if it cannot be computed.

        `known` keeps the error of a tensor instead of its value, because Shape of a state does not need the value.
        """
        wanted = self.key(graph, name)
        pending, opened = [wanted], set()
        while pending:
            place, called = key = pending[-1]
            source = place.sources[called] if place else None
            inputs = [self.key(place, each) for each in (taken_by(source) if hasattr(source, "op_type") else ())]
            needed = [each for each in inputs if each not in self.known]
            if key in self.known:
                pending.pop()
            elif key in opened and needed:
                raise ValueError(f"{called!r} is computed from itself")
            elif needed:
                opened.add(key)
                pending.extend(needed)
            else:
                outputs = self.outputs(name, key, source, [self.known[each] for each in inputs])
                self.known.update(((place, output), value) for output, value in outputs)
        if isinstance(self.known[wanted], ValueError):
            raise self.known[wanted]
        array: Array = self.known[wanted]
        return array

    def outputs(self, wanted: str, key: Any, source: Any, inputs: list[Any]) -> list[tuple[str, Any]]:
        """The names and values of the tensors that a source (a node or initializer) gives; an error as the value."""
        graph, called = key
        missing: list[ValueError] = [each for each in inputs if isinstance(each, NoValueError)]
        errors: list[ValueError] = missing or [each for each in inputs if isinstance(each, ValueError)]
        try:
            if source is None:
                raise NoValueError(
                    f"the model has no value for {called!r}, which the LSTM needs: "
                    f"give it as weights={{{called!r}: array}}"
                )
            if not hasattr(source, "op_type"):
                return [(called, self.tensor(source))]
            is_supported = source.op_type in _OPERATORS and source.domain in DOMAINS
            if not is_supported and not (self.is_state and missing):
                raise ValueError(
                    f"{called!r} is computed by {source.op_type}, which from_onnx does not evaluate: "
                    f"give {wanted!r} as weights={{{wanted!r}: array}}"
                )
            if errors and not (self.is_state and source.op_type == "Shape"):
                raise errors[0]
            return self.compute(graph, source, [np.zeros((1, 1, 1))] if errors else inputs)
        except ValueError as error:
            return [(name, error) for name in getattr(source, "output", (called,))]

    def tensor(self, proto: Any) -> Array:
        if proto.data_location == self.onnx.TensorProto.EXTERNAL:
            raise ValueError(f"the data of {proto.name!r} are in another file: give the path of the model")
        try:
            array = array_of(self.onnx.numpy_helper.to_array(proto))
        except Exception as error:  # of any type, because onnx does not check the data
            raise ValueError(f"the tensor {proto.name!r} is damaged: {error!r}") from error
        self.room += 64 * array.nbytes
        return array

    def compute(self, graph: Graph, node: Any, inputs: list[Array]) -> list[tuple[str, Any]]:
        """The names and values of the outputs of a node.  inputs: those that are not left out."""
        helper, names = self.onnx.helper, [name for name in node.input if name]
        try:
            node = graph.resolved(node)
            attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
            for value in attributes.values():
                if isinstance(value, self.onnx.TensorProto):
                    self.tensor(value)
            if (size := _bytes(node.op_type, inputs, attributes)) > self.room:
                raise ValueError(f"it takes {size} bytes, far more than the model has")
            opsets = {"": graph.opset if node.op_type != "DequantizeLinear" else max(graph.opset, 19)}
            if "axis" in attributes and node.op_type in ("Add", "Sub", "Mul", "Div"):
                a, b = inputs  # before opset 7, axis is the axis of a at which those of b begin
                inputs = [a, b.reshape(b.shape + (1,) * (a.ndim - b.ndim - attributes["axis"]))]
            outputs = [name for name in node.output if name]
            infos = [helper.make_tensor_value_info(name, self.onnx.TensorProto.UNDEFINED, None) for name in outputs]
            alone = helper.make_graph([node], "alone", [], infos)
            evaluator = importlib.import_module("onnx.reference").ReferenceEvaluator(alone, opsets=opsets)
            with np.errstate(all="ignore"):
                results = [array_of(each) for each in evaluator.run(None, dict(zip(names, inputs)))]
        except Exception as error:  # of any type, because the evaluator does not check its arguments
            raise ValueError(f"{node.op_type} cannot compute {node.output[0]!r}: {error}") from error
        self.room -= sum(each.nbytes for each in results if not any(np.may_share_memory(each, x) for x in inputs))
        return list(zip(outputs, results))


_OPERATORS = (
    "Identity Constant Cast Transpose Reshape Squeeze Unsqueeze Concat Slice Split Gather Add Sub Mul Div "
    "DequantizeLinear ConstantOfShape Shape Expand Pad Equal Where"  # the last two are of torch's Tensor.expand
).split()


def _bytes(operator: str, x: list[Array], attributes: dict[str, Any]) -> int:
    """An upper bound of the memory that an operator takes, since outputs may be far larger than inputs."""
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
