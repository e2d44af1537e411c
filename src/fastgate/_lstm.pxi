# The LSTM classes; included by _core.pyx, whose helpers they use.

cdef enum:
    SCRATCH = 1024  # doubles of a step, on the stack; more is allocated


cdef class _Recurrent:
    """What LSTMCell and LSTM have in common: the packed LSTM, and what it was made with."""

    def __cinit__(self, *args, **options):
        if type(self) is not LSTMCell and type(self) is not LSTM:
            raise TypeError("only LSTM and LSTMCell can be made")

    def __dealloc__(self):
        fastgate_lstm_free(self.lstm)

    cdef int pack(self, list cells, size_t directions, dict options, str storage,
                  unsigned threads) except -1:
        """Pack the parameters of _check.lstm_parameters; clip, gate_clip, input_forget, reverse."""
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
        made.batch_first = 0
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
        cdef int code = fastgate_lstm_create(&self.lstm, &made, weights)
        PyMem_Free(weights)
        if code != FASTGATE_OK:
            raise MemoryError(f"no memory to pack an LSTM of hidden_size {made.hidden_size}")
        self.describe()
        return 0

    cdef int read(self, _Saved saved) except -1:
        """Load instead of pack."""
        self.saved = saved
        cdef const void *source = saved.data
        cdef size_t size = saved.size
        cdef int code
        with nogil:
            code = fastgate_lstm_load(&self.lstm, source, size)
        saved.check(code, "LSTM")
        self.describe()
        _saved.refuse_size(self.input_size)
        return 0

    cdef void describe(self) noexcept:
        """Set the attributes, from the packed LSTM."""
        cdef const fastgate_lstm_options *made = self.options()
        self.storage = _check.STORAGES[made.storage]
        self.type_number = NPY_FLOAT64 if made.storage == FASTGATE_FLOAT64 else NPY_FLOAT32
        self.input_size = made.input_size
        self.hidden_size = made.hidden_size
        self.side_size = fastgate_lstm_output_size(self.lstm)
        self.nbytes = fastgate_lstm_nbytes(self.lstm)

    def save(self, file):
        """Write all that is packed, for load, and for fastgate_lstm_load_file of C.

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
        if type(self) is not LSTM and type(self) is not LSTMCell:  # as in __reduce__
            raise TypeError(f"save() needs an LSTM or LSTMCell, not {type(self).__name__}")
        buffer = np.empty(fastgate_lstm_saved_size(self.lstm), np.uint8)
        cdef void *to = data(<PyObject *>buffer)
        with nogil:
            fastgate_lstm_save(self.lstm, to)
        _saved.write(file, buffer)

    cdef tuple sizes(self):
        return self.input_size, self.side_size, self.hidden_size

    cdef object dtype(self):
        return _check.dtype_of(self.storage)

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
        """The options that made this, but for those of LSTM alone."""
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
        return _check.threads_now(self.options().threads)

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self


cdef inline void *data_or_null(object array) noexcept:
    return NULL if array is None else data(<PyObject *>array)


cdef dict limits(clip, gate_clip, input_forget, reverse=False):
    return {
        "clip": _check.limit(clip, "clip"),
        "gate_clip": _check.limit(gate_clip, "gate_clip"),
        "input_forget": bool(input_forget),
        "reverse": bool(reverse),
    }


# ---- LSTMCell ---------------------------------------------------------------------------------

@cython.final
cdef class LSTMCell(_Recurrent):
    """LSTMCell(weight_ih, weight_hh, bias_ih=None, bias_hh=None, *, peephole=None, projection=None, clip=None, gate_clip=None, input_forget=False, storage='float32', threads=1)\n--\n
    One step of an LSTM: h, c = cell(x, h, c).

    ::

        z = weight_ih @ x + weight_hh @ h + bias_ih + bias_hh
        i, f, g = sigmoid(z_i + p_i c), sigmoid(z_f + p_f c), tanh(z_g)
        c = f c + i g
        o = sigmoid(z_o + p_o c)
        h = o tanh(c), or projection @ (o tanh(c))

    i has the bits of the Gate of its rows of [weight_ih | weight_hh]. A value of c or o tanh(c)
    smaller than 2^-100, in float64 2^-960, becomes 0, so that silence is not slowed down by subnormal
    numbers. A cell cannot be changed: threads may share it. It can be pickled and copied.

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
            _saved.refuse_cell(self.options().layers, self.options().directions, self.options().backwards)
            return
        storage, threads = _check.options(storage, threads)
        given = (weight_ih, weight_hh, bias_ih, bias_hh, peephole, projection)
        cell = _check.cell_parameters(dict(zip(_check.PARAMETERS, given)), storage)
        self.pack([cell], 1, limits(clip, gate_clip, input_forget), storage, threads)

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
        return cls(**_check.one_layer(layers), storage=storage, threads=threads)

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

    def bind(self, x, h, c, *, out):
        """A function of no arguments that calls the cell with these, at the least cost.

        It reads and writes these very arrays or buffers in every call, and returns out. out = (h, c) lets
        the state advance in place. One thread at a time.

        Raises
        ------
        ValueError
            If shapes do not fit, an array is not C-contiguous, or out overlaps the inputs otherwise.
        TypeError
            If one is no array or buffer, or not of the dtype of a call.
        """
        return BoundCell(self, x, h, c, out)

    def stream(self, batch=None):
        """A Stream: it keeps the state, zeros at first, from step to step. batch=B: B independent ones."""
        return Stream(self, batch)

    @property
    def output_size(self):
        """Elements of h."""
        return self.side_size

    def __repr__(self):
        return (f"LSTMCell(input_size={self.input_size}, hidden_size={self.hidden_size}, "
                f"output_size={self.side_size}, storage={self.storage!r}, threads={self.threads})")

    def __reduce__(self):
        if type(self) is not LSTMCell:  # LSTMCell.__reduce__(anything), which Cython does not check
            raise TypeError(f"LSTMCell.__reduce__() needs an LSTMCell, not {type(self).__name__}")
        return _check.make, ("LSTMCell", (), {**self.unpacked(0), **self.keywords()})


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


