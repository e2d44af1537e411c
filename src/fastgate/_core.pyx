# cython: language_level=3, embedsignature=True, embedsignature.format=clinic
# cython: boundscheck=False, cdivision=True, initializedcheck=False
# cython: auto_pickle=False, autotestdict=False, freethreading_compatible=True
"""Python objects over csrc/fastgate.h: checks and pointers, nothing numeric.

Every call has two roads. The fast one takes arrays that can be used as they lie, and answers
None to all others; the slow one then converts or refuses them (_check.py) and calls the fast one.
"""

cimport cython
from cpython.exc cimport PyErr_NoMemory
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject, PyTypeObject
from libc.string cimport memcmp, memcpy, memset

import numpy as np

from fastgate import _check, _saved

cdef extern from "Python.h":
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
    bint PyArray_Check(PyObject *)
    int PyArray_TYPE(PyArrayObject *)
    int PyArray_NDIM(PyArrayObject *)
    npy_intp *PyArray_DIMS(PyArrayObject *)
    npy_intp *PyArray_STRIDES(PyArrayObject *)
    void *PyArray_DATA(PyArrayObject *) nogil
    bint PyArray_ISBEHAVED_RO(PyArrayObject *)
    bint PyArray_IS_C_CONTIGUOUS(PyArrayObject *)
    bint PyArray_ISCARRAY(PyArrayObject *)
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

_import_array()

cdef dict STORAGES = {
    "float32": FASTGATE_FLOAT32,
    "float16": FASTGATE_FLOAT16,
    "bfloat16": FASTGATE_BFLOAT16,
    "int8": FASTGATE_INT8,
    "float64": FASTGATE_FLOAT64,
}


# ---- arrays -----------------------------------------------------------------------------------
# `type` is NumPy's number of what a gate takes and gives: NPY_FLOAT32 or NPY_FLOAT64.

cdef inline npy_intp item_size(int type) noexcept nogil:
    return sizeof(double) if type == NPY_FLOAT64 else sizeof(float)


cdef inline ptrdiff_t elements(npy_intp stride, int type) noexcept nogil:
    """A stride of so many bytes; each division is by a constant, for speed."""
    if type == NPY_FLOAT64:
        return stride // <npy_intp>sizeof(double)
    return stride // <npy_intp>sizeof(float)


cdef inline bint is_plain(PyObject *array, int type) noexcept:
    """An ndarray of this type, aligned and in native byte order."""
    return (PyArray_Check(array) and PyArray_TYPE(<PyArrayObject *>array) == type
            and PyArray_ISBEHAVED_RO(<PyArrayObject *>array))


cdef inline bint as_part(PyObject *array, int type, fastgate_part *part) noexcept:
    """array (..., n) as rows of n contiguous elements, one stride apart; False if it lies otherwise."""
    if not is_plain(array, type):
        return False
    cdef PyArrayObject *a = <PyArrayObject *>array
    cdef int last = PyArray_NDIM(a) - 1
    cdef npy_intp *dims = PyArray_DIMS(a)
    cdef npy_intp *strides = PyArray_STRIDES(a)
    if last < 0:
        return False
    part.data = PyArray_DATA(a)
    part.size = dims[last]
    part.stride = dims[last]
    if PyArray_IS_C_CONTIGUOUS(a):
        return True
    if dims[last] != 1 and strides[last] != item_size(type):
        return False
    cdef npy_intp rows = 1
    cdef int axis
    for axis in range(last - 1, -1, -1):
        if dims[axis] == 1:
            continue
        if rows == 1:
            part.stride = elements(strides[axis], type)
        elif elements(strides[axis], type) != part.stride * rows:
            return False
        rows *= dims[axis]
    return True


cdef inline size_t rows_of(PyObject *array) noexcept:
    """The product of the leading axes."""
    cdef npy_intp *dims = PyArray_DIMS(<PyArrayObject *>array)
    cdef size_t rows = 1
    cdef int axis
    for axis in range(PyArray_NDIM(<PyArrayObject *>array) - 1):
        rows *= dims[axis]
    return rows


