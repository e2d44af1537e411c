"""Builds fastgate._core from Cython and csrc, with separate compiler flags for each instruction set.

FASTGATE_PURE_PYTHON=1               leaves the extension out, so that no C compiler is needed
FASTGATE_SANITIZE=address,undefined  builds with these sanitizers

On Windows, where MSVC has no vector types, it uses Zig's Clang (PyPI's ziglang), or the compiler that CC names.
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

# Results must not depend on the compiler's defaults or the build machine, so there is no contraction and no -march.
# Link-time optimization is off, because only the same compiler could link its objects.
C_FLAGS = ["-std=c11", "-O3", "-ffp-contract=off", "-fno-lto", "-fvisibility=hidden", "-Wall"]

# Flags that change the results of floating-point operations.  Some, such as -Ofast, also link code that changes the
# floating-point mode of the whole process when the module is loaded.  csrc/CMakeLists.txt has the same expression.
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
    """{name: a command of the compiler or linker} -> the same without the user's flags that change results."""
    left_out = {flag for command in commands.values() for flag in command if CHANGES_RESULTS.fullmatch(flag)}
    if left_out:
        print(f"fastgate: left out {' '.join(sorted(left_out))}: results do not depend on flags", file=sys.stderr)
    return {name: [flag for flag in command if flag not in left_out] for name, command in commands.items()}


class BuildCore(build_ext):
    def finalize_options(self):
        super().finalize_options()
        self.cython_c_in_temp = True  # keeps generated C out of src
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
        """{file in csrc/kernels: flags} for this machine.  The first line of a file has its macro and its flags."""
        ask = [*self.compiler.compiler_so, "-dM", "-E", "-xc", os.devnull]
        # With several architectures, as on macOS, the compiler prints no macros: __STDC__ chooses the base kernels.
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
        """Compile all of csrc -> the object files."""
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
        """Build the extension, and put the header and the library for C and Cython beside it."""
        super().run()
        for ext in self.extensions:
            package = Path(self.get_ext_fullpath(ext.name)).parent  # with --inplace, in the source tree
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
    + ([("MS_WIN64", None)] if is_windows else []),  # Python's headers define this only for MSVC
    extra_compile_args=C_FLAGS,
    extra_link_args=link_flags,
)

setup(
    ext_modules=[] if os.environ.get("FASTGATE_PURE_PYTHON") == "1" else [core],
    cmdclass={"build_ext": BuildCore},
)
