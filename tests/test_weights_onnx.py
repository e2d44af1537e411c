"""LSTMs from ONNX compute what they did there."""

import numpy as np
import pytest
from conftest import draw, same_bits
from fastgate import weights
from weights_common import B, H, N, T, arrays, distance, same


@pytest.fixture
def onnx():
    return pytest.importorskip("onnx")


def onnx_weights(directions, bias=True, peepholes=True):
    names = {"W": (4 * H, N), "R": (4 * H, H), "B": (8 * H,), "P": (3 * H,)}
    there = ["W", "R"] + ["B"] * bias + ["P"] * peepholes
    return {name: draw(directions, *names[name], seed=i) for i, name in enumerate(there)}


def onnx_model(onnx, initializers, more=(), called="lstm", opset=14, **attributes):
    """A model of one LSTM; more: its nodes before."""
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
        hidden_size=H,
        **attributes,
    )
    graph = helper.make_graph(
        [*more, node],
        "graph",
        [helper.make_tensor_value_info(name, calls[name], None) for name in calls],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def onnx_call(lstm, inputs, layout=0):
    """Y, Y_h and Y_c of a call, as ONNX has them."""
    turn = (lambda array: array.swapaxes(0, 1)) if layout else (lambda array: array)
    state = None
    if "initial_h" in inputs:
        state = turn(inputs["initial_h"]), turn(inputs["initial_c"])
    y, (h, c) = lstm(inputs["X"], state, lengths=inputs.get("sequence_lens"))
    y = y.reshape(*y.shape[:2], len(h), -1)  # the directions
    return [y if layout else y.swapaxes(1, 2), turn(h), turn(c)]


def onnx_inputs(directions, layout=0):
    """X, sequence_lens, initial_h and initial_c."""
    state = (B, directions, H) if layout else (directions, B, H)
    lengths = np.array([T, 2, 5], np.int32)
    x = draw(B, T, N) if layout else draw(T, B, N)
    return {"X": x, "sequence_lens": lengths, "initial_h": draw(*state), "initial_c": 3 * draw(*state)}


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("bias, peepholes", [(True, True), (False, True), (True, False), (False, False)])
def test_onnx_reference(api, onnx, layout, direction, bias, peepholes):
    reference = pytest.importorskip("onnx.reference")
    directions = 1 + (direction == "bidirectional")
    initializers = onnx_weights(directions, bias, peepholes)
    model = onnx_model(onnx, initializers, direction=direction, layout=layout)
    inputs = onnx_inputs(directions, layout)
    inputs["sequence_lens"][:] = T  # the evaluator knows no other
    want = reference.ReferenceEvaluator(model).run(None, inputs)
    assert distance(onnx_call(api.LSTM.from_onnx(model), inputs, layout), want) < 5e-6


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"clip": 0.75},
        {"input_forget": 1},
        {"input_forget": 1, "clip": 0.75},
        {"activations": ["sigmoid", "TANH", "Tanh"], "activation_alpha": [0.5], "activation_beta": [1.0]},
    ],
    ids=str,
)
def test_onnxruntime(api, onnx, direction, attributes):
    runtime = pytest.importorskip("onnxruntime")
    directions = 1 + (direction == "bidirectional")
    if "activations" in attributes:
        attributes = attributes | {"activations": attributes["activations"] * directions}
    model = onnx_model(onnx, onnx_weights(directions), direction=direction, **attributes)
    inputs = onnx_inputs(directions)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    want = session.run(None, inputs)
    assert distance(onnx_call(api.LSTM.from_onnx(model), inputs), want) < 5e-6


def test_onnx_conformance(api, onnx):
    """The LSTM cases of ONNX's own suite, whose weights are inputs of the graph."""
    pytest.importorskip("onnx.backend.test.case.node.lstm")
    everything = onnx.backend.test.case.node._NodeTestCases
    cases = {case.name: case for case in everything if case.name.startswith("test_lstm")}
    names = {"defaults", "with_initial_bias", "with_peepholes", "batchwise"}
    assert {f"test_lstm_{name}" for name in names} <= cases.keys()
    for case in cases.values():
        graph = case.model.graph
        for inputs, outputs in case.data_sets:
            given = dict(zip([each.name for each in graph.input], inputs, strict=True))
            lstm = api.LSTM.from_onnx(case.model, weights=given)
            got = dict(zip(("Y", "Y_h", "Y_c"), onnx_call(lstm, given, lstm.batch_first), strict=True))
            for each, want in zip(graph.output, outputs, strict=True):
                assert distance([got[each.name]], [want]) < 1e-6, case.name


def test_onnx_sources(api, onnx, tmp_path):
    model = onnx_model(onnx, onnx_weights(1))
    path = tmp_path / "lstm.onnx"
    onnx.save(model, path)
    want = api.LSTM.from_onnx(model)
    for source in (path, str(path), path.read_bytes()):
        same(api.LSTM.from_onnx(source), want, N)
    with pytest.raises(TypeError, match="ModelProto, bytes or a path, not .*GraphProto"):
        weights.from_onnx(model.graph)


