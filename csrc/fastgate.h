/*
 * fastgate computes LSTMs on a CPU, and their input gate, y = sigma(W [1; x]), by itself.  This is its C99 interface.
 *
 * W is (output_size, input_size).  The bias, column 0 of the textbook form, is an array of its own.  sigma is
 * the sigmoid 1 / (1 + exp(-z)): within 1 ULP of the true value for every float z, within 1.5 ULP for every double.
 * Link with -lm and -pthread.  A gate packs W once and is then called many times:
 *
 *     fastgate_gate *gate;
 *     int rc = fastgate_gate_create(&gate, FASTGATE_FLOAT32, m, n, weight, n, 1, bias, 1);
 *     if (rc) return puts(fastgate_strerror(rc)), rc;
 *     fastgate_part x_part = {x, n, 0};
 *     rc = fastgate_gate_run(gate, 1, &x_part, 1, y, 0);        // W (m,n), x (n,) -> y (m,)
 *     fastgate_gate_free(gate);
 *
 * A stream keeps the state of an LSTM from one step to the next:
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
 * Arrays of weights, biases, inputs and outputs hold double for FASTGATE_FLOAT64 and float for every other storage.
 * Strides count elements.
 *
 * An output depends on its own row of W, its bias and x, and on nothing else.  So its bits are the same for every
 * instruction set, batch size, place in the batch, number of threads, split of x into parts and memory alignment, and
 * fastgate_gate_once gives the bits of a packed gate.  (Where a result is NaN, its payload may differ.)  Equal bits and
 * the error bounds hold in the default floating-point mode: round to nearest, subnormals kept.  The library's own
 * threads always run in that mode.
 *
 * Memory:   An array needs the alignment of its elements only.  The caller owns every array that is passed in and
 *           may free it when the call returns, because the library copies what it keeps; the one exception is the
 *           buffer that a gate or LSTM was loaded from.  Outputs must overlap neither inputs nor each other unless
 *           a function says otherwise.  A pointer may be NULL only where a function says so, or where no element is
 *           read through it.  Neither of these rules is checked, nor are the bounds of arrays.
 *           fastgate_gate_run, fastgate_gate_once, fastgate_lstm_step and fastgate_stream_step allocate nothing,
 *           except that the first call which is shared among threads starts these threads, and that the first call of
 *           a thread may allocate its thread-local variables, if the library was loaded by dlopen.  No call needs more
 *           than 32 KB of stack.
 * Threads:  Any number of threads may run, unpack or query one gate or LSTM at the same time, each with outputs
 *           of its own, because outputs may hold partial results during a call.  Free it only after all of
 *           these calls have returned.  A stream is used by one thread at a time.
 *           fastgate_select_isa must not run at the same time as any other call.  All other functions may, on
 *           different objects.  The threads that share calls block all signals and end with the process, so a
 *           shared library that holds this code must not be unloaded.  A forked child starts its own threads.
 * Errors:   A function that can fail returns FASTGATE_OK (0) or one of the codes below.  It fails before it writes
 *           anything, except where fastgate_set_interrupt interrupts it.  Nothing here prints, aborts or changes the
 *           floating-point mode.
 * Versions: Within a major version, a later minor version adds functions, codes and storages, and changes nothing
 *           that a compiled program sees: signatures, structs, values.  Until 1.0 a minor version may change these,
 *           and the name of the shared library contains it: libfastgate.so.0.1.  A patch version also keeps the bits
 *           of all results and the form of saved files.  A version that changes those says so in CHANGELOG.md.
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

/* The format of saved gates and LSTMs: this version writes and reads this one only.  The number is raised when the
 * packed form or the bits of results change.  A saved buffer has its number as a uint32_t at byte 12. */
#define FASTGATE_FORMAT 2

/* The FASTGATE_VERSION of the library that is linked or loaded, which may differ from that of this header. */
const char *fastgate_version(void);

enum {
    FASTGATE_OK = 0,
    FASTGATE_ERROR_MEMORY = 1, /* no memory, or a size that overflows size_t */
    FASTGATE_ERROR_SHAPE = 2,  /* sizes that do not fit together, such as those of the parts and input_size */
    FASTGATE_ERROR_ISA = 3,    /* an instruction set that is unknown, or that this build or CPU does not have */
    FASTGATE_ERROR_VALUE = 4,  /* a weight that the storage cannot hold, or a value that an option cannot have */
    FASTGATE_ERROR_FORMAT = 5, /* not a saved object of the requested kind, or a damaged or misaligned one */
    FASTGATE_ERROR_FILE = 6,   /* a file cannot be opened, read or written: errno says why */
    FASTGATE_ERROR_VERSION = 7, /* a saved gate or LSTM in another format than FASTGATE_FORMAT */
    FASTGATE_ERROR_INTERRUPTED = 8 /* the function that fastgate_set_interrupt set asked to stop */
};

