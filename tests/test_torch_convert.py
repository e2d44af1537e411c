"""Modules that fastgate.torch converts give what torch gives, and stay what they were."""

import contextlib
import copy
import io
import itertools
import pickle
import shutil
import subprocess
import sys
import threading
import warnings

import fastgate
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from fastgate.torch import LSTM, LSTMCell, convert  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence  # noqa: E402
from torch.utils import flop_counter  # noqa: E402

pytestmark = [
    pytest.mark.skipif(fastgate._core is None, reason="about the compiled core"),
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
    """The tensors of what a module returns."""
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, PackedSequence):
        return [part for part in result if part is not None]
    return [tensor for part in result for tensor in flat(part)]


def differences(a, b):
    pairs = zip(flat(a), flat(b), strict=True)
    return torch.cat([(x.double() - y.double()).abs().flatten() for x, y in pairs])


EPS = {torch.float32: 1.0, torch.float64: 2.0**-29}  # of float32's


def distance(a, b):
    """The root of the mean square, since the largest of a few differences is a matter of chance."""
    return differences(a, b).square().mean().sqrt().item()


def same(a, b):
    """The same bits, or NaN."""
    for x, y in zip(flat(a), flat(b), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        assert torch.equal(x.nan_to_num(7), y.nan_to_num(7))


def close(a, b):
    assert differences(a, b).max() < 2e-6
    assert [x.shape for x in flat(a)] == [y.shape for y in flat(b)]


def fastgates(module, x):
    """What fastgate gives for an nn.LSTM or nn.LSTMCell: bits that tell who has computed."""
    kind = fastgate.LSTM if isinstance(module, nn.LSTM) else fastgate.LSTMCell
    y, state = kind.from_torch(module.state_dict())(np.asarray(x))
    return [torch.from_numpy(a) for a in (y, *(state if kind is fastgate.LSTM else [state]))]


@pytest.fixture
def by_fastgate(monkeypatch):
    """A context in which torch cannot compute an LSTM."""

    @contextlib.contextmanager
    def context():
        def fail(*args):
            raise AssertionError("torch computes")

        with monkeypatch.context() as patch:
            patch.setattr(torch._VF, "lstm", fail)
            patch.setattr(torch._VF, "lstm_cell", fail)
            yield

    return context


# ---- numbers ----------------------------------------------------------------------------------


def inputs(form, dtype):
    if form == "unbatched":
        return torch.randn(STEPS, N, dtype=dtype)
    x = torch.randn(STEPS, BATCH, N, dtype=dtype)
    if form in LENGTHS:
        return pack_padded_sequence(x, LENGTHS[form], enforce_sorted=form != "unsorted")
    return {"one step": x[:1], "strided": x.repeat(1, 1, 2)[:, :, ::2], "one row": x[:, :1]}.get(form, x)


def run(module, dtype, x, hx):
    """What a module gives in a dtype."""
    x = PackedSequence(x.data.to(dtype), *x[1:]) if isinstance(x, PackedSequence) else x.to(dtype)
    with torch.no_grad():
        return copy.deepcopy(module).to(dtype)(x, hx and tuple(part.to(dtype) for part in hx))


def bound(module, x, hx):
    """4 times torch's own distance in float32 from float64, scaled to the dtype."""
    single, double = (run(module, dtype, x, hx) for dtype in (torch.float32, torch.float64))
    return 4 * distance(single, double) * EPS[next(module.parameters()).dtype]


@pytest.mark.parametrize("form", ["batch", "unbatched", "one step", "one row", "strided", *LENGTHS])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("both", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("proj", [0, P])
def test_lstm(by_fastgate, form, layers, both, proj):
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
            with by_fastgate():
                got = ours(x, hx)
        assert type(got) is type(want) is tuple and type(got[0]) is type(want[0]) and type(got[1]) is tuple
        for a, b in zip(flat(got), flat(want), strict=True):
            assert (a.dtype, a.shape, a.stride(), a.requires_grad) == (b.dtype, b.shape, b.stride(), False)
        assert distance(got, run(plain, torch.float64, x, hx)) <= bound(plain, x, hx)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(N,), (1, N), (40, N)])
