# cython: language_level=3, embedsignature=True, embedsignature.format=clinic
# cython: boundscheck=False, cdivision=True, initializedcheck=False
# cython: binding=False, auto_pickle=False, autotestdict=False, freethreading_compatible=True
"""The compiled classes over csrc/fastgate.h, which convert and check arguments and pass pointers.  csrc computes.

An entry point first converts all its arguments into locals that nothing else can change, then checks them, then
uses them.  Only a conversion may run the user's code, which might change arguments that were already checked.  An
argument that C can take as it is needs no conversion.

Methods are not bound by Cython (binding=False), so that Python itself checks the type of self.
"""

cimport cython
from cpython.exc cimport PyErr_NoMemory
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject, PyTypeObject
from libc.string cimport memcpy, memset

import numpy as np

from fastgate import _arrays, _files, _parameters, _sources

cdef extern from "Python.h":
    void Py_DECREF(PyObject *)
    void Py_INCREF(PyObject *)
    int PyErr_CheckSignals()  # declared without `except`, so that signal_raised() leaves the exception set
    PyObject **PySequence_Fast_ITEMS(object)
    PyObject *PyTuple_GET_ITEM(PyObject *, Py_ssize_t)
    Py_ssize_t PyTuple_GET_SIZE(PyObject *)
    bint PyTuple_CheckExact(PyObject *)
    Py_ssize_t PyVectorcall_NARGS(size_t)

# Unlike those of numpy.pxd, these functions take borrowed pointers, which need no reference counting.
cdef extern from "numpy/arrayobject.h":
    ctypedef struct PyArrayObject:
        pass
    ctypedef Py_ssize_t npy_intp
    enum:
        NPY_FLOAT32
        NPY_FLOAT64
        NPY_INT64
    int _import_array() except -1
    bint PyArray_CheckExact(PyObject *)
    int PyArray_TYPE(PyArrayObject *)
    int PyArray_NDIM(PyArrayObject *)
    npy_intp *PyArray_DIMS(PyArrayObject *)
    npy_intp *PyArray_STRIDES(PyArrayObject *)
    void *PyArray_DATA(PyArrayObject *) nogil
    bint PyArray_ISBEHAVED_RO(PyArrayObject *)
    bint PyArray_IS_C_CONTIGUOUS(PyArrayObject *)
    bint PyArray_ISWRITEABLE(PyArrayObject *)
    size_t PyArray_NBYTES(PyArrayObject *)
    object PyArray_EMPTY(int, npy_intp *, int, int)

cdef extern from *:
    """
    #if defined(__clang__) || !defined(__GNUC__)
    #define FASTGATE_COMPILER __VERSION__
    #else
    #define FASTGATE_COMPILER "GCC " __VERSION__
    #endif

    /* Cython sets only tp_call.  PEP 590 allows to add vectorcall to a static type later. */
    static void fastgate_use_vectorcall(PyTypeObject *type, ptrdiff_t offset)
    {
        type->tp_vectorcall_offset = offset;
        type->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL;
        PyType_Modified(type);
    }
    """
    const char *FASTGATE_COMPILER
    void fastgate_use_vectorcall(PyTypeObject *type, ptrdiff_t offset)

cdef enum:
    MAX_PARTS = 8  # parts of x that a call describes on the stack; more parts are concatenated first
    MAX_AXES = 64  # NumPy's own limit
    # Calls that read fewer bytes keep the GIL: releasing it costs as much as reading some kilobytes of weights.
    NOGIL_BYTES = 256 * 1024

cdef extern from *:
    """
    /* No array can have more elements, because no address space is larger. */
    #define MOST_INPUTS (PTRDIFF_MAX / 64 < 140737488355328 ? PTRDIFF_MAX / 64 : 140737488355328)
    """
    size_t MOST_INPUTS

_import_array()

cdef dict STORAGES = {
    "float32": FASTGATE_FLOAT32,
    "float16": FASTGATE_FLOAT16,
    "bfloat16": FASTGATE_BFLOAT16,
    "int8": FASTGATE_INT8,
    "float64": FASTGATE_FLOAT64,
}


@cython.final
@cython.no_gc  # see Gate
cdef class _Saved:
    """A saved gate or LSTM, as a mapped file or a copy of bytes, in which the loaded object keeps its weights."""

    def __cinit__(self, source):
        self.source = source
        self.view = _files.read(source)
        self.size = self.view.shape[0]
        self.data = &self.view[0] if self.size else NULL

    cdef int check(self, int code, str kind) except -1:
        if code == FASTGATE_ERROR_INTERRUPTED:
            return -1  # signal_raised() left the exception set
        if code == FASTGATE_ERROR_FORMAT or code == FASTGATE_ERROR_VERSION:
            raise _files.load_error(kind, self.source, self.view, code == FASTGATE_ERROR_VERSION)
        if code != FASTGATE_OK:
            raise MemoryError(f"no memory to load a {kind}")
        self.source = None  # only the messages above need it
        return 0


include "_arrays.pxi"
include "_gate.pxi"
include "_lstm.pxi"
include "_stream.pxi"


cdef enable_vectorcall():
    none = np.empty(0, np.float32)
    cdef Gate gate = Gate(np.empty((0, 0), np.float32))
    cdef BoundGate bound = gate.bind(none, out=none.copy())
    cdef LSTMCell cell = LSTMCell(np.empty((0, 0), np.float32), np.empty((0, 0), np.float32))
    fastgate_use_vectorcall(<PyTypeObject *>Gate, <char *>&gate.vectorcall - <char *><PyObject *>gate)
    fastgate_use_vectorcall(<PyTypeObject *>BoundGate, <char *>&bound.vectorcall - <char *><PyObject *>bound)
    fastgate_use_vectorcall(<PyTypeObject *>LSTMCell, <char *>&cell.vectorcall - <char *><PyObject *>cell)


enable_vectorcall()


cdef int signal_raised() noexcept nogil:
    """Whether a signal handler raised an exception.  Long calls ask from time to time, on the thread that made them."""
    with gil:
        return PyErr_CheckSignals()


fastgate_set_interrupt(signal_raised)


# ---- build and CPU ----------------------------------------------------------------------------

def build_info():
    """(version of csrc, compiler)"""
    return FASTGATE_VERSION.decode(), FASTGATE_COMPILER.decode()


def instruction_sets():
    """{name: whether this CPU can run it} for the instruction sets in this build, best first"""
    cdef const char *name = fastgate_isa_name(0)
    sets = {}
    while name != NULL:
        sets[name.decode()] = fastgate_isa_usable(len(sets))
        name = fastgate_isa_name(len(sets))
    return sets


def instruction_set():
    """The name of the instruction set in use."""
    return fastgate_isa().decode()


def select_instruction_set(name):
    """Use this instruction set, or the best for "", from now on.  Raises ImportError if this CPU cannot run it."""
    if fastgate_select_isa(name.encode(errors="replace")) != FASTGATE_OK:
        usable = ", ".join(isa for isa, usable in instruction_sets().items() if usable)
        raise ImportError(
            f"FASTGATE_ISA={name} is not in this build, or this CPU cannot run it: choose from {usable}"
        )


def override_threads(threads):
    """Run all gates and LSTMs on this number of threads from now on; 0 restores the number of each."""
    fastgate_override_threads(threads)
