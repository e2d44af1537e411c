"""Streams: their steps, states and copies, steps of some rows of a batch, and batches that grow and shrink.

The truth is the source, called step by step; for the rows of a batch it is a stream of its own for each row.
"""

import copy
import gc
import math
import pickle
import sys

import fastgate
import numpy as np
import pytest
from helpers import compiled_only, draw, dtype_of, same_bits, storages
from helpers.hostile import Hostile, HostileBuffer
from helpers.layers import draw_layer, same, sources
from helpers.oracle import close_step

N = 5


@storages
def test_a_stream_begins_with_zeros(api, storage):
    for source in sources(api, storage):
        for batch in (None, 0, 1, 6):
            stream = source.stream(batch)
            lead = () if batch is None else (batch,)
            layers = (source.num_layers,) if isinstance(source, api.LSTM) else ()
            assert stream.batch == batch and stream.source is source
            h, c = stream.state
            assert h.shape == (*layers, *lead, source.output_size)
            assert c.shape == (*layers, *lead, source.hidden_size)
            assert h.dtype == c.dtype == dtype_of(storage) and not h.any() and not c.any()
            x = draw(4, *lead, 5, dtype=dtype_of(storage))
            for row in x:
                y = stream.step(row)
            assert y.shape == (*lead, source.output_size)
            if layers:
                same((y, stream.state), (source(x)[0][-1], source(x)[1]))


def test_steps_of_a_stream_are_those_of_its_cell(api):
    cell, *_ = sources(api)
    for lead in [(), (3,)]:
        stream = cell.stream(*lead)
        h, c = stream.state
        for x in draw(5, *lead, 5):
            h, c = cell(x, h, c)
            same(stream.step(x), h)
            same(stream.state, (h, c))


def test_out_of_a_step_has_the_bits_of_a_new_result(api):
    """The two streams of a source take turns, so that they also show that streams share no state."""
    for source in sources(api):
        for lead in [(), (3,), (0,)]:
            stream, other = source.stream(*lead), source.stream(*lead)
            out = np.full((*lead, source.output_size), 7, np.float32)
            for x in draw(3, *lead, 5):
                assert stream.step(x, out=out) is out
                same(out, other.step(x))
                assert stream.step(x, out) is out
                same(out, other.step(x, None))
            memory = draw(90)
            x = memory[20 : 20 + 5 * math.prod(lead)].reshape(*lead, 5)
            want = other.step(x.copy())
            same(stream.step(x, out=memory[18 : 18 + out.size].reshape(out.shape)), want)
            same(stream.state, other.state)


def test_writing_into_results_and_states_does_not_change_the_stream(api):
    for source in sources(api):
        stream, other = source.stream(), source.stream()
        x = draw(5)
        stream.step(x)[...] = np.nan
        for a in stream.state:
            a[...] = np.nan
        other.step(x)
        same(stream.state, other.state)
        same(stream.step(x), other.step(x))


def test_a_given_state_is_copied(api):
    for source in sources(api):
        for lead in [(), (4,)]:
            stream = source.stream(*lead)
            state = [draw(*a.shape, seed=k) for k, a in enumerate(stream.state)]
            given = [a.copy() for a in state]
            stream.state = given
            for a in given:
                a[...] = np.nan
            same(stream.state, tuple(state))
            stream.state = tuple(np.asfortranarray(a) for a in state)
            same(stream.state, tuple(state))


def test_reset_gives_zeros_to_the_chosen_rows_only(api):
    for source in sources(api):
        axis = 1 if isinstance(source, api.LSTM) else 0
        for rows in [
            None, 0, -1, 5, np.int64(2), [1, 3], [-1, 0, 0], (2, 4), [], np.array([1, 5], np.uint8),
            slice(None), slice(1, 6, 2), slice(9, 20), slice(None, None, -1),
            [True, False, True, False, False, True], np.zeros(6, bool),
        ]:
            stream = source.stream(6)
            stream.state = [np.full(a.shape, np.nan, np.float32) for a in stream.state]
            assert stream.reset(rows) is None
            chosen = np.zeros(6, bool)
            chosen[... if rows is None else list(rows) if isinstance(rows, tuple) else rows] = True
            for a in stream.state:
                assert not a.compress(chosen, axis).any(), "NaN must not survive in the chosen rows"
                assert np.isnan(a.compress(~chosen, axis)).all()
        stream = source.stream()
        first = stream.step(draw(5))
        stream.reset()
        assert not any(a.any() for a in stream.state)
        same(stream.step(draw(5)), first)
        source.stream(0).reset()
        source.stream(0).reset([])


