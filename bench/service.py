#!/usr/bin/env python3
"""What a service asks of fastgate's LSTM beyond the time of a call.  It needs Linux and two free cores.

    python bench/service.py [threads] [counting] [tail] [decay] [million]    # default: all

threads   four Python threads on two cores, each with a stream of its own of one shared LSTM: their steps a second over
          those of one thread; and the same for two threads in long sequences, which shows what the two cores can give
counting  a Python thread that counts while another thread runs a long sequence on the other core: its speed over
          that when it is alone
tail      the 99.9th percentile of single steps over their median, in turns of 1000 with an empty Python loop that takes
          as long and with ONNX Runtime's step
decay     silence after a loud start, with biases of 0, and with a forget gate near 1, whose c would become subnormal:
          the time of the last steps over that of the first ones, beside ONNX Runtime's
million   a million steps: memory, and the distance from a float64 LSTM with the same inputs, which is itself compared
          with fastgate.reference over 1000 steps

Figures are medians over the rounds, with their quartiles.
"""

from __future__ import annotations

import argparse
import functools
import os
import threading
import time
from array import array
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import fastgate
import lstm
import numpy as np
from fastgate import reference
from figures import Table, quartiles
from machine import note, publish, stage

SECONDS = 0.4  # of a measurement of threads


def problem(n: int, H: int) -> lstm.Problem:
    return lstm.problem(n, H, 1, 1, last=True)[0][0]


def noise(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def rate(works: list[Callable[[], Any]], units: int) -> float:
    """Units of work a second of all threads, each of which calls one of the works again and again."""
    done = [0] * len(works)
    started = threading.Barrier(len(works) + 1)
    end = threading.Event()

    def run(i: int) -> None:
        started.wait()
        while not end.is_set():
            works[i]()
            done[i] += units

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(works))]
    for thread in threads:
        thread.start()
    started.wait()
    start = time.perf_counter()
    time.sleep(SECONDS)
    end.set()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - start)


def four_threads(options: argparse.Namespace) -> Table:
    shared = fastgate.LSTM([problem(128, 256).layer()])
    x, long = noise(128), noise(1000, 128)

    def streaming() -> Callable[[], None]:
        step, y = shared.stream().step, np.empty(256, np.float32)

        def steps() -> None:
            for _ in range(100):
                step(x, out=y)

        return steps

    def sequences() -> None:
        shared(long)

    singles, fours, sequence = [], [], []
    for _ in range(options.rounds):
        singles.append(rate([streaming()], 100))
        fours.append(rate([streaming() for _ in range(4)], 100))
        sequence.append(rate([sequences] * 2, 1000) / rate([sequences], 1000))
    rows = [
        ["one thread, steps of 128/256 a second", quartiles(singles)],
        ["four threads, a stream each, over one", quartiles(np.divide(fours, singles))],
        ["two threads in sequences of 1000 steps, over one", quartiles(sequence)],
    ]
    return {"title": "Threads that share an LSTM, on two cores", "columns": ["", "rate"], "rows": rows}


def counting(options: argparse.Namespace) -> Table:
    shared, x = fastgate.LSTM([problem(128, 256).layer()]), noise(10_000, 128)
    cores = sorted(os.sched_getaffinity(0))[-2:]

    def counted(end: threading.Event) -> float:
        os.sched_setaffinity(0, cores[:1])  # of this thread
        start = time.perf_counter()
        for i in count():
            if i % 1000 == 0 and end.is_set():
                return i / (time.perf_counter() - start)
        raise AssertionError

    def speed(work: Callable[[], Any]) -> float:
        """The speed of a thread that counts on another core while this one works."""
        end, result = threading.Event(), []
        thread = threading.Thread(target=lambda: result.append(counted(end)))
        thread.start()
        work()
        end.set()
        thread.join()
        return result[0]

    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores[1:])
    alone, beside = [], []
    for _ in range(options.rounds):
        alone.append(speed(lambda: time.sleep(SECONDS)))
        beside.append(speed(lambda: shared(x)))
    os.sched_setaffinity(0, own)
    rows = [
        ["alone, million a second", quartiles(np.divide(alone, 1e6))],
        ["beside 10000 steps of 128/256, over alone", quartiles(np.divide(beside, alone))],
    ]
    return {"title": "A thread that counts", "columns": ["", "rate"], "rows": rows}


def timed(call: Callable[[], Any], number: int, into: array[int]) -> None:
    clock = time.perf_counter_ns
    for _ in range(number):
        start = clock()
        call()
        into.append(clock() - start)


