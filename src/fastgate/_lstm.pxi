# LSTMCell and LSTM; included by _core.pyx.

cdef enum:
    SCRATCH = 1024  # doubles on the stack for a step; a step that needs more allocates them


@cython.no_gc  # see Gate
cdef class _Recurrent:
    """What LSTMCell and LSTM have in common: the packed LSTM and its options."""

    def __cinit__(self, *args, **options):
        if type(self) is not LSTMCell and type(self) is not LSTM:
            raise TypeError("only LSTM and LSTMCell can be made")

    def __dealloc__(self):
        fastgate_lstm_free(self.lstm)

    cdef int pack(self, list cells, size_t directions, dict options, str storage, unsigned threads) except -1:
        """Pack parameters that _parameters.lstm_parameters gave: copies, which nothing else can change."""
        cdef fastgate_lstm_options made
        cdef Py_ssize_t i
        first = cells[0]
        made.storage = STORAGES[storage]
        made.input_size = first["weight_ih"].shape[1]
        made.hidden_size = len(first["bias"]) // 4
        made.projection_size = 0 if first["projection"] is None else len(first["projection"])
        made.layers = len(cells) // directions
        made.directions = directions
        made.backwards = options["reverse"]
        made.input_forget = options["input_forget"]
        made.clip = options["clip"]
        made.gate_clip = options["gate_clip"]
        made.threads = threads
        made.batch_first = options["batch_first"]
        cdef fastgate_lstm_weights *weights = <fastgate_lstm_weights *>PyMem_Malloc(
            len(cells) * sizeof(fastgate_lstm_weights))
        if weights == NULL:
            PyErr_NoMemory()
        for i, cell in enumerate(cells):
            weights[i].weight_ih = data_or_null(cell["weight_ih"])
            weights[i].weight_hh = data_or_null(cell["weight_hh"])
            weights[i].bias = data_or_null(cell["bias"])
            weights[i].peephole = data_or_null(cell["peephole"])
            weights[i].projection = data_or_null(cell["projection"])
        cdef fastgate_lstm *lstm = NULL
        cdef int code = fastgate_lstm_create(&lstm, &made, weights)
        PyMem_Free(weights)
        if code != FASTGATE_OK:
            raise MemoryError(f"no memory to pack an LSTM of hidden_size {made.hidden_size}")
        self.own(lstm)
        return 0

    cdef int read(self, _Saved saved, batch_first=None) except -1:
        """Load a saved LSTM instead of packing weights.  batch_first replaces the saved one, if it is given."""
        cdef const fastgate_lstm_options *made
        cdef const void *source = saved.data
        cdef size_t size = saved.size
        cdef fastgate_lstm *lstm = NULL
        cdef int code
        with nogil:
            code = fastgate_lstm_load(&lstm, source, size)
        saved.check(code, "LSTM")
        made = fastgate_lstm_get_options(lstm)
        cell = type(self) is LSTMCell and (made.layers != 1 or made.directions != 1 or made.backwards)
        if cell or made.input_size > MOST_INPUTS:  # possible without outputs: then there are no weights
            fastgate_lstm_free(lstm)
            if cell:
                raise ValueError("an LSTMCell has one layer in one direction, forward: load this with LSTM.load")
            raise _files.too_large()
        if batch_first is not None:  # the options may change, as nothing else has this LSTM yet
            (<fastgate_lstm_options *>made).batch_first = batch_first
        self.saved = saved
        self.own(lstm)
        return 0

    cdef void own(self, fastgate_lstm *lstm) noexcept:
        """Take over a C LSTM, and set the attributes."""
        cdef const fastgate_lstm_options *made = fastgate_lstm_get_options(lstm)
        self.storage = _arrays.STORAGES[made.storage]
        self.type_number = NPY_FLOAT64 if made.storage == FASTGATE_FLOAT64 else NPY_FLOAT32
        self.input_size = made.input_size
        self.hidden_size = made.hidden_size
        self.layers = made.layers
        self.directions = made.directions
        self.batch_is_first = made.batch_first
        self.direction_size = fastgate_lstm_output_size(lstm)
        self.nbytes = fastgate_lstm_nbytes(lstm)
        self.lstm = lstm

    def save(self, file):
        """Write the packed weights to a file, which load reads, and in C fastgate_lstm_load_file; see Gate.save."""
        buffer = np.empty(fastgate_lstm_saved_size(self.lstm), np.uint8)
        cdef void *to = data(<PyObject *>buffer)
        with nogil:
            fastgate_lstm_save(self.lstm, to)
        _files.write(file, buffer)

    cdef object dtype(self):
        return _arrays.dtype_of(self.storage)

    cdef const fastgate_lstm_options *options(self) noexcept:
        return fastgate_lstm_get_options(self.lstm)

    cdef dict unpacked(self, size_t index):
        """The parameters at layer * directions + direction, as the storage rounded them."""
        cdef const fastgate_lstm_options *made = self.options()
        dtype = self.dtype()
        inputs = self.input_size
        if index >= made.directions:
            inputs = made.directions * self.direction_size
        parameters = {
            "weight_ih": np.empty((4 * self.hidden_size, inputs), dtype),
            "weight_hh": np.empty((4 * self.hidden_size, self.direction_size), dtype),
            "bias_ih": np.empty(4 * self.hidden_size, dtype),
        }
        if fastgate_lstm_has_peephole(self.lstm, index):
            parameters["peephole"] = np.empty((3, self.hidden_size), dtype)
        if made.projection_size:
            parameters["projection"] = np.empty((self.direction_size, self.hidden_size), dtype)
        fastgate_lstm_unpack(
            self.lstm, index,
            data_or_null(parameters["weight_ih"]), data_or_null(parameters["weight_hh"]),
            data_or_null(parameters["bias_ih"]), data_or_null(parameters.get("peephole")),
            data_or_null(parameters.get("projection")),
        )
        return parameters

    cdef dict keywords(self):
        """The keyword arguments that this was made with, except for those that only LSTM has."""
        cdef const fastgate_lstm_options *made = self.options()
        return {
            "clip": made.clip or None,  # 0 means no limit in C
            "gate_clip": made.gate_clip or None,
            "input_forget": bool(made.input_forget),
            "storage": self.storage,
            "threads": made.threads or 1,
        }

    @property
    def threads(self):
        """The number of threads of a large call now: that of set_threads, or the one that this was made with."""
        return _parameters.threads_now(self.options().threads)

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self


