"""from_onnx computes the constants of an ONNX model as ONNX Runtime does, and refuses what would take too much."""

import functools
import tracemalloc

import numpy as np
import pytest
from fastgate import weights
from fastgate.weights import constants
from helpers import draw, same_bits
from helpers.weights import H, computed

onnx = pytest.importorskip("onnx", reason="onnx is not installed")


def chain(operator, length, start="start"):
    """Nodes that compute each value from the one or two before it, as many as the operator takes; the last is P."""
    names = [start, start, *(f"value{k}" for k in range(length - 1)), "P"]
    inputs = 1 if operator == "Identity" else 2
    return [onnx.helper.make_node(operator, names[k + 2 - inputs : k + 2], [names[k + 2]]) for k in range(length)]


@pytest.mark.parametrize("operator, length", [("Sub", 90), ("Identity", 2000)])
def test_long_chains_are_computed(operator, length):
    """90 values of two others each need every value to be computed once, and 2000 values need no recursion."""
    start = draw(1, 3 * H)
    [layer], _ = weights.from_onnx(computed(onnx, chain(operator, length), {"start": start}))
    values = [start, start]
    for _ in range(length):
        values.append(values[-2] - values[-1] if operator == "Sub" else values[-1])
    np.testing.assert_array_equal(layer["peephole"], values[-1].reshape(3, H)[[0, 2, 1]])


def test_cycles_are_refused():
    for nodes in (chain("Add", 3, start="P"), [onnx.helper.make_node("Add", ["P", "P"], ["P"])]):
        with pytest.raises(ValueError, match="is computed from itself"):
            weights.from_onnx(computed(onnx, nodes))


def test_other_operators_are_refused_if_their_values_are_not_given():
    helper = onnx.helper
    boolean = helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, [])
    out = helper.make_tensor_value_info("value", onnx.TensorProto.FLOAT, None)
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["carried", "carried"], ["value"])],
        "body",
        [helper.make_tensor_value_info("k", onnx.TensorProto.INT64, []), boolean, out],
        [helper.make_tensor_value_info("on", onnx.TensorProto.BOOL, []), out],
    )
    branch = helper.make_graph([helper.make_node("Identity", ["start"], ["value"])], "branch", [], [out])
    start = {"start": draw(1, 3 * H), "trips": np.int64(2**60), "go": np.bool_(True)}
    nodes = {
        "Loop": helper.make_node("Loop", ["trips", "go", "start"], ["P"], body=body),
        "If": helper.make_node("If", ["go"], ["P"], then_branch=branch, else_branch=branch),
        "RandomNormal": helper.make_node("RandomNormal", [], ["P"], shape=[1, 3 * H]),
        "Tile": helper.make_node("Tile", ["start", "trips"], ["P"]),
        "Own": helper.make_node("Own", ["start"], ["P"], domain="own"),
    }
    for name, node in nodes.items():
        told = rf"'P' is computed by {name}, which from_onnx does not evaluate: give 'P' as weights=\{{'P': array\}}"
        with pytest.raises(ValueError, match=told):
            weights.from_onnx(computed(onnx, [node], start))
        weights.from_onnx(computed(onnx, [node], start), weights={"P": start["start"]})
    with pytest.raises(ValueError, match="'P' is computed by Identity"):
        weights.from_onnx(computed(onnx, [helper.make_node("Identity", ["start"], ["P"], domain="own")], start))


