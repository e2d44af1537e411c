"""setup.py leaves out flags of the user that would change results, or the mode of the process that loads the core."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HARMLESS = """-O2 -O3 -Og -g -march=native -mavx2 -mno-avx512f -mtune=generic -msse2 -mfpmath=sse -flto
    -flto=auto -fPIC -fwrapv -Wall -DNDEBUG -D_FORTIFY_SOURCE=2 -fstack-protector-strong -funroll-loops
    -fno-strict-aliasing -fsanitize=address -ffile-prefix-map=/tmp/fast-math=/x -ffunction-sections
    -fprofile-update=atomic --coverage -Wl,-O1 -lm -shared -I/opt/fast-math/include -L/opt/-Ofast
    -fcf-protection -fexceptions -fplt -pthread -arch arm64""".split()
HARMFUL = """-Ofast -ffast-math -funsafe-math-optimizations -fassociative-math -freciprocal-math -ffinite-math-only
    -fno-signed-zeros -fno-math-errno -fno-trapping-math -frounding-math -ffp-contract=fast -ffp-contract=on
    -ffp-model=fast -ffp-eval-method=double -fapprox-func -fno-honor-nans -fno-honor-infinities -fcx-limited-range
    -fdenormal-fp-math=positive-zero -fdenormal-fp-math=preserve-sign,preserve-sign -fsingle-precision-constant
    -fexcess-precision=fast -ffloat-store -mrecip -mrecip=all -mrecip=!sqrt,div:1 -mdaz-ftz -mpc32 -mpc64
    -mfpmath=387 -mfpmath=sse+387 -mfpmath=both""".split()


@pytest.fixture
def setup_py(monkeypatch):
    setuptools = pytest.importorskip("setuptools")
    if not (ROOT / "setup.py").exists():
        pytest.skip("setup.py is not there: this is not the source tree")
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: None)
    monkeypatch.chdir(ROOT)
    return runpy.run_path("setup.py")


def test_flags_that_change_results_are_left_out(setup_py, capsys):
    keep = setup_py["keep_results"]
    commands = {"compiler_so": ["ccache", "gcc", *HARMLESS], "linker_so": ["gcc", "-shared"]}
    assert keep(commands) == commands
    assert not capsys.readouterr().err
    for flag in HARMFUL:
        assert keep({name: [*command, flag] for name, command in commands.items()}) == commands
        assert keep({name: [command[0], flag, *command[1:]] for name, command in commands.items()}) == commands
        said = capsys.readouterr().err
        assert said.count(f"left out {flag}: ") == said.count("\n") == 2
    assert keep({"linker_so": ["cc", *HARMFUL, *HARMFUL]}) == {"linker_so": ["cc"]}


def test_cmake_leaves_out_the_same_flags(setup_py):
    text = (ROOT / "csrc" / "CMakeLists.txt").read_text()
    expression = re.search(r'string\(CONCAT changes_results((\s*"[^"\n]*")*\))', text)[1]
    assert "".join(re.findall(r'"([^"]*)"', expression)) == setup_py["CHANGES_RESULTS"].pattern