# ---- LSTMCell ---------------------------------------------------------------------------------

@cython.final
@cython.no_gc
cdef class LSTMCell(_Recurrent):
    """LSTMCell(weight_ih, weight_hh, bias_ih=None, bias_hh=None, *, peephole=None, projection=None, clip=None, gate_clip=None, input_forget=False, storage='float32', threads=1)\n--\n
    One step of an LSTM: h, c = cell(x, h, c).

    ::

        z = weight_ih @ x + weight_hh @ h + bias_ih + bias_hh
        i, f, g = sigmoid(z_i + p_i c), sigmoid(z_f + p_f c), tanh(z_g)
        c = f c + i g
        o = sigmoid(z_o + p_o c)
        h = o tanh(c), or projection @ (o tanh(c))

    Magnitudes of c and o tanh(c) below 2^-100 (2^-960 in float64) become 0, because subnormal numbers, to which
    the state would decay in silence, are slow. A cell cannot be changed, so threads may share it. It can be
    pickled and copied.

    Parameters
    ----------
    weight_ih : (4 * hidden_size, input_size)
        The weights of x, with the gates in PyTorch's order i, f, g, o. Arrays and sequences are as in Gate.
    weight_hh : (4 * hidden_size, output_size)
        The weights of h, in the same order.
    bias_ih, bias_hh : (4 * hidden_size,), optional
        Their sum is the bias; None means zeros.
    peephole : (3, hidden_size), optional
        The rows p_i, p_f and p_o. (ONNX has them in the order i, o, f.)
    projection : (output_size, hidden_size), optional
        The matrix that torch has for proj_size. Without it, output_size is hidden_size.
    clip : float, optional
        Limits c to [-clip, clip], right after c = f c + i g, like TensorFlow's cell_clip.
    gate_clip : float, optional
        Limits the arguments of the sigmoids, and of the tanh of z_g, in the same way, like ONNX Runtime's clip.
    input_forget : bool
        Replaces f by 1 - i.
    storage, threads
        As in Gate.

    Attributes
    ----------
    input_size : int
        The number of elements of x.
    hidden_size : int
        The number of elements of c.
    storage : str
        The storage, as given.
    nbytes : int
        The size of the packed weights and biases in bytes.

    Raises
    ------
    ValueError
        If shapes do not fit together, clip or gate_clip is not positive, or Gate would raise it.
    TypeError
        If an array has another dtype.
    MemoryError
        If there is no memory for the packed weights.
    """

    def __cinit__(self, weight_ih, weight_hh, bias_ih=None, bias_hh=None, *, peephole=None,
                  projection=None, clip=None, gate_clip=None, input_forget=False,
                  storage="float32", threads=1):
        self.vectorcall = cell_vectorcall
        if type(weight_ih) is _Saved:
            self.read(weight_ih)
            return
        storage, threads = _parameters.storage_of(storage), _parameters.thread_count(threads)
        options = _parameters.lstm_options(clip, gate_clip, input_forget)
        given = (weight_ih, weight_hh, bias_ih, bias_hh, peephole, projection)
        cell = _parameters.cell_parameters(dict(zip(_parameters.PARAMETERS, given)), storage)
        self.pack([cell], 1, options, storage, threads)

    from_torch = _sources.CellSources.__dict__["from_torch"]
    from_flax = _sources.CellSources.__dict__["from_flax"]

    @classmethod
    def load(cls, source):
        """Load a cell that save or C wrote. source and the exceptions are as in Gate.load.

        Raises ValueError also if source holds several layers or directions, or the reverse direction.
        """
        return cls(_Saved(source), None)

    def __call__(self, x, h=None, c=None, *, out=None):
        """Compute the next h and c.

        Parameters
        ----------
        x : (..., input_size)
            An array of float32, or of float64 if the storage is. Plain sequences are converted.
        h : (..., output_size), optional
            The same. h and c are given together; None means zeros.
        c : (..., hidden_size), optional
            The same.
        out : (h, c), optional
            A pair of C-contiguous arrays, buffers or tensors, to which the next h and c are written. They may
            overlap x, h and c, so that the state advances in place, but not each other.

        Returns
        -------
        h, c
            out if it is given, otherwise new arrays.

        Raises
        ------
        ValueError
            If shapes do not fit, or an array of out is read-only or not C-contiguous. out is then unchanged.
        TypeError
            If an array has another dtype, or only one of h and c is given. out is then unchanged.
        """
        return cell_call(self, <PyObject *>x, <PyObject *>h, <PyObject *>c, <PyObject *>out)

    def stream(self, batch=None):
        """Return a Stream of `batch` independent sequences, which keeps h and c between steps and begins with zeros.

        Without batch, it has one sequence and no axis for the batch. Raises ValueError, TypeError or MemoryError
        if batch is negative, not an integer or too large.
        """
        return Stream(self, batch)

    @property
    def output_size(self):
        """The number of elements of h."""
        return self.direction_size

    def __repr__(self):
        return (f"LSTMCell(input_size={self.input_size}, hidden_size={self.hidden_size}, "
                f"output_size={self.direction_size}, storage={self.storage!r}, threads={self.threads})")

    def __reduce__(self):
        return _parameters.make, ("LSTMCell", (), {**self.unpacked(0), **self.keywords()})