I = functools.partial(np.array, dtype=np.int64)  # noqa: E741
X = np.arange(1, 25, dtype=np.float32).reshape(1, 6, 4) / 3
Q = np.arange(-12, 12, dtype=np.int8).reshape(6, 4)
F = np.float32
BLOCKS = [Q, draw(6, 2) ** 2, draw(6, 2).astype(np.int8)]
OPERATORS = [  # name, opsets, inputs, attributes
    ("Identity", [1, 13, 21], [X], {}),
    ("Cast", [6, 9, 13, 19, 21], [X], {"to": 10}),
    ("Cast", [6, 9, 13, 19, 21], [X], {"to": 7}),
    ("Transpose", [1, 13, 21], [X], {}),
    ("Transpose", [1, 13, 21], [X], {"perm": [2, 0, 1]}),
    ("Reshape", [5, 13, 14, 19, 21], [X, I([0, -1, 2])], {}),
    ("Reshape", [14, 19, 21], [X[:, :0], I([0, 3])], {"allowzero": 1}),
    ("Squeeze", [1, 11], [X], {"axes": [0]}),
    ("Squeeze", [13, 21], [X, I([-3])], {}),
    ("Squeeze", [13, 21], [X], {}),
    ("Unsqueeze", [1, 11], [X], {"axes": [0, 2]}),
    ("Unsqueeze", [13, 21], [X, I([-1, 0])], {}),
    ("Concat", [4, 11, 13], [X, 2 * X], {"axis": 1}),
    ("Concat", [11, 13], [X, 2 * X, X], {"axis": -1}),
    ("Slice", [1], [X], {"starts": [1, -3], "ends": [5, 2**31 - 1], "axes": [1, 2]}),
    ("Slice", [10, 11, 13], [X, I([1, -3]), I([5, 2**62]), I([1, 2])], {}),
    ("Slice", [10, 11, 13], [X, I([-1]), I([-(2**62)]), I([1]), I([-2])], {}),
    ("Split", [2, 11], [X], {"axis": 1, "split": [2, 4]}),
    ("Split", [2, 11], [X], {"axis": 1}),
    ("Split", [13, 18], [X, I([1, 3])], {"axis": -1}),
    ("Split", [18], [X[:, :5]], {"axis": 1, "num_outputs": 2}),
    ("Gather", [1, 11, 13], [X, I([[2, 0], [1, 1]])], {"axis": 1}),
    ("Gather", [11, 13], [X, I(-1)], {"axis": 2}),
    *((op, [7, 13, 14], [X, X[0, :, :1]], {}) for op in ("Add", "Sub", "Mul", "Div")),
    ("Equal", [7, 11, 13, 19], [I([[1], [2]]), I([1, 2, 3])], {}),
    ("Where", [9, 16], [np.array([True, False, True, False]), X, X[:, :1] * 2], {}),
    ("Div", [7, 13, 14], [I([7, -7, 6]), I([2, 2, -4])], {}),
    ("DequantizeLinear", [10, 13, 19, 21, 23], [Q, F(0.5), np.int8(3)], {}),
    ("DequantizeLinear", [10, 13, 19, 21, 23], [Q.astype(np.uint8), F(0.5), np.uint8(3)], {}),
    ("DequantizeLinear", [10, 13, 19, 21, 23], [Q.astype(np.int32) * 1000, F(0.5)], {}),
    ("DequantizeLinear", [13, 19, 21, 23], [Q, draw(4), np.arange(4, dtype=np.int8)], {}),
    ("DequantizeLinear", [13, 19, 21, 23], [Q, draw(6), np.arange(6, dtype=np.int8)], {"axis": -2}),
    ("DequantizeLinear", [19, 21, 23], [Q, np.float16(0.1)], {}),
    ("DequantizeLinear", [21, 23], [Q.astype(np.int16), F(0.1), np.int16(1000)], {}),
    ("DequantizeLinear", [21, 23], BLOCKS, {"axis": 1, "block_size": 2}),
    ("ConstantOfShape", [9, 20, 21], [I([2, 3])], {}),
    ("ConstantOfShape", [9, 20, 21], [I([2, 3])], {"value": F([2.5])}),
    ("Shape", [1, 13, 19, 21], [X], {}),
    ("Shape", [15, 19, 21], [X], {"start": -2, "end": 3}),
    ("Expand", [8, 13], [X, I([2, 1, 4])], {}),
    ("Pad", [2], [X], {"pads": [0, 1, 0, 0, 2, 3], "value": 1.5}),
    ("Pad", [11, 13, 18, 19, 21], [X, I([0, 1, 0, 0, 2, 3]), F(1.5)], {}),
    ("Pad", [18, 19, 21], [X, I([1, 2]), F(0), I([2])], {"mode": "reflect"}),
    ("Pad", [11, 13, 18, 19], [X, I([0, 0, 2, 0, 0, 0])], {"mode": "edge"}),
]


@pytest.mark.parametrize("operator, opset, inputs, attributes", [
    pytest.param(name, opset, *how, id=f"{name}-{opset}-{number}")
    for number, (name, opsets, *how) in enumerate(OPERATORS) for opset in opsets
])  # fmt: skip
def test_every_operator_computes_what_onnxruntime_does(operator, opset, inputs, attributes):
    """The opsets are those that changed the form of the operator."""
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    got, model = operate(operator, opset, inputs, attributes)
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except runtime.capi.onnxruntime_pybind11_state.NotImplemented as error:
        pytest.skip(f"this version of ONNX Runtime does not have this operator: {error}")
    [want] = session.run(None, {f"x{k}": np.asarray(array) for k, array in enumerate(inputs)})
    same_bits(got, want)


