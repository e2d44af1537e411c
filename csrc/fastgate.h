/*
 * fastgate: the LSTM input gate  g = sigma(W [1; x])  on a CPU: a C99 interface.
 *
 * W is (output_size, input_size); the bias, column 0 of the textbook form, is an array of its own;
 * sigma is the logistic sigmoid 1 / (1 + exp(-z)), within 1 ULP of the true value for every float
 * z, within 1.5 ULP for every double.  A gate packs W once and is then called many times:
 *
 *     fastgate_gate *gate;
 *     int rc = fastgate_gate_create(&gate, FASTGATE_FLOAT32, m, n, weight, n, 1, bias, 1);
 *     if (rc) return puts(fastgate_strerror(rc)), rc;
 *     fastgate_part x_part = {x, n, 0};
 *     rc = fastgate_gate_run(gate, 1, &x_part, 1, y, 0);        // W (m,n), x (n,) -> y (m,)
 *     fastgate_gate_free(gate);
 *
 * Weights, biases, inputs and outputs are arrays of double for gates of FASTGATE_FLOAT64, and of
 * float for all others.  Strides count their elements.
 *
 * An output depends on its own row of W, its bias and x alone: its bits are the same for every
 * instruction set, batch size, place in the batch, number of threads, split of x into parts and memory
 * alignment, and for fastgate_gate_once as for a packed gate.  (Which NaN a NaN is may differ.)  The
 * error bounds hold in the default floating-point mode: round to nearest, subnormals kept.
 *
 * Memory:   arrays need the alignment of their elements only.  The caller owns every array passed in;
 *           a gate copies what it keeps.  Outputs must not overlap inputs.  A call allocates nothing,
 *           and needs some 120 KB of stack for a batch.
 * Threads:  any number of threads may run one gate at once, each with outputs of its own: while a
 *           call runs, they hold what is not yet the result.
 *           fastgate_select_isa must not run beside any other call.
 * Errors:   functions that can fail return FASTGATE_OK (0) or a code below, before they write
 *           anything.  Nothing here prints, aborts or changes the floating-point mode.
 */
#ifndef FASTGATE_H
#define FASTGATE_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FASTGATE_VERSION "0.1.0"

enum {
    FASTGATE_OK = 0,
    FASTGATE_ERROR_MEMORY = 1, /* no memory, or a size that overflows size_t */
    FASTGATE_ERROR_SHAPE = 2,  /* the parts' lengths do not add up to input_size */
    FASTGATE_ERROR_ISA = 3,    /* unknown instruction set, or not in this build or CPU */
    FASTGATE_ERROR_VALUE = 4   /* a weight that the storage cannot hold, or an unknown storage */
};

/* A short English text for a code; never NULL. */
const char *fastgate_strerror(int code);

/* ---- instruction sets ---------------------------------------------------------------------- */

/* Names of the kernels in this build, best first, ending with "base"; NULL past the end. */
const char *fastgate_isa_name(size_t index);

/* 1 if this CPU and operating system can run kernel `index`, else 0. */
int fastgate_isa_usable(size_t index);

/* The name of the kernels in use. */
const char *fastgate_isa(void);

/* Chooses the kernels for gates created, and one-shot calls made, from now on.  NULL or "" takes
 * the best usable ones, which is also what happens when this is never called. */
int fastgate_select_isa(const char *name);

/* ---- threads ------------------------------------------------------------------------------- */

/* The CPUs that this process may run on; at least 1. */
unsigned fastgate_cpu_count(void);

/* n > 0: from now on every gate call in this process runs on up to n threads, whatever the gate was
 * created with; 0: as created, which is also what happens when this is never called. */
void fastgate_override_threads(unsigned threads);

/* ---- gates --------------------------------------------------------------------------------- */

typedef struct fastgate_gate fastgate_gate;

/*
 * How a gate holds its weights; its biases are kept as they are.
 * FLOAT16, BFLOAT16:  rounded to nearest, ties to even; products and sums are as for FLOAT32.
 * INT8:  row i as integers of -127 to 127 times a scale of its own, max |W[i, :]| / 127 cut to 17
 *        bits.  In a call, each span of 4096 inputs becomes 16-bit integers times a power of two; sums
 *        of their products are exact.
 */
typedef enum {
    FASTGATE_FLOAT32,
    FASTGATE_FLOAT16,
    FASTGATE_BFLOAT16,
    FASTGATE_INT8,
    FASTGATE_FLOAT64
} fastgate_storage;

/* A run of consecutive elements of x.  x is the concatenation of its parts. */
typedef struct {
    const void *data; /* (batch, size): the elements of a row are contiguous; may be NULL if empty */
    size_t size;
    ptrdiff_t stride; /* elements from one row of the batch to the next */
} fastgate_part;

/*
 * Packs weight (output_size, input_size), whose element (i, k) is weight[i * row_stride +
 * k * column_stride], and bias (output_size,) or NULL for zeros.  Strides may be zero or negative.
 * Either size may be 0.  A call shares its work among up to `threads` threads, itself included, where
 * there is enough to share; 0 is taken as 1.  *gate is set on success only.
 *
 * FASTGATE_ERROR_VALUE if a finite weight is beyond the range of FLOAT16 or BFLOAT16, or any is not
 * finite for INT8.
 */
int fastgate_gate_create(fastgate_gate **gate, fastgate_storage storage, size_t output_size,
                         size_t input_size, const void *weight, ptrdiff_t row_stride,
                         ptrdiff_t column_stride, const void *bias, unsigned threads);

/* NULL is allowed. */
void fastgate_gate_free(fastgate_gate *gate);

size_t fastgate_gate_output_size(const fastgate_gate *gate);
size_t fastgate_gate_input_size(const fastgate_gate *gate);
fastgate_storage fastgate_gate_storage(const fastgate_gate *gate);
unsigned fastgate_gate_threads(const fastgate_gate *gate); /* as given to create */
size_t fastgate_gate_nbytes(const fastgate_gate *gate); /* bytes of the packed weights and biases */

/*
 * weight (output_size, input_size), row-major, and bias (output_size,) = what the gate computes with: the
 * weights as they were rounded.  A gate made of these, in the same storage, is the same gate.
 */
void fastgate_gate_unpack(const fastgate_gate *gate, void *weight, void *bias);

/*
 * y[b, :] = sigma(W x[b] + bias) for b < batch.  y is (batch, output_size), rows contiguous,
 * y_stride apart.  FASTGATE_ERROR_SHAPE if the parts do not add up to input_size.
 */
int fastgate_gate_run(const fastgate_gate *gate, size_t batch, const fastgate_part *parts,
                      size_t part_count, void *y, ptrdiff_t y_stride);

/*
 * The same for x (batch, input_size), from weights that are read where they lie: nothing is packed
 * or allocated.  weight and bias are as in fastgate_gate_create, storage is FLOAT32 or FLOAT64, else
 * FASTGATE_ERROR_VALUE.  Fast where column_stride or row_stride is 1.
 */
int fastgate_gate_once(fastgate_storage storage, size_t output_size, size_t input_size,
                       const void *weight, ptrdiff_t row_stride, ptrdiff_t column_stride,
                       const void *bias, size_t batch, const void *x, ptrdiff_t x_stride, void *y,
                       ptrdiff_t y_stride);

#ifdef __cplusplus
}
#endif

#endif
