"""LSTMs from torch compute what they did there. The truth is torch, in float32 and in float64."""

import io
import sys

import numpy as np
import pytest
from fastgate import weights
from helpers import draw
from helpers.layers import same as same_arrays
from helpers.weights import T, arrays, distance, same, within

SIZES = dict(weight_ih=(20, 3), weight_hh=(20, 5), bias_ih=(20,), bias_hh=(20,))


def torch_layer(kinds=tuple(SIZES), n=3, proj=0, seed=0):
    """Parameters of a layer of n inputs and 5 units, under the names that LSTM takes."""
    sizes = {**SIZES, "weight_ih": (20, n), "weight_hh": (20, proj or 5)}
    layer = {kind: draw(*sizes[kind], seed=seed + i) for i, kind in enumerate(kinds)}
    return layer | ({"projection": draw(proj, 5, seed=seed)} if proj else {})


def torch_state(layers, prefix=""):
    """The parameters of these layers under the names of torch's state dict."""
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
def test_a_state_dict_of_arrays_gives_the_lstm(api, prefix, kinds, proj, both):
    sizes = [3] + 2 * [(1 + both) * (proj or 5)]
    layers = [torch_layer(kinds, n, proj, seed=10 * k) for k, n in enumerate(sizes)]
    if both:
        backward = [torch_layer(kinds, n, proj, seed=50 + 10 * k) for k, n in enumerate(sizes)]
        layers = list(zip(layers, backward))
    state = torch_state(layers, prefix) | ({"head.weight": draw(2, 2)} if prefix else {})
    same(api.LSTM.from_torch(state, prefix=prefix), api.LSTM(layers))


def test_the_state_dict_of_a_cell_gives_a_cell_or_an_lstm(api):
    layer = torch_layer()
    x, h, c = draw(2, 3), draw(2, 5), draw(2, 5, seed=1)
    got = api.LSTMCell.from_torch({f"cell.{kind}": layer[kind] for kind in layer}, prefix="cell.")
    same_arrays(got(x, h, c), api.LSTMCell(**layer)(x, h, c))
    same(api.LSTM.from_torch(layer), api.LSTM([layer]))


STATE = torch_state([torch_layer(), torch_layer(n=5)])


@pytest.mark.parametrize(
    "change, prefix, told",
    [
        (lambda s: {f"rnn.{k}": s[k] for k in s} | {f"b.c.{k}": s[k] for k in s}, "", "'b.c.', 'rnn.'"),
        (lambda s: {f"a.{k}": s[k] for k in s} | {f"module.a.{k}": s[k] for k in s}, "module.b.", "may be 'a.', 'mod"),
        (lambda s: {f"a.b.{k}": s[k] for k in s} | {f"a.c.{k}": s[k] for k in s}, "a.", "may be 'a.b.', 'a.c.'"),
        (lambda s: {f"module.{k}": s[k] for k in s} | {f"_orig_mod.{k}": s[k] for k in s}, "", "'_orig_mod.', 'module"),
        (lambda s: {f"rnn.{k}": s[k] for k in s}, "lstm.", "no 'lstm.weight_ih_l0': prefix may be 'rnn.'"),
        (lambda s: {f"rnn.{k}_g": s[k] for k in s} | {f"rnn.{k}": s[k] for k in s}, "", "computed from 'rnn.weight_ih"),
        (lambda s: {"fc.weight": s["bias_ih_l0"]}, "rnn.", "'rnn.weight_ih_l0': the keys are 'fc.weight'"),
        (lambda s: {}, "", "'weight_ih_l0'"),
        (lambda s: {k: s[k] for k in s if k != "weight_hh_l1"}, "", "no 'weight_hh_l1' beside"),
        (lambda s: {k: s[k] for k in s if k != "bias_ih_l0"}, "", "no 'bias_ih_l0' beside"),
        (lambda s: {k: s[k] for k in s if "_l0" not in k}, "", "there is no 'bias_hh_l0', .*'weight_ih_l0' beside"),
        (lambda s: s | {"weight_ih_l0_reverse": s["weight_ih_l0"]}, "", "no 'bias_hh_l0_reverse'"),
        (lambda s: s | {"weight_hr_l0": draw(2, 5)}, "", "no 'weight_hr_l1'"),
        (lambda s: s | {"weight_hh_l0_x": draw(20)}, "", "'weight_hh_l0_x' does not belong to an LSTM of 2 layers"),
        (lambda s: {k: s[k] for k in s if not k.startswith("bias_hh")}, "", "no 'bias_hh_l0', 'bias_hh_l1' beside"),
        (lambda s: {k: s[k] for k in s if not k.startswith("bias_ih")}, "", "no 'bias_ih_l0', 'bias_ih_l1' beside"),
        (lambda s: s | {"weight_ih_l99999999999": s["weight_ih_l0"]}, "", "'weight_ih_l99999999999' does not belong"),
        (lambda s: s | {f"weight_ih_l{'9' * 9999}": s["weight_ih_l0"]}, "", "does not belong to an LSTM of 2 layers"),
        (lambda s: s | {"weight_ih_l3": s["weight_ih_l0"]}, "", "'weight_ih_l3' does not belong to an LSTM of 2 layers"),
        (lambda s: s | {"weight_ih_l01": s["weight_ih_l0"]}, "", "'weight_ih_l01' does not belong to an LSTM of 2 layers"),
        (lambda s: s | {"weight_ih_l\u0661": s["weight_ih_l0"]}, "", "does not belong to an LSTM of 2 layers"),
        (lambda s: s | {"weight_hh_l0_g": draw(20)}, "", "weights are computed from 'weight_hh_l0_g': make them"),
        (lambda s: s | {"weight_ih": draw(20)}, "", "'weight_ih' does not belong to an LSTM"),
    ],
)
def test_wrong_keys_are_refused(change, prefix, told):
    with pytest.raises(ValueError, match=told):
        weights.from_torch(change(STATE), prefix=prefix)


