"""Models and comparisons for the tests of weights from torch, Keras and ONNX."""

import numpy as np
import pytest
from . import draw, same_bits

T, B, N, H = 6, 3, 4, 5  # steps, batch, inputs, units


def arrays(result):
    """The arrays y, h_n and c_n of an LSTM's result."""
    y, (h, c) = result
    return [np.asarray(y), np.asarray(h), np.asarray(c)]


def distance(some, others):
    """The largest difference between corresponding elements of two lists of arrays."""
    pairs = list(zip(some, others, strict=True))
    assert all(a.shape == b.shape and a.size for a, b in pairs)
    return max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max() for a, b in pairs)


def within(ours, theirs, precise):
    """Assert that ours differ from theirs by at most 4 times what theirs differ from the precise ones."""
    assert distance(ours, theirs) <= 4 * distance(theirs, precise)


def same(lstm, other, n=3):
    """Assert that two LSTMs compute the same, bit by bit."""
    x = draw(6, 2, n)
    assert lstm.batch_first == other.batch_first
    for got, want in zip(arrays(lstm(x)), arrays(other(x)), strict=True):
        same_bits(got, want)


def onnx_weights(directions, bias=True, peepholes=True):
    names = {"W": (4 * H, N), "R": (4 * H, H), "B": (8 * H,), "P": (3 * H,)}
    there = ["W", "R"] + ["B"] * bias + ["P"] * peepholes
    return {name: draw(directions, *names[name], seed=i) for i, name in enumerate(there)}


def onnx_model(onnx, initializers, more=(), called="lstm", opset=14, **attributes):
    """A model of one LSTM; `more` has the nodes that come before it."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    calls = {"X": kind, "sequence_lens": onnx.TensorProto.INT32, "initial_h": kind, "initial_c": kind}
    names = {*initializers, *calls, *(output for node in more for output in node.output)}
    inputs = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]
    outputs = ["Y", "Y_h", "Y_c"]
    node = helper.make_node(
        "LSTM",
        [name if name in names else "" for name in inputs],
        outputs,
        called,
        **{"hidden_size": H, **attributes},
    )
    graph = helper.make_graph(
        [*more, node],
        "graph",
        [helper.make_tensor_value_info(name, calls[name], None) for name in calls],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def computed(onnx, nodes, there=None, opset=14, **how):
    """A model of an LSTM whose P these nodes compute; `there` has more initializers."""
    initializers = {k: v for k, v in onnx_weights(1).items() if k != "P"} | (there or {})
    return onnx_model(onnx, initializers, nodes, opset=opset, **how)


def equations(x, kernel, recurrent_kernel, bias=0):
    """y (T, H), h_n (1, H) and c_n (1, H) of an LSTM in float64, by the equations in Keras's documentation.

    x is (T, n), kernel (n, 4 H), recurrent_kernel (H, 4 H) and bias (4 H,), with their columns in the order i, f, g, o.
    """
    h = c = np.zeros(len(recurrent_kernel))
    y = []
    for row in x.astype(np.float64):
        i, f, g, o = np.split(row @ kernel.astype(np.float64) + h @ recurrent_kernel + bias, 4)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
        y.append(h)
    return [np.array(y), h[np.newaxis], c[np.newaxis]]


def onnx_graph(onnx, nodes, tensors, inputs, outputs, domains=(("", 14),), functions=(), **how):
    """A model of these nodes. inputs and outputs are names of float tensors, or ValueInfos; domains have versions."""
    helper = onnx.helper

    def info(each):
        return helper.make_tensor_value_info(each, onnx.TensorProto.FLOAT, None) if isinstance(each, str) else each

    initializers = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "graph", [*map(info, inputs)], [*map(info, outputs)], initializers, **how)
    opsets = [helper.make_opsetid(*domain) for domain in domains]
    return helper.make_model(graph, functions=list(functions), opset_imports=opsets, ir_version=8)


def onnx_call(lstm, inputs, layout=0):
    """Y, Y_h and Y_c of an ONNX LSTM node with these inputs, computed by `lstm`."""
    turn = (lambda array: array.swapaxes(0, 1)) if layout else (lambda array: array)
    state = None
    if "initial_h" in inputs:
        state = turn(inputs["initial_h"]), turn(inputs["initial_c"])
    y, (h, c) = lstm(inputs["X"], state, lengths=inputs.get("sequence_lens"))
    y = y.reshape(*y.shape[:2], 1 + lstm.bidirectional, -1)
    return [y if layout else y.swapaxes(1, 2), turn(h), turn(c)]


def run_onnx(source, inputs):
    """All outputs that ONNX Runtime computes for a model or a file."""
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    source = source.SerializeToString() if hasattr(source, "SerializeToString") else str(source)
    return runtime.InferenceSession(source, providers=["CPUExecutionProvider"]).run(None, inputs)