cdef inline object cell_call(LSTMCell self, PyObject *x, PyObject *h, PyObject *c, PyObject *out):
    result = cell_fast(self, x, h, c, NULL if out == <PyObject *>None else out)
    if result is None:
        return cell_slow(self, <object>x, <object>h, <object>c, <object>out)
    return result


cdef object cell_slow(LSTMCell self, object x, object h, object c, object out):
    """Whatever cell_fast refused: converted and then run on the fast road, or an exception."""
    dtype = self.dtype()
    x, h, c = _check.cell_inputs(x, h, c, self.sizes(), dtype)
    targets = None
    if out is not None:
        targets = _check.cell_outputs(out, h.shape, c.shape, dtype)
    result = cell_fast(self, <PyObject *>x, <PyObject *>h, <PyObject *>c, NULL)
    assert result is not None  # _check.cell_inputs left nothing to refuse
    if targets is None:
        return result
    for target, array in zip(targets, result):
        target[...] = array  # computed apart: out may overlap an input
    return out[0], out[1]


cdef object cell_fast(LSTMCell self, PyObject *x, PyObject *h, PyObject *c, PyObject *out):
    """The next h and c from arrays that can be used as they lie; None for all others."""
    cdef int type = self.type_number
    cdef fastgate_part part
    cdef PyObject *h_out
    cdef PyObject *c_out
    cdef void *state
    cdef bint in_place = False
    cdef size_t batch, h_size, c_size
    if not as_part(x, type, &part) or part.size != self.input_size:
        return None
    if not is_contiguous(h, type, x, self.side_size) or not is_contiguous(c, type, x, self.hidden_size):
        return None
    batch = rows_of(x)
    h_size = batch * self.side_size
    c_size = batch * self.hidden_size
    if out == NULL:
        result = (new_output(type, x, self.side_size), new_output(type, x, self.hidden_size))
        out = <PyObject *>result
    elif PyTuple_CheckExact(out) and PyTuple_GET_SIZE(out) == 2:
        result = <object>out
    else:
        return None
    h_out, c_out = PyTuple_GET_ITEM(out, 0), PyTuple_GET_ITEM(out, 1)
    if not is_output(h_out, type, x, self.side_size) or not is_output(c_out, type, x, self.hidden_size):
        return None
    state = data(c_out)
    if (overlap(x, type, state, c_size) or overlap(h, type, state, c_size)
            or overlap(h_out, type, state, c_size)
            or data(c) != state and overlap(c, type, state, c_size)):
        return None
    in_place = (overlap(h, type, data(h_out), h_size) or overlap(x, type, data(h_out), h_size)
                or overlap(c, type, data(h_out), h_size))
    cdef double room[SCRATCH]
    cdef size_t needed = scratch_bytes(self, batch, in_place)
    cdef void *scratch = room
    if needed > sizeof(room):
        scratch = PyMem_Malloc(needed)
        if scratch == NULL:
            PyErr_NoMemory()
    step_cell(self, batch, &part, data(h), data(c), data(h_out), state, scratch, in_place)
    if needed > sizeof(room):
        PyMem_Free(scratch)
    return result


