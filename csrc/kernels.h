/* The packed form, the order of summation and the kernel table.  Private to csrc. */
#ifndef FASTGATE_KERNELS_H
#define FASTGATE_KERNELS_H

#include "fastgate.h"

#pragma GCC visibility push(hidden)

/*
 * The order of summation, on which every bit of a result depends.  A row's inputs are taken in spans
 * of FG_SPAN_BYTES: 1024 float or 512 double.  Within a span, of C = 16 chains of float or 8 of double,
 * chain c adds the products of inputs c, c + C, c + 2 C, ... by fma, from zero.  For j = 0 to 3 the sum
 * (chain[j] + chain[j+4]) + (chain[j+8] + chain[j+12]), of double its first half, is added to the row's
 * total, which starts as the bias.  In rows of up to FG_SHORT inputs or of more than one span, the
 * rounding error of this last addition, exact, is kept aside, and added at the end.
 *
 * Between the two lengths these errors are too small beside those of the chains to be worth it: the
 * error stays below that of NumPy's product at every length (tests/test_accuracy.py).  A row-major
 * row is summed C columns at a time without shuffles, and a kernel whose lanes are rows needs few
 * registers a vector of rows.
 */
#define FG_SPAN_BYTES 4096
#define FG_SHORT 64

static inline size_t fg_real_bytes(fastgate_storage storage)
{
    return storage == FASTGATE_FLOAT64 ? sizeof(double) : sizeof(float);
}

/*
 * A panel is as many rows of [bias, W] as a line of 64 bytes holds biases: 16, or 8 of double.  That
 * is one AVX-512 register, two of AVX2, four of NEON.  A block is four panels walked together, or one
 * to four at the end.  Blocks follow one another; a block is first the biases of each of its panels,
 * then, input by input in the order of summation, the weights of each.  Rows past the last are zero.
 * So a gate is read front to back, and no ISA meets an incomplete vector.
 *
 * bfloat16 weights of a panel lie in the order of rows 0, 8, 1, 9, ..., 7, 15: as 32-bit words they
 * are two vectors of float, one in the upper halves, one to be shifted there.
 *
 * int8: after the biases of each panel their scales, float; then, for each span of FG_INT8_SPAN inputs,
 * the sums of the weights of each row, int32_t; then the weights of four inputs after the other, row
 * by row.  Exact sums need no order.  Inputs past the last have weight 0.
 */
#define FG_LINE 64
#define FG_PANELS 4 /* in a block */
#define FG_QUAD 4   /* inputs */
#define FG_INT8_SPAN 4096

static inline size_t fg_int8_spans(size_t columns)
{
    return columns / FG_INT8_SPAN + (columns % FG_INT8_SPAN != 0);
}

static inline size_t fg_panel_rows(fastgate_storage storage) /* and chains */
{
    return FG_LINE / fg_real_bytes(storage);
}

/* Bytes of the weights of one input, for a panel. */
static inline size_t fg_line_bytes(fastgate_storage storage)
{
    return storage == FASTGATE_FLOAT16 || storage == FASTGATE_BFLOAT16 ? FG_LINE / 2 : FG_LINE;
}

static inline size_t fg_panel_bytes(fastgate_storage storage, size_t columns)
{
    if (storage == FASTGATE_INT8)
        return (2 + fg_int8_spans(columns) + (columns + FG_QUAD - 1) / FG_QUAD) * FG_LINE;
    return FG_LINE + columns * fg_line_bytes(storage);
}

/* [bias, W]: element (i, k) of W is weight[i * row_stride + k * column_stride]; bias may be NULL. */
typedef struct {
    const void *weight;
    ptrdiff_t row_stride, column_stride;
    const void *bias;
    size_t rows, columns;
} fg_matrix;

/* What becomes of the sums z = W x + bias. */
typedef enum {
    FG_SIGMOID, /* y (rows,) = sigma(z) */
    FG_LINEAR,  /* y (rows,) = z */
    FG_CELL     /* y (units,) = h and cell->c_out (units,), of an LSTM */
} fg_ending;

