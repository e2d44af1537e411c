import fastgate
from Cython.Build import cythonize
from setuptools import Extension, setup

extension = Extension(
    "fastgate_example",
    ["fastgate_example.pyx"],
    include_dirs=[fastgate.get_include()],  # fastgate.h
    library_dirs=[fastgate.get_library_dir()],  # libfastgate.a
    libraries=["fastgate", "m", "pthread"],
)
setup(ext_modules=cythonize([extension]), py_modules=[])  # check.py is not part of it
