"""Saved gates and LSTMs: files, and, for the reference, the format in NumPy; csrc/saved.h and
csrc/kernels.h describe it.
"""

from __future__ import annotations

import errno
import io
import os
import sys

import numpy as np

from fastgate import _check

TYPE_CHECKING = False  # not from typing, for the sake of the import time
if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    _Array = NDArray[Any]

LINE = 64  # bytes; where sections begin
FORMAT = 1  # FG_FORMAT of csrc/saved.h
GATE, LSTM = 1, 2  # kinds


# ---- files ------------------------------------------------------------------------------------


def write(target: Any, data: _Array) -> None:
    """data (size,), uint8, into a binary file object, or in place of the file of this path.

    A new file replaces the old one at once: who has that one mapped keeps it.
    """
    if isinstance(target, io.RawIOBase):  # which may take a part only
        rest = data.data
        while len(rest):
            written = target.write(rest)
            if not written:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            rest = rest[written:]
        return
    if hasattr(target, "write"):
        target.write(data.data)
        return
    path = os.fsdecode(target)
    if os.path.exists(path) and not os.path.isfile(path):  # as /dev/null
        code = errno.EISDIR if os.path.isdir(path) else errno.ENODEV
        raise OSError(code, "a file cannot take the place of this", path)
    beside = f"{path}.{os.urandom(8).hex()}.tmp"
    file = open(beside, "xb")  # a new one, not what a link leads to
    try:
        with file:
            file.write(data.data)
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise


def read(source: Any) -> Any:
    """A buffer that cannot change and begins at a multiple of LINE: a file of this path, mapped, or a copy of bytes."""
    if isinstance(source, (str, os.PathLike)):
        import mmap

        with open(source, "rb", opener=_open) as file:
            if not os.fstat(file.fileno()).st_size:
                return b""  # which cannot be mapped
            # from Python 3.13 on without a file descriptor of its own
            options: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ, **options)
    if not _check.is_buffer(source):
        raise TypeError(f"load() takes a path or bytes, not {type(source).__name__}")
    if not memoryview(source).c_contiguous:
        raise ValueError("load() takes bytes that are contiguous")
    data = np.frombuffer(source, np.uint8)
    copy = np.empty(data.size + LINE, np.uint8)
    copy = copy[-_check.address(copy) % LINE :][: data.size]
    copy[:] = data
    copy.flags.writeable = False
    return copy


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe may have no writer


def refuse(kind: str, source: Any) -> ValueError:
    """For what read() gave, where it is not what was saved."""
    name = f" in {os.fsdecode(source)!r}" if isinstance(source, (str, os.PathLike)) else ""
    return ValueError(
        f"no saved {kind}{name}: something else, of another version or byte order, truncated or damaged"
    )


def refuse_cell(layers: int, directions: int, reverse: bool) -> None:
    """ValueError unless what was loaded can be an LSTMCell."""
    if layers != 1 or directions != 1 or reverse:
        raise ValueError("an LSTMCell is one layer in one direction forwards: load this with LSTM.load")