/*
 * An LSTM's cell.  A block of its packed weights is the four gates i, f, g, o of as many units as a panel
 * has rows: a panel each, so that a walk along the block ends with all that these units need.  Units
 * past the last, up to a whole panel, have weights and biases of zero.
 */
typedef struct {
    size_t units;
    const void *c; /* (batch, units) */
    void *c_out;   /* the same, which may be c */
    ptrdiff_t c_stride, c_out_stride;
    const void *peephole; /* (3, units rounded up to whole panels), of i, f and o; or NULL */
    double clip, gate_clip; /* of c, and of what the activations take; INFINITY for none */
    int input_forget; /* f = 1 - i */
} fg_cell;

/* A packed gate and what it is called on. */
typedef struct {
    const char *packed;
    size_t rows, columns;
    const fastgate_part *parts; /* their sizes add up to columns */
    void *y;
    ptrdiff_t y_stride;
    fg_ending ending;
    const fg_cell *cell; /* of FG_CELL */
} fg_call;

/*
 * y = the ending of W x + bias, of the rows in blocks [first_block, first_block + blocks) and of the rows
 * [first, first + count) of x.  The first walk past the blocks is from the last to the first if
 * `backwards`, every other one turns around; returns the direction for the next.
 */
typedef int fg_packed_kernel(const fg_call *call, size_t first_block, size_t blocks, size_t first,
                             size_t count, int backwards);

typedef struct {
    fg_packed_kernel *packed[FASTGATE_FLOAT64 + 1]; /* by storage */

    /* y (rows,) = sigma(W x + bias), from a matrix where it lies */
    void (*strided)(const fg_matrix *m, const void *x, void *y);
} fg_kernels;

/* packed = the packed form of m: its panels times fg_panel_bytes.  FASTGATE_ERROR_VALUE if a weight does
 * not fit the storage. */
int fg_pack(char *packed, fastgate_storage storage, const fg_matrix *m);

/* weight (rows, columns), row-major, and bias (rows,) = what was packed, as rounded */
void fg_unpack(const char *packed, fastgate_storage storage, size_t rows, size_t columns,
               void *weight, void *bias);

/* Bytes of the packed form; SIZE_MAX if they, with room to align them, do not fit ptrdiff_t. */
size_t fg_packed_bytes(fastgate_storage storage, size_t output_size, size_t input_size);

/* A gate of weights that are packed, and stay where they are; threads are as for fastgate_gate_create. */
int fg_create_in_place(fastgate_gate **gate, fastgate_storage storage, size_t output_size,
                       size_t input_size, unsigned threads, const char *packed);

/* The packed form, fg_packed_bytes of it. */
void fg_copy_packed(void *to, const fastgate_gate *gate);

/* The kernels that fastgate_select_isa chose, or the best usable ones, for the storage. */
const fg_kernels *fg_active_kernels(fastgate_storage storage);

/* A gate's call with any ending; parts that do not add up, no batch or no outputs are answered as by
 * fastgate_gate_run. */
int fg_run(const fastgate_gate *gate, size_t batch, const fastgate_part *parts, size_t part_count,
           void *y, ptrdiff_t y_stride, fg_ending ending, const fg_cell *cell);

/* No more threads than this share a call. */
#define FG_THREAD_LIMIT 256

/* The threads for a gate created with `asked`: those, or what fastgate_override_threads says. */
unsigned fg_threads_of(unsigned asked);

/*
 * Calls task(context, i) once for each i < count, on up to `threads` threads with the calling one
 * among them, and returns when all calls have returned.  For the same threads and count, a thread
 * begins with the same run of i, in order.  While another call has the workers, and from within a
 * task, all run on the calling thread.  A task must not fork.
 *
 * Workers sleep when they have had nothing to do for a while, and waking one can take the caller 20
 * microseconds.  With `wake` they are woken, for a job that is longer; otherwise only if the last
 * call that found them asleep was a moment ago, so that many small calls in a row do share, and one
 * now and then is run by the caller and by those who are awake.
 */
void fg_share(unsigned threads, size_t count, int wake, void (*task)(void *context, size_t i),
              void *context);

#pragma GCC visibility pop

#endif
