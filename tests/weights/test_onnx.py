"""LSTMs from ONNX compute what they did there. The truth is ONNX's reference evaluator and ONNX Runtime."""

import io

import numpy as np
import pytest
from fastgate import weights
from helpers import draw, same_bits
from helpers.layers import same as same_arrays
from helpers.weights import B, H, N, T, computed, distance, onnx_call, onnx_model, onnx_weights, run_onnx, same

onnx = pytest.importorskip("onnx", reason="onnx is not installed")


def onnx_inputs(directions, layout=0):
    """Inputs of the node by name: X, sequence_lens, initial_h and initial_c."""
    state = (B, directions, H) if layout else (directions, B, H)
    lengths = np.array([T, 2, 5], np.int32)
    x = draw(B, T, N) if layout else draw(T, B, N)
    return {"X": x, "sequence_lens": lengths, "initial_h": draw(*state), "initial_c": 3 * draw(*state)}


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("bias, peepholes", [(True, True), (False, True), (True, False), (False, False)])
def test_a_node_computes_what_the_reference_evaluator_does(api, layout, direction, bias, peepholes):
    reference = pytest.importorskip("onnx.reference")
    directions = 1 + (direction == "bidirectional")
    initializers = onnx_weights(directions, bias, peepholes)
    model = onnx_model(onnx, initializers, direction=direction, layout=layout)
    inputs = onnx_inputs(directions, layout)
    inputs["sequence_lens"][:] = T  # the evaluator ignores the lengths
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
def test_a_node_computes_what_onnxruntime_does(api, direction, attributes):
    directions = 1 + (direction == "bidirectional")
    if "activations" in attributes:
        attributes = attributes | {"activations": attributes["activations"] * directions}
    model = onnx_model(onnx, onnx_weights(directions), direction=direction, **attributes)
    inputs = onnx_inputs(directions)
    assert distance(onnx_call(api.LSTM.from_onnx(model), inputs), run_onnx(model, inputs)) < 5e-6


def test_the_lstm_cases_of_the_conformance_suite_of_onnx_pass(api):
    """The weights of these cases are inputs of the graph."""
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


def test_models_bytes_and_paths_give_the_same_lstm(api, tmp_path):
    model = onnx_model(onnx, onnx_weights(1))
    path = tmp_path / "lstm.onnx"
    onnx.save(model, path)
    want = api.LSTM.from_onnx(model)
    for source in (path, str(path), path.read_bytes()):
        same(api.LSTM.from_onnx(source), want, N)
    with pytest.raises(TypeError, match="ModelProto, bytes or a path, not .*GraphProto"):
        weights.from_onnx(model.graph)


def test_weights_may_be_computed_by_other_nodes(api):
    node = onnx.helper.make_node
    there = onnx_weights(1)
    model = onnx_model(
        onnx,
        {
            "columns": there["R"].swapaxes(1, 2),
            "part": there["B"][:, :H],
            "rest": there["B"][:, H:],
            "zero": np.float32(0),
        },
        [
            node("Constant", [], ["rows"], value=onnx.numpy_helper.from_array(there["W"][0])),
            node("Unsqueeze", ["rows"], ["W"], axes=[0]),  # from opset 13 on, axes is an input
            node("Transpose", ["columns"], ["R"], perm=[0, 2, 1]),
            node("Concat", ["part", "rest"], ["joined"], axis=1),
            node("Identity", ["joined"], ["B"]),
            node("Sub", ["zero", "minus"], ["P"]),
        ],
        opset=12,
    )
    with pytest.raises(ValueError, match=r"no value for 'minus'.*weights=\{'minus': array\}"):
        weights.from_onnx(model)
    want = api.LSTM.from_onnx(onnx_model(onnx, there))
    same(api.LSTM.from_onnx(model, weights={"minus": -there["P"]}), want, N)
    same(api.LSTM.from_onnx(model, weights={"P": there["P"]}), want, N)