cdef object cell_vectorcall(object self, PyObject **args, size_t nargsf, PyObject *names):
    cdef Py_ssize_t count = PyVectorcall_NARGS(nargsf)
    cdef PyObject *none = <PyObject *>None
    cdef PyObject *given[4]
    cdef Py_ssize_t i, place
    given[0] = NULL
    given[1] = given[2] = given[3] = none
    if count > 3:
        raise TypeError(f"LSTMCell.__call__() takes x, h and c, but {count} were given")
    for i in range(count):
        given[i] = args[i]
    for i in range(PyTuple_GET_SIZE(names) if names != NULL else 0):
        name = <object>PyTuple_GET_ITEM(names, i)
        place = 3 if name == "out" else 1 if name == "h" else 2 if name == "c" else 0
        if place == 0 and name != "x":
            raise TypeError(f"LSTMCell.__call__() got an unexpected keyword argument {name!r}")
        if place < count:
            raise TypeError(f"LSTMCell.__call__() got multiple values for argument {name!r}")
        given[place] = args[count + i]
    if given[0] == NULL:
        raise TypeError("LSTMCell.__call__() needs an x")
    return cell_call(<LSTMCell>self, given[0], given[1], given[2], given[3])


cdef inline bint cell_fits(LSTMCell self, PyObject *x, PyObject *h, PyObject *c, bint given, PyObject *h_out,
                           PyObject *c_out, fastgate_part *part) noexcept:
    """Whether x, h, c, and outputs if they are given, have layouts that C takes, and shapes that fit."""
    cdef int type = self.type_number
    return (as_part(x, type, part) and part.size == self.input_size
            and is_contiguous(h, type, x, self.direction_size) and is_contiguous(c, type, x, self.hidden_size)
            and (not given or is_output(h_out, type, x, self.direction_size)
                 and is_output(c_out, type, x, self.hidden_size)))