cdef inline bint same_rows(PyObject *a, PyObject *b) noexcept:
    """The same leading axes."""
    cdef int ndim = PyArray_NDIM(<PyArrayObject *>a)
    return a == b or (
        ndim == PyArray_NDIM(<PyArrayObject *>b)
        and not memcmp(PyArray_DIMS(<PyArrayObject *>a), PyArray_DIMS(<PyArrayObject *>b),
                       (ndim - 1) * sizeof(npy_intp)))


cdef inline bint is_contiguous(PyObject *array, int type, PyObject *x, size_t size) noexcept:
    """A C-contiguous array of the leading axes of x and then `size`."""
    if not is_plain(array, type) or not same_rows(x, array):
        return False
    cdef PyArrayObject *a = <PyArrayObject *>array
    return PyArray_IS_C_CONTIGUOUS(a) and <size_t>PyArray_DIMS(a)[PyArray_NDIM(a) - 1] == size


cdef inline bint is_output(PyObject *out, int type, PyObject *x, size_t size) noexcept:
    """The same, writable."""
    return is_contiguous(out, type, x, size) and PyArray_ISCARRAY(<PyArrayObject *>out)


cdef inline object new_output(int type, PyObject *x, size_t size):
    cdef npy_intp dims[MAX_AXES]
    cdef int last = PyArray_NDIM(<PyArrayObject *>x) - 1
    cdef int axis
    for axis in range(last):
        dims[axis] = PyArray_DIMS(<PyArrayObject *>x)[axis]
    dims[last] = size
    return PyArray_EMPTY(last + 1, dims, type, 0)


cdef inline bint overlap(PyObject *array, int type, const void *y, size_t size) noexcept:
    """Whether the bounds of an array cross those of `size` elements from y on."""
    cdef PyArrayObject *a = <PyArrayObject *>array
    cdef const char *low = <const char *>PyArray_DATA(a)
    cdef const char *high = low + item_size(type)
    cdef ptrdiff_t span
    cdef int axis
    for axis in range(PyArray_NDIM(a)):
        span = (PyArray_DIMS(a)[axis] - 1) * PyArray_STRIDES(a)[axis]
        if span > 0:
            high += span
        else:
            low += span
    return low < <const char *>y + size * item_size(type) and <const char *>y < high


cdef inline void *data(PyObject *array) noexcept nogil:
    return PyArray_DATA(<PyArrayObject *>array)


cdef list views_of(arrays, int type):
    """Typed memoryviews, which keep arrays from being resized or freed."""
    cdef const float[::1] floats
    cdef const double[::1] doubles
    views = []
    for array in arrays:
        if type == NPY_FLOAT64:
            doubles = array.reshape(-1)
            views.append(doubles)
        else:
            floats = array.reshape(-1)
            views.append(floats)
    return views


cdef inline PyObject *keyword_out(PyObject **args, Py_ssize_t count,
                                  PyObject *names) except NULL:
    """The keyword argument `out` of a vectorcall, or None."""
    if names == NULL:
        return <PyObject *>None
    cdef Py_ssize_t i
    for i in range(PyTuple_GET_SIZE(names)):
        name = <object>PyTuple_GET_ITEM(names, i)
        if name != "out":
            raise TypeError(f"Gate.__call__() got an unexpected keyword argument {name!r}")
    return args[count] if PyTuple_GET_SIZE(names) else <PyObject *>None


# ---- saved ------------------------------------------------------------------------------------

@cython.final
cdef class _Saved:
    """What a path or bytes hold, kept for a gate or LSTM to compute with where it lies."""

    def __cinit__(self, source):
        self.source = source
        self.view = _saved.read(source)
        self.size = self.view.shape[0]
        self.data = &self.view[0] if self.size else NULL

    cdef int check(self, int code, str kind) except -1:
        if code == FASTGATE_ERROR_FORMAT or code == FASTGATE_ERROR_VERSION:
            raise _saved.refuse(kind, self.source, self.view)
        if code != FASTGATE_OK:
            raise MemoryError(f"no memory to load a {kind}")
        self.source = None  # bytes were copied
        return 0


# ---- Gate -------------------------------------------------------------------------------------

