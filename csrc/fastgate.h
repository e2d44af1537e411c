/*
 * fastgate: the LSTM input gate  g = sigma(W [1; x])  on a CPU, and the LSTM on it: a C99 interface.
 *
 * W is (output_size, input_size); the bias, column 0 of the textbook form, is an array of its own;
 * sigma is the logistic sigmoid 1 / (1 + exp(-z)), within 1 ULP of the true value for every float
 * z, within 1.5 ULP for every double.  Link with -lm and -pthread.  A gate packs W once and is then
 * called many times:
 *
 *     fastgate_gate *gate;
 *     int rc = fastgate_gate_create(&gate, FASTGATE_FLOAT32, m, n, weight, n, 1, bias, 1);
 *     if (rc) return puts(fastgate_strerror(rc)), rc;
 *     fastgate_part x_part = {x, n, 0};
 *     rc = fastgate_gate_run(gate, 1, &x_part, 1, y, 0);        // W (m,n), x (n,) -> y (m,)
 *     fastgate_gate_free(gate);
 *
 * and an LSTM keeps a state from step to step in a stream:
 *
 *     fastgate_lstm_options options = {.storage = FASTGATE_FLOAT32, .input_size = n, .hidden_size = H,
 *                                      .layers = 1, .directions = 1};
 *     fastgate_lstm_weights weights = {.weight_ih = w_ih, .weight_hh = w_hh, .bias = bias};
 *     fastgate_lstm *lstm = NULL;
 *     fastgate_stream *stream = NULL;
 *     int rc = fastgate_lstm_create(&lstm, &options, &weights);
 *     if (!rc) rc = fastgate_stream_create(&stream, lstm, 1);
 *     if (rc) fastgate_lstm_free(lstm);
 *     if (rc) return puts(fastgate_strerror(rc)), rc;
 *     fastgate_stream_step(stream, x, n, y, H);                 // x (n,) -> y (H,), again and again
 *     fastgate_stream_free(stream);
 *     fastgate_lstm_free(lstm);
 *
 * Weights, biases, inputs and outputs are arrays of double for gates of FASTGATE_FLOAT64, and of
 * float for all others.  Strides count their elements.
 *
 * An output depends on its own row of W, its bias and x alone: its bits are the same for every
 * instruction set, batch size, place in the batch, number of threads, split of x into parts and memory
 * alignment, and for fastgate_gate_once as for a packed gate.  (Which NaN a NaN is may differ.)  The
 * error bounds and equal bits hold in the default floating-point mode: round to nearest, subnormals kept.
 * The library's own threads always run in it.
 *
 * Memory:   arrays need the alignment of their elements only.  The caller owns every array passed in, and
 *           may free it when the call returns: what is kept is copied, but for the buffer of a gate or LSTM
 *           that is loaded.  Outputs overlap neither inputs nor each other, where nothing else is said; this
 *           and the bounds of arrays are not checked, nor are pointers, which may be NULL only where that is
 *           said, or where no element is read.
 *           fastgate_gate_run, fastgate_gate_once, fastgate_lstm_step and fastgate_stream_step allocate
 *           nothing, but that the first call shared among threads starts these.  No call needs more than 32 KB
 *           of stack.
 * Threads:  any number of threads may at once run, unpack or ask about one gate or LSTM, each with
 *           outputs of its own: outputs may hold partial results during a call.  None may free it
 *           meanwhile.  A stream is used by one thread at a time.
 *           fastgate_select_isa must not run beside any other call; all others may, on other objects.
 *           The threads among which calls are shared block all signals and end with the process: a
 *           shared library that holds this code must not be unloaded.  A forked child starts its own.
 * Errors:   functions that can fail return FASTGATE_OK (0) or a code below, before they write
 *           anything, except where fastgate_set_interrupt interrupts them.  Nothing here prints, aborts or
 *           changes the floating-point mode.
 * Versions: within a major version, later minor versions add functions, codes and storages, and change nothing
 *           that a compiled program sees: signatures, structs, values.  Until 1.0 a minor version may, and the
 *           name of the shared library has it: libfastgate.so.0.1.  A patch version also keeps the bits of
 *           all results and the form of saved files; a version that changes those says so in CHANGELOG.md.
 */
