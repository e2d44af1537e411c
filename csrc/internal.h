/* What the files of csrc share: the order of summation, the packed form, kernels, threads, saved buffers.  Private.
 * docs/how-it-works.md has a drawing of the packed form. */
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
 * The order of summation, on which every bit of a result depends.  The inputs of a gate are one segment.  Those of an
 * LSTM's gates are two, x and h.  Each segment is divided into spans of FG_SPAN inputs, and the last span may be
 * shorter:
 *
 *     total = bias
 *     for each segment, for each span, in order:
 *         sum = 0
 *         for k in span: sum = fma(w[k], x[k], sum)
 *         total = total + sum
 *     z = total
 *
 * So an accumulator stays in its register for a whole span, with one vector and in a batch alike, and x is read where
 * it is.  Because h begins a new span, the products with x can be computed ahead for a whole sequence of an LSTM, and
 * hand over a single number for each row.
 */
#define FG_SPAN 256

static inline size_t fg_real_bytes(fastgate_storage storage)
{
    return storage == FASTGATE_FLOAT64 ? sizeof(double) : sizeof(float);
}

/*
 * The packed form.  A panel is 16 consecutive rows of [bias, W], or 8 rows of double, so that their biases fill a line
 * of 64 bytes: one AVX-512 register, two of AVX2, four of NEON.  A panel is contiguous, and the panels follow one
 * another.  It holds a line of biases; then, for each input, the weights of the panel's rows, which are a line, or half
 * a line in a 16-bit storage; then zeros up to a whole line.  Rows past the last row of W are zeros.  A block is four
 * panels; the last block may have fewer.
 *
 * bfloat16: the weights of two inputs of a segment share a line of 32-bit words.  The lower half of word r is row r of
 * the first input and the upper half that of the second, so that a shift or a mask makes a float of either.
 *
 * int8: a line of scales (float) follows the biases.  Then, for each span of up to FG_INT8_SPAN inputs of a segment,
 * there is a line of the sums of its weights (int32_t) and, for every four inputs, a line of their weights, four bytes
 * for each row.  A span whose size is not a multiple of four is padded with weights of 0.
 */
#define FG_LINE 64
#define FG_BLOCK_PANELS 4 /* panels in a block */
#define FG_QUAD 4   /* inputs whose int8 weights share a line */
#define FG_INT8_SPAN 512

static inline size_t fg_int8_spans(size_t columns)
{
    return columns / FG_INT8_SPAN + (columns % FG_INT8_SPAN != 0);
}

static inline size_t fg_panel_rows(fastgate_storage storage)
{
    return FG_LINE / fg_real_bytes(storage);
}

/* The bytes of a panel's weights for one input, on average; not for int8. */
static inline size_t fg_input_bytes(fastgate_storage storage)
{
    return storage == FASTGATE_FLOAT16 || storage == FASTGATE_BFLOAT16 ? FG_LINE / 2 : FG_LINE;
}

/* The bytes of a panel's weights for a segment, or for whole spans of it. */
static inline size_t fg_segment_bytes(fastgate_storage storage, size_t columns)
{
    if (storage == FASTGATE_INT8)
        return (fg_int8_spans(columns) + (columns + FG_QUAD - 1) / FG_QUAD) * FG_LINE;
    if (storage == FASTGATE_BFLOAT16)
        columns += columns % 2;
    return columns * fg_input_bytes(storage);
}

/* The bytes of a panel before its weights: biases, and for int8 scales. */
static inline size_t fg_head_bytes(fastgate_storage storage)
{
    return storage == FASTGATE_INT8 ? 2 * FG_LINE : FG_LINE;
}

static inline size_t fg_panel_bytes(fastgate_storage storage, const size_t segments[2])
{
    const size_t bytes = fg_segment_bytes(storage, segments[0]) + fg_segment_bytes(storage, segments[1]);
    return fg_head_bytes(storage) + (bytes + FG_LINE - 1) / FG_LINE * FG_LINE;
}

/*
 * [bias, W], as the caller has it: element (i, k) of segment s of W is weight[s][i * row_stride[s] + k *
 * column_stride].  A gate is one matrix of `rows` rows.  The four gates of an LSTM are four of them, one after the
 * other, and panels are packed from each in turn: the first rows of i, f, g and o, then the next ones.
 */
