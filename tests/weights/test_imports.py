"""What all importers share: fastgate.weights imports no framework by itself, and refuses other objects."""

import pytest
from fastgate import weights
from helpers import draw, run_python


def test_fastgate_imports_no_framework():
    run = run_python("""
        import sys, fastgate
        assert "fastgate.weights" not in sys.modules
        import fastgate.weights
        print(*sys.modules)
    """)
    assert run.returncode == 0, run.stderr
    assert not {"torch", "keras", "tensorflow", "h5py", "onnx", "ml_dtypes"} & set(run.stdout.split())


def test_modules_for_frameworks_are_imported_when_they_are_first_used():
    run = run_python("""
        import sys, fastgate
        assert not {"fastgate.torch", "fastgate.keras"} & set(sys.modules) and not hasattr(fastgate, "tensorflow")
        for name in ("torch", "keras"):
            try:
                module = getattr(fastgate, name)
            except ImportError as error:
                assert error.name == name
            else:
                assert module is sys.modules[f"fastgate.{name}"] and module.convert
    """)
    assert run.returncode == 0, run.stderr


def test_an_error_says_how_to_install_onnx():
    code = """
        import sys, fastgate.weights
        sys.modules["onnx"] = None
        fastgate.weights.from_onnx("model.onnx")
    """
    assert "pip install onnx" in run_python(code).stderr


@pytest.mark.parametrize("load", [weights.from_torch, weights.from_keras])
def test_objects_of_other_types_are_refused(load):
    with pytest.raises(TypeError, match=r"takes an? .*, not builtins\.int"):
        load(3)


@pytest.mark.parametrize(
    "load, framework, hint",
    [(weights.from_torch, "torch", r"the torch\.nn\.LSTM in"), (weights.from_paddle, "paddle", "the LSTM inside it")],
)
@pytest.mark.parametrize("name", ["LSTM", "LSTMCell"])
def test_classes_that_only_have_the_name_of_an_lstm_are_refused(load, framework, hint, name):
    module = type(name, (), {"state_dict": lambda self: {"weight_ih": draw(20, 3), "weight_hh": draw(20, 5)}})()
    with pytest.raises(TypeError, match=rf"\.{name} is neither a {framework}\.nn\.LSTM nor .*: give {hint}"):
        load(module)
