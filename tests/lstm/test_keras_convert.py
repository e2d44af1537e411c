"""Keras models that fastgate.keras converted compute what they did before. KERAS_BACKEND names the backend."""

import copy
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
from helpers import draw
from helpers.weights import distance, within

if not os.environ.get("KERAS_BACKEND"):
    pytest.skip("KERAS_BACKEND does not name the backend of Keras", allow_module_level=True)
keras = pytest.importorskip("keras", minversion="3", reason="Keras 3 is not installed")
backend = keras.backend.backend()
if backend not in ("torch", "tensorflow"):
    pytest.skip(f"fastgate.keras does not support the backend {backend}", allow_module_level=True)

from fastgate.keras import convert  # noqa: E402 - imports Keras

layers = keras.layers
B, T, N, H = 4, 6, 3, 24
MASKS = {
    "no mask": None,
    "all": np.ones((B, T), np.bool_),
    "right": np.arange(T) < [[6], [3], [1], [5]],
    "left": np.arange(T) >= [[0], [2], [5], [1]],
    "gaps": np.array([[1, 0, 1, 1, 0, 1], [0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]], np.bool_),
}


def arrays(result):
    return [np.asarray(keras.ops.convert_to_numpy(tensor)) for tensor in keras.tree.flatten(result)]


def tensor(array):
    return keras.ops.convert_to_tensor(array)


def sample(*shape, seed=0):
    """A random tensor of the dtype that new layers get at present."""
    return tensor(draw(*shape, seed=seed).astype(keras.config.dtype_policy().name))


def drawn(weights):
    return [draw(*weight.shape, seed=i) / 2 for i, weight in enumerate(weights)]


def loops_of(made):
    """The loops of fastgate inside a converted layer or model."""
    return [layer.inner_loop for layer in made._flatten_layers() if "inner_loop" in vars(layer)]


def runs(make, calls):
    """Assert that the results of `calls` on a converted layer or model are as close to those in float64 as Keras's own.

    `make` makes a layer or model. Each call gets one that is converted, one that is not, and one in float64.
    """
    made = {}
    for name in ("ours", "theirs", "precise"):
        keras.config.set_dtype_policy("float64" if name == "precise" else "float32")
        made[name] = make()
        calls[0](made[name])  # builds it
        made[name].set_weights(drawn(made[name].get_weights()))
    keras.config.set_dtype_policy("float32")
    convert(made["ours"])
    loops = loops_of(made["ours"])
    for loop in loops:
        loop.plain = forbidden
    for call in calls:
        results = []
        for name, each in made.items():
            keras.config.set_dtype_policy("float64" if name == "precise" else "float32")
            results.append(arrays(call(each)))
        keras.config.set_dtype_policy("float32")
        assert loops and all(loop.packed[2] for loop in loops), "fastgate did not compute"
        within(*results)


def forbidden(*given):
    pytest.fail("Keras's own loop was called")


LAYERS = {
    "LSTM": lambda **how: layers.LSTM(H, **how),
    "no bias": lambda **how: layers.LSTM(H, use_bias=False, recurrent_dropout=0.5, **how),
    "unroll": lambda **how: layers.LSTM(H, unroll=True, **how),
    "RNN": lambda **how: layers.RNN(layers.LSTMCell(H), **how),
    "stacked": lambda **how: layers.RNN([layers.LSTMCell(4), layers.LSTMCell(H, use_bias=False)], **how),
}


@pytest.mark.parametrize("return_state", [False, True])
@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_what_it_did(name, return_sequences, go_backwards, return_state):
    """The calls with return_state have an initial state too."""
    sizes = [4, 4, H, H] if name == "stacked" else [H, H]

    def call(layer, mask, zero):
        options = {} if MASKS[mask] is None else {"mask": tensor(MASKS[mask])}
        layer.zero_output_for_mask = zero
        if return_state:
            state = [sample(B, size, seed=i) for i, size in enumerate(sizes)]
            options["initial_state"] = [state[:2], state[2:]] if name == "stacked" else state
        return layer(sample(B, T, N), **options)

    # With unroll and a mask Keras computes, and each of its backends has faults of its own.
    masks = MASKS if name != "unroll" else ["no mask"]
    options = {"return_sequences": return_sequences, "go_backwards": go_backwards, "return_state": return_state}
    calls = [lambda layer, k=(mask, zero): call(layer, *k) for mask in masks for zero in (False, True)]
    runs(lambda: LAYERS[name](**options), calls)


