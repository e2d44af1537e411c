"""A DynamicQuantizeLSTM of ONNX Runtime becomes an LSTM of its dequantized weights. The truth is ONNX Runtime."""

import numpy as np
import pytest
from fastgate import weights
from helpers import draw
from helpers.weights import B, H, N, T, distance, onnx_call, onnx_graph, onnx_model, run_onnx, same

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
node = onnx.helper.make_node
X = onnx.helper.make_tensor_value_info("X", onnx.TensorProto.FLOAT, ["T", "B", None])


def float_model(directions, inputs, units, seed=0):
    """A model whose weights have the size that training gives, about 1 / sqrt(units)."""
    shapes = {"W": (4 * units, inputs), "R": (4 * units, units), "B": (8 * units,)}
    scale = np.float32(units**-0.5)
    there = {name: scale * np.tanh(draw(directions, *shapes[name], seed=seed + k)) for k, name in enumerate(shapes)}
    direction = "bidirectional" if directions == 2 else "forward"
    return onnx_model(onnx, there, direction=direction, hidden_size=units, opset=17)


def without_inputs(model):
    """The model without inputs for states and lengths, which ONNX Runtime would demand."""
    model.graph.node[0].input[4:] = ["", "", "", *model.graph.node[0].input[7:]]
    del model.graph.input[1:]
    model.graph.input[0].CopyFrom(X)
    return model


def rms(some, others):
    return max(np.sqrt(np.mean((a - b) ** 2)) for a, b in zip(some, others, strict=True))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["QInt8", "QUInt8"])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("directions, inputs, units", [(1, 16, 32), (2, 40, 64)])
def test_quantized_models_are_closer_to_the_float_model_than_in_onnxruntime(
    api, tmp_path, directions, inputs, units, per_channel, kind
):
    """We use the same weights, but ONNX Runtime also rounds the inputs of each step."""
    quantization = pytest.importorskip("onnxruntime.quantization", reason="onnxruntime is not installed")
    model = without_inputs(float_model(directions, inputs, units))
    onnx.save(model, tmp_path / "float.onnx")
    quantization.quantize_dynamic(
        tmp_path / "float.onnx", tmp_path / "int8.onnx", per_channel=per_channel,
        weight_type=getattr(quantization.QuantType, kind),
    )  # fmt: skip
    x = draw(50, B, inputs)
    exact, theirs = (run_onnx(tmp_path / name, {"X": x}) for name in ("float.onnx", "int8.onnx"))
    for storage in ("float32", "int8"):
        ours = onnx_call(api.LSTM.from_onnx(tmp_path / "int8.onnx", storage=storage), {"X": x})
        assert distance(ours, theirs) < 0.02 and distance(ours, exact) < 0.01
        assert storage == "int8" or rms(ours, theirs) < 0.004
        assert 0 < rms(ours, exact) < rms(theirs, exact)


def quantized(directions=1, dtype=np.int8, per_channel=False, zero=True, clip=0.75, **change):
    """A model of random integers, and the float model that it means."""
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
    outputs, domains = ["Y", "Y_h", "Y_c"], [("", 17), ("com.microsoft", 1)]
    lstm = node("DynamicQuantizeLSTM", inputs, outputs, "lstm", domain="com.microsoft", hidden_size=H, **how)
    return onnx_graph(onnx, [lstm], given | change, [X], outputs, domains), onnx_model(onnx, meant, **how)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("per_channel, zero", [(False, True), (True, False)])
def test_integers_become_the_floats_that_they_mean(api, dtype, directions, per_channel, zero):
    """ONNX Runtime agrees. It needs the middle of the integers as zero point if there is one for each channel."""
    model, meant = quantized(directions, dtype, per_channel, zero)
    lstm = api.LSTM.from_onnx(model)
    same(lstm, api.LSTM.from_onnx(meant), N)
    x = draw(T, B, N)
    assert distance(onnx_call(lstm, {"X": x}), run_onnx(model, {"X": x})) < 0.03


def test_zero_points_may_be_left_out(api):
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
def test_integers_and_scales_of_other_shapes_are_refused(change, told):
    model, _ = quantized(**change)
    with pytest.raises(ValueError, match=told):
        weights.from_onnx(model)


@pytest.mark.parametrize("k, name", [(1, "W"), (8, "W_scale"), (10, "R_scale")])
def test_weights_and_scales_cannot_be_left_out(k, name):
    model, _ = quantized()
    model.graph.node[0].input[k] = ""
    with pytest.raises(ValueError, match=f"the LSTM node 'lstm' has no '{name}'"):
        weights.from_onnx(model)


@pytest.mark.filterwarnings("ignore")
def test_layers_that_quantize_dynamic_quantized_are_one_lstm(api, tmp_path):
    quantization = pytest.importorskip("onnxruntime.quantization", reason="onnxruntime is not installed")
    nodes, tensors = [], {"axes": np.array([1])}
    for k, n in enumerate((N, H)):
        there = {f"W{k}": (1, 4 * H, n), f"R{k}": (1, 4 * H, H), f"B{k}": (1, 8 * H)}
        tensors |= {name: draw(*shape) / 4 for name, shape in there.items()}
        nodes.append(node("LSTM", ["y" if k else "X", *there], [f"Y{k}"], f"lstm{k}", hidden_size=H))
    nodes.insert(1, node("Squeeze", ["Y0", "axes"], ["y"]))
    model = onnx_graph(onnx, nodes, tensors, [X], ["Y1"], [("", 17)])
    onnx.save(model, tmp_path / "float.onnx")
    quantization.quantize_dynamic(tmp_path / "float.onnx", tmp_path / "int8.onnx")
    assert {each.op_type for each in onnx.load(tmp_path / "int8.onnx").graph.node} >= {"DynamicQuantizeLSTM"}
    lstm = api.LSTM.from_onnx(tmp_path / "int8.onnx")
    x = draw(T, B, N)
    assert lstm.num_layers == 2
    assert distance(onnx_call(lstm, {"X": x})[:1], run_onnx(tmp_path / "int8.onnx", {"X": x})) < 0.02
