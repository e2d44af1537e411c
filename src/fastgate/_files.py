"""Writes saved gates and LSTMs to files, in place of old ones, and maps such files."""

from __future__ import annotations

import errno
import os
import sys

import numpy as np

from fastgate._arrays import is_buffer

TYPE_CHECKING = False  # importing typing takes too long
if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    _Array = NDArray[Any]

LINE = 64  # a saved buffer must begin at a multiple of this many bytes; FG_LINE of csrc
FORMAT = 2  # FASTGATE_FORMAT of csrc/fastgate.h


def write(target: Any, data: _Array) -> None:
    """Write data (size,), uint8, to a binary file object, or replace the file at this path.

    A new file takes the place of the old one in one step. Processes that have mapped the old file keep it.
    """
    if not isinstance(target, (str, bytes, os.PathLike)):
        _write_all(target, data)
        return
    path = os.fsdecode(target)
    if os.path.exists(path) and not os.path.isfile(path):  # such as /dev/null
        code = errno.EISDIR if os.path.isdir(path) else errno.ENODEV
        raise OSError(code, "save() replaces only regular files", path)
    beside = os.path.join(os.path.dirname(path), f".{os.urandom(8).hex()}.tmp")  # short even if path has a long name
    file = open(beside, "xb")  # fails if there is a file or a link
    try:
        with file:
            file.write(data.data)
        os.replace(beside, path)
    except BaseException:
        try:
            os.unlink(beside)
        except OSError:
            pass  # an interrupt came after os.replace, or somebody removed the folder
        raise


def _write_all(file: Any, data: _Array) -> None:
    """Write data to a file object; an unbuffered one may take a part at a time, and returns how much."""
    if not hasattr(file, "write"):
        raise TypeError(f"save() takes a path or a binary file object, not {type(file).__name__}")
    rest = data.data
    while len(rest):
        written = file.write(rest)
        if written is None and not hasattr(file, "readinto"):
            return  # not a file object of the standard library: it has written everything, or raised
        if not isinstance(written, int) or written <= 0:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        rest = rest[written:]


def read(source: Any) -> Any:
    """The file at a path, mapped, or a copy of bytes: a read-only buffer that begins at a multiple of LINE."""
    if isinstance(source, (str, os.PathLike)):
        import mmap

        path = os.fsdecode(os.fsencode(source))  # a plain str: open() would take an int for a file descriptor
        with open(path, "rb", opener=_open) as file:
            if not os.fstat(file.fileno()).st_size:
                return b""  # an empty file cannot be mapped
            # From Python 3.13 on, a map can do without a file descriptor of its own; on Windows it never has one.
            is_tracked = sys.version_info < (3, 13) or sys.platform == "win32"
            options: dict[str, Any] = {} if is_tracked else {"trackfd": False}
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ, **options)
    if not is_buffer(source):
        raise TypeError(f"load() takes a path or bytes, not {type(source).__name__}")
    if not memoryview(source).c_contiguous:
        raise ValueError("load() takes contiguous bytes")
    data = np.frombuffer(source, np.uint8)
    copy = np.empty(data.size + LINE, np.uint8)
    copy = copy[-copy.ctypes.data % LINE :][: data.size]
    copy[:] = data
    copy.flags.writeable = False
    return copy


def _open(path: str | bytes, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe without a writer would block


def load_error(kind: str, source: Any, data: Any, other_format: bool) -> ValueError:
    """The error for `data`, which read(source) gave, if it has another format, or is no saved gate or LSTM."""
    name = f" in {os.fsdecode(source)!r}" if isinstance(source, (str, os.PathLike)) else ""
    if other_format:
        found = int(np.frombuffer(data, np.uint32, 1, offset=12)[0])  # of the header in csrc/internal.h
        return ValueError(
            f"the saved {kind}{name} has format {found}, and this version of fastgate reads format {FORMAT}: "
            f"make the {kind} from its weights and save it again"
        )
    return ValueError(f"no saved {kind}{name}: it is something else, of another byte order, truncated or damaged")


def too_large() -> ValueError:
    return ValueError("input_size is larger than any array can be")
