"""LSTMs from weights of Keras's CuDNNLSTM. The truth is cuDNN's equations, and Keras's own conversion."""

import json

import numpy as np
import pytest
from fastgate import weights
from helpers import draw
from helpers.weights import arrays, distance, equations, same

UNITS, N = 5, 3


def cudnn_list(n=N, seed=0):
    """kernel, recurrent_kernel and bias in the form of CuDNNLSTM."""
    return [draw(n, 4 * UNITS, seed=seed), draw(UNITS, 4 * UNITS, seed=seed + 1), draw(8 * UNITS, seed=seed + 2)]


def cudnn_equations(x, kernel, recurrent_kernel, bias):
    """y, h_n and c_n in float64.

    Keras hands cuDNN a flat array of the numbers of each gate's kernel, and cuDNN reads it as a matrix (units, n). bias
    has the input biases of the gates i, f, c and o, and then their recurrent biases.
    """
    kernels = [
        np.hstack([gate.ravel().reshape(UNITS, -1).T for gate in np.split(each, 4, axis=1)])
        for each in (kernel, recurrent_kernel)
    ]
    return equations(x, *kernels, bias[: 4 * UNITS].astype(float) + bias[4 * UNITS :])


def test_lists_of_one_and_of_two_directions(api):
    one, other = cudnn_list(), cudnn_list(seed=5)
    x = draw(6, N)
    assert distance(arrays(api.LSTM.from_keras(one)(x)), cudnn_equations(x, *one)) < 1e-6
    y, (h, c) = api.LSTM.from_keras([one, other])(x)
    y_back, h_back, c_back = cudnn_equations(x[::-1], *other)
    assert distance([y[:, UNITS:], h[1:], c[1:]], [y_back[::-1], h_back, c_back]) < 1e-6


def test_the_groups_of_a_file(api):
    names = ("kernel:0", "recurrent_kernel:0", "bias:0")
    group = {"cu/cu/" + name: array for name, array in zip(names, cudnn_list())}
    same(api.LSTM.from_keras(group), api.LSTM.from_keras(cudnn_list()))


def tf_keras():
    package = pytest.importorskip("tf_keras", reason="tf_keras, which has CuDNNLSTM, is not installed")
    layers = pytest.importorskip("tf_keras.src.layers.rnn.cudnn_lstm")
    return package, layers.CuDNNLSTM


def test_keras_converts_weights_in_the_same_way(api):
    """Keras's own loader makes weights for its LSTM from those of CuDNNLSTM."""
    keras, _ = tf_keras()
    convert = pytest.importorskip("tf_keras.src.saving.legacy.hdf5_format").preprocess_weights_for_loading
    layer = keras.layers.LSTM(UNITS)
    layer.build((None, None, N))
    layer.set_weights(convert(layer, cudnn_list()))
    ours, theirs = api.LSTM.from_keras(cudnn_list()), api.LSTM.from_keras(layer)
    x = draw(2, 6, N)
    assert distance(arrays(ours(x)), arrays(theirs(x))) < 1e-6


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_layers_and_files_of_models(api, tmp_path):
    keras, layer_of_cudnn = tf_keras()
    pytest.importorskip("h5py", reason="h5py is not installed")
    layers = [
        layer_of_cudnn(UNITS, return_sequences=True, go_backwards=True),
        keras.layers.Bidirectional(layer_of_cudnn(UNITS)),
    ]
    model = keras.Sequential([keras.Input((6, N)), *layers])
    model.set_weights([draw(*w.shape, seed=k) for k, w in enumerate(model.get_weights())])
    model.save(tmp_path / "model.h5")
    for layer, n, reverse in zip(layers, (N, UNITS), (True, False)):
        lstm = api.LSTM.from_keras(layer)
        same(api.LSTM.from_keras(tmp_path / "model.h5", prefix=f"model_weights/{layer.name}/"), lstm, n)
        assert lstm.reverse == reverse and lstm.bidirectional != reverse
        plain = layer.get_weights()
        want, options = weights.from_keras(plain if reverse else [plain[:3], plain[3:]])
        same(lstm, api.LSTM(want, **options, reverse=reverse), n)


def test_a_bias_of_cudnn_in_a_layer_of_another_class_is_refused(tmp_path):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    config = {"name": "one", "units": UNITS, "activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True}
    model = {"class_name": "Sequential", "config": {"layers": [{"class_name": "LSTM", "config": config}]}}
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file.attrs["model_config"] = json.dumps(model)
        for name, array in zip(("kernel:0", "recurrent_kernel:0", "bias:0"), cudnn_list()):
            file[f"model_weights/one/one/{name}"] = array
    with pytest.raises(ValueError, match="a bias of 40 elements does not fit a layer LSTM"):
        weights.from_keras(tmp_path / "model.h5")
