"""What is installed: stubs, version, files."""

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import fastgate
import pytest
from conftest import compiled_only, run_python

PACKAGE = Path(fastgate.__file__).parent
HEADER = Path(__file__).parent.parent / "csrc" / "fastgate.h"


def test_public_names():
    names = {"LSTM", "Gate", "LSTMCell", "Stream", "__version__", "gate", "reference"}
    names |= {"set_threads", "show_config"}
    assert set(fastgate.__all__) == names
    assert all(hasattr(fastgate, name) for name in fastgate.__all__)


def test_one_version():
    assert importlib.metadata.version("fastgate") == fastgate.__version__
    if fastgate._core:
        assert fastgate._core.build_info()[0] == fastgate.__version__


@pytest.mark.skipif(not HEADER.exists(), reason="needs the source tree")
def test_version_of_the_header():
    [version] = re.findall(r'#define FASTGATE_VERSION "(.*)"', HEADER.read_text())
    assert version == fastgate.__version__


def test_typed():
    assert (PACKAGE / "py.typed").exists() and (PACKAGE / "_core.pyi").exists()


def test_no_generated_source_is_installed():
    if "src" in PACKAGE.parts:
        pytest.skip("needs a wheel: this is the source tree")
    names = {path.name for path in PACKAGE.rglob("*")}
    assert not {name for name in names if name.endswith((".c", ".pyx", ".pxi"))}


def test_the_demo_has_its_data():
    assert (PACKAGE / "demo" / "digits.npz").stat().st_size < 100_000


def test_import_is_light():
    """Over NumPy, nothing of the standard library that takes its time."""
    run = run_python("""
        import sys, numpy
        before = set(sys.modules)
        import fastgate
        print(*set(sys.modules) - before)
    """)
    loaded = set(run.stdout.split())
    assert "fastgate" in loaded
    assert not loaded & {"inspect", "typing", "importlib.metadata", "platform", "subprocess"}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="about interpreters as they are from 3.12 on")
@pytest.mark.parametrize("kind", ["legacy", "isolated"])
def test_a_second_interpreter_is_told_no(kind):
    """NumPy cannot be loaded by two; whether they share a GIL or not, an ImportError says so."""
    run = run_python(f"""
        import sys
        import numpy as np
        import fastgate

        code = '''if True:
            try:
                import fastgate
            except ImportError:
                print("ImportError", flush=True)'''
        if sys.version_info < (3, 13):
            import _xxsubinterpreters as interpreters
            other = interpreters.create(isolated={kind == "isolated"})
            interpreters.run_string(other, code)
        else:
            import _interpreters as interpreters
            other = interpreters.create({kind!r})
            assert interpreters.exec(other, code) is None
        interpreters.destroy(other)
        print(*fastgate.gate(np.zeros(2, np.float32), np.zeros((1, 2), np.float32)))
    """)
    assert (run.returncode, run.stdout) == (0, "ImportError\n0.5\n"), run.stderr


@compiled_only
@pytest.mark.skipif(not importlib.util.find_spec("mypy"), reason="needs mypy")
def test_stubs_tell_the_truth(tmp_path):
    for tool in (["mypy.stubtest", "fastgate"], ["mypy", "--strict", "-p", "fastgate"]):
        run = subprocess.run(
            [sys.executable, "-m", *tool], capture_output=True, text=True, cwd=tmp_path
        )
        assert run.returncode == 0, run.stdout + run.stderr
