"""ONNX nodes that feed each other are the layers of one LSTM, if what lies between them only moves numbers."""

import io

import fastgate
import numpy as np
import pytest
from fastgate import weights
from helpers import draw, same_bits
from helpers.weights import B, H, T, arrays, distance, onnx_model, onnx_weights, same

onnx = pytest.importorskip("onnx")
node, N = onnx.helper.make_node, 4
FLOAT = onnx.TensorProto.FLOAT


def layer(name, x, n, directions=1, seed=0, **how):
    """An LSTM node with output name_Y, and its initializers."""
    shapes = {"W": (4 * H, n), "R": (4 * H, H), "B": (8 * H,)}
    tensors = {f"{name}_{k}": draw(directions, *shape, seed=seed + i) for i, (k, shape) in enumerate(shapes.items())}
    how = {"direction": "bidirectional"} | how if directions == 2 else how
    inputs = [x, *tensors, *how.pop("more", [])]
    return node("LSTM", inputs, [f"{name}_Y", f"{name}_h", f"{name}_c"], name, hidden_size=H, **how), tensors


def model_of(nodes, tensors, outputs=("top_Y", "top_h", "top_c"), more=(), opset=14, **how):
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "graph", [info("x", FLOAT, None), *more], [info(name, FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in tensors.items()], **how,
    )  # fmt: skip
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)


I = np.int64  # noqa: E741
BETWEEN = {  # of bottom_Y, to y
    "squeeze": (1, [node("Squeeze", ["bottom_Y", "one"], ["y"])], {"one": I([1])}),
    "squeeze all": (1, [node("Squeeze", ["bottom_Y"], ["y"])], {}),
    "zeros": (2, [node("Transpose", ["bottom_Y"], ["t"], perm=[0, 2, 1, 3]), node("Reshape", ["t", "s"], ["y"])],
              {"s": I([0, 0, -1])}),
    "through two": (1, [node("Reshape", ["bottom_Y", "s"], ["t"]), node("Reshape", ["t", "r"], ["y"])],
                    {"s": I([0, -1]), "r": I([0, -1, H])}),
    "own shape": (2, [node("Transpose", ["bottom_Y"], ["t"], perm=[0, 2, 1, 3]), node("Shape", ["t"], ["all"]),
                      node("Gather", ["all", "two"], ["first"]), node("Concat", ["first", "rest"], ["s"], axis=0),
                      node("Reshape", ["t", "s"], ["y"])], {"two": I([0, 1]), "rest": I([2 * H])}),
    "split": (2, [node("Split", ["bottom_Y"], ["a", "b"], axis=1), node("Squeeze", ["a", "one"], ["c"]),
                  node("Squeeze", ["b", "one"], ["d"]), node("Concat", ["c", "d"], ["y"], axis=2)], {"one": I([1])}),
    "turned twice": (1, [node("Squeeze", ["bottom_Y", "one"], ["a"]), node("Transpose", ["a"], ["b"], perm=[1, 0, 2]),
                         node("Identity", ["b"], ["c"]), node("Transpose", ["c"], ["y"], perm=[1, 0, 2])],
                     {"one": I([1])}),
}  # fmt: skip


def stack(between, directions=1, more=None, n=None, **how):
    bottom, tensors = layer("bottom", "x", N, directions)
    top, others = layer("top", "y", n or directions * H, directions, seed=5, **how)
    return model_of([bottom, *between, top], {**tensors, **others, **(more or {})})


@pytest.mark.parametrize("name", BETWEEN)
def test_two_layers(api, name):
    directions, between, more = BETWEEN[name]
    model = stack(between, directions, more)
    x = draw(T, B, N)
    run = pytest.importorskip("onnxruntime").InferenceSession(model.SerializeToString()).run(None, {"x": x})
    lstm = api.LSTM.from_onnx(model)
    y, (h, c) = lstm(x)
    got = [y.reshape(T, B, directions, H).swapaxes(1, 2), h[-directions:], c[-directions:]]
    assert distance(got, run) < 1e-6
    same(api.LSTM.from_onnx(model, ["bottom", "top"]), lstm, N)
    same(api.LSTM.from_onnx(model, ("bottom_Y", "top_c")), lstm, N)
    alone = api.LSTM.from_onnx(model, "top")
    assert alone.input_size == directions * H and repr(api.LSTM.from_onnx(model, ["top"])) == repr(alone)


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_options_of_layers(api, layout, direction):
    how = {"layout": layout, "clip": 0.75, "direction": direction}
    bottom, tensors = layer("bottom", "x", N, **how)
    top, others = layer("top", "y", H, seed=5, **how)
    squeeze = node("Squeeze", ["bottom_Y", "axes"], ["y"])
    model = model_of([bottom, squeeze, top], {**tensors, **others, "axes": I([2 - (not layout)])})
    lstm = api.LSTM.from_onnx(model)
    assert lstm.batch_first == bool(layout) and lstm.reverse == (direction == "reverse")
    first, second = (api.LSTM.from_onnx(model, name) for name in ("bottom", "top"))
    x = draw(B, T, N)
    y, (h, c) = lstm(x)
    below, (h0, c0) = first(x)
    want, (h1, c1) = second(below)
    for a, b in ((y, want), (h, np.concatenate([h0, h1])), (c, np.concatenate([c0, c1]))):
        same_bits(a, b)


