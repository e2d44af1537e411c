# LSTMCell and LSTM; included by _core.pyx.

cdef enum:
    SCRATCH = 1024  # doubles of a step, on the stack; more is allocated


cdef inline int check_made(object self) except -1:
    """Cython does not check the self of a method taken from the class; and other threads may see an object
    that is not made yet."""
    if not isinstance(self, _Recurrent) or (<_Recurrent>self).lstm == NULL:
        raise TypeError(f"this needs an LSTM or LSTMCell that is made, not {type(self).__name__}")
    return 0


@cython.no_gc  # as Gate
cdef class _Recurrent:
    """What LSTMCell and LSTM have in common: the packed LSTM, and what it was made with."""

    def __cinit__(self, *args, **options):
        if type(self) is not LSTMCell and type(self) is not LSTM:
            raise TypeError("only LSTM and LSTMCell can be made")

    def __dealloc__(self):
        fastgate_lstm_free(self.lstm)

    cdef int pack(self, list cells, size_t directions, dict options, str storage, unsigned threads) except -1:
        """Pack the parameters of _parameters.lstm_parameters, copies of which nobody else knows."""
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
        """Load instead of pack; batch_first is as saved, unless it is given."""
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
        if cell or made.input_size > MOST_INPUTS:  # which can be if there are no outputs
            fastgate_lstm_free(lstm)
            raise _files.not_a_cell() if cell else _files.too_large()
        if batch_first is not None:  # nobody else has this LSTM yet
            (<fastgate_lstm_options *>made).batch_first = batch_first
        self.saved = saved
        self.own(lstm)
        return 0

    cdef void own(self, fastgate_lstm *lstm) noexcept:
        """Set the attributes, and last the LSTM: from then on, other threads may use this."""
        cdef const fastgate_lstm_options *made = fastgate_lstm_get_options(lstm)
        self.storage = _arrays.STORAGES[made.storage]
        self.type_number = NPY_FLOAT64 if made.storage == FASTGATE_FLOAT64 else NPY_FLOAT32
        self.input_size = made.input_size
        self.hidden_size = made.hidden_size
        self.layers = made.layers
        self.directions = made.directions
        self.batch_is_first = made.batch_first
        self.side_size = fastgate_lstm_output_size(lstm)
        self.nbytes = fastgate_lstm_nbytes(lstm)
        self.lstm = lstm

    def save(self, file):
        """Write all that is packed, for load, and for fastgate_lstm_load_file of C.

        Parameters
        ----------
        file : path or binary file object
            The file of a path is replaced at once, by a new one with the mode that new ones have; of a
            symbolic link, the link is. What is no file, such as a device, is an OSError.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        check_made(self)
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
        """The parameters at layer * directions + direction, as the storage rounds them."""
        cdef const fastgate_lstm_options *made = self.options()
        dtype = self.dtype()
        inputs = self.input_size
        if index >= made.directions:
            inputs = made.directions * self.side_size
        parameters = {
            "weight_ih": np.empty((4 * self.hidden_size, inputs), dtype),
            "weight_hh": np.empty((4 * self.hidden_size, self.side_size), dtype),
            "bias_ih": np.empty(4 * self.hidden_size, dtype),
        }
        if fastgate_lstm_has_peephole(self.lstm, index):
            parameters["peephole"] = np.empty((3, self.hidden_size), dtype)
        if made.projection_size:
            parameters["projection"] = np.empty((self.side_size, self.hidden_size), dtype)
        if fastgate_lstm_unpack(
            self.lstm, index,
            data_or_null(parameters["weight_ih"]), data_or_null(parameters["weight_hh"]),
            data_or_null(parameters["bias_ih"]), data_or_null(parameters.get("peephole")),
            data_or_null(parameters.get("projection")),
        ) != FASTGATE_OK:
            raise MemoryError("no memory to unpack an LSTM")
        return parameters

    cdef dict keywords(self):
        """The options that made this, except for those of LSTM alone."""
        cdef const fastgate_lstm_options *made = self.options()
        return {
            "clip": made.clip or None,  # 0 is none to C
            "gate_clip": made.gate_clip or None,
            "input_forget": bool(made.input_forget),
            "storage": self.storage,
            "threads": made.threads or 1,
        }

    @property
    def threads(self):
        """Threads that a large call runs on now, by set_threads or as made."""
        check_made(self)
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

    A value of c or o tanh(c) smaller than 2^-100, in float64 2^-960, becomes 0, so that silence is not
    slowed down by subnormal numbers. A cell cannot be changed: threads may share it. It can be pickled and copied.

    Parameters
    ----------
    weight_ih : (4 * hidden_size, input_size)
        PyTorch's layout, the gates in the order i, f, g, o. Arrays are as Gate takes them.
    weight_hh : (4 * hidden_size, output_size)
        The same.
    bias_ih, bias_hh : (4 * hidden_size,), optional
        Are added up; None for zeros.
    peephole : (3, hidden_size), optional
        The rows p_i, p_f and p_o, as ONNX and TensorFlow have them.
    projection : (output_size, hidden_size), optional
        torch's proj_size; without it output_size is hidden_size.
    clip : float, optional
        Keeps c in [-clip, clip], from right after c = f c + i g: TensorFlow's cell_clip.
    gate_clip : float, optional
        The same for what the sigmoids and the tanh of z_g take: ONNX Runtime's clip.
    input_forget : bool
        f = 1 - i
    storage, threads
        As Gate has them.

    Attributes
    ----------
    input_size : int
        Elements of x.
    hidden_size : int
        Elements of c.
    storage : str
        As given.
    nbytes : int
        Bytes of all that is packed.

    Raises
    ------
    ValueError
        If shapes do not fit together, or for what Gate raises it.
    TypeError
        If an array is of another dtype.
    MemoryError
        If the packed weights find no room.
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

    @classmethod
    def from_torch(cls, source, *, prefix="", storage="float32", threads=1):
        """A cell with the weights of a torch.nn.LSTMCell, or its state_dict; see fastgate.weights.

        Raises
        ------
        ValueError
            If keys are missing or unknown, or are of more than one layer or direction.
        TypeError
            If source is neither such a module nor a mapping.
        """
        from fastgate import weights

        layers, _ = weights.from_torch(source, prefix=prefix)
        return cls(**_parameters.one_layer(layers), storage=storage, threads=threads)

    @classmethod
    def from_flax(cls, source, cell=None, *, storage="float32", threads=1):
        """A cell with the weights of an LSTMCell of Flax; see fastgate.weights.

        Raises what fastgate.weights.from_flax and the class raise.
        """
        from fastgate import weights

        layers, _ = weights.from_flax(source, cell)
        return cls(**_parameters.one_layer(layers), storage=storage, threads=threads)

    @classmethod
    def load(cls, source):
        """The cell that save, or C, wrote; as LSTM.load.

        Raises
        ------
        ValueError
            As LSTM.load, and if it has several layers or directions, or goes backwards.
        OSError
            If the file cannot be read.
        """
        return cls(_Saved(source), None)

    def __call__(self, x, h=None, c=None, *, out=None):
        """__call__(self, x, h=None, c=None, *, out=None)\n--\n
        The next h and c.

        Parameters
        ----------
        x : (..., input_size)
            float32, or float64 if the storage is. Plain sequences are converted.
        h : (..., output_size), optional
            The same; with c, or both None for zeros.
        c : (..., hidden_size), optional
            The same.
        out : pair of arrays, optional
            (h, c), C-contiguous, which the next ones are written to. They may overlap what is read: the
            state can advance in place.

        Returns
        -------
        h, c
            Those of out, or new arrays.

        Raises
        ------
        ValueError
            If shapes do not fit, or out is read-only or not C-contiguous. out is then as it was.
        TypeError
            If an array is of another dtype, or h or c is there without the other. out is then as it was.
        """
        return cell_call(self, <PyObject *>x, <PyObject *>h, <PyObject *>c, <PyObject *>out)

    def stream(self, batch=None):
        """A Stream: it keeps the state, zeros at first, from step to step. batch=B: B independent ones."""
        check_made(self)
        return Stream(self, batch)

    @property
    def output_size(self):
        """Elements of h."""
        return self.side_size

    def __repr__(self):
        check_made(self)
        return (f"LSTMCell(input_size={self.input_size}, hidden_size={self.hidden_size}, "
                f"output_size={self.side_size}, storage={self.storage!r}, threads={self.threads})")

    def __reduce__(self):
        check_made(self)
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


cdef object cell_call(LSTMCell self, PyObject *x_given, PyObject *h_given, PyObject *c_given, PyObject *out):
    cdef int type = self.type_number
    cdef fastgate_part part
    cdef object xs = <object>x_given, hs = <object>h_given, cs = <object>c_given
    cdef object h_target = None, c_target = None, result = <object>out
    cdef bint plain = True  # so far no code of the user ran
    if self.lstm == NULL:
        check_made(self)
    if not as_part(x_given, type, &part):
        xs, plain = _arrays.as_input(xs, "x", self.dtype(), "LSTM"), False
    if (hs is None) != (cs is None):
        raise TypeError("h and c must be given together, or neither")
    if hs is None:
        _arrays.check_last(xs, "x", self.input_size)
        hs, cs, plain = _arrays.zeros(xs, self.side_size), _arrays.zeros(xs, self.hidden_size), False
    if not is_plain(<PyObject *>hs, type) or not PyArray_IS_C_CONTIGUOUS(<PyArrayObject *>hs):
        hs, plain = _arrays.as_input(hs, "h", self.dtype(), "LSTM"), False
    if not is_plain(<PyObject *>cs, type) or not PyArray_IS_C_CONTIGUOUS(<PyArrayObject *>cs):
        cs, plain = _arrays.as_input(cs, "c", self.dtype(), "LSTM"), False
    if result is not None:
        plain = plain and PyTuple_CheckExact(out)
        result = pair(result, "out")
        h_target, c_target = <tuple>result
        if not is_plain(<PyObject *>h_target, type):
            h_target, plain = _arrays.as_output(h_target, "out[0]"), False
        if not is_plain(<PyObject *>c_target, type):
            c_target, plain = _arrays.as_output(c_target, "out[1]"), False

    # From here on, no code of the user runs, and nothing is made that Python's collector tracks.
    cdef PyObject *x = <PyObject *>xs
    cdef PyObject *h = <PyObject *>hs
    cdef PyObject *c = <PyObject *>cs
    if (not plain and not as_part(x, type, &part) or part.size != self.input_size
            or not is_contiguous(h, type, x, self.side_size) or not is_contiguous(c, type, x, self.hidden_size)):
        _arrays.check_last(xs, "x", self.input_size)
        why = f" for x of shape {xs.shape}"
        _arrays.check_shape(hs, "h", shape_of(x, self.side_size), why)
        _arrays.check_shape(cs, "c", shape_of(x, self.hidden_size), why)
        raise changed()
    cdef size_t batch = rows_of(x)
    cdef size_t h_size = batch * self.side_size, c_size = batch * self.hidden_size
    cdef void *h_copied = NULL  # where h goes at last
    cdef void *c_copied = NULL
    if result is None:
        h_target, c_target = new_output(type, x, self.side_size), new_output(type, x, self.hidden_size)
    elif (not is_output(<PyObject *>h_target, type, x, self.side_size)
            or not is_output(<PyObject *>c_target, type, x, self.hidden_size)):
        _arrays.check_output(h_target, shape_of(x, self.side_size), self.dtype(), "out[0]")
        _arrays.check_output(c_target, shape_of(x, self.hidden_size), self.dtype(), "out[1]")
        raise changed()
    cdef void *h_out = data(<PyObject *>h_target)
    cdef void *c_out = data(<PyObject *>c_target)
    cdef const void *h_in = data(h)
    cdef const void *c_in = data(c)
    if result is not None:
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
    return (h_target, c_target) if result is None else result


# ---- LSTM -------------------------------------------------------------------------------------

@cython.final
@cython.no_gc
cdef class LSTM(_Recurrent):
    """LSTM(layers, *, batch_first=False, reverse=False, clip=None, gate_clip=None, input_forget=False, storage='float32', threads=1)\n--\n
    Layers of an LSTM over sequences: y, (h_n, c_n) = lstm(x, (h_0, c_0)).

    The bits are those of one LSTMCell after the other, step by step. An LSTM cannot be changed: threads
    may share it. It can be pickled and copied. Easier than by the parameters it is made by from_torch,
    from_keras, from_onnx, from_flax or from_paddle.

    Parameters
    ----------
    layers : sequence
        For each layer a mapping of LSTMCell's parameters (weight_ih, weight_hh, and bias_ih, bias_hh,
        peephole, projection where there are), or a pair of mappings, for the directions forward and
        backward, whose outputs stand side by side. All layers have the same sizes, except for the
        inputs of the first.
    batch_first : bool
        x is (B, T, input_size) instead of (T, B, input_size), y accordingly.
    reverse : bool
        The one direction goes from the last step to the first; y stays in the order of time.
    clip, gate_clip, input_forget, storage, threads
        As in LSTMCell.

    Attributes
    ----------
    input_size : int
        Elements of x in a step.
    hidden_size : int
        Elements of c, of one layer and direction.
    storage : str
        As given.
    nbytes : int
        Bytes of all that is packed.

    Raises
    ------
    ValueError
        If shapes do not fit together, or for what LSTMCell raises it.
    TypeError
        If an array is of another dtype, or a parameter does not exist.
    MemoryError
        If the packed weights find no room.
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

    @classmethod
    def from_torch(cls, source, *, prefix="", batch_first=None, storage="float32", threads=1):
        """An LSTM with the weights of a torch.nn.LSTM, or of its state_dict; see fastgate.weights.

        batch_first is that of the module, where it is not given; a state_dict does not tell. Raises what
        fastgate.weights.from_torch and the class raise.
        """
        from fastgate import weights

        layers, options = weights.from_torch(source, prefix=prefix, batch_first=batch_first)
        return cls(layers, storage=storage, threads=threads, **options)

    @classmethod
    def from_paddle(cls, source, *, prefix="", batch_first=None, storage="float32", threads=1):
        """An LSTM with the weights of a paddle.nn.LSTM, or of its state_dict; see fastgate.weights.

        batch_first is that of the layer, where it is not given, and True of a state_dict, which does not tell. Raises
        what fastgate.weights.from_paddle and the class raise.
        """
        from fastgate import weights

        layers, options = weights.from_paddle(source, prefix=prefix, batch_first=batch_first)
        return cls(layers, storage=storage, threads=threads, **options)

    @classmethod
    def from_flax(cls, source, cells=None, *, batch_first=True, storage="float32", threads=1):
        """An LSTM with the weights of one or several LSTM cells of Flax; see fastgate.weights.

        Raises what fastgate.weights.from_flax and the class raise.
        """
        from fastgate import weights

        layers, options = weights.from_flax(source, cells, batch_first=batch_first)
        return cls(layers, storage=storage, threads=threads, **options)

    @classmethod
    def from_keras(cls, source, *, prefix="", bidirectional=None, storage="float32", threads=1):
        """An LSTM with the weights of one of Keras; see fastgate.weights.

        Raises what fastgate.weights.from_keras and the class raise.
        """
        from fastgate import weights

        layers, options = weights.from_keras(source, prefix=prefix, bidirectional=bidirectional)
        return cls(layers, storage=storage, threads=threads, **options)

    @classmethod
    def from_onnx(cls, source, node=None, *, weights=None, storage="float32", threads=1):
        """An LSTM with the weights of a node of an ONNX model, or of several, its layers; see fastgate.weights.

        Raises what fastgate.weights.from_onnx and the class raise.
        """
        from fastgate.weights import from_onnx

        layers, options = from_onnx(source, node, weights=weights)
        return cls(layers, storage=storage, threads=threads, **options)

    @classmethod
    def load(cls, source, *, batch_first=None):
        """The LSTM that save, or C, wrote: the same bits, storage and number of threads.

        Of a file nothing is read but to check it: it is mapped, and all processes that load it share
        its memory. To change it, replace it, as save does: one that is cut off while it is mapped kills
        its readers.

        Parameters
        ----------
        source : path or bytes-like
            Bytes are copied.
        batch_first : bool, optional
            How it is called; as saved, if it is not given.

        Raises
        ------
        ValueError
            If it is not a saved LSTM of this version and byte order, whole and undamaged. Content from
            anywhere is safe to load.
        OSError
            If the file cannot be read.
        """
        return cls(_Saved(source), batch_first=None if batch_first is None else bool(batch_first))

    def __call__(self, x, state=None, *, lengths=None, out=None):
        """__call__(self, x, state=None, *, lengths=None, out=None)\n--\n
        A sequence, or a batch of them: y, (h_n, c_n).

        Parameters
        ----------
        x : (T, input_size), (T, B, input_size), or if batch_first (B, T, input_size)
            float32, or float64 if the storage is. Plain sequences are converted.
        state : pair of arrays, optional
            (h_0, c_0), never batch first: h_0 is (num_layers * directions, [B,] P or hidden_size), P being
            the rows of a projection, c_0 (num_layers * directions, [B,] hidden_size), of layer k and
            direction d at k * directions + d; None for zeros.
        lengths : integers (B,), optional
            How many steps each row has: all is as if it ran alone, and y is 0 beyond.
        out : like y, optional
            A C-contiguous array, which y is written to. It may overlap x.

        Returns
        -------
        y
            Like x, of output_size: out, or a new array.
        h_n, c_n
            A pair, the state after the last step; new arrays of the shapes of h_0 and c_0.

        Raises
        ------
        ValueError
            If shapes do not fit, a length is below 0 or above T, or out is read-only or not C-contiguous.
            out is then as it was.
        TypeError
            If an array is of another dtype. out is then as it was.
        MemoryError
            If there is no room for the outputs of inner layers.
        """
        return sequence(self, x, state, lengths, out)

    def gates(self, x, state=None, *, lengths=None, layer=-1, direction=0):
        """What the gates of a layer do over time, to look at; computing it takes many times as long as a call.

        Parameters
        ----------
        x, state, lengths
            As in a call.
        layer : int
            The last one if it is not given.
        direction : int
            1 is backwards, of a bidirectional LSTM.

        Returns
        -------
        dict
            Arrays like y, of hidden_size, each at the time of its step: "input", "forget" and "output", the gates i,
            f and o, between 0 and 1; "cell", g, between -1 and 1; and "c" after the step. They are computed in
            float64 from the states of a call, with the weights as rounded by the storage, and then rounded.

        Raises
        ------
        IndexError
            If there is no such layer or direction.
        ValueError, TypeError, MemoryError
            As a call.
        """
        check_made(self)
        from fastgate._gates import gates

        return gates(self, x, state, lengths, layer, direction)

    def stream(self, batch=None):
        """A Stream: it keeps the state, zeros at first, from step to step. batch=B: B independent ones.

        Raises
        ------
        ValueError
            If the LSTM is bidirectional or in reverse: it would have to know the end.
        """
        check_made(self)
        _parameters.check_streamable(self.bidirectional, self.reverse)
        return Stream(self, batch)

    @property
    def batch_first(self):
        """Whether x is (B, T, input_size) instead of (T, B, input_size)."""
        return bool(self.batch_is_first)

    @property
    def output_size(self):
        """Elements of y in a step; counts both directions."""
        return self.directions * self.side_size

    @property
    def num_layers(self):
        """Layers, each of one or two directions."""
        return self.layers

    @property
    def bidirectional(self):
        """Whether there are two directions."""
        return self.directions == 2

    @property
    def reverse(self):
        """Whether the one direction is from the last step to the first."""
        check_made(self)
        return bool(self.options().backwards)

    def __repr__(self):
        check_made(self)
        return (f"LSTM(input_size={self.input_size}, hidden_size={self.hidden_size}, "
                f"output_size={self.output_size}, num_layers={self.num_layers}, "
                f"bidirectional={self.bidirectional}, batch_first={self.batch_first}, "
                f"reverse={self.reverse}, storage={self.storage!r}, threads={self.threads})")

    def __reduce__(self):
        check_made(self)
        layers = [self.unpacked(i) for i in range(self.layers * self.directions)]
        if self.directions == 2:
            layers = list(zip(layers[::2], layers[1::2]))
        options = {"batch_first": self.batch_first, "reverse": self.reverse, **self.keywords()}
        return _parameters.make, ("LSTM", (layers,), options)