def test_nodes_in_branches_are_found(api):
    """Voice activity detectors have an If with an LSTM in each branch, one for each sampling rate."""
    models = onnx_model(onnx, onnx_weights(1)), onnx_model(onnx, onnx_weights(1, False), called="8k")
    inner = [model.graph for model in models]
    want = [api.LSTM.from_onnx(onnx.helper.make_model(graph)) for graph in inner]
    for graph in inner:
        del graph.input[:]
    outer = onnx.numpy_helper.from_array(onnx_weights(1)["R"], "R")
    inner[0].initializer.remove(next(each for each in inner[0].initializer if each.name == "R"))
    branch = onnx.helper.make_node("If", ["rate"], ["Y", "Y_h", "Y_c"], then_branch=inner[0], else_branch=inner[1])
    model = onnx.helper.make_model(onnx.helper.make_graph([branch], "graph", [], [], [outer]))
    for name, each in zip(("lstm", "8k"), want):
        same(api.LSTM.from_onnx(model, name), each, N)
    with pytest.raises(ValueError, match="there are 2 LSTM nodes: '8k', 'lstm'"):
        weights.from_onnx(model)


def test_a_node_is_chosen_by_its_name_or_output(api):
    model = onnx_model(onnx, onnx_weights(1))
    for name in ("lstm", "Y", ["lstm"]):
        same(api.LSTM.from_onnx(model, name), api.LSTM.from_onnx(model), N)
    with pytest.raises(ValueError, match="0 LSTM nodes or outputs are called 'other'; there are 'lstm'"):
        weights.from_onnx(model, "other")
    model.graph.node[0].op_type = "GRU"
    with pytest.raises(ValueError, match="there are 0 LSTM nodes: none"):
        weights.from_onnx(model)


@pytest.mark.parametrize("storage", ["float64", "float16", "bfloat16"])
def test_weights_of_other_dtypes_keep_their_bits(api, storage):
    dtype = pytest.importorskip("ml_dtypes").bfloat16 if storage == "bfloat16" else np.dtype(storage)
    there = {name: array.astype(dtype) for name, array in onnx_weights(2).items()}
    model = onnx_model(onnx, there, direction="bidirectional")
    [pair], _ = weights.from_onnx(model)
    assert {array.dtype for direction in pair for array in direction.values()} == {np.dtype(dtype)}
    wide = np.float64 if storage == "float64" else np.float32
    want = onnx_model(onnx, {k: v.astype(wide) for k, v in there.items()}, direction="bidirectional")
    x = draw(T, B, N).astype(wide)
    same_arrays(*(api.LSTM.from_onnx(each, storage=storage)(x) for each in (model, want)))


@pytest.mark.parametrize(
    "attributes, told",
    [
        ({"activations": ["HardSigmoid", "Tanh", "Tanh"]}, r"activations \['HardSigmoid', 'Tanh', 'Tanh'\]"),
        ({"activations": ["Sigmoid", "Tanh", "Relu"]}, "Relu"),
        ({"direction": "bidirectional"}, r"W is of shape \(1, 20, 4\), but 'bidirectional'"),
        ({"direction": "sideways"}, "direction 'sideways' is not supported, only 'forward', 'reverse', 'bidir"),
        ({"direction": "REVERSE"}, "direction 'REVERSE' is not supported"),
        ({"direction": 1}, "attribute direction is of type INT, not STRING"),
        ({"layout": 2}, "layout 2 is not supported, only 0, 1"),
        ({"layout": "0"}, "attribute layout is of type STRING, not INT"),
        ({"layout": 0.5}, "attribute layout is of type FLOAT, not INT"),
        ({"input_forget": -1}, "input_forget -1 is not supported"),
        ({"input_forget": [1]}, "attribute input_forget is of type INTS, not INT"),
        ({"hidden_size": 6}, r"W is of shape \(1, 20, 4\), but 'forward' with hidden_size 6 needs \(1, 24, 4\)"),
        ({"hidden_size": "5"}, "attribute hidden_size is of type STRING, not INT"),
        ({"activations": [1, 2, 3]}, "attribute activations is of type INTS, not STRINGS"),
        ({"clip": "1"}, "attribute clip is of type STRING, not FLOAT"),
    ],
)
def test_other_attributes_are_refused(attributes, told):
    with pytest.raises(ValueError, match=told):
        weights.from_onnx(onnx_model(onnx, onnx_weights(1), **attributes))