NOT_BETWEEN = {
    "order": ([node("Squeeze", ["bottom_Y", "one"], ["a"]), node("Transpose", ["a"], ["y"], perm=[1, 0, 2])],
              "'Squeeze', 'Transpose' between them changes the order of elements"),
    "reshape": ([node("Reshape", ["bottom_Y", "s"], ["y"])], "'Reshape' between them changes the order of elements"),
    "relu": ([node("Squeeze", ["bottom_Y", "one"], ["a"]), node("Relu", ["a"], ["y"])],
             "'Squeeze', 'Relu' is between them"),
    "residual": ([node("Squeeze", ["bottom_Y", "one"], ["a"]), node("Add", ["a", "x"], ["y"])],
                 "'Squeeze', 'Add' is between them"),
    "other input": ([node("Concat", ["bottom_Y", "x"], ["y"], axis=-1)], "no value for 'x'"),
    "slice": ([node("Squeeze", ["bottom_Y", "one"], ["a"]), node("Slice", ["a", "zero", "many"], ["y"])],
              "'Squeeze', 'Slice' is between them"),
    "state": ([node("Identity", ["bottom_h"], ["y"])], "it comes from no LSTM, through 'LSTM', 'Identity'"),
    "fixed": ([node("Reshape", ["bottom_Y", "fixed"], ["y"])], "Reshape cannot compute 'y': cannot reshape"),
    "constant": ([], "it comes from no LSTM, through 'a constant'"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_BETWEEN)
def test_nodes_that_do_not_feed_each_other(name):
    between, told = NOT_BETWEEN[name]
    more = {"one": I([1]), "s": I([5, -1, H]), "zero": I([0]), "many": I([99]), "fixed": I([2, 3, H])}
    more |= {} if between else {"y": draw(T, B, H)}
    model = stack(between, 1, more)
    start = r"'top' does not take the output of 'bottom' as its input: .*"
    with pytest.raises(ValueError, match=start + told):
        weights.from_onnx(model, ["bottom", "top"])
    with pytest.raises(ValueError, match="'bottom' does not take the output of 'top' as its input: it comes from no"):
        weights.from_onnx(model, ["top", "bottom"])
    linked = name in ("order", "reshape", "other input", "fixed")
    with pytest.raises(ValueError, match=start + told if linked else "there are 2 LSTM nodes: 'bottom', 'top'; choose"):
        weights.from_onnx(model)


def test_a_length_that_the_model_tells(api):
    """Exporters of fixed sizes write them into Reshape."""
    info = onnx.helper.make_tensor_value_info("bottom_Y", FLOAT, [T, 1, B, H])
    bottom, tensors = layer("bottom", "x", N)
    top, others = layer("top", "y", H, seed=5)
    reshape = node("Reshape", ["bottom_Y", "fixed"], ["y"])
    tensors |= others
    model = model_of([bottom, reshape, top], {**tensors, "fixed": I([T, B, H])}, value_info=[info])
    assert api.LSTM.from_onnx(model).num_layers == 2
    for wrong in ([B, T, H], [1, T * B, H]):
        model = model_of([bottom, reshape, top], {**tensors, "fixed": I(wrong)}, value_info=[info])
        with pytest.raises(ValueError, match="'Reshape' between them changes the order of elements"):
            weights.from_onnx(model)
    info.type.tensor_type.shape.dim[0].dim_value = 2**40  # no such array is made
    model = model_of([bottom, reshape, top], {**tensors, "fixed": I([7, 5, H])}, value_info=[info])
    assert api.LSTM.from_onnx(model).num_layers == 2


def test_chains(api):
    nodes, tensors = [], {}
    for name, x in (("a", "x"), ("b", "a"), ("c", "b"), ("d", "x"), ("e", "d")):
        each, more = layer(name, f"{x}_y" if x != "x" else x, H, seed=len(nodes))
        nodes += [each, node("Squeeze", [f"{name}_Y", "one"], [f"{name}_y"])]
        tensors |= more
    model = model_of(nodes, {**tensors, "one": I([1])}, ["c_Y", "e_Y"])
    told = r"there are 2 chains of LSTM nodes: \['a', 'b', 'c'\], \['d', 'e'\]; choose one with node="
    with pytest.raises(ValueError, match=told):
        weights.from_onnx(model)
    assert [api.LSTM.from_onnx(model, [*names]).num_layers for names in ("abc", "de", "bc", "e")] == [3, 2, 2, 1]
    with pytest.raises(ValueError, match="'c' does not take the output of 'a'.*: it comes from 'b', through 'Squeeze'"):
        weights.from_onnx(model, ["a", "c"])
    with pytest.raises(ValueError, match="'a' does not take the output of 'a'"):
        weights.from_onnx(model, ["a", "a"])
    nodes[6].input[0] = "b_y"  # d: two take the output of b
    with pytest.raises(ValueError, match=r"2 chains of LSTM nodes: \['a', 'b', 'c'\], \['a', 'b', 'd', 'e'\]"):
        weights.from_onnx(model_of(nodes, {**tensors, "one": I([1])}, ["c_Y", "e_Y"]))
    nodes[0].input[0] = "b_y"  # a cycle
    for count in (4, 6):
        with pytest.raises(ValueError, match="is computed from itself|there are 0 chains of LSTM nodes"):
            weights.from_onnx(model_of(nodes[:count], {**tensors, "one": I([1])}, ["b_Y"]))


@pytest.mark.parametrize("names", [[], [1], 3, [None], ["top", 2]], ids=str)
def test_names_that_are_none(names):
    directions, between, more = BETWEEN["squeeze"]
    with pytest.raises(TypeError, match="node must be the name of a node, or a sequence of at least one name, not "):
        weights.from_onnx(stack(between, directions, more), names)


@pytest.mark.parametrize(
    "how, told",
    [
        ({"clip": 2.0}, "'top' has .*'gate_clip': 2.0.*, but 'bottom' .*: they cannot be layers of one LSTM"),
        ({"direction": "reverse"}, "'top' has .*'reverse': True.*, but 'bottom'"),
        ({"input_forget": 1}, "'top' has .*'input_forget': True.*, but 'bottom'"),
        ({"layout": 1}, "'top' has .*'batch_first': True.*, but 'bottom'"),
    ],
)
def test_layers_that_differ(how, told):
    between = [node("Squeeze", ["bottom_Y", "one"], ["a"]), node("Transpose", ["a"], ["y"], perm=[1, 0, 2])]
    between = between if "layout" in how else BETWEEN["squeeze"][1]
    with pytest.raises(ValueError, match=told):
        weights.from_onnx(stack(between, more={"one": I([1])}, **how))


def test_lengths_that_differ():
    info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT32, [B]) for name in ("lens", "others")]
    for inputs in ([["lens"], []], [[], ["lens"]], [["lens"], ["others"]]):
        with pytest.raises(ValueError, match="'top' has another input sequence_lens than 'bottom'"):
            weights.from_onnx(stack_with(inputs, more=info))