def test_a_cell_must_have_both_biases_or_none():
    with pytest.raises(ValueError, match="no 'bias_hh' beside"):
        weights.from_torch(torch_layer(("weight_ih", "weight_hh", "bias_ih")))


@pytest.mark.parametrize(
    "place, prefix",
    [
        ("module.", ""),
        ("_orig_mod.", ""),
        ("_orig_mod.module.", ""),
        ("module.encoder.lstm.", ""),
        ("encoder.lstm.", ""),
        ("encoder.lstm.", "encoder."),
        ("module.encoder.lstm.", "encoder.lstm."),
        ("encoder._orig_mod.module.lstm.", "encoder.lstm."),
        ("encoder._orig_mod.lstm.", "encoder."),
    ],
)
def test_a_prefix_may_leave_out_wrappers_and_the_only_lstm(api, place, prefix):
    """A second LSTM under another prefix does not matter if a prefix is given."""
    state = {place + key: array for key, array in STATE.items()} | {"head.weight": draw(2, 2), "my_weight_ih": draw(2)}
    want = api.LSTM.from_torch(STATE)
    same(api.LSTM.from_torch(state, prefix=prefix), want)
    if prefix:
        state |= {f"other.{key}": draw(*array.shape, seed=9) for key, array in STATE.items()}
        same(api.LSTM.from_torch(state, prefix=prefix), want)
        with pytest.raises(ValueError, match="prefix may be '.*', 'other.'"):
            weights.from_torch(state)


@pytest.mark.parametrize("keys", [[0, 1], [b"weight_ih_l0"], ["weight_ih_l0", None]], ids=str)
def test_keys_that_are_not_strings_are_refused(keys):
    with pytest.raises(TypeError, match="keys of a state dict must be strings such as 'weight_ih_l0', not "):
        weights.from_torch({key: draw(20, 3) for key in keys})


def test_batch_first_can_be_given_for_a_state_dict(api):
    source = {"weight_ih_l0": draw(8, 3), "weight_hh_l0": draw(8, 2)}
    assert not api.LSTM.from_torch(source).batch_first
    lstm = api.LSTM.from_torch(source, batch_first=True)
    x = draw(4, 6, 3)
    y, (h, c) = lstm(x)
    same_arrays((y.swapaxes(0, 1), (h, c)), api.LSTM.from_torch(source)(x.swapaxes(0, 1)))


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return torch


def call_torch(torch, module, x, state, lengths):
    """The arrays y, h_n and c_n of a call of the module, in its dtype."""
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
def test_an_lstm_is_as_close_to_float64_as_in_torch(api, torch, layers, both, proj, bias, batch):
    first = bias  # so that half of the cases have batch_first
    module = torch.nn.LSTM(7, 10, layers, bidirectional=both, proj_size=proj, bias=bias, batch_first=first)
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
def test_a_cell_is_as_close_to_float64_as_in_torch(api, torch, bias, rows):
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
    same_arrays((y[0], h_n[0], c_n[0]), (ours[0], *ours))


