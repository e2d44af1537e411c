"""LSTMs from Paddle compute what they did there."""

import numpy as np
import pytest
from fastgate import weights
from helpers import draw
from helpers.weights import B, T, arrays, distance, same

H, N = 5, 3


def cell(n=N, seed=0, projection=0):
    shapes = {"weight_ih": (4 * H, n), "weight_hh": (4 * H, projection or H), "bias_ih": (4 * H,), "bias_hh": (4 * H,)}
    made = {name: draw(*shape, seed=seed + k) for k, (name, shape) in enumerate(shapes.items())}
    return made | ({"weight_ho": draw(H, projection, seed=seed + 9)} if projection else {})


def state_dict(cells, both=False, projection=False, place=""):
    """The state dict of a paddle.nn.LSTM: flat names such as weight_ih_l0, then those of its cells.

    With projections, Paddle pairs the flat names with a list of arrays that has weight_ho too: they do not match.
    """
    flat, copies = {}, {}
    for k, layer in enumerate(cells):
        names = [f"{name}_l{k}{end}" for end in ["", "_reverse"][: len(layer)] for name in list(cell())]
        tensors = [tensor for each in layer for tensor in each.values()]
        flat |= dict(zip(names, tensors))
        for way, each in zip(("cell_fw", "cell_bw") if both else ("cell",), layer):
            copies |= {f"{place}{k}.{way}.{name}": tensor for name, tensor in each.items()}
    return {place + name: tensor for name, tensor in flat.items()} | copies


def as_torch(layer):
    return {key.replace("weight_ho", "projection"): a.T if key == "weight_ho" else a for key, a in layer.items()}


@pytest.mark.parametrize("place, prefix", [("", ""), ("a.", ""), ("model.a.", "model."), ("a.b.", "a.b.")])
@pytest.mark.parametrize("projection", [0, 2])
@pytest.mark.parametrize("both", [False, True])
def test_a_state_dict_gives_the_lstm(api, both, projection, place, prefix):
    sizes = [N, (1 + both) * (projection or H)]
    cells = [[cell(n, 30 * k + 90 * d, projection) for d in range(1 + both)] for k, n in enumerate(sizes)]
    state = state_dict(cells, both, projection, place)
    layers = [tuple(map(as_torch, layer)) if both else as_torch(layer[0]) for layer in cells]
    want = api.LSTM(layers, batch_first=True)
    same(api.LSTM.from_paddle(state, prefix=prefix), want)
    assert not api.LSTM.from_paddle(state, prefix=prefix, batch_first=False).batch_first
    if not projection:
        flat = {key: array for key, array in state.items() if "cell" not in key}
        same(api.LSTM.from_paddle(flat, prefix=prefix), want)


@pytest.mark.parametrize(
    "place, prefix",
    [
        ("", ""),  # an LSTMCell
        ("cell.", ""),  # an RNN, or a model with an LSTMCell named "cell"
        ("cell.", "cell."),
        ("rnns.0.cell.", "rnns.0."),
        ("rnns.0.cell.", "rnns."),
        ("rnns.1.cell.", ""),
    ],
)
def test_a_cell_is_found_by_the_start_of_its_place(api, place, prefix):
    one = cell()
    state = {place + name: array for name, array in one.items()}
    same(api.LSTM.from_paddle(state, prefix=prefix), api.LSTM([one], batch_first=True))


def test_the_cells_of_a_birnn_are_two_directions(api):
    pair = cell(), cell(seed=9)
    state = {f"{way}.{name}": a for way, one in zip(("cell_fw", "cell_bw"), pair) for name, a in one.items()}
    same(api.LSTM.from_paddle(state), api.LSTM([pair], batch_first=True))


def test_the_cells_of_a_list_of_rnns_are_not_a_stack(api):
    state = {f"rnns.{k}.cell.{name}": a for k, n in enumerate((N, H)) for name, a in cell(n, 9 * k).items()}
    with pytest.raises(ValueError, match=r"no 'weight_ih_l0': prefix may be 'rnns\.0\.', 'rnns\.1\.'"):
        weights.from_paddle(state)
    same(api.LSTM.from_paddle(state, prefix="rnns.1."), api.LSTM([cell(H, 9)], batch_first=True), H)


