"""Saved gates and LSTMs: files, and, for the reference, the format in NumPy; csrc/internal.h describes it."""

from __future__ import annotations

import errno
import io
import os
import sys

import numpy as np

from fastgate import _check

TYPE_CHECKING = False  # not from typing, for the sake of the import time
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from numpy.typing import NDArray

    _Array = NDArray[Any]

LINE = 64  # bytes; where sections begin
FORMAT = 2  # FASTGATE_FORMAT of csrc/fastgate.h
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


def refuse(kind: str, source: Any, data: Any) -> ValueError:
    """For `data`, which read() gave for `source`, where it is not what was saved."""
    name = f" in {os.fsdecode(source)!r}" if isinstance(source, (str, os.PathLike)) else ""
    saved = np.frombuffer(data, np.uint8)
    if _is_whole(saved):
        found = saved[: HEADER.itemsize].view(HEADER)[0]["format"]
        if found != FORMAT:
            return ValueError(
                f"what is saved{name} has format {found}, and this version of fastgate reads format {FORMAT}: "
                f"make the {kind} from its weights and save it anew"
            )
    return ValueError(f"no saved {kind}{name}: something else, of another byte order, truncated or damaged")


def refuse_cell(layers: int, directions: int, reverse: bool) -> None:
    """ValueError unless what was loaded can be an LSTMCell."""
    if layers != 1 or directions != 1 or reverse:
        raise ValueError("an LSTMCell is one layer in one direction forwards: load this with LSTM.load")


