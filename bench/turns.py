"""Sides that take turns.

A side is a generator of configurations of one library.  It runs in a process of its own, on one core that all sides
share.  At each size it runs the fastest of its configurations whose result agrees with float64.  The sides take
turns, in a new random order each round, and the others sleep meanwhile.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import time
import timeit
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from figures import significant
from machine import note

THREADS = ("OMP", "OPENBLAS", "MKL", "NUMBA", "NUMEXPR", "VECLIB_MAXIMUM")
STORAGES = ("float32", "float16", "bfloat16", "int8", "float64")
TOLERANCE = 2e-6  # of y, against float64: float32 passes at every size, bfloat16 and float16 do not
TOLERANCES = {"float16": 1e-3, "bfloat16": 1e-2, "int8": 2e-2}  # of the sides of these names
REST = 0.01  # seconds until another side's threads sleep
UNDISTURBED = 0.97  # of the core during a turn
LIMIT, LEAST = 12, 7  # seconds for the rounds of one size, and the rounds that are run even if they take longer


@dataclass
class Call:
    """One configuration of a side: a statement that leaves its result in names["y"]."""

    name: str
    code: str
    names: dict[str, Any]


Side = Callable[..., Iterator[Call]]
Problem = Callable[..., tuple[tuple[Any, ...], Any]]  # a size -> a side's arguments, the true y

# ---- one side, in its own process ------------------------------------------------------------


@dataclass
class Prepared:
    """What a side runs at one size, or why it does not."""

    configuration: str = ""
    seconds: float = 0.0  # a call, estimated
    error: float = 0.0  # the largest, against float64
    rms: float = 0.0  # the root mean square
    failure: str = ""
    gone: bool = False  # not installed, or crashed: not asked again


class Worker:
    """Inside a side's process: prepares a size, then runs it in turns."""

    def __init__(self, side: Side, problem: Problem, tolerance: float) -> None:
        self.side = side
        self.problem = problem
        self.tolerance = tolerance

    def prepare(self, *size: int) -> Prepared:
        arguments, expected = self.problem(*size)
        candidates: list[tuple[timeit.Timer, Prepared]] = []
        failure = ""
        try:
            for call in self.side(*arguments):
                exec(call.code, call.names)
                errors = np.abs(np.asarray(call.names["y"]).ravel() - expected.ravel())
                error, rms = float(errors.max()), float(np.sqrt(np.mean(errors**2)))
                if error <= self.tolerance:
                    timer = timeit.Timer(call.code, globals=call.names)
                    seconds = min(timer.repeat(3, 2)) / 2
                    candidates.append((timer, Prepared(call.name, seconds, error, rms)))
                else:
                    failure = f"{call.name}: wrong by {error:.1e}"
        except ImportError as e:
            return Prepared(failure=f"missing: {e}", gone=True)
        except Exception as e:  # a peer that fails at a size is a result
            failure = f"{type(e).__name__}: {e}"
        for _ in range(7):  # in turn, for the speed of the machine changes
            for timer, found in candidates:
                number = max(1, round(0.004 / found.seconds))
                found.seconds = min(found.seconds, timer.timeit(number) / number)
        if not candidates:
            return Prepared(failure=failure)
        self.timer, best = min(candidates, key=lambda candidate: candidate[1].seconds)
        return best

    def turn(self, number: int) -> tuple[float, float]:
        """Seconds a call, and the share of the core that this process had meanwhile."""
        self.timer.timeit(number // 10 or number > 1)  # bring the weights back into the caches
        cpu = time.process_time()
        wall = self.timer.timeit(number)
        return wall / number, (time.process_time() - cpu) / wall


def serve(worker: Worker, core: int | None, link: Any) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})  # before any library starts a thread
    with contextlib.suppress(EOFError):  # the parent is gone
        while True:
            method, *args = link.recv()  # asleep until the next turn
            link.send(getattr(worker, method)(*args))


# ---- the parent ------------------------------------------------------------------------------


class Sides:
    """The processes, one a side, asked one at a time."""

    def __init__(
        self, sides: dict[str, Side], problem: Problem, core: int | None, threads: int = 1
    ) -> None:
        os.environ.update({f"{name}_NUM_THREADS": str(threads) for name in THREADS})  # inherited
        self.rest = REST if threads > 1 else 0
        spawn = multiprocessing.get_context("spawn")
        self.links = {}
        for name, side in sides.items():
            self.links[name], theirs = spawn.Pipe()
            worker = Worker(side, problem, TOLERANCES.get(name, TOLERANCE))
            spawn.Process(target=serve, args=(worker, core, theirs), daemon=True).start()
            theirs.close()

    def ask(self, name: str, method: str, *args: float) -> Any:
        self.links[name].send((method, *args))
        return self.links[name].recv()

    def compare(self, *size: int, rounds: int, turn: float) -> dict[str, Any]:
        """All at one size: {side: what it ran, its errors, and seconds a call, a round each}.

        shared counts the rounds in which another process had the core too.
        """
        ready: dict[str, Prepared] = {}
        results: dict[str, Any] = {}
        for name in list(self.links):
            try:
                ready[name] = found = self.ask(name, "prepare", *size)
            except (EOFError, ConnectionError):
                ready[name] = found = Prepared(failure="its process died", gone=True)
            if found.gone:
                del self.links[name]
                note(f"{name} {found.failure}")
            results[name] = {
                "configuration": found.configuration, "failure": found.failure,
                "error": significant(found.error), "rms": significant(found.rms),
                "shared": 0, "rounds": [],
            }  # fmt: skip
        order = [name for name in ready if ready[name].configuration]
        begin = time.perf_counter()
        for done in range(rounds):
            if done >= LEAST and time.perf_counter() - begin > LIMIT:
                break
            random.shuffle(order)
            for name in order:
                number = max(1, round(turn / ready[name].seconds))
                time.sleep(self.rest)
                for _ in range(3):  # a turn that another process cut into is taken again, twice
                    seconds, share = self.ask(name, "turn", number)
                    if share > UNDISTURBED:
                        break
                results[name]["rounds"].append(significant(seconds))
                results[name]["shared"] += share <= UNDISTURBED
        return results