@pytest.mark.parametrize("state", [True, False])
def test_cell(by_fastgate, dtype, bias, shape, state):
    plain, ours = pair(nn.LSTMCell(N, H, bias).to(dtype))
    x = torch.randn(shape, dtype=dtype)
    hx = tuple(torch.randn(*shape[:-1], H, dtype=dtype) for _ in range(2)) if state else None
    with torch.inference_mode():
        want = plain(x, hx)
        with by_fastgate():
            got = ours(x, hx)
    assert type(got) is tuple and all(part.is_inference() for part in got)
    assert [(a.dtype, a.shape) for a in got] == [(b.dtype, b.shape) for b in want]
    assert distance(got, run(plain, torch.float64, x, hx)) <= bound(plain, x, hx)


@pytest.mark.parametrize("storage", ["float16", "bfloat16", "int8"])
def test_storage(storage):
    module = nn.LSTM(N, H, 2)
    ours = convert(copy.deepcopy(module), storage=storage, threads=2)
    x = torch.randn(STEPS, BATCH, N)
    with torch.no_grad():
        y, _ = fastgate.LSTM.from_torch(module, storage=storage)(x)
        same(ours(x)[0], torch.from_numpy(y))
        same(copy.deepcopy(ours)(x), ours(x))
        assert f"storage={storage}" in repr(ours)
        exact = ours.double()(x.double())
        assert distance(exact, module.double()(x.double())) < 1e-14  # float64 stays float64


def test_by_themselves(by_fastgate):
    plain, ours = nn.LSTM(N, H, 2, batch_first=True), LSTM(N, H, 2, batch_first=True)
    ours.load_state_dict(plain.state_dict())
    cell, our_cell = nn.LSTMCell(N, H), LSTMCell(N, H, device="cpu", dtype=torch.float32)
    our_cell.load_state_dict(cell.state_dict())
    x = torch.randn(BATCH, STEPS, N)
    with torch.no_grad(), by_fastgate():
        got, got_cell = ours(x), our_cell(x[0])
    close(got, plain(x))
    close(got_cell, cell(x[0]))


# ---- what torch computes ----------------------------------------------------------------------

X, X1 = torch.randn(STEPS, BATCH, N), torch.randn(BATCH, N)


def test_gradients():
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
        same(frozen[1](x)[0], fastgates(plain, x)[0])  # no gradient is wanted, so fastgate computes


def test_training_goes_on():
    plain, ours = pair(nn.LSTM(N, H))
    for module in plain, ours:
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            module(X)[0].square().sum().backward()
            optimizer.step()
            with torch.no_grad():
                module(X)
    same(list(ours.parameters()), list(plain.parameters()))
    with torch.no_grad():
        same(ours(X), fastgates(plain, X))


def test_dropout():
    plain, ours = pair(nn.LSTM(N, H, 2, dropout=0.5))
    with torch.no_grad():
        torch.manual_seed(1)
        want = plain(X)
        torch.manual_seed(1)
        same(ours(X), want)
        same(ours.eval()(X), fastgates(plain, X))
        one = convert(nn.LSTM(N, H, dropout=0.5))
        same(one(X), fastgates(one, X))  # between layers, of which there are none


class Tagged(torch.Tensor):
    pass


def in_autocast(call):
    with torch.autocast("cpu", torch.bfloat16):
        return call(X1)


def in_vmap(call):
    return torch.vmap(call)(X1.repeat(3, 1, 1))


def in_jvp(call):
    return torch.func.jvp(call, (X1,), (X1 + 1,))