def operate(operator, opset, inputs, attributes):
    """The value that from_onnx computes for the last output of a node, and a model of this node alone."""
    helper = onnx.helper
    attributes = {
        key: onnx.numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        for key, value in attributes.items()
    }
    names = [f"x{k}" for k in range(len(inputs))]
    outputs = ["other", "result"] if operator == "Split" else ["result"]
    node = helper.make_node(operator, names, outputs, **attributes)
    kinds = [helper.np_dtype_to_tensor_dtype(np.asarray(each).dtype) for each in inputs]
    infos = [helper.make_tensor_value_info(n, k, np.shape(x)) for n, k, x in zip(names, kinds, inputs)]
    opsets = [helper.make_opsetid("", opset)]
    tensors = [onnx.numpy_helper.from_array(np.asarray(x), name) for name, x in zip(names, inputs)]
    source = helper.make_model(helper.make_graph([node], "g", [], [], tensors), opset_imports=opsets)
    graph = constants.Graph(source.graph, None, "", opset)
    value = constants.Constants(onnx, {}).value(graph, "result")
    result = helper.make_tensor_value_info("result", helper.np_dtype_to_tensor_dtype(value.dtype), None)
    alone = helper.make_graph([node], "g", infos, [result])
    return value, helper.make_model(alone, opset_imports=opsets, ir_version=8 if opset < 21 else 10)


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("axis", [0, 1, 2, None])
def test_arithmetic_before_opset_7_computes_what_numpy_does(operator, axis):
    """axis is the first axis of a that belongs to b. ONNX Runtime does not support these opsets."""
    a, b = draw(5, 5, 5), draw(5, seed=1)
    how = {"broadcast": 1} if axis is None else {"broadcast": 1, "axis": axis}
    got, _ = operate(operator, 6, [a, b], how)
    turned = b.reshape(np.roll([5, 1, 1], 2 if axis is None else axis))
    same_bits(got, {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}[operator](a, turned))


@pytest.mark.parametrize(
    "attribute", [{"value_float": 2.0}, {"value_floats": [1.0, 2.0]}, {"value_int": 3}, {"value_ints": [1, 2]}], ids=str
)
def test_a_constant_has_the_value_of_its_attribute(attribute):
    value, _ = operate("Constant", 13, [], attribute)
    [want] = attribute.values()
    np.testing.assert_array_equal(value, want)
    assert value.dtype == (np.float32 if "float" in str(attribute) else np.int64)


BIG = I([2**20, 2**20])
ABSURD = {
    "ConstantOfShape": ([BIG], {}),
    "Expand": ([F(1), BIG], {}),
    "Pad": ([X, I([0, 0, 0, 0, 2**40, 0])], {}),
    "Add": ([draw(2**15, 1), draw(2**15)], {}),
    "Where": ([np.ones((2**13, 1, 1), bool), draw(2**13, 1), draw(2**13)], {}),
    "Gather": ([draw(1, 2**15), np.zeros(2**15, np.int64)], {}),
    "DequantizeLinear": (BLOCKS, {"axis": 1, "block_size": 2**40}),
    "Split": ([X], {"num_outputs": 2**40}),
    "Reshape": ([X, BIG], {}),
    "Slice": ([X, I([0, 0, 0, 0]), I([1, 1, 1, 1])], {}),
    "Squeeze": ([X, I([7])], {}),
    "Unsqueeze": ([X, I(range(99))], {}),
    "Transpose": ([X], {"perm": [0, 0, 1]}),
    "Cast": ([X], {"to": 99}),
    "Shape": ([], {}),
    "Mul": ([X], {}),
    "Sub": ([X, draw(7)], {}),
    "Constant": ([], {}),
}


@pytest.mark.parametrize("operator", ABSURD)
def test_absurd_results_are_refused_and_take_no_memory(operator):
    """A small file can ask for terabytes, or for a result that does not exist."""
    inputs, attributes = ABSURD[operator]
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"{operator} cannot compute '(result|other)': "):
            operate(operator, 21, inputs, attributes)
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()


def test_a_concat_of_concats_is_refused():
    """2000 inputs that have 2000 inputs each are 16 GB, made of 4 KB."""
    nodes = [onnx.helper.make_node("Concat", [a] * 2000, [b], axis=0) for a, b in (("x", "y"), ("y", "P"))]
    with pytest.raises(ValueError, match="Concat cannot compute 'P': it takes .* bytes"):
        weights.from_onnx(computed(onnx, nodes, {"x": draw(2**10)}))


def test_many_values_that_take_too_much_together_are_refused():
    """Each value takes 4 MiB, which would be allowed by itself."""
    names = ["start", *(f"v{k}" for k in range(400)), "P"]
    nodes = [onnx.helper.make_node("Add", [a, "start"], [b]) for a, b in zip(names, names[1:])]
    shape = onnx.helper.make_node("ConstantOfShape", ["shape"], ["start"])
    with pytest.raises(ValueError, match="Add cannot compute 'v.*far more than the model has"):
        weights.from_onnx(computed(onnx, [shape, *nodes], {"shape": I([2**20])}))
