"""LSTMs from torch, Keras and ONNX compute what they did where they come from."""

import io
import sys
import zipfile

import fastgate
import numpy as np
import pytest
from conftest import draw, run_python, same_bits
from fastgate import weights

T, B, N, H = 6, 3, 4, 5  # steps, batch, inputs, units


def arrays(result):
    """y, h_n and c_n of a call."""
    y, (h, c) = result
    return [np.asarray(y), np.asarray(h), np.asarray(c)]


def distance(some, others):
    pairs = list(zip(some, others, strict=True))
    assert all(a.shape == b.shape and a.size for a, b in pairs)
    return max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max() for a, b in pairs)


def within(ours, theirs, precise):
    """Assert that ours differ from theirs by at most 4 times their own distance from a float64 run."""
    assert distance(ours, theirs) <= 4 * distance(theirs, precise)


def same(lstm, other, n=3):
    """Assert that two LSTMs compute the same, bit by bit."""
    x = draw(6, 2, n)
    assert lstm.batch_first == other.batch_first
    for got, want in zip(arrays(lstm(x)), arrays(other(x)), strict=True):
        same_bits(got, want)


# ---- no package is needed ---------------------------------------------------------------------


def test_nothing_is_imported():
    run = run_python("""
        import sys, fastgate
        assert "fastgate.weights" not in sys.modules
        import fastgate.weights
        print(*sys.modules)
    """)
    assert run.returncode == 0, run.stderr
    assert not {"torch", "keras", "tensorflow", "h5py", "onnx", "ml_dtypes"} & set(run.stdout.split())


def test_onnx_is_asked_for():
    code = """
        import sys, fastgate.weights
        sys.modules["onnx"] = None
        fastgate.weights.from_onnx("model.onnx")
    """
    assert "pip install onnx" in run_python(code).stderr


SIZES = dict(weight_ih=(20, 3), weight_hh=(20, 5), bias_ih=(20,), bias_hh=(20,))


def torch_layer(kinds=tuple(SIZES), n=3, proj=0, seed=0):
    """A layer's parameters as LSTM takes them, n inputs, 5 units."""
    sizes = {**SIZES, "weight_ih": (20, n), "weight_hh": (20, proj or 5)}
    layer = {kind: draw(*sizes[kind], seed=seed + i) for i, kind in enumerate(kinds)}
    return layer | ({"projection": draw(proj, 5, seed=seed)} if proj else {})


def torch_state(layers, prefix=""):
    """The same under torch's names."""
    return {
        f"{prefix}{'weight_hr' if kind == 'projection' else kind}_l{k}{suffix}": array
        for k, layer in enumerate(layers)
        for suffix, direction in zip(("", "_reverse"), layer if isinstance(layer, tuple) else (layer,))
        for kind, array in direction.items()
    }


@pytest.mark.parametrize("prefix", ["", "encoder.lstm."])
@pytest.mark.parametrize("kinds", [tuple(SIZES), tuple(SIZES)[:2]], ids=["bias", "no-bias"])
@pytest.mark.parametrize("proj", [0, 2])
@pytest.mark.parametrize("both", [False, True])
def test_a_state_dict_of_arrays(api, prefix, kinds, proj, both):
    sizes = [3] + 2 * [(1 + both) * (proj or 5)]
    layers = [torch_layer(kinds, n, proj, seed=10 * k) for k, n in enumerate(sizes)]
    if both:
        backward = [torch_layer(kinds, n, proj, seed=50 + 10 * k) for k, n in enumerate(sizes)]
        layers = list(zip(layers, backward))
    state = torch_state(layers, prefix) | ({"head.weight": draw(2, 2)} if prefix else {})
    same(api.LSTM.from_torch(state, prefix=prefix), api.LSTM(layers))