@cython.final
cdef class Gate:
    """Gate(weight, bias=None, *, storage='float32', threads=1)\n--\n
    sigmoid(weight @ x + bias), packed once and called often.

    A gate cannot be changed: threads may share it. It can be pickled and copied.

    Parameters
    ----------
    weight : (output_size, input_size)
        A float32 array of any layout, which is copied, or a plain sequence, which is converted.
    bias : (output_size,), optional
        The same; None for zeros.
    storage : str
        How the weights are held:

        - 'float32': as they are
        - 'float16', 'bfloat16': rounded to nearest; weight and bias may be arrays of that type (that of
          ml_dtypes for bfloat16)
        - 'int8': a row as integers of -127 to 127 times a scale of its own
        - 'float64': as they are; weight, bias, x and out are then float64
    threads : int or 'auto'
        A large call is shared among so many threads, the calling one included; 'auto' is as many as there
        are CPUs now. See also set_threads.

    Attributes
    ----------
    input_size : int
        Elements of x.
    output_size : int
        Elements of y.
    storage : str
        As given.
    nbytes : int
        Bytes of the packed weights and biases.

    Raises
    ------
    ValueError
        If weight is not 2-D, bias has another length, a finite weight is beyond the range of a 16-bit
        storage or one for 'int8' is not finite, or there is no such storage or number of threads.
    TypeError
        If an array is of another dtype.
    MemoryError
        If the packed weights find no room.
    """

    def __cinit__(self, weight, bias=None, *, storage="float32", threads=1):
        self.vectorcall = gate_vectorcall
        cdef const void *source
        cdef size_t size
        cdef int code
        if type(weight) is _Saved:
            self.saved = weight
            source, size = self.saved.data, self.saved.size
            with nogil:
                code = fastgate_gate_load(&self.gate, source, size)
            self.saved.check(code, "gate")
            self.storage = _check.STORAGES[fastgate_gate_storage(self.gate)]
            self.type_number = NPY_FLOAT64 if self.storage == "float64" else NPY_FLOAT32
            self.output_size = fastgate_gate_output_size(self.gate)
            self.input_size = fastgate_gate_input_size(self.gate)
            _saved.refuse_size(self.input_size)
            self.nbytes = fastgate_gate_nbytes(self.gate)
            return
        self.storage, threads = _check.options(storage, threads)
        weight, bias = _check.parameters(weight, bias, self.storage)
        cdef PyArrayObject *w = <PyArrayObject *>weight
        self.type_number = PyArray_TYPE(w)
        self.output_size = PyArray_DIMS(w)[0]
        self.input_size = PyArray_DIMS(w)[1]
        cdef fastgate_storage kind = STORAGES[self.storage]
        code = fastgate_gate_create(
            &self.gate, kind, self.output_size, self.input_size, data(<PyObject *>weight),
            elements(PyArray_STRIDES(w)[0], self.type_number),
            elements(PyArray_STRIDES(w)[1], self.type_number),
            NULL if bias is None else data(<PyObject *>bias), threads,
        )
        if code == FASTGATE_ERROR_VALUE:
            raise ValueError(_check.refusal(weight, self.storage))
        if code != FASTGATE_OK:
            raise MemoryError(f"no memory to pack a weight of shape {weight.shape}")
        self.nbytes = fastgate_gate_nbytes(self.gate)

    def __dealloc__(self):
        fastgate_gate_free(self.gate)

    @classmethod
    def from_augmented(cls, weight, *, storage="float32", threads=1):
        """A gate from the textbook form W [1; x]: column 0 of weight is the bias.

        Parameters and exceptions are otherwise those of the class.
        """
        weight, bias = _check.augmented(weight, storage)
        return cls(weight, bias, storage=storage, threads=threads)

    def save(self, file):
        """Write the packed gate, for load, and for fastgate_gate_load_file of C.

        Parameters
        ----------
        file : path or binary file object
            The file of a path is replaced at once, by a new one with the mode that new ones have; of a
            symbolic link, the link is. What is no file, as a device, is an OSError.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        if type(self) is not Gate:  # as in __reduce__
            raise TypeError(f"Gate.save() needs a Gate, not {type(self).__name__}")
        buffer = np.empty(fastgate_gate_saved_size(self.gate), np.uint8)
        cdef void *to = data(<PyObject *>buffer)
        with nogil:
            fastgate_gate_save(self.gate, to)
        _saved.write(file, buffer)

    @classmethod
    def load(cls, source):
        """The gate that save, or C, wrote: the same bits, storage and number of threads.

        Of a file nothing is read but to check it: it is mapped, and all processes that load it share
        its memory. To change it, replace it, as save does: one that is cut off while it is mapped kills
        its readers.

        Parameters
        ----------
        source : path or bytes-like
            Bytes are copied.

        Raises
        ------
        ValueError
            If it is not a saved gate of this version and byte order, whole and undamaged. Content from
            anywhere is safe to load.
        OSError
            If the file cannot be read.
        """
        return cls(_Saved(source))

    def __call__(self, *parts, out=None):
        """__call__(self, *parts, out=None)\n--\n
        sigmoid(weight @ x + bias): (n,) -> (m,), (..., n) -> (..., m).

        Parameters
        ----------
        *parts : (..., n)
            x, an array of float32, or several, which are read as if concatenated along the last axis;
            float64 if the storage is. Plain sequences are converted.
        out : (..., m), optional
            A C-contiguous array of the same dtype, which y is written to. It may overlap x.

        Returns
        -------
        (..., m)
            y: out, or a new array.

        Raises
        ------
        ValueError
            If shapes do not fit, or out is read-only or not C-contiguous. out is then as it was.
        TypeError
            If an array is of another dtype. out is then as it was.
        """
        return gate_call(self, PySequence_Fast_ITEMS(parts), len(parts), <PyObject *>out)

    def bind(self, *parts, out):
        """A function of no arguments that calls the gate with these, at the least cost.

        It reads and writes these very arrays or buffers in every call, and returns out. While a call
        runs, out holds what is not yet the result: one thread at a time.

        Raises
        ------
        ValueError
            If shapes do not fit, an array is not C-contiguous, or out overlaps a part.
        TypeError
            If one is no array or buffer, or not of the dtype of a call.
        """
        return BoundGate(self, parts, out)

    @property
    def threads(self):
        """Threads that a large call runs on now, by set_threads or as made."""
        return _check.threads_now(fastgate_gate_threads(self.gate))

    def __repr__(self):
        return (f"Gate(input_size={self.input_size}, output_size={self.output_size}, "
                f"storage={self.storage!r}, threads={self.threads})")

    def __reduce__(self):
        if type(self) is not Gate:  # Gate.__reduce__(anything), which Cython does not check
            raise TypeError(f"Gate.__reduce__() needs a Gate, not {type(self).__name__}")
        dtype = _check.dtype_of(self.storage)
        weight = np.empty((self.output_size, self.input_size), dtype)
        bias = np.empty(self.output_size, dtype)
        fastgate_gate_unpack(self.gate, data(<PyObject *>weight), data(<PyObject *>bias))
        return _check.unpickle, (weight, bias, self.storage, fastgate_gate_threads(self.gate))

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self


cdef object gate_vectorcall(object self, PyObject **args, size_t nargsf, PyObject *names):
    cdef Py_ssize_t count = PyVectorcall_NARGS(nargsf)
    return gate_call(<Gate>self, args, count, keyword_out(args, count, names))


cdef inline object gate_call(Gate self, PyObject **args, Py_ssize_t count, PyObject *out):
    y = gate_fast(self, args, count, NULL if out == <PyObject *>None else out)
    if y is None:
        return gate_slow(self, [<object>args[i] for i in range(count)], <object>out)
    return y


cdef object gate_slow(Gate self, list parts, object out):
    """Whatever gate_fast refused: converted and then run on the fast road, or an exception."""
    dtype = _check.dtype_of(self.storage)
    parts = _check.inputs(parts, (self.output_size, self.input_size), dtype)
    target = None
    if out is not None:
        target = _check.output(out, parts[0].shape[:-1] + (self.output_size,), dtype)
    if len(parts) > MAX_PARTS:
        parts = [np.ascontiguousarray(np.concatenate(parts, axis=-1))]
    y = gate_fast(self, PySequence_Fast_ITEMS(parts), len(parts), NULL)
    assert y is not None  # _check.inputs left nothing to refuse
    if target is None:
        return y
    target[...] = y  # computed apart: out may overlap an input
    return out


cdef object gate_fast(Gate self, PyObject **args, Py_ssize_t count, PyObject *out):
    """The gate's output from arrays that can be used as they lie; None for all others."""
    cdef fastgate_part parts[MAX_PARTS]
    cdef size_t size = 0
    cdef Py_ssize_t i
    if count < 1 or count > MAX_PARTS:
        return None
    for i in range(count):
        if not as_part(args[i], self.type_number, &parts[i]) or not same_rows(args[0], args[i]):
            return None
        size += parts[i].size
    if size != self.input_size:
        return None
    cdef size_t batch = rows_of(args[0])
    if out == NULL:
        result = new_output(self.type_number, args[0], self.output_size)
    elif is_output(out, self.type_number, args[0], self.output_size):
        result = <object>out
    else:
        return None
    cdef void *y = data(<PyObject *>result)
    if out != NULL:
        for i in range(count):
            if overlap(args[i], self.type_number, y, batch * self.output_size):
                return None
    run(self, batch, parts, count, y)
    return result