def refuse_size(input_size: int) -> None:
    """ValueError if no array can be so large, as of what has no outputs it may be in C."""
    if input_size > min(2**47, sys.maxsize // 64):  # an address space
        raise ValueError(f"an input_size of {input_size} is beyond any array")


# ---- the packed form --------------------------------------------------------------------------

PANELS = 4  # in a block
SPAN_BYTES = 4096
INT8_SPAN = 4096
QUAD = 4


def panel_rows(storage: str) -> int:
    """Rows of W in a panel, and units of an LSTM in a block."""
    return LINE // _check.dtype_of(storage).itemsize


def _order(columns: int, storage: str) -> _Array:
    """The inputs in the order of summation."""
    chains = panel_rows(storage)
    span, place = np.divmod(np.arange(columns), SPAN_BYTES // _check.dtype_of(storage).itemsize)
    chain = place % chains
    return np.lexsort((place, chain, chain % 4, span))


def _places(rows: int) -> _Array:
    """Of the rows of a block in a line of bfloat16."""
    r = np.arange(rows)
    return r // 16 * 16 + r % 8 * 2 + r % 16 // 8


def _block_dtype(rows: int, columns: int, storage: str) -> np.dtype[Any]:
    """A block: `rows` are those of its panels."""
    real = _check.dtype_of(storage)
    if storage == "int8":
        spans, quads = -(-columns // INT8_SPAN), -(-columns // QUAD)
        weights = ("weights", np.int8, (quads, rows, QUAD))
        parts = [("scales", real, rows), ("sums", np.int32, (spans, rows)), weights]
    else:
        stored = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(np.uint16)}.get(storage, real)
        parts = [("weights", stored, (columns, rows))]
    return np.dtype([("bias", real, rows), *parts])


def _blocks(rows: int, columns: int, storage: str) -> list[tuple[slice, np.dtype[Any]]]:
    """The rows of W in each block, and how it lies."""
    panel = panel_rows(storage)
    blocks = []
    for first in range(0, rows, PANELS * panel):
        here = slice(first, min(first + PANELS * panel, rows))
        padded = -(-(here.stop - first) // panel) * panel
        blocks.append((here, _block_dtype(padded, columns, storage)))
    return blocks


def packed_size(rows: int, columns: int, storage: str) -> int:
    panel = panel_rows(storage)
    whole, rest = divmod(rows, PANELS * panel)
    size = whole and whole * _block_dtype(PANELS * panel, columns, storage).itemsize
    return size + (rest and _block_dtype(-(-rest // panel) * panel, columns, storage).itemsize)


def pack(weight: _Array, bias: _Array, storage: str) -> bytes:
    """weight (rows, columns), as rounded by the storage, and bias (rows,) -> the packed form."""
    from fastgate.reference import quantized

    rows, columns = weight.shape
    order = _order(columns, storage)
    packed = []
    for here, dtype in _blocks(rows, columns, storage):
        block = np.zeros((), dtype)
        count = here.stop - here.start
        block["bias"][:count] = bias[here]
        if storage == "int8":
            integers, scales = quantized(weight[here].astype(np.float32))
            block["scales"][:count] = scales[:, 0]
            for span in range(len(block["sums"])):
                part = integers[:, span * INT8_SPAN : (span + 1) * INT8_SPAN]
                block["sums"][span, :count] = part.sum(axis=1)
            padded = np.zeros((count, len(block["weights"]) * QUAD))
            padded[:, :columns] = integers
            block["weights"][:, :count] = padded.reshape(count, len(block["weights"]), QUAD).swapaxes(0, 1)
        elif storage == "bfloat16":
            bits = weight[here].astype(np.float32).view(np.uint32) >> 16
            block["weights"][:, _places(count)] = bits[:, order].T
        else:
            with np.errstate(over="ignore"):  # infinity is held
                block["weights"][:, :count] = weight[here][:, order].T
        packed.append(block.tobytes())
    return b"".join(packed)


def unpack(data: _Array, rows: int, columns: int, storage: str) -> tuple[_Array, _Array]:
    """The inverse, from uint8 (packed_size,)."""
    order = _order(columns if rows else 0, storage)
    weight = np.empty((rows, columns), _check.dtype_of(storage))
    bias = np.empty(rows, weight.dtype)
    at = 0
    for here, dtype in _blocks(rows, columns, storage):
        block = data[at : at + dtype.itemsize].view(dtype)[0]
        at += dtype.itemsize
        count = here.stop - here.start
        bias[here] = block["bias"][:count]
        stored = block["weights"]
        if storage == "int8":
            integers = stored.swapaxes(0, 1).reshape(stored.shape[1], len(stored) * QUAD)[:count, :columns]
            with np.errstate(all="ignore"):  # of scales that pack() did not write
                weight[here] = integers * block["scales"][:count, np.newaxis]
        elif storage == "bfloat16":
            bits = stored[:, _places(count)].T.astype(np.uint32) << 16
            weight[here, order] = bits.view(np.float32)
        else:
            weight[here, order] = stored[:, :count].T
    return weight, bias


# ---- buffers ----------------------------------------------------------------------------------

HEADER = np.dtype(
    [("magic", "S8"), ("crc", "u4"), ("format", "u4"), ("size", "u8")]
    + [(name, "u4") for name in ("kind", "storage", "threads", "directions", "flags", "zero")]
    + [(name, "u8") for name in ("input_size", "output_size", "projection_size", "layers")]
    + [("clip", "f8"), ("gate_clip", "f8"), ("zeros", "u8", 4)]
)
CHECKED = HEADER.fields["format"][1]  # type: ignore[index]
BACKWARDS, INPUT_FORGET = 1, 2


def seal(kind: int, storage: str, sections: list[bytes], **header: Any) -> _Array:
    """The saved form, uint8 (size,), of these sections; the header's fields are those of csrc/saved.h."""
    import zlib

    body = b""
    for section in filter(None, sections):
        body += bytes(-len(body) % LINE) + section
    head = np.zeros((), HEADER)
    fields = {"magic": b"fastgate", "format": FORMAT, "size": HEADER.itemsize + len(body), "kind": kind}
    for name, value in {**fields, "storage": _check.STORAGES.index(storage), **header}.items():
        head[name] = value
    head["crc"] = zlib.crc32(head.tobytes()[CHECKED:] + body)
    return np.frombuffer(head.tobytes() + body, np.uint8)


def unseal(data: Any, kind: int) -> tuple[Any, _Array] | None:
    """The header and all the bytes of a saved form; None if it is none of this kind, or damaged."""
    import zlib

    saved = np.frombuffer(data, np.uint8)
    if saved.size < HEADER.itemsize:
        return None
    head = saved[: HEADER.itemsize].view(HEADER)[0]
    if (
        bytes(head["magic"]) != b"fastgate"
        or head["format"] != FORMAT
        or head["size"] != saved.size
        or head["kind"] != kind
        or head["storage"] >= len(_check.STORAGES)
        or head["crc"] != zlib.crc32(saved[CHECKED:].data)
    ):
        return None
    return head, saved


class Sections:
    """Takes the sections of a saved form one after the other."""

    def __init__(self, saved: _Array) -> None:
        self.saved = saved
        self.end = HEADER.itemsize

    def take(self, size: int) -> _Array:
        """ValueError if there are not so many bytes."""
        start = -(-self.end // LINE) * LINE if size else self.end
        self.end = start + size
        if self.end > self.saved.size:
            raise ValueError("truncated")
        return self.saved[start : self.end]

    def finish(self, head: Any, *known: str) -> None:
        """ValueError unless that was all, and the header has 0 in what is not known."""
        known += ("magic", "crc", "format", "size", "kind", "storage", "threads", "input_size", "output_size")
        unknown = (head[name].tobytes() for name in HEADER.names or () if name not in known)
        if self.end != self.saved.size or any(map(any, unknown)):
            raise ValueError("more than there is to a saved gate or LSTM")