@pytest.mark.parametrize("name", "WRBP")
@pytest.mark.parametrize("shape", [(), (20,), (20, 4), (1, 1, 20, 5), (1, 0, 0)])
def test_weights_of_another_shape_are_refused(name, shape):
    with pytest.raises(ValueError, match=rf"\b[WR] is of shape|{name} is of shape"):
        weights.from_onnx(onnx_model(onnx, onnx_weights(1) | {name: draw(*shape)}))


@pytest.mark.parametrize("name", "WR")
def test_nodes_without_weights_are_refused(name):
    model = onnx_model(onnx, {key: array for key, array in onnx_weights(1).items() if key != name})
    with pytest.raises(ValueError, match=f"the LSTM node 'lstm' has no '{name}'"):
        weights.from_onnx(model)


@pytest.mark.parametrize("given", [["W"], [("W", 1)], "W", 3])
def test_weights_must_be_a_mapping(given):
    with pytest.raises(TypeError, match="weights must be a mapping from names to arrays, not builtins"):
        weights.from_onnx(onnx_model(onnx, onnx_weights(1)), weights=given)


@pytest.mark.parametrize("source", [b"no model", b"\xff" * 40])
def test_files_of_something_else_are_refused(source, tmp_path):
    (tmp_path / "a.onnx").write_bytes(source)
    for each in (source, tmp_path / "a.onnx"):
        with pytest.raises(ValueError, match="not an ONNX model, or it is damaged"):
            weights.from_onnx(each)


@pytest.mark.parametrize("change", [{"data_type": 99}, {"data_type": 0}, {"raw_data": b"123"}, {"dims": [2**40, 1, 1]}])
def test_damaged_tensors_are_refused(change):
    model = onnx_model(onnx, onnx_weights(1))
    for name, value in change.items():
        if name == "dims":
            del model.graph.initializer[0].dims[:]
            model.graph.initializer[0].dims.extend(value)
        else:
            setattr(model.graph.initializer[0], name, value)
    with pytest.raises(ValueError, match="the tensor 'W' is damaged"):
        weights.from_onnx(model)


def test_tensors_in_other_files_are_read_only_beside_a_path(api, tmp_path, monkeypatch):
    """Bytes and ModelProtos have no directory. Files of the working directory must not be read for them."""
    model = onnx_model(onnx, onnx_weights(1), [constant_node("zero")])
    want = api.LSTM.from_onnx(model)
    path = tmp_path / "a.onnx"
    onnx.save(model, path, save_as_external_data=True, location="a.data", size_threshold=0, convert_attribute=True)
    same(api.LSTM.from_onnx(path), want, N)
    monkeypatch.chdir(tmp_path)
    for source in (path.read_bytes(), onnx.load(path, load_external_data=False)):
        with pytest.raises(ValueError, match="the data of 'W' are in another file: give the path of the model"):
            weights.from_onnx(source)
    model = onnx.load(path, load_external_data=False)
    model.graph.node[0].output[0] = "P"  # the value of a Constant is a tensor in another file too
    del model.graph.initializer[:]
    model.graph.initializer.extend(computed(onnx, []).graph.initializer)
    with pytest.raises(ValueError, match="the data of '.*' are in another file"):
        weights.from_onnx(model)


def constant_node(name):
    return onnx.helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(draw(1, 3 * H), "tensor"))


# ---- initial states -----------------------------------------------------------------------------


