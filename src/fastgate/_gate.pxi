# Gate, BoundGate and gate(); included by _core.pyx.

@cython.final
@cython.no_gc  # it cannot be part of a cycle, and untracked objects cannot be found before they are complete
cdef class Gate:
    """Gate(weight, bias=None, *, storage='float32', threads=1)\n--\n
    A gate, sigmoid(weight @ x + bias), whose weights are packed once, for many calls.

    A gate cannot be changed, so threads may share it. It can be pickled and copied.

    Parameters
    ----------
    weight : (output_size, input_size)
        An array of float32 in any layout, or a plain sequence of numbers. The gate keeps a packed copy.
    bias : (output_size,), optional
        The same as for weight; None means zeros.
    storage : str
        How the gate holds the weights:

        - 'float32': unchanged
        - 'float16', 'bfloat16': rounded to nearest; weight and bias may also be arrays of that type
          (for bfloat16, the type of ml_dtypes)
        - 'int8': each row as integers from -127 to 127 and a scale
        - 'float64': unchanged; weight, bias, x and out are then float64
    threads : int or 'auto'
        The number of threads that share a large call, including the calling one. 'auto' is the number of
        CPUs that the affinity of the process and the quota of its container allow. See also set_threads.

    Attributes
    ----------
    input_size : int
        The number of elements of x.
    output_size : int
        The number of elements of y.
    storage : str
        The storage, as given.
    nbytes : int
        The size of the packed weights and biases in bytes.

    Raises
    ------
    ValueError
        If weight is not 2-D, bias has another length, there is no such storage or number of threads, or the
        storage cannot hold a weight: a finite one beyond the range of 16 bits, or for 'int8' an infinity or NaN.
    TypeError
        If an array has another dtype.
    MemoryError
        If there is no memory for the packed weights.
    """

    def __cinit__(self, weight, bias=None, *, storage="float32", threads=1):
        self.vectorcall = gate_vectorcall
        if type(weight) is _Saved:
            self.read(weight)
            return
        storage, threads = _parameters.storage_of(storage), _parameters.thread_count(threads)
        weight, bias = _parameters.gate_parameters(weight, bias, storage)
        cdef PyArrayObject *w = <PyArrayObject *>weight
        cdef fastgate_part b = [NULL, 0, 0]
        cdef int kind = NPY_FLOAT64 if storage == "float64" else NPY_FLOAT32
        if not is_plain(<PyObject *>weight, kind) or PyArray_NDIM(w) != 2 or bias is not None and (
                not as_part(<PyObject *>bias, kind, &b) or PyArray_NDIM(<PyArrayObject *>bias) != 1
                or b.size != <size_t>PyArray_DIMS(w)[0]):
            _parameters.check_gate(weight, bias)
            raise changed()
        cdef fastgate_gate *gate = NULL
        cdef int code = fastgate_gate_create(
            &gate, STORAGES[storage], PyArray_DIMS(w)[0], PyArray_DIMS(w)[1], PyArray_DATA(w),
            elements(PyArray_STRIDES(w)[0], kind), elements(PyArray_STRIDES(w)[1], kind), b.data, threads)
        if code == FASTGATE_ERROR_VALUE:
            raise ValueError(_parameters.storage_problem(weight, storage))
        if code != FASTGATE_OK:
            raise MemoryError(f"no memory to pack a weight of shape {weight.shape}")
        self.own(gate)

    cdef int read(self, _Saved saved) except -1:
        """Load a saved gate instead of packing weights."""
        cdef const void *source = saved.data
        cdef size_t size = saved.size
        cdef fastgate_gate *gate = NULL
        cdef int code
        with nogil:
            code = fastgate_gate_load(&gate, source, size)
        saved.check(code, "gate")
        if fastgate_gate_input_size(gate) > MOST_INPUTS:  # possible without outputs: then there are no weights
            fastgate_gate_free(gate)
            raise _files.too_large()
        self.saved = saved
        self.own(gate)
        return 0

    cdef void own(self, fastgate_gate *gate) noexcept:
        """Take over a C gate, and set the attributes."""
        self.storage = _arrays.STORAGES[fastgate_gate_storage(gate)]
        self.type_number = NPY_FLOAT64 if fastgate_gate_storage(gate) == FASTGATE_FLOAT64 else NPY_FLOAT32
        self.output_size = fastgate_gate_output_size(gate)
        self.input_size = fastgate_gate_input_size(gate)
        self.nbytes = fastgate_gate_nbytes(gate)
        self.gate = gate

    def __dealloc__(self):
        fastgate_gate_free(self.gate)

    @classmethod
    def from_augmented(cls, weight, *, storage="float32", threads=1):
        """Make a gate from the textbook form W [1; x]: column 0 of weight (output_size, 1 + input_size) is the bias.

        The other parameters, and the exceptions, are those of Gate.
        """
        weight, bias = _parameters.augmented(weight, storage)
        return cls(weight, bias, storage=storage, threads=threads)

    def save(self, file):
        """Write the packed gate to a file, which load reads, and in C fastgate_gate_load_file.

        Parameters
        ----------
        file : path or binary file object
            At a path, a new file, with the mode of new files, replaces an old one in a single step. A
            symbolic link is itself replaced, not the file that it points to.

        Raises
        ------
        OSError
            If the file cannot be written, or something other than a file, such as a device, is at the path.
        TypeError
            If file is neither a path nor a file object.
        """
        buffer = np.empty(fastgate_gate_saved_size(self.gate), np.uint8)
        cdef void *to = data(<PyObject *>buffer)
        with nogil:
            fastgate_gate_save(self.gate, to)
        _files.write(file, buffer)

    @classmethod
    def load(cls, source):
        """Load a gate that save or C wrote, with the same bits, storage and number of threads.

        The file is checked and mapped, not copied, so all processes that load it share its memory. To change
        it, replace it, as save does: truncating a mapped file kills the processes that read it.

        Parameters
        ----------
        source : path or bytes-like
            Bytes are copied.

        Raises
        ------
        ValueError
            If source is not a saved gate of this format and byte order, or is truncated or damaged. It is
            safe to load content from anyone.
        OSError
            If the file cannot be read.
        TypeError
            If source is neither a path nor bytes-like.
        """
        return cls(_Saved(source))

    def __call__(self, *parts, out=None):
        """Compute y = sigmoid(weight @ x + bias): (n,) -> (m,), or (..., n) -> (..., m).

        Parameters
        ----------
        *parts : (..., n_i)
            x, as one array of float32 or as several, which are read as if concatenated along the last axis,
            so that the n_i add up to n; float64 if the storage is. Plain sequences are converted.
        out : (..., m), optional
            A C-contiguous array, buffer or tensor of the same dtype, to which y is written. It may overlap x.

        Returns
        -------
        (..., m)
            out if it is given, otherwise a new array.

        Raises
        ------
        ValueError
            If shapes do not fit, or out is read-only or not C-contiguous. out is then unchanged.
        TypeError
            If an array has another dtype. out is then unchanged.
        """
        return gate_call(self, PySequence_Fast_ITEMS(parts), len(parts), <PyObject *>out)

    def bind(self, *parts, out):
        """Return a function without arguments that calls the gate with these arrays or buffers, at the least cost.

        Every call reads the parts and writes out where they are, and returns out. Only one thread at a time
        may call it, because out may hold partial results during a call.

        Raises
        ------
        ValueError
            If shapes do not fit, an array is not C-contiguous, or out is read-only or overlaps a part.
        TypeError
            If a part is neither an array nor a buffer, or has another dtype than a call takes.
        """
        return BoundGate(self, parts, out)

    @property
    def threads(self):
        """The number of threads of a large call now: that of set_threads, or the one that the gate was made with."""
        return _parameters.threads_now(fastgate_gate_threads(self.gate))

    def __repr__(self):
        return (f"Gate(input_size={self.input_size}, output_size={self.output_size}, "
                f"storage={self.storage!r}, threads={self.threads})")

    def __reduce__(self):
        dtype = _arrays.dtype_of(self.storage)
        weight = np.empty((self.output_size, self.input_size), dtype)
        bias = np.empty(self.output_size, dtype)
        fastgate_gate_unpack(self.gate, data(<PyObject *>weight), data(<PyObject *>bias))
        options = {"storage": self.storage, "threads": fastgate_gate_threads(self.gate) or 1}
        return _parameters.make, ("Gate", (weight, bias), options)

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self