def test_names_of_a_cell(api):
    layer = torch_layer()
    x, h, c = draw(2, 3), draw(2, 5), draw(2, 5, seed=1)
    got = api.LSTMCell.from_torch({f"cell.{kind}": layer[kind] for kind in layer}, prefix="cell.")
    for a, b in zip(got(x, h, c), api.LSTMCell(**layer)(x, h, c), strict=True):
        same_bits(a, b)
    same(api.LSTM.from_torch(layer), api.LSTM([layer]))


STATE = torch_state([torch_layer(), torch_layer(n=5)])


@pytest.mark.parametrize(
    "change, prefix, told",
    [
        (lambda s: {f"rnn.{k}": s[k] for k in s} | {f"b.c.{k}": s[k] for k in s}, "", "'b.c.', 'rnn.'"),
        (lambda s: {f"cell.{k}": v for k, v in torch_layer().items()}, "", "prefix may be 'cell.'"),
        (lambda s: {"fc.weight": s["bias_ih_l0"]}, "rnn.", "'rnn.weight_ih_l0': there are 'fc.weight'"),
        (lambda s: {}, "", "'weight_ih_l0'"),
        (lambda s: {k: s[k] for k in s if k != "weight_hh_l1"}, "", "no 'weight_hh_l1' beside"),
        (lambda s: {k: s[k] for k in s if k != "bias_ih_l0"}, "", "no 'bias_ih_l0' beside"),
        (lambda s: {k: s[k] for k in s if "_l0" not in k}, "", "no 'bias_hh_l0', .*'weight_ih_l0' beside"),
        (lambda s: s | {"weight_ih_l0_reverse": s["weight_ih_l0"]}, "", "no 'bias_hh_l0_reverse'"),
        (lambda s: s | {"weight_hr_l0": draw(2, 5)}, "", "no 'weight_hr_l1'"),
        (lambda s: s | {"weight_hh_l0_g": draw(20)}, "", "'weight_hh_l0_g' is not of an LSTM"),
        (lambda s: s | {"weight_ih": draw(20)}, "", "'weight_ih' is not of an LSTM"),
    ],
)
def test_keys_that_are_wrong(change, prefix, told):
    with pytest.raises(ValueError, match=told):
        weights.from_torch(change(STATE), prefix=prefix)


@pytest.mark.parametrize("load", [weights.from_torch, weights.from_keras])
def test_something_else(load):
    with pytest.raises(TypeError, match=r"takes an? .*, not builtins\.int"):
        load(3)


def keras_lists(n=3, seed=0):
    """kernel, recurrent_kernel and bias of 5 units."""
    return [draw(n, 20, seed=seed), draw(5, 20, seed=seed + 1), draw(20, seed=seed + 2)]


def test_a_state_dict_does_not_tell_batch_first(api):
    source = {"weight_ih_l0": draw(8, 3), "weight_hh_l0": draw(8, 2)}
    assert not api.LSTM.from_torch(source).batch_first
    lstm = api.LSTM.from_torch(source, batch_first=True)
    x = draw(4, 6, 3)
    y, (h, c) = lstm(x)
    want, state = api.LSTM.from_torch(source)(x.swapaxes(0, 1))
    same_arrays = zip((y.swapaxes(0, 1), h, c), (want, *state), strict=True)
    assert all(np.array_equal(a, b) for a, b in same_arrays)


def keras_equations(x, kernel, recurrent_kernel, bias=0):
    """Keras's documentation in float64: x (T, n) -> y (T, H), h and c at the end."""
    h = c = np.zeros(len(recurrent_kernel))
    y = []
    for row in x.astype(np.float64):
        i, f, g, o = np.split(row @ kernel.astype(np.float64) + h @ recurrent_kernel + bias, 4)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
        y.append(h)
    return [np.array(y), h, c]


