"""Where the compiled core cannot be loaded, fastgate computes with NumPy, and warns of it once."""

import textwrap

import pytest
from helpers import run_python

# The first finder refuses the core: to fastgate that looks like a broken or absent .so.
WITHOUT_CORE = """
import sys

class Refuse:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "fastgate._core":
            raise ImportError("libsomething.so: cannot open shared object file")

sys.meta_path.insert(0, Refuse)
"""

IMPORT = """
import warnings

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import fastgate
"""


def python(code, **env):
    return run_python(WITHOUT_CORE + IMPORT + textwrap.dedent(code), **env)


def test_one_warning_and_right_results():
    run = python("""
        import pickle
        import numpy as np

        [warning] = caught
        assert warning.category is RuntimeWarning
        assert "libsomething.so" in str(warning.message), "the warning gives no reason"
        assert warning.filename == "<string>", "the warning does not point at the import"
        assert fastgate.Gate is fastgate.reference.Gate and fastgate.gate is fastgate.reference.gate

        weight = np.arange(6, dtype=np.float32).reshape(2, 3) / 10
        x, h, out = np.float32([1, -2]), np.float32([3]), np.empty(2, np.float32)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import fastgate
            g = fastgate.Gate(weight, [0, 1])
            expected = 1 / (1 + np.exp(-(weight @ np.float64([1, -2, 3]) + [0, 1])))
            np.testing.assert_allclose(g(x, h), expected, rtol=1e-7)
            assert g(x, h, out=out) is out and g.bind(x, h, out=out)() is out
            assert (pickle.loads(pickle.dumps(g))(x, h) == out).all()
            assert (fastgate.gate([1, -2, 3], weight, [0, 1]) == out).all()
        assert not caught
        print("ok")
    """)
    assert run.stdout == "ok\n", run.stderr


def test_show_config_names_the_reference():
    run = python("fastgate.show_config()")
    assert "NumPy reference" in run.stdout and "ISA in use   none" in run.stdout


def test_an_instruction_set_cannot_be_chosen():
    run = python("", FASTGATE_ISA="avx2")
    assert run.returncode == 1 and "ImportError: FASTGATE_ISA=avx2" in run.stderr


@pytest.mark.parametrize("action, shown", [("error", True), ("ignore", False)])
def test_the_warning_can_be_filtered(action, shown):
    run = run_python(WITHOUT_CORE + "import fastgate", "-W", action)
    assert ("RuntimeWarning: fastgate" in run.stderr) == shown == (run.returncode != 0)
