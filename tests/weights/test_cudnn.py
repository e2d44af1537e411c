"""Weights of Keras's CuDNNLSTM compute what they did there, by cuDNN's equations and by Keras's own conversion."""

import json

import numpy as np
import pytest
from fastgate import weights
from helpers import draw
from helpers.weights import arrays, distance, same

UNITS, N = 5, 3


def cudnn_list(n=N, seed=0):
    """kernel, recurrent_kernel and bias as CuDNNLSTM keeps them."""
    return [draw(n, 4 * UNITS, seed=seed), draw(UNITS, 4 * UNITS, seed=seed + 1), draw(8 * UNITS, seed=seed + 2)]


def cudnn_equations(x, kernel, recurrent_kernel, bias):
    """Keras hands cuDNN the numbers of each gate's kernel, flat, then those of all biases; in cuDNN, a matrix is
    (units, n) and each gate of i, f, c, o has an input bias and a recurrent bias."""
    gates = np.arange(4)
    w_x = [kernel[:, k * UNITS : (k + 1) * UNITS].ravel().reshape(UNITS, -1).astype(float) for k in gates]
    w_h = [recurrent_kernel[:, k * UNITS : (k + 1) * UNITS].ravel().reshape(UNITS, -1).astype(float) for k in gates]
    b = bias.astype(float).reshape(8, UNITS)
    h = c = np.zeros(UNITS)
    y = []
    for row in x.astype(float):
        i, f, g, o = (w_x[k] @ row + b[k] + w_h[k] @ h + b[4 + k] for k in gates)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
        y.append(h)
    return [np.array(y), h[np.newaxis], c[np.newaxis]]


def test_lists(api):
    one, other = cudnn_list(), cudnn_list(seed=5)
    x = draw(6, N)
    assert distance(arrays(api.LSTM.from_keras(one)(x)), cudnn_equations(x, *one)) < 1e-6
    y, (h, c) = api.LSTM.from_keras([one, other])(x)
    y_back, h_back, c_back = cudnn_equations(x[::-1], *other)
    assert distance([y[:, UNITS:], h[1:], c[1:]], [y_back[::-1], h_back, c_back]) < 1e-6


def test_a_flat_file(api):
    """The groups of an .h5 file, whose configuration has no activations."""
    names = ("kernel:0", "recurrent_kernel:0", "bias:0")
    group = {"cu/cu/" + name: array for name, array in zip(names, cudnn_list())}
    same(api.LSTM.from_keras(group), api.LSTM.from_keras(cudnn_list()))


def tf_keras():
    package = pytest.importorskip("tf_keras", reason="tf_keras has CuDNNLSTM; Keras 3 has none")
    layers = pytest.importorskip("tf_keras.src.layers.rnn.cudnn_lstm")
    return package, layers.CuDNNLSTM


def test_keras_converts_them_so(api):
    """Keras's own loader makes weights of LSTM of those of CuDNNLSTM."""
    keras, _ = tf_keras()
    convert = pytest.importorskip("tf_keras.src.saving.legacy.hdf5_format").preprocess_weights_for_loading
    layer = keras.layers.LSTM(UNITS)
    layer.build((None, None, N))
    layer.set_weights(convert(layer, cudnn_list()))
    ours, theirs = api.LSTM.from_keras(cudnn_list()), api.LSTM.from_keras(layer)
    x = draw(2, 6, N)
    assert distance(arrays(ours(x)), arrays(theirs(x))) < 1e-6


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_layers_and_files(api, tmp_path):
    keras, layer_of_cudnn = tf_keras()
    pytest.importorskip("h5py")
    layers = [
        layer_of_cudnn(UNITS, return_sequences=True, go_backwards=True),
        keras.layers.Bidirectional(layer_of_cudnn(UNITS)),
    ]
    model = keras.Sequential([keras.Input((6, N)), *layers])
    model.set_weights([draw(*w.shape, seed=k) for k, w in enumerate(model.get_weights())])
    model.save(tmp_path / "model.h5")
    for layer, n, how in zip(layers, (N, UNITS), ({"reverse": True}, {"reverse": False})):
        lstm = api.LSTM.from_keras(layer)
        same(api.LSTM.from_keras(tmp_path / "model.h5", prefix=f"model_weights/{layer.name}/"), lstm, n)
        assert lstm.reverse == how["reverse"] and lstm.bidirectional != how["reverse"]
        plain = layer.get_weights()
        lists = plain if lstm.reverse else [plain[:3], plain[3:]]
        want, options = weights.from_keras(lists)
        same(lstm, api.LSTM(want, **options, **how), n)


def test_a_class_that_contradicts_its_bias(tmp_path):
    h5py = pytest.importorskip("h5py")
    config = {"name": "one", "units": UNITS, "activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True}
    model = {"class_name": "Sequential", "config": {"layers": [{"class_name": "LSTM", "config": config}]}}
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file.attrs["model_config"] = json.dumps(model)
        for name, array in zip(("kernel:0", "recurrent_kernel:0", "bias:0"), cudnn_list()):
            file[f"model_weights/one/one/{name}"] = array
    with pytest.raises(ValueError, match="a bias of 40 elements does not fit a layer LSTM"):
        weights.from_keras(tmp_path / "model.h5")