cdef object gate_vectorcall(object self, PyObject **args, size_t nargsf, PyObject *names):
    cdef Py_ssize_t count = PyVectorcall_NARGS(nargsf)
    cdef Py_ssize_t i
    for i in range(PyTuple_GET_SIZE(names) if names != NULL else 0):
        name = <object>PyTuple_GET_ITEM(names, i)
        if name != "out":
            raise TypeError(f"Gate.__call__() got an unexpected keyword argument {name!r}")
    cdef bint given = names != NULL and PyTuple_GET_SIZE(names)
    return gate_call(<Gate>self, args, count, args[count] if given else <PyObject *>None)


cdef inline bint fits(Gate self, PyObject **arrays, size_t count, PyObject *target, fastgate_part *parts) noexcept:
    """Whether the parts of x, and target unless it is None, have layouts that C takes, and shapes that fit."""
    cdef size_t i, size = 0
    for i in range(count):
        if not as_part(arrays[i], self.type_number, &parts[i]) or not same_rows(arrays[0], arrays[i]):
            return False
        size += parts[i].size
    return count and size == self.input_size and (
        target == <PyObject *>None or is_output(target, self.type_number, arrays[0], self.output_size))


cdef object gate_call(Gate self, PyObject **arrays, Py_ssize_t count, PyObject *out):
    cdef fastgate_part parts[MAX_PARTS]
    cdef PyObject *target = out
    cdef object held = None, apart = None
    cdef tuple converted  # the user's code may find it through the garbage collector, but cannot change a tuple
    cdef Py_ssize_t i
    if count > MAX_PARTS or not fits(self, arrays, count, target, parts):
        dtype, weight_shape = _arrays.dtype_of(self.storage), (self.output_size, self.input_size)
        converted, held = _arrays.gate_arguments([<object>arrays[i] for i in range(count)], <object>out, dtype)
        if count > MAX_PARTS:
            converted = (_arrays.joined(converted, weight_shape),)

        # From here on, only code of fastgate and NumPy runs.
        arrays, count, target = PySequence_Fast_ITEMS(converted), len(converted), <PyObject *>held
        if not fits(self, arrays, count, target, parts):
            _arrays.check_gate_call(converted, held, weight_shape, dtype)
            raise changed()
    cdef size_t batch = rows_of(arrays[0])
    cdef void *y
    if out == <PyObject *>None:
        held = new_output(self.type_number, arrays[0], self.output_size)
        out = target = <PyObject *>held
        y = data(target)
    else:
        y = data(target)
        for i in range(count):
            if overlap(arrays[i], self.type_number, y, batch * self.output_size):
                apart = new_output(self.type_number, arrays[0], self.output_size)
        if apart is not None:
            y = data(<PyObject *>apart)
    # More references keep NumPy from resizing an array while the GIL is released.  The caller's alone does not.
    cdef Py_ssize_t shared = count if batch * self.nbytes >= NOGIL_BYTES else 0
    Py_INCREF(target)
    for i in range(shared):
        Py_INCREF(arrays[i])
    cdef int code = run(self, batch, parts, count, y)
    for i in range(shared):
        Py_DECREF(arrays[i])
    Py_DECREF(target)
    finish(code)
    if apart is not None:
        memcpy(data(target), y, batch * self.output_size * item_size(self.type_number))
    return <object>out


