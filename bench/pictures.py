"""The pictures of README and docs, drawn from docs/benchmarks.json.

They are legible at a width of 500 pixels.  Labels of lines stand beside the axes, where no grid line is.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import compare
import lstm
import numpy as np
from figures import Array, is_peer, over
from turns import STORAGES

COLOURS = {  # fastgate's stands out
    "numpy": "#3b6fb6",
    "numba": "#3f8f4f",
    "torch": "#8a5aa8",
    "onnxruntime": "#2a9d9d",
    "openvino": "#8c6d4f",
    "numkong": "#b8860b",
}
FASTGATE = "#d1350f"
SHADES = ("#7d1f08", "#d1350f", "#f0a58f")
NAMES = {
    compare.OURS: "fastgate",
    "g.bind": "fastgate, bound",
    "gate(x, W, b)": "fastgate, unpacked",
    lstm.STREAM: "fastgate",
    lstm.CALL: "fastgate cell",
}
GREY = "0.3"


def plots(rows: int, height: float) -> tuple[Any, Any]:
    """A figure of that many plots, one above the other, each of that height in inches."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 11, "axes.titlesize": 12, "axes.labelcolor": GREY, "legend.frameon": False})
    figure, axes = pyplot.subplots(rows, 1, figsize=(6.4, rows * height), dpi=160, squeeze=False)
    for each in axes[:, 0]:
        each.grid(axis="y", color="0.9", lw=0.8)
        each.set_axisbelow(True)
        each.spines[["top", "right", "left"]].set_visible(False)
        each.tick_params(length=0, which="both", labelcolor=GREY)
    return figure, axes[:, 0]


def title(figure: Any, text: str) -> None:
    """At the left of the figure, which is wider than the axes."""
    figure.suptitle(text, x=0.01, ha="left", fontsize=12)


def save(figure: Any, report: dict[str, Any], path: Path, top: float = 1) -> None:
    """With the machine and the date; report is of a part and of the machine."""
    figure.text(0.99, 0.01, f"{report['cpu']}, {report['date'][:10]}", ha="right", fontsize=9, color="0.45")
    if report["quick"]:
        figure.text(0.01, 0.01, "A QUICK RUN, NOT A MEASUREMENT", fontsize=9, color=FASTGATE)
    figure.tight_layout(rect=(0, 0.03, 1, top))
    figure.savefig(path, metadata={"Software": None})  # the same bytes from the same figures


def colour(name: str) -> str:
    return COLOURS[name.split()[0]] if is_peer(name) else FASTGATE


def lines_of(sizes: list[dict[str, Any]], names: list[str], places: Any) -> dict[str, Array]:
    """Name -> (places, medians in microseconds), of the sides that ran."""
    lines = {}
    for name in names:
        rounds = [(at, size["sides"].get(name, {}).get("rounds")) for at, size in zip(places, sizes)]
        if found := [(at, np.median(r) * 1e6) for at, r in rounds if r]:
            lines[name] = np.array(found).T
    return lines


def apart(values: Array, gap: float, least: float) -> Array:
    """Ascending values, moved until no two are closer than gap, and none is below least."""
    at = np.array(values)
    for _ in range(500):
        push = np.maximum(gap - np.diff(at), 0) / 2
        at[:-1] -= push
        at[1:] += push
    return at + max(0.0, least - at[0])


def draw_times(lines: dict[str, Array], styles: dict[str, str]) -> tuple[Any, Any]:
    """Time, logarithmic, of each side, with labels at the left of the axes."""
    figure, [axes] = plots(1, 5)
    for name, (at, microseconds) in lines.items():
        ours = NAMES.get(name) == "fastgate"
        axes.plot(at, microseconds, styles.get(name, "-"), c=colour(name), lw=3 if ours else 1.6,
                  marker="o" if name not in styles or is_peer(name) else "", ms=6 if ours else 4)  # fmt: skip
    everything = np.concatenate([times for _, times in lines.values()])
    bottom, top = everything.min() / 1.6, everything.max() * 1.6
    left = min(at[0] for at, _ in lines.values()) - 0.15
    axes.set(yscale="log", ylim=(bottom, top), xlim=(left, None))
    names = sorted(lines, key=lambda name: lines[name][1][0])
    gap = np.log(top / bottom) / 20
    places = apart(np.log([lines[name][1][0] for name in names]), gap, np.log(bottom) + gap / 2)
    for name, place in zip(names, places):
        label = NAMES.get(name, name)
        axes.annotate(label, (0, np.exp(place)), (-4, 0), ("axes fraction", "data"), "offset points", ha="right",
                      va="center", color=colour(name), fontweight="bold" if label == "fastgate" else "normal",
                      annotation_clip=False)  # fmt: skip
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda t, _: f"{t:g} µs" if t < 1e3 else f"{t / 1e3:g} ms")
    axes.yaxis.tick_right()
    axes.yaxis.set_label_position("right")
    axes.tick_params(length=0, which="both")
    axes.set_ylabel("time of a call (lower is better)")
    return figure, axes


