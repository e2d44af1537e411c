# Stream; included by _core.pyx.

@cython.final
@cython.no_gc  # as Gate
cdef class Stream:
    """A sequence that comes step by step, or a batch of them. Made by stream() of LSTM or LSTMCell.

    The state stays inside, in buffers that a step reads and writes: it allocates nothing but an
    output, where none is given. One thread at a time may use a stream; streams of one LSTM may run
    on as many threads as there are. A copy goes on independently; so does a pickle.

    Attributes
    ----------
    batch : int or None
        Sequences that run side by side; None: one, without an axis for them.
    source : LSTM or LSTMCell
        What it was made by.
    """

    def __cinit__(self, _Recurrent source not None, batch=None):
        batch = _parameters.stream_batch(batch)
        self.source = source
        self.batch = batch
        self.rows = 1 if batch is None else batch
        lead = () if batch is None else (batch,)
        self.out_shape = (*lead, source.side_size)
        if isinstance(source, LSTM):
            lead = (source.layers, *lead)
        self.h_shape, self.c_shape = (*lead, source.side_size), (*lead, source.hidden_size)
        cdef int code = fastgate_stream_create(&self.stream, source.lstm, self.rows)
        if code == FASTGATE_ERROR_SHAPE:
            raise ValueError("this LSTM has no stream")
        if code != FASTGATE_OK:
            raise MemoryError(f"no memory for {self.rows} streams")

    def __dealloc__(self):
        fastgate_stream_free(self.stream)

    def step(self, x, out=None):
        """The next output.

        Parameters
        ----------
        x : (input_size,), or with a batch (B, input_size)
            float32, or float64 if the storage is. Plain sequences are converted.
        out : (output_size,) or (B, output_size), optional
            A C-contiguous array, which y is written to. It may overlap x.

        Returns
        -------
        (output_size,) or (B, output_size)
            y: out, or a new array.

        Raises
        ------
        ValueError
            If a shape does not fit, or out is read-only or not C-contiguous. The stream and out are then
            as they were.
        TypeError
            If an array is of another dtype. The stream and out are then as they were.
        """
        cdef int type = self.source.type_number
        cdef size_t size = self.source.side_size
        cdef fastgate_part part
        if not as_part(<PyObject *>x, type, &part):
            x = _arrays.as_input(x, "x", self.source.dtype(), "LSTM")
        target = out
        if out is not None and not is_plain(<PyObject *>out, type):
            target = _arrays.as_output(out)

        # From here on, no code of the user runs.
        if not as_part(<PyObject *>x, type, &part) or part.size != self.source.input_size or not self.fits(x):
            lead = () if self.batch is None else (self.batch,)
            _arrays.check_shape(x, "x", (*lead, self.source.input_size))
            raise changed()
        if target is None:
            out = target = new_output(type, <PyObject *>x, size)
        elif not is_output(<PyObject *>target, type, <PyObject *>x, size):
            _arrays.check_output(target, self.out_shape, self.source.dtype())
            raise changed()
        cdef void *y = data(<PyObject *>target)
        if self.rows * self.source.nbytes < NOGIL_BYTES:
            fastgate_stream_step(self.stream, part.data, part.stride, y, size)
        else:
            with nogil:
                fastgate_stream_step(self.stream, part.data, part.stride, y, size)
        return out

    cdef inline bint fits(self, object x) noexcept:
        """Whether an array has the leading axes of an input."""
        cdef PyArrayObject *a = <PyArrayObject *>x
        if self.batch is None:
            return PyArray_NDIM(a) == 1
        return PyArray_NDIM(a) == 2 and <size_t>PyArray_DIMS(a)[0] == self.rows

    @property
    def state(self):
        """Copies of h and c, (num_layers, [B,] size), of an LSTMCell ([B,] size). Can be set."""
        h, c = np.empty(self.h_shape, self.source.dtype()), np.empty(self.c_shape, self.source.dtype())
        fastgate_stream_get_state(self.stream, data(<PyObject *>h), data(<PyObject *>c))
        return h, c

    @state.setter
    def state(self, state):
        h, c = _arrays.as_pair(state, "state")
        h = _arrays.as_input(h, "state[0]", self.source.dtype(), "LSTM")
        c = _arrays.as_input(c, "state[1]", self.source.dtype(), "LSTM")
        h, c = (array.astype(self.source.dtype(), order="C") for array in (h, c))  # which nobody else can change
        _arrays.check_shape(h, "state[0]", self.h_shape)
        _arrays.check_shape(c, "state[1]", self.c_shape)
        fastgate_stream_set_state(self.stream, data(<PyObject *>h), data(<PyObject *>c))

    def reset(self, rows=None):
        """Zeros for all, or those rows of the batch: an integer, integers, a slice or a bool mask.

        Raises
        ------
        IndexError
            If there is no such row, or a mask is of another length.
        TypeError
            If rows are something else, or the stream has no batch.
        """
        cdef const unsigned char[::1] chosen = None
        cdef size_t b
        if rows is not None:
            chosen = _parameters.stream_rows(rows, self.batch).view(np.uint8)
        if self.source.side_size == 0:
            return  # rows without elements may be more than can be counted
        for b in range(self.rows):
            if chosen is None or chosen[b]:
                fastgate_stream_reset(self.stream, b)

    def __repr__(self):
        return f"<stream of {self.source!r}, batch={self.batch}>"

    def __reduce__(self):
        return _parameters.make_stream, (self.source, self.batch, *self.state)