cdef inline size_t scratch_bytes(LSTMCell self, size_t batch, bint in_place) noexcept:
    """Of a step: h, where it must not be written before all is read, and what is projected."""
    cdef size_t columns = self.side_size if in_place else 0
    if self.options().projection_size:
        columns += self.hidden_size
    return batch * columns * item_size(self.type_number)


cdef inline void step_cell(LSTMCell self, size_t batch, const fastgate_part *x, const void *h, const void *c,
                           void *h_out, void *c_out, void *scratch, bint in_place) noexcept:
    cdef size_t h_bytes = batch * self.side_size * item_size(self.type_number)
    cdef void *y = scratch if in_place else h_out
    cdef void *projected = <char *>scratch + h_bytes if in_place else scratch
    if batch * self.nbytes < NOGIL_BYTES:
        fastgate_lstm_step(self.lstm, batch, x.data, x.stride, h, c, y, c_out, projected)
    else:
        with nogil:
            fastgate_lstm_step(self.lstm, batch, x.data, x.stride, h, c, y, c_out, projected)
    if in_place:
        memcpy(h_out, y, h_bytes)


@cython.final
cdef class BoundCell:
    """A cell with its inputs and outputs: call it without arguments. Made by LSTMCell.bind."""

    def __cinit__(self, LSTMCell cell not None, x, h, c, out):
        arrays = _check.cell_bindable(x, h, c, out, cell.sizes(), cell.dtype())
        self.owner = cell
        self.out = (out[0], out[1])
        as_part(<PyObject *>arrays[0], cell.type_number, &self.x)
        self.h, self.c, self.h_out, self.c_out = (
            data(<PyObject *>arrays[1]), data(<PyObject *>arrays[2]),
            data(<PyObject *>arrays[3]), data(<PyObject *>arrays[4]))
        self.batch = rows_of(<PyObject *>arrays[0])
        self.in_place = self.h == self.h_out
        self.views = views_of(arrays, cell.type_number)
        self.scratch = PyMem_Malloc(scratch_bytes(cell, self.batch, self.in_place))
        if self.scratch == NULL:
            PyErr_NoMemory()
        self.vectorcall = bound_cell_vectorcall  # last: until then, __call__ refuses

    def __dealloc__(self):
        PyMem_Free(self.scratch)

    def __call__(self):
        """Read the inputs, write the outputs and return them."""
        if self.scratch == NULL:
            raise RuntimeError("not bound yet")
        return bound_cell_call(self)

    def __repr__(self):
        return f"<bound {self.owner!r}>"


cdef object bound_cell_vectorcall(object self, PyObject **args, size_t nargsf, PyObject *names):
    if PyVectorcall_NARGS(nargsf) or names != NULL and PyTuple_GET_SIZE(names):
        raise TypeError("BoundCell.__call__() takes no arguments")
    return bound_cell_call(<BoundCell>self)


cdef inline object bound_cell_call(BoundCell self):
    step_cell(self.owner, self.batch, &self.x, self.h, self.c, self.h_out, self.c_out, self.scratch,
              self.in_place)
    return self.out


# ---- LSTM -------------------------------------------------------------------------------------

