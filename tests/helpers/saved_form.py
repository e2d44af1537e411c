"""Reads saved gates and LSTMs with NumPy, as csrc/internal.h describes their format, independently of the core."""

import zlib

import numpy as np
from . import STORAGES, dtype_of

LINE, SPAN, QUAD = 64, 512, 4
HEADER = np.dtype(
    [("magic", "S8"), ("crc", "u4"), ("format", "u4"), ("size", "u8")]
    + [(name, "u4") for name in ("kind", "storage", "threads", "directions", "flags", "zero")]
    + [(name, "u8") for name in ("input_size", "output_size", "projection_size", "layers")]
    + [("clip", "f8"), ("gate_clip", "f8"), ("zeros", "u8", 4)]
)
GATE, LSTM = 1, 2
BACKWARDS, INPUT_FORGET, BATCH_FIRST = 1, 2, 4


def header_of(saved):
    return np.frombuffer(saved, HEADER, 1)[0]


def sealed(saved):
    """A copy of `saved` whose checksum is that of its content."""
    crc = zlib.crc32(saved[HEADER.fields["format"][1] :])
    return saved[:8] + np.uint32(crc).tobytes() + saved[12:]


def lines(panels, start, count):
    """`count` lines of every panel, from byte `start` on: bytes (panels, count, LINE)."""
    return panels[:, start : start + count * LINE].reshape(len(panels), count, LINE)


def segment(panels, start, columns, storage, scales):
    """The weights (panels, rows, columns) of a segment that begins at byte `start`, and the byte at which it ends."""
    real, count = np.dtype(dtype_of(storage)), columns
    if storage == "int8":
        spans = [min(SPAN, columns - k) for k in range(0, columns, SPAN)]
        weights = []
        for size in spans:
            quads = -(-size // QUAD)
            sums = lines(panels, start, 1).copy().view(np.int32)[:, 0]
            integers = lines(panels, start + LINE, quads).copy().view(np.int8)
            integers = integers.reshape(len(panels), quads, -1, QUAD).swapaxes(1, 2)
            integers = integers.reshape(len(panels), -1, quads * QUAD)
            assert (integers.sum(axis=2, dtype=np.int32) == sums).all() and not integers[..., size:].any()
            weights.append(integers[..., :size] * scales[..., np.newaxis])
            start += (1 + quads) * LINE
        return np.concatenate([np.empty((len(panels), 16, 0), real), *weights], axis=2), start
    if storage == "bfloat16":
        count = -(-columns // 2)
        words = lines(panels, start, count).copy().view(np.uint16).reshape(len(panels), count, 16, 2)
        weights = words.swapaxes(1, 2).reshape(len(panels), 16, 2 * count)
        assert not weights[..., columns:].any()
        return (weights[..., :columns].astype(np.uint32) << 16).view(np.float32), start + count * LINE
    stored = np.dtype(np.float16) if storage == "float16" else real
    rows = LINE // real.itemsize
    end = start + columns * rows * stored.itemsize
    weights = panels[:, start:end].copy().view(stored).reshape(len(panels), columns, rows)
    return weights.swapaxes(1, 2).astype(real), end


def unpacked(data, rows, storage, *segments):
    """Packed data -> weight (rows, columns) as rounded, bias (rows,), and the data after them; padding must be zero."""
    real = np.dtype(dtype_of(storage))
    panel = LINE // real.itemsize
    count = -(-rows // panel)
    if not count:
        return np.empty((0, sum(segments)), real), np.empty(0, real), b""
    size = len_of(1, storage, *segments)
    panels = np.frombuffer(data[: count * size], np.uint8).reshape(count, size)
    bias = lines(panels, 0, 1).copy().view(real)[:, 0]
    start, scales = LINE, None
    if storage == "int8":
        start, scales = 2 * LINE, lines(panels, LINE, 1).copy().view(real)[:, 0]
    weights = []
    for columns in segments:
        weight, start = segment(panels, start, columns, storage, scales)
        weights.append(weight)
    assert not panels[:, start:].any()
    weight, bias = np.concatenate(weights, axis=2).reshape(count * panel, -1), bias.reshape(-1)
    assert not weight[rows:].any() and not bias[rows:].any()
    return weight[:rows].astype(real), bias[:rows], data[count * size :]


def len_of(rows, storage, *segments):
    """The number of bytes of the packed form."""
    real = np.dtype(dtype_of(storage))
    panel = LINE // real.itemsize
    size = 0
    for columns in segments:
        if storage == "int8":
            size += (-(-columns // SPAN) + -(-columns // QUAD)) * LINE
        elif storage == "bfloat16":
            size += -(-columns // 2) * LINE
        else:
            size += columns * panel * (2 if storage == "float16" else real.itemsize)
    head = 2 * LINE if storage == "int8" else LINE
    return -(-rows // panel) * (head + -(-size // LINE) * LINE)


class Sections:
    """Gives the sections of a saved gate or LSTM, one after the other."""

    def __init__(self, saved):
        self.saved, self.end = saved, HEADER.itemsize

    def take(self, size):
        start = -(-self.end // LINE) * LINE if size else self.end
        assert not any(self.saved[self.end : start])
        self.end = start + size
        return self.saved[start : self.end]


def read_gate(saved):
    """The header, weight and bias of a saved gate."""
    head, sections = header_of(saved), Sections(saved)
    storage, rows, columns = STORAGES[head["storage"]], int(head["output_size"]), int(head["input_size"])
    weight, bias, rest = unpacked(sections.take(len_of(rows, storage, columns)), rows, storage, columns)
    assert not rest and sections.end == len(saved)
    return head, weight, bias


def read_lstm(saved):
    """The header of a saved LSTM, and the parameters of each layer and direction, named as LSTM takes them."""
    head, sections = header_of(saved), Sections(saved)
    storage, directions = STORAGES[head["storage"]], int(head["directions"])
    hidden, projected = int(head["output_size"]), int(head["projection_size"])
    inputs, outputs, real = int(head["input_size"]), projected or hidden, np.dtype(dtype_of(storage))
    panel = LINE // real.itemsize
    padded = -(-hidden // panel) * panel
    cells = []
    has_peephole = sections.take(int(head["layers"]) * directions)
    for k, peephole in enumerate(has_peephole):
        segments = (inputs if k < directions else directions * outputs, outputs)
        data = sections.take(len_of(4 * padded, storage, *segments))
        weight, bias, _ = unpacked(data, 4 * padded, storage, *segments)

        def in_order(a):  # rows of i, f, g and o, panel by panel of units -> (4 hidden, ..)
            units = a.reshape(padded // panel, 4, panel, *a.shape[1:]).swapaxes(0, 1).reshape(4, padded, *a.shape[1:])
            assert not units[:, hidden:].any()
            return units[:, :hidden].reshape(4 * hidden, *a.shape[1:])

        weight, bias = in_order(weight), in_order(bias)
        cell = {"weight_ih": weight[:, : segments[0]], "weight_hh": weight[:, segments[0] :], "bias_ih": bias}
        if projected:
            data = sections.take(len_of(projected, storage, hidden))
            cell["projection"], zeros, _ = unpacked(data, projected, storage, hidden)
            assert not zeros.any()
        if peephole:
            rows = np.frombuffer(sections.take(3 * padded * real.itemsize), real).reshape(3, padded)
            assert not rows[:, hidden:].any()
            cell["peephole"] = rows[:, :hidden]
        cells.append(cell)
    assert sections.end == len(saved)
    return head, cells