def test_subclasses_state_dicts_and_parameters_give_the_same_lstm(api, torch):
    class Encoder(torch.nn.LSTM):
        pass

    model = torch.nn.ModuleDict({"encoder": Encoder(3, 5, 2, dropout=0.5), "head": torch.nn.Linear(5, 1)})
    want = api.LSTM.from_torch(model["encoder"])
    same(api.LSTM.from_torch(model.state_dict(), prefix="encoder."), want)
    same(api.LSTM.from_torch(dict(model["encoder"].named_parameters())), want)


@pytest.mark.parametrize("framework", ["torch", "numpy"])
def test_safetensors_give_the_lstm(api, torch, framework):
    save = pytest.importorskip("safetensors.torch", reason="safetensors is not installed").save
    load = pytest.importorskip(f"safetensors.{framework}").load
    module = torch.nn.LSTM(3, 5)
    state = load(save({f"rnn.{k}": v for k, v in module.state_dict().items()}))
    same(api.LSTM.from_torch(state, prefix="rnn."), api.LSTM.from_torch(module))


@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
def test_16_bit_modules_keep_their_bits(api, torch, storage, monkeypatch):
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
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
def test_other_modules_are_refused(torch, name):
    with pytest.raises(TypeError, match=rf"torch\.nn\.modules\.\w+\.{name} is neither"):
        weights.from_torch(getattr(torch.nn, name)(3, 5))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's own, of the old weight_norm
@pytest.mark.parametrize(
    "change, name",
    [
        (
            lambda nn, m: nn.parametrizations.weight_norm(m, "weight_hh_l0"),
            r"parametrizations\.weight_hh_l0\.original0",
        ),
        (lambda nn, m: nn.weight_norm(m, "weight_hh_l0"), "weight_hh_l0_g"),
        (lambda nn, m: nn.spectral_norm(m, "weight_ih_l0"), "weight_ih_l0_orig"),
        (lambda nn, m: nn.prune.random_unstructured(m, "weight_ih_l0", 0.5), "weight_ih_l0_orig"),
    ],
)
def test_modules_that_compute_their_weights_are_refused(torch, change, name):
    pytest.importorskip("torch.nn.utils.prune")
    module = change(torch.nn.utils, torch.nn.LSTM(3, 5))
    with pytest.raises(ValueError, match=f"weights are computed from .*'{name}'.*: make them plain first"):
        weights.from_torch(module)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("how", [{}, {"batch_first": True, "num_layers": 2, "bidirectional": True}, {"proj_size": 2}])
def test_scripted_lstms_alone_or_in_a_model_give_the_lstm(api, torch, how, saved):
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LSTM(3, 5, **how))
    script = torch.jit.script(model)
    if saved:
        file = io.BytesIO()
        torch.jit.save(script, file)
        file.seek(0)
        script = torch.jit.load(file)
    found = dict(script.named_modules())["1"]
    want = api.LSTM.from_torch(model[1])
    assert want.batch_first == ("batch_first" in how)
    same(api.LSTM.from_torch(found), want)
    same(api.LSTM.from_torch(torch.jit.script(model[1])), want)
    same(api.LSTM.from_torch(script.state_dict(), batch_first=want.batch_first), want)


@pytest.mark.filterwarnings("ignore")
def test_scripted_cells_give_the_cell(api, torch):
    module = torch.nn.LSTMCell(3, 5)
    got, want = api.LSTMCell.from_torch(torch.jit.script(module)), api.LSTMCell.from_torch(module)
    same_arrays(got(draw(2, 3)), want(draw(2, 3)))