typedef struct {
    size_t rows, gates, segments[2]; /* the rows of one gate; 1 or 4; the inputs of each segment */
} fg_shape;

typedef struct {
    fg_shape shape;
    const void *weight[2]; /* fg_unpack writes to these arrays and to bias */
    ptrdiff_t row_stride[2], column_stride;
    const void *bias; /* (gates * rows,), or NULL for zeros */
} fg_matrix;

static inline size_t fg_panels_of(const fg_shape *shape, fastgate_storage storage)
{
    const size_t rows = fg_panel_rows(storage);
    return shape->gates * (shape->rows / rows + (shape->rows % rows != 0));
}

/* The address of an element of `width` bytes.  An array without elements may be NULL. */
static inline void *fg_at(const void *array, ptrdiff_t index, size_t width)
{
    return index ? (char *)array + index * (ptrdiff_t)width : (void *)array;
}

/* What a call computes from the sums z = W x + bias. */
typedef enum {
    FG_SIGMOID, /* y (rows,) = sigma(z) */
    FG_LINEAR,  /* y (rows,) = z */
    FG_CELL     /* y (units,) = h and cell->c_out (units,) = c, of an LSTM's step */
} fg_ending;

/*
 * What FG_CELL needs.  A block of an LSTM's packed weights holds the four gates i, f, g, o of as many units as a panel
 * has rows, a panel for each gate, so that one pass over a block gives all four sums of these units.  The last
 * units are padded to a whole panel, with weights and biases of zero.
 */
typedef struct {
    size_t units;
    const void *c; /* (batch, units) */
    void *c_out;   /* (batch, units), which may be c */
    ptrdiff_t c_stride, c_out_stride;
    const void *peephole; /* (3, units rounded up to whole panels), of i, f and o; or NULL */
    double clip, gate_clip; /* the limits of c and of the activations' arguments; INFINITY for none */
    int input_forget; /* f = 1 - i */
} fg_cell;

/*
 * A packed gate and the arguments of a call.  A call takes one segment or both.  Its totals begin as the biases or, if
 * that is not NULL, as `start` (batch, rows rounded up to whole blocks), which an earlier call with FG_LINEAR wrote.
 */
typedef struct {
    const char *packed;
    size_t rows, segments[2];
    size_t first_segment, last_segment; /* the segments [first, last) */
    const fastgate_part *parts; /* their sizes add up to those of these segments */
    const void *start;
    ptrdiff_t start_stride;
    void *y;
    ptrdiff_t y_stride;
    fg_ending ending;
    const fg_cell *cell; /* for FG_CELL */
    int backwards; /* whether the kernel begins with the last block, and then alternates between groups of rows */
} fg_call;

/* Up to this many bytes, the weights of a call stay in the second cache from one group of rows of x to the next. */
#define FG_CACHED_BYTES (1024 * 1024)

/* The most rows of x in a group: the kernels read the weights of a span once for all tiles of a group.  The totals of
 * a group are on the stack, 24 KB of them.  Where weights are cached, smaller groups leave more of the first cache to
 * x. */
#define FG_GROUP_ROWS 96
#define FG_CACHED_GROUP_ROWS 24

/* Computes y for the rows of W in the blocks [first_block, first_block + blocks) and for the rows
 * [first, first + count) of x. */
typedef void fg_packed_kernel(const fg_call *call, size_t first_block, size_t blocks, size_t first, size_t count);

/* The kernels of one file of kernels/.  Those that it does not have are NULL, and another table has them. */
typedef struct {
    fg_packed_kernel *packed[FASTGATE_FLOAT64 + 1]; /* by storage */

    /* y (rows,) = sigma(W x + bias), from a matrix of one segment that is read where it is */
    void (*once)(const fg_matrix *m, const void *x, void *y);
} fg_kernels;

/* Writes the packed form of m, fg_packed_bytes.  Returns FASTGATE_ERROR_VALUE if a weight does not fit the storage. */
int fg_pack(char *packed, fastgate_storage storage, const fg_matrix *m);

/* Writes to the arrays of m: the weights as they were rounded, and the bias if it is not NULL. */
void fg_unpack(const char *packed, fastgate_storage storage, const fg_matrix *m);

/*
 * Whether fg_pack can have written this for a matrix of this shape, so that unpacking and packing it again gives the
 * same bytes: all padding is zero, each 16-bit weight is one to which a float rounds, and the scales and sums of int8
 * are those of its weights.  A float or double may have any bits, and a 16-bit weight may be infinite or a quiet NaN.
 */
