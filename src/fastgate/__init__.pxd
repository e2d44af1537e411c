# cython: language_level=3
"""The C API; fastgate.h documents it. The functions raise no Python exceptions and do not need the GIL.

    cimport fastgate    # compile with fastgate.get_include(), link with the flags of python -m fastgate --libs

A module that is linked in this way has its own copy of the library. fastgate_select_isa and fastgate_override_threads
affect only the calls of that copy, and the environment variables FASTGATE_ISA and FASTGATE_THREADS do not affect it.
"""


cdef extern from "fastgate.h" nogil:
    const char *FASTGATE_VERSION
    int FASTGATE_VERSION_MAJOR
    int FASTGATE_VERSION_MINOR
    int FASTGATE_VERSION_PATCH
    int FASTGATE_FORMAT

    const char *fastgate_version()

    enum:
        FASTGATE_OK
        FASTGATE_ERROR_MEMORY
        FASTGATE_ERROR_SHAPE
        FASTGATE_ERROR_ISA
        FASTGATE_ERROR_VALUE
        FASTGATE_ERROR_FORMAT
        FASTGATE_ERROR_FILE
        FASTGATE_ERROR_VERSION
        FASTGATE_ERROR_INTERRUPTED

    const char *fastgate_strerror(int code)

    const char *fastgate_isa_name(size_t index)
    bint fastgate_isa_usable(size_t index)
    const char *fastgate_isa()
    int fastgate_select_isa(const char *name)

    unsigned fastgate_cpu_count()
    void fastgate_override_threads(unsigned threads)
    void fastgate_set_interrupt(int (*asked)() noexcept nogil)

    ctypedef struct fastgate_gate:
        pass

    ctypedef enum fastgate_storage:
        FASTGATE_FLOAT32
        FASTGATE_FLOAT16
        FASTGATE_BFLOAT16
        FASTGATE_INT8
        FASTGATE_FLOAT64

    ctypedef struct fastgate_part:
        const void *data
        size_t size
        ptrdiff_t stride

    int fastgate_gate_create(fastgate_gate **gate, fastgate_storage storage, size_t output_size,
                             size_t input_size, const void *weight, ptrdiff_t row_stride,
                             ptrdiff_t column_stride, const void *bias, unsigned threads)
    void fastgate_gate_free(fastgate_gate *gate)
    size_t fastgate_gate_output_size(const fastgate_gate *gate)
    size_t fastgate_gate_input_size(const fastgate_gate *gate)
    fastgate_storage fastgate_gate_storage(const fastgate_gate *gate)
    unsigned fastgate_gate_threads(const fastgate_gate *gate)
    size_t fastgate_gate_nbytes(const fastgate_gate *gate)
    void fastgate_gate_unpack(const fastgate_gate *gate, void *weight, void *bias)
    int fastgate_gate_run(const fastgate_gate *gate, size_t batch, const fastgate_part *parts,
                          size_t part_count, void *y, ptrdiff_t y_stride)
    int fastgate_gate_once(fastgate_storage storage, size_t output_size, size_t input_size,
                           const void *weight, ptrdiff_t row_stride, ptrdiff_t column_stride,
                           const void *bias, size_t batch, const void *x, ptrdiff_t x_stride, void *y,
                           ptrdiff_t y_stride)
    size_t fastgate_gate_saved_size(const fastgate_gate *gate)
    void fastgate_gate_save(const fastgate_gate *gate, void *buffer)
    int fastgate_gate_load(fastgate_gate **gate, const void *buffer, size_t size)
    int fastgate_gate_save_file(const fastgate_gate *gate, const char *path)
    int fastgate_gate_load_file(fastgate_gate **gate, const char *path)

    ctypedef struct fastgate_lstm:
        pass

    ctypedef struct fastgate_lstm_options:
        fastgate_storage storage
        size_t input_size
        size_t hidden_size
        size_t projection_size
        size_t layers
        unsigned directions
        bint backwards
        bint input_forget
        double clip
        double gate_clip
        unsigned threads
        bint batch_first

    ctypedef struct fastgate_lstm_weights:
        const void *weight_ih
        const void *weight_hh
        const void *bias
        const void *peephole
        const void *projection

    int fastgate_lstm_create(fastgate_lstm **lstm, const fastgate_lstm_options *options,
                             const fastgate_lstm_weights *weights)
    void fastgate_lstm_free(fastgate_lstm *lstm)
    const fastgate_lstm_options *fastgate_lstm_get_options(const fastgate_lstm *lstm)
    size_t fastgate_lstm_output_size(const fastgate_lstm *lstm)
    size_t fastgate_lstm_nbytes(const fastgate_lstm *lstm)
    bint fastgate_lstm_has_peephole(const fastgate_lstm *lstm, size_t index)
    void fastgate_lstm_unpack(const fastgate_lstm *lstm, size_t index, void *weight_ih, void *weight_hh,
                              void *bias, void *peephole, void *projection)
    size_t fastgate_lstm_saved_size(const fastgate_lstm *lstm)
    void fastgate_lstm_save(const fastgate_lstm *lstm, void *buffer)
    int fastgate_lstm_load(fastgate_lstm **lstm, const void *buffer, size_t size)
    int fastgate_lstm_save_file(const fastgate_lstm *lstm, const char *path)
    int fastgate_lstm_load_file(fastgate_lstm **lstm, const char *path)
    int fastgate_lstm_step(const fastgate_lstm *lstm, size_t batch, const void *x, ptrdiff_t x_stride,
                           const void *h, const void *c, void *h_out, void *c_out, void *scratch)
    int fastgate_lstm_run(const fastgate_lstm *lstm, size_t steps, size_t batch, const void *x,
                          ptrdiff_t x_step, ptrdiff_t x_row, const size_t *lengths, void *h, void *c,
                          void *y, ptrdiff_t y_step, ptrdiff_t y_row)

    ctypedef struct fastgate_stream:
        pass

    int fastgate_stream_create(fastgate_stream **stream, const fastgate_lstm *lstm, size_t batch)
    void fastgate_stream_free(fastgate_stream *stream)
    void fastgate_stream_step(fastgate_stream *stream, const void *x, ptrdiff_t x_stride, void *y,
                              ptrdiff_t y_stride)
    void fastgate_stream_step_rows(fastgate_stream *stream, const size_t *rows, size_t count, const void *x,
                                   ptrdiff_t x_stride, void *y, ptrdiff_t y_stride)
    void fastgate_stream_reset(fastgate_stream *stream, size_t b)
    void fastgate_stream_get_state(const fastgate_stream *stream, void *h, void *c)
    void fastgate_stream_set_state(fastgate_stream *stream, const void *h, const void *c)