def steps(p: lstm.Problem) -> dict[str, Callable[[], Any]]:
    """Side -> a function that runs a step in place."""
    names = next(lstm.STEP[lstm.STREAM](p)).names
    sides = {lstm.STREAM: functools.partial(names["s"].step, names["x"], out=names["y"])}
    try:
        names = next(lstm.STEP[lstm.PEER](p)).names
    except ImportError as e:
        note(f"{lstm.PEER} missing: {e}")
    else:
        sides[lstm.PEER] = functools.partial(names["run"], names["binding"])
    return sides


def tail(options: argparse.Namespace) -> Table:
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(own)})
    sides = steps(problem(64, 128))

    def seconds(call: Callable[[], Any]) -> float:
        trial: array[int] = array("q")
        timed(call, 2000, trial)
        return float(np.median(trial))

    def empty(turns: int) -> Callable[[], None]:
        loop = range(turns)

        def spin() -> None:
            for _ in loop:
                pass

        return spin

    turns = 1000 * seconds(sides[lstm.STREAM]) / seconds(empty(1000))
    sides["empty loop"] = empty(round(turns))
    times = {name: array("q") for name in sides}
    for i in range(options.calls // 1000):
        for name, call in sides.items():
            if name != lstm.PEER or i % 10 == 0:
                timed(call, 1000, times[name])
    os.sched_setaffinity(0, own)
    rows = []
    for name, found in times.items():
        middle, high = (float(q) / 1e3 for q in np.percentile(found, (50, 99.9)))
        rows.append([name, len(found), middle, high, high / middle])
    columns = ["64/128", "steps", "median, µs", "99.9 %, µs", "99.9 % / median"]
    return {"title": "The tail of single steps", "columns": columns, "rows": rows}


def decay(options: argparse.Namespace) -> Table:
    H = 128
    p, forget = problem(64, H), np.zeros(4 * H, np.float32)
    forget[H : 2 * H] = 4  # a forget gate of 0.98: subnormal from some 4800 steps on, and never 0
    p = p._replace(R=p.R / 100, x=0 * p.x, h=np.ones_like(p.h), c=np.full_like(p.c, 10))
    rows = []
    for name, bias in (("biases of 0", 0 * forget), ("forget gate's bias 4", forget)):
        ratios: dict[str, list[float]] = {}
        for _ in range(options.rounds):
            for side, step in steps(p._replace(b=bias)).items():
                times = array("q")
                timed(step, 10_000, times)
                late = float(np.median(times[-1000:]) / np.median(times[:100]))
                ratios.setdefault(side, []).append(late)
        rows += [[side, name, quartiles(found)] for side, found in ratios.items()]
    columns = ["64/128", "weights", "the last 1000 steps over the first 100"]
    return {"title": "10000 steps of silence after a loud start", "columns": columns, "rows": rows}


def resident() -> float:
    """The resident memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def million(options: argparse.Namespace) -> Table:
    n, H = 64, 128
    weights = problem(n, H).layer()
    exact = {name: a.astype(np.float64) for name, a in weights.items()}
    step, y = fastgate.LSTM([weights]).stream().step, np.empty((100, H), np.float32)
    oracle, state = fastgate.LSTM([exact], storage="float64"), None
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1000, n))
    true, _ = reference.LSTM([exact], storage="float64")(x)
    near = float(np.abs(oracle(x)[0] - true).max())
    rows = []
    for done in range(100, options.calls + 1, 100):
        chunk = rng.standard_normal((100, n), np.float32)
        for i in range(100):
            step(chunk[i], out=y[i])
        true, state = oracle(chunk.astype(np.float64), state)
        if done in (100, 1000, 10_000, 100_000, options.calls):
            error = np.abs(y - true)
            rms = float(np.sqrt(np.mean(error**2)))
            rows.append([done, float(error.max()), rms, resident()])
    columns = ["64/128, steps", "largest error of h, last 100", "RMS", "resident, MB"]
    notes = [f"that float64 LSTM and fastgate.reference, 1000 steps: {near:.1e} apart at most"]
    title = "A long stream, beside a float64 LSTM"
    return {"title": title, "columns": columns, "rows": rows, "notes": notes}


PARTS = {
    "threads": four_threads,
    "counting": counting,
    "tail": tail,
    "decay": decay,
    "million": million,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=1_000_000, help="of tail and million")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    chosen, tables = options.parts or list(PARTS), []
    for done, part in enumerate(chosen, 1):
        tables.append(PARTS[part](options))
        stage(done, len(chosen), part)
    publish(tables, options.json)


if __name__ == "__main__":
    main()