#ifndef FASTGATE_H
#define FASTGATE_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FASTGATE_VERSION "0.1.0"
#define FASTGATE_VERSION_MAJOR 0
#define FASTGATE_VERSION_MINOR 1
#define FASTGATE_VERSION_PATCH 0

/* The format of saved gates and LSTMs that this version writes, and the only one that it reads.  It goes up when
 * the packed form or the bits of results change.  A saved buffer has its own as a uint32_t at byte 12. */
#define FASTGATE_FORMAT 2

/* FASTGATE_VERSION of the library that is linked, or loaded, which may not be that of this header. */
const char *fastgate_version(void);

enum {
    FASTGATE_OK = 0,
    FASTGATE_ERROR_MEMORY = 1, /* no memory, or a size that overflows size_t */
    FASTGATE_ERROR_SHAPE = 2,  /* sizes that do not fit together, as the parts' lengths and input_size */
    FASTGATE_ERROR_ISA = 3,    /* unknown instruction set, or not in this build or CPU */
    FASTGATE_ERROR_VALUE = 4,  /* a weight that the storage cannot hold, or a value that an option
                                  cannot have */
    FASTGATE_ERROR_FORMAT = 5, /* not a saved gate or LSTM, as asked for; or a damaged, truncated or
                                  misaligned one */
    FASTGATE_ERROR_FILE = 6,   /* a file cannot be opened, read or written: errno says why */
    FASTGATE_ERROR_VERSION = 7, /* a saved gate or LSTM in another format than FASTGATE_FORMAT */
    FASTGATE_ERROR_INTERRUPTED = 8 /* what fastgate_set_interrupt set asked to stop */
};

/* A short English text for a code, or for a number that is none; static, never NULL. */
const char *fastgate_strerror(int code);

/* ---- instruction sets ---------------------------------------------------------------------- */

/* Names of the kernels in this build, best first, ending with "base"; NULL past the end.  Static. */
const char *fastgate_isa_name(size_t index);

/* 1 if this CPU and operating system can run kernel `index`, else 0, also past the end. */
int fastgate_isa_usable(size_t index);

/* The name of the kernels in use, of those above. */
const char *fastgate_isa(void);

/* Chooses the kernels for gates and LSTMs created, and one-shot calls made, from now on; those that are there
 * keep theirs.  NULL or "" takes the best usable ones, which is also what happens when this is never called.
 * FASTGATE_ERROR_ISA changes nothing. */
int fastgate_select_isa(const char *name);

/* ---- threads ------------------------------------------------------------------------------- */

/* The CPUs that the calling thread may run on, by its affinity; quotas of containers do not count.  At least 1. */
unsigned fastgate_cpu_count(void);

/* n > 0: from now on every call of a gate or LSTM in this process runs on up to n threads, 256 at most, whatever
 * it was created with; 0: as created, which is also what happens when this is never called.  May be called at
 * any time. */
void fastgate_override_threads(unsigned threads);

/*
 * From now on, calls of fastgate_gate_run, fastgate_gate_once, fastgate_lstm_run and fastgate_lstm_step call
 * `asked` about every 20 ms, on the thread that made the call and never on one that shares it.  Where it returns
 * non-zero, the call ends within some ms, with FASTGATE_ERROR_INTERRUPTED; its outputs hold partial results.  All
 * other functions, steps of streams among them, run to their end, and calls of less than 20 ms never ask.
 * `asked` may make calls itself, and they ask too; it must return, and must not fork.  NULL, as at first: none
 * asks.  May be called at any time.
 */
void fastgate_set_interrupt(int (*asked)(void));

/* ---- gates --------------------------------------------------------------------------------- */

typedef struct fastgate_gate fastgate_gate;

