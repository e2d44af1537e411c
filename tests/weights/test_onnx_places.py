"""ONNX nodes inside branches, loops, scans and functions are found by their names, with weights from outside."""

import numpy as np
import pytest
from fastgate import weights
from helpers import draw
from helpers.weights import B, H, N, T, distance, onnx_call, onnx_graph, onnx_model, onnx_weights, run_onnx, same

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
helper = onnx.helper
FLOAT, INT64, BOOL = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.BOOL
node, info, tensor = helper.make_node, helper.make_tensor_value_info, onnx.numpy_helper.from_array
OPSETS = [helper.make_opsetid("", 14), helper.make_opsetid("own", 1)]


def whole(nodes, initializers, functions=(), outputs=()):
    """A model of these nodes, whose input is x."""
    return onnx_graph(onnx, nodes, initializers, ["x"], outputs, [("", 14), ("own", 1)], functions)


def lstm(x="x", names="WRB", called="lstm", output="Y", **how):
    how = how or {"hidden_size": H}
    return node("LSTM", [x, *names], [output], called, **how)


def plain(api, seed=0):
    """The LSTM that given(seed) must become."""
    there = {k: v for k, v in onnx_weights(1).items() if k != "P"}
    return api.LSTM.from_onnx(onnx_model(onnx, {name: array + np.float32(seed) for name, array in there.items()}))


def given(seed=0, names="WRB"):
    """Arrays W, R and B under these names."""
    return {name: onnx_weights(1)[key] + np.float32(seed) for name, key in zip(names, "WRB")}


def loop(body_nodes, initializers=()):
    """A Loop named loop, whose body has these nodes and gives Y."""
    body = helper.make_graph(
        [*body_nodes, node("Identity", ["go"], ["on"])], "body",
        [info("k", INT64, []), info("go", BOOL, []), info("carried", FLOAT, None)],
        [info("on", BOOL, []), info("Y", FLOAT, None), info("Y", FLOAT, None)],
        [tensor(array, name) for name, array in initializers],
    )  # fmt: skip
    return node("Loop", ["times", "", "start"], ["last", "all"], "loop", body=body)


def test_nodes_in_loops_take_weights_from_the_body_or_from_outside(api):
    """Values that the loop carries change from step to step, so that they cannot be weights."""
    nodes = [lstm(), node("Transpose", ["R0"], ["R"], perm=[0, 2, 1])]
    there = {"times": np.int64(2), "start": draw(T, 1, B, H), "W": given()["W"], "R0": given()["R"].swapaxes(1, 2)}
    model = whole([loop(nodes[::-1], [("B", given()["B"])])], there, outputs=["last"])
    x = draw(T, B, N)
    assert distance(onnx_call(api.LSTM.from_onnx(model), {"X": x})[:1], run_onnx(model, {"x": x})) < 1e-6
    for name in ("lstm", "loop/body/lstm", "loop/body/Y", "Y"):
        same(api.LSTM.from_onnx(model, name), plain(api), N)
    for name in ("body/lstm", "loop/lstm", "loop", ""):
        with pytest.raises(ValueError, match="0 LSTM nodes or outputs are called .*; there are 'lstm'"):
            weights.from_onnx(model, name)
    model = whole([loop([lstm(names=["W", "R", "carried"])])], {**there, "R": given()["R"], "carried": given()["B"]})
    with pytest.raises(ValueError, match="no value for 'carried'"):  # the body's value hides the one outside
        weights.from_onnx(model)


def test_nodes_in_scans_are_found(api):
    body = helper.make_graph(
        [node("Unsqueeze", ["row", "zero"], ["rows"]), lstm("rows"), node("Squeeze", ["Y", "zero"], ["out"])], "body",
        [info("row", FLOAT, None)], [info("out", FLOAT, None)], [tensor(given()["R"], "R")],
    )  # fmt: skip
    scan = node("Scan", ["x"], ["all"], "scan", body=body, num_scan_inputs=1)
    model = whole([scan], {"W": given()["W"], "B": given()["B"], "zero": np.array([0])}, outputs=["all"])
    same(api.LSTM.from_onnx(model, "scan/body/lstm"), plain(api), N)


def test_nodes_of_the_same_name_are_chosen_by_their_paths(api):
    out = [info("Y", FLOAT, None)]
    branches = {
        f"{way}_branch": helper.make_graph([lstm(names=names)], way, [], out)
        for way, names in (("then", ["W", "R", "B"]), ("else", ["V", "R", "B"]))
    }
    model = whole([node("If", ["go"], ["y"], "if", **branches)], {**given(), "V": 2 * given()["W"]})
    with pytest.raises(ValueError, match="2 LSTM nodes: 'if/else_branch/lstm', 'if/then_branch/lstm'; choose one"):
        weights.from_onnx(model)
    with pytest.raises(ValueError, match="2 LSTM nodes or .* called 'lstm'; there are 'if/else_branch/lstm', 'if/then"):
        weights.from_onnx(model, "lstm")
    same(api.LSTM.from_onnx(model, "if/then_branch/lstm"), plain(api), N)
    want = api.LSTM.from_onnx(onnx_model(onnx, given() | {"W": 2 * given()["W"]}))
    same(api.LSTM.from_onnx(model, "if/else_branch/Y"), want, N)


def encoder(nodes=None, inputs="xWRB", opset=14, **how):
    nodes = nodes or [lstm()]
    return helper.make_function("own", "Encoder", [*inputs], ["Y"], nodes, [helper.make_opsetid("", opset)], **how)


def call(name, inputs, output, **how):
    return node("Encoder", inputs, [output], name, domain="own", **how)