cdef inline int run(Gate self, size_t batch, const fastgate_part *parts, size_t count, void *y) noexcept:
    cdef int code
    if batch * self.nbytes < NOGIL_BYTES:
        return fastgate_gate_run(self.gate, batch, parts, count, y, self.output_size)
    with nogil:
        code = fastgate_gate_run(self.gate, batch, parts, count, y, self.output_size)
    return code


@cython.final
cdef class BoundGate:
    """A gate with its inputs and its output, which is called without arguments. Gate.bind makes it."""

    def __cinit__(self, Gate gate not None, tuple parts not None, out):
        dtype, weight_shape = _arrays.dtype_of(gate.storage), (gate.output_size, gate.input_size)
        cdef tuple arrays
        arrays, target = _arrays.gate_arguments(parts, out, dtype, bound=True)
        cdef PyObject **items = PySequence_Fast_ITEMS(arrays)
        cdef size_t i
        self.part_count = len(arrays)
        self.parts = <fastgate_part *>PyMem_Malloc(self.part_count * sizeof(fastgate_part))
        if self.parts == NULL:
            PyErr_NoMemory()
        # From here on, NumPy refuses to resize the arrays.  A view alone would not keep it from that: NumPy resizes an
        # array that has two references, as it supposes that both are the caller's.
        self.views = [parts, arrays, *views_of([*arrays, target], gate.type_number, dtype)]
        cdef bint in_place = fits(gate, items, self.part_count, <PyObject *>target, self.parts)
        for i in range(self.part_count):
            in_place = in_place and PyArray_IS_C_CONTIGUOUS(<PyArrayObject *>items[i])
        if not in_place:
            for array in arrays:
                _arrays.check_layout(array, "an input, which bind reads in place,")
            _arrays.check_gate_call(arrays, target, weight_shape, dtype)
            raise changed()
        self.batch = rows_of(<PyObject *>target)
        for i in range(self.part_count):
            if overlap(items[i], gate.type_number, data(<PyObject *>target), self.batch * gate.output_size):
                raise ValueError("out overlaps an input, which a bound call would overwrite")
        self.owner, self.out, self.y = gate, out, data(<PyObject *>target)
        self.vectorcall = bound_vectorcall  # last: until it is set, calls get to __call__, which refuses them

    def __dealloc__(self):
        PyMem_Free(self.parts)

    def __call__(self):
        """Read the inputs, write the output and return it."""
        if self.y == NULL:
            raise TypeError("a BoundGate must be made by Gate.bind")
        return bound_call(self)

    def __repr__(self):
        return f"<bound {self.owner!r}>"


