"""Modules that fastgate.torch converted compute what they did before, and remain modules of torch in all else."""

import copy
import io
import itertools
import pickle
import shutil
import threading
from unittest import mock

import fastgate
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from fastgate.torch import LSTM, LSTMCell, convert  # noqa: E402
from torch import nn  # noqa: E402
from torch._subclasses import FakeTensor, FakeTensorMode  # noqa: E402
from torch.autograd import forward_ad  # noqa: E402
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence  # noqa: E402
from torch.utils import flop_counter  # noqa: E402

pytestmark = [
    pytest.mark.skipif(fastgate._core is None, reason="there is no compiled core"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]
N, H, P, STEPS, BATCH = 10, 32, 20, 9, 4
LENGTHS = {"packed": [9, 7, 7, 2], "unsorted": [2, 9, 7, 4], "same": [9, 9, 9, 9]}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def pair(module):
    """A module and its converted copy."""
    return module, convert(copy.deepcopy(module))


def flat(result):
    """The tensors in the result of a module."""
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, PackedSequence):
        return [part for part in result if part is not None]
    return [tensor for part in result for tensor in flat(part)]


def differences(a, b):
    pairs = zip(flat(a), flat(b), strict=True)
    return torch.cat([(x.double() - y.double()).abs().flatten() for x, y in pairs])


EPS = {torch.float32: 1.0, torch.float64: 2.0**-29}  # in units of the eps of float32


def distance(a, b):
    """The root of the mean square of all differences. The largest of a few differences is a matter of chance."""
    return differences(a, b).square().mean().sqrt().item()


def same(a, b):
    """Assert that all numbers are equal or both NaN, in tensors of the same dtypes and shapes."""
    for x, y in zip(flat(a), flat(b), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        assert torch.equal(x.nan_to_num(7), y.nan_to_num(7))


def close(a, b):
    assert differences(a, b).max() < 2e-6
    assert [x.shape for x in flat(a)] == [y.shape for y in flat(b)]


def fastgate_result(module, x):
    """The result of fastgate.LSTM or LSTMCell with these weights. A module with these bits was run by fastgate."""
    kind = fastgate.LSTM if isinstance(module, nn.LSTM) else fastgate.LSTMCell
    y, state = kind.from_torch(module.state_dict())(np.asarray(x))
    return [torch.from_numpy(a) for a in (y, *(state if kind is fastgate.LSTM else [state]))]


def without_torch():
    """A context in which torch cannot compute an LSTM."""
    fail = mock.Mock(side_effect=AssertionError("torch computes"))
    return mock.patch.multiple(torch._VF, lstm=fail, lstm_cell=fail)


# ---- numbers ----------------------------------------------------------------------------------


def inputs(form, dtype):
    if form == "unbatched":
        return torch.randn(STEPS, N, dtype=dtype)
    x = torch.randn(STEPS, BATCH, N, dtype=dtype)
    if form in LENGTHS:
        return pack_padded_sequence(x, LENGTHS[form], enforce_sorted=form != "unsorted")
    return {"one step": x[:1], "strided": x.repeat(1, 1, 2)[:, :, ::2], "one row": x[:, :1]}.get(form, x)


def run(module, dtype, x, hx):
    """The result of a module that is cast to a dtype."""
    x = PackedSequence(x.data.to(dtype), *x[1:]) if isinstance(x, PackedSequence) else x.to(dtype)
    with torch.no_grad():
        return copy.deepcopy(module).to(dtype)(x, hx and tuple(part.to(dtype) for part in hx))


def bound(module, x, hx):
    """4 times the distance of torch's own float32 from float64, scaled to the module's dtype."""
    single, double = (run(module, dtype, x, hx) for dtype in (torch.float32, torch.float64))
    return 4 * distance(single, double) * EPS[next(module.parameters()).dtype]


@pytest.mark.parametrize("form", ["batch", "unbatched", "one step", "one row", "strided", *LENGTHS])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("both", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("proj", [0, P])
def test_an_lstm_is_as_close_to_float64_as_in_torch(form, layers, both, proj):
    for bias, batch_first, state, dtype in itertools.product(
        [True, False], [True, False], [True, False], [torch.float32, torch.float64]
    ):
        plain, ours = pair(nn.LSTM(N, H, layers, bias, batch_first, bidirectional=both, proj_size=proj).to(dtype))
        x = inputs(form, dtype)
        if batch_first and form not in ("unbatched", *LENGTHS):
            x = x.transpose(0, 1)
        lead = (layers * (1 + both), *([] if form == "unbatched" else [1 if form == "one row" else BATCH]))
        hx = [torch.randn(*lead, size, dtype=dtype) for size in (proj or H, H)] if state else None
        with torch.no_grad():
            want = plain(x, hx)
            with without_torch():
                got = ours(x, hx)
        assert type(got) is type(want) is tuple and type(got[0]) is type(want[0]) and type(got[1]) is tuple
        for a, b in zip(flat(got), flat(want), strict=True):
            assert (a.dtype, a.shape, a.stride(), a.requires_grad) == (b.dtype, b.shape, b.stride(), False)
        assert distance(got, run(plain, torch.float64, x, hx)) <= bound(plain, x, hx)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(N,), (1, N), (40, N)])
