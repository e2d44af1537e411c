"""LSTMs from Keras compute what they did there."""

import io
import zipfile

import numpy as np
import pytest
from conftest import draw
from fastgate import weights
from weights_common import arrays, distance, same, within


def keras_lists(n=3, seed=0):
    """kernel, recurrent_kernel and bias of 5 units."""
    return [draw(n, 20, seed=seed), draw(5, 20, seed=seed + 1), draw(20, seed=seed + 2)]


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
