/* The packed form, the order of summation and the kernel table.  Private to csrc. */
#ifndef FASTGATE_KERNELS_H
#define FASTGATE_KERNELS_H

#include "fastgate.h"

#pragma GCC visibility push(hidden)

/*
 * The order of summation, on which every bit of a result depends.  A row's inputs are taken in spans
 * of FG_SPAN.  Within a span, chain c (c < FG_CHAINS) adds the products of inputs c, c + 16, c + 32, ...
 * by fma, from zero.  For j = 0 to 3 the sum (chain[j] + chain[j+4]) + (chain[j+8] + chain[j+12]) is
 * added to the row's total, which starts as the bias; the rounding error of this addition, exact,
 * is kept aside, and these errors are added last.
 *
 * So the error is that of a chain of at most 64 and of two additions, whatever the length (it is
 * compared with NumPy's in tests/test_accuracy.py); a row-major row is summed 16 columns at a time
 * without shuffles; and a kernel whose lanes are rows needs five registers a vector of rows.
 */
#define FG_CHAINS 16
#define FG_SPAN (64 * FG_CHAINS)

/*
 * A panel is 16 rows of [bias, W]: one AVX-512 register, two of AVX2, four of NEON.  A block is four
 * panels walked together, or one to four at the end.  Blocks follow one another; a block is lines
 * of 16 floats for each of its panels: first the biases of its rows, then the weights of one input
 * a line, in the order of summation.  Rows past the last are zero.  So a gate is read front to back,
 * and no ISA meets an incomplete vector.
 */
#define FG_PANEL 16
#define FG_BLOCK (4 * FG_PANEL)

/* [bias, W]: element (i, k) of W is weight[i * row_stride + k * column_stride]; bias may be NULL. */
typedef struct {
    const float *weight;
    ptrdiff_t row_stride, column_stride;
    const float *bias;
    size_t rows, columns;
} fg_matrix;

/* Row b of x, given as parts whose sizes add up to the columns of W. */
typedef struct {
    const fastgate_part *parts;
    size_t b;
} fg_vector;

typedef struct {
    /* y (rows,) = sigma(W x + bias); block by block from the last to the first if backwards */
    void (*packed)(const float *packed, size_t rows, size_t columns, fg_vector x, float *y,
                   int backwards);

    /* the same from a matrix where it lies */
    void (*strided)(const fg_matrix *m, const float *x, float *y);
} fg_kernels;

/* packed = the packed form of m; rows rounded up to FG_PANEL, times 1 + columns, floats */
void fg_pack(float *packed, const fg_matrix *m);

/* weight (rows, columns), row-major, and bias (rows,) = what was packed */
void fg_unpack(const float *packed, size_t rows, size_t columns, float *weight, float *bias);

/* The kernels that fastgate_select_isa chose, or the best usable ones. */
const fg_kernels *fg_active_kernels(void);

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