int fg_is_packed(const char *packed, fastgate_storage storage, const fg_shape *shape, int has_bias);

/* Whether each run of `line` bytes is zero after its first `used` bytes. */
int fg_is_zero_past(const void *lines, size_t bytes, size_t line, size_t used);

/* The bytes of the packed form; SIZE_MAX if they and the room to align them do not fit ptrdiff_t. */
size_t fg_packed_bytes(fastgate_storage storage, const fg_shape *shape);

/* Creates what fastgate_gate_create does.  The outputs of each of an LSTM's four gates are padded to
 * whole panels. */
int fg_create(fastgate_gate **gate, fastgate_storage storage, const fg_matrix *m, unsigned threads);

/* Creates a gate from packed weights, which stay where they are. */
int fg_create_in_place(fastgate_gate **gate, fastgate_storage storage, const fg_shape *shape, unsigned threads,
                       const char *packed);

/* Returns the packed form, which has fastgate_gate_nbytes bytes. */
const char *fg_packed_of(const fastgate_gate *gate);

/* Runs a call on a batch; it sets packed, rows, segments and backwards itself.  Returns 1 if the call was
 * interrupted. */
int fg_run(const fastgate_gate *gate, size_t batch, fg_call *call);

/* The kernels that fastgate_select_isa chose, or the best usable ones. */
fg_packed_kernel *fg_active_kernel(fastgate_storage storage);
void fg_run_once(fastgate_storage storage, const fg_matrix *m, const void *x, void *y);

/* ---- threads ------------------------------------------------------------------------------------ */

/* The most threads that share a call. */
#define FG_THREAD_LIMIT 256

/* The threads of a gate that was created with this number: that, or the number of fastgate_override_threads. */
unsigned fg_threads_of(unsigned created_with);

/*
 * Calls task(context, i) once for each i < count, on up to `threads` threads, of which the calling thread is one, and
 * returns when all tasks have returned.  With the same threads and count, a thread always begins with the same
 * consecutive i, so that its cache still holds what they read.  While another call has the workers, and within a task,
 * everything runs on the calling thread.  A task must not fork.
 *
 * Workers sleep when they have had nothing to do for a while, and waking one can take the caller 20 microseconds.  With
 * `wake` they are woken, which pays for a long job.  Without it they are woken only if the last call that found them
 * asleep was a moment ago: so many small calls in a row are shared, and an occasional one is run by the caller and the
 * workers that are awake.
 */
void fg_share(unsigned threads, size_t count, int wake, void (*task)(void *context, size_t i), void *context);

/* a * b, or SIZE_MAX, which no allocation grants, if the product does not fit ptrdiff_t */
static inline size_t fg_product(size_t a, size_t b)
{
    size_t product;
    return __builtin_mul_overflow(a, b, &product) || product > PTRDIFF_MAX ? SIZE_MAX : product;
}

/*
 * The cost of a call is the bytes of weights that it reads.  In a batch, every row of x after the first one costs a
 * fourth of these bytes, which is about what its products take.
 */
static inline size_t fg_cost(size_t nbytes, size_t batch)
{
    return fg_product(nbytes, batch + 3) / 4;
}

/* Sharing a call gains from about 5 microseconds of work on, and waking a thread from about 150 microseconds on.  A
 * call that costs less than FG_WATCH_COST cannot be interrupted. */
#define FG_SHARE_COST (384 * 1024)
#define FG_WAKE_COST (4 * 1024 * 1024)
#define FG_WATCH_COST (4 * 1024 * 1024)

/* A call that can be interrupted.  Between fg_begin and fg_end, fg_interrupted tells its thread, and the workers that
 * run its tasks, whether it was. */
typedef struct {
    int (*callback)(void); /* what fastgate_set_interrupt set; NULL if the call cannot be interrupted */
    atomic_int interrupted;
    uint64_t since; /* when the call began or last asked, in ns */
} fg_watch;

void fg_watch_call(fg_watch *w);
int fg_unwatch_call(fg_watch *w);

static inline void fg_begin(fg_watch *w, size_t cost)
{
    w->callback = NULL;
    if (cost >= FG_WATCH_COST)
        fg_watch_call(w);
}

