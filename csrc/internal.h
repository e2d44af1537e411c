/* What the files of csrc share: the order of summation, the packed form, kernels, saved buffers.  Private to csrc. */
#ifndef FASTGATE_INTERNAL_H
#define FASTGATE_INTERNAL_H

#include "fastgate.h"

#include <math.h>
#include <stdatomic.h>
#include <stdint.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "packed bfloat16 and int8 weights are little-endian words"
#endif

#pragma GCC visibility push(hidden)

static inline size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/*
 * The order of summation, on which every bit of a result depends.  The inputs of a row are one segment, in a
 * gate, or two, in an LSTM's gates: those from x and those from h.  Each segment is taken in spans of FG_SPAN
 * inputs, the last of which may be shorter:
 *
 *     total = bias
 *     for each segment, for each span, in order:
 *         sum = 0
 *         for k in span: sum = fma(w[k], x[k], sum)
 *         total = total + sum
 *     z = total
 *
 * So an accumulator stays in its register for a whole span, in a single call and in a batch alike, x is read where it
 * lies, and the products with x can be computed ahead for a whole sequence of an LSTM: they hand over one number a row.
 */
#define FG_SPAN 256

static inline size_t fg_real_bytes(fastgate_storage storage)
{
    return storage == FASTGATE_FLOAT64 ? sizeof(double) : sizeof(float);
}

/*
 * A panel is 16 consecutive rows of [bias, W], or 8 of double, so that their biases fill a line of 64 bytes: one
 * AVX-512 register, two of AVX2, four of NEON.  Panels follow one another.  Each is contiguous: a line of biases, then
 * for each input the weights of the panel's rows, a line or, for 16-bit storages, half a line; then zeros up to a whole
 * line.  Rows past the last are zero.  A block is four panels; the last block may have fewer.
 *
 * bfloat16: the weights of two inputs of a segment share a line, of words of 32 bits: row r of the first in the lower
 * half of word r, of the second in the upper half, so that a shift or a mask makes floats of them.
 *
 * int8: after the biases a line of scales, float; then for each span of up to FG_INT8_SPAN inputs of a segment a
 * line of the sums of its weights, int32_t, and for every four inputs a line of their weights, row by row.  Inputs
 * past the last of a span have weight 0.
 */
#define FG_LINE 64
#define FG_PANELS 4 /* in a block */
#define FG_QUAD 4   /* inputs */
#define FG_INT8_SPAN 512

static inline size_t fg_int8_spans(size_t columns)
{
    return columns / FG_INT8_SPAN + (columns % FG_INT8_SPAN != 0);
}

static inline size_t fg_panel_rows(fastgate_storage storage)
{
    return FG_LINE / fg_real_bytes(storage);
}

/* Bytes of the weights of one input, for a panel, on average; not of int8. */
static inline size_t fg_input_bytes(fastgate_storage storage)
{
    return storage == FASTGATE_FLOAT16 || storage == FASTGATE_BFLOAT16 ? FG_LINE / 2 : FG_LINE;
}

/* Bytes of the weights of a segment, or of whole spans of it, for a panel. */
static inline size_t fg_segment_bytes(fastgate_storage storage, size_t columns)
{
    if (storage == FASTGATE_INT8)
        return (fg_int8_spans(columns) + (columns + FG_QUAD - 1) / FG_QUAD) * FG_LINE;
    if (storage == FASTGATE_BFLOAT16)
        columns += columns % 2;
    return columns * fg_input_bytes(storage);
}

/* Bytes before the weights of a panel: its biases, and the scales of int8. */
static inline size_t fg_head_bytes(fastgate_storage storage)
{
    return storage == FASTGATE_INT8 ? 2 * FG_LINE : FG_LINE;
}

static inline size_t fg_panel_bytes(fastgate_storage storage, const size_t segments[2])
{
    const size_t bytes = fg_segment_bytes(storage, segments[0]) + fg_segment_bytes(storage, segments[1]);
    return fg_head_bytes(storage) + (bytes + FG_LINE - 1) / FG_LINE * FG_LINE;
}

/* [bias, W]: element (i, k) of W is weight[i * row_stride + k * column_stride]; bias may be NULL. */
typedef struct {
    const void *weight;
    ptrdiff_t row_stride, column_stride;
    const void *bias;
    size_t rows, segments[2]; /* inputs in each segment; their sum is the number of columns */
} fg_matrix;

/* What a call computes from the sums z = W x + bias. */
typedef enum {
    FG_SIGMOID, /* y (rows,) = sigma(z) */
    FG_LINEAR,  /* y (rows,) = z */
    FG_CELL     /* y (units,) = h and cell->c_out (units,), of an LSTM */
} fg_ending;