def of_duals(call):
    with torch.autograd.forward_ad.dual_level():
        made = call(torch.autograd.forward_ad.make_dual(X1, X1 + 1))
        return [tuple(torch.autograd.forward_ad.unpack_dual(part)) for part in flat(made)]


def observed(call):
    with flop_counter.FlopCounterMode(display=False) as counter:
        return call(X1), torch.tensor(counter.get_total_flops())


def tagged(call):
    return call(X1.as_subclass(Tagged))


def empty(call):
    return call(X1[:, None][:, :0] if isinstance(call, nn.LSTM) else X1[:0])


def fake(call):
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        shapes = [part.shape for part in flat(call(X1))]
    return [torch.tensor(shape) for shape in shapes]


WAYS = [in_autocast, in_vmap, in_jvp, of_duals, observed, tagged, empty, fake]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.LSTMCell])
def test_transforms(kind, way):
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


def test_other_devices_and_dtypes():
    for kind, x in (nn.LSTM, X), (nn.LSTMCell, X1):
        plain, ours = pair(kind(N, H))
        with torch.no_grad():
            ours(x)
            for change in (nn.Module.bfloat16, lambda m: m.to("meta")):
                plain, ours = change(plain), change(ours)
                like = next(plain.parameters())
                want, got = plain(x.to(like)), ours(x.to(like))
                assert [(a.device, a.dtype) for a in flat(got)] == [(a.device, a.dtype) for a in flat(want)]
                if like.device.type == "cpu":
                    same(got, want)


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
def test_errors_are_torchs(name):
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


def replace_data(module):
    module.weight_hh_l0.data = module.weight_hh_l0.data * 2


def edit_data(module):
    module.bias_ih_l1.data += 1


def edit(module):
    with torch.no_grad():
        module.weight_hr_l1[0, 0] += 1


def edit_in_inference_mode(module):
    with torch.inference_mode():
        module.weight_ih_l0[3, 2] += 1


def load(module):
    module.load_state_dict({name: value + 0.1 for name, value in module.state_dict().items()})


def assign(module):
    state = {name: value + 0.1 for name, value in module.state_dict().items()}
    module.load_state_dict(state, assign=True)


def new_parameter(module):
    module.bias_hh_l0 = nn.Parameter(module.bias_hh_l0.detach() + 1)


def there_and_back(module):
    module.double()
    new_parameter(module)
    module.float()


def shared_memory(module):
    module.share_memory()
    edit_data(module)


CHANGES = [replace_data, edit_data, edit, edit_in_inference_mode, load, assign, new_parameter, there_and_back,
           shared_memory]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changed_weights(change):
    ours = LSTM(N, H, 2, proj_size=P)
    with torch.no_grad():
        before = ours(X)
        same(before, fastgates(ours, X))
    change(ours)
    with torch.no_grad():
        same(ours(X), fastgates(ours, X))
        assert distance(ours(X), before) > 0


def test_packed_once():
    ours = LSTM(N, H)
    with torch.no_grad():
        ours(X)
        lstm = ours._fastgate.found[-1]
        ours.train()(X)
        ours.eval()(X)
        assert ours._fastgate.found[-1] is lstm


def test_inference_tensors():
    with torch.inference_mode():
        ours = LSTM(N, H)
        same(ours(X), fastgates(ours, X))
        lstm = ours._fastgate.found[-1]
        same(ours(X), fastgates(ours, X))
        assert ours._fastgate.found[-1] is lstm
        ours.weight_hh_l0[5, 7] += 1  # one element, which no version tells of
        same(ours(X), fastgates(ours, X))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm,
                                  nn.utils.parametrizations.spectral_norm], ids=["hook", "weight", "spectral"])  # fmt: skip