def test_sizes_that_differ(api):
    directions, between, more = BETWEEN["squeeze"]
    with pytest.raises(ValueError, match=r"layers\[1\].weight_ih of shape \(20, 9\) does not fit the layers before"):
        api.LSTM.from_onnx(stack(between, directions, more, n=9))


# ---- what belongs to calls ----------------------------------------------------------------------


def stack_with(inputs, more=None, constants=None):
    """Two layers, each with these for sequence_lens, initial_h, initial_c; more: inputs of the graph."""
    _, between, tensors = BETWEEN["squeeze"]
    bottom, one = layer("bottom", "x", N, more=inputs[0])
    top, other = layer("top", "y", H, seed=5, more=inputs[1])
    return model_of([bottom, *between, top], {**one, **other, **tensors, **(constants or {})}, more=more or ())


def test_initial_states_of_a_stack(api):
    states = {"h0": draw(1, 1, H), "h1": draw(1, 1, H, seed=1), "c1": draw(1, B, H, seed=2)}
    model = stack_with([["", "h0"], ["", "h1", "c1"]], constants=states)
    told = r"initial_h is a constant .*weights=\{'h0': array, 'h1': array, 'c1': array\}"
    with pytest.raises(ValueError, match=told):
        weights.from_onnx(model)
    h, c = weights.onnx_state(model)
    same_bits(h, np.concatenate([np.repeat(states["h0"], B, 1), np.repeat(states["h1"], B, 1)]))
    same_bits(c, np.concatenate([np.zeros((1, B, H), np.float32), states["c1"]]))
    lstm = api.LSTM.from_onnx(model, weights=states)
    x = draw(T, B, N)
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(n, FLOAT, None) for n in ("top_Y", "top_h", "top_c"))
    reference = pytest.importorskip("onnx.reference").ReferenceEvaluator
    model.graph.initializer[-3].CopyFrom(onnx.numpy_helper.from_array(np.repeat(states["h0"], B, 1), "h0"))
    model.graph.initializer[-2].CopyFrom(onnx.numpy_helper.from_array(np.repeat(states["h1"], B, 1), "h1"))
    want = reference(model).run(None, {"x": x})
    y, (h, c) = lstm(x, (h, c))
    assert distance([y[:, np.newaxis], h[1:], c[1:]], want) < 5e-6


