"""Measure everything that README.md and docs show, and write it there: figures, tables, pictures.

    python bench/report.py                     # all parts; docs/benchmarks.json, .md, .png, README.md
    python bench/report.py --parts gate lstm   # these again, the others as stored
    python bench/report.py --from-json         # nothing measured: text and pictures from the stored JSON
    python bench/report.py --from-json --check # nothing written: is the text what the JSON gives?
    python bench/report.py --quick             # a smoke run, under build/benchmarks-quick

A part is a script that is run with --json FILE, in a process of its own.  It stores what compare.py stores, or any
object with "tables" (see figures.py).  It reports progress as lines "DONE/TOTAL WHAT" on stderr, and what the reader
must know as "note: WHAT" (machine.stage, machine.note).  If a part fails, it is named, the others still run, and the
exit status is 1.  A part that cannot run here, because a script, an option or a package is missing, is named too.

docs/benchmarks.md shows all parts.  What README and other pages show of them stands between
<!-- benchmarks: NAME --> and <!-- end -->.
"""

from __future__ import annotations

import argparse
import collections
import json
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
import pictures
from figures import best, quartiles, ratio, shown, text
from machine import about, store

ROOT = Path(__file__).parents[1]
QUICK = ROOT / "build" / "benchmarks-quick"
NOT_MEASURED = "**A quick run, not a measurement.**"


@dataclass
class Part:
    title: str
    command: str
    quick: str  # what a quick run adds to the command
    seconds: tuple[float, float]  # of a run and of a quick one, on two cores of a Zen 1
    about: str
    pictures: tuple[tuple[str, Callable[[dict[str, Any], Path], None]], ...] = ()


KERNEL = "in C, pinned to one core, all sides in turns in every round"
PARTS = {
    "gate": Part(
        "The gate", "bench/compare.py --rounds 51", "--sizes 32,128 --rounds 2 --turn 2", (150, 15),
        "One call from Python with one vector, float32, in µs: the median ± half the interquartile range. Each "
        "library runs in a process of its own on one thread. All are pinned to one core and take turns of 20 ms in "
        "random order. The same gate is called again and again, so its weights stay in the caches as far as they fit. "
        "Each library runs the fastest of its variants that agree with float64; the list below the table names it. "
        "`gate(x, W, b)` is the one-shot call, which packs nothing. `reading W` is the time of the fastest plain read "
        "of the same bytes, in alternating directions, as the gate reads them. Ratios are medians of the rounds' "
        "ratios, with their quartiles.",
        (("gate.png", pictures.draw_gate),),
    ),
    "lstm": Part(
        "The LSTM", "bench/compare.py --lstm --rounds 41", "--sizes 32/32,64/64 --rounds 2 --turn 2", (310, 15),
        "One layer, float32, measured as the gate is: a step of one row, with the state kept in place; a sequence "
        "of 100 steps in one call, of one row and of batches; and a step by storage, with the time over float32's and "
        "the error of h. Long sequences take fewer rounds, but at least seven.",
        (("lstm.png", pictures.draw_lstm), ("over-onnxruntime.png", pictures.draw_over)),
    ),
    "batch": Part(
        "Batches", "bench/compare.py --batch --rounds 31", "--batch 2,8 --sizes 128 --rounds 2 --turn 2",
        (110, 8),
        "B vectors in one call of the gate, measured as one vector is. The dashed line of the picture is the FMA peak "
        "of the part below.",
        (("batch.png", pictures.draw_batch),),
    ),
    "storage": Part(
        "Storages", "bench/compare.py --storage --rounds 41", "--sizes 128 --rounds 2 --turn 2", (40, 4),
        "The gate with one vector, by how the weights are held: the time over float32's in the same round, and the "
        "errors of y against float64 with weights that are not rounded.",
        (("storage.png", pictures.draw_storage),),
    ),
    "errors": Part(
        "Errors by storage", "bench/errors.py", "", (5, 5),
        "The demo's trained LSTM over its held-out digits, and a gate of random weights, against float64 with weights "
        "that are not rounded. No times.",
        (("demo.png", pictures.draw_demo),),
    ),
    "kernel": Part(
        "The kernel beside a plain read", "bench/kernel.py", "32x32 128x128", (55, 45),
        f"The gate's kernel with one vector, {KERNEL}, beside the fastest plain read of the same bytes that we "
        "could write. Both alternate between directions, so that a call begins with what the caches still hold.",
    ),
    "fma": Part(
        "The kernel in batches beside the FMA peak", "bench/kernel.py --batch", "64x64x8", (16, 4),
        f"The gate's kernel with B vectors, {KERNEL}: `share` is its rate over that of 12 independent sums "
        "in registers (the FMA peak), `gain` B single calls over the batch.",
    ),
    "threads": Part(
        "Two threads over one", "bench/kernel.py --threads", "64x64x8", (40, 4),
        "The gate's kernel in C, not pinned, with one vector and with 64, on one thread and on two in turns. While "
        "another process has the second core, a second thread gains nothing.",
    ),
    "stream": Part(
        "A stream in C", "bench/kernel.py --stream", "", (10, 10),
        f"A step of a stream through the C API, beside a direct call of the kernel that it uses, {KERNEL}.",
    ),
    "overhead": Part(
        "What a call costs beyond its work", "bench/overhead.py", "--rounds 100", (12, 4),
        "A 1x1 gate, called from Python in each way in turns in a process that is pinned to one core, beside calls "
        "that do nothing.",
    ),
    "service": Part(
        "What services ask", "bench/service.py --rounds 9", "--rounds 1 --calls 2000", (70, 8),
        "Threads that share an LSTM, other threads beside it, the tail of single steps, silence, and a million steps.",
    ),
    "install": Part(
        "Size and import", "bench/install.py --rounds 11", "fastgate onnxruntime --rounds 2", (60, 10),
        "The time of an import after NumPy's, in fresh processes pinned to one core, in turns; and the bytes of the "
        "installed files, of these with everything that the package requires except NumPy, and of the files deflated "
        "as in a wheel.",
    ),
    "dask": Part(
        "Two Dask workers over one", "examples/dask_scoring.py --compare --rows 100000", "--rounds 1 --rows 20000",
        (70, 20),
        "The example that scores a data set with Dask: two workers and one, in turns.",
    ),
}  # fmt: skip

