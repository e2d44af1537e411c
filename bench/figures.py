"""The benchmarks' figures, and the tables that show them.

A table is {"title": ..., "columns": [...], "rows": [[...]], "notes": [...]}.  A cell is a text, a number, or
[lower quartile, median, upper quartile].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

PEERS = ("numpy", "numba", "torch", "onnxruntime", "openvino", "numkong")
Array = np.ndarray[Any, np.dtype[np.float32]]
Table = dict[str, Any]

# ---- figures ---------------------------------------------------------------------------------


def significant(value: float) -> float:
    return float(f"{value:.4g}")


def quartiles(values: Any) -> list[float]:
    return [significant(float(q)) for q in np.percentile(values, (25, 50, 75))]


def shown(value: Any) -> str:
    """A cell of a table."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        low, middle, high = map(shown, value)
        return f"{middle} ({low} to {high})"
    if isinstance(value, int):
        return f"{value:,}"
    if abs(value) < 1e-2:
        return f"{value:.1e}" if value else "0"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def micro(seconds: list[float]) -> str:
    """Microseconds a call: the median, and half the interquartile range."""
    low, middle, high = np.percentile(seconds, (25, 50, 75))
    return f"{shown(float(middle) * 1e6)} ±{(high - low) / 2 / middle:.0%}"


def over(sides: dict[str, Any], name: str | None, other: str) -> list[float]:
    """The time of one side over that of another in each round; [] if one did not run."""
    rounds = [sides[side]["rounds"] for side in (name, other) if side in sides]
    return [a / b for a, b in zip(*rounds)] if len(rounds) == 2 else []


def ratio(sides: dict[str, Any], name: str | None, other: str) -> Any:
    """Quartiles of over, or a dash."""
    ratios = over(sides, name, other)
    return quartiles(ratios) if ratios else "-"


def is_peer(name: str) -> bool:
    return name.split()[0] in PEERS


def best(sides: dict[str, Any]) -> str | None:
    """The fastest peer."""
    peers = [name for name in sides if is_peer(name) and sides[name]["rounds"]]
    return min(peers, key=lambda name: float(np.median(sides[name]["rounds"])), default=None)


# ---- tables ----------------------------------------------------------------------------------


def markdown(columns: list[str], rows: list[list[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(shown, line)) + " |" for line in lines)


def text(tables: list[Table]) -> str:
    parts = []
    for found in tables:
        parts += [f"{found['title']}:"] if found.get("title") else []
        parts.append(markdown(found["columns"], found["rows"]))
        if found.get("notes"):
            parts.append("\n".join(f"- {note}" for note in found["notes"]))
    return "\n\n".join(parts)


def side_table(
    sizes: list[dict[str, Any]],
    column: str,
    ours: str,
    further: dict[str, Callable[[dict[str, Any]], Any]],
    title: str = "",
) -> Table:
    """Microseconds a call of each side at each size, the best peer over ours, what each side ran."""
    names = list(dict.fromkeys(name for size in sizes for name in size["sides"]))
    columns = [column, *names, *further, "best peer", f"best peer / {ours}"]
    rows = []
    ran: dict[str, dict[str, list[str]]] = {name: {} for name in names}
    for size in sizes:
        sides = size["sides"]
        for name, side in sides.items():
            ran[name].setdefault(side["failure"] or side["configuration"], []).append(size["size"])
        times = [sides.get(name, {}).get("rounds") for name in names]
        row = [size["size"], *(micro(rounds) if rounds else "-" for rounds in times)]
        row += [value(size) for value in further.values()]
        rows.append([*row, best(sides) or "-", ratio(sides, best(sides), ours)])
    notes = []
    for name, found in ran.items():
        how = [f"{what} ({', '.join(at)})" for what, at in found.items()]
        notes.append(f"{name}: {'; '.join(how if len(found) > 1 else found)}")
    return {"title": title, "columns": columns, "rows": rows, "notes": notes}


def storage_table(sizes: list[dict[str, Any]], column: str, title: str = "") -> Table:
    """A line a size and storage: microseconds, over float32's, errors."""
    columns = [column, "storage", "µs", "time / float32's", "largest error", "RMS error"]
    rows = []
    for size in sizes:
        for name, side in size["sides"].items():
            row = [size["size"], name]
            if side["rounds"]:
                relative = 1 if name == "float32" else ratio(size["sides"], name, "float32")
                row += [micro(side["rounds"]), relative]
                row += [side["error"], side["rms"]]
            else:
                row += [side["failure"], "-", "-", "-"]
            rows.append(row)
    return {"title": title, "columns": columns, "rows": rows}