/*
 * An LSTM's cell.  A block of its packed weights is the four gates i, f, g, o of as many units as a panel
 * has rows: a panel each, so that one pass over a block gives all that these units need.  Units
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

/*
 * A packed gate and what it is called on.  A call takes one segment or both.  Totals begin as the biases or, if it is
 * not NULL, as `start` (batch, rows of whole blocks), which may be what a call with FG_LINEAR gave.
 */
typedef struct {
    const char *packed;
    size_t rows, segments[2];
    size_t first_segment, last_segment; /* the segments [first, last) */
    const fastgate_part *parts; /* their sizes add up to those of these segments */
    const void *start;          /* or NULL */
    ptrdiff_t start_stride;
    void *y;
    ptrdiff_t y_stride;
    fg_ending ending;
    const fg_cell *cell; /* of FG_CELL */
} fg_call;

/* y = the ending of W x + bias, of the rows in blocks [first_block, first_block + blocks) and of the rows
 * [first, first + count) of x. */
typedef void fg_packed_kernel(const fg_call *call, size_t first_block, size_t blocks, size_t first, size_t count);

typedef struct {
    fg_packed_kernel *packed[FASTGATE_FLOAT64 + 1]; /* by storage; NULL where another table has it */

    /* y (rows,) = sigma(W x + bias), from a matrix where it lies, of one segment; NULL likewise */
    void (*once)(const fg_matrix *m, const void *x, void *y);
} fg_kernels;

/* packed = the packed form of m: its panels times fg_panel_bytes.  FASTGATE_ERROR_VALUE if a weight does
 * not fit the storage. */
int fg_pack(char *packed, fastgate_storage storage, const fg_matrix *m);

/* weight (rows, columns), row-major, and bias (rows,) = what was packed, as rounded */
void fg_unpack(const char *packed, fastgate_storage storage, size_t rows, const size_t segments[2], void *weight,
               void *bias);

/*
 * Whether fg_pack may have written what is there, so that what is unpacked and packed again is the same: all padding is
 * zero, halves are what a float can become, and the scales and sums of int8 are those of its weights.  Free are all
 * bits of a float or double, those of a NaN included, and infinities and quiet NaNs among the halves.  `group` panels
 * have their first rows in use alike, and together as many as `rows` says: 1 in a gate, 4 in an LSTM's gates.
 */
int fg_is_packed(const char *packed, fastgate_storage storage, size_t rows, size_t group, const size_t segments[2],
                 int has_bias);

/* Whether each line of `line` bytes is zero past the first `used`. */
int fg_is_zero_past(const void *lines, size_t bytes, size_t line, size_t used);

/* Bytes of the packed form; SIZE_MAX if they, with room to align them, do not fit ptrdiff_t. */
size_t fg_packed_bytes(fastgate_storage storage, size_t output_size, const size_t segments[2]);

/* As fastgate_gate_create; of a matrix in one or two segments. */
int fg_create(fastgate_gate **gate, fastgate_storage storage, const fg_matrix *m, unsigned threads);

/* A gate of weights that are packed, and stay where they are; threads are as for fastgate_gate_create. */
int fg_create_in_place(fastgate_gate **gate, fastgate_storage storage, size_t output_size, const size_t segments[2],
                       unsigned threads, const char *packed);

/* The packed form, fg_packed_bytes of it. */
void fg_copy_packed(void *to, const fastgate_gate *gate);

/* Runs a call on a batch.  Packed, rows and segments are filled in from the gate.  1 if it was interrupted. */
int fg_run(const fastgate_gate *gate, size_t batch, fg_call *call);

/* The kernels that fastgate_select_isa chose, or the best usable ones. */
fg_packed_kernel *fg_active_kernel(fastgate_storage storage);
void fg_run_once(fastgate_storage storage, const fg_matrix *m, const void *x, void *y);

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

/*
 * What a call costs is counted in bytes of weights that it reads, in a batch about one fourth of them for each row of
 * x.  Sharing gains from about 5 microseconds of work on, and waking a thread from about 150 on.  Calls of less than
 * FG_WATCH_COST cannot be interrupted.
 */
#define FG_SHARE_COST (384 * 1024)
#define FG_WAKE_COST (4 * 1024 * 1024)
#define FG_WATCH_COST (4 * 1024 * 1024)

/* A call that may be interrupted; between fg_begin and fg_end it is that of its thread, and of workers in its tasks. */
typedef struct {
    int (*asked)(void); /* or NULL */
    atomic_int interrupted;
    size_t left;    /* of the work until the clock is read */
    uint64_t since; /* when it began or last asked, in ns */
} fg_watch;

