# cython: language_level=3
"""The extension types. A Cython module that is compiled and linked with the same wheel can use their C objects:

    from fastgate._core cimport Gate
    cdef int run(Gate g, const fastgate_part *x, float *y): return fastgate_gate_run(g.gate, 1, x, 1, y, 0)

It must hold the Python object meanwhile, which frees the C object in the end.
"""
from cpython.object cimport PyObject

from fastgate cimport *


# object (*)(self, args, nargsf, kwnames), as in PEP 590
ctypedef object (*vectorcall)(object, PyObject **, size_t, PyObject *)


cdef class _Saved:
    cdef object source
    cdef const unsigned char[::1] view
    cdef const void *data
    cdef size_t size
    cdef int check(self, int code, str kind) except -1


cdef class Gate:
    cdef vectorcall vectorcall
    cdef fastgate_gate *gate
    cdef _Saved saved  # of a loaded gate: the memory that `gate` reads; otherwise None
    cdef int type_number  # NumPy's number of the dtype of x, bias and y
    cdef readonly str storage
    cdef readonly size_t output_size
    cdef readonly size_t input_size
    cdef readonly size_t nbytes
    cdef int read(self, _Saved saved) except -1
    cdef void own(self, fastgate_gate *gate) noexcept


cdef class BoundGate:
    cdef vectorcall vectorcall
    cdef Gate owner
    cdef fastgate_part *parts
    cdef size_t part_count
    cdef size_t batch
    cdef void *y
    cdef object out
    cdef list views


cdef class _Recurrent:
    cdef fastgate_lstm *lstm
    cdef _Saved saved
    cdef int type_number
    cdef size_t layers, directions
    cdef bint batch_is_first
    cdef size_t direction_size  # elements of h in one direction
    cdef readonly str storage
    cdef readonly size_t input_size
    cdef readonly size_t hidden_size
    cdef readonly size_t nbytes
    cdef int pack(self, list cells, size_t directions, dict options, str storage,
                  unsigned threads) except -1
    cdef int read(self, _Saved saved, batch_first=*) except -1
    cdef void own(self, fastgate_lstm *lstm) noexcept
    cdef object dtype(self)
    cdef const fastgate_lstm_options *options(self) noexcept
    cdef dict unpacked(self, size_t index)
    cdef dict keywords(self)


cdef class LSTMCell(_Recurrent):
    cdef vectorcall vectorcall


cdef class LSTM(_Recurrent):
    pass


cdef class Stream:
    cdef fastgate_stream *stream
    cdef readonly _Recurrent source
    cdef readonly object batch  # None or the number of rows
    cdef size_t rows
    cdef size_t running  # steps that are running without the GIL
    cdef tuple h_shape
    cdef tuple c_shape
    cdef int check_same(self, size_t batch) except -1
    cdef void advance(self, const size_t *indices, size_t count, const fastgate_part *x, void *y) noexcept nogil
    cdef bint fits(self, object x, object chosen) noexcept
