"""The installed package: its names, version, files, stubs and command line, and what it says about itself."""

import importlib.metadata
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import fastgate
import numpy as np
import pytest
from fastgate.__main__ import main
from helpers import compiled_only, run_python

PACKAGE = Path(fastgate.__file__).parent
HEADER = Path(__file__).parent.parent / "csrc" / "fastgate.h"


def test_public_names():
    names = {"LSTM", "Gate", "LSTMCell", "Stream", "__version__", "gate", "reference"}
    names |= {"get_include", "get_library_dir", "set_threads", "show_config"}
    assert set(fastgate.__all__) == names
    assert all(hasattr(fastgate, name) for name in fastgate.__all__)


def test_all_parts_have_the_same_version():
    assert importlib.metadata.version("fastgate") == fastgate.__version__
    if fastgate._core:
        assert fastgate._core.build_info()[0] == fastgate.__version__


@pytest.mark.skipif(not HEADER.exists(), reason="csrc is not there: this is not the source tree")
def test_the_header_has_this_version():
    [version] = re.findall(r'#define FASTGATE_VERSION "(.*)"', HEADER.read_text())
    assert version == fastgate.__version__


@compiled_only
def test_subnormals_are_kept():
    """Code that -Ofast adds to a shared library makes them zero in the whole process that loads it."""
    run = run_python("""
        import sys, numpy, fastgate
        assert fastgate._core and sys.float_info.min / 2 > 0
        assert numpy.all(numpy.full(100, 1e-40, numpy.float32) * numpy.float32(0.5) > 0)
    """)
    assert run.returncode == 0, run.stderr


@compiled_only
def test_the_header_and_library_for_c_are_installed():
    header, library = Path(fastgate.get_include(), "fastgate.h"), Path(fastgate.get_library_dir())
    assert f'"{fastgate.__version__}"' in header.read_text()
    assert (library / "libfastgate.a").read_bytes()[:8] == b"!<arch>\n"
    assert not HEADER.exists() or header.read_text() == HEADER.read_text()


def test_flags_for_the_compiler_are_printed(capsys, monkeypatch):
    monkeypatch.setattr(fastgate, "get_include", lambda: "/a place/include")
    monkeypatch.setattr(fastgate, "get_library_dir", lambda: "/a place/lib")
    cflags, libs = ["-I/a place/include"], ["-L/a place/lib", "-lfastgate", "-lm", "-pthread"]
    for asked, expected in (
        (["--cflags"], cflags),
        (["--libs"], libs),
        (["--libs", "--cflags"], cflags + libs),
    ):
        assert main(asked) == 0
        assert shlex.split(capsys.readouterr().out) == expected
    assert main(["--libs", "demo"]) == 2
    assert "usage" in capsys.readouterr().err


def test_help_and_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fastgate {fastgate.__version__}\n"
    for option in ("--help", "-h"):
        assert main([option]) == 0
        shown = capsys.readouterr().out
        assert all(word in shown for word in ("usage", "demo", "--cflags", "--libs", "--version"))
    assert main(["--version", "now"]) == 2


def test_the_cpu_is_named(capsys, monkeypatch):
    fastgate.show_config()
    [cpu] = re.findall("^CPU +(.+)$", capsys.readouterr().out, re.M)
    assert cpu == fastgate._cpu_name() != "unknown"
    try:
        names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        names = []
    assert not names or cpu.startswith(names[0].strip())

    def no_file(*_):
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", no_file)
    monkeypatch.setattr("platform.processor", lambda: "a CPU")
    assert fastgate._cpu_name() == "a CPU"


