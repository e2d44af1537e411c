"""LSTMs from Keras compute what they did there. The truth is the equations in its documentation, and Keras itself."""

import io
import json
import zipfile

import numpy as np
import pytest
from fastgate import weights
from fastgate.weights._shared import array_of
from helpers import draw
from helpers.weights import arrays, distance, equations, same, within


def keras_lists(n=3, seed=0):
    """kernel, recurrent_kernel and bias of a layer of 5 units."""
    return [draw(n, 20, seed=seed), draw(5, 20, seed=seed + 1), draw(20, seed=seed + 2)]


FORWARD, BACKWARD = keras_lists(), keras_lists(seed=5)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("form", ["one", "after each other", "pair"])
def test_lists_compute_what_keras_documents(api, size, form):
    one, other = FORWARD[:size], BACKWARD[:size]
    source = {"one": one, "after each other": one + other, "pair": (one, other)}[form]
    lstm = api.LSTM.from_keras(source)
    x = draw(6, 3)
    want = equations(x, *one)
    if form != "one":
        (y, h, c), (y_back, h_back, c_back) = want, equations(x[::-1], *other)
        want = [np.hstack([y, y_back[::-1]]), np.concatenate([h, h_back]), np.concatenate([c, c_back])]
    assert lstm.batch_first and lstm.bidirectional == (form != "one")
    assert distance(arrays(lstm(x)), want) < 1e-6


def load(api, source, **how):
    layers, options = weights.from_keras(source, **how)
    return api.LSTM(layers, **options)


@pytest.mark.parametrize("size", [2, 3])
def test_lists_of_two_layers_need_bidirectional_if_their_shapes_do_not_tell(api, size):
    def parameters(weights_of_one):
        return weights.from_keras(weights_of_one)[0]

    one, other = keras_lists(3)[:size], keras_lists(5, seed=5)[:size]
    same(load(api, one + other), api.LSTM([*parameters(one), *parameters(other)], batch_first=True))
    one = keras_lists(5)[:size]
    with pytest.raises(ValueError, match="directions of a Bidirectional, or two layers.*write bidirectional=True or"):
        weights.from_keras(one + other)
    stack = api.LSTM([*parameters(one), *parameters(other)], batch_first=True)
    same(load(api, one + other, bidirectional=False), stack, n=5)
    pair = api.LSTM([(*parameters(one), *parameters(other))], batch_first=True)
    same(load(api, one + other, bidirectional=True), pair, n=5)
    same(load(api, (one, other)), pair, n=5)


class LSTMCell:
    """A layer with the attributes that from_keras reads. The tests below use Keras itself, if it is installed."""

    __module__ = "keras.src.layers.rnn.lstm"
    name = "layer"

    def __init__(self, weights, go_backwards=False, time_major=False, cell=None, **config):
        self.cell = cell or self
        self.go_backwards, self.time_major = go_backwards, time_major
        self.config = {"activation": "tanh", "recurrent_activation": "sigmoid", "units": 5, "use_bias": True, **config}
        self.config |= {"go_backwards": go_backwards, "time_major": time_major}
        self.get_weights = lambda: weights

    def get_config(self):
        return self.config


def test_a_layer_gives_its_weights_and_options(api):
    x = draw(6, 1, 3)
    y, (h, c) = api.LSTM.from_keras(LSTMCell(FORWARD, go_backwards=True, time_major=True))(x)
    assert distance([y[::-1, 0], h[0], c[0]], equations(x[::-1, 0], *FORWARD)) < 1e-6
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
        ({"cell": type("LSTMCell", (), {})()}, TypeError, rf"its cell is {__name__}\.LSTMCell"),
    ],
)
def test_layers_that_are_not_lstms_are_refused(how, error, told):
    with pytest.raises(error, match=told):
        weights.from_keras(LSTMCell(**{"weights": FORWARD, **how}))