@pytest.mark.parametrize("state", [True, False])
def test_a_cell_is_as_close_to_float64_as_in_torch(dtype, bias, shape, state):
    plain, ours = pair(nn.LSTMCell(N, H, bias).to(dtype))
    x = torch.randn(shape, dtype=dtype)
    hx = tuple(torch.randn(*shape[:-1], H, dtype=dtype) for _ in range(2)) if state else None
    with torch.inference_mode():
        want = plain(x, hx)
        with without_torch():
            got = ours(x, hx)
    assert type(got) is tuple and all(part.is_inference() for part in got)
    assert [(a.dtype, a.shape) for a in got] == [(b.dtype, b.shape) for b in want]
    assert distance(got, run(plain, torch.float64, x, hx)) <= bound(plain, x, hx)


@pytest.mark.parametrize("storage", ["float16", "bfloat16", "int8"])
def test_a_converted_module_has_the_bits_of_its_storage(storage):
    module = nn.LSTM(N, H, 2)
    ours = convert(copy.deepcopy(module), storage=storage, threads=2)
    x = torch.randn(STEPS, BATCH, N)
    with torch.no_grad():
        y, _ = fastgate.LSTM.from_torch(module, storage=storage)(x)
        same(ours(x)[0], torch.from_numpy(y))
        same(copy.deepcopy(ours)(x), ours(x))
        assert f"storage={storage}" in repr(ours)
        ours.weight_hh_l0[0, 0] = np.inf
        if storage == "int8":  # int8 cannot hold infinity, so torch computes
            same(ours(x), nn.LSTM.forward(ours, x))
        ours.double().load_state_dict(module.state_dict())
        assert distance(ours(x.double()), module.double()(x.double())) < 1e-14  # a float64 module is held as float64


def test_lstms_of_fastgate_torch_can_be_made_without_convert():
    for plain, ours, x in (
        (nn.LSTM(N, H, 2, batch_first=True), LSTM(N, H, num_layers=2, batch_first=True), torch.randn(BATCH, STEPS, N)),
        (nn.LSTMCell(N, H), LSTMCell(N, H, device="cpu", dtype=torch.float32), torch.randn(BATCH, N)),
    ):
        ours.load_state_dict(plain.state_dict())
        with torch.no_grad(), without_torch():
            got = ours(x)
        close(got, plain(x))


# ---- calls that torch computes ----------------------------------------------------------------

X, X1 = torch.randn(STEPS, BATCH, N), torch.randn(BATCH, N)


def test_gradients_are_those_of_torch():
    for plain, x in (nn.LSTM(N, H, 2, proj_size=P), X), (nn.LSTMCell(N, H), X1):
        plain, ours = pair(plain)
        for module in plain, ours:
            module(x)[0].sum().backward()
        same([p.grad for p in ours.parameters()], [p.grad for p in plain.parameters()])
        frozen = [copy.deepcopy(module).requires_grad_(False) for module in (plain, ours)]
        given = [x.clone().requires_grad_() for _ in frozen]
        for module, leaf in zip(frozen, given):
            module(leaf)[0].sum().backward()
        same(given[1].grad, given[0].grad)
        assert not frozen[1](x)[0].requires_grad
        same(frozen[1](x)[0], fastgate_result(plain, x)[0])  # without gradients fastgate computes


def test_dropout_is_that_of_torch():
    plain, ours = pair(nn.LSTM(N, H, 2, dropout=0.5))
    with torch.no_grad():
        torch.manual_seed(1)
        want = plain(X)
        torch.manual_seed(1)
        same(ours(X), want)
        same(ours.eval()(X), fastgate_result(plain, X))
        one = convert(nn.LSTM(N, H, dropout=0.5))
        same(one(X), fastgate_result(one, X))  # dropout acts between layers, so one layer has none


class Tagged(torch.Tensor):
    pass


def inside(context, call):
    with context:
        made = flat(call(X1))
    return [torch.tensor(part.shape) if isinstance(part, FakeTensor) else part for part in made]


