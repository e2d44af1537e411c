"""What a benchmark tells: the machine that it ran on, its progress, and the figures that it stores."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from figures import PEERS, text


def stage(done: int, total: int, what: str) -> None:
    """Print the progress, which report.py reads too."""
    print(f"{done}/{total} {what}", file=sys.stderr, flush=True)


def note(what: str) -> None:
    """Print something that the reader must know, and that report.py prints again."""
    print(f"note: {what}", file=sys.stderr, flush=True)


def pinned() -> int | None:
    """The last core that this process may use, if the system lets it choose one."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def about() -> dict[str, Any]:
    """The command, the time, the machine and the versions."""
    import fastgate

    versions = {"python": platform.python_version(), "fastgate": fastgate.__version__}
    for name in (*PEERS, "scipy", "dask"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "command": " ".join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **cpu(fastgate),
        "os": os_name(),
        **core(fastgate),
        "versions": versions,
    }


def cpu(fastgate: Any) -> dict[str, Any]:
    caches = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / f).read_text().strip() for f in ("level", "type", "size"))
        if kind != "Instruction":
            caches.append(f"L{level} {size}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": fastgate._cpu_name(), "cores": cores, "caches": ", ".join(caches) or "unknown"}


def os_name() -> str:
    names = [f"{platform.system()} {platform.release().partition('-')[0]}", platform.machine()]
    with contextlib.suppress(OSError):
        names.insert(0, platform.freedesktop_os_release()["PRETTY_NAME"])
    return ", ".join([*names, " ".join(platform.libc_ver())])


def core(fastgate: Any) -> dict[str, str]:
    if fastgate._core is None:
        return {"isa": "none: the NumPy reference", "compiler": "none"}
    return {"isa": fastgate._core.instruction_set(), "compiler": fastgate._core.build_info()[1]}


def store(report: dict[str, Any], path: Path | None) -> None:
    """Write the report as JSON, with each list of numbers on a line."""
    if path:
        lines = json.dumps(report, indent=1, ensure_ascii=False)
        lines = re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found[0].split()), lines)
        lines = lines.replace("[ ", "[").replace(" ]", "]")
        path.write_text(lines + "\n")


def publish(tables: list[dict[str, Any]], path: Path | None, **further: Any) -> None:
    """Prints tables (see figures.py) and stores them, with further figures."""
    report = {**about(), **further, "tables": tables}
    print(f"{heading(report)}\n\n{text(tables)}")
    store(report, path)


def heading(report: dict[str, Any]) -> str:
    return ", ".join([report["cpu"], *(f"{k} {v}" for k, v in report["versions"].items())])
