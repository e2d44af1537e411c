"""The job of dask_scoring.py: two anomaly scores for every image of a large file.

The images, (rows, 8, 8) uint8 of 0 to 16 in a .npy file, are the demo's handwritten digits with noise. One in a
hundred has its pixels in random order. Each process that reads images maps the file, so that no image goes from
process to process. The scores of an image are 8 bytes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable

import fastgate
import numpy as np
from fastgate import demo
from numpy.typing import NDArray

PIECE = 256  # images at a time, so that all intermediate results stay in the second cache
BLOCK = 4096  # images in a task: more than a tenth of a second, and still many tasks for each worker
SCRAMBLED = 0.01


class Model:
    """Two models of digits, whose errors are the scores of an image: an autoencoder of two gates on its 64 pixels,
    and the demo's LSTM, which reads it row by row, with a gate that predicts the next row.

    The hidden gate is random. The other two gates are ridge regressions on the demo's held-out digits. A Model has only
    gates and an LSTM, so that a pickle of it contains their arrays.
    """

    def __init__(self) -> None:
        data = demo.load()
        images = data["images"].astype(np.float32) / np.float32(16)
        features = images.reshape(-1, 64)
        weight = np.random.default_rng(0).standard_normal((256, 64), np.float32) / np.float32(4)
        self.hidden = fastgate.Gate(weight)
        self.features = readout(self.hidden(features), features)
        self.lstm = fastgate.LSTM([demo.parameters(data, "float32")], batch_first=True)
        self.next_row = readout(self.lstm(images)[0][:, :-1], images[:, 1:])

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(B, 8, 8) of 0 to 16 -> (B, 2): mean squared errors of the features and of rows 1 to 7.

        The bits of a row do not depend on B: the gates and the LSTM promise that, and NumPy sums the last axis of a
        contiguous array row by row.

        Raises ValueError for images of another shape.
        """
        rows = images.astype(np.float32) / np.float32(16)
        features = rows.reshape(len(rows), -1)
        scores = np.empty((len(rows), 2), np.float32)
        error = self.features(self.hidden(features)) - features
        np.square(error).mean(axis=1, out=scores[:, 0])
        error = self.next_row(self.lstm(rows)[0][:, :-1]) - rows[:, 1:]
        np.square(error).reshape(len(rows), -1).mean(axis=1, out=scores[:, 1])
        return scores


def readout(x: NDArray[np.float32], y: NDArray[np.float32]) -> fastgate.Gate:
    """The gate that predicts y (..., m), of 0 to 1, from x (..., n), by ridge regression before the sigmoid."""
    inputs = x.reshape(-1, x.shape[-1]).astype(np.float64)
    inputs = np.column_stack([np.ones(len(inputs)), inputs])
    goal = 0.05 + 0.9 * y.reshape(-1, y.shape[-1]).astype(np.float64)  # the sigmoid does not reach 0 and 1
    ridge = inputs.T @ inputs + 0.1 * np.eye(inputs.shape[1])
    weight = np.linalg.solve(ridge, inputs.T @ np.log(goal / (1 - goal)))
    return fastgate.Gate.from_augmented(weight.T.astype(np.float32))


def write_images(path: str | os.PathLike[str], rows: int) -> NDArray[np.bool_]:
    """Write a file with this number of images -> which of them are scrambled (rows,)."""
    digits = demo.load()["images"]
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (rows, 8, 8))
    scrambled = np.empty(rows, np.bool_)
    for start in range(0, rows, BLOCK):
        block, odd = images[start : start + BLOCK], scrambled[start : start + BLOCK]
        rng = np.random.default_rng(start)
        noise = rng.integers(-2, 3, block.shape, np.int8)
        block[:] = np.clip(digits[rng.integers(len(digits), size=len(block))].view(np.int8) + noise, 0, 16)
        odd[:] = rng.random(len(block)) < SCRAMBLED
        block[odd] = rng.permuted(block[odd].reshape(-1, 64), axis=1).reshape(-1, 8, 8)
    images.flush()
    return scrambled


def score(path: str | os.PathLike[str], start: int, stop: int, model: Model) -> NDArray[np.float32]:
    """The scores of images start to stop (exclusive) of the file, (stop - start, 2), PIECE images at a time."""
    images = np.load(path, mmap_mode="r")[start:stop]
    return np.concatenate([model(images[i : i + PIECE]) for i in range(0, len(images), PIECE)])


def found(scores: NDArray[np.float32], scrambled: NDArray[np.bool_]) -> str:
    """A sentence that says how many of the k scrambled images are among the k highest scores."""
    k = int(scrambled.sum())
    gates, lstm = (int(scrambled[np.argsort(-column)[:k]].sum()) for column in scores.T)
    return f"of {k} scrambled images the gates found {gates}, the LSTM {lstm}"


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The parser of an example's command line."""
    options = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--rows", type=int, default=400_000)
    return options


def report(
    options: argparse.Namespace,
    model: Model,
    prepare: Callable[[str], Callable[[], NDArray[np.float32]]],
) -> int:
    """Score a file by the function that prepare(path) returns, and in this process; print the rates.

    Returns the exit status, which is 1 if the bits differ.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "images.npy")
        scrambled = write_images(path, options.rows)
        shared = prepare(path)
        begin = time.perf_counter()
        result = shared()
        middle = time.perf_counter()
        alone = score(path, 0, options.rows, model)
        end = time.perf_counter()
    same = result.tobytes() == alone.tobytes()
    print(f"{options.workers} workers   {options.rows / (middle - begin):.0f} rows/s ({middle - begin:.1f} s)")
    print(f"one process {options.rows / (end - middle):.0f} rows/s, {'the same' if same else 'OTHER'} bits")
    print(f"ratio       {(end - middle) / (middle - begin):.2f}")
    print(found(result, scrambled))
    return 0 if same else 1
