"""fastgate.weights needs no package but NumPy until one is asked for."""

import pytest
from fastgate import weights
from helpers import run_python


def test_nothing_is_imported():
    run = run_python("""
        import sys, fastgate
        assert "fastgate.weights" not in sys.modules
        import fastgate.weights
        print(*sys.modules)
    """)
    assert run.returncode == 0, run.stderr
    assert not {"torch", "keras", "tensorflow", "h5py", "onnx", "ml_dtypes"} & set(run.stdout.split())


def test_onnx_is_asked_for():
    code = """
        import sys, fastgate.weights
        sys.modules["onnx"] = None
        fastgate.weights.from_onnx("model.onnx")
    """
    assert "pip install onnx" in run_python(code).stderr


@pytest.mark.parametrize("load", [weights.from_torch, weights.from_keras])
def test_something_else(load):
    with pytest.raises(TypeError, match=r"takes an? .*, not builtins\.int"):
        load(3)