# ---- one picture a part ------------------------------------------------------------------------


def draw_gate(report: dict[str, Any], path: Path) -> None:
    """Time against n for the square gates, both axes logarithmic."""
    squares = sorted((s for s in report["sizes"] if s["m"] == s["n"]), key=lambda s: s["n"])
    places = np.log2([s["n"] for s in squares])
    lines = lines_of(squares, [*compare.OTHERS, *reversed(compare.FASTGATE)], places)
    figure, axes = draw_times(lines, {"g.bind": "--", "gate(x, W, b)": ":"})
    known = report.get("limits", {})
    if limits := [(at, known[s["size"]]) for at, s in zip(places, squares) if s["size"] in known]:
        at, microseconds = np.array(limits).T
        axes.fill_between(at, microseconds, 1e-9, color="0.92", lw=0, zorder=2)  # over the grid, under its own text
        axes.plot(at, microseconds, color="0.45", lw=1)
        axes.text(0.97, 0.1, "faster than\nW can be read", ha="right", transform=axes.transAxes, color="0.4")
    axes.set_xticks(places, [f"{s['n']}²" for s in squares], fontsize=10)
    axes.set_xlabel("size of W")
    title(figure, "One gate call from Python, float32, one core")
    save(figure, report, path, 0.99)


def draw_lstm(report: dict[str, Any], path: Path) -> None:
    """Time of a step by size."""
    sizes = [s for s in report["sizes"] if s["table"] == "step"]
    lines = lines_of(sizes, [*reversed(lstm.STEP)], range(len(sizes)))
    figure, axes = draw_times(lines, {lstm.CALL: ":", "torch LSTM": "--"})
    axes.set_xticks(range(len(sizes)), [s["size"] for s in sizes])
    axes.set_xlabel("inputs/hidden units")
    title(figure, "One LSTM step from Python, float32, one core")
    save(figure, report, path, 0.99)


def draw_over(report: dict[str, Any], path: Path) -> None:
    """The README's picture: fastgate's time of a step and of a sequence over ONNX Runtime's."""
    found: dict[str, list[tuple[str, list[float]]]] = {}
    for size in report["sizes"]:
        label = f"{size['n']}/{size['H']}"
        if size["table"] == "step":
            found.setdefault("one step", []).append((label, over(size["sides"], lstm.STREAM, lstm.PEER)))
        elif size["table"] == "sequence" and size["batch"] in (1, 16):
            kind = f"{size['steps']} steps" + (", 16 rows" if size["batch"] == 16 else "")
            found.setdefault(kind, []).append((label, over(size["sides"], lstm.SEQUENCE, lstm.PEER)))
    if not any(ratios for each in found.values() for _, ratios in each):
        return  # a quick run without ONNX Runtime
    figure, [axes] = plots(1, 4)
    labels = list(dict.fromkeys(label for each in found.values() for label, _ in each))
    for i, (kind, each) in enumerate(found.items()):
        at, ratios = zip(*((labels.index(label), ratios) for label, ratios in each if ratios))
        low, middle, high = np.array([np.percentile(r, (25, 50, 75)) for r in ratios]).T
        places = np.array(at) + (i - (len(found) - 1) / 2) * 0.27
        axes.bar(places, middle, 0.25, color=SHADES[i], label=kind)
        axes.errorbar(places, middle, (middle - low, high - middle), fmt="none", ecolor="0.2", lw=1)
    axes.axhline(1, color=COLOURS["onnxruntime"], lw=2)
    axes.annotate("ONNX\nRuntime", (1, 1), (4, 0), ("axes fraction", "data"), "offset points", va="center",
                  color=COLOURS["onnxruntime"], fontweight="bold", annotation_clip=False)  # fmt: skip
    axes.set_xticks(range(len(labels)), labels)
    axes.set(xlabel="inputs/hidden units", ylabel="time / ONNX Runtime's")
    axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1), handlelength=1, columnspacing=1.2, borderaxespad=0.2)
    title(figure, "The LSTM, fastgate's time over ONNX Runtime's: lower is better")
    save(figure, report, path, 0.99)


