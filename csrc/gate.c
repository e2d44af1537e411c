/* A packed gate: create, run, free; and the gate that is not packed. */
#include "kernels.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

struct fastgate_gate {
    const fg_kernels *kernels;
    fastgate_storage storage;
    unsigned threads;
    size_t output_size, input_size;
    size_t nbytes;
    char *packed; /* 64-byte aligned, inside `block` */
    void *block;
    atomic_bool backwards; /* the last walk; all that changes after create, see fastgate_gate_run */
};

/* A gate larger than this does not stay in the first cache, so the direction of the walk counts. */
#define TURN_BYTES (32 * 1024)

const char *fastgate_strerror(int code)
{
    switch (code) {
    case FASTGATE_OK:
        return "success";
    case FASTGATE_ERROR_MEMORY:
        return "out of memory";
    case FASTGATE_ERROR_SHAPE:
        return "the parts of x do not add up to input_size";
    case FASTGATE_ERROR_ISA:
        return "instruction set unknown, not built or not usable on this CPU";
    case FASTGATE_ERROR_VALUE:
        return "a weight does not fit the storage, or the storage is unknown";
    default:
        return "unknown fastgate error";
    }
}

/* Bytes of the packed form; SIZE_MAX if they, with room to align them, do not fit ptrdiff_t. */
static size_t packed_bytes(fastgate_storage storage, size_t output_size, size_t input_size)
{
    const size_t limit = PTRDIFF_MAX - FG_LINE, rows = fg_panel_rows(storage);
    const size_t panels = output_size / rows + (output_size % rows != 0);
    if (panels && (input_size > limit / FG_LINE - 4 ||
                   panels > limit / fg_panel_bytes(storage, input_size)))
        return SIZE_MAX;
    return panels ? panels * fg_panel_bytes(storage, input_size) : 0;
}

int fastgate_gate_create(fastgate_gate **gate, fastgate_storage storage, size_t output_size,
                         size_t input_size, const void *weight, ptrdiff_t row_stride,
                         ptrdiff_t column_stride, const void *bias, unsigned threads)
{
    if ((unsigned)storage > FASTGATE_FLOAT64)
        return FASTGATE_ERROR_VALUE;
    const size_t nbytes = packed_bytes(storage, output_size, input_size);
    if (nbytes == SIZE_MAX)
        return FASTGATE_ERROR_MEMORY;
    fastgate_gate *made = malloc(sizeof *made);
    void *block = malloc(nbytes + FG_LINE);
    if (!made || !block) {
        free(made);
        free(block);
        return FASTGATE_ERROR_MEMORY;
    }
    made->kernels = fg_active_kernels(storage);
    made->storage = storage;
    made->threads = threads ? threads : 1;
    made->output_size = output_size;
    made->input_size = input_size;
    made->nbytes = nbytes;
    made->packed = (char *)block + FG_LINE - (uintptr_t)block % FG_LINE;
    made->block = block;
    atomic_init(&made->backwards, 0);
    const fg_matrix m = {weight, row_stride, column_stride, bias, output_size, input_size};
    const int rc = fg_pack(made->packed, storage, &m);
    if (rc) {
        fastgate_gate_free(made);
        return rc;
    }
    *gate = made;
    return FASTGATE_OK;
}

void fastgate_gate_free(fastgate_gate *gate)
{
    if (gate)
        free(gate->block);
    free(gate);
}

size_t fastgate_gate_output_size(const fastgate_gate *gate)
{
    return gate->output_size;
}

size_t fastgate_gate_input_size(const fastgate_gate *gate)
{
    return gate->input_size;
}

fastgate_storage fastgate_gate_storage(const fastgate_gate *gate)
{
    return gate->storage;
}

unsigned fastgate_gate_threads(const fastgate_gate *gate)
{
    return gate->threads;
}

size_t fastgate_gate_nbytes(const fastgate_gate *gate)
{
    return gate->nbytes;
}

void fastgate_gate_unpack(const fastgate_gate *gate, void *weight, void *bias)
{
    fg_unpack(gate->packed, gate->storage, gate->output_size, gate->input_size, weight, bias);
}

static int parts_add_up(const fastgate_part *parts, size_t part_count, size_t input_size)
{
    for (size_t i = 0; i < part_count; i++) {
        if (parts[i].size > input_size)
            return 0;
        input_size -= parts[i].size;
    }
    return !input_size;
}

int fastgate_gate_run(const fastgate_gate *gate, size_t batch, const fastgate_part *parts,
                      size_t part_count, void *y, ptrdiff_t y_stride)
{
    if (!parts_add_up(parts, part_count, gate->input_size))
        return FASTGATE_ERROR_SHAPE;
    if (!batch || !gate->output_size)
        return FASTGATE_OK;
    /*
     * Every other walk goes backwards: it begins with the blocks that the one before ended with,
     * which the cache still has.  A gate twice as large as a cache so finds half of itself there,
     * where one that always started anew would find nothing.  A lost update costs only that.
     */
    atomic_bool *turn = (atomic_bool *)&gate->backwards;
    const int turns = gate->nbytes > TURN_BYTES;
    const int backwards = turns && atomic_load_explicit(turn, memory_order_relaxed);
    const fg_call call = {gate->packed, gate->output_size, gate->input_size, parts, y, y_stride};
    const size_t block = FG_PANELS * fg_panel_rows(gate->storage);
    const size_t blocks = gate->output_size / block + (gate->output_size % block != 0);
    gate->kernels->packed[gate->storage](&call, 0, blocks, 0, batch, backwards);
    if (turns)
        atomic_store_explicit(turn, !backwards, memory_order_relaxed);
    return FASTGATE_OK;
}

int fastgate_gate_once(fastgate_storage storage, size_t output_size, size_t input_size,
                       const void *weight, ptrdiff_t row_stride, ptrdiff_t column_stride,
                       const void *bias, size_t batch, const void *x, ptrdiff_t x_stride, void *y,
                       ptrdiff_t y_stride)
{
    if (storage != FASTGATE_FLOAT32 && storage != FASTGATE_FLOAT64)
        return FASTGATE_ERROR_VALUE;
    const fg_kernels *kernels = fg_active_kernels(storage);
    const ptrdiff_t width = storage == FASTGATE_FLOAT64 ? sizeof(double) : sizeof(float);
    const fg_matrix m = {weight, row_stride, column_stride, bias, output_size, input_size};
    for (ptrdiff_t b = 0; (size_t)b < batch && output_size; b++)
        kernels->strided(&m, input_size ? (const char *)x + b * x_stride * width : x,
                         (char *)y + b * y_stride * width);
    return FASTGATE_OK;
}
