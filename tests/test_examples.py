"""The example of scaling out gives in Dask's worker processes what one process computes."""

import importlib
import os
import sys
from pathlib import Path

import fastgate
import numpy as np
import pytest
from helpers import same_bits

EXAMPLES = Path(__file__).parent.parent / "examples"
ROWS, BLOCK = 2500, 300  # nine blocks, of which the last is shorter

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="the examples are not there: this is not the source tree")


class Counted:
    """A model that adds a line to a file when it is unpickled: the process, and its FASTGATE_THREADS."""

    def __init__(self, model, log):
        self.model, self.log = model, log

    def __setstate__(self, state):
        vars(self).update(state)
        with open(self.log, "a") as file:
            file.write(f"{os.getpid()} {fastgate._parameters.override}\n")

    def __call__(self, images):
        return self.model(images)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """The module of the job, a file of images, and the scores that one process computes of all images at once.

    The examples can be imported, also by processes that start from now on.
    """
    folder = tmp_path_factory.mktemp("job")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        paths = [EXAMPLES, Path(__file__).parent, *filter(None, [os.environ.get("PYTHONPATH")])]
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, paths)))
        scoring = importlib.import_module("scoring")
        images = folder / "images.npy"
        scoring.write_images(images, ROWS)
        model = scoring.Model()
        yield scoring, images, model(np.load(images))


@pytest.fixture
def narrow(tmp_path):
    """A file of images with 7 columns."""
    np.save(tmp_path / "narrow.npy", np.zeros((ROWS, 8, 7), np.uint8))
    return tmp_path / "narrow.npy"


def unpickled(log):
    """The processes that unpickled the model, each once for each time; asserts that they use one thread for gates."""
    lines = [line.split() for line in log.read_text().splitlines()]
    assert {threads for _, threads in lines} == {"1"}
    return sorted(int(process) for process, _ in lines)


# ---- the job ----------------------------------------------------------------------------------


def test_scores_are_those_of_the_reference(job):
    """fastgate.reference computes them in float64 from the same weights."""
    scoring, images, expected = job
    model, reference = scoring.Model(), fastgate.reference
    rows = np.load(images)[:200] / 16.0

    def exact(gate):
        weight, bias = gate.__reduce__()[1][1]
        return reference.Gate(weight.astype(float), bias.astype(float), storage="float64")

    features = rows.reshape(200, 64)
    error = exact(model.features)(exact(model.hidden)(features)) - features
    np.testing.assert_allclose(expected[:200, 0], np.mean(error**2, axis=1), rtol=1e-4)

    [layer] = model.lstm.__reduce__()[1][1][0]
    layer = {name: array.astype(float) for name, array in layer.items() if array is not None}
    y, _ = reference.LSTM([layer], batch_first=True, storage="float64")(rows)
    error = exact(model.next_row)(y[:, :-1]) - rows[:, 1:]
    np.testing.assert_allclose(expected[:200, 1], np.mean(error**2, axis=(1, 2)), rtol=1e-4)


def test_scrambled_images_have_higher_scores(job, tmp_path):
    scoring, _, _ = job
    scrambled = scoring.write_images(tmp_path / "i.npy", 5000)
    scores = scoring.score(tmp_path / "i.npy", 0, 5000, scoring.Model())
    assert 20 < scrambled.sum() < 100
    for column in scores.T:
        assert np.median(column[scrambled]) > np.quantile(column[~scrambled], 0.99)


def test_every_piece_of_the_job_gives_the_same_bits(job):
    scoring, images, expected = job
    model = scoring.Model()
    same_bits(scoring.score(images, 0, ROWS, model), expected)
    for i in range(50):
        same_bits(scoring.score(images, i, i + 1, model), expected[i : i + 1])


# ---- Dask -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dask(job):
    """The example, and a client of two workers."""
    pytest.importorskip("dask.array")
    pytest.importorskip("distributed")
    example = importlib.import_module("dask_scoring")
    with example.start(2) as client:
        yield example, client


def test_dask_gives_the_same_bits_and_unpickles_once_a_worker(dask, job, tmp_path):
    example, client = dask
    scoring, images, expected = job
    log = tmp_path / "log"
    model = example.share(client, Counted(scoring.Model(), log))
    lazy = example.scores(images, model, BLOCK)
    assert lazy.chunks == ((BLOCK,) * 8 + (100,), (2,)) and lazy.dtype == np.float32
    for _ in range(2):
        result, _ = example.run(client, example.scores(images, model, BLOCK))
        same_bits(result, expected)
    for worker in client.nthreads():
        same_bits(example.run(client, lazy, [worker])[0], expected)
    assert list(client.nthreads().values()) == [1, 1]
    assert unpickled(log) == sorted(client.run(os.getpid).values())


def test_dask_raises_what_a_worker_raises(dask, job, narrow):
    example, client = dask
    model = example.share(client, job[0].Model())
    with pytest.raises(ValueError, match=r"\b56\b.*\b64\b|\b64\b.*\b56\b"):
        example.run(client, example.scores(narrow, model, BLOCK))


def test_the_command_line_of_the_dask_example(dask, job, monkeypatch, capsys):
    example, client = dask
    scoring, images, _ = job
    monkeypatch.setattr(sys, "argv", ["dask_scoring.py", "--rows", "3000"])
    assert example.main() == 0
    lines = capsys.readouterr().out.splitlines()  # there is no progress bar, as this is no terminal
    assert len(lines) == 4 and lines[1].endswith("the same bits")
    example.compare(client, images, example.share(client, scoring.Model()), rounds=2)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["1", "1", "median"]