cdef struct sequence_shape:
    int ndim
    bint swapped  # batch first
    size_t steps, batch, input_size
    ptrdiff_t step, row  # elements from one to the next


cdef inline bint as_sequence(PyObject *array, int type, bint batch_first, sequence_shape *x) noexcept:
    """x (T, n), (T, B, n) or (B, T, n), whose elements of a step are contiguous; False if it lies otherwise."""
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
    # strides of an empty array mean nothing
    return not x.steps or not x.batch or x.input_size <= 1 or strides[x.ndim - 1] == item_size(type)


cdef inline bint is_state(PyObject *array, int type, const sequence_shape *x, size_t layers, size_t size) noexcept:
    """A C-contiguous array (layers, [batch,] size)."""
    if not is_plain(array, type) or not PyArray_IS_C_CONTIGUOUS(<PyArrayObject *>array):
        return False
    cdef npy_intp *dims = PyArray_DIMS(<PyArrayObject *>array)
    if PyArray_NDIM(<PyArrayObject *>array) != x.ndim or <size_t>dims[0] != layers:
        return False
    return <size_t>dims[x.ndim - 1] == size and (x.ndim == 2 or <size_t>dims[1] == x.batch)


cdef inline bint are_lengths(PyObject *counts, const sequence_shape *x) noexcept:
    """Whether what as_lengths gave has one for each row of a batch, from 0 to the number of steps."""
    cdef PyArrayObject *a = <PyArrayObject *>counts
    cdef size_t b
    if x.ndim == 2 or PyArray_NDIM(a) != 1 or <size_t>PyArray_DIMS(a)[0] != x.batch:
        return False
    for b in range(x.batch):
        if (<const size_t *>PyArray_DATA(a))[b] > x.steps:
            return False
    return True


