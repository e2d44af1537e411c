"""All Python code in README and docs runs, and the C code if there are a compiler and libfastgate.a."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import fastgate
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("README.md"), *sorted((ROOT / "docs").glob("*.md"))]
PACKAGE = Path(fastgate.__file__).parent
pytestmark = pytest.mark.skipif(not PAGES, reason="README and docs are not there: this is not the source tree")


def blocks(text, language):
    """The blocks of code in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def programs():
    """The programs of all pages: a block that imports NumPy begins one, and the blocks after it continue it."""
    for page in PAGES:
        parts = blocks(page.read_text(), "python")
        starts = [i for i, code in enumerate(parts) if code.startswith("import numpy")]
        for start, end in zip(starts, [*starts[1:], None]):
            yield pytest.param("\n".join(parts[start:end]), id=f"{page.stem}-{start}")


def run(code, names=None):
    """Run code and return its names; skip the test if a module that it imports is not installed."""
    for node in ast.walk(ast.parse(code)):
        for name in [alias.name for alias in node.names] if isinstance(node, ast.Import) else []:
            if not importlib.util.find_spec(name.partition(".")[0]):
                pytest.skip(f"{name} is not installed")
    names = {} if names is None else names
    exec(compile(code, "<docs>", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def _files_go_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("program", list(programs()))
def test_programs_run(program):
    if "import keras" in program and not os.environ.get("KERAS_BACKEND"):
        pytest.skip("KERAS_BACKEND is not set")
    run(program)


def test_the_service_of_serving_md_answers_as_streams():
    """The answers to each client have the bits of a stream that is its own."""
    names = run("\n".join(blocks((ROOT / "docs" / "serving.md").read_text(), "python")))
    for sequence, ys in zip(names["sequences"], names["answers"], strict=True):
        stream = names["lstm"].stream()
        for x, y in zip(sequence, ys, strict=True):
            assert y.tobytes() == stream.step(x).tobytes()


def fragments(page):
    """The blocks of a page that come before its first program."""
    parts = blocks(page.read_text(), "python")
    return parts[: next((i for i, code in enumerate(parts) if code.startswith("import numpy")), None)]


def test_only_switching_md_has_fragments():
    assert [page.stem for page in PAGES if fragments(page)] == ["switching"]


# For each function whose fragment switching.md shows, the code that defines the names which the fragment uses.
SUPPOSED = {
    "torch.convert": """
        import torch
        model = torch.nn.LSTM(3, 4)
        x = torch.randn(5, 2, 3)
        expected = model(x)[0].detach()
        """,
    "keras.convert": """
        import keras
        model = keras.Sequential([keras.Input((5, 3)), keras.layers.LSTM(4, return_sequences=True)])
        x = np.ones((2, 5, 3), np.float32)
        expected = model.predict(x)
        """,
    "from_onnx": """
        import onnx
        from onnx import numpy_helper
        names = {"W": (1, 16, 3), "R": (1, 16, 4)}
        tensors = [numpy_helper.from_array(np.ones(names[k], np.float32), k) for k in names]
        node = onnx.helper.make_node("LSTM", ["x", "W", "R"], ["y"], "lstm_1", hidden_size=4)
        graph = onnx.helper.make_graph([node], "model", [], [], tensors)
        onnx.save(onnx.helper.make_model(graph), "model.onnx")
        x, lengths = np.ones((5, 2, 3), np.float32), [5, 2]
        h_0 = c_0 = np.zeros((1, 2, 4), np.float32)
        """,
    "from_torch": """
        import torch
        module = torch.nn.LSTM(3, 4)
        x = torch.randn(5, 2, 3)
        expected = module(x)[0].detach()
        """,
    "from_keras": """
        import keras
        layer = keras.layers.LSTM(4, return_sequences=True, name="lstm")
        model = keras.Sequential([keras.Input((5, 3)), layer])
        x = np.ones((2, 5, 3), np.float32)
        expected = model.predict(x)
        """,
    "from_flax": """
        sizes = {side + gate: size for side, size in (("i", 3), ("h", 4)) for gate in "ifgo"}
        cell = {name: {"kernel": np.ones((size, 4), np.float32)} for name, size in sizes.items()}
        variables = {"params": {"cell": cell}}
        x = np.ones((2, 5, 3), np.float32)
        """,
    "from_paddle": """
        state = {"weight_ih_l0": np.ones((16, 3), np.float32), "weight_hh_l0": np.ones((16, 4), np.float32)}
        x = np.ones((2, 5, 3), np.float32)
        """,
    "LSTMCell": """
        weight_ih, weight_hh = np.ones((16, 3), np.float32), np.ones((16, 4), np.float32)
        bias_ih = bias_hh = np.zeros(16, np.float32)
        x = np.ones((2, 3), np.float32)
        h, c = np.zeros((2, 4), np.float32), np.zeros((2, 4), np.float32)
        layer_0 = {"weight_ih": weight_ih, "weight_hh": weight_hh}
        layer_1 = {"weight_ih": weight_hh, "weight_hh": weight_hh}
        """,
}


@pytest.mark.parametrize("maker", SUPPOSED)
def test_fragments_of_switching_md_run(maker):
    if "keras" in maker and not os.environ.get("KERAS_BACKEND"):
        pytest.skip("KERAS_BACKEND is not set")
    [code] = [code for code in fragments(ROOT / "docs" / "switching.md") if f"{maker}(" in code]
    names = run(re.sub("^ {8}", "", SUPPOSED[maker], flags=re.M), {"np": np, "fastgate": fastgate})
    run(code, names)
    if maker == "LSTMCell":
        assert names["h"].shape == (2, 4)
        assert names["lstm"](np.ones((2, 5, 3), np.float32))[0].shape == (2, 5, 4)
    else:
        assert names["y"].shape == (*names["x"].shape[:-1], 4)
    if "expected" in names:
        np.testing.assert_allclose(names["y"], names["expected"], atol=1e-6)


def test_every_fragment_of_switching_md_is_run_once():
    codes = fragments(ROOT / "docs" / "switching.md")
    assert [sum(f"{maker}(" in code for maker in SUPPOSED) for code in codes] == [1] * len(codes)


@pytest.mark.parametrize("page", sorted(ROOT.glob("[A-Z]*.md")), ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / link).exists(), link


def test_the_citation_has_this_version():
    [version] = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert version == fastgate.__version__


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler cc")
@pytest.mark.skipif(not (PACKAGE / "lib" / "libfastgate.a").exists(), reason="libfastgate.a is not installed")
def test_programs_in_c_print_what_python_computes(tmp_path):
    programs = blocks((ROOT / "docs" / "c.md").read_text(), "c")
    k, i = np.arange(3), np.arange(12)[:, None]
    cell = fastgate.LSTMCell(np.float32((i - k[:2]) / 16), np.float32((i + k) / -32))
    stream = cell.stream()
    for t in range(100):
        last = stream.step(np.float32([t / 64, 1]))
    gate = fastgate.gate(np.float32([0.75, -0.5]), np.float32([[1, -1], [0.5, 2], [0, -3]]), [0, 0.25, 1])
    for source, expected in zip(programs, [gate, last, gate], strict=True):
        (tmp_path / "app.c").write_text(source)
        flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", f"-I{PACKAGE / 'include'}"]
        library = PACKAGE / "lib" / "libfastgate.a"
        subprocess.run(["cc", *flags, "app.c", library, "-lm", "-pthread"], cwd=tmp_path, check=True)
        shown = subprocess.run(["./a.out"], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert [float.fromhex(line) for line in shown.stdout.split()] == expected.tolist()
