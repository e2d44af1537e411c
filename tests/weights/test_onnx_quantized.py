"""DynamicQuantizeLSTM of ONNX Runtime: dequantized weights, and how far ONNX Runtime's own result is from them."""

import numpy as np
import pytest
from fastgate import weights
from helpers import draw
from helpers.weights import B, H, T, distance, onnx_model, same

onnx = pytest.importorskip("onnx")
N = 4


def float_model(directions, inputs, units, seed=0):
    """Weights as those of a trained model, about 1 / sqrt(units)."""
    shapes = {"W": (4 * units, inputs), "R": (4 * units, units), "B": (8 * units,)}
    scale = np.float32(units**-0.5)
    there = {name: scale * np.tanh(draw(directions, *shapes[name], seed=seed + k)) for k, name in enumerate(shapes)}
    direction = "bidirectional" if directions == 2 else "forward"
    return onnx_model(onnx, there, direction=direction, hidden_size=units, opset=17)


def run(source, x):
    runtime = pytest.importorskip("onnxruntime")
    source = source.SerializeToString() if hasattr(source, "SerializeToString") else str(source)
    session = runtime.InferenceSession(source, providers=["CPUExecutionProvider"])
    return session.run(None, {"X": x})


def without_inputs(model):
    """.. of states and lengths, so that ONNX Runtime needs none."""
    model.graph.node[0].input[4:] = ["", "", "", *model.graph.node[0].input[7:]]
    del model.graph.input[1:]
    model.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("X", 1, ["T", "B", None]))
    return model


def ours(lstm, x):
    y, (h, c) = lstm(x)
    return [y.reshape(*y.shape[:2], len(h), -1).swapaxes(1, 2), h, c]


def rms(some, others):
    return max(np.sqrt(np.mean((a - b) ** 2)) for a, b in zip(some, others, strict=True))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["QInt8", "QUInt8"])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("directions, inputs, units", [(1, 16, 32), (2, 40, 64)])