def test_without_a_core_there_are_no_flags(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(fastgate, "__file__", str(tmp_path / "__init__.py"))
    for place in (fastgate.get_include, fastgate.get_library_dir):
        with pytest.raises(RuntimeError, match="without its compiled core"):
            place()
    for option in ("--cflags", "--libs"):
        assert main([option]) == 1
        out, err = capsys.readouterr()
        assert out == "" and "without its compiled core" in err


def declarations(text):
    """Functions and structs declared in fastgate.h, in C or Cython: {name: result and parameters, or members}."""
    found = {
        name: " ".join(f"{result} ({parameters})".replace("(void)", "()").split())
        for result, name, parameters in re.findall(r"^ *(\w[\w *]*?)\b(fastgate_\w+)\(([^)]*)\)", text, re.M)
    }
    for body, name in re.findall(r"typedef struct \{(.*?)\} (\w+);", text, re.S):
        found[name] = [member.strip() for member in body.split(";") if member.strip()]
    for name, body in re.findall(r"ctypedef struct (\w+):\n((?: {8}.*\n)+)", text):
        found[name] = [member.strip() for member in body.splitlines() if member.strip() != "pass"]
    return {name: value for name, value in found.items() if value}


@compiled_only
def test_cython_declares_the_header():
    header = Path(fastgate.get_include(), "fastgate.h").read_text()
    header = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
    cython = (PACKAGE / "__init__.pxd").read_text().partition("cdef extern")[2].replace("bint ", "int ")
    expected, found = declarations(header), declarations(cython)
    assert len(expected) > 30
    assert found == expected
    constants = set(re.findall(r"\bFASTGATE_\w+", header)) - {"FASTGATE_H"}
    assert set(re.findall(r"\bFASTGATE_\w+", cython)) == constants


def test_files_for_type_checkers_and_cython_are_installed():
    for name in ("py.typed", "_core.pyi", "_core.pxd", "__init__.pxd"):
        assert (PACKAGE / name).exists()


def test_no_generated_source_is_installed():
    if "src" in PACKAGE.parts:
        pytest.skip("this is the source tree: only a wheel leaves out generated sources")
    names = {path.name for path in PACKAGE.rglob("*")}
    assert not {name for name in names if name.endswith((".c", ".pyx", ".pxi"))}


def test_the_demo_has_its_data():
    assert (PACKAGE / "demo" / "digits.npz").stat().st_size < 100_000


def test_import_is_light():
    """Beyond what NumPy imports, fastgate imports no module of the standard library that takes long."""
    run = run_python("""
        import sys, numpy
        before = set(sys.modules)
        import fastgate
        print(*set(sys.modules) - before)
    """)
    loaded = set(run.stdout.split())
    assert "fastgate" in loaded
    assert not loaded & {"inspect", "typing", "importlib.metadata", "platform", "shlex", "subprocess"}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the test is for the subinterpreters of Python 3.12 and later")
@pytest.mark.parametrize("kind", ["legacy", "isolated"])
def test_a_second_interpreter_gets_an_import_error(kind):
    """Two interpreters of a process cannot both load NumPy, whether they share a GIL or not."""
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
@pytest.mark.skipif(not importlib.util.find_spec("mypy"), reason="mypy is not installed")
def test_stubs_agree_with_the_core(tmp_path):
    project = Path(__file__).parents[1] / "pyproject.toml"  # it has rules for the modules that import torch and Keras
    everything = ["mypy", "--config-file", str(project), "--strict", "-p", "fastgate"]
    for tool in (["mypy.stubtest", "fastgate._core"], *([everything] if project.exists() else [])):
        run = subprocess.run([sys.executable, "-m", *tool], capture_output=True, text=True, cwd=tmp_path)
        assert run.returncode == 0, run.stdout + run.stderr


# ---- configuration ----------------------------------------------------------------------------


def test_show_config(capsys):
    assert fastgate.show_config() is None
    text = capsys.readouterr().out
    assert f"fastgate     {fastgate.__version__}\n" in text
    assert np.__version__ in text
    for line in ("core", "ISA in use", "ISAs built", "ISAs usable", "threads", "Python"):
        assert f"\n{line}" in text


@compiled_only
def test_show_config_lists_the_instruction_sets(capsys):
    fastgate.show_config()
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    built, usable = (lines[key].strip().split(", ") for key in ("ISAs built", "ISAs usable"))
    assert set(usable) <= set(built) and built[-1] == usable[-1] == "base"
    assert lines["ISA in use"].strip() in usable


def test_python_m_fastgate():
    def run(*args):
        command = [sys.executable, "-m", "fastgate", *args]
        return subprocess.run(command, capture_output=True, text=True)

    config = run()
    assert config.returncode == 0 and config.stdout.startswith("fastgate ")
    assert run("nonsense").returncode == 2
    assert "demo" in run("demo", "--help").stdout
