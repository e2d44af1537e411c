#!/usr/bin/env python3
"""Time the C kernel beside the fastest plain read of the same bytes, on one core.

    python bench/kernel.py [--json read-limit.json] [MxN ...]

Compiles csrc and bench/kernel.c (make and a C compiler), runs it pinned to one core and prints a
table.  read/gate is the share of the rate of a plain read that always goes forwards, with the
quartiles over the rounds; the last column that of a read which, like the gate, turns around every
other time, and so finds in the cache what the gate does.  The JSON, {"MxN": seconds of the
forward read}, is what compare.py draws as the limit.
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

SIZES = "32x32 64x64 128x128 256x256 512x512 1024x1024 2048x2048 4096x4096"
SIZES += " 512x128 128x512 1000x300 48x40"
ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sizes", nargs="*", default=SIZES.split(), metavar="MxN")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    options = parser.parse_args()
    compiler = os.environ.get("CC", "cc")
    limits = {}
    with tempfile.TemporaryDirectory() as build:
        library = f"{build}/libfastgate.a"
        subprocess.run(
            ["make", "-s", "-C", ROOT / "csrc", f"BUILD={build}", f"CC={compiler}", library],
            check=True,
        )
        program = [f"{build}/kernel", *options.sizes]
        source = ROOT / "bench" / "kernel.c"
        subprocess.run(
            [compiler, "-O3", "-march=native", source, library, "-o", program[0]],
            check=True,
        )
        os.sched_setaffinity(0, {options.core})
        print("|  size | gate, µs | GB/s | read, µs | GB/s | read/gate | turning read/gate |")
        print("|---|---|---|---|---|---|---|")
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout
            for line in run.stdout:
                m, n, size = map(int, line.split()[:3])
                gate, read, turning, low, median, high = map(float, line.split()[3:])
                limits[f"{m}x{n}"] = read
                print(
                    f"| {m}x{n} | {gate * 1e6:.3f} | {size / gate / 1e9:.1f} "
                    f"| {read * 1e6:.3f} | {size / read / 1e9:.1f} "
                    f"| {median:.2f} ({low:.2f}-{high:.2f}) | {turning / gate:.2f} |",
                    flush=True,
                )
        if run.returncode:
            raise SystemExit(f"{program[0]} failed")
    if options.json:
        options.json.write_text(json.dumps(limits, indent=1) + "\n")


if __name__ == "__main__":
    main()