/*
 * How a gate holds its weights; its biases are kept as they are.
 * FLOAT16, BFLOAT16:  rounded to nearest, ties to even; products and sums are as for FLOAT32.
 * INT8:  row i as integers of -127 to 127 times a scale of its own, max |W[i, :]| / 127 cut to 17
 *        bits.  In a call, each span of 512 inputs, in an LSTM of x and of h apart, becomes 16-bit integers
 *        times a power of two; the sum of a span's products is exact.
 */
typedef enum {
    FASTGATE_FLOAT32 = 0,
    FASTGATE_FLOAT16 = 1,
    FASTGATE_BFLOAT16 = 2,
    FASTGATE_INT8 = 3,
    FASTGATE_FLOAT64 = 4
} fastgate_storage;

/* A run of consecutive elements of x.  x is the concatenation of its parts. */
typedef struct {
    const void *data; /* (batch, size): the elements of a row are contiguous; may be NULL if empty */
    size_t size;      /* elements of a row */
    ptrdiff_t stride; /* elements from one row of the batch to the next; may be 0 or negative */
} fastgate_part;

/*
 * Packs weight (output_size, input_size), whose element (i, k) is weight[i * row_stride +
 * k * column_stride], and bias (output_size,), contiguous, or NULL for zeros.  Strides may be zero or
 * negative.  Either size may be 0; weight may then be NULL.  A call shares its work among up to `threads`
 * threads, the calling one included, where there is enough to share; 0 is taken as 1, and more than 256 as
 * 256.  *gate is set on success only; fastgate_gate_free frees it.
 *
 * FASTGATE_ERROR_VALUE if there is no such storage, a finite weight is beyond the range of FLOAT16 or
 * BFLOAT16 (its infinities and NaN are held), or any is not finite for INT8; FASTGATE_ERROR_MEMORY.
 */
int fastgate_gate_create(fastgate_gate **gate, fastgate_storage storage, size_t output_size,
                         size_t input_size, const void *weight, ptrdiff_t row_stride,
                         ptrdiff_t column_stride, const void *bias, unsigned threads);

/* NULL is allowed.  No call of the gate may be running. */
void fastgate_gate_free(fastgate_gate *gate);

size_t fastgate_gate_output_size(const fastgate_gate *gate);
size_t fastgate_gate_input_size(const fastgate_gate *gate);
fastgate_storage fastgate_gate_storage(const fastgate_gate *gate);
unsigned fastgate_gate_threads(const fastgate_gate *gate); /* as given to create */
size_t fastgate_gate_nbytes(const fastgate_gate *gate); /* bytes of the packed weights and biases; up to 2 MiB
                                                           more are taken to align them */

/*
 * weight (output_size, input_size), contiguous and row-major, and bias (output_size,) = what the gate computes
 * with, as arrays of double for FLOAT64 and of float else: the weights as they were rounded.  A gate made of
 * these, in the same storage, is the same gate.  Cannot fail.
 */
void fastgate_gate_unpack(const fastgate_gate *gate, void *weight, void *bias);

/*
 * y[b, :] = sigma(W x[b] + bias) for b < batch.  y is (batch, output_size), rows contiguous, their
 * beginnings y_stride elements apart: by output_size or more, in either direction, if batch > 1.
 * batch may be 0; part_count too, if input_size is.  FASTGATE_ERROR_SHAPE if the sizes of the parts do not
 * add up to input_size; FASTGATE_ERROR_INTERRUPTED; and no other error.
 */
int fastgate_gate_run(const fastgate_gate *gate, size_t batch, const fastgate_part *parts,
                      size_t part_count, void *y, ptrdiff_t y_stride);

/*
 * The same for x (batch, input_size), rows x_stride elements apart, from weights that are read where they
 * lie: nothing is packed or allocated.  weight and bias are as in fastgate_gate_create, and must not overlap
 * y; storage is FLOAT32 or FLOAT64, else FASTGATE_ERROR_VALUE.  Runs on the calling thread, one row of x
 * after the other.  Fast where column_stride or row_stride is 1.  FASTGATE_ERROR_INTERRUPTED.
 */
