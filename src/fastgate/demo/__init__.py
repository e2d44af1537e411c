"""``python -m fastgate demo``: a trained LSTM reads handwritten digits.

digits.npz has the weights of the LSTM and of its linear head, in torch's layout, and 450 digits that were not used for
training. tools/train_demo.py in the repository made it. The digits are by E. Alpaydin and C. Kaynak, Optical
Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0, in
the form that scikit-learn ships.
"""

from __future__ import annotations

import argparse
import importlib.resources
import itertools
import sys
import timeit
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgate import LSTM, LSTMCell, reference
from fastgate._arrays import STORAGES, dtype_of

Array = NDArray[Any]  # float32, or float64 for that storage
Data = dict[str, NDArray[Any]]

PLOT_FILE = Path("fastgate-demo.png")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fastgate demo",
        description="A trained LSTM reads handwritten digits.",
    )
    plot = parser.add_mutually_exclusive_group()
    plot.add_argument("--plot", type=Path, metavar="FILE", help=f"draw the picture here (default: {PLOT_FILE})")
    plot.add_argument("--no-plot", action="store_true", help="draw no picture")
    parser.add_argument(
        "--storage", choices=STORAGES, default="float32", help="storage of the weights (default: float32)"
    )
    args = parser.parse_args(argv)

    data = load()
    images, labels = data["images"], data["labels"]
    rows = to_rows(images)
    h, outputs = run(data, rows, LSTM, args.storage)
    h_oracle, outputs_oracle = run(data, rows, reference.LSTM, "float64")
    read = classify(data, h)

    print(f"An LSTM with {h.shape[1]} units reads handwritten digits, a row of 8 pixels a step.\n")
    shown = [0, 1, 2, *np.flatnonzero(read != labels)[:1]]  # the first three, and a misread one
    print_digits(images[shown], read[shown], labels[shown])

    right, total = np.count_nonzero(read == labels), len(labels)
    print(f"accuracy  {right} of {total} held-out digits ({100 * right / total:.1f} %)")
    difference = np.abs(outputs - outputs_oracle).max()
    changed = np.count_nonzero(read != classify(data, h_oracle))
    print(
        f"oracle    largest difference {difference:.1e} over {outputs.size} outputs; "
        f"{changed or 'no'} {'digit' if changed == 1 else 'digits'} read differently"
    )
    if args.storage == "float32":
        print_stream(data, rows[:, 0], outputs[:, 0])
    print_storages(data, rows, labels, outputs_oracle)
    print_times(data, rows[-1, 0], args.storage)
    if args.no_plot:
        return 0
    lstm = LSTM([parameters(data, args.storage)], storage=args.storage)
    gates = lstm.gates(rows.astype(dtype_of(args.storage)))
    return plot_input_gate(args.plot, images, read, labels, gates["input"])


def load() -> Data:
    with importlib.resources.files(__name__).joinpath("digits.npz").open("rb") as file:
        return dict(np.load(file))


def to_rows(images: NDArray[np.uint8]) -> Array:
    """Images (N, 8, 8) of 0..16 -> a sequence of rows (8, N, 8) in 0..1."""
    return np.ascontiguousarray(images.swapaxes(0, 1), np.float32) / np.float32(16)


