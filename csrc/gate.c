/* A packed gate: create, run, free; and the gate that is not packed. */
#include "kernels.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

struct fastgate_gate {
    const fg_kernels *kernels;
    size_t output_size, input_size;
    size_t nbytes;
    float *packed; /* 64-byte aligned, inside `block` */
    void *block;
    atomic_bool backwards; /* the last walk; all that changes after create, see fastgate_gate_run */
};

/* A gate larger than this does not stay in the first cache, so the direction of the walk counts. */
#define TURN_BYTES (32 * 1024)

#define ALIGNMENT 64

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
    default:
        return "unknown fastgate error";
    }
}

/* Bytes of the packed form; 0 if they, with room to align them, do not fit ptrdiff_t. */
static size_t packed_bytes(size_t output_size, size_t input_size)
{
    const size_t limit = PTRDIFF_MAX - ALIGNMENT;
    if (output_size > limit - FG_PANEL || input_size >= limit / sizeof(float))
        return 0;
    const size_t rows = (output_size + FG_PANEL - 1) / FG_PANEL * FG_PANEL;
    if (rows > limit / sizeof(float) / (input_size + 1))
        return 0;
    return rows * (input_size + 1) * sizeof(float);
}

int fastgate_gate_create(fastgate_gate **gate, size_t output_size, size_t input_size,
                         const float *weight, ptrdiff_t row_stride, ptrdiff_t column_stride,
                         const float *bias)
{
    const size_t nbytes = packed_bytes(output_size, input_size);
    if (!nbytes && output_size)
        return FASTGATE_ERROR_MEMORY;
    fastgate_gate *made = malloc(sizeof *made);
    void *block = malloc(nbytes + ALIGNMENT);
    if (!made || !block) {
        free(made);
        free(block);
        return FASTGATE_ERROR_MEMORY;
    }
    made->kernels = fg_active_kernels();
    made->output_size = output_size;
    made->input_size = input_size;
    made->nbytes = nbytes;
    made->packed = (float *)((char *)block + ALIGNMENT - (uintptr_t)block % ALIGNMENT);
    made->block = block;
    atomic_init(&made->backwards, 0);
    const fg_matrix m = {weight, row_stride, column_stride, bias, output_size, input_size};
    fg_pack(made->packed, &m);
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

size_t fastgate_gate_nbytes(const fastgate_gate *gate)
{
    return gate->nbytes;
}

void fastgate_gate_unpack(const fastgate_gate *gate, float *weight, float *bias)
{
    fg_unpack(gate->packed, gate->output_size, gate->input_size, weight, bias);
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
                      size_t part_count, float *y, ptrdiff_t y_stride)
{
    if (!parts_add_up(parts, part_count, gate->input_size))
        return FASTGATE_ERROR_SHAPE;
    /*
     * Every other walk goes backwards: it begins with the blocks that the one before ended with,
     * which the cache still has.  A gate twice as large as a cache so finds half of itself there,
     * where one that always started anew would find nothing.  A lost update costs only that.
     */
    atomic_bool *turn = (atomic_bool *)&gate->backwards;
    const int turns = gate->nbytes > TURN_BYTES;
    int backwards = turns && atomic_load_explicit(turn, memory_order_relaxed);
    for (size_t b = 0; b < batch && gate->output_size; b++) {
        const fg_vector x = {parts, b};
        backwards ^= turns;
        gate->kernels->packed(gate->packed, gate->output_size, gate->input_size, x,
                              y + (ptrdiff_t)b * y_stride, backwards);
    }
    if (turns)
        atomic_store_explicit(turn, backwards, memory_order_relaxed);
    return FASTGATE_OK;
}

void fastgate_gate_once(size_t output_size, size_t input_size, const float *weight,
                        ptrdiff_t row_stride, ptrdiff_t column_stride, const float *bias,
                        size_t batch, const float *x, ptrdiff_t x_stride, float *y,
                        ptrdiff_t y_stride)
{
    const fg_kernels *kernels = fg_active_kernels();
    const fg_matrix m = {weight, row_stride, column_stride, bias, output_size, input_size};
    for (size_t b = 0; b < batch && output_size; b++)
        kernels->strided(&m, input_size ? x + (ptrdiff_t)b * x_stride : x, y + (ptrdiff_t)b * y_stride);
}