def stateful(directions=1, batch=1, layout=0, **changes):
    """A model whose initial states are constants for a batch of this size."""
    shape = (batch, directions, H) if layout else (directions, batch, H)
    states = {"initial_h": draw(*shape), "initial_c": 3 * draw(*shape, seed=1)} | changes
    direction = "bidirectional" if directions == 2 else "forward"
    return onnx_model(onnx, onnx_weights(directions) | states, layout=layout, direction=direction)


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("batch", [1, B])
def test_constant_initial_states_are_refused_and_given_by_onnx_state(api, directions, batch, layout):
    model = stateful(directions, batch, layout)
    told = r"initial_h is a constant .*weights\.onnx_state\(.*\{'initial_h': array, 'initial_c': array\}"
    with pytest.raises(ValueError, match=told):
        api.LSTM.from_onnx(model)
    h, c = weights.onnx_state(model, "lstm")
    assert h.shape == c.shape == (directions, batch, H)
    lstm = api.LSTM.from_onnx(model, weights={"initial_h": h, "initial_c": c})
    x = draw(batch, T, N) if layout else draw(T, batch, N)
    inputs = {"X": x, "sequence_lens": np.full(batch, T, np.int32)}
    for name in ("initial_h", "initial_c"):
        del model.graph.input[[each.name for each in model.graph.input].index(name)]
    want = pytest.importorskip("onnx.reference").ReferenceEvaluator(model).run(None, inputs)
    turn = (lambda array: array.swapaxes(0, 1)) if layout else (lambda array: array)
    given = inputs | {"initial_h": turn(h), "initial_c": turn(c)}
    assert distance(onnx_call(lstm, given, layout), want) < 5e-6


@pytest.mark.parametrize("name", ["initial_h", "initial_c"])
def test_one_constant_initial_state_is_refused(name):
    other = {"initial_h": "initial_c", "initial_c": "initial_h"}[name]
    model = stateful(**{other: np.zeros((1, 1, H), np.float32)})
    with pytest.raises(ValueError, match=f"{name} is a constant of the model and not zero"):
        weights.from_onnx(model)
    state = dict(zip(("initial_h", "initial_c"), weights.onnx_state(model)))
    assert state[name].any() and not state[other].any()


@pytest.mark.parametrize("shape_of", ["X", "inner"])
@pytest.mark.parametrize("value", [0, 1])
def test_a_state_that_is_repeated_for_the_batch_is_a_constant(value, shape_of):
    """Exporters repeat a state for the batch of an input. It depends on the shape of the input, and on nothing else."""
    node = onnx.helper.make_node
    nodes = [
        node("Abs", ["X"], ["inner"]),
        node("Shape", [shape_of], ["sizes"]),
        node("Gather", ["sizes", "one"], ["batch"], axis=0),
        node("Concat", ["first", "batch", "units"], ["shape"], axis=0),
        node("Expand", ["learned", "shape"], ["h0"]),
    ]
    learned = value * draw(1, 1, H)
    there = {"one": np.array([1]), "first": np.array([1]), "units": np.array([H]), "learned": learned}
    model = onnx_model(onnx, onnx_weights(1) | there, nodes)
    model.graph.node[-1].input[5] = "h0"
    model.graph.node[-1].input[6] = ""
    if value:
        with pytest.raises(ValueError, match="initial_h is a constant of the model and not zero"):
            weights.from_onnx(model)
    else:
        weights.from_onnx(model)
    h, c = weights.onnx_state(model)
    same_bits(h, learned)
    same_bits(c, np.zeros((1, 1, H), np.float32))
    nodes[-1].op_type = "Tile"
    model = onnx_model(onnx, onnx_weights(1) | there, nodes)
    model.graph.node[-1].input[5] = "h0"
    with pytest.raises(ValueError, match=r"'h0' is computed by Tile, .*give 'h0' as weights=\{'h0': array\}"):
        weights.from_onnx(model)
    weights.from_onnx(model, weights={"h0": learned})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("sizes", [None, {"x": {0: "B", 1: "T"}}], ids=["fixed", "free"])
