"""LSTM and LSTMCell as objects: properties, copies, pickles, signatures, memory."""

import copy
import inspect
import pickle
import sys

import fastgate
import numpy as np
import pytest
from helpers import allocates_nothing, compiled_only, draw, dtype_of, storages
from helpers.layers import draw_layer, draw_layers, draw_step, every_option, same, sources, split


def test_properties_and_repr_tell_sizes_and_options(api, set_threads):
    cell = api.LSTMCell(**draw_layer(5, 7, 3))
    assert (cell.input_size, cell.hidden_size, cell.output_size) == (5, 7, 3)
    assert (cell.storage, cell.threads) == ("float32", 1)
    assert cell.nbytes >= 4 * (28 * 8 + 28 + 21)
    for part in ("LSTMCell(input_size=5, hidden_size=7", "storage='float32', threads=1)"):
        assert part in repr(cell)
    lstm = api.LSTM(draw_layers(5, 7, 3, layers=2, both=True), batch_first=True, storage="float16")
    assert (lstm.input_size, lstm.hidden_size, lstm.output_size) == (5, 7, 6)
    assert (lstm.num_layers, lstm.bidirectional, lstm.batch_first, lstm.reverse) == (2, True, True, False)
    assert (lstm.storage, lstm.threads) == ("float16", 1)
    assert lstm.nbytes >= 2 * 2 * 28 * 8
    for part in ("LSTM(input_size=5, hidden_size=7", "storage='float16', threads=1)"):
        assert part in repr(lstm)
    lstm = api.LSTM(draw_layers(5, 7), reverse=True, threads=3)
    assert (lstm.output_size, lstm.num_layers, lstm.bidirectional, lstm.batch_first) == (7, 1, False, False)
    assert lstm.reverse is True and lstm.threads == 3
    set_threads(2)
    assert lstm.threads == cell.threads == 2


def test_lstms_copy_their_weights_and_cannot_be_changed(api):
    p, layers = draw_layer(4, 3, 2, peephole=True), draw_layers(4, 3, 2, peephole=True)
    x = draw(5, 4)
    cell, lstm = api.LSTMCell(**p), api.LSTM(layers)
    want = cell(x), lstm(x)
    for value in (*p.values(), *layers[0].values()):
        value[...] = 0
    layers[0].clear()
    layers.clear()
    same((cell(x), lstm(x)), want)
    for made in (cell, lstm):
        for name in ("input_size", "hidden_size", "output_size", "storage", "nbytes", "threads", "other"):
            with pytest.raises(AttributeError):
                setattr(made, name, 1)
    for name in ("num_layers", "bidirectional", "batch_first", "reverse"):
        with pytest.raises(AttributeError):
            setattr(lstm, name, 1)


def test_copies_are_the_object_itself(api):
    for made in sources(api):
        assert copy.copy(made) is made
        assert copy.deepcopy([made])[0] is made


@storages
@every_option
def test_a_pickle_computes_the_same(api, options, storage):
    own, given = split(options)
    dtype = dtype_of(storage)
    p = draw_layer(5, 7, dtype=dtype, **own)
    cell = api.LSTMCell(**p, storage=storage, threads=2, **given)
    args = draw_step(3, n=5, hidden=7, outputs=own.get("outputs"), dtype=dtype)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        loaded = pickle.loads(pickle.dumps(cell, protocol))
        assert type(loaded) is api.LSTMCell
        assert repr(loaded) == repr(cell) and loaded.nbytes == cell.nbytes
        same(loaded(*args), cell(*args))
    x = draw(3, 2, 5, dtype=dtype)
    for both in (False, True):
        layers = draw_layers(5, 7, layers=2, both=both, dtype=dtype, **own)
        lstm = api.LSTM(layers, storage=storage, batch_first=both, reverse=not both, **given)
        loaded = pickle.loads(pickle.dumps(lstm))
        assert type(loaded) is api.LSTM and repr(loaded) == repr(lstm)
        assert (loaded.batch_first, loaded.reverse) == (both, not both)
        same(loaded(x), lstm(x))


def test_a_pickle_of_a_pickle_is_the_same(api):
    """A pickle has the rounded weights. Rounding them again must give the same, with int8's scales too."""
    pickled = pickle.dumps(api.LSTMCell(**draw_layer(9, 8, 7), storage="int8"))
    assert pickle.dumps(pickle.loads(pickled)) == pickled


def test_pickle_keeps_special_values(api):
    bias = np.array([np.inf, -np.inf, np.nan, 1], np.float32)
    cell = api.LSTMCell(np.zeros((4, 1), np.float32), np.zeros((4, 1), np.float32), bias)
    x = [1.0]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(cell))(x), cell(x))


