"""What the importers of weights share: conversions of other packages' arrays, and text for messages."""

from __future__ import annotations

import importlib
import itertools

import numpy as np

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from numpy.typing import NDArray

    Array = NDArray[Any]
    Result = tuple[list[Any], dict[str, Any]]

ROOM = 2**28  # bytes that arrays of even the smallest file may take


def array_of(value: Any) -> Array:
    """A tensor or array as a NumPy array.  torch's bfloat16 becomes that of ml_dtypes, or without it float32."""
    if getattr(value, "is_quantized", False):
        value = value.dequantize()
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            value = value.float().numpy()
            try:
                return np.asarray(value, importlib.import_module("ml_dtypes").bfloat16)
            except ImportError:
                pass
    return np.asarray(value)


def layer_of(directions: Sequence[dict[str, Array]]) -> Any:
    """The parameters of the directions as a layer of fastgate.LSTM: a mapping, or a pair of mappings."""
    return directions[0] if len(directions) == 1 else tuple(directions)


def listed(names: Iterable[Any]) -> str:
    """The first eight names, and how many more there are, for messages."""
    names = iter(names)
    first = [repr(name) for name in itertools.islice(names, 8)]
    more = sum(1 for _ in names)
    return ", ".join(first) + (f" and {more} more" if more else "")


def class_of(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def leaves(source: Any, prefix: str = "") -> dict[str, Any]:
    """The arrays of nested groups under prefix, by their paths.  A group with several paths is searched once."""
    found, searched = {}, set()
    pending = [("", source)]
    for path, value in pending:  # the loop adds to this list
        if not hasattr(value, "items"):
            found[path] = value
        elif (identity := getattr(value, "id", id(value))) not in searched:  # h5py makes an object each time
            searched.add(identity)
            for key, each in value.items():
                name = "/".join(map(str, key)) if isinstance(key, tuple) else key
                inner = f"{path}{name}/" if hasattr(each, "items") else f"{path}{name}"
                if inner.startswith(prefix) or prefix.startswith(inner):
                    pending.append((inner, each))
    return found
