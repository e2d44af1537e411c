"""Builds fastgate._core: Cython over csrc, each instruction set with flags of its own.

FASTGATE_PURE_PYTHON=1               leaves the extension out: no C compiler needed
FASTGATE_SANITIZE=address,undefined  builds with these sanitizers
"""

import os
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from itertools import product

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

# Results must not depend on the compiler's mood or the build machine: no contraction, no -march.
C_FLAGS = ["-std=c11", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-Wall"]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, *"-mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512".split()]
X86 = {"avx2": AVX2, "avx512": AVX512, "avx512vnni": [*AVX512, "-mavx512vnni"]}
ARM = {"neon": [], "neondot": ["-march=armv8.2-a+dotprod"]}
ISA_FLAGS = {"x86_64": X86, "amd64": X86, "aarch64": ARM, "arm64": ARM}

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

    def build_extension(self, ext):
        import numpy

        machine = sysconfig.get_platform().rpartition("-")[2]
        ext.include_dirs.append(numpy.get_include())
        if machine not in ISA_FLAGS:
            ext.define_macros.append(("FG_BASE_ONLY", None))

        def compile_kernels(job):
            (isa, flags), (real, macros) = job
            return self.compiler.compile(
                [f"csrc/isa/{isa}.c"],
                output_dir=os.path.join(self.build_temp, real),
                macros=macros,
                extra_postargs=C_FLAGS + flags,
                depends=ext.depends,
            )

        isas = {"base": ["-Os"], **ISA_FLAGS.get(machine, {})}
        reals = {"float": [], "double": [("FG_FLOAT64", None)]}
        try:
            with ThreadPoolExecutor(os.cpu_count()) as pool:  # they are most of the work
                for objects in pool.map(compile_kernels, product(isas.items(), reals.items())):
                    ext.extra_objects += objects
            super().build_extension(ext)
        except (CompileError, LinkError) as error:
            sys.exit(
                f"fastgate: the C core cannot be compiled ({error}); install a C compiler, "
                "or set FASTGATE_PURE_PYTHON=1 to install without the core"
            )


core = Extension(
    "fastgate._core",
    ["src/fastgate/_core.pyx", *sorted(glob("csrc/*.c"))],
    depends=[*sorted(glob("csrc/*.h")), *sorted(glob("csrc/*.inc")), *glob("src/fastgate/*.px[di]")],
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