void fg_watch_call(fg_watch *w);
int fg_unwatch_call(fg_watch *w);

static inline void fg_begin(fg_watch *w, size_t cost)
{
    w->asked = NULL;
    if (cost >= FG_WATCH_COST)
        fg_watch_call(w);
}

/* FASTGATE_OK or FASTGATE_ERROR_INTERRUPTED */
static inline int fg_end(fg_watch *w)
{
    return w->asked ? fg_unwatch_call(w) : FASTGATE_OK;
}

/* Whether the call of this thread is to end now.  Asked before each piece of work, with its cost, which only tells when
 * to read the clock: where weights are few or strides large, it is low by up to two orders of magnitude. */
int fg_interrupted(size_t cost);

/* How far a row of a pipeline is; apart from what other threads write. */
typedef struct {
    atomic_size_t state;
    char apart[2 * FG_LINE - sizeof(atomic_size_t)];
} fg_progress;

/*
 * Calls task(context, i, k) once for each i < rows, k < columns, after those of (i - 1, k) and (i, k - 1) have
 * returned, on up to `threads` threads; `wake` is as for fg_share.  progress (rows,) is scratch.
 */
void fg_pipeline(unsigned threads, int wake, fg_progress *progress, size_t rows, size_t columns,
                 void (*task)(void *context, size_t i, size_t k), void *context);

/* ---- saved ------------------------------------------------------------------------------------- */

/*
 * What is saved is a header and sections, each at the next multiple of FG_LINE bytes, zeros between: so a
 * gate runs on a mapped file where it lies.  A gate has one section, its packed form.  An LSTM has first
 * one byte for each layer and direction, 1 where there are peepholes, else 0; then, for each layer and
 * direction, the packed form of its gates, that of its projection, if there are any, and its peepholes,
 * as in fg_cell, if it has them.  Numbers are in the byte order of the machine that saved them.
 *
 * All sizes follow from the header.  Loading refuses whatever saving cannot have written: what it takes is a gate or
 * LSTM like any other, and is saved again as the same bytes.  FASTGATE_FORMAT goes up with every change of this, of
 * the packed form and of the order of summation.
 */
typedef enum { FG_SAVED_GATE = 1, FG_SAVED_LSTM = 2 } fg_saved_kind;
enum { FG_SAVED_BACKWARDS = 1, FG_SAVED_INPUT_FORGET = 2, FG_SAVED_BATCH_FIRST = 4 };

typedef struct {
    char magic[8]; /* "fastgate" */
    uint32_t crc;  /* CRC-32 of all that follows */
    uint32_t format;
    uint64_t size; /* bytes, of all */
    uint32_t kind, storage, threads;
    uint32_t directions, flags, zero; /* from here on, what a gate has not is 0 */
    uint64_t input_size;
    uint64_t output_size; /* of an LSTM: hidden_size */
    uint64_t projection_size, layers;
    double clip, gate_clip;
    uint64_t zeros[4];
} fg_saved;

_Static_assert(sizeof(fg_saved) == 2 * FG_LINE, "as written in files");

/* The offset of the section of so many bytes that follows *end bytes, and moves *end behind it, unless it is
 * empty; SIZE_MAX is what does not fit ptrdiff_t, and stays. */
size_t fg_section(size_t *end, size_t bytes);

/* CRC-32 of zlib, PNG and others (IEEE 802.3), of which this is a continuation; 0 to begin with. */
uint32_t fg_crc32(uint32_t crc, const void *data, size_t size);

/* header = that of a buffer of `size` bytes, if it is aligned, unharmed and of this kind; else
 * FASTGATE_ERROR_FORMAT, or FASTGATE_ERROR_VERSION if it is whole, but of another format. */
int fg_open_saved(fg_saved *header, fg_saved_kind kind, const void *buffer, size_t size);

/* Whether a header says nothing but what `expected` does; magic, crc and format are as fg_open_saved left them. */
int fg_same_header(const fg_saved *header, const fg_saved *expected);

/* Writes the header, made complete, before the sections in a buffer of header->size bytes. */
void fg_seal(void *buffer, const fg_saved *header);

/* A mapped file. */
typedef struct {
    void *data;
    size_t size; /* 0: there is none */
} fg_file;

int fg_open_file(fg_file *file, const char *path);
void fg_close_file(fg_file *file);

/* Replaces the file, by a new one: who has mapped the old one keeps it. */
int fg_write_file(const char *path, const void *data, size_t size);

#pragma GCC visibility pop

#endif