int fastgate_gate_once(fastgate_storage storage, size_t output_size, size_t input_size,
                       const void *weight, ptrdiff_t row_stride, ptrdiff_t column_stride,
                       const void *bias, size_t batch, const void *x, ptrdiff_t x_stride, void *y,
                       ptrdiff_t y_stride);

/*
 * Saved gates.  Saving writes the packed form into a buffer of fastgate_gate_saved_size bytes, or a file,
 * behind a header with a version and a checksum.  Loading reads all bytes, for the checksum and to check
 * what they hold, and copies nothing: the gate computes with the weights where they are.  So the buffer must
 * begin at a multiple of 64, as pages do, and must stay, unchanged, until the gate is freed.  A gate of a file maps
 * it, so that processes share its pages; do not write into a file that is in use, replace it by another: a
 * mapped file that is cut off kills its readers.  save_file does so: it writes a file beside, with the mode
 * of any new one, and renames it, without waiting for the disk.  A symbolic link is replaced itself, and
 * what is no file, as a device, is not: FASTGATE_ERROR_FILE.
 *
 * Files are read by the format's version, and the byte order, that wrote them: FASTGATE_ERROR_VERSION for an
 * undamaged file of another format, FASTGATE_ERROR_FORMAT for another byte order and for anything else that
 * saving does not write, whatever it holds; nothing is read past `size`.  What is loaded is saved as the same bytes.
 * *gate is set on success only.  FASTGATE_ERROR_MEMORY and FASTGATE_ERROR_FILE are as said above; save_file
 * needs memory for a copy.  A loaded gate has the bits, and the number of threads, of the one that was
 * saved.
 */
size_t fastgate_gate_saved_size(const fastgate_gate *gate);
void fastgate_gate_save(const fastgate_gate *gate, void *buffer);
int fastgate_gate_load(fastgate_gate **gate, const void *buffer, size_t size);
int fastgate_gate_save_file(const fastgate_gate *gate, const char *path);
int fastgate_gate_load_file(fastgate_gate **gate, const char *path);

/* ---- LSTM ---------------------------------------------------------------------------------- */

/*
 * Layers of LSTM cells.  For one row of a batch a step is
 *
 *     z       = bias + W_ih x + W_hh h            in this order
 *     i, f, g = sigma(z_i + p_i c), sigma(z_f + p_f c), tanh(z_g)
 *     c       = f c + i g
 *     o       = sigma(z_o + p_o c)
 *     h       = o tanh(c), or projection (o tanh(c))
 *
 * z is summed as in a gate, except that the spans of h begin anew after those of x.  h and c have the bits of the same
 * step in any batch, sequence, stream, number of threads and instruction set.  c is within 6 ULP of |f c| + |i g|, h
 * within 6 ULP of o tanh(c); their i has not the bits of a gate.  A value of c or o tanh(c) smaller than 2^-100, in
 * double 2^-960, becomes 0, so that a silent stream never computes with subnormal numbers.  An LSTM is
 * read-only: any number of threads may run it at once.
 */
typedef struct fastgate_lstm fastgate_lstm;

/* Set all members, or begin with {0}: those that are 0 take their default; the sizes, layers and directions have
 * none. */
typedef struct {
    fastgate_storage storage; /* of weights and projections; arrays are double for FLOAT64, else float */
    size_t input_size;
    size_t hidden_size;
    size_t projection_size; /* of h, in every layer; 0: there is no projection, h is (hidden_size,) */
    size_t layers;
    unsigned directions;    /* 1, or 2: each layer forwards and backwards, their outputs side by side */
    int backwards;          /* the one direction goes from the last step to the first */
    int input_forget;       /* f = 1 - i, and the weights of f are not used */
    double clip;            /* of c, right after c = f c + i g: to [-clip, clip]; 0 or INFINITY: none */
    double gate_clip;       /* of what the sigmas and tanh(z_g) take; 0 or INFINITY: none */
    unsigned threads;       /* as for a gate */
    int batch_first;        /* for bindings: kept and saved, the calls of C do not use it */
} fastgate_lstm_options;

