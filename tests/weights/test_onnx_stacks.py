"""ONNX nodes that feed each other are the layers of one LSTM, if the nodes between them only move numbers."""

import io

import fastgate
import numpy as np
import pytest
from fastgate import weights
from helpers import draw, same_bits
from helpers.weights import B, H, N, T, arrays, distance, onnx_call, onnx_graph, run_onnx, same

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
FLOAT, INT32 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32


def layer(name, x, n, directions=1, seed=0, **how):
    """An LSTM node whose output is called name_Y, and its weights."""
    shapes = {"W": (4 * H, n), "R": (4 * H, H), "B": (8 * H,)}
    tensors = {f"{name}_{k}": draw(directions, *shape, seed=seed + i) for i, (k, shape) in enumerate(shapes.items())}
    how = {"direction": "bidirectional"} | how if directions == 2 else how
    inputs = [x, *tensors, *how.pop("more", [])]
    return node("LSTM", inputs, [f"{name}_Y", f"{name}_h", f"{name}_c"], name, hidden_size=H, **how), tensors


def model_of(nodes, tensors, outputs=("top_Y", "top_h", "top_c"), more=(), **how):
    """A model of these nodes; more: its inputs besides x."""
    return onnx_graph(onnx, nodes, tensors, ["x", *more], outputs, **how)


