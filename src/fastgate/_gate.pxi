# Gate, its bound calls, and gate(); included by _core.pyx.

@cython.final
@cython.no_gc  # no cycle can go through it; and so nobody finds one that is not made yet
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
        are CPUs that the process may use, by its affinity and the quota of its container. See also set_threads.

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
            raise ValueError(_parameters.refusal(weight, storage))
        if code != FASTGATE_OK:
            raise MemoryError(f"no memory to pack a weight of shape {weight.shape}")
        self.own(gate)

    cdef int read(self, _Saved saved) except -1:
        """Load instead of pack."""
        cdef const void *source = saved.data
        cdef size_t size = saved.size
        cdef fastgate_gate *gate = NULL
        cdef int code
        with nogil:
            code = fastgate_gate_load(&gate, source, size)
        saved.check(code, "gate")
        if fastgate_gate_input_size(gate) > MOST_INPUTS:  # which can be if there are no outputs
            fastgate_gate_free(gate)
            raise _files.too_large()
        self.saved = saved
        self.own(gate)
        return 0

    cdef void own(self, fastgate_gate *gate) noexcept:
        """Set the attributes and the gate."""
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
        """A gate from the textbook form W [1; x]: column 0 of weight is the bias.

        Parameters and exceptions are otherwise those of the class.
        """
        weight, bias = _parameters.augmented(weight, storage)
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
        buffer = np.empty(fastgate_gate_saved_size(self.gate), np.uint8)
        cdef void *to = data(<PyObject *>buffer)
        with nogil:
            fastgate_gate_save(self.gate, to)
        _files.write(file, buffer)

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
        """sigmoid(weight @ x + bias): (n,) -> (m,), (..., n) -> (..., m).

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
        runs, out may hold partial results: one thread at a time.

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
    """Whether the parts of x, and target if it is not None, lie as C takes them and are of the right shapes."""
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
    cdef tuple converted  # immutable: code of the user may find it, but not change it
    cdef Py_ssize_t i
    if count > MAX_PARTS or not fits(self, arrays, count, target, parts):
        dtype, weight_shape = _arrays.dtype_of(self.storage), (self.output_size, self.input_size)
        converted, held = _arrays.gate_arguments([<object>arrays[i] for i in range(count)], <object>out, dtype)
        if count > MAX_PARTS:
            converted = (_arrays.joined(converted, weight_shape),)

        # From here on, no code of the user runs.
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
    # While the GIL is released, a caller's reference alone does not keep NumPy from resizing.
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
    """A gate with its inputs and its output: call it without arguments. Made by Gate.bind."""

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
        # No array can be resized from here on.  A view alone does not hold its array: NumPy takes two references for
        # those of the caller, and resizes.
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
                raise ValueError("out overlaps an input: bind calls the gate in place, again and again")
        self.owner, self.out, self.y = gate, out, data(<PyObject *>target)
        self.vectorcall = bound_vectorcall  # last: until then, __call__ refuses

    def __dealloc__(self):
        PyMem_Free(self.parts)

    def __call__(self):
        """Read the inputs, write the output and return it."""
        if self.y == NULL:
            raise TypeError("this needs a BoundGate that is made")
        return bound_call(self)

    def __repr__(self):
        return f"<bound {self.owner!r}>"


cdef list views_of(arrays, int type, dtype):
    """Typed memoryviews of arrays of this dtype, which keep them from being resized or freed."""
    cdef const float[::1] floats
    cdef const double[::1] doubles
    views = []
    for array in arrays:
        if array.dtype != dtype or not array.flags.c_contiguous or not array.flags.aligned:
            continue  # it is refused
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
    cdef fastgate_part part, bias_part = [NULL, 0, 0]
    cdef int type = array_type(weight)
    target = out
    if not once_fits(x, weight, bias, target, type, &part, &bias_part):
        x, weight, bias, target = _parameters.once_arguments(x, weight, bias, out)

        # From here on, no code of the user runs.
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
    """That which gate() computes in."""
    return NPY_FLOAT64 if is_plain(<PyObject *>weight, NPY_FLOAT64) else NPY_FLOAT32


cdef inline bint once_fits(object x, object weight, object bias, object target, int type, fastgate_part *part,
                           fastgate_part *bias_part) noexcept:
    """Whether the arguments of gate() lie as C takes them and are of the right shapes."""
    cdef PyArrayObject *w = <PyArrayObject *>weight
    if not is_plain(<PyObject *>weight, type) or PyArray_NDIM(w) != 2:
        return False
    cdef size_t m = PyArray_DIMS(w)[0]
    return (as_part(<PyObject *>x, type, part) and part.size == <size_t>PyArray_DIMS(w)[1]
            and (bias is None or as_part(<PyObject *>bias, type, bias_part) and bias_part.size == m
                 and PyArray_NDIM(<PyArrayObject *>bias) == 1)
            and (target is None or is_output(<PyObject *>target, type, <PyObject *>x, m)))
