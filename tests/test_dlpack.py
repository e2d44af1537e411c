"""out may be an object that gives its memory by DLPack, such as a tensor of torch."""

import numpy as np
import pytest
from helpers import draw, draw_gate


class Exporter:
    """An object that gives its memory by DLPack, and in no other way."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class Elsewhere(Exporter):
    """An exporter whose memory a CPU cannot reach."""

    def __dlpack__(self, **options):
        raise BufferError("the memory is on another device")


WRITES_DLPACK = tuple(map(int, np.__version__.split(".")[:2])) >= (2, 1)


@pytest.mark.skipif(not WRITES_DLPACK, reason="NumPy before 2.1 makes arrays from DLPack read-only")
def test_out_through_dlpack(api):
    weight, bias = draw_gate(7, 5)
    x = draw(3, 5)
    want = api.Gate(weight, bias)(x)
    lstm = api.LSTM([{"weight_ih": draw(8, 5), "weight_hh": draw(8, 2)}])
    stream, other = lstm.stream(3), lstm.stream(3)
    for call, result in (
        (lambda out: api.Gate(weight, bias)(x, out=out), want),
        (lambda out: api.gate(x, weight, bias, out=out), want),
        (lambda out: lstm(x, out=out)[0], lstm(x)[0]),
        (lambda out: stream.step(x, out), other.step(x)),
    ):
        array = np.zeros(result.shape, np.float32)
        out = Exporter(array)
        assert call(out) is out
        np.testing.assert_allclose(array, result, rtol=1e-6)
        with pytest.raises(ValueError, match="read-only"):
            array.flags.writeable = False
            call(Exporter(array))
        with pytest.raises(TypeError, match="float64"):
            call(Exporter(np.zeros(result.shape)))
        with pytest.raises(TypeError, match="not in the memory of the CPU .the memory is on another device"):
            call(Elsewhere(np.zeros(result.shape, np.float32)))


def test_out_of_torch(api):
    torch = pytest.importorskip("torch")
    weight, bias = draw_gate(7, 5)
    x = draw(3, 5)
    out = torch.zeros(3, 7)
    assert api.Gate(weight, bias)(x, out=out) is out
    np.testing.assert_array_equal(out.numpy(), api.Gate(weight, bias)(x))
    with pytest.raises(TypeError, match="requires_grad|require gradient|requires grad"):
        api.Gate(weight, bias)(x, out=torch.zeros(3, 7, requires_grad=True))
    with pytest.raises(ValueError, match="C-contiguous"):
        api.Gate(weight, bias)(x, out=torch.zeros(7, 3).T)
