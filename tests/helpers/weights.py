"""Models and comparisons for the tests of weights from torch, Keras and ONNX."""

import numpy as np
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