I = np.int64  # noqa: E741
BETWEEN = {  # directions of the layers, nodes that make y of bottom_Y, and their constants
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
def test_nodes_that_only_move_numbers_join_two_layers(api, name):
    directions, between, more = BETWEEN[name]
    model = stack(between, directions, more)
    x = draw(T, B, N)
    lstm = api.LSTM.from_onnx(model)
    y, h, c = onnx_call(lstm, {"X": x})
    assert distance([y, h[-directions:], c[-directions:]], run_onnx(model, {"x": x})) < 1e-6
    same(api.LSTM.from_onnx(model, ["bottom", "top"]), lstm, N)
    same(api.LSTM.from_onnx(model, ("bottom_Y", "top_c")), lstm, N)
    alone = api.LSTM.from_onnx(model, "top")
    assert alone.input_size == directions * H and repr(api.LSTM.from_onnx(model, ["top"])) == repr(alone)


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_layers_with_the_same_options_are_one_lstm(api, layout, direction):
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
def test_layers_with_other_nodes_between_them_are_refused(name):
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


def test_a_reshape_to_fixed_sizes_needs_the_shape_of_its_input(api):
    """Exports with fixed sizes have such a Reshape, and say in value_info what shapes values have."""
    shape = info("bottom_Y", FLOAT, [T, 1, B, H])
    bottom, tensors = layer("bottom", "x", N)
    top, others = layer("top", "y", H, seed=5)
    reshape = node("Reshape", ["bottom_Y", "fixed"], ["y"])
    tensors |= others
    model = model_of([bottom, reshape, top], {**tensors, "fixed": I([T, B, H])}, value_info=[shape])
    assert api.LSTM.from_onnx(model).num_layers == 2
    for wrong in ([B, T, H], [1, T * B, H]):
        model = model_of([bottom, reshape, top], {**tensors, "fixed": I(wrong)}, value_info=[shape])
        with pytest.raises(ValueError, match="'Reshape' between them changes the order of elements"):
            weights.from_onnx(model)
    shape.type.tensor_type.shape.dim[0].dim_value = 2**40  # an array of this shape must not be made
    model = model_of([bottom, reshape, top], {**tensors, "fixed": I([7, 5, H])}, value_info=[shape])
    assert api.LSTM.from_onnx(model).num_layers == 2


def test_chains_are_found_and_chosen_by_names(api):
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
    nodes[6].input[0] = "b_y"  # d takes the output of b, as c does
    with pytest.raises(ValueError, match=r"2 chains of LSTM nodes: \['a', 'b', 'c'\], \['a', 'b', 'd', 'e'\]"):
        weights.from_onnx(model_of(nodes, {**tensors, "one": I([1])}, ["c_Y", "e_Y"]))
    nodes[0].input[0] = "b_y"  # a takes the output of b, and b that of a
    for count in (4, 6):
        with pytest.raises(ValueError, match="is computed from itself|there are 0 chains of LSTM nodes"):
            weights.from_onnx(model_of(nodes[:count], {**tensors, "one": I([1])}, ["b_Y"]))


@pytest.mark.parametrize("names", [[], [1], 3, [None], ["top", 2]], ids=str)
def test_names_of_other_types_are_refused(names):
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
def test_layers_with_different_options_are_refused(how, told):
    between = [node("Squeeze", ["bottom_Y", "one"], ["a"]), node("Transpose", ["a"], ["y"], perm=[1, 0, 2])]
    between = between if "layout" in how else BETWEEN["squeeze"][1]
    with pytest.raises(ValueError, match=told):
        weights.from_onnx(stack(between, more={"one": I([1])}, **how))


def test_layers_with_different_lengths_are_refused():
    lengths = [info(name, INT32, [B]) for name in ("lens", "others")]
    for inputs in ([["lens"], []], [[], ["lens"]], [["lens"], ["others"]]):
        with pytest.raises(ValueError, match="'top' has another input sequence_lens than 'bottom'"):
            weights.from_onnx(stack_with(inputs, more=lengths))


def test_layers_whose_sizes_do_not_fit_are_refused(api):
    directions, between, more = BETWEEN["squeeze"]
    with pytest.raises(ValueError, match=r"layers\[1\].weight_ih of shape \(20, 9\) does not fit the layers before"):
        api.LSTM.from_onnx(stack(between, directions, more, n=9))


# ---- states and lengths -------------------------------------------------------------------------


def stack_with(inputs, more=None, constants=None):
    """Two layers, each with its sequence_lens, initial_h and initial_c in inputs; more: inputs of the model."""
    _, between, tensors = BETWEEN["squeeze"]
    bottom, one = layer("bottom", "x", N, more=inputs[0])
    top, other = layer("top", "y", H, seed=5, more=inputs[1])
    return model_of([bottom, *between, top], {**one, **other, **tensors, **(constants or {})}, more=more or ())


def test_constant_states_of_a_stack_are_refused_and_given_by_onnx_state(api):
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
    repeated = {name: np.repeat(array, B // array.shape[1], 1) for name, array in states.items()}
    want = run_onnx(stack_with([["", "h0"], ["", "h1", "c1"]], constants=repeated), {"x": x})
    y, h, c = onnx_call(lstm, {"X": x, "initial_h": h, "initial_c": c})
    assert distance([y, h[1:], c[1:]], want) < 5e-6


def test_constant_lengths_are_refused(api):
    """An LSTM has no lengths of its own, so that its calls would ignore them."""
    lengths = np.array([2, T, 3], np.int32)
    model = stack_with([["lens"], ["lens"]], constants={"lens": lengths})
    told = r"sequence_lens is a constant .*: pass lengths=\[2, 6, 3\] to each call.*weights=\{'lens': array\}"
    for node_ in (None, "bottom", ["bottom", "top"]):
        with pytest.raises(ValueError, match=told):
            weights.from_onnx(model, node_)
    lstm = api.LSTM.from_onnx(model, weights={"lens": lengths})
    x = draw(T, B, N)
    y, h, c = onnx_call(lstm, {"X": x, "sequence_lens": lengths})
    assert distance([y, h[1:], c[1:]], run_onnx(model, {"x": x})) < 1e-6
    of_calls = stack_with([["lens"], ["lens"]], more=[info("lens", INT32, [B])])
    same(api.LSTM.from_onnx(of_calls), lstm, N)


def test_lengths_may_be_computed_from_an_input_only(api):
    """tf2onnx computes them from the shape of an input, so that they belong to the call. Constants do not."""
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
def test_layers_of_exports_of_torch_are_one_lstm(how, free, dynamo):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if dynamo:
        pytest.importorskip("onnxscript", reason="onnxscript, which torch.onnx.export needs, is not installed")
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
    if how.get("batch_first"):  # exporters exchange the axes of x and y outside the nodes
        below, want[0] = below.swapaxes(0, 1), want[0].swapaxes(0, 1)
    assert distance(arrays(lstm(below)), want) < 1e-6