FORWARD, BACKWARD = keras_lists(), keras_lists(seed=5)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("form", ["one", "after each other", "pair"])
def test_keras_lists(api, size, form):
    one, other = FORWARD[:size], BACKWARD[:size]
    source = {"one": one, "after each other": one + other, "pair": (one, other)}[form]
    lstm = api.LSTM.from_keras(source)
    x = draw(6, 3)
    y, h, c = keras_equations(x, *one)
    want = [y, h[np.newaxis], c[np.newaxis]]
    if form != "one":
        y_back, h_back, c_back = keras_equations(x[::-1], *other)
        want = [np.hstack([y, y_back[::-1]]), np.stack([h, h_back]), np.stack([c, c_back])]
    assert lstm.batch_first and lstm.bidirectional == (form != "one")
    assert distance(arrays(lstm(x)), want) < 1e-6


class LSTMCell:
    """A layer with what is read of Keras's; Keras itself is asked below, where it is installed."""

    name = "layer"

    def __init__(self, weights, go_backwards=False, time_major=False, cell=None, **config):
        self.cell = cell or self
        self.go_backwards, self.time_major = go_backwards, time_major
        self.config = {"activation": "tanh", "recurrent_activation": "sigmoid", **config}
        self.get_weights = lambda: weights

    def get_config(self):
        return self.config


def test_a_layer(api):
    x = draw(6, 1, 3)
    y, (h, c) = api.LSTM.from_keras(LSTMCell(FORWARD, go_backwards=True, time_major=True))(x)
    want = keras_equations(x[::-1, 0], *FORWARD)
    assert distance([y[::-1, 0], h[0, 0], c[0, 0]], want) < 1e-6
    layer = LSTMCell(FORWARD)
    layer.forward_layer, layer.merge_mode = layer, "concat"
    layer.backward_layer = LSTMCell(BACKWARD, go_backwards=True)
    same(api.LSTM.from_keras(layer), api.LSTM.from_keras([FORWARD, BACKWARD]))
    with pytest.raises(ValueError, match="merge_mode 'ave' is not supported"):
        layer.merge_mode = "ave"
        weights.from_keras(layer)


@pytest.mark.parametrize(
    "how, error, told",
    [
        ({"activation": "relu"}, ValueError, "activation 'relu' is not supported, only 'tanh'"),
        ({"recurrent_activation": "hard_sigmoid"}, ValueError, "'hard_sigmoid' is not supported"),
        ({"weights": []}, ValueError, "'layer' has no weights yet"),
        ({"cell": object()}, TypeError, "LSTMCell is not an LSTM: its cell is builtins.object"),
    ],
)
def test_layers_that_are_refused(how, error, told):
    with pytest.raises(error, match=told):
        weights.from_keras(LSTMCell(**{"weights": FORWARD, **how}))


def nested(paths):
    """What h5py makes of paths: groups in groups."""
    root = {}
    for path, value in paths.items():
        *groups, name = path.split("/")
        place = root
        for group in groups:
            place = place.setdefault(group, {})
        place[name] = value
    return root


KERAS_2 = ("kernel:0", "recurrent_kernel:0", "bias:0")
LEGACY = ("kernel", "recurrent_kernel", "bias")  # an .h5 file that Keras 3 writes
KERAS_3 = ("0", "1", "2")


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(
    "names, prefix, paths",
    [
        (KERAS_2, "", ["lstm/lstm_cell"]),
        (KERAS_2, "lstm_1/", ["lstm_1/lstm_1/lstm_cell_3"]),
        (KERAS_2, "", ["bidirectional/forward_lstm/lstm_cell_1", "bidirectional/backward_lstm/lstm_cell_2"]),
        (LEGACY, "model_weights/", ["model_weights/lstm/sequential/lstm/lstm_cell"]),
        (KERAS_3, "", ["layers/lstm/cell/vars"]),
        (KERAS_3, "", ["cell/vars"]),
        (KERAS_3, "layers/b", ["layers/b/forward_layer/cell/vars", "layers/b/backward_layer/cell/vars"]),
        (KERAS_3, "backward_lstm/", ["backward_lstm/cell/vars"]),
    ],
)
@pytest.mark.parametrize("size", [2, 3])
def test_keras_files(api, names, prefix, paths, flat, size):
    lists = [FORWARD[:size], BACKWARD[:size]][: len(paths)]
    file = {f"{path}/{name}": w for path, ws in zip(paths, lists) for name, w in zip(names, ws)}
    file |= {"layers/dense/vars/0": draw(5, 4), "layers/dense/vars/1": draw(4)}
    file |= {f"layers/gru/cell/vars/{i}": draw(5, 15) for i in range(2)}
    file |= {f"optimizer_weights/adam/m/lstm/{name}": w for name, w in zip(names, FORWARD)}
    if prefix:
        file |= {f"another/lstm/{name}": w for name, w in zip(names, BACKWARD)}
    got = api.LSTM.from_keras(file if flat else nested(file), prefix=prefix)
    same(got, api.LSTM.from_keras(lists))