@pytest.mark.parametrize("batch", [None, 3])
def test_copies_of_a_stream_go_on_as_it_does(api, batch):
    lead = () if batch is None else (batch,)
    xs = draw(5, *lead, 5)
    for source in sources(api):
        stream = source.stream(batch)
        stream.step(xs[0])
        loads = [
            lambda stream, p=p: pickle.loads(pickle.dumps(stream, p))
            for p in range(pickle.HIGHEST_PROTOCOL + 1)
        ]
        others = [duplicate(stream) for duplicate in (copy.copy, copy.deepcopy, *loads)]
        want = [stream.step(x) for x in xs]
        for other in others:
            assert type(other) is type(stream) and other.batch == batch
            assert type(other.source) is type(source)
            same([other.step(x) for x in xs], want)
            same(other.state, stream.state)
        assert others[0].source is others[1].source is source


def test_nan_in_a_row_stays_in_it_until_it_is_reset(api):
    for source in sources(api):
        stream, clean = source.stream(3), source.stream(3)
        x = draw(3, 5)
        clean.step(x)
        x[1] = np.nan
        stream.step(x)
        stream.reset(1)
        clean.reset([1])
        same(stream.state, clean.state)


def test_a_stream_keeps_its_source(api):
    p = draw_layer(30, 20)
    stream = api.LSTMCell(**p).stream()
    gc.collect()
    close_step((stream.step(draw(30)), stream.state[1]), draw(30), np.zeros(20), np.zeros(20), p)


def test_attributes_of_a_stream_cannot_be_set(api):
    for source in sources(api):
        stream = source.stream(np.int8(2))
        assert type(stream).__name__ == "Stream" and stream.batch == 2
        for name in ("batch", "source", "other"):
            with pytest.raises(AttributeError):
                setattr(stream, name, 1)


# ---- rows and batches that change ---------------------------------------------------------------


def streams_of_rows(source, count):
    """A stream of its own for each row of a batch; that of row b has had b steps."""
    streams = [source.stream() for _ in range(count)]
    for b, stream in enumerate(streams):
        for x in draw(b, N, seed=1):
            stream.step(x)
    return streams


