"""What LSTM computes with NumPy before and after its runs: masked calls, and LSTM.gates of the compiled core."""

from __future__ import annotations

import numpy as np

from fastgate._arrays import as_integers, check_output, check_sequence, check_shape, dtype_of, sequence_arguments
from fastgate._parameters import chosen_layer
from fastgate.reference import GATES, like_input, sequence, sigmoid, time_major

TYPE_CHECKING = False  # importing typing takes too long
if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    _Array = NDArray[Any]


def run_masked(lstm: Any, x: Any, state: Any, mask: Any, lengths: Any, out: Any) -> tuple[Any, tuple[_Array, _Array]]:
    """lstm(x, state, mask=mask, out=out), computed with lengths.

    It moves the steps that mask selects to the beginning, and their outputs back.  mask is an array of bool with the
    axes of x except the last.
    """
    if lengths is not None:
        raise TypeError("give a mask or lengths, not both")
    dtype, time = dtype_of(lstm.storage), int(lstm.batch_first)
    x, h, c, _, _, target = sequence_arguments(x, state, None, out, dtype)
    mask = as_integers(mask, "mask", "b")
    check_sequence(x, lstm.input_size, lstm.batch_first)
    check_shape(mask, "mask", x.shape[:-1], f" for x of shape {x.shape}")
    if target is not None:
        check_output(target, (*x.shape[:-1], lstm.output_size), dtype)
    has_batch = x.ndim == 3
    if not has_batch:
        x, mask = np.expand_dims(x, 1 - time), np.expand_dims(mask, 1 - time)
        h, c = (None if array is None else array[:, np.newaxis] for array in (h, c))
    order = np.argsort(~mask, axis=time, kind="stable")[..., np.newaxis]
    packed, last = lstm(np.take_along_axis(x, order, time), h if h is None else (h, c), lengths=mask.sum(time))
    y = np.empty_like(packed)
    np.put_along_axis(y, order, packed, time)
    if not has_batch:
        y, last = y.squeeze(1 - time), tuple(array[:, 0] for array in last)
    if target is None:
        return y, last
    target[...] = y
    return out, last


def gates(lstm: Any, x: Any, state: Any, lengths: Any, layer: Any, direction: Any) -> dict[str, _Array]:
    """fastgate.LSTM.gates.

    A run of the LSTM gives h before each step, so that the products of all steps are one, in float64.  Only c is then
    computed step by step.
    """
    _, (_, (layers,), options) = lstm.__reduce__()
    batch_first, options["batch_first"] = options["batch_first"], False
    directions = 2 if lstm.bidirectional else 1
    layer, direction = chosen_layer(layer, direction, len(layers), directions)
    parameters = layers[layer][direction] if lstm.bidirectional else layers[layer]
    outputs, dtype = parameters["weight_hh"].shape[1], dtype_of(lstm.storage)
    sizes = (lstm.input_size, outputs, lstm.hidden_size, len(layers) * directions, lstm.output_size)
    x, h, c, counts, _ = sequence(x, state, lengths, None, batch_first, sizes, dtype)
    y = time_major(x, batch_first)
    for k in range(layer + 1):
        below, own = y, slice(k * directions, (k + 1) * directions)
        y, _ = type(lstm)([layers[k]], **options)(below, (h[own], c[own]), lengths=counts)
    y = y[..., direction * outputs : (direction + 1) * outputs]

    step = np.arange(len(y))[:, np.newaxis]
    order = np.broadcast_to(step, y.shape[:2])  # the order in which a row's steps run; it is its own inverse
    if options["reverse"] or direction:
        order = np.where(step < counts, counts - 1 - step, step)
    order = order[..., np.newaxis]
    index = layer * directions + direction
    before = np.concatenate([h[index][np.newaxis], np.take_along_axis(y, order, 0)])[: len(y)]
    arrays = _gates(parameters, options, np.take_along_axis(below, order, 0), before, c[index])
    arrays[:, step >= counts] = 0
    return {
        name: like_input(np.take_along_axis(a, order, 0).astype(dtype), x, batch_first)
        for name, a in zip(GATES, arrays)
    }


def _gates(
    parameters: dict[str, _Array], options: dict[str, Any], x: _Array, h: _Array, c: _Array
) -> _Array:
    """x (T, B, n), h before each step (T, B, output_size), the initial c (B, H) -> GATES (5, T, B, H) in float64."""
    steps, batch, hidden = *x.shape[:2], c.shape[-1]
    arrays = np.empty((len(GATES), steps, batch, hidden))
    peephole = parameters.get("peephole", np.zeros((3, hidden)))
    clip, gate_clip = (np.inf if options[key] is None else options[key] for key in ("clip", "gate_clip"))
    weight_ih, weight_hh = (parameters[key].T.astype(np.float64) for key in ("weight_ih", "weight_hh"))
    with np.errstate(all="ignore"):  # NaN, infinity and underflow are valid results
        z = x @ weight_ih + h @ weight_hh + parameters["bias_ih"]
        for t, (z_i, z_f, z_g, z_o) in enumerate(z.reshape(steps, batch, 4, hidden).swapaxes(1, 2)):
            i = sigmoid(np.clip(z_i + peephole[0] * c, -gate_clip, gate_clip))
            f = sigmoid(np.clip(z_f + peephole[1] * c, -gate_clip, gate_clip))
            if options["input_forget"]:
                f = 1 - i
            g = np.tanh(np.clip(z_g, -gate_clip, gate_clip))
            c = np.clip(f * c + i * g, -clip, clip)
            o = sigmoid(np.clip(z_o + peephole[2] * c, -gate_clip, gate_clip))
            arrays[:, t] = i, f, g, o, c
    return arrays