cdef inline void run(Gate self, size_t batch, const fastgate_part *parts, size_t count,
                     void *y) noexcept:
    if batch * self.nbytes < NOGIL_BYTES:
        fastgate_gate_run(self.gate, batch, parts, count, y, self.output_size)
    else:
        with nogil:
            fastgate_gate_run(self.gate, batch, parts, count, y, self.output_size)


@cython.final
cdef class BoundGate:
    """A gate with its inputs and its output: call it without arguments. Made by Gate.bind."""

    def __cinit__(self, Gate gate not None, tuple parts not None, out):
        arrays, target = _check.bindable(
            parts, out, (gate.output_size, gate.input_size), _check.dtype_of(gate.storage)
        )
        self.owner = gate
        self.out = out
        self.part_count = len(arrays)
        self.parts = <fastgate_part *>PyMem_Malloc(self.part_count * sizeof(fastgate_part))
        if self.parts == NULL:
            PyErr_NoMemory()
        cdef size_t i
        for i in range(self.part_count):
            as_part(<PyObject *>arrays[i], gate.type_number, &self.parts[i])
        self.y = data(<PyObject *>target)
        self.views = views_of([*arrays, target], gate.type_number)
        self.batch = rows_of(<PyObject *>target)
        self.vectorcall = bound_vectorcall  # last: until then, __call__ refuses

    def __dealloc__(self):
        PyMem_Free(self.parts)

    def __call__(self):
        """Read the inputs, write the output and return it."""
        if self.y == NULL:
            raise RuntimeError("not bound yet")
        return bound_call(self)

    def __repr__(self):
        return f"<bound {self.owner!r}>"