cdef object cell_call(LSTMCell self, PyObject *x_given, PyObject *h_given, PyObject *c_given, PyObject *out):
    cdef int type = self.type_number
    cdef fastgate_part part
    cdef object xs = <object>x_given, hs = <object>h_given, cs = <object>c_given, result = <object>out
    cdef object h_target = pair_item(out, 0), c_target = pair_item(out, 1)
    cdef bint given = result is not None
    if not cell_fits(self, x_given, h_given, c_given, given, <PyObject *>h_target, <PyObject *>c_target, &part):
        sizes = self.input_size, self.direction_size, self.hidden_size
        xs, hs, cs, result, h_target, c_target = _arrays.cell_arguments(xs, hs, cs, result, sizes, self.dtype())

        # From here on, only code of fastgate and NumPy runs, and makes nothing that Python's collector tracks.
        if not cell_fits(self, <PyObject *>xs, <PyObject *>hs, <PyObject *>cs, given, <PyObject *>h_target,
                         <PyObject *>c_target, &part):
            _arrays.check_cell_call(xs, (hs, cs), (h_target, c_target), sizes, self.dtype())
            raise changed()
    cdef PyObject *x = <PyObject *>xs
    cdef PyObject *h = <PyObject *>hs
    cdef PyObject *c = <PyObject *>cs
    cdef size_t batch = rows_of(x)
    cdef size_t h_size = batch * self.direction_size, c_size = batch * self.hidden_size
    cdef void *h_copied = NULL  # where h and c are copied in the end, if out overlaps an input
    cdef void *c_copied = NULL
    if not given:
        h_target, c_target = new_output(type, x, self.direction_size), new_output(type, x, self.hidden_size)
    cdef void *h_out = data(<PyObject *>h_target)
    cdef void *c_out = data(<PyObject *>c_target)
    cdef const void *h_in = data(h)
    cdef const void *c_in = data(c)
    if given:
        if overlap(<PyObject *>h_target, type, c_out, c_size):
            raise ValueError("out[0] and out[1] overlap")
        if overlap(x, type, h_out, h_size) or overlap(h, type, h_out, h_size) or overlap(c, type, h_out, h_size):
            h_copied = h_out
        if overlap(x, type, c_out, c_size) or overlap(h, type, c_out, c_size) or (
                c_in != c_out and overlap(c, type, c_out, c_size)):
            c_copied = c_out
    cdef size_t h_bytes = h_size * item_size(type), c_bytes = c_size * item_size(type)
    cdef size_t projected = c_bytes if self.options().projection_size else 0
    cdef size_t needed = projected + (h_bytes if h_copied != NULL else 0) + (c_bytes if c_copied != NULL else 0)
    cdef double room[SCRATCH]
    cdef char *scratch = <char *>room
    cdef int code
    if needed > sizeof(room):
        scratch = <char *>PyMem_Malloc(needed)
        if scratch == NULL:
            PyErr_NoMemory()
    if h_copied != NULL:
        h_out = scratch + projected
    if c_copied != NULL:
        c_out = scratch + needed - c_bytes
    if batch * self.nbytes < NOGIL_BYTES:
        code = fastgate_lstm_step(self.lstm, batch, part.data, part.stride, h_in, c_in, h_out, c_out, scratch)
    else:
        with nogil:
            code = fastgate_lstm_step(self.lstm, batch, part.data, part.stride, h_in, c_in, h_out, c_out, scratch)
    if h_copied != NULL:
        memcpy(h_copied, h_out, h_bytes)
    if c_copied != NULL:
        memcpy(c_copied, c_out, c_bytes)
    if scratch != <char *>room:
        PyMem_Free(scratch)
    finish(code)
    return result if given else (h_target, c_target)


