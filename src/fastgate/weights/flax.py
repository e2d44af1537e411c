"""Imports the weights of Flax's LSTM cells."""

from __future__ import annotations

import numpy as np

from fastgate.weights._shared import array_of, class_of, layer_of, leaves, listed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastgate.weights._shared import Array, Result


def from_flax(source: Any, cells: Any = None, *, batch_first: bool = True) -> Result:
    """Import the weights of one or several LSTMCell or OptimizedLSTMCell of flax.linen or flax.nnx.

    Parameters
    ----------
    source : mapping
        The variables that init of flax.linen returns, or a part of them, or nnx.state(module): nested, or flat with
        paths as keys.  They do not contain the activations, which must be sigmoid and tanh.
    cells : str, or a sequence, optional
        The path of the cell, or a sequence with the path of each layer's cell, e.g. "LSTMCell_0", or
        ["params/LSTMCell_0", "params/LSTMCell_1"].  For a layer of two directions, a pair of paths (forward,
        backward) stands for the path.  The last components of a path suffice if no other path ends with them.  None
        means the only cell, or the two of a Bidirectional.
    batch_first : bool
        False if nn.RNN has time_major=True.

    Raises
    ------
    TypeError
        If source is not a mapping, or cells is neither a path nor a sequence of paths and pairs.
    ValueError
        If there is no such cell, or more than one, or if its kernels or biases are not those of an LSTM.
    """
    if not hasattr(source, "items"):
        raise TypeError(
            f"from_flax takes a mapping of parameters, not {class_of(source)}: "
            "give the variables of flax.linen, or nnx.state(module)"
        )
    groups: dict[str, dict[str, Any]] = {}  # cell: {"ii/kernel": array}
    for path, value in leaves(source).items():
        *place, layer, name = ["", *path.removesuffix("/value").split("/")]
        if layer != "rngs":
            groups.setdefault("/".join(place[1:]), {})[f"{layer.rstrip('_')}/{name}"] = value  # in nnx, "if" is "if_"
    there = {path: group for path, group in groups.items() if group.keys() & {"hi/kernel", "dense_h/kernel"}}
    if cells is None:
        cells = sorted(there)
        if len(cells) == 2 and cells[0].replace("backward_rnn", "forward_rnn") == cells[1]:
            cells = [(cells[1], cells[0])]
        elif len(cells) != 1:
            raise ValueError(f"there are {len(cells)} LSTM cells: {listed(cells or groups)}; choose with cells=")
    cells = [cells] if isinstance(cells, str) or not hasattr(cells, "__iter__") else list(cells)
    if not cells:
        raise ValueError("cells is empty: an LSTM has at least one layer")
    layers = []
    for layer in cells:
        paths = tuple(layer) if isinstance(layer, (list, tuple)) else (layer,)
        if len(paths) not in (1, 2):
            raise ValueError(f"a layer has one path, or two for its directions, not {len(paths)}")
        layers.append(layer_of([_flax_cell(*_flax_group(there, path)) for path in paths]))
    return layers, {"batch_first": batch_first}


def _flax_group(there: dict[str, dict[str, Any]], path: Any) -> tuple[str, dict[str, Any]]:
    """The path and the parameters of the cell at a path, or at the only path that ends with it."""
    if not isinstance(path, str):
        raise TypeError(f"cells are paths such as 'LSTMCell_0', or pairs of paths, not {class_of(path)}")
    path = path.strip("/")
    found = [path] if path in there else [each for each in there if f"/{each}".endswith(f"/{path}")]
    if len(found) != 1:
        raise ValueError(f"{len(found)} LSTM cells are called {path!r}; there are {listed(found or there)}")
    return found[0], dict(there[found[0]])


def _flax_cell(path: str, group: dict[str, Any]) -> dict[str, Array]:
    """The parameters of a cell, which has a kernel for each gate, or one for all gates together."""
    parameters = {}
    for key, side in (("weight_ih", "i"), ("weight_hh", "h")):
        names = [f"dense_{side}"] if "dense_h/kernel" in group else [side + gate for gate in "ifgo"]
        if missing := [f"{name}/kernel" for name in names if f"{name}/kernel" not in group]:
            raise ValueError(f"cell {path!r} has no {listed(missing)} beside {listed(group)}")
        for name, kind in ((key, "kernel"), (f"bias_{side}h", "bias")):
            arrays = [array_of(group.pop(f"{each}/{kind}")) for each in names if f"{each}/{kind}" in group]
            if len(arrays) not in (0, len(names)):
                raise ValueError(f"cell {path!r} has biases of some gates only")
            if len({array.shape for array in arrays}) > 1:
                raise ValueError(f"the {kind}s of cell {path!r} are of shapes {[array.shape for array in arrays]}")
            if arrays:
                parameters[name] = np.concatenate([array.T for array in arrays])
    if group:
        raise ValueError(f"{listed(group)} of cell {path!r} does not belong to an LSTM")
    return parameters
