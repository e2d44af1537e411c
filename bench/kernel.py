#!/usr/bin/env python3
"""Time the C kernel on one core, beside the limits of the machine and beside itself.

    python bench/kernel.py [MxN ...]
    python bench/kernel.py --batch | --storage | --threads [MxN | MxNxB ...]
    python bench/kernel.py --stream [INPUTSxHIDDEN ...]

It compiles csrc and bench/kernel.c or stream.c, which needs CMake and a C compiler, runs the program pinned to one core
(with --threads, not pinned), prints a table and stores it (--json).  The sides take turns in every round.

Without an option, it times the gate beside the fastest plain read of the same bytes, in alternating directions.  "read
/ gate" is the share of the read's rate that the gate reaches.  The JSON has "limits", {"MxN": µs of the read}, which
pictures.py draws.

--batch has B vectors in one call.  The FMA peak (12 independent sums in registers), a batch and a single call take
turns of a millisecond.  "share" is the rate of the batch's 2 m n B operations over that of the peak.  "gain" is B times
the time of a single call over that of the batch.  The JSON has "fma", operations a second, which pictures.py draws.

--storage has one vector (or B), and the time of each storage over float32's: below 1 is faster.

--threads has the time on one thread over that on two, for one vector and for 64.

--stream has a step of a stream through the public C API, over a direct call of the kernel that it uses.

Cells are medians over the rounds and, in brackets, the quartiles of the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from figures import Array, Table, quartiles
from machine import pinned, publish, stage
from turns import STORAGES

SIZES = "32x32 64x64 128x128 256x256 512x512 1024x1024 2048x2048 4096x4096"
SIZES += " 512x128 128x512 1000x300 48x40"
SQUARES = {
    "batch": (128, 512, 1024),
    "storage": (128, 256, 512, 1024, 2048, 4096),
    "threads": (256, 512, 1024, 2048, 4096),
}
BATCHES = {"batch": (2, 3, 4, 7, 8, 16, 64, 256), "storage": (1,), "threads": (1, 64)}
STREAMS = "32x32 64x128 128x256"
ROOT = Path(__file__).parents[1]


@contextlib.contextmanager
def compiled(name: str, build: Path | None) -> Iterator[str]:
    """Compile the program, in the folder `build` or in a temporary one."""
    compiler = os.environ.get("CC", "cc").split()
    scripts = sysconfig.get_path("scripts")  # where pip puts cmake
    os.environ["PATH"] = f"{scripts}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as temporary:
        build = (build or Path(temporary)).absolute()
        library, program = f"{build}/libfastgate.a", f"{build}/{name}"
        make = ["--build", f"{build}", "--target", "fastgate_static", "-j", str(os.cpu_count())]
        for step in (["-S", f"{ROOT}/csrc", "-B", f"{build}"], make):
            subprocess.run(["cmake", *step], check=True, stdout=subprocess.DEVNULL)
        source = f"{ROOT}/bench/{name}.c"
        flags = ["-O3", "-march=native", "-pthread"]
        subprocess.run([*compiler, *flags, source, library, "-lm", "-o", program], check=True)
        yield program


def measured(program: str, mode: str, sizes: list[str]) -> dict[str, Array]:
    """Cell -> the figures that the program prints, (rounds, columns)."""
    found: dict[str, list[list[float]]] = {}
    with subprocess.Popen([program, mode, *sizes], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        for line in run.stdout:
            cell, *values = line.split()
            if cell not in found:
                found[cell] = []
                stage(len(found), len(sizes), cell)
            found[cell].append([float(value) for value in values])
    if run.returncode:
        raise SystemExit(f"{program} failed")
    return {cell: np.array(rounds) for cell, rounds in found.items()}


def reads(cells: dict[str, Array]) -> tuple[Table, dict[str, Any]]:
    columns = ["size", "gate, µs", "GB/s", "read, µs", "GB/s", "read / gate"]
    rows, limits = [], {}
    for cell, rounds in cells.items():
        size, gate, read = rounds.T
        row: list[Any] = [cell]
        for side in (gate, read):
            row += [quartiles(side * 1e6), quartiles(size / side / 1e9)[1]]
        rows.append([*row, quartiles(read / gate)])
        limits[cell] = row[3][1]
    return {"columns": columns, "rows": rows}, {"limits": limits}


def turns(mode: str, cells: dict[str, Array]) -> tuple[Table, dict[str, Any]]:
    """The table of a mode that compares sides in turns."""
    head = {
        "batch": ["batch, µs", "GFLOP/s", "peak, GFLOP/s", "share", "gain"],
        "storage": ["float32, µs", *(f"{storage} / float32" for storage in STORAGES[1:])],
        "threads": ["1 thread, µs", "2 threads, µs", "1 thread / 2 threads"],
    }[mode]
    rows, peaks = [], []
    for cell, rounds in cells.items():
        m, n, batch = map(int, cell.split("x"))
        first, *others = rounds.T
        if mode == "batch":
            time, single = others
            operations = 2e-9 * m * n * batch
            peaks.append(quartiles(1 / first)[1])
            row = [quartiles(time * 1e6), quartiles(operations / time)[1], peaks[-1]]
            row += [quartiles(operations / time * first), quartiles(batch * single / time)]
        elif mode == "storage":
            row = [quartiles(first * 1e6), *(quartiles(other / first) for other in others)]
        else:
            row = [quartiles(first * 1e6), quartiles(others[0] * 1e6), quartiles(first / others[0])]
        rows.append([f"{m}x{n}", batch, *row])
    further = {"fma": float(np.median(peaks)) * 1e9} if peaks else {}
    return {"columns": ["size", "B", *head], "rows": rows}, further


def steps(cells: dict[str, Array]) -> tuple[Table, dict[str, Any]]:
    """The table of a stream beside its kernel."""
    columns = ["input/hidden", "fastgate_stream_step, µs", "kernel, µs", "step / kernel"]
    rows = []
    for cell, rounds in cells.items():
        step, kernel = rounds.T
        row = [cell.replace("x", "/"), quartiles(step * 1e6), quartiles(kernel * 1e6)]
        rows.append([*row, quartiles(step / kernel)])
    return {"columns": columns, "rows": rows}, {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sizes", nargs="*", metavar="MxN[xB]")
    for mode in (*BATCHES, "stream"):
        parser.add_argument(f"--{mode}", dest="mode", action="store_const", const=mode)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--build", type=Path, metavar="DIR", help="keep what is compiled here")
    parser.add_argument("--core", type=int, default=pinned())
    options = parser.parse_args()
    mode = options.mode
    sizes = options.sizes or (STREAMS if mode == "stream" else SIZES).split()
    if mode in BATCHES:
        squares = options.sizes or [f"{n}x{n}" for n in SQUARES[mode]]
        sizes = [s for s in squares if s.count("x") == 2]
        sizes += [f"{s}x{batch}" for s in squares if s not in sizes for batch in BATCHES[mode]]
    with compiled("stream" if mode == "stream" else "kernel", options.build) as program:
        if mode != "threads" and options.core is not None:
            os.sched_setaffinity(0, {options.core})
        cells = measured(program, mode or "read", sizes)
    table, further = {None: reads, "stream": steps}.get(mode, partial(turns, mode))(cells)
    publish([table], options.json, **further)


if __name__ == "__main__":
    main()