@pytest.mark.parametrize(
    "source, told",
    [
        (FORWARD[:1], "not 1 arrays"),
        ([], "not 0 arrays"),
        (FORWARD * 4, "not 12 arrays"),  # Keras 1
        ({"gru": nested({"kernel:0": draw(3, 15), "recurrent_kernel:0": draw(5, 15)})}, "there are 'gru/k"),
        ({f"{a}/{i}": w for a in "ab" for i, w in enumerate(FORWARD)}, "choose by prefix, of 'a/', 'b/'"),
        ({f"forward_{a}/{i}": w for a in "ab" for i, w in enumerate(FORWARD)}, "of 'forward_a/', 'forward_b/'"),
    ],
)
def test_keras_weights_that_are_wrong(source, told):
    with pytest.raises(ValueError, match=told):
        weights.from_keras(source)


# ---- torch ------------------------------------------------------------------------------------


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return torch


def call_torch(torch, module, x, state, lengths):
    """Arrays of y, h_n and c_n, in the module's dtype."""
    dtype = next(module.parameters()).dtype
    x, *state = (torch.from_numpy(array).to(dtype) for array in (x, *state))
    rnn = torch.nn.utils.rnn
    with torch.no_grad():
        if lengths is None:
            return arrays(module(x, tuple(state)))
        first = module.batch_first
        x = rnn.pack_padded_sequence(x, lengths, batch_first=first, enforce_sorted=False)
        y, state = module(x, tuple(state))
        return arrays((rnn.pad_packed_sequence(y, batch_first=first, total_length=T)[0], state))