def nested(paths):
    """Groups inside groups, as h5py gives them for these paths."""
    root = {}
    for path, value in paths.items():
        *groups, name = path.split("/")
        place = root
        for group in groups:
            place = place.setdefault(group, {})
        place[name] = value
    return root


KERAS_2 = ("kernel:0", "recurrent_kernel:0", "bias:0")
LEGACY = ("kernel", "recurrent_kernel", "bias")  # in an .h5 file that Keras 3 writes
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
def test_an_lstm_is_found_among_the_groups_of_a_file(api, names, prefix, paths, flat, size):
    lists = [FORWARD[:size], BACKWARD[:size]][: len(paths)]
    file = {f"{path}/{name}": w for path, ws in zip(paths, lists) for name, w in zip(names, ws)}
    file |= {"layers/dense/vars/0": draw(5, 4), "layers/dense/vars/1": draw(4)}
    file |= {f"layers/gru/cell/vars/{i}": draw(5, 15) for i in range(2)}
    file |= {f"optimizer_weights/adam/m/lstm/{name}": w for name, w in zip(names, FORWARD)}
    if prefix:
        file |= {f"another/lstm/{name}": w for name, w in zip(names, BACKWARD)}
    source = file if flat else nested(file)
    if len(lists) == 2:  # names alone do not show that these are two directions
        with pytest.raises(ValueError, match="more than one LSTM .*forward_.*write bidirectional=True"):
            weights.from_keras(source, prefix=prefix)
    same(load(api, source, prefix=prefix, bidirectional=True), api.LSTM.from_keras(lists))


@pytest.mark.parametrize(
    "source, told",
    [
        (FORWARD[:1], "not 1 arrays"),
        ([], "not 0 arrays"),
        (FORWARD * 4, "not 12 arrays"),  # the form of Keras 1
        ({"gru": nested({"kernel:0": draw(3, 15), "recurrent_kernel:0": draw(5, 15)})}, "among the arrays 'gru/k"),
        ({f"{a}/{i}": w for a in "ab" for i, w in enumerate(FORWARD)}, "choose a prefix from 'a/', 'b/'"),
        ({f"forward_{a}/{i}": w for a in "ab" for i, w in enumerate(FORWARD)}, "from 'forward_a/', 'forward_b/'"),
    ],
)
def test_wrong_arrays_and_groups_are_refused(source, told):
    with pytest.raises(ValueError, match=told):
        weights.from_keras(source)