def test_what_onnxruntime_quantizes(api, tmp_path, directions, inputs, units, per_channel, kind):
    """ONNX Runtime rounds the inputs of each step, too: its distance from the float model is larger than ours."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    model = without_inputs(float_model(directions, inputs, units))
    onnx.save(model, tmp_path / "float.onnx")
    quantization.quantize_dynamic(
        tmp_path / "float.onnx", tmp_path / "int8.onnx", per_channel=per_channel,
        weight_type=getattr(quantization.QuantType, kind),
    )  # fmt: skip
    x = draw(50, B, inputs)
    exact, theirs = run(tmp_path / "float.onnx", x), run(tmp_path / "int8.onnx", x)
    lstm = api.LSTM.from_onnx(tmp_path / "int8.onnx")
    assert distance(ours(lstm, x), theirs) < 0.02 and rms(ours(lstm, x), theirs) < 0.004
    assert distance(ours(lstm, x), exact) < 0.01
    assert 0 < rms(ours(lstm, x), exact) < rms(theirs, exact)
    lstm = api.LSTM.from_onnx(tmp_path / "int8.onnx", storage="int8")
    assert distance(ours(lstm, x), theirs) < 0.02 and distance(ours(lstm, x), exact) < 0.01
    assert 0 < rms(ours(lstm, x), exact) < rms(theirs, exact)


def quantized(directions=1, dtype=np.int8, per_channel=False, zero=True, clip=0.75, **change):
    """A model of integers, and what they mean."""
    rng = np.random.default_rng(0)
    given, meant = {}, {}
    for name, rows in (("W", N), ("R", H)):
        q = rng.integers(0, 256, (directions, rows, 4 * H)).astype(np.uint8).view(dtype)
        count = (directions, 4 * H) if per_channel else (directions,)
        middle = np.full(count, 128 if dtype == np.uint8 else 0, dtype)
        scale = rng.uniform(0.001, 0.004, count).astype(np.float32)
        points = rng.integers(100, 156, count).astype(np.uint8).view(dtype) if zero else middle
        given |= {f"{name}_quantized": q, f"{name}_scale": scale, f"{name}_zero": points}
        meant[name] = np.empty((directions, 4 * H, rows), np.float32)
        for d, row, k in np.ndindex(meant[name].shape):
            at = (d, row) if per_channel else (d,)
            meant[name][d, row, k] = np.float32(int(q[d, k, row]) - int(points[at])) * scale[at]
    given["B"] = meant["B"] = draw(directions, 8 * H)
    given["P"] = meant["P"] = draw(directions, 3 * H, seed=1)
    how = {"clip": clip, "direction": "bidirectional" if directions == 2 else "reverse"}
    inputs = ["X", "W_quantized", "R_quantized", "B", "", "", "", "P", "W_scale", "W_zero", "R_scale", "R_zero"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("DynamicQuantizeLSTM", inputs, ["Y", "Y_h", "Y_c"], "lstm", domain="com.microsoft",
                               hidden_size=H, **how)],
        "graph", [onnx.helper.make_tensor_value_info("X", 1, ["T", "B", N])],
        [onnx.helper.make_tensor_value_info(name, 1, None) for name in ("Y", "Y_h", "Y_c")],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in (given | change).items()],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), onnx_model(onnx, meant, **how)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("per_channel, zero", [(False, True), (True, False)])
def test_what_the_integers_mean(api, dtype, directions, per_channel, zero):
    """By a loop over all of them; and ONNX Runtime takes them so (of channels, all with the middle as zero point)."""
    model, meant = quantized(directions, dtype, per_channel, zero)
    lstm = api.LSTM.from_onnx(model)
    same(lstm, api.LSTM.from_onnx(meant), N)
    x = draw(T, B, N)
    assert distance(ours(lstm, x), run(model, x)) < 0.03


def test_without_zero_points(api):
    model, meant = quantized(zero=False)
    for k in (9, 11):
        model.graph.node[0].input[k] = ""
    same(api.LSTM.from_onnx(model), api.LSTM.from_onnx(meant), N)


@pytest.mark.parametrize(
    "change, told",
    [
        ({"W_quantized": draw(1, N, 4 * H)}, "W is float32 of shape .*, not int8 or uint8 of 3 axes"),
        ({"R_quantized": np.zeros((H, 4 * H), np.int8)}, r"R is int8 of shape \(5, 20\), not int8 or uint8 of 3 axes"),
        ({"W_scale": draw(4 * H)}, r"a scale or zero point of W is of shape \(20,\), but W is of shape \(1, 4, 20\)"),
        ({"R_zero": np.zeros((1, H), np.int8)}, r"point of R is of shape \(1, 5\), but R is of shape \(1, 5, 20\)"),
        ({"W_quantized": np.zeros((1, 4 * H, N), np.int8)}, r"W is of shape \(1, 4, 20\), but"),
    ],
)
def test_integers_that_are_refused(change, told):
    model, _ = quantized(**change)
    with pytest.raises(ValueError, match=told):
        weights.from_onnx(model)


@pytest.mark.parametrize("k, name", [(1, "W"), (8, "W_scale"), (10, "R_scale")])
def test_inputs_that_are_left_out(k, name):
    model, _ = quantized()
    model.graph.node[0].input[k] = ""
    with pytest.raises(ValueError, match=f"the LSTM node 'lstm' has no '{name}'"):
        weights.from_onnx(model)


@pytest.mark.filterwarnings("ignore")
def test_a_quantized_stack(api, tmp_path):
    """Layers of an LSTM, as quantize_dynamic leaves them."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    nodes, tensors = [], []
    for k, n in enumerate((N, H)):
        there = {"W": (1, 4 * H, n), "R": (1, 4 * H, H), "B": (1, 8 * H)}
        tensors += [onnx.numpy_helper.from_array(draw(*s) / 4, f"{name}{k}") for name, s in there.items()]
        inputs = ["X" if k == 0 else "y", *(f"{name}{k}" for name in there)]
        nodes.append(onnx.helper.make_node("LSTM", inputs, [f"Y{k}"], f"lstm{k}", hidden_size=H))
    axes = onnx.numpy_helper.from_array(np.array([1]), "axes")
    graph = onnx.helper.make_graph(
        [nodes[0], onnx.helper.make_node("Squeeze", ["Y0", "axes"], ["y"]), nodes[1]], "graph",
        [onnx.helper.make_tensor_value_info("X", 1, ["T", "B", N])],
        [onnx.helper.make_tensor_value_info("Y1", 1, None)], [*tensors, axes],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "float.onnx")
    quantization.quantize_dynamic(tmp_path / "float.onnx", tmp_path / "int8.onnx")
    assert {each.op_type for each in onnx.load(tmp_path / "int8.onnx").graph.node} >= {"DynamicQuantizeLSTM"}
    lstm = api.LSTM.from_onnx(tmp_path / "int8.onnx")
    y, _ = lstm(x := draw(T, B, N))
    assert lstm.num_layers == 2
    assert distance([y[:, np.newaxis]], run(tmp_path / "int8.onnx", x)) < 0.02
