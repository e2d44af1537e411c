"""LSTM cells of Flax compute what they did there. The truth is the equations in its documentation, and Flax itself."""

import os

import numpy as np
import pytest
from fastgate import weights
from helpers import draw
from helpers.weights import T, arrays, distance, equations, same

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # products are less precise on a GPU
H, N, B = 5, 3, 2


def cell(n=N, seed=0, biases="h"):
    """The tree of a flax.linen cell: a kernel (inputs, units) for each gate of x (names with i) and of h.

    biases has "i" if the gates of x have biases, and "h" if those of h have biases.
    """
    names = [source + gate for source in "ih" for gate in "ifgo"]
    tree = {name: {"kernel": draw(n if name[0] == "i" else H, H, seed=seed + k)} for k, name in enumerate(names)}
    for k, name in enumerate(names):
        if name[0] in biases:
            tree[name]["bias"] = draw(H, seed=seed + 20 + k)
    return tree


def optimized(tree):
    """The same cell in the forms of nnx.OptimizedLSTMCell and nnx.LSTMCell."""
    both = {}
    for source, name in (("i", "dense_i"), ("h", "dense_h")):
        layers = [tree[source + gate] for gate in "ifgo"]
        both[name] = {kind: np.concatenate([each[kind] for each in layers], -1) for kind in layers[0]}
    return both, {name.replace("if", "if_"): layer for name, layer in tree.items()}


def flax_equations(x, tree):
    """y, h_n and c_n of x (T, n) in float64."""

    def of_gates(source, name):
        return np.hstack([tree[source + gate].get(name, np.zeros(H)) for gate in "ifgo"])

    return equations(x, of_gates("i", "kernel"), of_gates("h", "kernel"), of_gates("i", "bias") + of_gates("h", "bias"))


@pytest.mark.parametrize("biases", ["h", "ih", ""])
def test_every_form_of_a_tree_gives_the_same_lstm(api, biases):
    tree, x = cell(biases=biases), draw(T, N)
    lstm = api.LSTM.from_flax({"params": tree})
    assert lstm.batch_first and not api.LSTM.from_flax(tree, batch_first=False).batch_first
    assert distance(arrays(lstm(x)), flax_equations(x, tree)) < 1e-6
    flat = {f"params/{name}/{kind}": array for name, layer in tree.items() for kind, array in layer.items()}
    values = {name: {kind: {"value": array} for kind, array in layer.items()} for name, layer in tree.items()}
    keys = {tuple(key.split("/")): array for key, array in flat.items()}
    for source in (tree, flat, values, keys, *optimized(tree), {"model": {3: {"cell": tree}}, "head": {"kernel": x}}):
        same(api.LSTM.from_flax(source), lstm)


def test_an_lstmcell_takes_one_cell(api):
    tree, x = cell(), draw(1, N)
    h, c = api.LSTMCell.from_flax({"params": {"a": tree, "b": cell(seed=9)}}, "a")(x)
    assert distance([h, h, c], flax_equations(x, tree)) < 1e-6
    with pytest.raises(ValueError, match="2 LSTM cells: 'params/a', 'params/b'; choose with cells="):
        api.LSTMCell.from_flax({"params": {"a": tree, "b": cell(seed=9)}})
    with pytest.raises(ValueError, match="an LSTMCell has one layer and one direction"):
        api.LSTMCell.from_flax({"forward_rnn": {"cell": tree}, "backward_rnn": {"cell": cell(seed=9)}})


MODEL = {"params": {"one": {"cell": cell()}, "two": {"cell": cell(H, 30)}, "b": {"one": cell(N, 60)}, "head": {}}}


def test_cells_are_chosen_by_their_paths(api):
    [one], [two], [other] = (weights.from_flax(MODEL["params"][k])[0] for k in ("one", "two", "b"))
    for name, layer in (("one/cell", one), ("params/two/cell", two), ("b/one", other), ("/params/b/one/", other)):
        same(api.LSTM.from_flax(MODEL, name), api.LSTM([layer], batch_first=True), layer["weight_ih"].shape[1])
    same(api.LSTM.from_flax(MODEL, ["one/cell", "two/cell"]), api.LSTM([one, two], batch_first=True))
    same(api.LSTM.from_flax(MODEL, [("one/cell", "b/one")]), api.LSTM([(one, other)], batch_first=True))
    stack = api.LSTM([two, two], batch_first=True)
    same(api.LSTM.from_flax(MODEL, ["two/cell"] * 2), stack, H)


@pytest.mark.parametrize("place", ["", "params/Bidirectional_0/"])
@pytest.mark.parametrize("end", ["", "/cell"])
def test_forward_and_backward_cells_are_two_directions(api, place, end):
    forward, backward = cell(), cell(seed=9)
    flat = {}
    for name, tree in (("backward_rnn", backward), ("forward_rnn", forward)):
        for layer, kinds in tree.items():
            flat |= {f"{place}{name}{end}/{layer}/{kind}": array for kind, array in kinds.items()}
    pair = tuple(weights.from_flax(tree)[0][0] for tree in (forward, backward))
    same(api.LSTM.from_flax(flat), api.LSTM([pair], batch_first=True))


def without(name, kind="kernel", add=None):
    tree = cell()
    tree[name] = {k: v for k, v in tree[name].items() if k != kind} | (add or {})
    return tree