@pytest.fixture(params=["keras", "tf_keras"])
def keras(request, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    return pytest.importorskip(request.param, reason=f"{request.param} is not installed")


@pytest.fixture
def h5py():
    return pytest.importorskip("h5py", reason="h5py is not installed")


KERAS_LAYERS = {
    "lstm": lambda layers, **how: layers.LSTM(10, **how),
    "dropout": lambda layers, **how: layers.LSTM(10, dropout=0.5, stateful=False, unroll=True, **how),
    "no bias": lambda layers, **how: layers.LSTM(10, use_bias=False, **how),
    "backwards": lambda layers, **how: layers.LSTM(10, go_backwards=True, **how),
    "rnn": lambda layers, dtype, **how: layers.RNN(layers.LSTMCell(10, dtype=dtype), dtype=dtype, **how),
    "both": lambda layers, **how: layers.Bidirectional(layers.LSTM(10, **how), dtype=how["dtype"]),
}


@pytest.mark.parametrize("name", KERAS_LAYERS)
def test_a_layer_is_as_close_to_float64_as_in_keras(api, keras, name):
    x = draw(3, 9, 7)
    drawn = None
    runs = []
    for dtype in (np.float32, np.float64):
        how = {"return_sequences": True, "return_state": True, "dtype": np.dtype(dtype).name}
        layer = KERAS_LAYERS[name](keras.layers, **how)
        layer(x.astype(dtype))
        if drawn is None:
            drawn = [draw(*w.shape, seed=i) / 3 for i, w in enumerate(layer.get_weights())]
            layer.set_weights(drawn)
            lstm = api.LSTM.from_keras(layer)
        layer.set_weights(drawn)
        y, *states = (array_of(array) for array in layer(x.astype(dtype)))
        y = y[:, ::-1] if name == "backwards" else y
        runs.append([y, np.stack(states[::2]), np.stack(states[1::2])])
    assert lstm.batch_first and lstm.reverse == (name == "backwards")
    within(arrays(lstm(x)), *runs)
    if name != "backwards":  # a list does not tell go_backwards
        same(lstm, api.LSTM.from_keras(drawn), n=7)


def test_a_cell_computes_what_it_did(api, keras):
    tensor = keras.ops.convert_to_tensor if hasattr(keras, "ops") else keras.backend.constant
    layer = keras.layers.LSTMCell(10)
    x, h, c = draw(3, 7), draw(3, 10), draw(3, 10, seed=1)
    _, theirs = layer(tensor(x), [tensor(h), tensor(c)])
    _, ours = api.LSTM.from_keras(layer)(x[:, np.newaxis], (h[np.newaxis], c[np.newaxis]))
    assert distance([array[0] for array in ours], [array_of(array) for array in theirs]) < 1e-6


@pytest.mark.parametrize(
    "make, error, told",
    [
        (lambda k: k.LSTM(5), ValueError, "no weights yet"),
        (lambda k: k.Bidirectional(k.LSTM(5, go_backwards=True)), ValueError, "go_backwards"),
        (lambda k: k.Bidirectional(k.GRU(5)), TypeError, "GRU is not an LSTM: its cell is .*GRUCell"),
        (lambda k: k.GRU(5), TypeError, "GRU is not an LSTM: its cell is .*GRUCell"),
        (lambda k: k.RNN([k.LSTMCell(5), k.LSTMCell(5)]), TypeError, "StackedRNNCells"),
        (lambda k: k.Dense(5), TypeError, "Dense is not an LSTM"),
    ],
)
def test_other_layers_are_refused(keras, make, error, told):
    with pytest.raises(error, match=told):
        weights.from_keras(make(keras.layers))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_files_that_keras_writes_give_the_lstms(api, keras, h5py, tmp_path):
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.LSTM(5, return_sequences=True, name="one"),
            layers.Bidirectional(layers.LSTM(4, use_bias=False), name="two"),
            layers.Dense(1),
        ]
    )
    model.compile("adam", "mse")
    model.fit(draw(2, 6, 3), draw(2, 1), verbose=0)  # gives the optimizer weights too
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
                how = {} if name == "a.h5" else {"bidirectional": True}  # only an .h5 file contains its configuration
                same(load(api, file, prefix=prefix, **how), want, n)
                same(load(api, file[prefix], **how), want, n)
                if name == "a.keras":
                    same(load(api, files[name], prefix=prefix), want, n)
            with pytest.raises(ValueError, match="more than one LSTM"):
                weights.from_keras(file)


# ---- the configuration of a model ---------------------------------------------------------------


def saved(keras, layers, folder, how):
    """The path of a file of a model of these layers, with 3 inputs, and the prefix of its last layer."""
    model = keras.Sequential([keras.Input((6, 3)), *layers])
    name = layers[-1].name
    if how == ".h5":
        model.save(folder / "model.h5")
        return folder / "model.h5", f"model_weights/{name}/"
    model.save(folder / "model.keras")
    classes = [type(layer).__name__ for layer in layers]
    number = classes.count(classes[-1]) - 1
    prefix = f"layers/{classes[-1].lower()}" + (f"_{number}/" if number else "/")
    if how == ".keras":
        return folder / "model.keras", prefix
    with zipfile.ZipFile(folder / "model.keras") as archive:
        archive.extractall(folder)
    return folder / "model.weights.h5", prefix