cdef object bound_vectorcall(object self, PyObject **args, size_t nargsf, PyObject *names):
    if PyVectorcall_NARGS(nargsf) or names != NULL and PyTuple_GET_SIZE(names):
        raise TypeError("BoundGate.__call__() takes no arguments")
    return bound_call(<BoundGate>self)


cdef inline object bound_call(BoundGate self):
    run(self.owner, self.batch, self.parts, self.part_count, self.y)
    return self.out


# ---- one shot ---------------------------------------------------------------------------------

def gate(x, weight, bias=None, *, out=None):
    """sigmoid(weight @ x + bias) once, from weights that are read where they lie.

    The bits are those of Gate(weight, bias, storage=...)(x) where that is float32 or float64; what is
    called often is faster as a Gate.

    Parameters
    ----------
    x : (..., n)
        Of the dtype of weight. Plain sequences are converted.
    weight : (m, n)
        An array of float32 or float64, in any layout, or a plain sequence, which becomes float32.
    bias : (m,), optional
        Of the dtype of weight; None for zeros.
    out : (..., m), optional
        A C-contiguous array of the dtype of weight, which the result is written to. It may overlap the
        others.

    Returns
    -------
    (..., m)
        out, or a new array.

    Raises
    ------
    ValueError
        If shapes do not fit, or out is read-only or not C-contiguous. out is then as it was.
    TypeError
        If an array is of another dtype. out is then as it was.
    """
    y = once_fast(x, weight, bias, out)
    if y is not None:
        return y
    storage = _check.one_shot_storage(weight)
    weight, bias = _check.parameters(weight, bias, storage)
    [x] = _check.inputs([x], weight.shape, weight.dtype)
    target = None
    if out is not None:
        target = _check.output(out, x.shape[:-1] + weight.shape[:1], weight.dtype)
    y = once_fast(x, weight, bias, None)
    assert y is not None  # _check left nothing to refuse
    if target is None:
        return y
    target[...] = y  # computed apart: out may overlap an input
    return out


