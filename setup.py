"""Builds fastgate._core: Cython over csrc, each instruction set with flags of its own.

FASTGATE_PURE_PYTHON=1               leaves the extension out: no C compiler needed
FASTGATE_SANITIZE=address,undefined  builds with these sanitizers
"""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

# Results must not depend on the compiler's mood or the build machine: no contraction, no -march.
C_FLAGS = ["-std=c11", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-Wall"]

if sanitizers := os.environ.get("FASTGATE_SANITIZE"):
    C_FLAGS += [f"-fsanitize={sanitizers}", "-fno-omit-frame-pointer", "-g"]
    link_flags = [f"-fsanitize={sanitizers}"]
else:
    C_FLAGS += ["-g0"]
    link_flags = [] if sys.platform == "darwin" else ["-Wl,-s"]


class BuildCore(build_ext):
    def finalize_options(self):
        super().finalize_options()
        self.cython_c_in_temp = True  # no generated C beside the sources

    def instruction_sets(self):
        """{name: flags} for this machine, from the first lines of csrc/isa: see csrc/kernels.inc."""
        ask = [*self.compiler.compiler_so, "-dM", "-E", "-xc", os.devnull]
        # no answer for several architectures at once: of them, each has only __STDC__ for sure
        macros = {"__STDC__", *subprocess.run(ask, capture_output=True, text=True).stdout.split()}
        isas = {}
        for shim in map(Path, sorted(glob("csrc/isa/*.c"))):
            head = re.match(r"/\* (\w+):(.*) \*/\n", shim.read_text())
            if not head:
                sys.exit(f"{shim}: the first line must be /* MACRO: FLAGS */")
            if head[1] in macros:
                isas[shim.stem] = head[2].split()
        return isas

    def compile_csrc(self):
        """Objects of all of csrc."""
        isas = self.instruction_sets()
        macros = [("FG_BASE_ONLY", None)] if list(isas) == ["base"] else []
        jobs = [(source, [], []) for source in sorted(glob("csrc/*.c"))]
        for isa, flags in isas.items():
            jobs += [(f"csrc/isa/{isa}.c", flags, real) for real in ([], [("FG_FLOAT64", None)])]

        def compile_one(job):
            source, flags, real = job
            [made] = self.compiler.compile(
                [source],
                output_dir=os.path.join(self.build_temp, "float64" if real else "float32"),
                macros=macros + real,
                extra_postargs=C_FLAGS + flags,
            )
            if not real:
                return made
            stem, suffix = os.path.splitext(made)
            os.replace(made, f"{stem}_f64{suffix}")  # the members of an archive must differ by name
            return f"{stem}_f64{suffix}"

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(compile_one, jobs))

    def build_extension(self, ext):
        import numpy

        ext.include_dirs.append(numpy.get_include())
        try:
            ext.extra_objects = self.compile_csrc()
            super().build_extension(ext)
        except (CompileError, LinkError, OSError) as error:
            sys.exit(
                f"fastgate: the C core cannot be compiled ({error}); install a C compiler, "
                "or set FASTGATE_PURE_PYTHON=1 to install without the core"
            )

    def run(self):
        """The extension, and beside it the header and the library for C and Cython."""
        super().run()
        for ext in self.extensions:
            package = Path(self.get_ext_fullpath(ext.name)).parent  # in the source tree, if in place
            self.mkpath(str(package / "include"))
            self.copy_file("csrc/fastgate.h", str(package / "include"))
            self.compiler.create_static_lib(ext.extra_objects, "fastgate", str(package / "lib"))


core = Extension(
    "fastgate._core",
    ["src/fastgate/_core.pyx"],
    depends=[*glob("csrc/**/*.[ch]", recursive=True), *glob("csrc/*.inc"), *glob("src/fastgate/*.px[di]")],
    include_dirs=["csrc"],
    libraries=["m", "pthread"],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
    extra_compile_args=C_FLAGS,
    extra_link_args=link_flags,
)

setup(
    ext_modules=[] if os.environ.get("FASTGATE_PURE_PYTHON") == "1" else [core],
    cmdclass={"build_ext": BuildCore},
)