# ---- LSTM -------------------------------------------------------------------------------------

@cython.final
@cython.no_gc
cdef class LSTM(_Recurrent):
    """LSTM(layers, *, batch_first=False, reverse=False, clip=None, gate_clip=None, input_forget=False, storage='float32', threads=1)\n--\n
    An LSTM of one or several layers, over sequences: y, (h_n, c_n) = lstm(x, (h_0, c_0)).

    The result has the bits of an LSTMCell for each layer, run step by step. An LSTM cannot be changed, so
    threads may share it. It can be pickled and copied. from_torch, from_keras, from_onnx, from_flax and
    from_paddle make it from a trained model.

    Parameters
    ----------
    layers : sequence
        For each layer a mapping from the names of LSTMCell's parameters to arrays: weight_ih, weight_hh, and
        optionally bias_ih, bias_hh, peephole and projection. For two directions, a pair of mappings (forward,
        backward), whose outputs are concatenated. All layers have the same sizes, except for the input_size
        of the first one.
    batch_first : bool
        Whether x is (B, T, input_size) instead of (T, B, input_size), and y accordingly.
    reverse : bool
        Whether the only direction goes from the last step to the first. y stays in the order of time.
    clip, gate_clip, input_forget, storage, threads
        As in LSTMCell.

    Attributes
    ----------
    input_size : int
        The number of elements of x in a step.
    hidden_size : int
        The number of elements of c in one layer and direction.
    storage : str
        The storage, as given.
    nbytes : int
        The size of the packed weights and biases in bytes.

    Raises
    ------
    ValueError
        If shapes do not fit together, reverse is True for two directions, or LSTMCell would raise it.
    TypeError
        If an array has another dtype, or a parameter is missing or does not exist.
    MemoryError
        If there is no memory for the packed weights.
    """

    def __cinit__(self, layers, *, batch_first=False, reverse=False, clip=None, gate_clip=None,
                  input_forget=False, storage="float32", threads=1):
        if type(layers) is _Saved:
            self.read(layers, batch_first)
            return
        storage, threads = _parameters.storage_of(storage), _parameters.thread_count(threads)
        options = _parameters.lstm_options(clip, gate_clip, input_forget, reverse, batch_first)
        cells, directions = _parameters.lstm_parameters(layers, storage, options["reverse"])
        self.pack(cells, directions, options, storage, threads)

    from_torch = _sources.LSTMSources.__dict__["from_torch"]
    from_paddle = _sources.LSTMSources.__dict__["from_paddle"]
    from_flax = _sources.LSTMSources.__dict__["from_flax"]
    from_keras = _sources.LSTMSources.__dict__["from_keras"]
    from_onnx = _sources.LSTMSources.__dict__["from_onnx"]

    @classmethod
    def load(cls, source, *, batch_first=None):
        """Load an LSTM that save or C wrote. source and the exceptions are as in Gate.load.

        batch_first replaces the saved one, if it is given.
        """
        return cls(_Saved(source), batch_first=None if batch_first is None else bool(batch_first))

    def __call__(self, x, state=None, *, lengths=None, mask=None, out=None):
        """Compute the outputs of a sequence, or of a batch of sequences.

        Parameters
        ----------
        x : (T, input_size), (T, B, input_size), or if batch_first (B, T, input_size)
            An array of float32, or of float64 if the storage is. Plain sequences are converted.
        state : (h_0, c_0), optional
            h_0 (num_layers * directions, [B,] H) and c_0 (num_layers * directions, [B,] hidden_size), also if
            batch_first, with layer k and direction d at k * directions + d. H is the number of rows of a
            projection, or hidden_size. None means zeros.
        lengths : integers (B,), optional
            The number of steps of each sequence, which gets the results of a call of its own; y is 0 after it.
        mask : bool (T,), (T, B), or if batch_first (B, T), optional
            Instead of lengths, the steps to run. Where it is False, the step is skipped: the state stays, and y
            is 0. (Keras gives the same y for zero_output_for_mask=True, and otherwise repeats the y before.)
        out : like y, optional
            A C-contiguous array, buffer or tensor, to which y is written. It may overlap x.

        Returns
        -------
        y : (T, output_size), (T, B, output_size), or if batch_first (B, T, output_size)
            out if it is given, otherwise a new array.
        (h_n, c_n)
            The state after the last step of each sequence: new arrays of the shapes of h_0 and c_0.

        Raises
        ------
        ValueError
            If shapes do not fit, a length is below 0 or above T, or out is read-only or not C-contiguous.
            out is then unchanged.
        TypeError
            If an array has another dtype, or both lengths and mask are given. out is then unchanged.
        MemoryError
            If there is no memory for y or for scratch arrays.
        """
        if mask is not None:
            from fastgate._sequences import run_masked

            return run_masked(self, x, state, mask, lengths, out)
        return sequence(self, x, state, lengths, out)

    def gates(self, x, state=None, *, lengths=None, layer=-1, direction=0):
        """Return what the gates of one layer do over time, for inspection. It takes many times as long as a call.

        Parameters
        ----------
        x, state, lengths
            As in a call.
        layer : int
            The index of the layer; -1 is the last one.
        direction : int
            0, or 1 for the backward direction of a bidirectional LSTM.

        Returns
        -------
        dict
            Arrays like y, but with hidden_size elements in a step: "input", "forget" and "output", the gates i, f
            and o, between 0 and 1; "cell", the candidate g, between -1 and 1; and "c", the state after the step.
            They are computed in float64, from the states of a call and the weights that the storage rounded, and
            then rounded.

        Raises
        ------
        IndexError
            If there is no such layer or direction.
        ValueError, TypeError, MemoryError
            As in a call.
        """
        from fastgate._sequences import gates

        return gates(self, x, state, lengths, layer, direction)

    def stream(self, batch=None):
        """Return a Stream of `batch` independent sequences, which keeps h and c between steps and begins with zeros.

        Without batch, it has one sequence and no axis for the batch. Raises ValueError, TypeError or MemoryError
        if batch is negative, not an integer or too large, and ValueError if the LSTM is bidirectional or reverse,
        since it then begins at the last step.
        """
        _parameters.check_streamable(self.bidirectional, self.reverse)
        return Stream(self, batch)

    @property
    def batch_first(self):
        """Whether x is (B, T, input_size) instead of (T, B, input_size)."""
        return bool(self.batch_is_first)

    @property
    def output_size(self):
        """The number of elements of y in a step, of both directions together."""
        return self.directions * self.direction_size

    @property
    def num_layers(self):
        """The number of layers, each of one or two directions."""
        return self.layers

    @property
    def bidirectional(self):
        """Whether there are two directions."""
        return self.directions == 2

    @property
    def reverse(self):
        """Whether the only direction goes from the last step to the first."""
        return bool(self.options().backwards)

    def __repr__(self):
        return (f"LSTM(input_size={self.input_size}, hidden_size={self.hidden_size}, "
                f"output_size={self.output_size}, num_layers={self.num_layers}, "
                f"bidirectional={self.bidirectional}, batch_first={self.batch_first}, "
                f"reverse={self.reverse}, storage={self.storage!r}, threads={self.threads})")

    def __reduce__(self):
        layers = [self.unpacked(i) for i in range(self.layers * self.directions)]
        if self.directions == 2:
            layers = list(zip(layers[::2], layers[1::2]))
        options = {"batch_first": self.batch_first, "reverse": self.reverse, **self.keywords()}
        return _parameters.make, ("LSTM", (layers,), options)