# ---- what stands between markers -------------------------------------------------------------


def name_of(size: dict[str, Any]) -> str:
    return size["size"].removesuffix(" x 1")


def ratios(sizes: list[dict[str, Any]], ours: str, peer: str = "") -> dict[str, float]:
    """Size -> the time of a peer, or else of the fastest one, over ours."""
    found = {name_of(size): ratio(size["sides"], peer or best(size["sides"]), ours) for size in sizes}
    return {size: middle[1] for size, middle in found.items() if middle != "-"}


def extent(found: dict[str, float]) -> str:
    """The smallest and the largest, and at which size."""
    if not found:
        return "(not measured)"
    ends = dict.fromkeys((min(found, key=found.__getitem__), max(found, key=found.__getitem__)))
    return " to ".join(f"{shown(found[size])} ({size})" for size in ends)


def lstm_sizes(part: dict[str, Any], table: str, batch: int = 1) -> list[dict[str, Any]]:
    return [size for size in part["sizes"] if size["table"] == table and size["batch"] == batch]


def where(part: dict[str, Any]) -> str:
    return f"{part['cpu']}, {part['isa'].upper()}, one core, {part['date'][:10]}"


def figures_lines(part: dict[str, Any], install: dict[str, Any]) -> str:
    """The README's three figures. Ratios are below 1 where fastgate is the faster one, as in the picture beside them."""
    step, sequence = lstm_sizes(part, "step"), lstm_sizes(part, "sequence")
    chosen = next((size for size in step if size["size"] == "64/128"), step[0])
    took = shown(quartiles(chosen["sides"][lstm.STREAM]["rounds"])[1] * 1e6)
    rows = {name: (shown(times[1]), shown(size)) for name, times, _, size, _ in install["tables"][0]["rows"]}
    ms, mb = rows["fastgate"]
    other = f"; {lstm.PEER} {rows[lstm.PEER][1]} MB and {rows[lstm.PEER][0]} ms" if lstm.PEER in rows else ""

    def share(sizes: list[dict[str, Any]], ours: str, peer: str = "") -> str:
        return extent({size: 1 / found for size, found in ratios(sizes, ours, peer).items()})

    return (
        f"- **{took} µs** for a step of {chosen['n']} inputs and {chosen['H']} units. Steps take "
        f"{share(step, lstm.STREAM, lstm.PEER)} of ONNX Runtime's time, and {share(step, lstm.STREAM)} of the fastest "
        f"other library's.\n"
        f"- **A sequence** of {lstm.STEPS} steps and one row takes {share(sequence, lstm.SEQUENCE, lstm.PEER)} of ONNX "
        f"Runtime's time.\n"
        f"- **{mb} MB** installed beside NumPy, and {ms} ms to import{other}.\n\n"
        f"{where(part)}; sizes are inputs/units."
    )