cdef object once_fast(object x, object weight, object bias, object out):
    """gate() from arrays that can be used as they lie; None for all others."""
    cdef fastgate_part part, bias_part
    cdef PyArrayObject *w = <PyArrayObject *>weight
    cdef fastgate_storage storage = FASTGATE_FLOAT32
    cdef int type = NPY_FLOAT32
    if not is_plain(<PyObject *>weight, type):
        storage, type = FASTGATE_FLOAT64, NPY_FLOAT64
        if not is_plain(<PyObject *>weight, type):
            return None
    if PyArray_NDIM(w) != 2 or not as_part(<PyObject *>x, type, &part):
        return None
    cdef size_t m = PyArray_DIMS(w)[0]
    cdef size_t n = PyArray_DIMS(w)[1]
    cdef ptrdiff_t row_stride = elements(PyArray_STRIDES(w)[0], type)
    cdef ptrdiff_t column_stride = elements(PyArray_STRIDES(w)[1], type)
    bias_part.data = NULL
    bias_part.size = m
    if bias is not None and (
        not as_part(<PyObject *>bias, type, &bias_part)
        or PyArray_NDIM(<PyArrayObject *>bias) != 1
    ):
        return None
    if part.size != n or bias_part.size != m:
        return None
    cdef size_t batch = rows_of(<PyObject *>x)
    if out is None:
        out = new_output(type, <PyObject *>x, m)
    elif not is_output(<PyObject *>out, type, <PyObject *>x, m):
        return None
    elif overlap(<PyObject *>x, type, data(<PyObject *>out), batch * m) or overlap(
        <PyObject *>weight, type, data(<PyObject *>out), batch * m
    ) or bias is not None and overlap(<PyObject *>bias, type, data(<PyObject *>out), batch * m):
        return None
    cdef const void *weights = data(<PyObject *>weight)
    cdef void *y = data(<PyObject *>out)
    if batch * m * n * item_size(type) < NOGIL_BYTES:
        fastgate_gate_once(storage, m, n, weights, row_stride, column_stride, bias_part.data,
                           batch, part.data, part.stride, y, m)
    else:
        with nogil:
            fastgate_gate_once(storage, m, n, weights, row_stride, column_stride, bias_part.data,
                               batch, part.data, part.stride, y, m)
    return out


include "_lstm.pxi"


cdef enable_vectorcall():
    none = np.empty(0, np.float32)
    cdef Gate gate = Gate(np.empty((0, 0), np.float32))
    cdef BoundGate bound = gate.bind(none, out=none.copy())
    cdef LSTMCell cell = LSTMCell(np.empty((0, 0), np.float32), np.empty((0, 0), np.float32))
    cdef BoundCell bound_cell = cell.bind(none, none, none, out=(none.copy(), none.copy()))
    fastgate_use_vectorcall(<PyTypeObject *>Gate, <char *>&gate.vectorcall - <char *><PyObject *>gate)
    fastgate_use_vectorcall(<PyTypeObject *>BoundGate, <char *>&bound.vectorcall - <char *><PyObject *>bound)
    fastgate_use_vectorcall(<PyTypeObject *>LSTMCell, <char *>&cell.vectorcall - <char *><PyObject *>cell)
    fastgate_use_vectorcall(<PyTypeObject *>BoundCell,
                            <char *>&bound_cell.vectorcall - <char *><PyObject *>bound_cell)


enable_vectorcall()


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