cdef struct sequence_shape:
    int ndim
    bint swapped  # the batch is the first axis
    size_t steps, batch, input_size
    ptrdiff_t step, row  # strides in elements


cdef inline bint as_sequence(PyObject *array, int type, bint batch_first, sequence_shape *x) noexcept:
    """Describe x (T, n), (T, B, n) or (B, T, n); False unless the elements of each step are contiguous."""
    if not is_plain(array, type):
        return False
    cdef PyArrayObject *a = <PyArrayObject *>array
    cdef npy_intp *dims = PyArray_DIMS(a)
    cdef npy_intp *strides = PyArray_STRIDES(a)
    x.ndim = PyArray_NDIM(a)
    if x.ndim < 2 or x.ndim > 3:
        return False
    x.swapped = batch_first and x.ndim == 3
    x.steps = dims[1 if x.swapped else 0]
    x.batch = 1 if x.ndim == 2 else dims[0 if x.swapped else 1]
    x.input_size = dims[x.ndim - 1]
    x.step = elements(strides[1 if x.swapped else 0], type)
    x.row = 0 if x.ndim == 2 else elements(strides[0 if x.swapped else 1], type)
    # an empty array may have any strides
    return not x.steps or not x.batch or x.input_size <= 1 or strides[x.ndim - 1] == item_size(type)