@pytest.mark.parametrize("return_sequences, return_state", [(False, False), (True, False), (True, True)])
def test_a_bidirectional_computes_what_it_did(return_sequences, return_state):
    def call(layer, merge_mode, mask):
        layer.merge_mode = merge_mode
        return layer(sample(B, T, N), **({} if MASKS[mask] is None else {"mask": tensor(MASKS[mask])}))

    inner = dict(return_sequences=return_sequences, return_state=return_state)
    pairs = zip(["concat", "sum", "mul", "ave", None, "concat"], [*MASKS, "no mask"])
    runs(lambda: layers.Bidirectional(layers.LSTM(H, **inner)), [lambda layer, k=k: call(layer, *k) for k in pairs])


def model(stateful=False, **how):
    """A model whose first layer makes the masks, with LSTMs in a Bidirectional and in a model inside the model."""
    inputs = keras.Input(batch_shape=(B, T, N)) if stateful else keras.Input((None, N))
    x = layers.Masking()(inputs)
    x = layers.LSTM(H, return_sequences=True, stateful=stateful, name="first", **how)(x)
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True, stateful=stateful), name="both")(x)
    inner = keras.Sequential([layers.RNN(layers.LSTMCell(H), stateful=stateful), layers.Dense(2)], name="inner")
    return keras.Model(inputs, inner(x))


def padded(mask, seed=0):
    x = draw(B, T, N, seed=seed).astype(keras.config.dtype_policy().name)
    return x if MASKS[mask] is None else x * MASKS[mask][..., np.newaxis]


def test_a_model_computes_what_it_did():
    """predict also gets a last batch that is smaller than the others."""

    def call(made, how, mask):
        x = padded(mask)
        return made.predict(x, batch_size=3, verbose=0) if how == "predict" else getattr(made, how)(tensor(x))

    hows = ["predict", "predict_on_batch", "__call__"]
    runs(model, [lambda made, k=(how, mask): call(made, *k) for how in hows for mask in MASKS])


def test_masks_of_an_embedding_may_change_their_length():

    def make():
        cells = [layers.Embedding(10, N, mask_zero=True), layers.LSTM(H, return_sequences=True), layers.LSTM(H)]
        return keras.Sequential([keras.Input((None,), dtype="int32"), *cells])

    words = np.array([[0, 0, 3, 4], [1, 2, 0, 0], [0, 0, 0, 0]], np.int32)
    runs(make, [lambda made, k=k: [made.predict(words[:, k:], verbose=0), made(words[:, k:])] for k in range(3)])


@pytest.mark.parametrize("how", ["predict", "call"])
def test_a_stateful_model_keeps_and_resets_its_states(how):
    def run(made, mask, seed):
        x = tensor(padded(mask, seed))
        return made.predict_on_batch(x) if how == "predict" else made(x)

    def call(made):
        reset(made)
        steps = [run(made, mask, seed) for seed, mask in enumerate(("gaps", "no mask"))]
        states = [state.value for state in made.get_layer("first").states]
        reset(made)
        assert distance(arrays(run(made, "gaps", 0)), arrays(steps[0])) == 0
        return [steps, states]

    def reset(made):
        for layer in filter(lambda layer: isinstance(layer, layers.RNN), made._flatten_layers()):
            layer.reset_states()

    runs(lambda: model(stateful=True), [call, call])


def pair(make=model, **how):
    """A plain model, a converted one with the same weights, and x."""
    keras.utils.set_random_seed(0)
    plain, fast = make(**how), make(**how)
    x = padded("gaps")
    plain.predict(x, verbose=0), fast.predict(x, verbose=0)  # makes traces, which must not outlast the conversion
    fast.set_weights(plain.get_weights())
    assert convert(fast) is fast
    return plain, fast, x


