# cython: language_level=3, embedsignature=True, embedsignature.format=clinic
# cython: boundscheck=False, cdivision=True, initializedcheck=False
# cython: binding=False, auto_pickle=False, autotestdict=False, freethreading_compatible=True
"""Python objects over csrc/fastgate.h: conversions, checks and pointers, nothing numeric.

Every entry point converts all that it is given into locals that nothing else can change, then checks
them, then uses them, with no call back in between: a conversion may run code of the user, which may
change what was checked before.  What lies as C can take it is its own conversion.

Methods are not bound by Cython (binding=False), so that Python itself checks their self.
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
    int PyErr_CheckSignals()  # declared without an exception, which asked() leaves set
    PyObject **PySequence_Fast_ITEMS(object)
    PyObject *PyTuple_GET_ITEM(PyObject *, Py_ssize_t)
    Py_ssize_t PyTuple_GET_SIZE(PyObject *)
    bint PyTuple_CheckExact(PyObject *)
    Py_ssize_t PyVectorcall_NARGS(size_t)

# Not numpy.pxd: these read borrowed pointers, without the reference counting of typed objects.
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

    /* Cython fills tp_call only. PEP 590: a static type may be given a vectorcall after the fact. */
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
    MAX_PARTS = 8  # described on the stack; more are concatenated first
    MAX_AXES = 64  # NumPy's own limit
    # Releasing the GIL costs as much as reading some kilobytes of weights: not below this.
    NOGIL_BYTES = 256 * 1024

cdef extern from *:
    """
    /* no array has more elements: an address space */
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
@cython.no_gc  # as Gate
cdef class _Saved:
    """What a path or bytes hold, kept for a gate or LSTM to compute with where it lies."""

    def __cinit__(self, source):
        self.source = source
        self.view = _files.read(source)
        self.size = self.view.shape[0]
        self.data = &self.view[0] if self.size else NULL

    cdef int check(self, int code, str kind) except -1:
        if code == FASTGATE_ERROR_INTERRUPTED:
            return -1  # asked() left the exception
        if code == FASTGATE_ERROR_FORMAT or code == FASTGATE_ERROR_VERSION:
            raise _files.refusal(kind, self.source, self.view, code == FASTGATE_ERROR_VERSION)
        if code != FASTGATE_OK:
            raise MemoryError(f"no memory to load a {kind}")
        self.source = None  # bytes were copied
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


cdef int asked() noexcept nogil:
    """Called by long calls, now and then, on the thread that made them: whether a signal's handler raised."""
    with gil:
        return PyErr_CheckSignals()


fastgate_set_interrupt(asked)


# ---- build and CPU ----------------------------------------------------------------------------

def build_info():
    """(version of csrc, compiler)"""
    return FASTGATE_VERSION.decode(), FASTGATE_COMPILER.decode()


def instruction_sets():
    """Those in this build, best first, and whether this CPU can run them."""
    cdef const char *name = fastgate_isa_name(0)
    sets = {}
    while name != NULL:
        sets[name.decode()] = fastgate_isa_usable(len(sets))
        name = fastgate_isa_name(len(sets))
    return sets


def instruction_set():
    """The one in use."""
    return fastgate_isa().decode()


def select_instruction_set(name):
    """Use this one, or the best for "", from now on. ImportError if it cannot be."""
    if fastgate_select_isa(name.encode(errors="replace")) != FASTGATE_OK:
        usable = ", ".join(isa for isa, usable in instruction_sets().items() if usable)
        raise ImportError(
            f"FASTGATE_ISA={name}: not in this build or not usable on this CPU; there is {usable}"
        )


def override_threads(threads):
    """Run every gate on so many threads from now on; 0: as each was made."""
    fastgate_override_threads(threads)