cdef inline bint is_state(PyObject *array, int type, const sequence_shape *x, size_t layers, size_t size) noexcept:
    """Whether array is C-contiguous and (layers, [batch,] size)."""
    if not is_plain(array, type) or not PyArray_IS_C_CONTIGUOUS(<PyArrayObject *>array):
        return False
    cdef npy_intp *dims = PyArray_DIMS(<PyArrayObject *>array)
    if PyArray_NDIM(<PyArrayObject *>array) != x.ndim or <size_t>dims[0] != layers:
        return False
    return <size_t>dims[x.ndim - 1] == size and (x.ndim == 2 or <size_t>dims[1] == x.batch)


cdef inline bint are_lengths(PyObject *counts, const sequence_shape *x) noexcept:
    """Whether counts, from as_lengths, has a length for each row of a batch, from 0 to the number of steps."""
    cdef PyArrayObject *a = <PyArrayObject *>counts
    cdef size_t b
    if x.ndim == 2 or PyArray_NDIM(a) != 1 or <size_t>PyArray_DIMS(a)[0] != x.batch:
        return False
    for b in range(x.batch):
        if (<const size_t *>PyArray_DATA(a))[b] > x.steps:
            return False
    return True


cdef object new_state(int type, const sequence_shape *x, size_t layers, size_t size, object initial):
    """A copy of an initial state, for which is_state is true, or zeros."""
    cdef npy_intp dims[3]
    dims[0], dims[1], dims[x.ndim - 1] = layers, x.batch, size
    state = PyArray_EMPTY(x.ndim, dims, type, 0)
    cdef size_t nbytes = layers * x.batch * size * item_size(type)
    if initial is None:
        memset(data(<PyObject *>state), 0, nbytes)
    else:
        memcpy(data(<PyObject *>state), data(<PyObject *>initial), nbytes)
    return state