@cython.final
cdef class LSTM(_Recurrent):
    """LSTM(layers, *, batch_first=False, reverse=False, clip=None, gate_clip=None, input_forget=False, storage='float32', threads=1)\n--\n
    Layers of an LSTM over sequences: y, (h_n, c_n) = lstm(x, (h_0, c_0)).

    The bits are those of one LSTMCell after the other, step by step. An LSTM cannot be changed: threads
    may share it. It can be pickled and copied. Easier than by the parameters it is made by from_torch,
    from_keras or from_onnx.

    Parameters
    ----------
    layers : sequence
        For each layer a mapping of LSTMCell's parameters (weight_ih, weight_hh, and bias_ih, bias_hh,
        peephole, projection where there are), or a pair of mappings, for the directions forward and
        backward, whose outputs stand side by side. All layers have the same sizes, but for the inputs of
        the first.
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
    output_size : int
        Elements of y in a step; counts both directions.
    num_layers : int
        Layers, each of one or two directions.
    batch_first : bool
        As given.
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
            self.read(layers)
        else:
            storage, threads = _check.options(storage, threads)
            cells, directions = _check.lstm_parameters(layers, storage, bool(reverse))
            self.pack(cells, directions, limits(clip, gate_clip, input_forget, reverse), storage, threads)
        self.directions = self.options().directions
        self.num_layers = self.options().layers
        self.output_size = self.directions * self.side_size
        self.batch_first = bool(batch_first)

    @classmethod
    def from_torch(cls, source, *, prefix="", batch_first=None, storage="float32", threads=1):
        """An LSTM with the weights of a torch.nn.LSTM, or of its state_dict; see fastgate.weights.

        batch_first is that of the module, where it is not given; a state_dict does not tell. Raises what
        fastgate.weights.from_torch and the class raise.
        """
        from fastgate import weights

        layers, options = weights.from_torch(source, prefix=prefix)
        if batch_first is not None:
            options["batch_first"] = batch_first
        return cls(layers, storage=storage, threads=threads, **options)

    @classmethod
    def from_keras(cls, source, *, prefix="", storage="float32", threads=1):
        """An LSTM with the weights of one of Keras; see fastgate.weights.

        Raises what fastgate.weights.from_keras and the class raise.
        """
        from fastgate import weights

        layers, options = weights.from_keras(source, prefix=prefix)
        return cls(layers, storage=storage, threads=threads, **options)

    @classmethod
    def from_onnx(cls, source, node=None, *, weights=None, storage="float32", threads=1):
        """An LSTM with the weights of a node of an ONNX model; see fastgate.weights.

        Raises what fastgate.weights.from_onnx and the class raise.
        """
        from fastgate.weights import from_onnx

        layers, options = from_onnx(source, node, weights=weights)
        return cls(layers, storage=storage, threads=threads, **options)

    @classmethod
    def load(cls, source, *, batch_first=False):
        """The LSTM that save, or C, wrote: the same bits, storage and number of threads.

        Of a file nothing is read but to check it: it is mapped, and all processes that load it share
        its memory. To change it, replace it, as save does: one that is cut off while it is mapped kills
        its readers.

        Parameters
        ----------
        source : path or bytes-like
            Bytes are copied.
        batch_first : bool
            As of the class: it is how the LSTM is called, and not saved.

        Raises
        ------
        ValueError
            If it is not a saved LSTM of this version and byte order, whole and undamaged. Content from
            anywhere is safe to load.
        OSError
            If the file cannot be read.
        """
        return cls(_Saved(source), batch_first=batch_first)

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
        result = sequence_fast(self, <PyObject *>x, state, lengths, out)
        if result is not None:
            return result
        dtype = self.dtype()
        x, h, c, lengths = _check.sequence(x, state, lengths, self.sizes(),
                                           self.num_layers * self.directions, self.batch_first, dtype)
        target = None
        if out is not None:
            target = _check.output(out, x.shape[:-1] + (self.output_size,), dtype)
        result = sequence_fast(self, <PyObject *>x, (h, c), lengths, None)
        assert result is not None  # _check.sequence left nothing to refuse
        if target is None:
            return result
        y, state = result
        target[...] = y  # computed apart: out may overlap x
        return out, state

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
        from fastgate._gates import gates

        return gates(self, x, state, lengths, layer, direction)

    def stream(self, batch=None):
        """A Stream: it keeps the state, zeros at first, from step to step. batch=B: B independent ones.

        Raises
        ------
        ValueError
            If the LSTM is bidirectional or in reverse: it would have to know the end.
        """
        _check.streamable(self.bidirectional, self.reverse)
        return Stream(self, batch)

    @property
    def bidirectional(self):
        """Whether there are two directions."""
        return self.directions == 2

    @property
    def reverse(self):
        """Whether the one direction is from the last step to the first."""
        return bool(self.options().backwards)

    def __repr__(self):
        return (f"LSTM(input_size={self.input_size}, hidden_size={self.hidden_size}, "
                f"output_size={self.output_size}, num_layers={self.num_layers}, "
                f"bidirectional={self.bidirectional}, batch_first={self.batch_first}, "
                f"reverse={self.reverse}, storage={self.storage!r}, threads={self.threads})")

    def __reduce__(self):
        if type(self) is not LSTM:
            raise TypeError(f"LSTM.__reduce__() needs an LSTM, not {type(self).__name__}")
        layers = [self.unpacked(i) for i in range(self.num_layers * self.directions)]
        if self.directions == 2:
            layers = list(zip(layers[::2], layers[1::2]))
        options = {"batch_first": self.batch_first, "reverse": self.reverse, **self.keywords()}
        return _check.make, ("LSTM", (layers,), options)


cdef bint is_state(PyObject *array, int type, int ndim, size_t layers, size_t batch, size_t size) noexcept:
    """A C-contiguous array (layers, [batch,] size)."""
    if not is_plain(array, type) or not PyArray_IS_C_CONTIGUOUS(<PyArrayObject *>array):
        return False
    cdef npy_intp *dims = PyArray_DIMS(<PyArrayObject *>array)
    if PyArray_NDIM(<PyArrayObject *>array) != ndim or <size_t>dims[0] != layers:
        return False
    return <size_t>dims[ndim - 1] == size and (ndim == 2 or <size_t>dims[1] == batch)


cdef object new_state(LSTM self, int ndim, size_t batch, size_t size, object initial):
    """A copy of an initial state, or zeros."""
    cdef npy_intp dims[3]
    cdef size_t layers = self.num_layers * self.directions
    dims[0], dims[1], dims[ndim - 1] = layers, batch, size
    state = PyArray_EMPTY(ndim, dims, self.type_number, 0)
    cdef size_t nbytes = layers * batch * size * item_size(self.type_number)
    if initial is None:
        memset(data(<PyObject *>state), 0, nbytes)
    else:
        memcpy(data(<PyObject *>state), data(<PyObject *>initial), nbytes)
    return state


cdef object sequence_fast(LSTM self, PyObject *x, object state, object lengths, object out):
    """y, (h_n, c_n) from arrays that can be used as they lie, lengths of int64; None for all others."""
    cdef int type = self.type_number
    if not is_plain(x, type):
        return None
    cdef PyArrayObject *a = <PyArrayObject *>x
    cdef int ndim = PyArray_NDIM(a)
    cdef npy_intp *dims = PyArray_DIMS(a)
    cdef npy_intp *strides = PyArray_STRIDES(a)
    if ndim < 2 or ndim > 3 or <size_t>dims[ndim - 1] != self.input_size:
        return None
    cdef bint swapped = self.batch_first and ndim == 3
    cdef size_t steps = dims[1 if swapped else 0]
    cdef size_t batch = 1 if ndim == 2 else dims[0 if swapped else 1]
    if steps and batch and dims[ndim - 1] > 1 and strides[ndim - 1] != item_size(type):
        return None  # strides of an empty array mean nothing
    cdef ptrdiff_t x_step = elements(strides[1 if swapped else 0], type)
    cdef ptrdiff_t x_row = 0 if ndim == 2 else elements(strides[0 if swapped else 1], type)
    cdef size_t layers = self.num_layers * self.directions
    h = c = None
    if state is not None:
        if not PyTuple_CheckExact(<PyObject *>state) or PyTuple_GET_SIZE(<PyObject *>state) != 2:
            return None
        h, c = <tuple>state
        if not is_state(<PyObject *>h, type, ndim, layers, batch, self.side_size):
            return None
        if not is_state(<PyObject *>c, type, ndim, layers, batch, self.hidden_size):
            return None
    cdef const size_t *counts = NULL
    if lengths is not None:
        if not is_plain(<PyObject *>lengths, NPY_INT64) or ndim == 2 or sizeof(size_t) != 8:
            return None
        if PyArray_NDIM(<PyArrayObject *>lengths) != 1 or not PyArray_IS_C_CONTIGUOUS(
                <PyArrayObject *>lengths):
            return None
        if <size_t>PyArray_DIMS(<PyArrayObject *>lengths)[0] != batch:
            return None
        counts = <const size_t *>data(<PyObject *>lengths)  # a negative one is larger than T
    if out is None:
        y = new_output(type, x, self.output_size)
    elif is_output(<PyObject *>out, type, x, self.output_size) and not overlap(
            x, type, data(<PyObject *>out), steps * batch * self.output_size):
        y = out
    else:
        return None
    h_n = new_state(self, ndim, batch, self.side_size, h)
    c_n = new_state(self, ndim, batch, self.hidden_size, c)
    cdef ptrdiff_t y_row = self.output_size * (steps if swapped else 1)
    cdef ptrdiff_t y_step = self.output_size * (1 if swapped else batch)
    cdef int code
    cdef void *to = data(<PyObject *>y)
    cdef void *h_data = data(<PyObject *>h_n)
    cdef void *c_data = data(<PyObject *>c_n)
    with nogil:
        code = fastgate_lstm_run(self.lstm, steps, batch, PyArray_DATA(a), x_step, x_row, counts, h_data,
                                 c_data, to, y_step, y_row)
    if code == FASTGATE_ERROR_SHAPE:
        return None  # a length that _check.sequence refuses
    if code != FASTGATE_OK:
        raise MemoryError(f"no memory for a sequence of {steps} steps of {batch} rows")
    return y, (h_n, c_n)


# ---- Stream -----------------------------------------------------------------------------------

cdef inline int check_stream(object self) except -1:
    """Cython does not check the self of a method taken from the class, nor that it is all made."""
    if type(self) is not Stream or (<Stream>self).stream == NULL:
        raise TypeError(f"this method needs a Stream, not {type(self).__name__}, or one half made")
    return 0


@cython.final
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
        batch = _check.stream_batch(batch)
        self.source = source
        self.batch = batch
        self.rows = 1 if batch is None else batch
        cdef int code = fastgate_stream_create(&self.stream, source.lstm, self.rows)
        if code == FASTGATE_ERROR_SHAPE:
            raise ValueError("this LSTM has no stream")
        if code != FASTGATE_OK:
            raise MemoryError(f"no memory for {self.rows} streams")
        lead = () if batch is None else (batch,)
        self.out_shape = (*lead, source.side_size)
        if isinstance(source, LSTM):
            lead = (source.options().layers, *lead)
        self.h_shape, self.c_shape = (*lead, source.side_size), (*lead, source.hidden_size)

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
        check_stream(self)
        cdef int type = self.source.type_number
        cdef fastgate_part part = [NULL, 0, 0]
        if (not as_part(<PyObject *>x, type, &part) or part.size != self.source.input_size
                or not self.fits(<PyObject *>x)):
            x = _check.stream_input(x, self.batch, self.source.input_size, self.source.dtype())
            as_part(<PyObject *>x, type, &part)
        if out is None:
            y = new_output(type, <PyObject *>x, self.source.side_size)
        elif is_output(<PyObject *>out, type, <PyObject *>x, self.source.side_size):
            y = out
        else:
            y = _check.output(out, self.out_shape, self.source.dtype())
        cdef void *to = data(<PyObject *>y)
        if self.rows * self.source.nbytes < NOGIL_BYTES:
            fastgate_stream_step(self.stream, part.data, part.stride, to, self.source.side_size)
        else:
            with nogil:
                fastgate_stream_step(self.stream, part.data, part.stride, to, self.source.side_size)
        return y if out is None else out

    cdef inline bint fits(self, PyObject *x) noexcept:
        """Whether an array has the axes of an input; the last one's length is known."""
        if self.batch is None:
            return PyArray_NDIM(<PyArrayObject *>x) == 1
        return (PyArray_NDIM(<PyArrayObject *>x) == 2
                and <size_t>PyArray_DIMS(<PyArrayObject *>x)[0] == self.rows)

    @property
    def state(self):
        """Copies of h and c, (num_layers, [B,] size), of an LSTMCell ([B,] size). Can be set."""
        check_stream(self)
        h, c = np.empty(self.h_shape, self.source.dtype()), np.empty(self.c_shape, self.source.dtype())
        fastgate_stream_get_state(self.stream, data(<PyObject *>h), data(<PyObject *>c))
        return h, c

    @state.setter
    def state(self, state):
        check_stream(self)
        h, c = _check.states(state, self.h_shape, self.c_shape, self.source.dtype())
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
        check_stream(self)
        cdef const unsigned char[::1] chosen = None
        cdef size_t b
        if self.source.side_size == 0:
            return  # rows without elements may be more than can be counted
        if rows is not None:
            chosen = _check.stream_rows(rows, self.batch).view(np.uint8)
        for b in range(self.rows):
            if chosen is None or chosen[b]:
                fastgate_stream_reset(self.stream, b)

    def __repr__(self):
        return f"<stream of {self.source!r}, batch={self.batch}>"

    def __reduce__(self):
        check_stream(self)
        return _check.make_stream, (self.source, self.batch, *self.state)