FILES = [".h5", ".keras", ".weights.h5"]
LAST = {  # layers of a model whose first layers have other options
    "lstm": lambda k: k.LSTM(5),
    "no bias": lambda k: k.LSTM(5, use_bias=False),
    "backwards": lambda k: k.LSTM(5, go_backwards=True),
    "rnn": lambda k: k.RNN(k.LSTMCell(5), go_backwards=True),
    "both": lambda k: k.Bidirectional(k.LSTM(5)),
    "both given": lambda k: k.Bidirectional(k.LSTM(5), backward_layer=k.LSTM(5, go_backwards=True, use_bias=False)),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("how", FILES)
@pytest.mark.parametrize("name", LAST)
def test_a_file_gives_the_layer_of_its_configuration(api, keras, h5py, tmp_path, name, how):
    k = keras.layers
    first = [k.LSTM(4, activation="relu", return_sequences=True), k.Bidirectional(k.LSTM(2, return_sequences=True))]
    layer = LAST[name](k)
    path, prefix = saved(keras, [*first, layer], tmp_path, how)
    if name == "both given":  # LSTM needs the same parameters in both directions, and these differ
        got, want = weights.from_keras(path, prefix=prefix), weights.from_keras(layer)
        assert [[*half] for half in got[0][0]] == [[*half] for half in want[0][0]] and got[1] == want[1]
        return
    want = api.LSTM.from_keras(layer)
    assert want.reverse == (name in ("backwards", "rnn")) and want.bidirectional == (name == "both")
    same(api.LSTM.from_keras(path, prefix=prefix), want, 4)
    same(api.LSTM.from_keras(str(path), prefix=prefix), want, 4)
    if how != ".keras":
        with h5py.File(path) as file:
            same(api.LSTM.from_keras(file, prefix=prefix), want, 4)
            same(api.LSTM.from_keras(file[prefix]), want, 4)
    if name == "both":
        half = api.LSTM.from_keras(path, prefix=f"{prefix}{name_of(h5py, path, prefix, 'backward_')}")
        assert half.reverse and not half.bidirectional


def name_of(h5py, path, prefix, start):
    """The path from prefix to the first group whose name begins with `start`."""
    data = path
    if zipfile.is_zipfile(path):
        data = io.BytesIO(zipfile.ZipFile(path).read("model.weights.h5"))
    with h5py.File(data) as file:
        found = []
        file[prefix].visit(lambda each: found.append(each) if each.split("/")[-1].startswith(start) else None)
    return found[0] + "/"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("how", ["layer", *FILES])
@pytest.mark.parametrize(
    "make, error, told",
    [
        (lambda k: k.LSTM(5, activation="relu"), ValueError, "activation 'relu' is not supported"),
        (lambda k: k.LSTM(5, recurrent_activation="hard_sigmoid"), ValueError, "recurrent_activation 'hard_sigmoid'"),
        (lambda k: k.RNN(k.LSTMCell(5, activation="relu")), ValueError, "activation 'relu' is not supported"),
        (lambda k: k.Bidirectional(k.LSTM(5, activation="relu")), ValueError, "activation 'relu' is not supported"),
        (lambda k: k.Bidirectional(k.LSTM(5), merge_mode="sum"), ValueError, "merge_mode 'sum' is not supported"),
        (lambda k: k.RNN([k.LSTMCell(5)]), TypeError, "its (cell|class) is .*StackedRNNCells"),
    ],
)
def test_other_options_are_refused_in_layers_and_in_files(keras, h5py, tmp_path, make, error, told, how):
    layer = make(keras.layers)
    source, prefix = layer, ""
    if how != "layer":
        source, prefix = saved(keras, [keras.layers.LSTM(4, return_sequences=True), layer], tmp_path, how)
    with pytest.raises(error, match=told):
        weights.from_keras(source, prefix=prefix)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("how", FILES)
def test_a_layer_is_found_in_a_model_inside_the_model(api, keras, h5py, tmp_path, how):
    k = keras.layers
    inner = keras.Sequential([k.LSTM(5, activation="relu", return_sequences=True), k.LSTM(5, go_backwards=True)])
    path, prefix = saved(keras, [k.LSTM(5, return_sequences=True), inner], tmp_path, how)
    relu, backwards = ("layers/lstm/", "layers/lstm_1/")
    if how == ".h5":
        relu, backwards = (name_of(h5py, path, prefix, layer.name) for layer in inner.layers)
    want = api.LSTM.from_keras(inner.layers[-1])
    assert want.reverse
    same(api.LSTM.from_keras(path, prefix=prefix + backwards), want, 5)
    with pytest.raises(ValueError, match="activation 'relu'"):
        weights.from_keras(path, prefix=prefix + relu)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_layers_named_forward_and_backward_are_not_two_directions(keras, h5py, tmp_path):
    """Their configuration shows that they are not, even if bidirectional=True is given."""
    k = keras.layers
    layers = [k.LSTM(3, return_sequences=True, name="forward_x"), k.LSTM(3, name="backward_x")]
    path, _ = saved(keras, layers, tmp_path, ".h5")
    for bidirectional in (None, True):
        with pytest.raises(ValueError, match="there is more than one LSTM under ''"):
            weights.from_keras(path, bidirectional=bidirectional)


class Group(dict):
    """A group of a file that h5py opened, with the attributes that from_keras reads."""

    def __init__(self, values, config, filename="<buffer>"):
        super().__init__(values)
        self.name, self.file, self.filename = "/", self, filename
        self.attrs = {} if config is None else {"model_config": config}


def model_of(**config):
    layer = {"name": "one", "activation": "tanh", "recurrent_activation": "sigmoid", "units": 5, "use_bias": True}
    return {"class_name": "Sequential", "config": {"layers": [{"class_name": "LSTM", "config": {**layer, **config}}]}}


ONE = nested({f"model_weights/one/one/{name}": array for name, array in zip(KERAS_2, FORWARD)})


def both(**config):
    """A configuration of Keras 2: Sequential has a list of layers, and Bidirectional has no backward_layer."""
    half = model_of(name="x", **config)["config"]["layers"][0]
    layer = {"class_name": "Bidirectional", "config": {"name": "two", "layer": half, "merge_mode": "concat"}}
    return json.dumps({"class_name": "Sequential", "config": [layer]}).encode()


TWO = nested(
    {f"two/{way}_x/lstm_cell/{name}": array
     for way, arrays_of_one in (("backward", BACKWARD), ("forward", FORWARD))
     for name, array in zip(KERAS_2, arrays_of_one)}
)  # fmt: skip


@pytest.mark.parametrize(
    "config, error, told",
    [
        (json.dumps(model_of(units=6)), ValueError, "units 6 is not supported, only 5 with these weights"),
        (json.dumps(model_of(use_bias=False)), ValueError, "use_bias False is not supported, only True"),
        (json.dumps(model_of(name="two")), ValueError, "does not contain .*model_weights/one/one.*: give the layer"),
        (json.dumps(model_of()).replace('"LSTM"', '"GRU"'), TypeError, "'one' is not an LSTM: its class is 'GRU'"),
        (json.dumps(model_of()).replace('"LSTM"', '"CuDNNLSTM"'), ValueError, "of 20 elements does not fit a layer C"),
        (json.dumps(model_of(activation=None)), ValueError, "activation None is not supported"),
        (json.dumps(model_of(activation={"class_name": "f"})), ValueError, "is not supported, only 'tanh'"),
        ("{", ValueError, "configuration of the model is not JSON"),
        ("[" * 100_000, ValueError, "configuration of the model is not JSON"),
        ('{"class_name": 1}', ValueError, "configuration of the model is damaged"),
        ('{"class_name": 1, "config": 2}', ValueError, "configuration of the model is damaged"),
        ('{"class_name": 1, "config": {"layers": [3]}}', ValueError, "configuration of the model is damaged"),
        ('{"class_name": 1, "config": {"layers": 3}}', ValueError, "configuration of the model is damaged"),
        (json.dumps(model_of()).replace('"LSTM"', '"RNN"'), ValueError, "configuration of the model is damaged"),
        (json.dumps(model_of()).replace('"LSTM"', '"Bidirectional"'), ValueError, "of the model is damaged"),
    ],
)
def test_wrong_configurations_are_refused(config, error, told):
    with pytest.raises(error, match=told):
        weights.from_keras(Group(ONE, config))


@pytest.mark.parametrize("config", [None, '{"class_name": "Own", "config": {}}', '{"hidden_size": 3}', "[]", "null"])
def test_configurations_without_layers_are_ignored(api, config):
    same(api.LSTM.from_keras(Group(ONE, config)), api.LSTM.from_keras(FORWARD))


def test_configurations_of_keras_2_are_read(api, tmp_path):
    want = api.LSTM.from_keras([FORWARD, BACKWARD])
    same(api.LSTM.from_keras(Group(TWO, both())), want)
    (tmp_path / "config.json").write_bytes(both())
    (tmp_path / "file.h5").touch()
    same(api.LSTM.from_keras(Group(TWO, None, str(tmp_path / "file.h5"))), want)
    with pytest.raises(ValueError, match="the two directions are swapped"):
        weights.from_keras(Group(TWO, both(go_backwards=True)))


def test_no_configuration_is_read_from_the_working_directory(api, tmp_path, monkeypatch):
    """A file opened from a buffer has no directory with a config.json beside it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(model_of(activation="relu")))
    same(api.LSTM.from_keras(Group(ONE, None)), api.LSTM.from_keras(FORWARD))


def test_archives_without_weights_are_refused(h5py, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(ValueError, match=r"a\.keras' is not a \.keras file: there is no 'model\.weights\.h5' in it"):
        weights.from_keras(tmp_path / "a.keras")


# ---- groups that are not trees ------------------------------------------------------------------


def test_groups_may_be_shared_and_deep(api):
    """100 levels of two links each have 2^100 paths: every group must be visited once."""
    layer = dict(zip(LEGACY, FORWARD))
    empty, shared = {}, layer
    for _ in range(100):
        empty, shared = {"a": empty, "b": empty}, {"a": shared, "b": shared}
    same(api.LSTM.from_keras(shared), api.LSTM.from_keras(FORWARD))
    with pytest.raises(ValueError, match="there is no LSTM"):
        weights.from_keras(empty)
    same(api.LSTM.from_keras({"a": layer, "b": layer}, prefix="b/"), api.LSTM.from_keras(FORWARD))
    deep = layer
    for _ in range(5000):
        deep = {"a": deep}
    same(api.LSTM.from_keras(deep), api.LSTM.from_keras(FORWARD))


def test_a_group_may_contain_itself(api):
    group = {"lstm": dict(zip(LEGACY, FORWARD))}
    group["again"] = group["lstm"]["again"] = group
    same(api.LSTM.from_keras(group), api.LSTM.from_keras(FORWARD))


def test_files_may_have_shared_groups_cycles_and_broken_links(api, h5py, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, array in zip(LEGACY, FORWARD):
            file[f"lstm/{name}"] = array
        shared = file.create_group("shared")
        for level in range(40):
            upper = file.create_group(f"upper{level}")
            upper["a"] = upper["b"] = shared
            shared = upper
        file["lstm/again"] = file["/"]
        file["lstm/nowhere"] = h5py.SoftLink("/nowhere")
    same(api.LSTM.from_keras(tmp_path / "a.h5"), api.LSTM.from_keras(FORWARD))


def test_arrays_that_were_never_written_are_refused(h5py, tmp_path):
    """HDF5 would fill them with zeros, and so make terabytes from a small file."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("lstm/kernel", (2**20, 2**20), np.float32, chunks=(1, 1024))
        file.create_dataset("lstm/recurrent_kernel", (2**18, 2**20), np.float32, chunks=(1, 1024))
    with pytest.raises(ValueError, match=r"lstm/kernel' is of shape \(1048576, 1048576\), but most of it is not in"):
        weights.from_keras(tmp_path / "a.h5")