@pytest.mark.parametrize("batch", [None, 3, "lengths"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("proj", [0, 6])
@pytest.mark.parametrize("both", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_torch_lstm(api, torch, layers, both, proj, bias, batch):
    first = bias  # half of the cases
    module = torch.nn.LSTM(
        7, 10, layers, bidirectional=both, proj_size=proj, bias=bias, batch_first=first
    )
    rows = () if batch is None else (3,)
    x = draw(*rows, T, 7) if first else draw(T, *rows, 7)
    state = [draw(layers * (1 + both), *rows, size) for size in (proj or 10, 10)]
    lengths = [4, T, 1] if batch == "lengths" else None

    lstm = api.LSTM.from_torch(module)
    theirs = call_torch(torch, module, x, state, lengths)
    precise = call_torch(torch, module.double(), x, state, lengths)
    within(arrays(lstm(x, state, lengths=lengths)), theirs, precise)

    if batch is None:
        lstm = api.LSTM.from_torch(module, storage="float64")
        ours = arrays(lstm(x.astype(float), [array.astype(float) for array in state]))
        assert distance(ours, precise) < 1e-14


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("rows", [(), (3,)])
def test_torch_cell(api, torch, bias, rows):
    module = torch.nn.LSTMCell(7, 10, bias=bias)
    x, h, c = draw(*rows, 7), draw(*rows, 10), draw(*rows, 10, seed=1)
    tensors = [torch.from_numpy(array) for array in (x, h, c)]
    cell, lstm = api.LSTMCell.from_torch(module), api.LSTM.from_torch(module)
    with torch.no_grad():
        theirs = module(tensors[0], tensors[1:])
        precise = module.double()(tensors[0].double(), [t.double() for t in tensors[1:]])
    ours = cell(x, h, c)
    within(ours, theirs, precise)
    y, (h_n, c_n) = lstm(x[np.newaxis], (h[np.newaxis], c[np.newaxis]))
    for got, want in zip((y, h_n, c_n), (ours[0], *ours), strict=True):
        same_bits(got[0], want)


def test_torch_state_dict_and_subclass(api, torch):
    class Encoder(torch.nn.LSTM):
        pass

    model = torch.nn.ModuleDict({"encoder": Encoder(3, 5, 2, dropout=0.5), "head": torch.nn.Linear(5, 1)})
    want = api.LSTM.from_torch(model["encoder"])
    same(api.LSTM.from_torch(model.state_dict(), prefix="encoder."), want)
    same(api.LSTM.from_torch(dict(model["encoder"].named_parameters())), want)


@pytest.mark.parametrize("framework", ["torch", "numpy"])
def test_safetensors(api, torch, framework):
    save = pytest.importorskip("safetensors.torch").save
    load = pytest.importorskip(f"safetensors.{framework}").load
    module = torch.nn.LSTM(3, 5)
    state = load(save({f"rnn.{k}": v for k, v in module.state_dict().items()}))
    same(api.LSTM.from_torch(state, prefix="rnn."), api.LSTM.from_torch(module))


@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
def test_torch_halves(api, torch, storage, monkeypatch):
    pytest.importorskip("ml_dtypes")
    module = torch.nn.LSTM(3, 5).to(getattr(torch, storage))
    layers, _ = weights.from_torch(module)
    assert {array.dtype.name for array in layers[0].values()} == {storage}
    half, single = (api.LSTM.from_torch(m, storage=storage) for m in (module, module.float()))
    same(half, single)

    if storage == "bfloat16":
        monkeypatch.setitem(sys.modules, "ml_dtypes", None)
        layers, _ = weights.from_torch(module.bfloat16())
        assert {array.dtype.name for array in layers[0].values()} == {"float32"}
        same(api.LSTM(layers, storage=storage), half)


@pytest.mark.parametrize("name", ["GRU", "RNN", "GRUCell", "Linear"])
def test_torch_modules_that_are_none(torch, name):
    with pytest.raises(TypeError, match=rf"torch\.nn\.modules\.\w+\.{name} is neither"):
        weights.from_torch(getattr(torch.nn, name)(3, 5))


# ---- Keras ------------------------------------------------------------------------------------


@pytest.fixture(params=["keras", "tf_keras"])
def keras(request, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    return pytest.importorskip(request.param)


KERAS_LAYERS = {
    "lstm": lambda layers, **how: layers.LSTM(10, **how),
    "dropout": lambda layers, **how: layers.LSTM(10, dropout=0.5, stateful=False, unroll=True, **how),
    "no bias": lambda layers, **how: layers.LSTM(10, use_bias=False, **how),
    "backwards": lambda layers, **how: layers.LSTM(10, go_backwards=True, **how),
    "rnn": lambda layers, dtype, **how: layers.RNN(layers.LSTMCell(10, dtype=dtype), dtype=dtype, **how),
    "both": lambda layers, **how: layers.Bidirectional(layers.LSTM(10, **how), dtype=how["dtype"]),
}


@pytest.mark.parametrize("name", KERAS_LAYERS)
def test_keras_layers(api, keras, name):
    x = draw(3, 9, 7)
    drawn = None
    runs = []
    for dtype in (np.float32, np.float64):
        layer = KERAS_LAYERS[name](
            keras.layers, return_sequences=True, return_state=True, dtype=np.dtype(dtype).name
        )
        layer(x.astype(dtype))
        if drawn is None:
            drawn = [draw(*w.shape, seed=i) / 3 for i, w in enumerate(layer.get_weights())]
            layer.set_weights(drawn)
            lstm = api.LSTM.from_keras(layer)
        layer.set_weights(drawn)
        y, *states = (weights._array(array) for array in layer(x.astype(dtype)))
        y = y[:, ::-1] if name == "backwards" else y
        runs.append([y, np.stack(states[::2]), np.stack(states[1::2])])
    assert lstm.batch_first and lstm.reverse == (name == "backwards")
    within(arrays(lstm(x)), *runs)
    if name != "backwards":  # which a list cannot tell
        same(lstm, api.LSTM.from_keras(drawn), n=7)


def test_keras_cell(api, keras):
    tensor = keras.ops.convert_to_tensor if hasattr(keras, "ops") else keras.backend.constant
    layer = keras.layers.LSTMCell(10)
    x, h, c = draw(3, 7), draw(3, 10), draw(3, 10, seed=1)
    _, theirs = layer(tensor(x), [tensor(h), tensor(c)])
    _, ours = api.LSTM.from_keras(layer)(x[:, np.newaxis], (h[np.newaxis], c[np.newaxis]))
    assert distance([array[0] for array in ours], [weights._array(array) for array in theirs]) < 1e-6


@pytest.mark.parametrize(
    "make, error, told",
    [
        (lambda k: k.LSTM(5, activation="relu"), ValueError, "activation 'relu'"),
        (lambda k: k.LSTM(5, recurrent_activation="hard_sigmoid"), ValueError, "recurrent_activation 'hard_s"),
        (lambda k: k.LSTM(5), ValueError, "no weights yet"),
        (lambda k: k.Bidirectional(k.LSTM(5), merge_mode="sum"), ValueError, "merge_mode 'sum'"),
        (lambda k: k.Bidirectional(k.LSTM(5, go_backwards=True)), ValueError, "go_backwards"),
        (lambda k: k.Bidirectional(k.GRU(5)), TypeError, "GRU is not an LSTM: its cell is .*GRUCell"),
        (lambda k: k.GRU(5), TypeError, "GRU is not an LSTM: its cell is .*GRUCell"),
        (lambda k: k.RNN([k.LSTMCell(5), k.LSTMCell(5)]), TypeError, "StackedRNNCells"),
        (lambda k: k.Dense(5), TypeError, "Dense is not an LSTM"),
    ],
)
def test_keras_layers_that_are_refused(keras, make, error, told):
    with pytest.raises(error, match=told):
        weights.from_keras(make(keras.layers))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_files_that_keras_writes(api, keras, tmp_path):
    h5py = pytest.importorskip("h5py")
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.LSTM(5, return_sequences=True, name="one"),
            layers.Bidirectional(layers.LSTM(4, use_bias=False), name="two"),
            layers.Dense(1),
        ]
    )
    model.compile("adam", "mse")
    model.fit(draw(2, 6, 3), draw(2, 1), verbose=0)  # for the optimizer's weights
    files = {name: tmp_path / name for name in ("a.keras", "a.h5", "a.weights.h5")}
    model.save(files["a.keras"])
    model.save(files["a.h5"])
    model.save_weights(files["a.weights.h5"])
    for name, path in files.items():
        if name == "a.keras":
            path = io.BytesIO(zipfile.ZipFile(path).read("model.weights.h5"))
        prefixes = ["layers/lstm/", "layers/bidirectional/"]
        if name == "a.h5":
            prefixes = ["model_weights/one/", "model_weights/two/"]
        with h5py.File(path) as file:
            for prefix, layer, n in zip(prefixes, model.layers, (3, 5)):
                want = api.LSTM.from_keras(layer)
                same(api.LSTM.from_keras(file, prefix=prefix), want, n)
                same(api.LSTM.from_keras(file[prefix]), want, n)
            with pytest.raises(ValueError, match="more than one LSTM"):
                weights.from_keras(file)


# ---- ONNX -------------------------------------------------------------------------------------


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
