"""LSTM inference on a CPU, and the LSTM's input gate, sigmoid(W [1; x]), by itself.

    lstm = fastgate.LSTM.from_torch(module) # also from_keras, from_onnx, or LSTM(layers) from arrays
    y, (h, c) = lstm(x)                     # (T, n) -> (T, H); (T, B, n) -> (T, B, H)
    stream = lstm.stream()                  # keeps h and c between steps
    y = stream.step(x)                      # (n,) -> (H,)
    h, c = fastgate.LSTMCell(weight_ih, weight_hh, bias)(x, h, c)

    g = fastgate.Gate(weight, bias)         # (m, n), (m,): packs the weights once
    y = g(x)                                # (n,) -> (m,); (..., n) -> (..., m)
    g(x, h, out=y)                          # reads x and h as parts of one input; allocates nothing
    y = fastgate.gate(x, weight, bias)      # one call, without packing
"""

import os

from . import _parameters, reference

TYPE_CHECKING = False  # not imported from typing, which would add to the import time
__version__ = "0.1.0"
__all__ = [
    "LSTM",
    "Gate",
    "LSTMCell",
    "Stream",
    "__version__",
    "gate",
    "get_include",
    "get_library_dir",
    "reference",
    "set_threads",
    "show_config",
]

try:
    from ._core import LSTM, Gate, LSTMCell, Stream, gate

    from . import _core
except ImportError as _error:
    if os.environ.get("FASTGATE_ISA"):
        raise ImportError(
            f"FASTGATE_ISA={os.environ['FASTGATE_ISA']} needs the compiled core, which cannot be loaded ({_error})"
        ) from _error
    import warnings

    warnings.warn(
        f"fastgate computes with NumPy, which is slow: the compiled core cannot be loaded ({_error})",
        RuntimeWarning,
        stacklevel=2,
    )
    _core = None  # type: ignore[assignment]
    from .reference import LSTM, Gate, LSTMCell, Stream, gate  # type: ignore[assignment,no-redef]
else:
    _core.select_instruction_set(os.environ.get("FASTGATE_ISA", ""))


if not TYPE_CHECKING:  # a type checker would take every missing name for one of these

    def __getattr__(name):
        """Import fastgate.torch and fastgate.keras, which import their frameworks, when they are first used."""
        if name not in ("torch", "keras"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        return importlib.import_module(f"{__name__}.{name}")


def set_threads(threads: int | str | None) -> None:
    """Run every gate and LSTM in this process on this many threads from now on.

    The environment variable FASTGATE_THREADS does the same at import.

    Parameters
    ----------
    threads : int, 'auto' or None
        An integer from 1; 'auto' for the number of CPUs that the affinity of the process and the quota of its
        container allow; None to restore the number that each gate and LSTM was made with.

    Raises
    ------
    ValueError
        If threads is an integer below 1, or a string other than 'auto'.
    TypeError
        If threads has another type.
    """
    _parameters.override = 0 if threads is None else _parameters.thread_count(threads)
    if _core is not None:
        _core.override_threads(_parameters.override)


if _threads := os.environ.get("FASTGATE_THREADS"):
    try:
        set_threads(_threads if _threads == "auto" else int(_threads))
    except ValueError:
        raise ImportError(
            f"FASTGATE_THREADS={_threads}: it must be an integer from 1, or auto"
        ) from None


def _folder(name: str) -> str:
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name)
    if not os.path.isdir(path):
        raise RuntimeError(f"{path} does not exist: fastgate was installed without its compiled core")
    return path


def get_include() -> str:
    """Return the folder of fastgate.h, for C compilers. In Cython, `cimport fastgate` declares its functions.

    Raises RuntimeError if fastgate was installed without its compiled core.
    """
    return _folder("include")


def get_library_dir() -> str:
    """Return the folder of libfastgate.a, which is position independent. Link fastgate, m and pthread.

    Raises RuntimeError if fastgate was installed without its compiled core.
    """
    return _folder("lib")


def _cpu_name() -> str:
    """The CPU's name. On x86-64 Linux it has the family and model too, because virtual machines shorten names."""
    import platform

    fields: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                key, _, value = line.partition(":")
                fields.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    name = fields.get("model name") or platform.processor() or platform.machine() or "unknown"
    if "cpu family" in fields:
        name += f" (family {fields['cpu family']}, model {fields.get('model')})"
    return name


def show_config() -> None:
    """Print the versions, the compiler, the CPU, the instruction sets (built, usable, in use) and the threads."""
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
    threads = f"{_parameters.override} for all" if _parameters.override else "the number that each gate was made with"
    print(f"fastgate     {__version__}")
    print(f"core         {core}")
    print(f"CPU          {_cpu_name()}")
    print(f"ISA in use   {chosen}")
    print(f"ISAs built   {built}")
    print(f"ISAs usable  {usable}")
    print(f"threads      {threads}; usable CPUs: {_parameters.cpu_count()}")
    print(f"Python       {platform.python_version()}, NumPy {numpy.__version__}")