@pytest.mark.parametrize(
    "source, cells, error, told",
    [
        ({}, None, ValueError, "there are 0 LSTM cells: ; choose"),
        ({"head": {"kernel": draw(2, 2)}}, None, ValueError, "there are 0 LSTM cells: ''"),
        (MODEL, None, ValueError, "there are 3 LSTM cells: 'params/b/one', 'params/one/cell', 'params/two/cell'; choo"),
        (MODEL, "two", ValueError, "0 LSTM cells are called 'two'; there are 'params/one/cell'"),
        (MODEL, "cell", ValueError, "2 LSTM cells are called 'cell'; there are 'params/one/cell',"),
        (MODEL, ["one/cell", "three"], ValueError, "0 LSTM cells are called 'three'"),
        (MODEL, [3], TypeError, "cells are paths such as 'LSTMCell_0', or pairs of paths, not "),
        (MODEL, [("one/cell", 3)], TypeError, "cells are paths such as .*, or pairs of paths, not builtins.int"),
        (MODEL, 3, TypeError, "cells are paths such as .*, or pairs of paths, not builtins.int"),
        (MODEL, [], ValueError, "cells is empty"),
        (MODEL, [("one/cell",) * 3], ValueError, "a layer has one path, or two for its directions, not 3"),
        (without("if"), None, ValueError, "cell '' has no 'if/kernel' beside 'ii/kernel'"),
        (without("hf", "bias"), None, ValueError, "cell '' has biases of some gates only"),
        (without("hf", add={"kernel": draw(H, H + 1)}), None, ValueError, r"the kernels of cell .* are .*\(5, 6\)"),
        (without("hf", add={"kernel": draw(H)}), None, ValueError, r"the kernels of cell '' are of shapes"),
        (cell() | {"ln": {"scale": draw(H)}}, None, ValueError, "'ln/scale' of cell '' does not belong to an LSTM"),
        ([cell()], None, TypeError, r"from_flax takes a mapping .*, not builtins.list: give .*nnx.state\(mod"),
    ],
)
def test_wrong_parameters_are_refused(source, cells, error, told):
    with pytest.raises(error, match=told):
        weights.from_flax(source, cells)


def test_a_gru_is_refused():
    tree = {name: layer for name, layer in cell().items() if name[1] != "f"}
    with pytest.raises(ValueError, match="cell '' has no 'if/kernel'"):
        weights.from_flax(tree)


# ---- Flax itself --------------------------------------------------------------------------------


@pytest.fixture
def jax():
    return pytest.importorskip("jax", reason="jax, which Flax needs, is not installed")


@pytest.fixture
def linen(jax):
    return pytest.importorskip("flax.linen", reason="flax is not installed")


@pytest.mark.parametrize("name", ["LSTMCell", "OptimizedLSTMCell"])
def test_linen_cells_compute_what_they_did(api, jax, linen, name):
    module = getattr(linen, name)(H)
    x, carry = draw(B, N), (draw(B, H, seed=1), draw(B, H, seed=2))
    variables = module.init(jax.random.key(0), carry, x)
    variables = jax.tree.map(lambda array: draw(*array.shape, seed=array.size), variables)
    (c, h), _ = module.apply(variables, carry, x)
    got = api.LSTMCell.from_flax(variables)(x, carry[1], carry[0])
    assert distance(got, [h, c]) < 1e-6


@pytest.mark.parametrize("both", [False, True])
def test_linen_models_compute_what_they_did(api, jax, linen, both):
    """The variables of a model are named after the classes of cells, or after the parts of Bidirectional."""

    class Model(linen.Module):
        @linen.compact
        def __call__(self, x):
            for _ in range(2):
                x = linen.RNN(linen.OptimizedLSTMCell(H))(x)
            return x

    rnns = [linen.RNN(linen.LSTMCell(H)) for _ in range(2)]
    module = linen.Bidirectional(*rnns) if both else Model()
    x = draw(B, T, N)
    variables = module.init(jax.random.key(0), x)
    cells = None if both else ["OptimizedLSTMCell_0", "OptimizedLSTMCell_1"]
    lstm = api.LSTM.from_flax(variables, cells)
    assert lstm.bidirectional == both and lstm.num_layers == 2 - both
    assert distance([lstm(x)[0]], [module.apply(variables, x)]) < 1e-6


@pytest.mark.parametrize("name", ["LSTMCell", "OptimizedLSTMCell"])
@pytest.mark.parametrize("both", [False, True])
def test_nnx_modules_compute_what_they_did(api, jax, name, both):
    nnx = pytest.importorskip("flax.nnx", reason="flax is not installed")
    rngs = nnx.Rngs(0)
    rnns = [nnx.RNN(getattr(nnx, name)(N, H, rngs=rngs), rngs=rngs) for _ in range(2)]
    module = nnx.Bidirectional(*rnns, rngs=rngs) if both else rnns[0]
    state = nnx.state(module)
    x = draw(B, T, N)
    lstm = api.LSTM.from_flax(state)
    assert lstm.bidirectional == both
    assert distance([lstm(x)[0]], [module(x)]) < 1e-6
    same(api.LSTM.from_flax(nnx.state(module, nnx.Param)), lstm)
    same(api.LSTM.from_flax(nnx.to_pure_dict(state)), lstm)
    with pytest.raises(TypeError, match=r"from_flax takes a mapping of parameters, not flax\.nnx.*give .*nnx\.state"):
        weights.from_flax(module)