def behind_lines(gate: dict[str, Any], batch: dict[str, Any], part: dict[str, Any]) -> str:
    """Where another library was faster, by the median."""

    def slower(sizes: list[dict[str, Any]], ours: str) -> str:
        found = ratios(sizes, ours)
        lines = [f"{name_of(size)} ({shown(found[name_of(size)])}, {best(size['sides'])})"
                 for size in sizes if found.get(name_of(size), 1) < 1]  # fmt: skip
        return ", ".join(lines) or "none"

    sequences = [size for size in part["sizes"] if size["table"] == "sequence"]
    return (
        f"- one vector, `g(x, out=y)`: {slower(gate['sizes'], compare.OURS)}\n"
        f"- one vector, `gate(x, W, b)`: {slower(gate['sizes'], 'gate(x, W, b)')}\n"
        f"- batches: {slower(batch['sizes'], compare.OURS)}\n"
        f"- steps of an LSTM: {slower(lstm_sizes(part, 'step'), lstm.STREAM)}\n"
        f"- sequences of an LSTM: {slower(sequences, lstm.SEQUENCE)}\n\n"
        f"{where(part)}."
    )


def error_lines(part: dict[str, Any]) -> str:
    return text(part["tables"])


def overhead_lines(part: dict[str, Any]) -> str:
    rows = part["tables"][0]["rows"][1:]
    costs = [f"{name} {shown(less)} ns" for name, _, less in rows if less != "-"]
    nothing = [f"{name} {shown(found[1])} ns" for name, found, less in rows if less == "-"]
    return f"Beyond the kernel, a call costs: {', '.join(costs)}. For comparison: {'; '.join(nothing)} ({where(part)})."


MARKERS: dict[str, tuple[Callable[..., str], tuple[str, ...]]] = {
    "figures": (figures_lines, ("lstm", "install")),
    "behind": (behind_lines, ("gate", "batch", "lstm")),
    "errors": (error_lines, ("errors",)),
    "overhead": (overhead_lines, ("overhead",)),
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
        "`bench/report.py` writes this page from [benchmarks.json](benchmarks.json), which has every figure. Do not "
        "edit it. One command measures everything again, in less than 18 minutes on two quiet cores:",
        "```sh\npython3 -m venv .venv-bench && .venv-bench/bin/pip install '.[bench]' torch==2.13.0 && "
        ".venv-bench/bin/python bench/report.py\n```",
        "\n".join(f"- {key}: {report[key]}" for key in ("cpu", "caches", "cores", "os", "isa", "compiler"))
        + "\n- versions: " + ", ".join(f"{name} {v}" for name, v in report["versions"].items()),
        "Tables show the median over the rounds, with the lower and upper quartiles in parentheses, or ± half the "
        "interquartile range.",
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
        lines += [f"![{part.title}]({picture})" for picture, _ in part.pictures if picture == f"{name}.png"]
        lines.append(text(compare.tables(found) if "sizes" in found else found["tables"]))
    return "\n\n".join(lines) + "\n"


def draw(report: dict[str, Any], folder: Path) -> None:
    for name, part in PARTS.items():
        found = whole(report, name)
        for picture, draw_one in part.pictures if "failure" not in found else ():
            draw_one(found, folder / picture)


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