cdef list views_of(arrays, int type, dtype):
    """Typed memoryviews of arrays, which keep these from being resized or freed."""
    cdef const float[::1] floats
    cdef const double[::1] doubles
    views = []
    for array in arrays:
        if array.dtype != dtype or not array.flags.c_contiguous or not array.flags.aligned:
            continue  # the checks will refuse it
        if type == NPY_FLOAT64:
            doubles = array.reshape(-1)
            views.append(doubles)
        else:
            floats = array.reshape(-1)
            views.append(floats)
    return views


cdef object bound_vectorcall(object self, PyObject **args, size_t nargsf, PyObject *names):
    if PyVectorcall_NARGS(nargsf) or names != NULL and PyTuple_GET_SIZE(names):
        raise TypeError("BoundGate.__call__() takes no arguments")
    return bound_call(<BoundGate>self)


cdef inline object bound_call(BoundGate self):
    finish(run(self.owner, self.batch, self.parts, self.part_count, self.y))
    return self.out


# ---- gate() -----------------------------------------------------------------------------------

def gate(x, weight, bias=None, *, out=None):
    """Compute sigmoid(weight @ x + bias) once, without packing the weights.

    The result has the bits of Gate(weight, bias, storage=...)(x) with the storage 'float32' or 'float64'.
    For many calls, a Gate is faster.

    Parameters
    ----------
    x : (..., n)
        An array of the dtype of weight, or a plain sequence, which is converted.
    weight : (m, n)
        An array of float32 or float64 in any layout, or a plain sequence, which becomes float32.
    bias : (m,), optional
        The same as for x; None means zeros.
    out : (..., m), optional
        A C-contiguous array, buffer or tensor of the dtype of weight, to which the result is written. It may
        overlap the other arrays.

    Returns
    -------
    (..., m)
        out if it is given, otherwise a new array.

    Raises
    ------
    ValueError
        If shapes do not fit, or out is read-only or not C-contiguous. out is then unchanged.
    TypeError
        If an array has another dtype. out is then unchanged.
    MemoryError
        If there is no memory for the result.
    """
    cdef fastgate_part part, bias_part = [NULL, 0, 0]
    cdef int type = array_type(weight)
    target = out
    if not once_fits(x, weight, bias, target, type, &part, &bias_part):
        x, weight, bias, target = _parameters.once_arguments(x, weight, bias, out)

        # From here on, only code of fastgate and NumPy runs.
        type = array_type(weight)
        if not once_fits(x, weight, bias, target, type, &part, &bias_part):
            _parameters.check_gate(weight, bias)
            _arrays.check_gate_call([x], target, weight.shape, weight.dtype)
            raise changed()
    cdef PyArrayObject *w = <PyArrayObject *>weight
    cdef size_t m = PyArray_DIMS(w)[0]
    cdef size_t n = PyArray_DIMS(w)[1]
    cdef size_t batch = rows_of(<PyObject *>x)
    cdef void *y
    cdef object written = target
    if target is None:
        out = target = written = new_output(type, <PyObject *>x, m)
    else:
        y = data(<PyObject *>target)
        if (overlap(<PyObject *>x, type, y, batch * m) or overlap(<PyObject *>weight, type, y, batch * m)
                or bias is not None and overlap(<PyObject *>bias, type, y, batch * m)):
            written = new_output(type, <PyObject *>x, m)
    y = data(<PyObject *>written)
    cdef fastgate_storage storage = FASTGATE_FLOAT64 if type == NPY_FLOAT64 else FASTGATE_FLOAT32
    cdef const void *weights = PyArray_DATA(w)
    cdef ptrdiff_t row_stride = elements(PyArray_STRIDES(w)[0], type)
    cdef ptrdiff_t column_stride = elements(PyArray_STRIDES(w)[1], type)
    cdef int code
    if batch * m * n * item_size(type) < NOGIL_BYTES:
        code = fastgate_gate_once(storage, m, n, weights, row_stride, column_stride, bias_part.data,
                                  batch, part.data, part.stride, y, m)
    else:
        with nogil:
            code = fastgate_gate_once(storage, m, n, weights, row_stride, column_stride, bias_part.data,
                                      batch, part.data, part.stride, y, m)
    finish(code)
    copy_to(target, written)
    return out


cdef inline int array_type(object weight) noexcept:
    """NumPy's number of the dtype in which gate() computes."""
    return NPY_FLOAT64 if is_plain(<PyObject *>weight, NPY_FLOAT64) else NPY_FLOAT32


cdef inline bint once_fits(object x, object weight, object bias, object target, int type, fastgate_part *part,
                           fastgate_part *bias_part) noexcept:
    """Whether the arguments of gate() have layouts that C takes, and shapes that fit."""
    cdef PyArrayObject *w = <PyArrayObject *>weight
    if not is_plain(<PyObject *>weight, type) or PyArray_NDIM(w) != 2:
        return False
    cdef size_t m = PyArray_DIMS(w)[0]
    return (as_part(<PyObject *>x, type, part) and part.size == <size_t>PyArray_DIMS(w)[1]
            and (bias is None or as_part(<PyObject *>bias, type, bias_part) and bias_part.size == m
                 and PyArray_NDIM(<PyArrayObject *>bias) == 1)
            and (target is None or is_output(<PyObject *>target, type, <PyObject *>x, m)))