def agree(plain, fast, x):
    """Assert that the two models give the same, and that fastgate computed the converted one."""
    for call in (lambda made: made.predict(x, verbose=0), lambda made: made(tensor(x))):
        theirs = arrays(call(plain))
        assert distance(arrays(call(fast)), theirs) < 2e-6 * max(1, np.abs(theirs[0]).max())
    assert loops_of(fast) and all(loop.packed[2] for loop in loops_of(fast))


def change(made, how, x, tmp_path):
    """Change the weights, in the same way for all models that have the same weights."""
    cell = made.get_layer("first").cell
    if how == "set_weights":
        made.set_weights(drawn(made.get_weights()))
    elif how == "load_weights":
        other = model()
        other.set_weights(drawn(made.get_weights()))
        other.save_weights(tmp_path / "other.weights.h5")
        made.load_weights(tmp_path / "other.weights.h5")
    elif how == "assign":
        cell.bias.assign(np.arange(4 * H, dtype=np.float32) / 10)
    elif how == "assign_add":
        cell.recurrent_kernel.assign_add(tensor(np.full((H, 4 * H), 0.2, np.float32)))
    elif how == "value":
        if backend == "torch":
            cell.kernel.value.data = cell.kernel.value.data + 1
        else:
            cell.kernel.value[0, 1].assign(3.0)
    else:
        keras.utils.set_random_seed(1)
        made.compile(how, "mse", jit_compile=False)
        made.fit(x, draw(B, 2), epochs=2, batch_size=2, verbose=0)


@pytest.mark.parametrize("how", ["set_weights", "load_weights", "assign", "assign_add", "value", "sgd", "adam"])
def test_changed_weights_are_used(how, tmp_path):
    plain, fast, x = pair()
    agree(plain, fast, x)
    before = fast.predict(x, verbose=0)
    change(plain, how, x, tmp_path), change(fast, how, x, tmp_path)
    assert distance([before], [plain.predict(x, verbose=0)]) > 1e-4
    agree(plain, fast, x)
    change(plain, "assign_add", x, tmp_path), change(fast, "assign_add", x, tmp_path)
    agree(plain, fast, x)


def test_weights_are_packed_once():
    _, fast, x = pair()
    loop = fast.get_layer("first").inner_loop
    fast.predict(x, verbose=0)  # the first call traces the model again
    packed = loop.packed
    assert packed[2]
    fast.predict(x, verbose=0), fast(tensor(x))
    assert loop.packed is packed


