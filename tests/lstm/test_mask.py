"""lstm(x, mask=m) leaves out the steps where m is False. The truth is each row without these steps, by itself."""

import numpy as np
import pytest
from helpers import draw
from helpers.layers import draw_layers, same

N, H = 5, 6


def lstms(api, **options):
    yield api.LSTM(draw_layers(N, H), **options)
    yield api.LSTM(draw_layers(N, H), reverse=True, **options)
    yield api.LSTM(draw_layers(N, H, layers=2, both=True), **options)


def masks(batch, steps):
    """(batch, steps): rows of all steps, of none, with padding on the left and on the right, then random ones."""
    t = np.arange(steps)
    rows = [t >= 0, t < 0, t >= 3, t < 2, *(np.random.default_rng(batch).random((batch, steps)) < 0.6)]
    return np.array(rows[:batch])


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("batch", [1, 2, 9])
@pytest.mark.parametrize("given", [False, True])
def test_every_row_has_the_bits_of_its_own_steps_alone(api, batch, batch_first, given):
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
        same(lstm(ordered(x), state, mask=ordered(mask).tolist()), (y, (h, c)))
        y = ordered(y)
        for b in range(batch):
            own = None if state is None else tuple(a[:, b] for a in state)
            want, last = lstm(x[b, mask[b]], own)
            same((y[b, mask[b]], (h[:, b], c[:, b])), (want, last))
            assert not y[b, ~mask[b]].any()
            same(lstm(x[b], own, mask=mask[b]), (y[b], last))


def test_masks_of_no_steps_or_no_rows_give_empty_outputs(api):
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
def test_bad_masks_are_refused_and_out_is_untouched(api, mask, error, message):
    x = draw(3, 2, N)
    for lstm in lstms(api):
        out = np.full((3, 2, lstm.output_size), 7, np.float32)
        with pytest.raises(error, match=message):
            lstm(x, mask=mask, out=out)
        with pytest.raises(TypeError, match="not both"):
            lstm(x, mask=np.ones((3, 2), bool), lengths=[3, 3], out=out)
        assert (out == 7).all()