@pytest.mark.parametrize(
    "source, error, told",
    [
        ([1], TypeError, "from_paddle takes an LSTM, an LSTMCell or a state dict, not builtins.list"),
        ({0: 1}, TypeError, "the keys of a state dict must be strings"),
        ({"fc.weight": 1}, ValueError, "no 'weight_ih_l0': the keys are 'fc.weight'"),
        ({"cell.weight_ih": 1}, ValueError, "no 'weight_hh_l0' beside 'weight_ih_l0'"),
    ],
)
def test_wrong_state_dicts_are_refused(source, error, told):
    with pytest.raises(error, match=told):
        weights.from_paddle(source)


# ---- Paddle itself ------------------------------------------------------------------------------


@pytest.fixture
def paddle():
    return pytest.importorskip("paddle", reason="paddlepaddle is not installed")


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("way", ["forward", "bidirect"])
@pytest.mark.parametrize("major", [False, True])
def test_a_paddle_lstm_computes_what_it_did(api, paddle, layers, way, major):
    paddle.seed(0)
    module = paddle.nn.LSTM(N, H, layers, direction=way, time_major=major)
    x = draw(T, B, N)
    y, (h, c) = module(paddle.to_tensor(x))
    lstm = api.LSTM.from_paddle(module)
    assert lstm.batch_first != major and lstm.num_layers == layers and lstm.bidirectional == (way == "bidirect")
    assert distance(arrays(lstm(x)), [np.asarray(each) for each in (y, h, c)]) < 1e-6
    same(api.LSTM.from_paddle(module.state_dict(), batch_first=not major), lstm)


@pytest.mark.parametrize(
    "how",
    [
        {"proj_size": 2},
        {"proj_size": 2, "direction": "bidirect"},
        {"bias_ih_attr": False},
        {"bias_hh_attr": False},
        {"bias_ih_attr": False, "bias_hh_attr": False},
    ],
    ids=str,
)
def test_a_paddle_lstm_computes_what_its_cells_did(api, paddle, how):
    """Paddle 3.3 crashes when it runs an LSTM with these options, but not when it runs the RNNs inside it."""
    paddle.seed(0)
    module = paddle.nn.LSTM(N, H, **how)
    x = draw(B, T, N)
    state = paddle.zeros([B, how.get("proj_size", H)]), paddle.zeros([B, H])  # by default h has the wrong size
    [layer] = module
    want, _ = layer(paddle.to_tensor(x), (state, state) if "direction" in how else state)
    assert distance(arrays(api.LSTM.from_paddle(module)(x))[:1], [np.asarray(want)]) < 1e-6


def test_paddle_cells_compute_what_they_did(api, paddle):
    cells = [paddle.nn.LSTMCell(N, H) for _ in range(2)]
    x = draw(B, T, N)
    for module in (paddle.nn.RNN(cells[0]), paddle.nn.BiRNN(*cells)):
        y, _ = module(paddle.to_tensor(x))
        assert distance([api.LSTM.from_paddle(module.state_dict())(x)[0]], [np.asarray(y)]) < 1e-6
        with pytest.raises(TypeError, match="RNN is neither a paddle.nn.LSTM nor a paddle.nn.LSTMCell: give"):
            weights.from_paddle(module)
    same(api.LSTM.from_paddle(cells[0]), api.LSTM.from_paddle(cells[0].state_dict()))
    with pytest.raises(TypeError, match="GRU is neither a paddle"):
        weights.from_paddle(paddle.nn.GRU(N, H))


def test_a_paddle_file_gives_the_lstm(api, paddle, tmp_path):
    model = paddle.nn.Sequential(paddle.nn.Linear(N, N), paddle.nn.LSTM(N, H))
    paddle.save(model.state_dict(), str(tmp_path / "model.pdparams"))
    want = api.LSTM.from_paddle(model[1])
    for how in ({}, {"return_numpy": True}):
        state = paddle.load(str(tmp_path / "model.pdparams"), **how)
        same(api.LSTM.from_paddle(state), want)
        same(api.LSTM.from_paddle(state, prefix="1."), want)