/* Returns FASTGATE_OK or FASTGATE_ERROR_INTERRUPTED. */
static inline int fg_end(fg_watch *w)
{
    return w->callback ? fg_unwatch_call(w) : FASTGATE_OK;
}

/* Whether the call of this thread must end now.  It reads the clock, so some microseconds of work should lie between
 * two calls. */
int fg_interrupted(void);

/* Whether fg_interrupted() was true before in this call. */
int fg_stopped(void);

/* How many tasks of a row of a pipeline are done, on cache lines of its own. */
typedef struct {
    atomic_size_t state;
    char apart[2 * FG_LINE - sizeof(atomic_size_t)];
} fg_progress;

/*
 * Calls task(context, i, k) once for each i < rows and k < columns, on up to `threads` threads, and only after the
 * tasks (i - 1, k) and (i, k - 1) have returned.  `wake` is as for fg_share, and progress (rows,) is scratch.
 */
void fg_pipeline(unsigned threads, int wake, fg_progress *progress, size_t rows, size_t columns,
                 void (*task)(void *context, size_t i, size_t k), void *context);

/* ---- saved ------------------------------------------------------------------------------------- */

/*
 * A saved buffer is a header and sections.  Each section begins at the next multiple of FG_LINE bytes, after zeros, so
 * that a gate can compute on a mapped file.  A gate has one section, its packed form.  In an LSTM, one byte for each
 * layer and direction follows the header, 1 if it has peepholes, else 0.  Then come, for each layer and direction, the
 * packed form of its gates, the packed form of its projection if there is one, and its peepholes, in the form of
 * fg_cell, if it has them.  Numbers have the byte order of the machine that saved them.
 *
 * All sizes follow from the header.  Loading refuses whatever saving cannot have written, so what it accepts
 * is saved again as the same bytes.  FASTGATE_FORMAT is raised with every change of this form, of the packed form and
 * of the order of summation.
 */
typedef enum { FG_SAVED_GATE = 1, FG_SAVED_LSTM = 2 } fg_saved_kind;
enum { FG_SAVED_BACKWARDS = 1, FG_SAVED_INPUT_FORGET = 2, FG_SAVED_BATCH_FIRST = 4 };

typedef struct {
    char magic[8]; /* "fastgate" */
    uint32_t crc;  /* CRC-32 of all that follows */
    uint32_t format;
    uint64_t size; /* bytes, of the whole buffer */
    uint32_t kind, storage, threads;
    uint32_t directions, flags, zero; /* from here on, the members that a gate does not use are 0 */
    uint64_t input_size;
    uint64_t output_size; /* of an LSTM: hidden_size */
    uint64_t projection_size, layers;
    double clip, gate_clip;
    uint64_t zeros[4];
} fg_saved;

_Static_assert(sizeof(fg_saved) == 2 * FG_LINE, "as written in files");

/* Returns the offset of a section of that many bytes after *end bytes, and moves *end behind it, unless it is empty.  A
 * size that does not fit ptrdiff_t makes *end SIZE_MAX, which it then stays. */
size_t fg_section(size_t *end, size_t bytes);

/* Continues a CRC-32, which begins as 0: that of zlib, PNG and others (IEEE 802.3). */
uint32_t fg_crc32(uint32_t crc, const void *data, size_t size);

/* Reads the header of a buffer of `size` bytes.  Returns FASTGATE_ERROR_VERSION if the buffer is undamaged and of
 * another format, and FASTGATE_ERROR_FORMAT if it is misaligned, damaged or of another kind. */
int fg_open_saved(fg_saved *header, fg_saved_kind kind, const void *buffer, size_t size);

/* Whether the members of a header after crc and format, which fg_open_saved has checked, are those of `expected`. */
int fg_same_header(const fg_saved *header, const fg_saved *expected);

/* Completes the header and writes it before the sections in a buffer of header->size bytes. */
void fg_seal(void *buffer, const fg_saved *header);

/* A mapped file. */
typedef struct {
    void *data;
    size_t size; /* 0: there is no file */
} fg_file;

/* If it fails, there is no file. */
int fg_open_file(fg_file *file, const char *path);
void fg_close_file(fg_file *file);

/* Replaces the file by a new one; processes that have mapped the old one keep it.  Frees data, which may be NULL: it
 * then returns FASTGATE_ERROR_MEMORY. */
int fg_write_file(const char *path, void *data, size_t size);

#pragma GCC visibility pop

#endif
