"""lstm(x, mask=m): the steps that count, as if the others were not there.  The truth is each row by itself."""

import numpy as np
import pytest
from helpers import draw, same_bits
from helpers.layers import draw_layer

N, H = 5, 6


def lstms(api, **options):
    p = draw_layer(N, H)
    yield api.LSTM([p], **options)
    yield api.LSTM([p], reverse=True, **options)
    yield api.LSTM([(p, draw_layer(N, H, seed=1)), (draw_layer(2 * H, H), draw_layer(2 * H, H, seed=2))], **options)


def masks(batch, steps):
    """(batch, steps): all, none, left and right padding, and holes."""
    rng = np.random.default_rng(batch)
    mask = rng.random((batch, steps)) < 0.6
    for b, row in enumerate([np.arange(steps) >= 0, np.arange(steps) < 0, np.arange(steps) >= 3, np.arange(steps) < 2]):
        if b < batch:
            mask[b] = row
    return mask


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("batch", [1, 2, 9])
@pytest.mark.parametrize("given", [False, True])
def test_every_row_is_as_alone(api, batch, batch_first, given):
    steps = 8
    mask = masks(batch, steps)
    x = draw(batch, steps, N)
    for lstm in lstms(api, batch_first=batch_first):
        cells = lstm.num_layers * (1 + lstm.bidirectional)
        state = (draw(cells, batch, H), draw(cells, batch, H, seed=1)) if given else None
        ordered = (lambda a: a) if batch_first else (lambda a: np.ascontiguousarray(a.swapaxes(0, 1)))
        out = np.full((*ordered(x).shape[:2], lstm.output_size), 7, np.float32)
        y, (h, c) = lstm(ordered(x), state, mask=ordered(mask), out=out)
        assert y is out
        again, last = lstm(ordered(x), state, mask=ordered(mask).tolist())
        same_bits(again, out)
        same_bits(last[0], h)
        y = ordered(y)
        for b in range(batch):
            own = None if state is None else tuple(a[:, b] for a in state)
            want, (h_n, c_n) = lstm(x[b, mask[b]], own)
            same_bits(y[b, mask[b]], want)
            assert not y[b, ~mask[b]].any()
            same_bits(h[:, b], h_n)
            same_bits(c[:, b], c_n)
            single, (h_1, c_1) = lstm(x[b], own, mask=mask[b])
            same_bits(single, np.ascontiguousarray(y[b]))
            same_bits(h_1, h_n)
            same_bits(c_1, c_n)


def test_no_steps_and_no_rows(api):
    for lstm in lstms(api):
        for shape in ((0, 3), (4, 0), (0, 0), (0,)):
            y, (h, _) = lstm(np.zeros((*shape, N), np.float32), mask=np.zeros(shape, bool))
            assert y.shape == (*shape, lstm.output_size) and h.shape[1:-1] == shape[1:]


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (np.ones((3, 2)), TypeError, "mask must be bool, not float64"),
        (np.ones((3, 2), int), TypeError, "mask must be bool"),
        (np.ones((2, 3), bool), ValueError, "mask of shape .2, 3. must be of shape .3, 2. for x of shape .3, 2, 5."),
        (np.ones(3, bool), ValueError, "mask of shape"),
        (True, ValueError, "mask of shape"),
    ],
)
def test_masks_that_are_refused(api, mask, error, message):
    x = draw(3, 2, N)
    for lstm in lstms(api):
        out = np.full((3, 2, lstm.output_size), 7, np.float32)
        with pytest.raises(error, match=message):
            lstm(x, mask=mask, out=out)
        with pytest.raises(TypeError, match="not both"):
            lstm(x, mask=np.ones((3, 2), bool), lengths=[3, 3], out=out)
        assert (out == 7).all()