/* Of one layer and direction: contiguous, row-major arrays, the gates in the order i, f, g, o.  output_size is
 * that of h: projection_size if there is one, else hidden_size. */
typedef struct {
    const void *weight_ih;  /* (4 hidden_size, inputs): input_size, past the first layer directions *
                               output_size */
    const void *weight_hh;  /* (4 hidden_size, output_size) */
    const void *bias;       /* (4 hidden_size,), where there are two, their sum; or NULL for zeros */
    const void *peephole;   /* (3, hidden_size): i, f, o; or NULL, for this layer and direction alone */
    const void *projection; /* (projection_size, hidden_size); not read if projection_size is 0 */
} fastgate_lstm_weights;

/*
 * Packs weights (layers, directions): those of layer k and direction d, 0 forwards and 1 backwards, are
 * weights[k * directions + d].  Options and weights are copied.  *lstm is set on success only;
 * fastgate_lstm_free frees it.  FASTGATE_ERROR_SHAPE for no layers, or directions that are not 1 or 2 (1 if
 * backwards); FASTGATE_ERROR_VALUE as for a gate, or a clip that is negative or NaN; FASTGATE_ERROR_MEMORY.
 */
int fastgate_lstm_create(fastgate_lstm **lstm, const fastgate_lstm_options *options,
                         const fastgate_lstm_weights *weights);

/* NULL is allowed.  Finish all calls and free all streams of the LSTM first. */
void fastgate_lstm_free(fastgate_lstm *lstm);

/* As given to create; valid as long as the LSTM. */
const fastgate_lstm_options *fastgate_lstm_get_options(const fastgate_lstm *lstm);

/* Elements of h: projection_size if there is one, else hidden_size. */
size_t fastgate_lstm_output_size(const fastgate_lstm *lstm);

size_t fastgate_lstm_nbytes(const fastgate_lstm *lstm); /* bytes of all that is packed */

/* Whether index = layer * directions + direction, below layers * directions, has peepholes: 1 or 0. */
int fastgate_lstm_has_peephole(const fastgate_lstm *lstm, size_t index);

/*
 * The weights at index = layer * directions + direction, below layers * directions, as they were rounded, into
 * arrays of the shapes in fastgate_lstm_weights, of double for FLOAT64 and of float else.  bias may be NULL if
 * it is not wanted; peephole and projection are not touched if there are none.  FASTGATE_ERROR_MEMORY: it
 * needs as much again for a while.
 */
int fastgate_lstm_unpack(const fastgate_lstm *lstm, size_t index, void *weight_ih, void *weight_hh,
                         void *bias, void *peephole, void *projection);

/* As for a gate: all layers in one buffer or file. */
size_t fastgate_lstm_saved_size(const fastgate_lstm *lstm);
void fastgate_lstm_save(const fastgate_lstm *lstm, void *buffer);
int fastgate_lstm_load(fastgate_lstm **lstm, const void *buffer, size_t size);
int fastgate_lstm_save_file(const fastgate_lstm *lstm, const char *path);
int fastgate_lstm_load_file(fastgate_lstm **lstm, const char *path);

/*
 * One step of all layers, for a batch of rows: x (batch, input_size), rows x_stride elements apart; h and
 * h_out (layers, batch, output_size), c and c_out (layers, batch, hidden_size), contiguous.  The output
 * is h_out of the last layer.  c_out may be c itself; apart from that, h_out, c_out and scratch must not
 * overlap each other or an input: to go on, exchange h and h_out.  scratch is (batch, hidden_size) elements
 * if there is a projection; else it is not used and may be NULL.  Allocates nothing.
 * FASTGATE_ERROR_SHAPE for an LSTM of two directions or one that goes backwards; FASTGATE_ERROR_INTERRUPTED, after
 * which c is lost if c_out is c; and no other error.
 */
