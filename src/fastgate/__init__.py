"""The LSTM input gate, sigmoid(W [1; x]), as one fast pass over the weights.

    g = fastgate.Gate(weight, bias)         # (m, n), (m,): packed once
    y = g(x)                                # (n,) -> (m,);  (..., n) -> (..., m)
    g(x, h, out=y)                          # parts read in place; no allocation
    y = fastgate.gate(x, weight, bias)      # one shot, nothing packed
"""

import os

from . import reference

__version__ = "0.1.0"
__all__ = ["Gate", "__version__", "gate", "reference", "show_config"]

try:
    from ._core import Gate, gate

    from . import _core
except ImportError as _error:
    if os.environ.get("FASTGATE_ISA"):
        raise ImportError(
            f"FASTGATE_ISA={os.environ['FASTGATE_ISA']}: there is no compiled core ({_error})"
        ) from _error
    import warnings

    warnings.warn(
        f"fastgate computes with NumPy, which is slow: the compiled core cannot be loaded ({_error})",
        RuntimeWarning,
        stacklevel=2,
    )
    _core = None  # type: ignore[assignment]
    from .reference import Gate, gate  # type: ignore[assignment,no-redef]
else:
    _core.select_instruction_set(os.environ.get("FASTGATE_ISA", ""))


def show_config() -> None:
    """Print the versions, the compiler, and the instruction sets built, usable and in use."""
    import platform

    import numpy

    if _core is None:
        core = "none: the NumPy reference is in use"
        chosen = built = usable = "none"
    else:
        core = "{}, built with {}".format(*_core.build_info())
        sets = _core.instruction_sets()
        chosen = _core.instruction_set()
        built = ", ".join(sets)
        usable = ", ".join(name for name in sets if sets[name])
    print(f"fastgate     {__version__}")
    print(f"core         {core}")
    print(f"ISA in use   {chosen}")
    print(f"ISAs built   {built}")
    print(f"ISAs usable  {usable}")
    print(f"Python       {platform.python_version()}, NumPy {numpy.__version__}")
