#!/usr/bin/env python3
"""What a call costs beyond its work: a 1x1 gate, called in each way, beside calls that do nothing.

All of them take turns in a process that is pinned to one core.  The time of the C kernel, from bench/kernel.py, is
subtracted from that of a gate's call.
"""

from __future__ import annotations

import argparse
import os
import random
import timeit
from pathlib import Path
from typing import Any

import fastgate
import kernel
import numpy as np
from figures import quartiles
from machine import pinned, publish, stage

CALLS = 2000  # a turn: short, so that few are cut into


class Nothing:
    def call(self, x: Any, *, out: Any = None) -> Any:
        return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=1001)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--build", type=Path, metavar="DIR", help="of kernel.py")
    options = parser.parse_args()
    x, y = np.ones(1, np.float32), np.empty(1, np.float32)
    g = fastgate.Gate(np.ones((1, 1), np.float32), np.zeros(1, np.float32))
    names = {"g": g, "call": g.bind(x, out=y), "x": x, "y": y, "empty": np.empty}
    names |= {"reverse": [].reverse, "nothing": Nothing().call, "float32": np.float32}
    ways = {  # a statement, and whether the kernel runs in it
        "`call = g.bind(x, out=y); call()`": ("call()", True),
        "`g(x, out=y)`": ("g(x, out=y)", True),
        "`g(x)`": ("g(x)", True),
        "`[].reverse()`, a method of a compiled class with nothing to do": ("reverse()", False),
        "`nothing(x, out=y)`, a method of a Python class with nothing to do": ("nothing(x, out=y)", False),
        "`numpy.empty(1, numpy.float32)`": ("empty(1, float32)", False),
    }
    with kernel.compiled("kernel", options.build) as program:
        if (core := pinned()) is not None:
            os.sched_setaffinity(0, {core})
        (rounds,) = kernel.measured(program, "read", ["1x1"]).values()
    alone = quartiles(rounds[:, 1] * 1e9)
    timers = {name: timeit.Timer(code, globals=names) for name, (code, _) in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for done in range(options.rounds):
        for name in random.sample(list(ways), len(ways)):
            times[name].append(timers[name].timeit(CALLS) / CALLS * 1e9)
        if (done + 1) % 100 == 0:
            stage(done + 1, options.rounds, "rounds")
    rows: list[list[Any]] = [["the C kernel of a 1x1 gate, from C", alone, "-"]]
    for name, (_, works) in ways.items():
        found = quartiles(times[name])
        rows.append([name, found, found[1] - alone[1] if works else "-"])
    columns = ["", "a call, ns", "less the kernel, ns"]
    publish([{"columns": columns, "rows": rows}], options.json)


if __name__ == "__main__":
    main()