def test_computed_weights(by_fastgate, norm, when):
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
            with by_fastgate():
                close(ours(X), want)
            for module in plain, ours:
                for parameter in module.parameters():
                    parameter += 0.1
        close(ours(X1[None]), plain(X1[None]))  # short: torch computes it
        close(ours(X1[None]), plain(X1[None]))
    if norm is not nn.utils.weight_norm:
        same(copy.deepcopy(ours)(X), ours(X))
        for module in plain, ours:
            nn.utils.parametrize.remove_parametrizations(module, "weight_hh_l0")
        assert type(ours) is LSTM
        with torch.no_grad():
            same(ours(X), fastgates(plain, X))


def test_functional_call():
    plain, ours = pair(nn.LSTM(N, H).requires_grad_(False))
    other = {name: value * 0.5 for name, value in plain.state_dict().items()}
    call = torch.func.functional_call
    same(ours(X), fastgates(plain, X))
    close(call(ours, other, (X,)), call(plain, other, (X,)))
    same(ours(X), fastgates(plain, X))

    def loss(module):
        return lambda weights: call(module, weights, (X,))[0].square().sum()

    want, got = (torch.func.grad(loss(module))(other) for module in (plain, ours))
    same(list(got.values()), list(want.values()))



# ---- a model stays what it was ----------------------------------------------------------------


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


def checked(models, made):
    """The module that is made of the converted model gives what that of the plain one gives, and what it gave."""
    x = torch.randn(3, STEPS, N)
    with torch.no_grad():
        want, got = made(models[0]), made(models[1])
        close(got(x), models[0](x))
        same(models[1](x), models[1](x))
        close(got(x), want(x))
        return want, got


def test_converted_in_place(models):
    plain, ours = models
    assert convert(ours) is ours
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert isinstance(ours.lstm, nn.LSTM) and type(ours.lstm) is LSTM and type(ours.cell) is LSTMCell
    assert type(ours.front) is nn.Linear
    plain.load_state_dict(ours.state_dict())
    ours.load_state_dict(plain.state_dict())


def test_copies(models):
    for made in (copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved_and_loaded, lambda m: copy.copy(m)):
        _, got = checked(models, made)
        assert type(got.lstm) is LSTM
    models[1](torch.zeros(1, 3, N))
    assert len(pickle.dumps(models[1])) < len(pickle.dumps(models[0])) + 600  # nothing packed


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def test_copies_do_not_share():
    ours = LSTM(N, H)
    with torch.no_grad():
        ours(X)
        other = copy.deepcopy(ours)
        other.weight_hh_l0.zero_()
        for module in ours, other:
            same(module(X), fastgates(module, X))


def graph(module):
    return sorted({node.kind() for node in module.inlined_graph.nodes()})


def test_trace(models):
    x = torch.randn(3, STEPS, N)
    want, got = checked(models, lambda model: torch.jit.trace(model, x))
    assert graph(got) == graph(want) and "aten::lstm" in graph(got)


def test_script(models):
    want, got = checked(models, torch.jit.script)
    assert want.code == got.code and graph(got) == graph(want)
    assert type(models[1].lstm) is LSTM


def test_export(models):
    x = torch.randn(3, STEPS, N)
    want, got = checked(models, lambda model: torch.export.export(model, (x,)).module())
    assert got.code == want.code


def test_fx(models):
    want, got = checked(models, torch.fx.symbolic_trace)
    assert got.code == want.code


def test_onnx(models):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    files = []
    for model in models:
        files.append(io.BytesIO())
        torch.onnx.export(model, (torch.zeros(3, STEPS, N),), files[-1], dynamo=False)
    want, got = (onnx.load_from_string(file.getvalue()).graph.node for file in files)
    assert [node.op_type for node in got] == [node.op_type for node in want]


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_compile(by_fastgate, backend):
    if backend == "inductor" and not shutil.which("g++"):
        pytest.skip("torch.compile needs a C++ compiler")
    plain, ours = pair(nn.Sequential(nn.Linear(N, N), nn.LSTM(N, H)))
    with torch.no_grad():
        torch._dynamo.reset()
        compiled = torch.compile(ours, backend=backend)
        with by_fastgate():  # as torch does, compile leaves an LSTM as it is
            got = compiled(X)
        close(got, plain(X))
        plain[1].weight_hh_l0.zero_()
        ours[1].weight_hh_l0.zero_()
        close(compiled(X), plain(X))
    cells = pair(nn.LSTMCell(N, H))
    with torch.no_grad():
        want, got = (torch.compile(cell, backend="eager", fullgraph=True)(X1) for cell in cells)
        close(got, want)
    torch._dynamo.reset()


