# The layout of arrays; included by _core.pyx.  These functions run no code of the user, so shapes that a call has
# read stay valid until it has used the arrays.  `type` is NumPy's number of the dtype of inputs and outputs,
# NPY_FLOAT32 or NPY_FLOAT64.

cdef inline npy_intp item_size(int type) noexcept nogil:
    return sizeof(double) if type == NPY_FLOAT64 else sizeof(float)


cdef inline ptrdiff_t elements(npy_intp stride, int type) noexcept nogil:
    """A stride in bytes as a number of elements.  The divisors are constants, which is fast."""
    if type == NPY_FLOAT64:
        return stride // <npy_intp>sizeof(double)
    return stride // <npy_intp>sizeof(float)


cdef inline void *data(PyObject *array) noexcept nogil:
    return PyArray_DATA(<PyArrayObject *>array)


cdef inline void *data_or_null(object array) noexcept:
    return NULL if array is None else data(<PyObject *>array)


cdef inline bint is_plain(PyObject *array, int type) noexcept:
    """Whether array is an ndarray, not of a subclass, of this type, aligned and in native byte order."""
    return (PyArray_CheckExact(array) and PyArray_TYPE(<PyArrayObject *>array) == type
            and PyArray_ISBEHAVED_RO(<PyArrayObject *>array))


cdef inline bint as_part(PyObject *array, int type, fastgate_part *part) noexcept:
    """Describe array (..., n) as rows of n contiguous elements, one stride apart; False if it has another layout."""
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
    """The number of rows: the product of the leading axes."""
    cdef npy_intp *dims = PyArray_DIMS(<PyArrayObject *>array)
    cdef size_t rows = 1
    cdef int axis
    for axis in range(PyArray_NDIM(<PyArrayObject *>array) - 1):
        rows *= dims[axis]
    return rows


cdef inline bint same_rows(PyObject *a, PyObject *b) noexcept:
    """Whether two arrays have the same leading axes."""
    cdef int axis, ndim = PyArray_NDIM(<PyArrayObject *>a)
    if ndim != PyArray_NDIM(<PyArrayObject *>b):
        return False
    for axis in range(ndim - 1):
        if PyArray_DIMS(<PyArrayObject *>a)[axis] != PyArray_DIMS(<PyArrayObject *>b)[axis]:
            return False
    return True


cdef inline bint is_contiguous(PyObject *array, int type, PyObject *x, size_t size) noexcept:
    """Whether array is C-contiguous and has the leading axes of x and then `size`."""
    if not is_plain(array, type) or not same_rows(x, array):
        return False
    cdef PyArrayObject *a = <PyArrayObject *>array
    return PyArray_IS_C_CONTIGUOUS(a) and <size_t>PyArray_DIMS(a)[PyArray_NDIM(a) - 1] == size


cdef inline bint is_output(PyObject *out, int type, PyObject *x, size_t size) noexcept:
    """Whether out is such an array, and writable."""
    return is_contiguous(out, type, x, size) and PyArray_ISWRITEABLE(<PyArrayObject *>out)


cdef inline object new_output(int type, PyObject *x, size_t size):
    """A new array with the leading axes of x, which has at least one axis, and then `size`."""
    cdef npy_intp dims[MAX_AXES]
    cdef int last = PyArray_NDIM(<PyArrayObject *>x) - 1
    cdef int axis
    for axis in range(last):
        dims[axis] = PyArray_DIMS(<PyArrayObject *>x)[axis]
    dims[last] = size
    return PyArray_EMPTY(last + 1, dims, type, 0)


cdef inline tuple shape_of(PyObject *x, size_t size):
    """The leading axes of x and then `size`."""
    return (<object>x).shape[:-1] + (size,)


cdef inline bint overlap(PyObject *array, int type, const void *y, size_t size) noexcept:
    """Whether the bounds of array and of `size` elements from y on overlap; those without elements never do."""
    cdef PyArrayObject *a = <PyArrayObject *>array
    cdef const char *low = <const char *>PyArray_DATA(a)
    cdef const char *high = low + item_size(type)
    cdef ptrdiff_t span
    cdef int axis
    for axis in range(PyArray_NDIM(a)):
        if PyArray_DIMS(a)[axis] == 0:
            return False
        span = (PyArray_DIMS(a)[axis] - 1) * PyArray_STRIDES(a)[axis]
        if span > 0:
            high += span
        else:
            low += span
    return size and low < <const char *>y + size * item_size(type) and <const char *>y < high


cdef inline object pair_item(PyObject *value, Py_ssize_t i):
    """Item i of value if it is a tuple of two; otherwise None."""
    if PyTuple_CheckExact(value) and PyTuple_GET_SIZE(value) == 2:
        return <object>PyTuple_GET_ITEM(value, i)
    return None


cdef object changed():
    """The error for arrays that another thread changes during a call, so that check_* finds no fault any more."""
    return RuntimeError("another thread changed the arrays of this call")


cdef inline void copy_to(object target, object source) noexcept:
    """Copy source to target, which has the same size, unless they are the same array."""
    if target is not source:
        memcpy(data(<PyObject *>target), data(<PyObject *>source), PyArray_NBYTES(<PyArrayObject *>target))


cdef inline int finish(int code) except -1:
    """Raise the exception of a call that returned this code, unless it succeeded."""
    if code == FASTGATE_ERROR_INTERRUPTED:
        return -1  # signal_raised() left the exception set
    if code != FASTGATE_OK:
        raise MemoryError("no memory for a call")
    return 0
