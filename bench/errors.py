#!/usr/bin/env python3
"""What rounding the weights costs in accuracy: no times, the same figures on every machine.

The LSTM of the demo over its held-out digits, and a gate of 512 x 1024 random weights, in every
storage, against the float64 reference with weights not rounded.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import fastgate
import numpy as np
from fastgate import demo, reference
from figures import significant
from machine import publish
from turns import STORAGES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    data = demo.load()
    pixels = demo.to_rows(data["images"])
    _, true_h = demo.run(data, pixels, reference.LSTM, "float64")
    rng = np.random.default_rng(0)
    W, b, x = (rng.standard_normal(shape, np.float32) for shape in ((512, 1024), 512, 1024))
    W /= np.float32(32)
    true_y = reference.Gate(*(a.astype(np.float64) for a in (W, b)), storage="float64")(x.astype(float))
    rows = []
    for storage in STORAGES:
        h, outputs = demo.run(data, pixels, fastgate.LSTM, storage)
        right = np.count_nonzero(demo.classify(data, h) == data["labels"])
        dtype = np.float64 if storage == "float64" else np.float32
        g = fastgate.Gate(W.astype(dtype), b.astype(dtype), storage=storage)
        errors = np.abs(g(x.astype(dtype)) - true_y)
        row = [storage, round(8 * g.nbytes / W.size) // 8, f"{right} of {len(h)}"]
        figures = np.abs(outputs - true_h).max(), errors.max(), np.sqrt(np.mean(errors**2))
        rows.append([*row, *(significant(float(figure)) for figure in figures)])
    columns = ["storage", "bytes of a weight", "demo: digits read", "largest error of h"]
    columns += ["512 x 1024 random weights: largest error", "RMS error"]
    publish([{"columns": columns, "rows": rows}], options.json)


if __name__ == "__main__":
    main()