def of_duals(call):
    with forward_ad.dual_level():
        made = call(forward_ad.make_dual(X1, X1 + 1))
        return [tuple(forward_ad.unpack_dual(part)) for part in flat(made)]


def counted(call):
    with flop_counter.FlopCounterMode(display=False) as counter:
        return call(X1), torch.tensor(counter.get_total_flops())


WAYS = {
    "autocast": lambda call: inside(torch.autocast("cpu", torch.bfloat16), call),
    "fake": lambda call: inside(FakeTensorMode(allow_non_fake_inputs=True), call),
    "vmap": lambda call: torch.vmap(call)(X1.repeat(3, 1, 1)),
    "jvp": lambda call: torch.func.jvp(call, (X1,), (X1 + 1,)),
    "duals": of_duals,
    "counted": counted,
    "tagged": lambda call: call(X1.as_subclass(Tagged)),
    "empty": lambda call: call(X1[:, None][:, :0] if isinstance(call, nn.LSTM) else X1[:0]),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
@pytest.mark.parametrize("kind", [nn.LSTM, nn.LSTMCell])
def test_transforms_give_what_torch_gives(kind, way):
    plain, ours = pair(kind(N, H).requires_grad_(False))
    ours(X1)
    try:
        want = way(plain)
    except (RuntimeError, NotImplementedError) as error:
        with pytest.raises(type(error)) as raised:
            way(ours)
        assert str(raised.value) == str(error)
        return
    got = way(ours)
    same(got, want)
    assert [type(part) for part in flat(got)] == [type(part) for part in flat(want)]


@pytest.mark.parametrize("kind, x", [(nn.LSTM, X), (nn.LSTMCell, X1)])
def test_other_devices_and_dtypes_are_left_to_torch(kind, x):
    plain, ours = pair(kind(N, H).requires_grad_(False))
    ours(x)
    same(ours.bfloat16()(x.bfloat16()), plain.bfloat16()(x.bfloat16()))
    assert all(part.is_meta for part in flat(ours.to("meta")(x.to("meta", torch.bfloat16))))


ERRORS = {
    "features": (torch.zeros(3, 2, N + 1), None),
    "axes": (torch.zeros(1, 3, 2, N), None),
    "no step": (torch.zeros(0, 2, N), None),
    "dtype": (torch.zeros(3, 2, N, dtype=torch.float64), None),
    "integers": (torch.zeros(3, 2, N, dtype=torch.int64), None),
    "rows of h": (torch.zeros(3, 2, N), (torch.zeros(1, 3, H), torch.zeros(1, 3, H))),
    "axes of h": (torch.zeros(3, 2, N), (torch.zeros(2, H), torch.zeros(2, H))),
    "h of no batch": (torch.zeros(3, N), (torch.zeros(1, 1, H), torch.zeros(1, 1, H))),
    "dtype of h": (torch.zeros(3, 2, N), (torch.zeros(1, 2, H).double(), torch.zeros(1, 2, H))),
    "no c": (torch.zeros(3, 2, N), (torch.zeros(1, 2, H),)),
    "a list": ([1.0], None),
    "an array": (np.zeros((3, 2, N), np.float32), None),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_those_of_torch(name):
    x, hx = ERRORS[name]
    cell_hx = hx and tuple(part[0] for part in hx)
    cases = [(nn.LSTM(N, H), x, hx)]
    if name not in ("no step", "axes of h"):
        cases.append((nn.LSTMCell(N, H), x[0] if name != "axes" else x, cell_hx))
    for module, given, state in cases:
        plain, ours = pair(module)
        with torch.no_grad():
            with pytest.raises(Exception) as want:  # noqa: PT011
                plain(given, state)
            with pytest.raises(want.type) as got:
                ours(given, state)
        assert str(got.value) == str(want.value)


# ---- weights that change ----------------------------------------------------------------------


def edit(module, place=(0, 0), mode=torch.no_grad):
    with mode():
        module.weight_hr_l1[place] += 1


def plus(module):
    return {name: value + 0.1 for name, value in module.state_dict().items()}


CHANGES = {
    "edit": edit,
    "edit in inference mode": lambda m: edit(m, (3, 2), torch.inference_mode),
    "data": lambda m: m.bias_ih_l1.data.add_(1),
    "other data": lambda m: setattr(m.weight_hh_l0, "data", m.weight_hh_l0.data * 2),
    "checkpoint": lambda m: m.load_state_dict(plus(m)),
    "assigned checkpoint": lambda m: m.load_state_dict(plus(m), assign=True),
    "parameter": lambda m: setattr(m, "bias_hh_l0", nn.Parameter(m.bias_hh_l0.detach() + 1)),
    "float64 and back": lambda m: m.double().float().load_state_dict(plus(m)),
    "shared memory": lambda m: m.share_memory().bias_ih_l0.data.add_(1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_changed_weights_are_used_and_unchanged_ones_not_packed_again(change):
    ours = LSTM(N, H, 2, proj_size=P)
    with torch.no_grad():
        before, lstm = ours(X), ours._fastgate.found[-1]
        same(before, fastgate_result(ours, X))
        assert ours.eval()(X) and ours._fastgate.found[-1] is lstm
    change(ours)
    with torch.no_grad():
        same(ours(X), fastgate_result(ours, X))
        assert distance(ours(X), before) > 0


def test_changed_weights_that_are_inference_tensors_are_used():
    with torch.inference_mode():
        ours = LSTM(N, H)
        same(ours(X), fastgate_result(ours, X))
        lstm = ours._fastgate.found[-1]
        same(ours(X), fastgate_result(ours, X))
        assert ours._fastgate.found[-1] is lstm
        ours.weight_hh_l0[5, 7] += 1  # inference tensors have no version that would tell of the change
        same(ours(X), fastgate_result(ours, X))


NORMS = [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("norm", NORMS)
def test_weights_that_torch_computes_are_used(norm, when):
    plain = nn.LSTM(N, H).eval()
    ours = copy.deepcopy(plain)
    if when == "before":
        convert(ours)
    for module in plain, ours:
        torch.manual_seed(0)
        norm(module, "weight_hh_l0")
    convert(ours)
    assert list(ours.state_dict()) == list(plain.state_dict())
    with torch.no_grad():
        for _ in range(2):
            want = plain(X)
            with without_torch():
                close(ours(X), want)
            for module in plain, ours:
                for parameter in module.parameters():
                    parameter += 0.1
        same(ours(X1[None]), plain(X1[None]))  # torch computes a sequence as short as this
    if norm is not nn.utils.weight_norm:
        same(copy.deepcopy(ours)(X), ours(X))
        for module in plain, ours:
            nn.utils.parametrize.remove_parametrizations(module, "weight_hh_l0")
        assert type(ours) is LSTM
        with torch.no_grad():
            same(ours(X), fastgate_result(plain, X))


def test_functional_call_uses_the_given_weights():
    plain, ours = pair(nn.LSTM(N, H).requires_grad_(False))
    other = {name: value * 0.5 for name, value in plain.state_dict().items()}
    call = torch.func.functional_call
    same(ours(X), fastgate_result(plain, X))
    close(call(ours, other, (X,)), call(plain, other, (X,)))
    same(ours(X), fastgate_result(plain, X))

    grad = torch.func.grad(lambda w, module: call(module, w, (X,))[0].square().sum())
    same(list(grad(other, ours).values()), list(grad(other, plain).values()))


# ---- models stay modules of torch --------------------------------------------------------------


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.front = nn.Linear(N, N)
        self.lstm = nn.LSTM(N, H, 2, batch_first=True, bidirectional=True)
        self.cell = nn.LSTMCell(2 * H, H)

    def forward(self, x: torch.Tensor):
        y, (h, c) = self.lstm(self.front(x))
        h, c = self.cell(y[:, -1], (h[0], c[-1]))
        return h, c


@pytest.fixture
def models():
    return pair(Model().eval())


def test_a_model_is_converted_in_place_and_keeps_its_names(models):
    plain, ours = models
    ours.again = ours.lstm
    assert convert(ours) is ours
    assert ours.again is ours.lstm
    del ours.again
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert isinstance(ours.lstm, nn.LSTM) and type(ours.lstm) is LSTM and type(ours.cell) is LSTMCell
    assert type(ours.front) is nn.Linear
    plain.load_state_dict(ours.state_dict())
    ours.load_state_dict(plain.state_dict())


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


X3 = torch.randn(3, STEPS, N)
MADE = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "save": saved_and_loaded,
    "trace": lambda model: torch.jit.trace(model, X3),
    "script": torch.jit.script,
    "export": lambda model: torch.export.export(model, (X3,)).module(),
    "fx": torch.fx.symbolic_trace,
    "parallel": nn.DataParallel,
}


@pytest.mark.parametrize("made", MADE.values(), ids=list(MADE))
def test_copies_and_exports_are_those_of_a_plain_model(models, made):
    with torch.no_grad():
        want, got = map(made, models)
        close(got(X3), models[0](X3))
        close(got(X3), want(X3))
    assert type(got).__name__ == type(want).__name__ and type(models[1].lstm) is LSTM
    if made in list(MADE.values())[:4]:
        assert type(got.lstm) is LSTM and type(got.cell) is LSTMCell
    elif made is not nn.DataParallel:
        assert got.code == want.code


def test_pickles_have_no_packed_weights(models):
    with torch.no_grad():
        models[1](X3)
    assert len(pickle.dumps(models[1])) < len(pickle.dumps(models[0])) + 600


def test_copies_do_not_share_weights():
    ours = LSTM(N, H)
    with torch.no_grad():
        ours(X)
        other = copy.deepcopy(ours)
        other.weight_hh_l0.zero_()
        for module in ours, other:
            same(module(X), fastgate_result(module, X))


def test_onnx_exports_have_the_nodes_of_a_plain_model(models):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    files = []
    for model in models:
        files.append(io.BytesIO())
        torch.onnx.export(model, (torch.zeros(3, STEPS, N),), files[-1], dynamo=False)
    want, got = (onnx.load_from_string(file.getvalue()).graph.node for file in files)
    assert [node.op_type for node in got] == [node.op_type for node in want]


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_compiled_models_call_fastgate(models, backend):
    if backend == "inductor" and not shutil.which("g++"):
        pytest.skip("torch.compile needs a C++ compiler")
    plain, ours = models
    with torch.no_grad():
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        compiled = torch.compile(ours, backend=backend)
        close(compiled(X3), plain(X3))
        assert ours.lstm._fastgate.found, "fastgate did not compute the LSTM"
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, "more than the cell was compiled"
        for model in models:
            model.lstm.weight_hh_l0.zero_()
        close(compiled(X3), plain(X3))
    cells = pair(nn.LSTMCell(N, H))
    with torch.no_grad():
        want, got = (torch.compile(cell, backend="eager", fullgraph=True)(X1) for cell in cells)
        close(got, want)
    torch._dynamo.reset()


def test_hooks_are_called(models):
    told = []
    for model in models:
        model.lstm.register_forward_pre_hook(lambda module, given: told.append("before"))
        model.lstm.register_forward_hook(lambda module, given, out: told.append(out[0].shape))
        with torch.no_grad():
            model(torch.zeros(3, STEPS, N))
    assert told[:2] == told[2:] and len(told) == 4


# ---- classes ----------------------------------------------------------------------------------


class Own(nn.LSTM):
    """A subclass that has no forward of its own, so that it is converted."""

    def __init__(self, *args):
        super().__init__(*args)
        self.extra = 3


class Forward(nn.LSTM):
    def forward(self, x):
        return super().forward(x * 2)


def test_subclasses_without_a_forward_are_converted():
    ours = convert(Own(N, H))
    assert isinstance(ours, (Own, LSTM)) and isinstance(ours, Own)
    for module in ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)):
        assert type(module) is type(ours) and module.extra == 3
        with torch.no_grad():
            same(module(X), fastgate_result(ours, X))
    assert type(convert(ours)) is type(ours)
    further = convert(type("Further", (LSTM,), {})(N, H), storage="float16")
    assert type(further).__name__ == "Further" and further._fastgate.storage == "float16"
    model = convert(nn.Sequential(Forward(N, H), nn.LSTM(H, H)))
    assert [type(module) for module in model] == [Forward, LSTM]


REFUSED = [
    (nn.Linear(2, 2), {}, "no torch.nn.LSTM or LSTMCell in this Linear$"),
    (Forward(N, H), {}, "in this Forward$"),
    (torch.jit.script(nn.LSTMCell(2, 2)), {}, "before scripting it, or use LSTM.from_torch"),
    ({}, {}, "takes a torch.nn.Module, not dict"),
    (nn.LSTM(2, 2), {"storage": "float8"}, "'float8' does not exist"),
    (nn.LSTM(2, 2), {"storage": "float64"}, r"write model.double\(\)"),
    (nn.LSTM(2, 2), {"threads": 0}, "threads must be"),
]


@pytest.mark.parametrize("model, options, why", REFUSED)
def test_bad_arguments_are_refused(model, options, why):
    kind = type(model)
    with pytest.raises(TypeError if kind is dict else ValueError, match=why):
        convert(model, **options)
    assert type(model) is kind


def test_threads_may_call_one_module():
    ours = LSTM(N, H, 2)
    want, got = fastgate_result(ours, X), []

    def run():
        with torch.no_grad():
            got.extend(ours(X) for _ in range(50))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for act in threading.Thread.start, threading.Thread.join:
        [*map(act, threads)]
    assert len(got) == 4 * 50
    for result in got:
        same(result, want)
