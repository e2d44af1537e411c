# cython: language_level=3
from cpython.object cimport PyObject


cdef extern from "fastgate.h":
    const char *FASTGATE_VERSION
    enum:
        FASTGATE_OK
        FASTGATE_ERROR_VALUE

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

    const char *fastgate_isa_name(size_t index)
    bint fastgate_isa_usable(size_t index)
    const char *fastgate_isa()
    int fastgate_select_isa(const char *name)

    void fastgate_override_threads(unsigned threads)

    int fastgate_gate_create(fastgate_gate **gate, fastgate_storage storage, size_t output_size,
                             size_t input_size, const void *weight, ptrdiff_t row_stride,
                             ptrdiff_t column_stride, const void *bias, unsigned threads)
    void fastgate_gate_free(fastgate_gate *gate)
    unsigned fastgate_gate_threads(const fastgate_gate *gate)
    size_t fastgate_gate_nbytes(const fastgate_gate *gate)
    void fastgate_gate_unpack(const fastgate_gate *gate, void *weight, void *bias)
    int fastgate_gate_run(const fastgate_gate *gate, size_t batch, const fastgate_part *parts,
                          size_t part_count, void *y, ptrdiff_t y_stride) nogil
    int fastgate_gate_once(fastgate_storage storage, size_t output_size, size_t input_size,
                           const void *weight, ptrdiff_t row_stride, ptrdiff_t column_stride,
                           const void *bias, size_t batch, const void *x, ptrdiff_t x_stride,
                           void *y, ptrdiff_t y_stride) nogil


# object (*)(self, args, nargsf, kwnames), as in PEP 590
ctypedef object (*vectorcall)(object, PyObject **, size_t, PyObject *)


cdef class Gate:
    cdef vectorcall vectorcall
    cdef fastgate_gate *gate
    cdef int type_number  # NumPy's, of x, bias and y
    cdef readonly str storage
    cdef readonly size_t output_size
    cdef readonly size_t input_size
    cdef readonly size_t nbytes


cdef class BoundGate:
    cdef vectorcall vectorcall
    cdef Gate owner
    cdef fastgate_part *parts
    cdef size_t part_count
    cdef size_t batch
    cdef void *y
    cdef object out
    cdef list views