def parameters(data: Data, storage: str) -> dict[str, Any]:
    """The parameters of the LSTM, in the dtype that this storage takes."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return {name: data[name].astype(dtype_of(storage)) for name in names}


def run(data: Data, rows: Array, lstm_type: Callable[..., Any], storage: str) -> tuple[Array, Array]:
    """Read all images as a batch -> the last h (N, H) and all h (T, N, H)."""
    lstm = lstm_type([parameters(data, storage)], storage=storage)
    y, (h, _) = lstm(rows.astype(dtype_of(storage)))
    return h[0], y


def classify(data: Data, h: Array) -> NDArray[np.intp]:
    read: NDArray[np.intp] = (h @ data["head_weight"].T + data["head_bias"]).argmax(axis=1)
    return read


def print_digits(
    images: NDArray[np.uint8], read: NDArray[np.intp], labels: NDArray[np.uint8]
) -> None:
    shades = np.array(["  ", "  ", "..", "::", "--", "==", "++", "**", "##", "%%", "@@", "@@"])
    for rows in images.swapaxes(0, 1):  # two characters are about as wide as a line is high
        print("   ".join("".join(shades[row * 11 // 16]) for row in rows).rstrip())
    captions = (
        f"read as {r}" if r == label else f"read as {r}, is {label}"
        for r, label in zip(read, labels)
    )
    print("   ".join(caption.center(16) for caption in captions).rstrip() + "\n")


def print_storages(
    data: Data, rows: Array, labels: NDArray[np.uint8], outputs_oracle: Array
) -> None:
    """Print how much memory each storage needs, and how accurate it is."""
    print("storage   accuracy   largest difference   bytes of the LSTM")
    for storage in STORAGES:
        h, outputs = run(data, rows, LSTM, storage)
        accuracy = np.mean(classify(data, h) == labels)
        difference = np.abs(outputs - outputs_oracle).max()
        nbytes = LSTM([parameters(data, storage)], storage=storage).nbytes
        print(f"  {storage:<8}{100 * accuracy:8.1f} %{difference:17.1e}{nbytes:20}")


def print_times(data: Data, x: Array, storage: str, rounds: int = 41, calls: int = 1000) -> None:
    """Time one step for one digit in several ways, in turn, beside optimized NumPy code."""
    layer = parameters(data, storage)
    x = x.astype(dtype_of(storage))
    cell = LSTMCell(**layer, storage=storage)
    hidden = cell.hidden_size
    h, c, y = (np.zeros(hidden, x.dtype) for _ in range(3))
    # NumPy has little to do: [x, h, 1] is in one buffer, and w has a column for the bias. The rows of i, f and o are
    # halved, because sigmoid(z) = tanh(z / 2) / 2 + 1 / 2, which never overflows. w is column-major, which makes
    # OpenBLAS faster at this size.
    bias = layer["bias_ih"] + layer["bias_hh"]
    w = np.hstack([layer["weight_ih"], layer["weight_hh"], bias[:, np.newaxis]])
    w = w.reshape(4, hidden, -1)[[0, 1, 3, 2]].reshape(4 * hidden, -1)  # i, f, o, g
    w[: 3 * hidden] /= 2
    xh1 = np.concatenate([x, h, np.ones(1, x.dtype)])
    z = np.empty(4 * hidden, x.dtype)
    names = dict(
        np=np, w=np.asfortranarray(w), xh1=xh1, h=xh1[len(x) : -1], z=z, ifo=z[: 3 * hidden],
        i=z[:hidden], f=z[hidden : 2 * hidden], o=z[2 * hidden : 3 * hidden], g=z[3 * hidden :],
        c=np.zeros(hidden, x.dtype), t=np.empty(hidden, x.dtype), half=np.array(0.5, x.dtype),
        cell=cell, stream=cell.stream(), x=x, y=y, state=(h, c),
    )  # fmt: skip
    ways = {
        "NumPy: dot, tanh, multiply, add, all in place": (
            "np.dot(w, xh1, z); np.tanh(z, z); np.multiply(ifo, half, ifo); np.add(ifo, half, ifo); "
            "np.multiply(f, c, c); np.multiply(i, g, g); np.add(c, g, c); np.tanh(c, t); "
            "np.multiply(o, t, h)"
        ),
        "stream.step(x, out=y)": "stream.step(x, out=y)",
        "cell(x, h, c, out=(h, c))": "cell(x, *state, out=state)",
    }
    timers = [timeit.Timer(statement, globals=names) for statement in ways.values()]
    times = np.array([[timer.timeit(calls) for timer in timers] for _ in range(rounds)])
    times *= 1e9 / calls

    print(f"time      one step, input {len(x)}, hidden {hidden}, ns a call, median [quartiles]")
    for name, column in zip(ways, times.T):
        low, median, high = np.percentile(column, [25, 50, 75])
        speed = np.median(times[:, 0] / column)  # within a round, so the machine's drift cancels
        spread = f"[{low:.0f}, {high:.0f}]"
        print(f"  {name:<46}{median:6.0f}  {spread:<16}{speed:.1f} x as fast")


def print_stream(data: Data, rows: Array, y: Array) -> None:
    """Read one digit row by row, as in a service, and compare the outputs y with those of the sequence."""
    stream = LSTM([parameters(data, "float32")]).stream()
    steps = np.array([stream.step(row) for row in rows])
    assert steps.tobytes() == y.tobytes()
    print(f"stream    the same bits, {len(rows)} rows one by one, as from the whole sequence")


def plot_input_gate(
    file: Path | None,
    images: NDArray[np.uint8],
    read: NDArray[np.intp],
    labels: NDArray[np.uint8],
    input_gate: Array,
) -> int:
    """Draw the input gate (T, N, H) next to a few digits -> the exit status."""
    try:
        # unlike pyplot, it needs no display
        from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        print("picture   needs matplotlib: pip install matplotlib")
        return 0 if file is None else 1
    file = file or PLOT_FILE

    shown = [most_typical(images, (labels == k) & (read == k)) for k in (0, 2, 3, 5, 7)]
    order = similar_side_by_side(input_gate[:, shown])
    grey = "0.35"
    text: dict[str, Any] = {"color": grey, "fontsize": 11}
    left, right, bottom, top = 0.09, 0.86, 0.09, 0.83

    figure = Figure(figsize=(6.4, 4.8), dpi=160)  # legible at a width of 500 pixels
    axes = figure.subplots(
        len(shown), 2, squeeze=False, width_ratios=[images.shape[2], len(order)],
        gridspec_kw=dict(left=left, right=right, bottom=bottom, top=top, wspace=0.035, hspace=0.16),
    )
    for (digit, gate), n in zip(axes, shown):  # a row of pixels is at the height of its step
        digit.imshow(images[n], cmap="gray_r", vmin=0, vmax=16, aspect="auto")
        digit.set(xticks=[], yticks=[0, 7], yticklabels=["1", "8"])
        digit.tick_params(length=0, labelsize=10, labelcolor=grey)
        digit.spines[:].set(color="0.8", linewidth=0.6)
        heat = gate.imshow(input_gate[:, n, order], cmap="magma", vmin=0, vmax=1, aspect="auto")
        gate.set_axis_off()
    bar = figure.colorbar(heat, cax=figure.add_axes((0.875, bottom, 0.02, top - bottom)))
    bar.set_ticks([0, 0.5, 1], labels=["0\nclosed", "0.5", "1\nopen"])
    bar.ax.tick_params(length=0, labelsize=10, labelcolor=grey)
    bar.outline.set_visible(False)

    title = "An LSTM's input gate while it reads handwritten digits"
    figure.text(0.02, 0.935, title, fontsize=12, weight="bold", color="0.1")
    subtitle = "It reads one row of pixels a step: on the right, the gate at that step."
    figure.text(0.02, 0.865, subtitle, **text)
    figure.text(0.018, (bottom + top) / 2, "row = time step", rotation=90, va="center", **text)
    units = f"the {len(order)} units, similar ones side by side"
    figure.text(0.53, 0.02, units, ha="center", **text)
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:  # no such folder, no such format
        print(f"picture   not drawn: {error}", file=sys.stderr)
        return 1
    print(f"picture   {file}: the input gate while {len(shown)} digits are read")
    return 0


def most_typical(images: NDArray[np.uint8], choice: NDArray[np.bool_]) -> int:
    """The index of the chosen image that is nearest to the mean of the chosen ones."""
    candidates = np.flatnonzero(choice)
    deviation = images[candidates] - images[candidates].mean(axis=0)
    return int(candidates[(deviation**2).sum(axis=(1, 2)).argmin()])


def similar_side_by_side(gate: Array) -> NDArray[np.intp]:
    """Order the units of a gate (T, N, H) so that similar ones are adjacent: a short path by 2-opt."""
    profile = gate.reshape(-1, gate.shape[-1]).T
    distance = np.linalg.norm(profile[:, np.newaxis] - profile, axis=2)

    def length(path: NDArray[np.intp]) -> float:
        return float(distance[path[:-1], path[1:]].sum())

    step = np.arange(len(gate))[:, np.newaxis]
    mean = gate.mean(axis=1)
    order = np.argsort((step * mean).sum(axis=0) / mean.sum(axis=0))  # at first by the mean time at which they open
    improved = True
    while improved:
        improved = False
        for a, b in itertools.combinations(range(len(order) + 1), 2):
            trial = np.concatenate([order[:a], order[a:b][::-1], order[b:]])
            if length(trial) < length(order):
                order, improved = trial, True
    return order


if __name__ == "__main__":
    sys.exit(main())