@pytest.mark.parametrize("how", [{}, {"dropout": 0.3, "seed": 1}, {"recurrent_dropout": 0.3, "seed": 1}])
def test_training_is_that_of_keras(how):
    plain, fast, x = pair(**how)
    losses = []
    for made in (plain, fast):
        keras.utils.set_random_seed(2)
        made.compile("adam", "mse")
        made.fit(x, draw(B, 2), epochs=3, batch_size=2, verbose=0)
        losses.append(np.float64(made.evaluate(x, draw(B, 2), verbose=0)))
    for theirs, ours in zip(plain.get_weights(), fast.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert abs(losses[0] - losses[1]) < 1e-6
    agree(plain, fast, x)


def gradients(made, x):
    """The gradients of a loss with respect to x and all weights, computed as users of the backend do it."""
    if backend == "torch":
        x = tensor(x).requires_grad_()
        made.zero_grad()
        (made(x, training=False) ** 2).sum().backward()
        return [x.grad, *[weight.value.grad for weight in made.trainable_weights]]
    tf = pytest.importorskip("tensorflow")
    results = []
    for wrap in (lambda function: function, tf.function):
        with tf.GradientTape() as tape:
            tape.watch(source := tensor(x))
            loss = wrap(lambda x: tf.reduce_sum(made(x, training=False) ** 2))(source)
        results += tape.gradient(loss, [source, *[weight.value for weight in made.trainable_weights]])
    return results


def test_gradients_are_those_of_keras():
    """This holds for calls with training=False too, where fastgate would compute if no gradient were wanted."""
    plain, fast, x = pair()
    theirs = arrays(gradients(plain, x))
    assert min(np.abs(array).max() for array in theirs) > 0
    assert distance(arrays(gradients(fast, x)), theirs) < 1e-5


def test_saved_models_are_plain(tmp_path):
    plain, fast, x = pair()
    fast.save(tmp_path / "model.keras")
    fast.save_weights(tmp_path / "model.weights.h5")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        config = json.loads(archive.read("config.json"))
    assert "fastgate" not in json.dumps(config), "the file must load where fastgate is not installed"
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.get_layer("first")) is layers.LSTM and "inner_loop" not in vars(loaded.get_layer("first"))
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), plain.predict(x, verbose=0))
    agree(plain, convert(loaded), x)
    other = model()
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other.predict(x, verbose=0), plain.predict(x, verbose=0))
    change(fast, "set_weights", x, tmp_path)
    fast.load_weights(tmp_path / "model.weights.h5")
    agree(plain, fast, x)


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "clone", "again"])
def test_copies_are_plain_models_that_share_no_weights(how, tmp_path):
    plain, fast, x = pair()
    if how in ("deepcopy", "pickle"):  # Keras saves and loads the model
        other = {"deepcopy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model))}[how](fast)
        np.testing.assert_array_equal(other.predict(x, verbose=0), plain.predict(x, verbose=0))
        convert(other)
    elif how == "clone":
        other = convert(keras.models.clone_model(fast))
        other.set_weights(plain.get_weights())
    else:
        other = convert(fast, threads=2)
    agree(plain, other, x)
    change(other, "set_weights", x, tmp_path)
    if other is not fast:
        agree(plain, fast, x)


class OwnLoop(layers.LSTM):
    def inner_loop(self, sequences, initial_state, mask, training=False):
        return super().inner_loop(sequences * 2, initial_state, mask, training)


Other = type("Other", (layers.LSTMCell,), {})


NOT_CONVERTED = {
    "activation": lambda: layers.LSTM(H, activation="relu"),
    "recurrent_activation": lambda: layers.LSTM(H, recurrent_activation="hard_sigmoid"),
    "GRU": lambda: layers.GRU(H),
    "own loop": lambda: OwnLoop(H),
    "own cell": lambda: layers.RNN(Other(H)),
    "mixed": lambda: layers.RNN([layers.LSTMCell(H), layers.GRUCell(H)]),
    "dtype": lambda: layers.LSTM(H, dtype="mixed_bfloat16"),
}


@pytest.mark.parametrize("name", NOT_CONVERTED)
def test_other_layers_stay_with_keras(name):
    layer = NOT_CONVERTED[name]()
    x = tensor(draw(B, T, N))
    want = arrays(layer(x))
    assert ("inner_loop" in vars(convert(layer))) == (name == "dtype")
    assert distance(arrays(layer(x)), want) == 0


def test_compiled_and_exported_models_have_the_loop_of_keras(tmp_path):
    """They run without Python, so that they cannot call fastgate."""
    plain, fast, x = pair()
    want = plain.predict(x, verbose=0)
    if backend == "torch":
        torch = pytest.importorskip("torch")
        with torch.no_grad():
            ran = torch.export.export(fast, (tensor(x),)).module()(tensor(x))
    else:
        tf = pytest.importorskip("tensorflow")
        compiled = tf.function(lambda x: fast(x), jit_compile=True)(tensor(x))
        assert distance(arrays(compiled), [want]) < 1e-6
        fast.export(tmp_path / "saved", verbose=False)
        assert b"PyFunc" not in (tmp_path / "saved" / "saved_model.pb").read_bytes()
        saved = tf.saved_model.load(tmp_path / "saved")
        ran = saved.serve(tensor(x))
    assert distance(arrays(ran), [want]) < 1e-6


def test_storage_and_threads_reach_the_lstm():
    plain, fast, x = pair()
    convert(fast, storage="int8", threads=2)
    error = distance([fast.predict(x, verbose=0)], [plain.predict(x, verbose=0)])
    assert 1e-6 < error < 0.05
    assert fast.get_layer("first").inner_loop.packed[2][0].storage == "int8"


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="convert takes a model or layer of Keras 3, not builtins.list"):
        convert([])
    for how in ({"storage": "int4"}, {"threads": 0}):
        with pytest.raises(ValueError, match=next(iter(how))):
            convert(model(), **how)
