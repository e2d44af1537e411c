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

    def kernels(self):
        """{shim in csrc/kernels: flags} for this machine, from their first lines: see csrc/kernels/kernels.inc."""
        ask = [*self.compiler.compiler_so, "-dM", "-E", "-xc", os.devnull]
        # no answer for several architectures at once: of them, each has only __STDC__ for sure
        macros = {"__STDC__", *subprocess.run(ask, capture_output=True, text=True).stdout.split()}
        kernels = {}
        for shim in sorted(glob("csrc/kernels/*.c")):
            head = re.match(r"/\* (\w+):(.*) \*/\n", Path(shim).read_text())
            if not head:
                sys.exit(f"{shim}: the first line must be /* MACRO: FLAGS */")
            if head[1] in macros:
                kernels[shim] = head[2].split()
        return kernels

    def compile_csrc(self):
        """Objects of all of csrc."""
        kernels = self.kernels()
        is_base_only = all("base" in shim for shim in kernels)
        macros = [("FG_BASE_ONLY", None)] if is_base_only else []

        def compile_one(source):
            return self.compiler.compile(
                [source],
                output_dir=self.build_temp,
                macros=macros,
                extra_postargs=C_FLAGS + kernels.get(source, []),
            )[0]

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(compile_one, [*sorted(glob("csrc/*.c")), *kernels]))

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
    depends=[*glob("csrc/**/*.[ch]", recursive=True), *glob("csrc/kernels/*.inc"), *glob("src/fastgate/*.px[di]")],
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