/* A short English text for a code, and for any other number.  It is static and never NULL. */
const char *fastgate_strerror(int code);

/* ---- instruction sets ---------------------------------------------------------------------- */

/* The names of the kernels in this build, best first, "base" last; NULL past the end.  They are static. */
const char *fastgate_isa_name(size_t index);

/* 1 if this CPU and operating system can run the kernels of that index; 0 if not, and past the end. */
int fastgate_isa_usable(size_t index);

/* The name of the kernels in use. */
const char *fastgate_isa(void);

/* Chooses the kernels for gates and LSTMs that are created from now on, and for one-shot calls; existing gates and
 * LSTMs keep theirs.  NULL or "" chooses the best usable ones, and so does never calling this.  When it returns
 * FASTGATE_ERROR_ISA, nothing has changed. */
int fastgate_select_isa(const char *name);

/* ---- threads ------------------------------------------------------------------------------- */

/* How many CPUs the affinity of the calling thread allows; quotas of containers are not considered.  At least 1. */
unsigned fastgate_cpu_count(void);

/* From now on every call of a gate or LSTM in this process runs on up to `threads` threads, 256 at most, instead of
 * the number that it was created with; 0, as at first, restores that number.  May be called at any time. */
void fastgate_override_threads(unsigned threads);

/*
 * From now on, `asked` is called about every 20 ms by fastgate_gate_run, fastgate_gate_once, fastgate_lstm_run,
 * fastgate_lstm_step and the functions that load, on the thread that made the call and never on one that shares it.  If
 * it returns non-zero, the call ends within some ms and returns FASTGATE_ERROR_INTERRUPTED, and its outputs hold
 * partial results.  All other functions, fastgate_stream_step among them, run to their end, and calls of less than
 * 20 ms never ask.  `asked` may itself call these functions, which then ask too.  It must return, and it must not fork.
 * With NULL, as at first, no call asks.  May be called at any time.
 */
void fastgate_set_interrupt(int (*asked)(void));

/* ---- gates --------------------------------------------------------------------------------- */

typedef struct fastgate_gate fastgate_gate;

/*
 * How a gate holds its weights.  Biases are never rounded.
 * FLOAT16, BFLOAT16:  weights are rounded to nearest, ties to even; products and sums are those of FLOAT32.
 * INT8:  row i is held as integers of -127 to 127 times a scale of its own, max |W[i, :]| / 127 cut to 17 bits.
 *        A call turns each span of 512 inputs into 16-bit integers times a power of two, and the sum of a span's
 *        products is exact.  In an LSTM, the spans of h begin anew after those of x.
 */
typedef enum {
    FASTGATE_FLOAT32 = 0,
    FASTGATE_FLOAT16 = 1,
    FASTGATE_BFLOAT16 = 2,
    FASTGATE_INT8 = 3,
    FASTGATE_FLOAT64 = 4
} fastgate_storage;

/* Consecutive elements of x.  x is the concatenation of its parts. */
typedef struct {
    const void *data; /* (batch, size): the elements of a row are contiguous; may be NULL if empty */
    size_t size;      /* elements of a row */
    ptrdiff_t stride; /* elements from one row of the batch to the next; may be 0 or negative */
} fastgate_part;

/*
 * Packs weight (output_size, input_size), whose element (i, k) is weight[i * row_stride +
 * k * column_stride], and bias (output_size,), which is contiguous, or NULL for zeros.  Strides may be zero or
 * negative.  Either size may be 0; weight may then be NULL.  A call that has enough work shares it among up to
 * `threads` threads, the calling one included; 0 means 1, and more than 256 means 256.  *gate is set on success only;
 * fastgate_gate_free frees it.
 *
 * Returns FASTGATE_ERROR_VALUE if there is no such storage, if a finite weight is beyond the range of FLOAT16 or
 * BFLOAT16 (which hold infinities and NaN), or if a weight is not finite for INT8; or FASTGATE_ERROR_MEMORY.
 */