def scripted_class_named_lstm(torch):
    class LSTM(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mode = "LSTM"
            self.weight_ih_l0, self.weight_hh_l0 = (torch.nn.Parameter(torch.zeros(20, n)) for n in (3, 5))

        def forward(self, x: torch.Tensor):
            return x

    return torch.jit.script(LSTM())


@pytest.mark.filterwarnings("ignore")
def test_traced_modules_give_the_lstm_if_batch_first_is_given(api, torch):
    module, cell = torch.nn.LSTM(3, 5, batch_first=True), torch.nn.LSTMCell(3, 5)
    traced = torch.jit.trace(module, torch.zeros(2, 4, 3))
    with pytest.raises(TypeError, match=r"of .*LSTM is traced, which loses batch_first: write batch_first="):
        weights.from_torch(traced)
    same(api.LSTM.from_torch(traced, batch_first=True), api.LSTM.from_torch(module))
    same(api.LSTM.from_torch(traced.state_dict(), batch_first=True), api.LSTM.from_torch(module))
    same(api.LSTM.from_torch(torch.jit.trace(cell, torch.zeros(2, 3))), api.LSTM.from_torch(cell))


def quantize(torch, module, dtype="qint8"):
    kinds = {torch.nn.LSTM, torch.nn.LSTMCell}
    try:
        made = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(module), kinds, getattr(torch, dtype))
    except RuntimeError as error:  # this build of torch has no engine for quantization
        pytest.skip(str(error))
    return made[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["qint8", "float16"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("both", [False, True])
def test_quantized_lstms_are_closer_to_the_plain_module_than_in_torch(api, torch, layers, both, dtype):
    """We use the same weights, but torch also rounds the inputs of each step."""
    module = torch.nn.LSTM(40, 64, layers, bidirectional=both, batch_first=True)
    other = quantize(torch, module, dtype)
    lstm = api.LSTM.from_torch(other)
    x = draw(3, 50, 40)
    with torch.no_grad():
        exact, theirs = (arrays(each(torch.from_numpy(x))) for each in (module, other))
    assert lstm.batch_first and lstm.num_layers == layers and lstm.bidirectional == both
    assert 0 < distance(arrays(lstm(x)), exact) < (0.01 if dtype == "qint8" else 1e-3)
    assert distance(arrays(lstm(x)), theirs) < (0.02 if dtype == "qint8" else 1e-3)
    if dtype == "qint8":
        assert distance(arrays(lstm(x)), exact) < distance(theirs, exact)
        assert distance(arrays(api.LSTM.from_torch(other, storage="int8")(x)), exact) < 0.01
    with pytest.raises(ValueError, match="no 'weight_ih_l0': .*; the LSTM is quantized.*: give the module"):
        weights.from_torch(other.state_dict())
    state = {name: tensor.dequantize() for name, tensor in {**other.get_weight(), **other.get_bias()}.items()}
    same(lstm, api.LSTM.from_torch(state, batch_first=True), 40)
    same(lstm, api.LSTM.from_torch({**other.get_weight(), **other.get_bias()}, batch_first=True), 40)


@pytest.mark.filterwarnings("ignore")
def test_quantized_cells_are_close_to_the_plain_module(api, torch):
    module = torch.nn.LSTMCell(40, 64)
    other = quantize(torch, module)
    x, h, c = draw(3, 40), draw(3, 64), draw(3, 64, seed=1)
    with torch.no_grad():
        exact, theirs = (m(torch.from_numpy(x), (torch.from_numpy(h), torch.from_numpy(c))) for m in (module, other))
    got = api.LSTMCell.from_torch(other)(x, h, c)
    with pytest.raises(ValueError, match="no 'weight_ih_l0': .*; the LSTM is quantized.*: give the module"):
        weights.from_torch(other.state_dict())
    assert 0 < distance(got, exact) < 0.01 and distance(got, theirs) < 0.02


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make, told",
    [
        (lambda torch: torch.nn.Sequential(torch.nn.LSTM(3, 5)), r"Sequential .* or its state_dict\(\) and prefix="),
        (lambda torch: torch.nn.DataParallel(torch.nn.LSTM(3, 5)), "DataParallel .* inside it"),
        (lambda torch: torch.jit.script(torch.nn.GRU(3, 5)), "RecursiveScriptModule of torch.*GRU is neither a torch"),
        (scripted_class_named_lstm, r"RecursiveScriptModule of .*\.LSTM is neither a torch\.nn\.LSTM nor"),
        (lambda torch: torch.jit.script(torch.nn.Sequential(torch.nn.LSTM(3, 5))), "Sequential is neither .* inside"),
        (lambda torch: quantize(torch, torch.nn.Sequential(torch.nn.GRU(3, 5)), "qint8"), "Sequential is neither"),
        (lambda torch: torch.jit.script(quantize(torch, torch.nn.LSTM(3, 5))), "LSTM has packed weights: give the"),
    ],
)
def test_modules_that_contain_an_lstm_are_refused(torch, make, told):
    with pytest.raises(TypeError, match=told):
        weights.from_torch(make(torch))
