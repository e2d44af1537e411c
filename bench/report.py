#!/usr/bin/env python3
"""Measure everything that README.md and docs show, and write it there: figures, tables, pictures.

    python bench/report.py                     # all parts; docs/benchmarks.json, .md, .png, README.md
    python bench/report.py --parts gate lstm   # these again, the others as stored
    python bench/report.py --from-json         # nothing measured: text and pictures from the stored JSON
    python bench/report.py --from-json --check # nothing written: is the text what the JSON gives?
    python bench/report.py --quick             # a smoke run, under build/benchmarks-quick

A part is a script with --json FILE, in a process of its own: compare.py's JSON, or any object with
"tables" as show.table takes them. It reports progress as lines "DONE/TOTAL WHAT" on stderr, and what
the reader must know as "note: WHAT" (sides.stage, sides.note). A part that fails is named and the others
go on; the exit status is 1 then. A part that cannot be had here (no such script or option, a package
that is missing) is left out, named too.

docs/benchmarks.md has all of it. What the README and other pages show stands between
<!-- benchmarks: NAME --> and <!-- end -->.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import compare
import lstm
import numpy as np
from show import best, markdown, ratio, shown, text
from sides import about, store

ROOT = Path(__file__).parents[1]
QUICK = ROOT / "build" / "benchmarks-quick"
NOT_MEASURED = "**A quick run, not a measurement.**"


def draw_demo(_: dict[str, Any], path: Path) -> None:
    from fastgate import demo

    with contextlib.redirect_stdout(io.StringIO()):
        if demo.main(["--plot", str(path)]):
            raise SystemExit(f"{path} was not drawn")


@dataclass
class Part:
    title: str
    command: str
    quick: str  # what a quick run adds to the command
    seconds: tuple[float, float]  # of a run and of a quick one, on two cores of a Zen 1
    about: str
    picture: str = ""
    draw: Callable[[dict[str, Any], Path], None] | None = None


KERNEL = "in C, pinned to one core, all sides in turns in every round"
PARTS = {
    "gate": Part(
        "The gate", "bench/compare.py --rounds 75", "--sizes 32,128 --rounds 2 --turn 2", (207, 15),
        "One call from Python with one vector, float32, µs: median ± half the interquartile range. Each "
        "library in a process of its own on one thread, all pinned to one core, in turns of 20 ms in random "
        "order; the same gate over and over, so that weights stay in the caches as far as they fit. Each "
        "runs the fastest of the variants that agree with float64; which, is listed below the table. "
        "`gate(x, W, b)` is the unpacked one-shot call; `reading W` the time of the fastest plain read of "
        "the same bytes. Ratios are medians of each round's, with quartiles.",
        "compare.png", compare.draw,
    ),
    "lstm": Part(
        "The LSTM", "bench/compare.py --lstm --rounds 51", "--sizes 32/32,64/64 --rounds 2 --turn 2", (225, 12),
        "One layer, float32, measured as the gate: a step of one row, the state going on in place; a "
        "sequence of 100 steps in one call, of 1 and of 16 rows; a step by storage, time over float32's and "
        "error of h.",
        "lstm.png", lstm.draw,
    ),
    "batch": Part(
        "Batches", "bench/compare.py --batch --rounds 51", "--batch 2,8 --sizes 128 --rounds 2 --turn 2",
        (167, 8),
        "B vectors in one call of the gate, measured as one vector is. The dashed line of the picture is "
        "the FMA peak of the part below.",
        "batch.png", compare.draw_batch,
    ),
    "storage": Part(
        "Storages", "bench/compare.py --storage --rounds 61", "--sizes 128 --rounds 2 --turn 2", (50, 4),
        "The gate, one vector, by how the weights are held: time over float32's in the same round, and "
        "errors of y against float64 with weights not rounded.",
        "storage.png", compare.draw_storage,
    ),
    "errors": Part(
        "Errors by storage", "bench/errors.py", "", (5, 5),
        "The demo's trained LSTM over its held-out digits, and a gate of random weights, against float64 "
        "with weights not rounded. No times.",
        "demo.png", draw_demo,
    ),
    "kernel": Part(
        "The kernel beside a plain read", "bench/kernel.py", "32x32 128x128", (55, 45),
        f"The gate's kernel with one vector, {KERNEL}, beside the fastest plain read of the same bytes that "
        "we could write, which goes forwards, and one that turns around every other time, as the gate does.",
    ),
    "fma": Part(
        "The kernel in batches beside the FMA peak", "bench/kernel.py --batch", "64x64x8", (16, 4),
        f"The gate's kernel with B vectors, {KERNEL}: `share` is its rate over that of 12 independent sums "
        "in registers (the FMA peak), `gain` B single calls over the batch.",
    ),
    "threads": Part(
        "Two threads over one", "bench/kernel.py --threads", "64x64x8", (40, 4),
        "The gate's kernel in C, not pinned, one vector and batches of 64, on one thread and on two in "
        "turns. Where another process has the second core, a second thread gains nothing.",
    ),
    "stream": Part(
        "A stream in C", "bench/kernel.py --stream", "", (10, 10),
        f"A step of a stream through the C API, and the kernel that it calls called directly, {KERNEL}.",
    ),
    "overhead": Part(
        "What a call costs beyond its work", "bench/overhead.py", "--rounds 100", (12, 4),
        "A 1x1 gate from Python, called in each way in turns in a process pinned to one core, beside calls "
        "that do nothing.",
    ),
    "service": Part(
        "What services ask", "bench/service.py --rounds 13", "--rounds 1 --calls 2000", (85, 8),
        "Threads that share an LSTM, other threads beside it, the tail of single steps, silence, and a "
        "million steps.",
    ),
    "install": Part(
        "Size and import", "bench/install.py --rounds 21", "fastgate onnxruntime --rounds 2", (108, 10),
        "Import time in fresh processes pinned to one core, after NumPy's import, in turns; bytes of the "
        "files that were installed, and the same with all that is required but NumPy; deflated, as a wheel "
        "is.",
    ),
    "dask": Part(
        "Two Dask workers over one", "examples/dask_scoring.py --compare --rows 200000", "--rounds 1 --rows 20000",
        (130, 20),
        "The example that scores a data set with Dask: all workers against one, in turns.",
    ),
}  # fmt: skip

# ---- what stands between markers -------------------------------------------------------------


def medians(sizes: list[dict[str, Any]], ours: str, peer: str = "") -> dict[str, float]:
    """Size -> the time of a peer, or else of the best, over ours."""
    found = {s["size"]: ratio(s["sides"], peer or best(s["sides"]), ours) for s in sizes}
    return {size: quartiles[1] for size, quartiles in found.items() if quartiles != "-"}


def extent(ratios: dict[str, float]) -> str:
    if not ratios:
        return "(not measured)"
    ends = dict.fromkeys((min(ratios, key=ratios.__getitem__), max(ratios, key=ratios.__getitem__)))
    return " to ".join(f"{shown(ratios[size])} ({size})" for size in ends)


def steps(part: dict[str, Any]) -> list[dict[str, Any]]:
    return [size for size in part["sizes"] if size["table"] == "step"]


def where(part: dict[str, Any]) -> str:
    return f"{part['cpu']}, {part['isa'].upper()}, {part['date'][:10]}"


def summary(gate: dict[str, Any], step: dict[str, Any]) -> str:
    over = medians(steps(step), lstm.STREAM), medians(steps(step), lstm.STREAM, lstm.PEER)
    return (
        f"Measured on one core ({where(gate)}): the fastest library that we could set against it took "
        f"{extent(medians(gate['sizes'], compare.OURS))} times as long as a gate, and {extent(over[0])} "
        f"times as long as a step of an LSTM's stream; ONNX Runtime {extent(over[1])} times as long as "
        "that step."
    )


def short_table(sizes: list[dict[str, Any]], column: str, ours: str, *peers: str) -> str:
    columns = [column, f"{ours}, µs", "the fastest other", "its time, µs", "over ours"]
    rows = []
    for size in sizes:
        sides, name = size["sides"], best(size["sides"])
        times = [sides[side]["rounds"] if side else [] for side in (ours, name)]
        middle = [float(np.median(rounds)) * 1e6 if rounds else "-" for rounds in times]
        row = [size["size"], middle[0], name or "-", middle[1], ratio(sides, name, ours)]
        rows.append([*row, *(ratio(sides, peer, ours) for peer in peers)])
    return markdown([*columns, *(f"{peer}'s over ours" for peer in peers)], rows)


def gate_lines(part: dict[str, Any]) -> str:
    return f"{where(part)}:\n\n{short_table(part['sizes'], 'm x n', compare.OURS)}"


def lstm_lines(part: dict[str, Any]) -> str:
    return f"{where(part)}:\n\n{short_table(steps(part), 'n/h', lstm.STREAM, lstm.PEER)}"


def error_lines(part: dict[str, Any]) -> str:
    return text(part["tables"])


def overhead_lines(part: dict[str, Any]) -> str:
    rows = part["tables"][0]["rows"][1:]
    costs = [f"{name} {shown(less)} ns" for name, _, less in rows if less != "-"]
    nothing = [f"{name} {shown(found[1])} ns" for name, found, less in rows if less == "-"]
    return f"A call costs, beyond the kernel: {', '.join(costs)}. Beside it: {'; '.join(nothing)} ({where(part)})."


def install_lines(part: dict[str, Any]) -> str:
    found = [
        f"{name} {shown(times[1])} ms" + ("" if size == "-" else f" and {shown(size)} MB")
        for name, times, _, size, _ in part["tables"][0]["rows"]
    ]
    return (
        "Import time beyond NumPy's (asked of fastgate: at most 5 ms), and size with all that is required "
        f"but NumPy: {', '.join(found)} ({where(part)})."
    )


MARKERS: dict[str, tuple[Callable[..., str], tuple[str, ...]]] = {
    "summary": (summary, ("gate", "lstm")),
    "gate": (gate_lines, ("gate",)),
    "lstm": (lstm_lines, ("lstm",)),
    "errors": (error_lines, ("errors",)),
    "overhead": (overhead_lines, ("overhead",)),
    "install": (install_lines, ("install",)),
}
MARKED = re.compile(r"(<!-- benchmarks: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(report: dict[str, Any], page: str) -> str:
    def fill(marked: re.Match[str]) -> str:
        write, names = MARKERS[marked[2]]
        parts = [whole(report, name) for name in names]
        if all("failure" not in part for part in parts):
            lines = write(*parts)
        else:
            lines = f"(Not measured yet: `python bench/report.py --parts {' '.join(names)}`.)"
        quick = f"{NOT_MEASURED}\n\n" if report["quick"] else ""
        return f"{marked[1]}\n{quick}{lines}\n\n{marked[3]}"

    return MARKED.sub(fill, page)


# ---- what docs/benchmarks.md shows -----------------------------------------------------------


def whole(report: dict[str, Any], name: str) -> dict[str, Any]:
    """A part, with the machine and what other parts know of its limits."""
    parts = report["parts"]
    limits = {"limits": parts.get("kernel", {}).get("limits"), "fma": parts.get("fma", {}).get("fma")}
    part = parts.get(name, {"failure": "not measured yet"})
    return {**report, **{key: found for key, found in limits.items() if found}, **part}


def document(report: dict[str, Any]) -> str:
    lines = [
        "# Benchmarks",
        "Written by `bench/report.py` from [benchmarks.json](benchmarks.json), which has every figure: do "
        "not edit. Figures of a machine with AVX-512, taken earlier, are in "
        "[benchmarks-avx512.md](benchmarks-avx512.md).",
        "\n".join(f"- {key}: {report[key]}" for key in ("cpu", "caches", "cores", "os", "isa", "compiler"))
        + "\n- versions: " + ", ".join(f"{name} {v}" for name, v in report["versions"].items()),
        "In tables: median (lower quartile to upper quartile) over the rounds.",
    ]  # fmt: skip
    if report["quick"]:
        lines.insert(1, NOT_MEASURED)
    for name, part in PARTS.items():
        found = whole(report, name)
        lines += [f"## {part.title}", part.about]
        if "failure" in found:
            lines.append(f"`{name}`: {found['failure']}.")
            continue
        lines.append(f"`{found['command']}`, {found['date'][:10]}:")
        if part.picture:
            lines.append(f"![{part.title}]({part.picture})")
        lines.append(text(compare.tables(found) if "sizes" in found else found["tables"]))
    return "\n\n".join(lines) + "\n"


def draw(report: dict[str, Any], folder: Path) -> None:
    for name, part in PARTS.items():
        found = whole(report, name)
        if part.draw and "failure" not in found:
            part.draw(found, folder / part.picture)


# ---- measuring -------------------------------------------------------------------------------


def say(line: str, *, passing: bool = False) -> None:
    """On a terminal a passing line is written over by the next."""
    start, end = ("\r\x1b[K", "" if passing else "\n") if sys.stdout.isatty() else ("", "\n")
    print(f"{start}{line}", end=end, flush=True)


def span(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def usage(command: list[str]) -> tuple[str, str]:
    """The --help of a script, and why the command cannot be had here, or nothing."""
    script, *arguments = command
    if not (ROOT / script).exists():
        return "", f"there is no {script}"
    run = subprocess.run([sys.executable, ROOT / script, "--help"], capture_output=True, text=True)
    if run.returncode:
        last = run.stderr.splitlines()[-1]
        return "", last if last.startswith("ModuleNotFoundError") else ""
    absent = [a for a in (*arguments, "--json") if a.startswith("--") and a not in run.stdout]
    return run.stdout, f"{script} has no {' '.join(absent)}" if absent else ""


def measure(report: dict[str, Any], names: list[str], path: Path) -> bool:
    """Runs the parts, storing the report after each; whether none failed."""
    left = {name: PARTS[name].seconds[report["quick"]] for name in names}
    say(f"{', '.join(names)}: about {span(sum(left.values()))}; nothing else should run meanwhile")
    failed = False
    with tempfile.TemporaryDirectory() as build:
        for number, name in enumerate(names, 1):
            seconds = left.pop(name)
            part, head = PARTS[name], f"[{number}/{len(names)}] {name}"
            command = shlex.split(f"{part.command} {part.quick if report['quick'] else ''}")
            help_text, reason = usage(command)
            if reason:
                say(f"{head}: left out: {reason}")
                continue

            def progress(line: str, share: float) -> None:
                remaining = span(sum(left.values()) + seconds * (1 - share))
                say(f"{head} {line}, about {remaining} left", passing=True)

            progress("started", 0)
            output = Path(build) / f"{name}.json"
            further = ["--json", str(output), *(["--build", build] if "--build" in help_text else [])]
            if failure := run([*command, *further], progress):
                failed = True
                say(f"{head}: failed: {failure}")
                found = {"failure": "failed"}  # why is for the terminal: it may name this machine's paths
            else:
                found = {**json.loads(output.read_text()), "command": f"python {shlex.join(command)}"}
                found = {key: value for key, value in found.items() if report.get(key) != value}
            report["parts"][name] = found
            store(report, path)
    return not failed


def run(command: list[str], progress: Callable[[str, float], None]) -> str:
    """A part in a process of its own; what went wrong, if it did."""
    last: collections.deque[str] = collections.deque(maxlen=1)
    child = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    with child:
        for line in child.stderr or ():
            if stage := re.fullmatch(r"(\d+)/(\d+) (.*)\n", line):
                progress(stage[0].strip(), int(stage[1]) / int(stage[2]))
            elif line.startswith("note: "):
                say(line.rstrip())
            elif line.strip():
                last.append(line.strip())
    return (last[0] if last else f"exit status {child.returncode}") if child.returncode else ""


def started(options: argparse.Namespace, path: Path) -> dict[str, Any]:
    """The report that parts join: a new one, or the stored one if it is of this machine."""
    report = {**about(), "quick": options.quick, "parts": {}}
    if options.parts and path.exists():
        stored = json.loads(path.read_text())
        passing = ("command", "date", "parts")
        if changed := [k for k in report if k not in passing and stored.get(k) != report[k]]:
            raise SystemExit(f"{path} has another {', '.join(changed)}: measure all parts")
        report["parts"] = stored["parts"]
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="these only")
    parser.add_argument("--quick", action="store_true", help="a smoke run, kept apart")
    parser.add_argument("--from-json", action="store_true", help="measure nothing")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if anything would change")
    options = parser.parse_args()
    root = QUICK if options.quick else ROOT
    docs = root / "docs"
    docs.mkdir(parents=True, exist_ok=True)
    path = docs / "benchmarks.json"
    succeeded = True
    if options.from_json or options.check:
        report = json.loads(path.read_text())
    else:
        report = started(options, path)
        succeeded = measure(report, options.parts or list(PARTS), path)
    texts = {docs / "benchmarks.md": document(report)}
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        if MARKED.search(page.read_text()):
            texts[root / page.relative_to(ROOT)] = filled(report, page.read_text())
    stale = [file for file, now in texts.items() if not file.exists() or file.read_text() != now]
    if options.check:
        for file in stale:
            say(f"{file.relative_to(ROOT)} is not what {path.name} gives: bench/report.py --from-json")
        return bool(stale)
    for file in stale:
        file.write_text(texts[file])
    draw(report, docs)
    say(f"written: {', '.join(str(file.relative_to(ROOT)) for file in texts)}, and the pictures")
    return not succeeded


if __name__ == "__main__":
    sys.exit(main())