int fastgate_gate_create(fastgate_gate **gate, fastgate_storage storage, size_t output_size,
                         size_t input_size, const void *weight, ptrdiff_t row_stride,
                         ptrdiff_t column_stride, const void *bias, unsigned threads);

/* NULL is allowed.  Finish all calls of the gate first. */
void fastgate_gate_free(fastgate_gate *gate);

size_t fastgate_gate_output_size(const fastgate_gate *gate);
size_t fastgate_gate_input_size(const fastgate_gate *gate);
fastgate_storage fastgate_gate_storage(const fastgate_gate *gate);
unsigned fastgate_gate_threads(const fastgate_gate *gate); /* as passed to fastgate_gate_create */

/* The bytes of the packed weights and biases.  A gate takes up to 2 MiB more to align them. */
size_t fastgate_gate_nbytes(const fastgate_gate *gate);

/*
 * Writes the weights as they were rounded, (output_size, input_size), contiguous and row-major, and the bias
 * (output_size,).  A gate that is created from these in the same storage is the same gate.  Cannot fail.
 */
void fastgate_gate_unpack(const fastgate_gate *gate, void *weight, void *bias);

/*
 * Computes y[b, :] = sigma(W x[b] + bias) for b < batch.  y is (batch, output_size): each row is contiguous, and one
 * begins y_stride elements after the other.  If batch > 1, |y_stride| is at least output_size.  batch may be
 * 0, and part_count may be 0 if input_size is.  Returns FASTGATE_ERROR_SHAPE if the sizes of the parts do not add up
 * to input_size, or FASTGATE_ERROR_INTERRUPTED, and no other error.
 */
int fastgate_gate_run(const fastgate_gate *gate, size_t batch, const fastgate_part *parts,
                      size_t part_count, void *y, ptrdiff_t y_stride);

/*
 * Computes the same for x (batch, input_size), whose rows are x_stride elements apart, and reads the weights where they
 * are: nothing is packed or allocated.  weight and bias are as in fastgate_gate_create, and must not overlap y.  It
 * runs on the calling thread, one row of x after the other, and is fast if column_stride or row_stride is 1.  Returns
 * FASTGATE_ERROR_VALUE if storage is neither FLOAT32 nor FLOAT64, or FASTGATE_ERROR_INTERRUPTED.
 */
int fastgate_gate_once(fastgate_storage storage, size_t output_size, size_t input_size,
                       const void *weight, ptrdiff_t row_stride, ptrdiff_t column_stride,
                       const void *bias, size_t batch, const void *x, ptrdiff_t x_stride, void *y,
                       ptrdiff_t y_stride);

/*
 * Saving writes a header, with the format's number and a checksum, and then the packed form, into a buffer of
 * fastgate_gate_saved_size bytes or into a file.  Loading reads all bytes once to check them and copies nothing: the
 * gate computes with the weights where they are.  So the buffer must begin at a multiple of 64 bytes, which pages do,
 * and must stay unchanged until the gate is freed.  A loaded gate gives the same bits and has the same number of
 * threads as the one that was saved.
 *
 * load_file maps the file, so that processes share its pages.  Never write into a file that is in use, because a mapped
 * file that is truncated kills the processes that read it; replace it by another.  save_file does that: it writes a new
 * file in the same folder and renames it, without waiting for the disk.  The new file has the mode that new files
 * have.  A symbolic link is itself replaced.  A path that exists and is not a file, such as a device, gives
 * FASTGATE_ERROR_FILE.
 *
 * An undamaged file of another format gives FASTGATE_ERROR_VERSION.  A file of another byte order, and any content that
 * saving does not write, give FASTGATE_ERROR_FORMAT, and nothing is read past `size`; so what is loaded is
 * saved again as the same bytes.  *gate is set on success only.  FASTGATE_ERROR_MEMORY is possible too, since save_file
 * needs memory for a copy, and loading, which reads all bytes, may give FASTGATE_ERROR_INTERRUPTED.
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
 * z is summed as in a gate, except that the spans of h begin anew after those of x.  A step gives h and c the same bits
 * in every batch, sequence, stream, number of threads and instruction set.  The error of c is at most 6 ULP of |f c| +
 * |i g|, and that of h at most 6 ULP of o tanh(c).  Because the cell is computed as a whole, its i does not have the
 * bits of a gate.  A value of c or o tanh(c) of magnitude below 2^-100, in double 2^-960, becomes 0, so that a silent
 * stream never computes with subnormal numbers.  An LSTM is read-only: any number of threads may run it at the same
 * time.
 */
