"""How the benchmarks' figures are shown: one table printer, one style of picture.

A table is {"title": ..., "columns": [...], "rows": [[...]], "notes": [...]}; a cell is a text, a
number, or [lower quartile, median, upper quartile].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

PEERS = {  # and their colours; fastgate's stands out
    "numpy": "#3b6fb6",
    "numba": "#3f8f4f",
    "torch": "#8a5aa8",
    "onnxruntime": "#2a9d9d",
    "openvino": "#8c6d4f",
    "numkong": "#b8860b",
}
FASTGATE_COLOUR = "#d1350f"
SHADES = ("#f0a58f", "#d1350f", "#7d1f08")
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


# ---- pictures --------------------------------------------------------------------------------


def pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def plain(axes: Any) -> None:
    axes.minorticks_off()
    axes.grid(axis="y", color="0.9", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, labelcolor="0.3")


def save(figure: Any, report: dict[str, Any], better: str, path: Any) -> None:
    """With the machine and the date; report is of a part and of the machine."""
    text = f"{report['cpu']}, {report['date'][:10]}; {better} is better"
    if report["quick"]:
        figure.text(0.01, 0.01, "A QUICK RUN, NOT A MEASUREMENT", fontsize=8, color=FASTGATE_COLOUR)
    figure.text(0.99, 0.01, text, ha="right", fontsize=8, color="0.45")
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    figure.savefig(path, metadata={"Software": None})  # the same bytes from the same figures


def chart(lines: dict[str, Array], ours: str, styles: dict[str, str]) -> tuple[Any, Any]:
    """Time, logarithmic, of each side: (places, microseconds), a label at each line's start."""
    figure, axes = pyplot().subplots(figsize=(9, 5.6), dpi=100)
    for name, (at, microseconds) in lines.items():
        width = 3 if name == ours else 1.3 if is_peer(name) else 1.8
        marker = "o" if name == ours or is_peer(name) else ""
        axes.plot(at, microseconds, styles.get(name, "-"), c=colour(name), lw=width, marker=marker,
                  ms=2.5 + width)  # fmt: skip
    everything = np.concatenate([times for _, times in lines.values()])
    bottom, top = everything.min() / 1.6, everything.max() * 1.6
    axes.set(yscale="log", ylim=(bottom, top))
    names = sorted(lines, key=lambda name: lines[name][1][0])
    at = np.log([lines[name][1][0] for name in names])
    gap = np.log(top / bottom) / 24
    for _ in range(500):  # move labels apart until none overlap
        push = np.maximum(gap - np.diff(at), 0) / 2
        at[:-1] -= push
        at[1:] += push
    at += max(0.0, np.log(bottom) + gap / 2 - at[0])
    for name, log in zip(names, at):
        label = name if is_peer(name) else f"fastgate {name}"
        weight = "bold" if name == ours else "normal"
        axes.text(lines[name][0][0] - 0.16, np.exp(log), label, ha="right", va="center",
                  color=colour(name), fontsize=9.5, fontweight=weight)  # fmt: skip
    axes.yaxis.set_major_formatter(lambda t, _: f"{t:g} µs" if t < 1e3 else f"{t / 1e3:g} ms")
    plain(axes)
    axes.yaxis.tick_right()
    return figure, axes


def colour(name: str) -> str:
    return PEERS[name.split()[0]] if is_peer(name) else FASTGATE_COLOUR


def lines_of(sizes: list[dict[str, Any]], names: list[str], places: Any) -> dict[str, Array]:
    """(places, microseconds) of the sides that ran, medians."""
    lines = {}
    for name in names:
        rounds = [(at, s["sides"].get(name, {}).get("rounds")) for at, s in zip(places, sizes)]
        if found := [(at, np.median(r) * 1e6) for at, r in rounds if r]:
            lines[name] = np.array(found).T
    return lines
