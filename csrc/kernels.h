/* The packed form, the order of summation and the kernel table.  Private to csrc. */
#ifndef FASTGATE_KERNELS_H
#define FASTGATE_KERNELS_H

#include "fastgate.h"

/*
 * A panel is 16 rows of [bias, W]: one AVX-512 register, two of AVX2, four of NEON.  A block is four
 * panels walked together, or one to four at the end.  Blocks are stored k-major and follow one
 * another: line 0 is the biases of the block's rows, line k + 1 the weights of input k, a line being
 * 16 floats for each panel.  Rows past the last are zero.  So a whole gate is read front to back,
 * and no ISA meets an incomplete vector.
 */
#define FG_PANEL 16
#define FG_BLOCK_PANELS 4
#define FG_BLOCK (FG_BLOCK_PANELS * FG_PANEL)

#define FG_MAX_CHUNK 64

/*
 * The order of summation.  A row's products are added by fma in chunks of this many inputs, from
 * zero; the chunks' sums are added to the bias one by one, the rounding errors of these additions
 * kept aside and added last.  So the error is that of one chunk, whatever input_size is.  The
 * lengths are the longest, so the cheapest, that stay well below the error of eight interleaved
 * float32 sums, which is how OpenBLAS adds on x86-64: see tests/test_accuracy.py.
 */
static inline size_t fg_chunk(size_t input_size)
{
    if (input_size < 64)
        return 4;
    if (input_size < 128)
        return 8;
    if (input_size < 320)
        return 16;
    if (input_size < 480)
        return 32;
    return input_size < 640 ? 48 : FG_MAX_CHUNK;
}

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
    /* to = the packed form of m */
    void (*pack)(float *to, const fg_matrix *m);

    /* y (rows,) = sigma(W x + bias); block by block from the last to the first if backwards */
    void (*packed)(const float *packed, size_t rows, size_t columns, fg_vector x, float *y,
                   int backwards);

    /* the same from a matrix where it lies */
    void (*strided)(const fg_matrix *m, fg_vector x, float *y);
} fg_kernels;

/* The kernels that fastgate_select_isa chose, or the best usable ones. */
const fg_kernels *fg_active_kernels(void);

#endif