cdef inline bint sequence_fits(LSTM self, object x, bint given, object h, object c, object counts, object target,
                               sequence_shape *shape) noexcept:
    """Whether x, h and c if given, counts and target unless None have layouts that C takes, and shapes that fit."""
    cdef int type = self.type_number
    cdef size_t layers = self.layers * self.directions
    return (as_sequence(<PyObject *>x, type, self.batch_is_first, shape) and shape.input_size == self.input_size
            and (not given or is_state(<PyObject *>h, type, shape, layers, self.direction_size)
                 and is_state(<PyObject *>c, type, shape, layers, self.hidden_size))
            and (counts is None or are_lengths(<PyObject *>counts, shape))
            and (target is None or is_output(<PyObject *>target, type, <PyObject *>x,
                                             self.directions * self.direction_size)))


cdef object sequence(LSTM self, object x, object state, object lengths, object out):
    cdef int type = self.type_number
    cdef sequence_shape shape
    cdef size_t layers = self.layers * self.directions
    cdef size_t y_size = self.directions * self.direction_size
    cdef object h = pair_item(<PyObject *>state, 0), c = pair_item(<PyObject *>state, 1), counts = None, target = out
    cdef bint given = state is not None
    if lengths is not None or not sequence_fits(self, x, given, h, c, counts, target, &shape):
        x, h, c, lengths, counts, target = _arrays.sequence_arguments(x, state, lengths, out, self.dtype())
        sizes = self.input_size, self.direction_size, self.hidden_size, layers, y_size

        # From here on, only code of fastgate and NumPy runs.
        if not sequence_fits(self, x, given, h, c, counts, target, &shape):
            _arrays.check_sequence_call(x, (h, c), lengths, target, self.batch_first, sizes, self.dtype())
            raise changed()
    cdef const size_t *steps_of_rows = <const size_t *>data_or_null(counts)
    cdef size_t size = shape.steps * shape.batch * y_size
    cdef object written = target
    if target is None:
        out = target = written = new_output(type, <PyObject *>x, y_size)
    elif overlap(<PyObject *>x, type, data(<PyObject *>target), size):
        written = new_output(type, <PyObject *>x, y_size)
    cdef void *y = data(<PyObject *>written)
    cdef const void *x_data = data(<PyObject *>x)
    h_n = new_state(type, &shape, layers, self.direction_size, h)
    c_n = new_state(type, &shape, layers, self.hidden_size, c)
    cdef void *h_data = data(<PyObject *>h_n)
    cdef void *c_data = data(<PyObject *>c_n)
    cdef ptrdiff_t y_row = y_size * (shape.steps if shape.swapped else 1)
    cdef ptrdiff_t y_step = y_size * (1 if shape.swapped else shape.batch)
    cdef int code
    with nogil:
        code = fastgate_lstm_run(self.lstm, shape.steps, shape.batch, x_data, shape.step, shape.row, steps_of_rows,
                                 h_data, c_data, y, y_step, y_row)
    finish(code)
    copy_to(target, written)
    return out, (h_n, c_n)