@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_threads_do_not_change_bits(api, storage, set_threads):
    layers = draw_layers(150, 150, layers=2, both=True)
    x = draw(3, 9, 150)
    want = api.LSTM(layers, storage=storage)(x)
    same(api.LSTM(layers, storage=storage, threads=3)(x), want)
    set_threads(2)
    same(api.LSTM(layers, storage=storage)(x), want)
    same(api.LSTM(layers, storage=storage)(x[:, 2])[0], want[0][:, 2])


def test_signatures_are_the_documented_ones(api):
    parameters = ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "peephole", "projection"]
    step = ["clip", "gate_clip", "input_forget", "storage", "threads"]
    for function, names in {
        api.LSTMCell: [*parameters, *step],
        api.LSTMCell.stream: ["self", "batch"],
        api.LSTM: ["layers", "batch_first", "reverse", *step],
        api.LSTM.stream: ["self", "batch"],
        api.LSTM.gates: ["self", "x", "state", "lengths", "layer", "direction"],
        api.LSTMCell.from_torch: ["source", "prefix", "storage", "threads"],
        api.LSTM.from_torch: ["source", "prefix", "batch_first", "storage", "threads"],
        api.LSTM.from_keras: ["source", "prefix", "bidirectional", "storage", "threads"],
        api.LSTM.from_onnx: ["source", "node", "weights", "storage", "threads"],
    }.items():
        assert list(inspect.signature(function).parameters) == names
        assert function.__doc__
    stream = type(api.LSTMCell(**draw_layer(1, 1)).stream())
    assert list(inspect.signature(stream.step).parameters) == ["self", "x", "out", "rows"]
    assert list(inspect.signature(stream.resize).parameters) == ["self", "batch"]
    assert list(inspect.signature(stream.reset).parameters) == ["self", "rows"]


def test_arguments_may_be_given_by_position_or_by_name(api):
    cell = api.LSTMCell(**draw_layer(3, 4))
    x, h, c = draw_step(n=3, hidden=4)
    want = cell(x, h, c)
    same(cell(x=x, h=h, c=c), want)
    same(cell(x, c=c, h=h), want)
    same(cell(*(x, h), **{"c": c, "out": None}), want)
    same(type(cell).__call__(cell, x, h, c), want)
    same(cell(x, None, None), cell(x))
    lstm = api.LSTM(draw_layers(3, 4))
    x = draw(3, 2, 3)
    same(lstm(x=x, state=None, lengths=None, out=None), lstm(x))
    stream = lstm.stream(batch=2)
    same(stream.step(x=x[0], out=None), lstm(x)[0][0])


# ---- the compiled core only -------------------------------------------------------------------


@compiled_only
def test_core_and_reference_agree_on_pickles():
    """_parameters.make loads the pickles of both, and those of the core also where no core was compiled."""
    for core, reference in zip(sources(fastgate), sources(fastgate.reference)):
        make, arguments = core.__reduce__()
        assert make is fastgate._parameters.make
        name, arguments, options = arguments
        loaded = getattr(fastgate.reference, name)(*arguments, **options)
        assert repr(loaded) == repr(reference)
        name, arguments, options = reference.__reduce__()[1]
        loaded = make(name, arguments, options)
        assert type(loaded) is type(core) and repr(loaded) == repr(core)
        x = draw(5)
        same(loaded.stream().step(x), core.stream().step(x))


@compiled_only
def test_calls_with_out_allocate_nothing():
    cell, _, lstm = sources(fastgate)
    x, h, c = draw_step(n=5, hidden=18)
    state, y = (h, c), np.empty(7, np.float32)
    stream, own = lstm.stream(), cell.stream()

    def calls(count):
        for _ in range(count):
            cell(x, h, c, out=state)
            stream.step(x, out=y)
            own.step(x, out=h)

    allocates_nothing(calls)


@compiled_only
def test_references_are_balanced():
    cell, _, lstm = sources(fastgate)
    x, h, c = draw_step(n=5, hidden=18)
    y, seq = np.empty(7, np.float32), draw(3, 5)
    stream = lstm.stream()

    def bad(call, *args, **kwargs):
        with pytest.raises((TypeError, ValueError)):
            call(*args, **kwargs)

    def everything():
        cell(x)
        cell(x, h, c)
        cell(x, h, c, out=(h, c))
        cell(x.tolist(), h, c)
        lstm(seq)
        stream.step(x)
        stream.step(x, out=y)
        stream.state = stream.state
        stream.reset()
        bad(cell, x, h)
        bad(cell, x, h, c, out=(h, y))
        bad(stream.step, h, out=y)
        bad(lstm, seq, what=y)

    watched = (cell, lstm, stream, x, h, c, y, seq)
    everything()
    before = [sys.getrefcount(o) for o in watched]
    for _ in range(300):
        everything()
    assert [sys.getrefcount(o) for o in watched] == before