def test_onnx_weights_that_are_computed(api, onnx):
    node = onnx.helper.make_node
    there = onnx_weights(1)
    model = onnx_model(
        onnx,
        {
            "columns": there["R"].swapaxes(1, 2),
            "part": there["B"][:, :H],
            "rest": there["B"][:, H:],
            "most": np.float32(100),
        },
        [
            node("Constant", [], ["rows"], value=onnx.numpy_helper.from_array(there["W"][0])),
            node("Unsqueeze", ["rows"], ["W"], axes=[0]),  # an input from opset 13 on
            node("Transpose", ["columns"], ["R"], perm=[0, 2, 1]),
            node("Concat", ["part", "rest"], ["joined"], axis=1),
            node("Clip", ["joined", "", "most"], ["clipped"]),
            node("Identity", ["clipped"], ["B"]),
            node("Neg", ["minus"], ["P"]),
        ],
        opset=12,
    )
    with pytest.raises(ValueError, match=r"no value for 'minus'.*weights=\{'minus': array\}"):
        weights.from_onnx(model)
    want = api.LSTM.from_onnx(onnx_model(onnx, there))
    same(api.LSTM.from_onnx(model, weights={"minus": -there["P"]}), want, N)
    same(api.LSTM.from_onnx(model, weights={"P": there["P"]}), want, N)


def test_onnx_branches(api, onnx):
    """Voice activity detectors have an LSTM in either branch, one for each sampling rate."""
    models = onnx_model(onnx, onnx_weights(1)), onnx_model(onnx, onnx_weights(1, False), called="8k")
    inner = [model.graph for model in models]
    want = [api.LSTM.from_onnx(onnx.helper.make_model(graph)) for graph in inner]
    for graph in inner:
        del graph.input[:]
    outer = onnx.numpy_helper.from_array(onnx_weights(1)["R"], "R")
    inner[0].initializer.remove(next(each for each in inner[0].initializer if each.name == "R"))
    branch = onnx.helper.make_node(
        "If", ["rate"], ["Y", "Y_h", "Y_c"], then_branch=inner[0], else_branch=inner[1]
    )
    model = onnx.helper.make_model(onnx.helper.make_graph([branch], "graph", [], [], [outer]))
    for name, each in zip(("lstm", "8k"), want):
        same(api.LSTM.from_onnx(model, name), each, N)
    with pytest.raises(ValueError, match="there are 2 LSTM nodes: '8k', 'lstm'"):
        weights.from_onnx(model)


def test_onnx_choice(api, onnx):
    model = onnx_model(onnx, onnx_weights(1))
    same(api.LSTM.from_onnx(model, "lstm"), api.LSTM.from_onnx(model), N)
    same(api.LSTM.from_onnx(model, "Y"), api.LSTM.from_onnx(model), N)
    with pytest.raises(ValueError, match="0 LSTM nodes or outputs are called 'other'; there are 'lstm'"):
        weights.from_onnx(model, "other")
    model.graph.node[0].op_type = "GRU"
    with pytest.raises(ValueError, match="there are 0 LSTM nodes: none"):
        weights.from_onnx(model)


@pytest.mark.parametrize("storage", ["float64", "float16", "bfloat16"])
def test_onnx_dtypes(api, onnx, storage):
    dtype = pytest.importorskip("ml_dtypes").bfloat16 if storage == "bfloat16" else np.dtype(storage)
    there = {name: array.astype(dtype) for name, array in onnx_weights(2).items()}
    model = onnx_model(onnx, there, direction="bidirectional")
    [pair], _ = weights.from_onnx(model)
    assert {array.dtype for direction in pair for array in direction.values()} == {np.dtype(dtype)}
    wide = np.float64 if storage == "float64" else np.float32
    want = onnx_model(onnx, {k: v.astype(wide) for k, v in there.items()}, direction="bidirectional")
    x = draw(T, B, N).astype(wide)
    got, want = (arrays(api.LSTM.from_onnx(m, storage=storage)(x)) for m in (model, want))
    for a, b in zip(got, want, strict=True):
        same_bits(a, b)


@pytest.mark.parametrize(
    "attributes, told",
    [
        ({"activations": ["HardSigmoid", "Tanh", "Tanh"]}, r"activations \['HardSigmoid', 'Tanh', 'Tanh'\]"),
        ({"activations": ["Sigmoid", "Tanh", "Relu"]}, "Relu"),
        ({"direction": "bidirectional"}, r"W is of shape \(1, 20, 4\), but 'bidirectional' needs \(2, 20, 4\)"),
    ],
)
def test_onnx_nodes_that_are_refused(onnx, attributes, told):
    with pytest.raises(ValueError, match=told):
        weights.from_onnx(onnx_model(onnx, onnx_weights(1), **attributes))