def refuse_size(input_size: int) -> None:
    """ValueError if no array can be so large, as of what has no outputs it may be in C."""
    if input_size > min(2**47, sys.maxsize // 64):  # an address space
        raise ValueError(f"an input_size of {input_size} is beyond any array")


# ---- the packed form --------------------------------------------------------------------------

INT8_SPAN = 512
QUAD = 4


def panel_rows(storage: str) -> int:
    """Rows of W in a panel, and units of an LSTM in a block."""
    return LINE // _check.dtype_of(storage).itemsize


def _segment_bytes(columns: int, storage: str) -> int:
    """Bytes of the weights of one segment in one panel."""
    if storage == "int8":
        return (-(-columns // INT8_SPAN) + -(-columns // QUAD)) * LINE
    if storage == "bfloat16":
        columns += columns % 2
    return columns * (LINE // 2 if storage in ("float16", "bfloat16") else LINE)


def _panel_bytes(segments: Sequence[int], storage: str) -> int:
    head = 2 * LINE if storage == "int8" else LINE
    size = sum(_segment_bytes(columns, storage) for columns in segments)
    return head + -(-size // LINE) * LINE


def packed_size(rows: int, segments: Sequence[int], storage: str) -> int:
    return -(-rows // panel_rows(storage)) * _panel_bytes(segments, storage)


def _lines(weight: _Array, storage: str) -> Iterator[_Array]:
    """The weights of a segment (panels, rows of a panel, columns), integers of int8, as lines of bytes of each panel."""
    panels, rows, columns = weight.shape
    if storage == "int8":
        for k in range(0, columns, INT8_SPAN):
            span = weight[..., k : k + INT8_SPAN]
            span = np.pad(span, ((0, 0), (0, 0), (0, -span.shape[2] % QUAD))).astype(np.int8)
            yield span.sum(axis=2, dtype=np.int32)
            yield span.reshape(panels, rows, span.shape[2] // QUAD, QUAD).swapaxes(1, 2)
    elif storage == "bfloat16":
        bits = (weight.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        bits = np.pad(bits, ((0, 0), (0, 0), (0, columns % 2)))
        yield bits.reshape(panels, rows, bits.shape[2] // 2, 2).swapaxes(1, 2)
    else:
        stored = np.float16 if storage == "float16" else _check.dtype_of(storage)
        with np.errstate(over="ignore"):  # infinity is held
            yield weight.astype(stored).swapaxes(1, 2)


def pack(weight: _Array, bias: _Array, storage: str, *segments: int) -> bytes:
    """weight (rows, columns), as rounded by the storage, and bias (rows,) -> the packed form.

    The columns are those of the segments, or one segment.
    """
    from fastgate.reference import quantized

    real, panel = _check.dtype_of(storage), panel_rows(storage)
    rows, columns = weight.shape
    padding = -rows % panel
    parts = [np.pad(bias.astype(real), (0, padding)).reshape(-1, panel)]
    if storage == "int8":
        weight, scales = quantized(weight.astype(np.float32))
        parts.append(np.pad(scales[:, 0], (0, padding)).reshape(-1, panel))
    panels = np.pad(weight, ((0, padding), (0, 0))).reshape(len(parts[0]), panel, columns)
    k = 0
    for size in segments or (columns,):
        parts += _lines(panels[..., k : k + size], storage)
        k += size
    data = [np.ascontiguousarray(part).reshape(len(panels), -1).view(np.uint8) for part in parts if part.size]
    packed = np.concatenate(data, axis=1) if data else np.empty((0, 0), np.uint8)
    return np.pad(packed, ((0, 0), (0, -packed.shape[1] % LINE))).tobytes()


def _from_lines(data: _Array, columns: int, storage: str) -> _Array:
    """The inverse of _lines, from the bytes of a segment of each panel: (panels, rows of a panel, columns)."""
    panels, panel = len(data), panel_rows(storage)
    if not data.size:
        return np.empty((panels, panel, columns))

    def arrays(dtype: Any, *shape: int) -> _Array:
        lines: _Array = np.ascontiguousarray(data).view(dtype).reshape(panels, -1, panel, *shape)
        return lines.swapaxes(1, 2)

    if storage == "int8":
        lines = arrays(np.int8, QUAD)
        sums = np.arange(lines.shape[2]) % (1 + INT8_SPAN // QUAD) == 0
        weights: _Array = lines[:, :, ~sums].reshape(panels, panel, -1)[..., :columns]
        return weights
    if storage == "bfloat16":
        bits = arrays(np.uint16, 2).reshape(panels, panel, -1)[..., :columns]
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return arrays(np.float16 if storage == "float16" else _check.dtype_of(storage))


def unpack(data: _Array, rows: int, storage: str, *segments: int) -> tuple[_Array, _Array]:
    """The inverse of pack, from uint8 (packed_size,): weight (rows, columns) and bias (rows,)."""
    real, panel, columns = _check.dtype_of(storage), panel_rows(storage), sum(segments)
    if not rows:
        return np.empty((0, columns), real), np.empty(0, real)
    panels = data.reshape(-1, _panel_bytes(segments, storage))
    weight = np.empty((len(panels), panel, columns), real)
    at, k = (2 if storage == "int8" else 1) * LINE, 0
    for size in segments:
        end = at + _segment_bytes(size, storage)
        weight[..., k : k + size] = _from_lines(panels[:, at:end], size, storage)
        at, k = end, k + size
    if storage == "int8":
        scales = np.ascontiguousarray(panels[:, LINE : 2 * LINE]).view(real)
        with np.errstate(all="ignore"):  # of scales that pack() did not write
            weight *= scales[..., np.newaxis]
    bias = np.ascontiguousarray(panels[:, :LINE]).view(real).reshape(-1)
    return weight.reshape(len(panels) * panel, columns)[:rows].copy(), bias[:rows].copy()


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
    """The saved form, uint8 (size,), of these sections; the header's fields are those of csrc/internal.h."""
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


def _is_whole(saved: _Array) -> bool:
    """Whether it is what a version of fastgate saved, unharmed."""
    import zlib

    if saved.size < HEADER.itemsize:
        return False
    head = saved[: HEADER.itemsize].view(HEADER)[0]
    return (
        bytes(head["magic"]) == b"fastgate"
        and int(head["size"]) == saved.size
        and int(head["crc"]) == zlib.crc32(saved[CHECKED:].data)
    )


def unseal(data: Any, kind: int) -> tuple[Any, _Array] | None:
    """The header and all the bytes of a saved form; None if it is none of this kind, or damaged."""
    saved = np.frombuffer(data, np.uint8)
    if not _is_whole(saved):
        return None
    head = saved[: HEADER.itemsize].view(HEADER)[0]
    if head["format"] != FORMAT or head["kind"] != kind or head["storage"] >= len(_check.STORAGES):
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

