"""ONNX nodes inside branches, loops, scans and functions, by their names and with weights from around them."""

import numpy as np
import pytest
from fastgate import weights
from helpers import draw
from helpers.weights import B, H, T, distance, onnx_model, onnx_weights, same

onnx = pytest.importorskip("onnx")
helper, N = onnx.helper, 4
FLOAT, INT64, BOOL = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.BOOL
node, info, tensor = helper.make_node, helper.make_tensor_value_info, onnx.numpy_helper.from_array
OPSETS = [helper.make_opsetid("", 14), helper.make_opsetid("own", 1)]


def whole(nodes, initializers, functions=(), inputs=("x",), outputs=()):
    tensors = [tensor(np.asarray(array), name) for name, array in initializers.items()]
    graph = helper.make_graph(
        nodes, "graph", [info(name, FLOAT, None) for name in inputs], [info(name, FLOAT, None) for name in outputs],
        tensors,
    )  # fmt: skip
    return helper.make_model(graph, functions=list(functions), opset_imports=OPSETS, ir_version=8)


def lstm(x="x", names="WRB", called="lstm", output="Y", **how):
    how = how or {"hidden_size": H}
    return node("LSTM", [x, *names], [output], called, **how)


def plain(api, seed=0):
    there = {k: v for k, v in onnx_weights(1).items() if k != "P"}
    return api.LSTM.from_onnx(onnx_model(onnx, {name: array + np.float32(seed) for name, array in there.items()}))


def given(seed=0, names="WRB"):
    return {name: onnx_weights(1)[key] + np.float32(seed) for name, key in zip(names, "WRB")}


def run(model, **inputs):
    return pytest.importorskip("onnxruntime").InferenceSession(model.SerializeToString()).run(None, inputs)


def loop(body_nodes, initializers=()):
    """A Loop whose body makes y of each run, with the name loop."""
    body = helper.make_graph(
        [*body_nodes, node("Identity", ["go"], ["on"])], "body",
        [info("k", INT64, []), info("go", BOOL, []), info("carried", FLOAT, None)],
        [info("on", BOOL, []), info("Y", FLOAT, None), info("Y", FLOAT, None)],
        [tensor(array, name) for name, array in initializers],
    )  # fmt: skip
    return node("Loop", ["times", "", "start"], ["last", "all"], "loop", body=body)


def test_loops(api):
    """The weights are around the loop, or in it; what is carried is none."""
    nodes = [lstm(), node("Transpose", ["R0"], ["R"], perm=[0, 2, 1])]
    there = {"times": np.int64(2), "start": draw(T, 1, B, H), "W": given()["W"], "R0": given()["R"].swapaxes(1, 2)}
    model = whole([loop(nodes[::-1], [("B", given()["B"])])], there, outputs=["last"])
    y, _ = api.LSTM.from_onnx(model)(x := draw(T, B, N))
    assert distance([y[:, np.newaxis]], run(model, x=x)) < 1e-6
    for name in ("lstm", "loop/body/lstm", "loop/body/Y", "Y"):
        same(api.LSTM.from_onnx(model, name), plain(api), N)
    for name in ("body/lstm", "loop/lstm", "loop", ""):
        with pytest.raises(ValueError, match="0 LSTM nodes or outputs are called .*; there are 'lstm'"):
            weights.from_onnx(model, name)
    model = whole([loop([lstm(names=["W", "R", "carried"])])], {**there, "R": given()["R"], "carried": given()["B"]})
    with pytest.raises(ValueError, match="no value for 'carried'"):  # the loop's own, not the one around it
        weights.from_onnx(model)


def test_scans(api):
    body = helper.make_graph(
        [node("Unsqueeze", ["row", "zero"], ["rows"]), lstm("rows"), node("Squeeze", ["Y", "zero"], ["out"])], "body",
        [info("row", FLOAT, None)], [info("out", FLOAT, None)], [tensor(given()["R"], "R")],
    )  # fmt: skip
    scan = node("Scan", ["x"], ["all"], "scan", body=body, num_scan_inputs=1)
    model = whole([scan], {"W": given()["W"], "B": given()["B"], "zero": np.array([0])}, outputs=["all"])
    same(api.LSTM.from_onnx(model, "scan/body/lstm"), plain(api), N)


def test_branches_whose_nodes_have_the_same_names(api):
    """.. are told by their paths."""
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


def test_functions(api):
    """Each call has weights of its own; names of calls come first."""
    there = given() | given(1, "VSC")
    function = encoder()
    calls = [call("one", ["x", "W", "R", "B"], "y"), call("two", ["x", "V", "S", "C"], "z")]
    model = whole(calls, there, [function], outputs=["y", "z"])
    with pytest.raises(ValueError, match="there are 2 LSTM nodes: 'one/lstm', 'two/lstm'"):
        weights.from_onnx(model)
    x = draw(T, B, N)
    for k, (name, want) in enumerate(zip(("one/lstm", "two/lstm"), run(model, x=x))):
        y, _ = api.LSTM.from_onnx(model, name)(x)
        assert distance([y[:, np.newaxis]], [want]) < 1e-6
        same(api.LSTM.from_onnx(model, name), plain(api, k), N)
    same(api.LSTM.from_onnx(whole(calls[:1], there, [function]), "lstm"), plain(api), N)
    same(api.LSTM.from_onnx(whole(calls[:1], {}, [function]), "lstm", weights=given()), plain(api), N)


def test_attributes_and_inputs_of_functions(api):
    """An attribute may refer to one of the call, or have a default; an input may be left out; opsets may differ."""
    inner = node("LSTM", ["x", "W", "R", "B"], ["Y"], "lstm")
    for name in ("hidden_size", "clip"):
        kind = onnx.AttributeProto.INT if name == "hidden_size" else onnx.AttributeProto.FLOAT
        inner.attribute.add(name=name, type=kind, ref_attr_name="units" if name == "hidden_size" else name)
    turn = node("Unsqueeze", ["W0"], ["W"], axes=[0])  # before opset 13
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


def test_a_stack_of_calls(api):
    """One call's output is the next one's input, through functions in functions."""
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
    assert stack.num_layers == 2 and distance([stack(x)[0]], run(model, x=x)) < 1e-6
    same(api.LSTM.from_onnx(model, ["low/inner/lstm", "high/inner/lstm"]), stack, N)


@pytest.mark.parametrize("length", [1, 2, 30])
def test_functions_without_end(length):
    """.. call themselves, or each other twice in 30 levels: they are not followed."""
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


def test_a_function_that_gives_what_it_takes():
    """Its output is its input, which is its output."""
    function = helper.make_function("own", "Encoder", ["Y"], ["Y"], [], OPSETS[:1])
    model = whole([call("c", ["W"], "W"), lstm()], {k: v for k, v in given().items() if k != "W"}, [function])
    with pytest.raises(ValueError, match="no value for 'W'"):
        weights.from_onnx(model)


def test_domains():
    """An LSTM of another domain is another operator; ONNX Runtime's has its own."""
    model = whole([lstm()], given())
    model.graph.node[0].domain = "own"
    with pytest.raises(ValueError, match="there are 0 LSTM nodes: none"):
        weights.from_onnx(model)
    model.graph.node[0].domain = "ai.onnx"
    weights.from_onnx(model)
    model.graph.node[0].op_type = "DynamicQuantizeLSTM"
    with pytest.raises(ValueError, match="there are 0 LSTM nodes: none"):
        weights.from_onnx(model)