def test_hooks(models):
    told = []
    for model in models:
        model.lstm.register_forward_pre_hook(lambda module, given: told.append("before"))
        model.lstm.register_forward_hook(lambda module, given, out: told.append(out[0].shape))
        with torch.no_grad():
            model(torch.zeros(3, STEPS, N))
    assert told[:2] == told[2:] and len(told) == 4


def test_shared_module():
    lstm = nn.LSTM(N, N)
    ours = convert(nn.ModuleList([lstm, nn.Sequential(lstm)]))
    assert ours[0] is ours[1][0] and type(lstm) is LSTM


def test_data_parallel(models):
    checked(models, nn.DataParallel)


def test_default_device():
    ours = LSTM(N, H)
    with torch.no_grad(), torch.device("meta"):
        got = ours(X)
    same(got, fastgates(ours, X))


# ---- what is converted ------------------------------------------------------------------------


class Own(nn.LSTM):
    """A subclass without a forward."""

    def __init__(self, *args):
        super().__init__(*args)
        self.extra = 3


class Forward(nn.LSTM):
    def forward(self, x):
        return super().forward(x * 2)


class Further(LSTM):
    pass


def test_subclasses():
    ours = convert(Own(N, H))
    assert isinstance(ours, (Own, LSTM)) and isinstance(ours, Own)
    for module in ours, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)):
        assert type(module) is type(ours) and module.extra == 3
        with torch.no_grad():
            same(module(X), fastgates(ours, X))
    assert type(convert(ours)) is type(ours)
    further = convert(Further(N, H), storage="float16")
    assert type(further) is Further and further._fastgate.storage == "float16"
    model = convert(nn.Sequential(Forward(N, H), nn.LSTM(H, H)))
    assert [type(module) for module in model] == [Forward, LSTM]


def test_nothing_to_convert():
    for model in nn.Linear(2, 2), Forward(N, H), nn.GRU(2, 2):
        with pytest.raises(ValueError, match=f"no torch.nn.LSTM or LSTMCell in this {type(model).__name__}$"):
            convert(model)
    with pytest.raises(ValueError, match="before it is scripted, or use LSTM.from_torch"):
        convert(torch.jit.script(Model()))
    with pytest.raises(TypeError, match="takes a torch.nn.Module, not dict"):
        convert({})
    module = nn.LSTM(2, 2)
    with pytest.raises(ValueError, match="'float8' does not exist"):
        convert(module, storage="float8")
    with pytest.raises(ValueError, match=r"write model.double\(\)"):
        convert(module, storage="float64")
    with pytest.raises(ValueError, match="threads must be"):
        convert(module, threads=0)
    assert type(module) is nn.LSTM


def test_storage_that_cannot_hold_the_weights():
    ours = convert(nn.LSTM(N, H), storage="int8")
    with torch.no_grad():
        ours.weight_hh_l0[0, 0] = np.inf
        same(ours(X), nn.LSTM.forward(ours, X))  # torch computes it


def test_threads():
    ours = LSTM(N, H, 2)
    want, got = fastgates(ours, X), []

    def run():
        with torch.no_grad():
            got.extend(ours(X) for _ in range(50))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 200
    for result in got:
        same(result, want)


def test_torch_is_imported_only_when_asked_for():
    code = "import sys, fastgate, fastgate.weights; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