def test_lengths_that_are_constant(api):
    """They would be ignored: ONNX Runtime stops at them."""
    lengths = np.array([2, T, 3], np.int32)
    model = stack_with([["lens"], ["lens"]], constants={"lens": lengths})
    told = r"sequence_lens is a constant .*: pass lengths=\[2, 6, 3\] to each call.*weights=\{'lens': array\}"
    for node_ in (None, "bottom", ["bottom", "top"]):
        with pytest.raises(ValueError, match=told):
            weights.from_onnx(model, node_)
    lstm = api.LSTM.from_onnx(model, weights={"lens": lengths})
    x = draw(T, B, N)
    want = pytest.importorskip("onnxruntime").InferenceSession(model.SerializeToString()).run(None, {"x": x})
    y, (h, c) = lstm(x, lengths=lengths)
    assert distance([y[:, np.newaxis], h[1:], c[1:]], want) < 1e-6
    info = onnx.helper.make_tensor_value_info("lens", onnx.TensorProto.INT32, [B])
    same(api.LSTM.from_onnx(stack_with([["lens"], ["lens"]], more=[info])), lstm, N)  # they are of the call


def test_lengths_that_are_computed(api):
    """From the shape of an input, as tf2onnx does: of the call.  By another operator from constants: nobody knows."""
    sizes = [node("Shape", ["x"], ["sizes"]), node("Gather", ["sizes", "zero"], ["lens"])]
    model = stack_with([["lens"], ["lens"]], constants={"zero": I([0])})
    model.graph.node.extend(sizes)
    assert api.LSTM.from_onnx(model).num_layers == 2
    model = stack_with([["lens"], ["lens"]], constants={"zero": I([0])})
    model.graph.node.append(node("Tile", ["zero", "zero"], ["lens"]))
    with pytest.raises(ValueError, match=r"'lens' is computed by Tile.*give 'lens' as weights=\{'lens': array\}"):
        weights.from_onnx(model)


# ---- torch --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [False, True], ids=["script", "dynamo"])
@pytest.mark.parametrize("free", [False, True], ids=["fixed", "free"])
@pytest.mark.parametrize("how", [{}, {"bidirectional": True}, {"batch_first": True, "bias": False}], ids=str)
def test_exports_of_torch(how, free, dynamo):
    torch = pytest.importorskip("torch")
    if dynamo:
        pytest.importorskip("onnxscript", reason="torch.onnx.export(dynamo=True) needs onnxscript")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(N, N), torch.nn.LSTM(N, H, 3, **how)).eval()
    x = torch.randn(B, T, N)
    if dynamo:
        sizes = ({0: torch.export.Dim("a"), 1: torch.export.Dim("b")},) if free else None
        model = torch.onnx.export(module, (x,), dynamic_shapes=sizes, dynamo=True, verbose=False).model_proto
    else:
        file, sizes = io.BytesIO(), {"x": {0: "a", 1: "b"}} if free else None
        torch.onnx.export(module, (x,), file, input_names=["x"], dynamic_axes=sizes, dynamo=False)
        model = onnx.load_from_string(file.getvalue())
    lstm = fastgate.LSTM.from_onnx(model)
    assert lstm.num_layers == 3 and lstm.bidirectional == ("bidirectional" in how)
    with torch.no_grad():
        below = module[0](x)
        want = arrays(module[1](below))
    below = below.numpy()
    if how.get("batch_first"):  # exporters turn x before the first layer and y after the last
        below, want[0] = below.swapaxes(0, 1), want[0].swapaxes(0, 1)
    assert distance(arrays(lstm(below)), want) < 1e-6


def test_one_node_is_a_chain(api):
    model = onnx_model(onnx, onnx_weights(1))
    same(api.LSTM.from_onnx(model), api.LSTM.from_onnx(model, ["lstm"]), N)