cdef object new_state(int type, const sequence_shape *x, size_t layers, size_t size, object initial):
    """A copy of an initial state that is_state, or zeros."""
    cdef npy_intp dims[3]
    dims[0], dims[1], dims[x.ndim - 1] = layers, x.batch, size
    state = PyArray_EMPTY(x.ndim, dims, type, 0)
    cdef size_t nbytes = layers * x.batch * size * item_size(type)
    if initial is None:
        memset(data(<PyObject *>state), 0, nbytes)
    else:
        memcpy(data(<PyObject *>state), data(<PyObject *>initial), nbytes)
    return state


cdef object sequence(LSTM self, object x, object state, object lengths, object out):
    cdef int type = self.type_number
    cdef sequence_shape shape
    cdef size_t layers = self.layers * self.directions
    cdef object h = None, c = None, given = None, counts = None, target = out
    cdef bint plain = True  # so far no code of the user ran
    if self.lstm == NULL:
        check_made(self)
    if not as_sequence(<PyObject *>x, type, self.batch_is_first, &shape):
        x, plain = _arrays.as_input(x, "x", self.dtype(), "LSTM"), False
    if state is not None:
        plain = plain and PyTuple_CheckExact(<PyObject *>state)
        h, c = <tuple>pair(state, "state")
        if not is_plain(<PyObject *>h, type) or not PyArray_IS_C_CONTIGUOUS(<PyArrayObject *>h):
            h, plain = _arrays.as_input(h, "state[0]", self.dtype(), "LSTM"), False
        if not is_plain(<PyObject *>c, type) or not PyArray_IS_C_CONTIGUOUS(<PyArrayObject *>c):
            c, plain = _arrays.as_input(c, "state[1]", self.dtype(), "LSTM"), False
    if lengths is not None:
        (given, counts), plain = _arrays.as_lengths(lengths), False
    if out is not None and not is_plain(<PyObject *>out, type):
        target, plain = _arrays.as_output(out), False

    # From here on, no code of the user runs.
    if (not plain and not as_sequence(<PyObject *>x, type, self.batch_is_first, &shape)
            or shape.input_size != self.input_size):
        _arrays.check_sequence(x, self.input_size, self.batch_first)
        raise changed()
    if h is not None and (not is_state(<PyObject *>h, type, &shape, layers, self.side_size)
                          or not is_state(<PyObject *>c, type, &shape, layers, self.hidden_size)):
        batch = () if shape.ndim == 2 else (shape.batch,)
        _arrays.check_shape(h, "state[0]", (layers, *batch, self.side_size))
        _arrays.check_shape(c, "state[1]", (layers, *batch, self.hidden_size))
        raise changed()
    if counts is not None and not are_lengths(<PyObject *>counts, &shape):
        _arrays.check_lengths(given, () if shape.ndim == 2 else (shape.batch,), shape.steps, x.shape)
        raise changed()
    cdef const size_t *steps_of_rows = <const size_t *>data_or_null(counts)
    cdef size_t y_size = self.directions * self.side_size  # of a step
    if out is not None and not is_output(<PyObject *>target, type, <PyObject *>x, y_size):
        _arrays.check_output(target, shape_of(<PyObject *>x, y_size), self.dtype())
        raise changed()
    cdef object result = out
    cdef void *copied = NULL  # where y goes at last
    cdef size_t size = shape.steps * shape.batch * y_size
    if out is None:
        result = target = new_output(type, <PyObject *>x, y_size)
    elif overlap(<PyObject *>x, type, data(<PyObject *>target), size):
        copied = data(<PyObject *>target)
        target = new_output(type, <PyObject *>x, y_size)
    cdef void *y = data(<PyObject *>target)
    cdef const void *x_data = data(<PyObject *>x)
    h_n = new_state(type, &shape, layers, self.side_size, h)
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
    if copied != NULL:
        memcpy(copied, y, size * item_size(type))
    return result, (h_n, c_n)
