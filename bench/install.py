#!/usr/bin/env python3
"""What it costs to have a library: the bytes that are installed, and the time of an import.

    python bench/install.py [DISTRIBUTION ...]

It counts the bytes of the files that the distribution's record lists, compiled Python included; then those with
everything that it requires, directly or not, except NumPy; and its own files compressed one by one, as in a wheel.
Each import runs in a fresh process, after NumPy's.  The libraries take turns in a new random order each round, and a
first round, which is not counted, brings the files into the cache.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import random
import subprocess
import sys
import zlib
from pathlib import Path

from figures import quartiles
from machine import note, pinned, publish, stage
from packaging.requirements import Requirement

LIBRARIES = ("fastgate", "onnxruntime", "openvino", "torch")
TIMED = "import numpy, time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


def required(name: str, found: set[str]) -> set[str]:
    """This distribution and those that it requires, if they are installed, without NumPy."""
    name = name.lower().replace("_", "-")
    if name in found or name == "numpy":
        return found
    try:
        requires = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:  # optional, for another system
        return found
    found.add(name)
    for text in requires:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            required(requirement.name, found)
    return found


def files(name: str) -> list[Path]:
    listed = importlib.metadata.distribution(name).files or []
    return [path for path in (Path(str(file.locate())) for file in listed) if path.is_file()]


def megabytes(names: set[str]) -> float:
    return sum(path.stat().st_size for name in names for path in files(name)) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("libraries", nargs="*", metavar="DISTRIBUTION", default=LIBRARIES)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if (core := pinned()) is not None:
        os.sched_setaffinity(0, {core})
    times: dict[str, list[float]] = {}
    for done in range(options.rounds + 1):
        for name in random.sample(options.libraries, len(options.libraries)):
            command = [sys.executable, "-c", TIMED.format(name)]
            run = subprocess.run(command, capture_output=True, text=True)
            if run.returncode == 0:
                times.setdefault(name, []).append(float(run.stdout) * 1e3)
            elif done == 0:
                note(f"{name} {run.stderr.splitlines()[-1]}")
        stage(done, options.rounds, "imports")
    rows = []
    for name in (name for name in options.libraries if name in times):
        row = [name, quartiles(times[name][1:])]
        try:
            own = files(name)
            deflated = sum(len(zlib.compress(path.read_bytes())) for path in own) / 1e6
            row += [megabytes({name}), megabytes(required(name, set())), deflated]
        except importlib.metadata.PackageNotFoundError:
            note(f"{name} is not installed, only importable")
            row += ["-", "-", "-"]
        rows.append(row)
    columns = ["", "import after NumPy's, ms", "installed, MB", "with what it requires", "deflated"]
    publish([{"columns": columns, "rows": rows}], options.json)


if __name__ == "__main__":
    main()
