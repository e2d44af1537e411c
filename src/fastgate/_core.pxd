# cython: language_level=3
from cpython.object cimport PyObject


cdef extern from "fastgate.h":
    const char *FASTGATE_VERSION
    enum:
        FASTGATE_OK

    ctypedef struct fastgate_gate:
        pass

    ctypedef struct fastgate_part:
        const float *data
        size_t size
        ptrdiff_t stride

    const char *fastgate_isa_name(size_t index)
    bint fastgate_isa_usable(size_t index)
    const char *fastgate_isa()
    int fastgate_select_isa(const char *name)

    int fastgate_gate_create(fastgate_gate **gate, size_t output_size, size_t input_size,
                             const float *weight, ptrdiff_t row_stride, ptrdiff_t column_stride,
                             const float *bias)
    void fastgate_gate_free(fastgate_gate *gate)
    size_t fastgate_gate_nbytes(const fastgate_gate *gate)
    void fastgate_gate_unpack(const fastgate_gate *gate, float *weight, float *bias)
    int fastgate_gate_run(const fastgate_gate *gate, size_t batch, const fastgate_part *parts,
                          size_t part_count, float *y, ptrdiff_t y_stride) nogil
    void fastgate_gate_once(size_t output_size, size_t input_size, const float *weight,
                            ptrdiff_t row_stride, ptrdiff_t column_stride, const float *bias,
                            size_t batch, const float *x, ptrdiff_t x_stride, float *y,
                            ptrdiff_t y_stride) nogil


# object (*)(self, args, nargsf, kwnames), as in PEP 590
ctypedef object (*vectorcall)(object, PyObject **, size_t, PyObject *)


cdef class Gate:
    cdef vectorcall vectorcall
    cdef fastgate_gate *gate
    cdef readonly size_t output_size
    cdef readonly size_t input_size


cdef class BoundGate:
    cdef vectorcall vectorcall
    cdef Gate owner
    cdef fastgate_part *parts
    cdef size_t part_count
    cdef size_t batch
    cdef float *y
    cdef object out
    cdef list views
