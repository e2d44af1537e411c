"""Imports weights from torch, and from Paddle, which has the same equations, order of gates and names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fastgate.weights._shared import array_of, class_of, layer_of, listed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fastgate.weights._shared import Result


def from_torch(source: Any, *, prefix: str = "", batch_first: bool | None = None) -> Result:
    """Import the weights of a torch.nn.LSTM, a torch.nn.LSTMCell (one layer), or the state dict of either.

    The module may be scripted.  It may be dynamically quantized: its weights are then dequantized.  Dropout, which is
    for training, is ignored.

    Parameters
    ----------
    source : module or mapping
        A state dict may be any mapping of tensors or arrays, for example one that safetensors loaded.
    prefix : str
        The beginning of the LSTM's keys in the state dict of a whole model, e.g. "encoder.lstm."; needed if there are
        several LSTMs.  The prefixes of wrappers, "module." and "_orig_mod.", may be left out.
    batch_first : bool, optional
        None means that of the module, or False for a state dict, which does not contain it.

    Returns
    -------
    layers, options
        The layers and the dict of options for fastgate.LSTM, as from all functions of fastgate.weights.

    Raises
    ------
    TypeError
        If source is another kind of module, if a key is not a string, or if a module is traced, which loses
        batch_first, and batch_first is not given.
    ValueError
        If keys are missing, unknown or of several LSTMs, or if weights are computed from others, for example by weight
        norm or pruning.
    """
    if hasattr(source, "state_dict"):
        source, batch_first = _torch_module(source, batch_first)
    return _stack(_named(source, "from_torch"), prefix), {"batch_first": bool(batch_first)}


def from_paddle(source: Any, *, prefix: str = "", batch_first: bool | None = None) -> Result:
    """Import the weights of a paddle.nn.LSTM or LSTMCell, or a state dict of these, or of RNN or BiRNN of such cells.

    Parameters
    ----------
    source : layer or mapping
        A state dict may be any mapping of tensors or arrays, for example one that paddle.load returned.
    prefix : str
        As in from_torch.
    batch_first : bool, optional
        None means the opposite of the layer's time_major, or True for a state dict, which does not contain it.

    Raises
    ------
    TypeError
        If source is another kind of layer, or if a key is not a string.
    ValueError
        If keys are missing, unknown or of several LSTMs.
    """
    if batch_first is None:
        batch_first = not getattr(source, "time_major", False)
    if hasattr(source, "state_dict"):
        bases = {f"{base.__module__}.{base.__name__}" for base in type(source).__mro__}
        if not {"paddle.nn.layer.rnn.LSTM", "paddle.nn.layer.rnn.LSTMCell"} & bases:
            hint = "give the LSTM inside it, or its state_dict() and prefix="
            raise TypeError(f"{class_of(source)} is neither a paddle.nn.LSTM nor a paddle.nn.LSTMCell: {hint}")
        source = source.state_dict()
    there = _named(source, "from_paddle")
    cells = {}  # a state dict has the weights of cells twice: those of the cells are right for projections too
    pattern = re.compile(r"(.*?)(?:([0-9]+)\.)?cell(_fw|_bw)?\.((?:weight|bias)_(?:ih|hh)|weight_ho)")
    for key in list(there):
        start = prefix if key.startswith(prefix) else ""
        if match := pattern.fullmatch(key[len(start) :]):
            before, number, direction, name = match.groups()
            if number and f"{start}{before}weight_ih_l{number}" not in there:  # the index in a list of layers
                before, number = f"{before}{number}.", None
            tail = f"_l{number or 0}" + ("_reverse" if direction == "_bw" else "")
            array = array_of(there.pop(key))
            cells[f"{start}{before}{name}{tail}".replace("weight_ho", "weight_hr")] = array
    cells = {key: array.T if "weight_hr" in key else array for key, array in cells.items()}
    return _stack({**there, **cells}, prefix), {"batch_first": bool(batch_first)}


def _torch_module(module: Any, batch_first: bool | None) -> tuple[Any, bool]:
    """The state dict of a module, and batch_first, which is that of the module if it is None."""
    bases = {f"{base.__module__}.{base.__name__}" for base in type(module).__mro__}
    kind = class_of(module)
    if is_scripted := "torch.jit._script.ScriptModule" in bases:
        scripted = re.sub(r"__torch__\.|___torch_mangle_[0-9]+\.", "", str(module._c._type()))
        kind, bases = f"{kind} of {scripted}", {scripted}
    rnn = r"torch\.nn\.modules\.rnn|torch(\.ao)?\.nn\.quantized\.dynamic\.modules\.rnn"
    if not any(re.fullmatch(rf"({rnn})\.LSTM(Cell)?", base) for base in bases):
        hint = "give the torch.nn.LSTM inside it, or its state_dict() and prefix="
        raise TypeError(f"{kind} is neither a torch.nn.LSTM nor a torch.nn.LSTMCell: {hint}")
    state = module.state_dict()
    if hasattr(module, "get_weight"):  # a quantized module, whose state dict has packed parameters
        state = {**module.get_weight(), **module.get_bias()}
    elif is_scripted and not any("weight_hh" in key for key in state):
        raise TypeError(f"{kind} has packed weights: give the module before scripting")
    if batch_first is None:
        if is_scripted and "weight_hh_l0" in state and not hasattr(module, "batch_first"):
            raise TypeError(f"{kind} is traced, which loses batch_first: write batch_first=True or False")
        batch_first = getattr(module, "batch_first", False)
    return state, batch_first


def _named(source: Any, function: str) -> dict[str, Any]:
    """source as a dict, if it is a state dict."""
    if not isinstance(source, Mapping):
        raise TypeError(f"{function} takes an LSTM, an LSTMCell or a state dict, not {class_of(source)}")
    if strange := [key for key in source if not isinstance(key, str)]:
        raise TypeError(f"the keys of a state dict must be strings such as 'weight_ih_l0', not {listed(strange)}")
    return dict(source)


_NAME = r"((?:weight|bias)_(?:ih|hh)|weight_hr)(?:_l([0-9]+)(_reverse)?)?"
_COMPUTED = rf"parametrizations\..*|{_NAME}_(g|v|u|orig|mask)"


def _chosen(source: dict[str, Any], prefix: str) -> str:
    """The full prefix of the only LSTM under a prefix, from which those of wrappers may have been left out."""
    is_one = re.compile(rf"{re.escape(prefix)}({_NAME}|{_COMPUTED})")
    if any(is_one.fullmatch(key) for key in source):
        return prefix
    first = re.compile(r"(?<![^.])weight_ih(_l0)?$")
    places = sorted({key[: match.start()] for key in source if (match := first.search(key))})
    fits = [place for place in places if place.startswith(prefix) or _unwrapped(place).startswith(prefix)]
    if len(fits) == 1:
        return fits[0]
    hint = f"prefix may be {listed(fits or places)}" if places else f"the keys are {listed(source) or 'none'}"
    if any("_all_weight_values" in key or "_packed_weight" in key for key in source):
        hint += "; the LSTM is quantized, which packs its weights: give the module"
    raise ValueError(f"there is no {prefix + 'weight_ih_l0'!r}: {hint}")


def _unwrapped(place: str) -> str:
    """place without the names that DataParallel, DistributedDataParallel and torch.compile add."""
    return re.sub(r"(?<![^.])(module|_orig_mod)\.", "", place)


def _stack(source: dict[str, Any], prefix: str) -> list[Any]:
    """The layers of the LSTM or LSTMCell under a prefix."""
    prefix = _chosen(source, prefix)
    there = {key[len(prefix) :]: source[key] for key in source if key.startswith(prefix)}
    if computed := [prefix + key for key in there if re.fullmatch(_COMPUTED, key)]:
        raise ValueError(
            f"weights are computed from {listed(computed)}: make them plain first, by torch.nn.utils."
            "parametrize.remove_parametrizations, .remove_weight_norm, .remove_spectral_norm or .prune.remove"
        )
    found = [match for key in there if (match := re.fullmatch(_NAME, key))]
    kinds = {"weight_ih", "weight_hh"} | {match[1] for match in found}
    if any(kind.startswith("bias") for kind in kinds):
        kinds |= {"bias_ih", "bias_hh"}  # torch has both or none
    suffixes = ("", "_reverse") if any(match[3] for match in found) else ("",)
    depth = 1  # counted from the first layer on: the largest number in a key may be huge
    while any(f"{kind}_l{depth}{suffix}" in there for kind in kinds for suffix in suffixes):
        depth += 1
    tails = [[f"_l{k}{suffix}" for suffix in suffixes] for k in range(depth)]
    if not any(match[2] for match in found):
        tails = [[""]]  # LSTMCell's names
    wanted = {kind + tail for layer in tails for tail in layer for kind in kinds}
    if missing := sorted(wanted - there.keys()):
        names = listed(prefix + key for key in missing)
        raise ValueError(f"there is no {names} beside {listed(prefix + key for key in there)}")
    if unknown := sorted(there.keys() - wanted):
        raise ValueError(f"{listed(prefix + key for key in unknown)} does not belong to an LSTM of {len(tails)} layers")
    keys = {kind: "projection" if kind == "weight_hr" else kind for kind in sorted(kinds)}
    return [
        layer_of([{keys[kind]: array_of(there[kind + tail]) for kind in keys} for tail in layer]) for layer in tails
    ]
