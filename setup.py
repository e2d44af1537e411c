"""Builds fastgate._core: Cython over csrc, each instruction set with flags of its own.

FASTGATE_PURE_PYTHON=1               leaves the extension out: no C compiler needed
FASTGATE_SANITIZE=address,undefined  builds with these sanitizers

MSVC has no vector types, so on Windows Clang compiles: that of Zig (PyPI's ziglang), or what CC names.
"""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path
from sysconfig import get_platform

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

# Results must not depend on the compiler's defaults or the build machine: no contraction, no -march.  Nor is there
# link-time optimization: what it compiles, only the same compiler links.
C_FLAGS = ["-std=c11", "-O3", "-ffp-contract=off", "-fno-lto", "-fvisibility=hidden", "-Wall"]

# Flags that change what floating-point operations give.  Of some, as -Ofast, the link adds code that changes their
# mode for the whole process, as soon as the module is loaded.  csrc/CMakeLists.txt has the same expression.
CHANGES_RESULTS = re.compile(
    "-(Ofast|f[a-z-]*math[a-z=,-]*|ffp-[a-z=-]*|f(no-)?(signed-zeros|approx-func|honor-[a-z]*|cx-[a-z-]*"
    "|single-precision-constant|float-store|excess-precision=[a-z0-9]*)"
    "|m(no-)?(daz-ftz|recip[a-z=,!:0-9-]*|fpmath=(387|both|sse[+,]387)|pc[0-9]*))"
)

if sanitizers := os.environ.get("FASTGATE_SANITIZE"):
    C_FLAGS += [f"-fsanitize={sanitizers}", "-fno-omit-frame-pointer", "-g"]
    link_flags = [f"-fsanitize={sanitizers}"]
else:
    C_FLAGS += ["-g0"]
    link_flags = [] if sys.platform == "darwin" else ["-Wl,-s"]


def keep_results(commands):
    """{name: a command of the compiler or linker}, without flags of users that change results."""
    left_out = {flag for command in commands.values() for flag in command if CHANGES_RESULTS.fullmatch(flag)}
    if left_out:
        print(f"fastgate: left out {' '.join(sorted(left_out))}: results do not depend on flags", file=sys.stderr)
    return {name: [flag for flag in command if flag not in left_out] for name, command in commands.items()}


class BuildCore(build_ext):
    def finalize_options(self):
        super().finalize_options()
        self.cython_c_in_temp = True  # no generated C beside the sources
        if sys.platform == "win32" and self.compiler is None:
            self.compiler = "mingw32"  # setuptools' name for all compilers with the flags of GCC
            os.environ.setdefault("CC", "python-zig cc -target x86_64-windows-gnu")

    def build_extensions(self):
        if sys.platform == "win32":
            self.compiler.set_executables(archiver="python-zig ar -cr")
        commands = {name: getattr(self.compiler, name, None) for name in self.compiler.executables}
        for name, command in keep_results({name: command for name, command in commands.items() if command}).items():
            setattr(self.compiler, name, command)
        super().build_extensions()

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


is_windows = get_platform().startswith("win")
core = Extension(
    "fastgate._core",
    ["src/fastgate/_core.pyx"],
    depends=[*glob("csrc/**/*.[ch]", recursive=True), *glob("csrc/kernels/*.inc"), *glob("src/fastgate/*.px[di]")],
    include_dirs=["csrc"],
    libraries=[] if is_windows else ["m", "pthread"],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")]
    + ([("MS_WIN64", None)] if is_windows else []),  # which Python's headers define for MSVC alone
    extra_compile_args=C_FLAGS,
    extra_link_args=link_flags,
)

setup(
    ext_modules=[] if os.environ.get("FASTGATE_PURE_PYTHON") == "1" else [core],
    cmdclass={"build_ext": BuildCore},
)