int fastgate_lstm_step(const fastgate_lstm *lstm, size_t batch, const void *x, ptrdiff_t x_stride,
                       const void *h, const void *c, void *h_out, void *c_out, void *scratch);

/*
 * A sequence: element k of step t of row b of x is x[t * x_step + b * x_row + k], for t < steps, b < batch,
 * and of y, (steps, batch, directions * output_size), likewise.  h (layers * directions, batch,
 * output_size) and c (.., hidden_size), contiguous, are the initial state, and become that after the last
 * step; zeros are written by the caller.  lengths (batch,), or NULL, says how many steps each row has: y is 0
 * beyond, backwards begins at the last, and all is as if the row ran alone.  Arrays must not overlap, and only
 * lengths may be NULL.
 *
 * Threads share both directions and the rows of a batch, or the layers, as a pipeline over the steps, or the outputs
 * of each step, as the sizes suggest.
 *
 * What it needs beside its arrays is allocated: up to two arrays like y for the outputs of inner layers, for
 * each thread or layer some 48 rows of 4 hidden_size, and a size_t for each step where there are lengths; with
 * one layer, no projection, no lengths, at least 50 rows and at most two threads, nothing.
 * FASTGATE_ERROR_MEMORY, before anything is written.
 * FASTGATE_ERROR_SHAPE if a length is more than `steps`.
 * FASTGATE_ERROR_INTERRUPTED: each row of h and c is that before, that after some step, or a mixture; keep a copy
 * of a state that is to be used again.
 */
int fastgate_lstm_run(const fastgate_lstm *lstm, size_t steps, size_t batch, const void *x,
                      ptrdiff_t x_step, ptrdiff_t x_row, const size_t *lengths, void *h, void *c,
                      void *y, ptrdiff_t y_step, ptrdiff_t y_row);

/* ---- streams ------------------------------------------------------------------------------- */

/*
 * `batch` sequences that go on step by step, with a state that begins as zeros.  The LSTM must outlive its
 * streams.  One thread at a time may use a stream, also to read its state; different streams of one LSTM may
 * run at once.
 */
typedef struct fastgate_stream fastgate_stream;

/* FASTGATE_ERROR_SHAPE as fastgate_lstm_step; FASTGATE_ERROR_MEMORY.  *stream is set on success only;
 * fastgate_stream_free frees it.  batch may be 0. */
int fastgate_stream_create(fastgate_stream **stream, const fastgate_lstm *lstm, size_t batch);

/* NULL is allowed. */
void fastgate_stream_free(fastgate_stream *stream);

/* x (batch, input_size) -> y (batch, output_size), rows x_stride and y_stride elements apart; for a batch of 1
 * the strides do not matter.  y may overlap x.  Allocates nothing, and cannot fail. */
void fastgate_stream_step(fastgate_stream *stream, const void *x, ptrdiff_t x_stride, void *y,
                          ptrdiff_t y_stride);

/* The same for some rows of the batch: x (count, input_size) -> y (count, output_size) are those of rows[0] to
 * rows[count - 1], each below batch and none of them twice.  The others stay as they are. */
void fastgate_stream_step_rows(fastgate_stream *stream, const size_t *rows, size_t count, const void *x,
                               ptrdiff_t x_stride, void *y, ptrdiff_t y_stride);

/* The state of row b < batch becomes zeros. */
void fastgate_stream_reset(fastgate_stream *stream, size_t b);

/* h (layers, batch, output_size) and c (layers, batch, hidden_size), contiguous, are copied; neither may be
 * NULL.  Any values can be set. */
void fastgate_stream_get_state(const fastgate_stream *stream, void *h, void *c);
void fastgate_stream_set_state(fastgate_stream *stream, const void *h, const void *c);

#ifdef __cplusplus
}
#endif

#endif
