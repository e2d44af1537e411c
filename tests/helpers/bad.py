"""Arguments that calls must refuse."""

import array

import numpy as np

DTYPES = ["f8", "f4", "f2", ">f4", "i4", "i8", "u1", "?", "c8", "O", "U3", "M8[s]", "f4,f4", "V4"]


def read_only(*shape, dtype):
    array = np.full(shape, 7, dtype)
    array.flags.writeable = False
    return array


def bad_outputs(own, other):
    """Arrays that are no `out` for a result of shape (3,) and dtype `own`, each with its exception and the message."""
    misaligned = np.frombuffer(bytearray(3 * own.itemsize + 1), np.uint8)[1:].view(own)
    swapped = own.newbyteorder()
    return [
        (np.full(4, 7, own), ValueError, r"\(4,\).*\(3,\)"),
        (np.full((1, 3), 7, own), ValueError, r"\(1, 3\).*\(3,\)"),
        (np.full((), 7, own), ValueError, r"\(\).*\(3,\)"),
        (np.full(3, 7, other), TypeError, f"{other}.*{own}"),
        (np.full(3, 7, swapped), TypeError, f"{swapped}.*{own}"),
        (np.full(3, 7), TypeError, f"int64.*{own}"),
        (read_only(3, dtype=own), ValueError, "read-only"),
        (np.full(6, 7, own)[::2], ValueError, "contiguous"),
        (np.full(3, 7, own)[::-1], ValueError, "contiguous"),
        (misaligned, ValueError, f"aligned: its address must be a multiple of {own.itemsize}"),
        (array.array(other.char, [7, 7, 7]), TypeError, f"{other}.*{own}"),
        (bytearray(3 * own.itemsize), TypeError, f"uint8.*{own}"),
        (memoryview(np.full(3, 7, own)).toreadonly(), ValueError, "read-only"),
        ([7.0, 7.0, 7.0], TypeError, "list"),
        ("out", TypeError, "str"),
    ]