typedef struct fastgate_lstm fastgate_lstm;

/* Begin with {0}: a member that is 0 takes its default.  The sizes, layers and directions have no default. */
typedef struct {
    fastgate_storage storage; /* of the weights, those of projections included */
    size_t input_size;
    size_t hidden_size;
    size_t projection_size; /* the size of h in every layer; 0: there is no projection, and h is (hidden_size,) */
    size_t layers;
    unsigned directions;    /* 1, or 2: each layer runs forwards and backwards, and puts both outputs side by side */
    int backwards;          /* the one direction goes from the last step to the first */
    int input_forget;       /* f = 1 - i, and the weights of f are not used */
    double clip;            /* limits c, right after c = f c + i g, to [-clip, clip]; 0 or INFINITY: no limit */
    double gate_clip;       /* limits the arguments of sigma and of tanh(z_g); 0 or INFINITY: no limit */
    unsigned threads;       /* as for a gate */
    int batch_first;        /* for bindings: it is kept and saved, and no function here uses it */
} fastgate_lstm_options;

/* The weights of one layer and direction: contiguous, row-major arrays, with the gates in the order i, f, g, o.
 * output_size is the size of h: projection_size if there is a projection, else hidden_size. */
typedef struct {
    const void *weight_ih;  /* (4 hidden_size, inputs): input_size, or directions * output_size after layer 0 */
    const void *weight_hh;  /* (4 hidden_size, output_size) */
    const void *bias;       /* (4 hidden_size,), the sum if there are two; or NULL for zeros */
    const void *peephole;   /* (3, hidden_size): i, f, o; or NULL if this layer and direction has none */
    const void *projection; /* (projection_size, hidden_size); not read if projection_size is 0 */
} fastgate_lstm_weights;

/*
 * Packs weights (layers, directions): weights[k * directions + d] is for layer k and direction d, 0 forwards and
 * 1 backwards.  Options and weights are copied.  *lstm is set on success only; fastgate_lstm_free frees it.
 * Returns FASTGATE_ERROR_SHAPE if there are no layers or directions is not 1 or 2 (not 1 if backwards);
 * FASTGATE_ERROR_VALUE as for a gate, or if a clip is negative or NaN; or FASTGATE_ERROR_MEMORY.
 */
int fastgate_lstm_create(fastgate_lstm **lstm, const fastgate_lstm_options *options,
                         const fastgate_lstm_weights *weights);

/* NULL is allowed.  Finish all calls and free all streams of the LSTM first. */
void fastgate_lstm_free(fastgate_lstm *lstm);

/* As passed to fastgate_lstm_create; valid until the LSTM is freed. */
const fastgate_lstm_options *fastgate_lstm_get_options(const fastgate_lstm *lstm);

/* The elements of h: projection_size if there is a projection, else hidden_size. */
size_t fastgate_lstm_output_size(const fastgate_lstm *lstm);

/* The bytes of all packed weights, biases and peepholes. */
size_t fastgate_lstm_nbytes(const fastgate_lstm *lstm);

/* 1 if the layer and direction at index = layer * directions + direction has peepholes, else 0.  The index is not
 * checked, here and in the next function. */
int fastgate_lstm_has_peephole(const fastgate_lstm *lstm, size_t index);

/*
 * Writes the weights at index = layer * directions + direction, as they were rounded, into arrays of the shapes in
 * fastgate_lstm_weights.  bias may be NULL if it is not wanted.  peephole and projection are not touched if there are
 * none.
 */
void fastgate_lstm_unpack(const fastgate_lstm *lstm, size_t index, void *weight_ih, void *weight_hh,
                          void *bias, void *peephole, void *projection);

/* These do what the functions for gates do, with all layers in one buffer or file. */
size_t fastgate_lstm_saved_size(const fastgate_lstm *lstm);
void fastgate_lstm_save(const fastgate_lstm *lstm, void *buffer);
int fastgate_lstm_load(fastgate_lstm **lstm, const void *buffer, size_t size);
int fastgate_lstm_save_file(const fastgate_lstm *lstm, const char *path);
int fastgate_lstm_load_file(fastgate_lstm **lstm, const char *path);

