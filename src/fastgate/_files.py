"""Saved gates and LSTMs as files: written in place of old ones, read mapped."""

from __future__ import annotations

import errno
import os
import sys

import numpy as np

from fastgate._arrays import is_buffer

TYPE_CHECKING = False  # not from typing, for the sake of the import time
if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    _Array = NDArray[Any]

LINE = 64  # bytes; FG_LINE of csrc: a saved buffer begins at a multiple of it
FORMAT = 2  # FASTGATE_FORMAT of csrc/fastgate.h


def write(target: Any, data: _Array) -> None:
    """data (size,), uint8, into a binary file object, or in place of the file of this path.

    A new file replaces the old one at once: who has that one mapped keeps it.
    """
    if not isinstance(target, (str, bytes, os.PathLike)):
        _write_all(target, data)
        return
    path = os.fsdecode(target)
    if os.path.exists(path) and not os.path.isfile(path):  # such as /dev/null
        code = errno.EISDIR if os.path.isdir(path) else errno.ENODEV
        raise OSError(code, "a file cannot take the place of this", path)
    beside = os.path.join(os.path.dirname(path), f".{os.urandom(8).hex()}.tmp")  # however long the name is
    file = open(beside, "xb")  # a new one, not what a link leads to
    try:
        with file:
            file.write(data.data)
        os.replace(beside, path)
    except BaseException:
        try:
            os.unlink(beside)
        except OSError:
            pass  # an interrupt came after it was renamed, or the folder is gone
        raise


def _write_all(file: Any, data: _Array) -> None:
    """A file object that is not buffered may take a part, and says how much."""
    if not hasattr(file, "write"):
        raise TypeError(f"save() takes a path or a binary file object, not {type(file).__name__}")
    rest = data.data
    while len(rest):
        written = file.write(rest)
        if written is None and not hasattr(file, "readinto"):
            return  # no file of the standard library: it took all, or raised
        if not isinstance(written, int) or written <= 0:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        rest = rest[written:]


def read(source: Any) -> Any:
    """A buffer that cannot change and begins at a multiple of LINE: a file of this path, mapped, or a copy of bytes."""
    if isinstance(source, (str, os.PathLike)):
        import mmap

        path = os.fsencode(source)  # of a path that is also a number, open would take that as a file descriptor
        with open(path, "rb", opener=_open) as file:
            if not os.fstat(file.fileno()).st_size:
                return b""  # which cannot be mapped
            # from Python 3.13 on without a file descriptor of its own, which it has none of on Windows
            is_tracked = sys.version_info < (3, 13) or sys.platform == "win32"
            options: dict[str, Any] = {} if is_tracked else {"trackfd": False}
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ, **options)
    if not is_buffer(source):
        raise TypeError(f"load() takes a path or bytes, not {type(source).__name__}")
    if not memoryview(source).c_contiguous:
        raise ValueError("load() takes bytes that are contiguous")
    data = np.frombuffer(source, np.uint8)
    copy = np.empty(data.size + LINE, np.uint8)
    copy = copy[-copy.ctypes.data % LINE :][: data.size]
    copy[:] = data
    copy.flags.writeable = False
    return copy


def _open(path: str | bytes, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe may have no writer


def refusal(kind: str, source: Any, data: Any, other_format: bool) -> ValueError:
    """For `data`, which read() gave for `source`, where it is not what was saved, or whole but of another format."""
    name = f" in {os.fsdecode(source)!r}" if isinstance(source, (str, os.PathLike)) else ""
    if other_format:
        found = int(np.frombuffer(data, np.uint32, 1, offset=12)[0])  # of the header in csrc/internal.h
        return ValueError(
            f"what is saved{name} has format {found}, and this version of fastgate reads format {FORMAT}: "
            f"make the {kind} from its weights and save it anew"
        )
    return ValueError(f"no saved {kind}{name}: something else, of another byte order, truncated or damaged")


def not_a_cell() -> ValueError:
    return ValueError("an LSTMCell is one layer in one direction forwards: load this with LSTM.load")


def too_large() -> ValueError:
    return ValueError("an input_size that is beyond any array")