def test_each_call_of_a_function_has_its_own_weights(api):
    """The path of a node begins with the name of the call."""
    there = given() | given(1, "VSC")
    function = encoder()
    calls = [call("one", ["x", "W", "R", "B"], "y"), call("two", ["x", "V", "S", "C"], "z")]
    model = whole(calls, there, [function], outputs=["y", "z"])
    with pytest.raises(ValueError, match="there are 2 LSTM nodes: 'one/lstm', 'two/lstm'"):
        weights.from_onnx(model)
    x = draw(T, B, N)
    for k, (name, want) in enumerate(zip(("one/lstm", "two/lstm"), run_onnx(model, {"x": x}))):
        assert distance(onnx_call(api.LSTM.from_onnx(model, name), {"X": x})[:1], [want]) < 1e-6
        same(api.LSTM.from_onnx(model, name), plain(api, k), N)
    same(api.LSTM.from_onnx(whole(calls[:1], there, [function]), "lstm"), plain(api), N)
    same(api.LSTM.from_onnx(whole(calls[:1], {}, [function]), "lstm", weights=given()), plain(api), N)


def test_functions_may_have_attributes_optional_inputs_and_another_opset(api):
    """An attribute refers to one of the call, or to a default of the function."""
    inner = node("LSTM", ["x", "W", "R", "B"], ["Y"], "lstm")
    for name in ("hidden_size", "clip"):
        kind = onnx.AttributeProto.INT if name == "hidden_size" else onnx.AttributeProto.FLOAT
        inner.attribute.add(name=name, type=kind, ref_attr_name="units" if name == "hidden_size" else name)
    turn = node("Unsqueeze", ["W0"], ["W"], axes=[0])  # in opset 11, axes is an attribute
    default = helper.make_attribute("units", H)
    function = encoder([turn, inner], ["x", "W0", "R", "B"], 11, attributes=["clip"], attribute_protos=[default])
    there = given() | {"W": given()["W"][0]}

    def of(**how):
        inputs = ["x", "W", "R"] + ["B"] * how.pop("bias", True)
        return weights.from_onnx(whole([call("c", inputs, "y", **how)], there, [function]))

    [layer], options = of(clip=0.75)
    assert options["gate_clip"] == 0.75 and of()[1]["gate_clip"] is None
    same(api.LSTM([layer]), plain(api), N)
    assert "bias_ih" in layer and "bias_ih" not in of(bias=False)[0][0]
    with pytest.raises(ValueError, match="with hidden_size 6 needs"):
        of(units=6)


def test_calls_that_feed_each_other_are_layers(api):
    """The LSTM is in a function that another function calls."""
    squeeze = node("Squeeze", ["Z", "one"], ["Y"])
    constant = node("Constant", [], ["one"], value=tensor(np.array([1])))
    inner = helper.make_function("own", "Inner", [*"xWRB"], ["Y"], [lstm()], OPSETS[:1])
    outer = helper.make_function(
        "own", "Encoder", [*"aWRB"], ["Y"],
        [constant, node("Inner", ["a", "W", "R", "B"], ["Z"], "inner", domain="own"), squeeze], OPSETS,
    )  # fmt: skip
    there = given() | {"V": draw(1, 4 * H, H)}
    calls = [call("low", ["x", "W", "R", "B"], "y"), call("high", ["y", "V", "R", "B"], "z")]
    model = whole(calls, there, [inner, outer], outputs=["z"])
    stack = api.LSTM.from_onnx(model)
    x = draw(T, B, N)
    assert stack.num_layers == 2 and distance([stack(x)[0]], run_onnx(model, {"x": x})) < 1e-6
    same(api.LSTM.from_onnx(model, ["low/inner/lstm", "high/inner/lstm"]), stack, N)


@pytest.mark.parametrize("length", [1, 2, 30])
def test_functions_that_call_themselves_are_refused(length):
    """Each function calls the next one twice, and the last one calls the first."""
    functions = [
        helper.make_function(
            "own", f"F{k}", ["x"], ["y"],
            [node(f"F{(k + 1) % length}", ["x"], [name], domain="own") for name in ("y", "z")], OPSETS[1:],
        )
        for k in range(length)
    ]  # fmt: skip
    model = whole([node("F0", ["x"], ["y"], domain="own")], {}, functions)
    told = "functions are called more than 10000 times, or in more than 100 levels: inline"
    with pytest.raises(ValueError, match=told):
        weights.from_onnx(model)


def test_a_function_whose_output_is_its_input_is_refused():
    """The value W of the call is defined by nothing but itself."""
    function = helper.make_function("own", "Encoder", ["Y"], ["Y"], [], OPSETS[:1])
    model = whole([call("c", ["W"], "W"), lstm()], {k: v for k, v in given().items() if k != "W"}, [function])
    with pytest.raises(ValueError, match="no value for 'W'"):
        weights.from_onnx(model)


def test_only_nodes_of_the_domain_of_onnx_are_lstms():
    """An LSTM of another domain is another operator, and so is a DynamicQuantizeLSTM outside com.microsoft."""
    model = whole([lstm()], given())
    model.graph.node[0].domain = "own"
    with pytest.raises(ValueError, match="there are 0 LSTM nodes: none"):
        weights.from_onnx(model)
    model.graph.node[0].domain = "ai.onnx"
    weights.from_onnx(model)
    model.graph.node[0].op_type = "DynamicQuantizeLSTM"
    with pytest.raises(ValueError, match="there are 0 LSTM nodes: none"):
        weights.from_onnx(model)