@pytest.mark.parametrize("is_learned", [True, False])
def test_states_of_exports_of_torch_are_found(api, is_learned, sizes):
    """The exporter repeats a learned state for the batch by Shape, Equal, Where, Expand and Slice."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.manual_seed(0)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv1d(N, N, 1)
            self.lstm = torch.nn.LSTM(N, H, 2, batch_first=True)
            self.h = torch.nn.Parameter(torch.randn(2, 1, H))

        def forward(self, x):
            x = self.conv(x.transpose(1, 2)).transpose(1, 2)
            h = self.h.expand(-1, x.shape[0], -1).contiguous()
            return self.lstm(x, (h, torch.zeros_like(h)) if is_learned else None)[0]

    file = io.BytesIO()
    module = Model().eval()
    torch.onnx.export(module, (torch.zeros(B, T, N),), file, input_names=["x"], dynamic_axes=sizes, dynamo=False)
    model = onnx.load_from_string(file.getvalue())
    for k, node in enumerate(node for node in model.graph.node if node.op_type == "LSTM"):
        h, c = weights.onnx_state(model, node.output[0])
        want = module.h.detach().numpy()[k : k + 1] * is_learned
        np.testing.assert_array_equal(h, np.repeat(want, 1 if sizes else B, axis=1))
        assert h.shape == c.shape and not c.any()
        if is_learned:
            with pytest.raises(ValueError, match="initial_h is a constant of the model and not zero"):
                weights.from_onnx(model, node.output[0])
        lstm = api.LSTM.from_onnx(model, node.output[0], weights={node.input[5]: h} if is_learned else None)
        assert lstm.hidden_size == H


def test_states_that_depend_on_inputs_are_left_to_the_call():
    """The states are inputs of the graph, or computed from them by any operator."""
    for nodes in ([], [onnx.helper.make_node("Relu", ["initial_h"], ["h0"])]):
        model = onnx_model(onnx, onnx_weights(1), nodes)
        if nodes:
            model.graph.node[-1].input[5] = "h0"
        weights.from_onnx(model)
        with pytest.raises(ValueError, match="the initial state depends on inputs of the model"):
            weights.onnx_state(model)
        given = {"initial_c": draw(1, 2, H), model.graph.node[-1].input[5]: draw(1, 2, H)}
        h, _ = weights.onnx_state(model, weights=given)
        same_bits(h, draw(1, 2, H))
    model = onnx_model(onnx, onnx_weights(1))
    del model.graph.node[0].input[5:7]
    del model.graph.node[0].input[4:]
    assert not np.any(weights.onnx_state(model)) and weights.onnx_state(model)[0].shape == (1, 1, H)
    with pytest.raises(ValueError, match=r"the initial state is of shape \(1, 1, 6\), not \(1, B, 5\)"):
        weights.onnx_state(stateful(initial_h=draw(1, 1, 6), initial_c=draw(1, 1, 6)))


def test_states_from_branches_depend_on_what_the_branches_take(api):
    """torch.jit makes such branches of an optional state. They take an input or a constant of the graph around them."""
    helper = onnx.helper
    out = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)]
    then, other = (
        helper.make_graph([helper.make_node(operator, ["taken"], ["y"])], operator, [], out)
        for operator in ("Identity", "Relu")
    )
    branch = helper.make_node("If", ["go"], ["h0"], then_branch=then, else_branch=other)
    for constants in ({}, {"taken": draw(1, 1, H)}):
        model = onnx_model(onnx, onnx_weights(1) | {"go": np.array(True), **constants}, [branch])
        model.graph.node[-1].input[5] = "h0"
        if constants:
            with pytest.raises(ValueError, match="'h0' is computed by If, which from_onnx does not evaluate"):
                weights.from_onnx(model)
            continue
        same(api.LSTM.from_onnx(model), api.LSTM.from_onnx(onnx_model(onnx, onnx_weights(1))), N)
        with pytest.raises(ValueError, match="the initial state depends on inputs of the model"):
            weights.onnx_state(model)


# ---- graphs in graphs -------------------------------------------------------------------------


def test_deeply_nested_graphs_are_searched():
    helper = onnx.helper
    out = helper.make_tensor_value_info("Y", onnx.TensorProto.FLOAT, None)
    graph = onnx_model(onnx, onnx_weights(1)).graph
    for _ in range(25):
        node = helper.make_node("If", ["go"], ["Y"], then_branch=graph, else_branch=helper.make_graph([], "e", [], []))
        graph = helper.make_graph([node], "outer", [], [out])
    [layer], _ = weights.from_onnx(helper.make_model(graph))
    assert layer["weight_ih"].shape == (4 * H, N)