/*
 * Runs one step of all layers for a batch of rows.  x is (batch, input_size), rows x_stride elements apart; h and
 * h_out are (layers, batch, output_size), c and c_out (layers, batch, hidden_size), all contiguous.  The output is
 * h_out of the last layer.  c_out may be c itself.  Apart from that, h_out, c_out and scratch must not overlap each
 * other or an input: for the next step, exchange h and h_out.  scratch (batch, hidden_size) is used only if there is a
 * projection, and may be NULL otherwise.  Allocates nothing.
 * Returns FASTGATE_ERROR_SHAPE for an LSTM of two directions or one that goes backwards, or FASTGATE_ERROR_INTERRUPTED,
 * after which c is lost if c_out is c, and no other error.
 */
int fastgate_lstm_step(const fastgate_lstm *lstm, size_t batch, const void *x, ptrdiff_t x_stride,
                       const void *h, const void *c, void *h_out, void *c_out, void *scratch);

/*
 * Runs a sequence.  Element k of step t of row b of x is x[t * x_step + b * x_row + k], for t < steps and b < batch;
 * y, (steps, batch, directions * output_size), is addressed in the same way.  h (layers * directions, batch,
 * output_size) and c (layers * directions, batch, hidden_size) are contiguous.  They hold the initial state, for which
 * the caller may write zeros, and then the state after the last step.  lengths (batch,), which may be NULL, says how
 * many steps each row has: y is 0 in the steps after these, the backward direction begins at the row's last step,
 * and all results are as if the row ran alone.  Arrays must not overlap, and only lengths may be NULL.
 *
 * Depending on the sizes, threads share both directions and the rows of a batch; or the layers, as a pipeline over the
 * steps; or the outputs of each step.
 *
 * It allocates scratch memory: up to two arrays of the size of y for the outputs of inner layers; some 48 rows of 4
 * hidden_size for each thread or layer, where products with x are computed ahead; and a size_t for each step if there
 * are lengths.  It allocates nothing for one layer without projection and lengths, with at least 26 rows and at most
 * two threads.
 *
 * Returns FASTGATE_ERROR_MEMORY, before anything is written; FASTGATE_ERROR_SHAPE if a length is more than `steps`; or
 * FASTGATE_ERROR_INTERRUPTED, after which each row of h and c is the initial state, the state after some step, or a
 * mixture of both: keep a copy of a state that is to be used again.
 */
int fastgate_lstm_run(const fastgate_lstm *lstm, size_t steps, size_t batch, const void *x,
                      ptrdiff_t x_step, ptrdiff_t x_row, const size_t *lengths, void *h, void *c,
                      void *y, ptrdiff_t y_step, ptrdiff_t y_row);

/* ---- streams ------------------------------------------------------------------------------- */

/*
 * A stream runs `batch` sequences step by step and keeps their state, which begins as zeros.  The LSTM must outlive
 * its streams.  A stream is used by one thread at a time, also to read its state; different streams of one LSTM may run
 * at the same time.
 */
typedef struct fastgate_stream fastgate_stream;

/* *stream is set on success only; fastgate_stream_free frees it.  batch may be 0.  Returns FASTGATE_ERROR_SHAPE for the
 * LSTMs for which fastgate_lstm_step does, or FASTGATE_ERROR_MEMORY. */
int fastgate_stream_create(fastgate_stream **stream, const fastgate_lstm *lstm, size_t batch);

/* NULL is allowed. */
void fastgate_stream_free(fastgate_stream *stream);

/* x (batch, input_size) -> y (batch, output_size), whose rows are x_stride and y_stride elements apart.  For a batch of
 * 1 the strides do not matter.  y may overlap x.  Allocates nothing and cannot fail. */
void fastgate_stream_step(fastgate_stream *stream, const void *x, ptrdiff_t x_stride, void *y, ptrdiff_t y_stride);

/* The same for some rows of the batch: x (count, input_size) -> y (count, output_size) are those of rows[0] to
 * rows[count - 1], each below batch and none of them twice.  The others stay as they are. */
void fastgate_stream_step_rows(fastgate_stream *stream, const size_t *rows, size_t count, const void *x,
                               ptrdiff_t x_stride, void *y, ptrdiff_t y_stride);

/* Sets the state of row b < batch to zeros. */
void fastgate_stream_reset(fastgate_stream *stream, size_t b);

/* These copy h (layers, batch, output_size) and c (layers, batch, hidden_size), which are contiguous and not NULL.  Any
 * values can be set. */
void fastgate_stream_get_state(const fastgate_stream *stream, void *h, void *c);
void fastgate_stream_set_state(fastgate_stream *stream, const void *h, const void *c);

#ifdef __cplusplus
}
#endif

#endif
