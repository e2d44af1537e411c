#!/usr/bin/env python3
"""Time the C kernel, on one core, beside the limits of the machine, and beside itself.

    python bench/kernel.py [--json read-limit.json] [MxN ...]
    python bench/kernel.py --batch | --storage | --threads [--json FILE] [MxN | MxNxB ...]

Compiles csrc and bench/kernel.c (CMake and a C compiler), runs it pinned to one core (--threads: not
pinned) and prints a table.  What is compared takes turns in every round.

Without an option: beside the fastest plain read of the same bytes.  read/gate is the share of the
rate of a plain read that always goes forwards, with the quartiles over the rounds; the last column
that of a read which, like the gate, turns around every other time, and so finds in the cache what
the gate does.  The JSON, {"MxN": seconds of the forward read}, is what compare.py draws as the
limit.

--batch: B vectors in one call.  The FMA peak, 12 independent sums in registers, a batch and a
single call take turns of a millisecond.  share is the batch's 2 m n B operations a second over the
peak's, gain is B times the time of a single call over that of the batch.  The JSON, {"fma": operations
a second}, is what compare.py draws as the peak.

--storage: one vector (or B), the time of each storage over float32's; below 1 is faster.

--threads: the time on one thread over that on two, of one vector and of 64.

Cells are medians over 101 rounds, and in brackets the quartiles of what each round gives.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

SIZES = "32x32 64x64 128x128 256x256 512x512 1024x1024 2048x2048 4096x4096"
SIZES += " 512x128 128x512 1000x300 48x40"
SQUARES = {
    "batch": (128, 512, 1024),
    "storage": (128, 256, 512, 1024, 2048, 4096),
    "threads": (256, 512, 1024, 2048, 4096),
}
BATCHES = {"batch": (2, 3, 4, 7, 8, 16, 64, 256), "storage": (1,), "threads": (1, 64)}
STORAGES = ("float32", "float16", "bfloat16", "int8", "float64")
ROOT = Path(__file__).parents[1]


def reads(lines: Iterator[str]) -> dict[str, float]:
    """Prints the table of the plain reads; returns the seconds of each."""
    limits = {}
    print("|  size | gate, µs | GB/s | read, µs | GB/s | read/gate | turning read/gate |")
    print("|---|---|---|---|---|---|---|")
    for line in lines:
        m, n, size = map(int, line.split()[:3])
        gate, read, turning, low, median, high = map(float, line.split()[3:])
        limits[f"{m}x{n}"] = read
        print(
            f"| {m}x{n} | {gate * 1e6:.3f} | {size / gate / 1e9:.1f} "
            f"| {read * 1e6:.3f} | {size / read / 1e9:.1f} "
            f"| {median:.2f} ({low:.2f}-{high:.2f}) | {turning / gate:.2f} |",
            flush=True,
        )
    return limits


def spread(values: list[float], digits: int = 2) -> str:
    """Median (lower quartile-upper quartile)."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def turns(mode: str, lines: Iterator[str]) -> dict[str, float]:
    """Prints the table of a mode that compares sides in turns."""
    rounds: dict[str, list[list[float]]] = {}
    for line in lines:
        cell, *seconds = line.split()
        rounds.setdefault(cell, []).append([float(s) for s in seconds])
    head = {
        "batch": ["batch, µs", "GFLOP/s", "peak, GFLOP/s", "share", "gain"],
        "storage": ["float32, µs", *STORAGES[1:]],
        "threads": ["1 thread, µs", "2 threads, µs", "1 thread / 2 threads"],
    }[mode]
    print("| size | B | " + " | ".join(head) + " |")
    print("|---" * (len(head) + 2) + "|")
    peaks = []
    for cell, each in rounds.items():
        m, n, batch = map(int, cell.split("x"))
        sides = list(zip(*each))
        middle = [statistics.median(side) for side in sides]
        if mode == "batch":
            operations = 2e-9 * m * n * batch
            shares = [operations / b * peak for peak, b, _ in each]
            gains = [batch * single / b for _, b, single in each]
            peaks.append(1 / middle[0])
            columns = [f"{middle[1] * 1e6:.2f}", f"{operations / middle[1]:.0f}"]
            columns += [f"{peaks[-1]:.0f}", spread(shares), spread(gains)]
        else:
            shown = 1 if mode == "storage" else 2
            columns = [f"{seconds * 1e6:.2f}" for seconds in middle[:shown]]
            for side in sides[1:]:
                pairs = zip(side, sides[0])
                columns.append(spread([a / b if mode == "storage" else b / a for a, b in pairs]))
        print(f"| {m}x{n} | {batch} | " + " | ".join(columns) + " |")
    return {"fma": statistics.median(peaks) * 1e9} if peaks else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sizes", nargs="*", metavar="MxN[xB]")
    for mode in BATCHES:
        parser.add_argument(f"--{mode}", dest="mode", action="store_const", const=mode)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--build", type=Path, metavar="DIR", help="keep what is compiled here")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    options = parser.parse_args()
    mode, sizes = options.mode, options.sizes or SIZES.split()
    if mode:
        squares = options.sizes or [f"{n}x{n}" for n in SQUARES[mode]]
        sizes = [s for s in squares if s.count("x") == 2]
        sizes += [f"{s}x{batch}" for s in squares if s not in sizes for batch in BATCHES[mode]]
    compiler = os.environ.get("CC", "cc").split()
    with tempfile.TemporaryDirectory() as temporary:
        build = (options.build or Path(temporary)).absolute()
        library = f"{build}/libfastgate.a"
        jobs = str(os.cpu_count())
        for step in (["-S", ROOT / "csrc", "-B", build], ["--build", build, "--target", "static", "-j", jobs]):
            subprocess.run(["cmake", *step], check=True, stdout=subprocess.DEVNULL)
        program = [f"{build}/kernel", mode or "read", *sizes]
        source = ROOT / "bench" / "kernel.c"
        flags = ["-O3", "-march=native", "-pthread"]
        subprocess.run([*compiler, *flags, source, library, "-lm", "-o", program[0]], check=True)
        if mode != "threads":
            os.sched_setaffinity(0, {options.core})
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout
            limits = turns(mode, run.stdout) if mode else reads(run.stdout)
        if run.returncode:
            raise SystemExit(f"{program[0]} failed")
    if options.json:
        options.json.write_text(json.dumps(limits, indent=1) + "\n")


if __name__ == "__main__":
    main()