def state_of(streams):
    """The state of a batch that has the states of these streams in its rows."""
    return [np.stack(states, axis=-2) for states in zip(*(stream.state for stream in streams))]


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
@pytest.mark.parametrize("batch", [1, 2, 3, 17, 64])
def test_a_step_of_some_rows_is_a_step_of_their_streams(api, storage, batch):
    rng = np.random.default_rng(batch)
    for source in sources(api, storage):
        streams = streams_of_rows(source, batch)
        stream = source.stream(batch)
        stream.state = state_of(streams)
        for count in (0, 1, batch // 2, batch):
            rows = rng.permutation(batch)[:count]
            x = rng.standard_normal((count, N), np.float32)
            want = [streams[b].step(row) for row, b in zip(x, rows)]
            out = np.full((count, source.output_size), 7, np.float32)
            assert stream.step(x, out, rows=rows) is out
            same(list(out), want)
            same(stream.state, state_of(streams))


def test_rows_are_chosen_as_in_numpy(api):
    kinds = [slice(1, None, 2), slice(None), slice(4, 0, -1), [True, False, False, True, False], [-1, 0], (3,),
             np.array([2, 4], np.uint8), np.array([], np.int64), range(3), np.int32(4), 2, -5]  # fmt: skip
    for source in sources(api):
        for rows in kinds:
            stream, other = source.stream(5), source.stream(5)
            indices = np.arange(5)[rows if isinstance(rows, slice) else np.asarray(rows)]
            x = draw(*indices.shape, N)
            want = [other.step(row, rows=int(b)) for row, b in zip(x.reshape(-1, N), indices.flat)]
            got = stream.step(x, rows=rows)
            assert got.shape == (*indices.shape, source.output_size)
            same(list(got.reshape(indices.size, source.output_size)), want)
            same(stream.state, other.state)
            stream.reset(rows)
            reset = other.state
            for a in reset:
                a[..., indices, :] = 0
            same(stream.state, reset)


@pytest.mark.parametrize(
    "error, message, every",
    [
        (ValueError, "must not repeat a row, but are ", [[0, 0], [1, -2]]),
        (IndexError, "rows must be from -3 to 2", [3, -4, [3], [0, 3], [0, -4], np.uint8(200), 2**40]),
        (IndexError, "rows must be from", [np.uint64(2**64 - 1)]),
        ((IndexError, TypeError), "rows must be", [2**70]),
        (IndexError, "must be of shape .3,., as a mask", [[True], [True] * 2, [True] * 4, np.ones((3, 1), bool), True]),
        (IndexError, "one axis", [[[0]]]),
        (TypeError, "integers", [0.0, 1.0, [0.5], "0", "1", ["a"], {0}, object(), b"a", np.zeros(1, object), 2**100]),
        (TypeError, "integers", [slice("a"), slice(0.5)]),
    ],
)
def test_bad_rows_are_refused_and_no_row_changes(api, error, message, every):
    for source in sources(api):
        stream = source.stream(3)
        stream.step(draw(3, N))
        before = stream.state
        for rows in every:
            with pytest.raises(error, match=message):
                stream.step(draw(2, N), rows=rows)
            if "repeat" not in message:  # a row may be reset twice
                with pytest.raises(error, match=message):
                    stream.reset(rows)
            same(stream.state, before)


def test_rows_of_a_stream_without_a_batch_are_refused(api):
    for source in sources(api):
        stream = source.stream()
        stream.step(draw(N))
        before = stream.state
        for rows in (0, [0], slice(None), [], [True]):
            with pytest.raises(TypeError, match="no batch"):
                stream.reset(rows)
            with pytest.raises(TypeError, match="no batch"):
                stream.step(draw(N), rows=rows)
        same(stream.state, before)


def test_arrays_that_do_not_fit_the_rows_are_refused(api):
    for source in sources(api):
        stream = source.stream(3)
        stream.step(draw(3, N))
        before = stream.state
        for x, rows in ((draw(3, N), [0, 1]), (draw(1, N), 0), (draw(N), [0]), (draw(2, N + 1), [0, 1])):
            with pytest.raises(ValueError, match="x of shape"):
                stream.step(x, rows=rows)
        with pytest.raises(ValueError, match="out is of shape"):
            stream.step(draw(2, N), np.empty((3, source.output_size), np.float32), rows=[0, 1])
        same(stream.state, before)


def test_resize_keeps_the_states_of_the_first_rows(api):
    for source in sources(api):
        stream, other = source.stream(3), source.stream(3)
        x = draw(3, N)
        same_bits(stream.step(x), other.step(x))
        kept = 3
        for batch in (3, 5, 2, 0, 4):
            before = stream.state
            stream.resize(batch)
            assert stream.batch == batch
            for mine, old in zip(stream.state, before):
                common = min(batch, old.shape[-2])
                assert mine.shape[-2] == batch
                same_bits(mine[..., :common, :], old[..., :common, :])
                assert not mine[..., common:, :].any()
            x = draw(batch, N)
            y = stream.step(x)
            kept = min(kept, batch)
            same_bits(y[:kept], other.step(np.resize(x, (3, N)))[:kept])
        for bad, error in ((-1, ValueError), (None, TypeError), (1.5, TypeError), ("2", TypeError)):
            with pytest.raises(error, match="batch must be"):
                stream.resize(bad)
        with pytest.raises((MemoryError, ValueError)):  # which of them depends on NumPy
            stream.resize(2**62)
        assert stream.batch == 4
        with pytest.raises(TypeError, match="no batch"):
            source.stream().resize(2)


def test_a_state_may_have_or_lack_the_axis_of_a_batch_of_one(api):
    for source in sources(api):
        for batch in (None, 1):
            stream, other = source.stream(batch), source.stream(batch)
            stream.step(draw(*(() if batch is None else (1,)), N))
            h, c = stream.state
            with_axis = [a if batch == 1 else a[..., None, :] for a in (h, c)]
            for given in (with_axis, [a[..., 0, :] for a in with_axis]):
                other.state = given
                same(other.state, (h, c))
                other.reset()
        stream = source.stream(2)
        with pytest.raises(ValueError, match="state.0. of shape"):
            stream.state = tuple(a[..., 0, :] for a in stream.state)


@compiled_only
def test_conversions_may_resize_the_stream():
    """Each call converts an argument by code of the user, which resizes the stream in the middle of the call."""
    for source in sources(fastgate):
        for count in (0, 1, 40):

            def calls(stream):
                def act():
                    stream.resize(count)

                x, h, c = draw(9, N), *stream.state
                yield lambda: stream.step(Hostile(x, act))
                yield lambda: stream.step(Hostile(x[:2], act), rows=[7, 8])
                yield lambda: stream.step(x[:2], rows=Hostile(np.array([7, 8]), act))
                yield lambda: stream.reset(Hostile(np.array([7, 8]), act))
                yield lambda: setattr(stream, "state", (h, Hostile(c, act)))
                yield lambda: stream.resize(Hostile(8, act))
                if sys.version_info >= (3, 12):
                    yield lambda: stream.step(x, HostileBuffer(act))

            for k in range(len(list(calls(source.stream(9))))):
                stream = source.stream(9)
                try:
                    list(calls(stream))[k]()
                except (RuntimeError, ValueError, TypeError, IndexError):
                    pass
                batch = stream.batch
                assert batch in (count, 8)
                stream.step(draw(batch, N))
                assert stream.state[0].shape[-2] == batch
