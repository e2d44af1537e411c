# Stream; included by _core.pyx.

cdef object distinct_rows(object rows, size_t batch):
    """A copy of rows if it is int64 (count,) with different indices of a batch, else None; faster than stream_rows."""
    cdef PyArrayObject *a = <PyArrayObject *>rows
    if not is_plain(<PyObject *>rows, NPY_INT64) or PyArray_NDIM(a) != 1 or not PyArray_IS_C_CONTIGUOUS(a):
        return None
    cdef npy_intp i, count = PyArray_DIMS(a)[0]
    cdef object chosen = PyArray_EMPTY(1, &count, NPY_INT64, 0)
    cdef const long long *given = <const long long *>PyArray_DATA(a)
    cdef long long *indices = <long long *>data(<PyObject *>chosen)
    cdef char *seen = <char *>PyMem_Calloc(batch + 1, 1)
    cdef bint fit = seen != NULL and sizeof(size_t) == sizeof(long long)
    for i in range(count if fit else 0):
        indices[i] = given[i]
        if indices[i] < 0 or <size_t>indices[i] >= batch or seen[indices[i]]:
            fit = False
            break
        seen[indices[i]] = True
    PyMem_Free(seen)
    return chosen if fit else None


@cython.final
@cython.no_gc  # see Gate
cdef class Stream:
    """A sequence, or a batch of them, that arrives step by step. LSTM.stream and LSTMCell.stream make it.

    It keeps the state in buffers of its own, so that a step of all rows allocates only an output, if none is
    given. Only one thread at a time may use a stream, but threads may use different streams of one LSTM. A copy
    or pickle continues independently.

    Attributes
    ----------
    batch : int or None
        The number of sequences; None means one, without an axis for the batch.
    source : LSTM or LSTMCell
        The object that made the stream.
    """

    def __cinit__(self, _Recurrent source not None, batch=None):
        batch = _parameters.stream_batch(batch)
        self.source = source
        self.batch = batch
        self.rows = 1 if batch is None else batch
        lead = () if batch is None else (batch,)
        if isinstance(source, LSTM):
            lead = (source.layers, *lead)
        self.h_shape, self.c_shape = (*lead, source.direction_size), (*lead, source.hidden_size)
        cdef int code = fastgate_stream_create(&self.stream, source.lstm, self.rows)
        if code == FASTGATE_ERROR_SHAPE:
            raise ValueError("this LSTM has no stream")
        if code != FASTGATE_OK:
            raise MemoryError(f"no memory for {self.rows} streams")

    def __dealloc__(self):
        fastgate_stream_free(self.stream)

    def step(self, x, out=None, *, rows=None):
        """Advance by one step, and return the output y.

        Parameters
        ----------
        x : (input_size,), or with a batch (B, input_size)
            An array of float32, or of float64 if the storage is. Plain sequences are converted.
        out : (output_size,) or (B, output_size), optional
            A C-contiguous array, buffer or tensor, to which y is written. It may overlap x.
        rows : int, integers, slice or bool mask, optional
            The rows of the batch that advance, without repetition; the others stay unchanged. The first axis of x
            and out then has one element for each of these rows, or is left out if rows is an integer.

        Returns
        -------
        (output_size,) or (B, output_size)
            out if it is given, otherwise a new array.

        Raises
        ------
        ValueError
            If shapes do not fit, out is read-only or not C-contiguous, or a row is repeated. The stream and out
            are then unchanged.
        TypeError
            If an array has another dtype, rows has another type, or rows is given without a batch. The stream and
            out are then unchanged.
        IndexError
            If there is no such row, or a mask has another length. The stream and out are then unchanged.
        """
        cdef int type = self.source.type_number
        cdef size_t size = self.source.direction_size, batch = self.rows, count = batch
        cdef fastgate_part part
        chosen = None
        if rows is not None:
            chosen = distinct_rows(np.asarray(rows) if isinstance(rows, list) else rows, batch)
            if chosen is None or self.batch is None:
                chosen = _parameters.stream_rows(rows, self.batch, distinct=True)
            count = chosen.size
        if not as_part(<PyObject *>x, type, &part):
            x = _arrays.as_input(x, "x", self.source.dtype(), "LSTM")
        target = out
        if out is not None and not is_plain(<PyObject *>out, type):
            target = _arrays.as_output(out)

        # From here on, only code of fastgate and NumPy runs.
        self.check_same(batch)
        if not as_part(<PyObject *>x, type, &part) or part.size != self.source.input_size or not self.fits(x, chosen):
            lead = chosen.shape if chosen is not None else () if self.batch is None else (self.batch,)
            _arrays.check_shape(x, "x", (*lead, self.source.input_size))
            raise changed()
        if target is None:
            out = target = new_output(type, <PyObject *>x, size)
        elif not is_output(<PyObject *>target, type, <PyObject *>x, size):
            _arrays.check_output(target, shape_of(<PyObject *>x, size), self.source.dtype())
            raise changed()
        cdef void *y = data(<PyObject *>target)
        cdef const size_t *indices = <const size_t *>data_or_null(chosen)
        if count * self.source.nbytes < NOGIL_BYTES:
            self.advance(indices, count, &part, y)
        else:
            self.running += 1
            with nogil:
                self.advance(indices, count, &part, y)
            self.running -= 1
        return out

    cdef inline void advance(self, const size_t *indices, size_t count, const fastgate_part *x, void *y) noexcept nogil:
        """Run a step of the rows at indices, or of all rows if indices is NULL."""
        cdef size_t size = self.source.direction_size
        if indices == NULL:
            fastgate_stream_step(self.stream, x.data, x.stride, y, size)
        else:
            fastgate_stream_step_rows(self.stream, indices, count, x.data, x.stride, y, size)

    cdef inline int check_same(self, size_t batch) except -1:
        """Check that the stream still has `batch` rows, after conversions that may have run the user's code."""
        if self.rows != batch:
            raise RuntimeError("the stream was resized during a call")
        return 0

    cdef inline bint fits(self, object x, object chosen) noexcept:
        """Whether x has the leading axes of an input for the chosen rows, or for all."""
        cdef PyArrayObject *a = <PyArrayObject *>x
        if chosen is not None:
            return PyArray_NDIM(a) == 1 + chosen.ndim and (PyArray_NDIM(a) == 1 or PyArray_DIMS(a)[0] == chosen.size)
        if self.batch is None:
            return PyArray_NDIM(a) == 1
        return PyArray_NDIM(a) == 2 and <size_t>PyArray_DIMS(a)[0] == self.rows

    @property
    def state(self):
        """The state (h, c), each (num_layers, [B,] size), or for an LSTMCell ([B,] size). Reading it gives copies.

        It can be set to such a pair, which is copied. Without a batch, or for a batch of one, the axis of the batch
        may be there or not. Raises ValueError and TypeError for arrays of another shape and dtype.
        """
        cdef size_t batch = self.rows
        h, c = np.empty(self.h_shape, self.source.dtype()), np.empty(self.c_shape, self.source.dtype())
        self.check_same(batch)
        fastgate_stream_get_state(self.stream, data(<PyObject *>h), data(<PyObject *>c))
        return h, c

    @state.setter
    def state(self, state):
        cdef size_t batch = self.rows
        h, c = _arrays.as_state(state, (self.h_shape, self.c_shape), self.batch, self.source.dtype())
        self.check_same(batch)
        fastgate_stream_set_state(self.stream, data(<PyObject *>h), data(<PyObject *>c))

    def resize(self, batch):
        """Change the number of rows to batch: the first rows keep their states, and new rows begin with zeros.

        Raises
        ------
        TypeError
            If the stream has no batch, or batch is not an integer.
        ValueError
            If batch is negative.
        MemoryError
            If there is no memory. The stream is then unchanged.
        RuntimeError
            If another thread is in a step of this stream.
        """
        batch = _parameters.new_batch(batch, self.batch)
        cdef Stream made = Stream(self.source, batch)
        h, c = np.zeros(made.h_shape, self.source.dtype()), np.zeros(made.c_shape, self.source.dtype())
        for to, kept in zip((h, c), self.state):
            to[..., :kept.shape[-2], :] = kept[..., :batch, :]
        fastgate_stream_set_state(made.stream, data(<PyObject *>h), data(<PyObject *>c))
        if self.running:
            raise RuntimeError("a stream cannot be resized while another thread is in a step of it")
        self.stream, made.stream = made.stream, self.stream
        self.batch, self.rows = made.batch, made.rows
        self.h_shape, self.c_shape = made.h_shape, made.c_shape

    def reset(self, rows=None):
        """Set the state of all rows to zeros, or of these rows: an int, integers, a slice or a bool mask.

        Raises
        ------
        IndexError
            If there is no such row, or a mask has another length.
        TypeError
            If rows has another type, or the stream has no batch.
        """
        cdef size_t b, batch = self.rows
        chosen = None if rows is None else _parameters.stream_rows(rows, self.batch)
        self.check_same(batch)
        cdef size_t count = batch if chosen is None else chosen.size
        cdef const size_t *indices = <const size_t *>data_or_null(chosen)
        if self.source.direction_size == 0:
            return  # there is nothing to set, and the batch may be too large to loop over
        for b in range(count):
            fastgate_stream_reset(self.stream, b if indices == NULL else indices[b])

    def __repr__(self):
        return f"<stream of {self.source!r}, batch={self.batch}>"

    def __reduce__(self):
        return _parameters.make_stream, (self.source, self.batch, *self.state)