def draw_batch(report: dict[str, Any], path: Path) -> None:
    """2 m n B operations a second against B, a plot a size; and the FMA peak, if it was given."""
    shapes = list(dict.fromkeys((s["m"], s["n"]) for s in report["sizes"]))
    figure, all_axes = plots(len(shapes), 3.2)
    for axes, (m, n) in zip(all_axes, shapes):
        sizes = [s for s in report["sizes"] if (s["m"], s["n"]) == (m, n)]
        for name in (*compare.OTHERS, compare.OURS):
            rounds = [(s["batch"], s["sides"].get(name, {}).get("rounds")) for s in sizes]
            if rates := [(B, 2e-9 * m * n * B / np.median(r)) for B, r in rounds if r]:
                ours = name == compare.OURS
                axes.plot(*np.array(rates).T, c=colour(name), lw=3 if ours else 1.6, marker="o",
                          ms=6 if ours else 4, label=NAMES.get(name, name))  # fmt: skip
        if peak := report.get("fma"):
            axes.axhline(peak / 1e9, color="0.45", lw=1, ls="--")
            axes.annotate("FMA\npeak", (1, peak / 1e9), (4, 0), ("axes fraction", "data"), "offset points",
                          va="center", color="0.4", annotation_clip=False)  # fmt: skip
        axes.set(xscale="log", ylim=(0, None), ylabel="GFLOP/s")
        axes.set_title(f"W of {m}x{n}", loc="left")
        axes.minorticks_off()
        ticks = [s["batch"] for s in sizes if s["batch"] not in (3, 7)]
        axes.set_xticks(ticks, ticks)
        axes.set_xticks([3, 7], minor=True)  # there is no room for their labels
        axes.tick_params("x", which="minor", length=5, color=GREY)
    all_axes[-1].set_xlabel("vectors in a call (the two marks are 3 and 7)")
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=3, loc="upper left", bbox_to_anchor=(0, 0.965))
    title(figure, "A batch from Python, float32, one core: higher is better")
    save(figure, report, path, 0.91)


def draw_storage(report: dict[str, Any], path: Path) -> None:
    """Time over float32's, and the errors, of each storage."""
    figure, (times, errors) = plots(2, 3.6)
    chosen = [s for s in report["sizes"] if s["n"] in (512, 1024, 4096)] or report["sizes"]
    names = [name for name in STORAGES if all(s["sides"][name]["rounds"] for s in chosen)]
    for i, size in enumerate(chosen):
        at = np.arange(len(names)) + (i - (len(chosen) - 1) / 2) * 0.8 / len(chosen)
        ratios = [over(size["sides"], name, "float32") for name in names]
        low, middle, high = np.array([np.percentile(r, (25, 50, 75)) for r in ratios]).T
        label = f"{size['n']}²" if size["m"] == size["n"] else size["size"]
        times.bar(at, middle, 0.7 / len(chosen), color=SHADES[i % 3], label=label)
        times.errorbar(at, middle, (middle - low, high - middle), fmt="none", ecolor=GREY, lw=1)
        sides = [size["sides"][name] for name in names]
        errors.plot(at, [s["error"] for s in sides], "o", c=SHADES[i % 3], ms=6)
        errors.plot(at, [s["rms"] for s in sides], "_", c=SHADES[i % 3], ms=12, mew=2.5)
    times.set_title("Time of a call with one vector, one core", loc="left")
    times.set_ylabel("time / float32's")
    times.legend(ncols=len(chosen), loc="lower right", bbox_to_anchor=(1, 1.1), handlelength=1, borderaxespad=0,
                 title="size of W", alignment="right")  # fmt: skip
    errors.set_yscale("log")
    errors.set_title("Error of y, random weights:  ● largest   ━ RMS", loc="left")
    errors.set_ylabel("error against float64")
    errors.minorticks_off()
    errors.set_xlabel("how the weights are held")
    for axes in (times, errors):
        axes.set_xticks(range(len(names)), names)
    save(figure, report, path)


def draw_demo(_: dict[str, Any], path: Path) -> None:
    from fastgate import demo

    with contextlib.redirect_stdout(io.StringIO()):
        if demo.main(["--plot", str(path)]):
            raise SystemExit(f"{path} was not drawn")
