/* What saved.c and fuzz.c share: a check that what can be loaded is saved as the same bytes. */
#ifndef AGAIN_H
#define AGAIN_H

#ifdef _WIN32 /* free takes no aligned blocks there, so all blocks are aligned, and have a free of their own */
#include <malloc.h>
#include <stdlib.h>
#define malloc(size) _aligned_malloc(size, 64)
#define free(p) _aligned_free(p)
#define posix_memalign(p, alignment, size) !(*(p) = _aligned_malloc(size, alignment))
#endif

#include "test.h"
#include "../../csrc/internal.h"

static inline void *block(size_t size)
{
    void *p;
    CHECK(!posix_memalign(&p, FG_LINE, size + !size), "%zu bytes", size);
    return p;
}

/* What saving writes, in a block that is to be freed, and its size. */
static inline void *saved_gate(const fastgate_gate *gate, size_t *size)
{
    void *buffer = block(*size = fastgate_gate_saved_size(gate));
    memset(buffer, 0xa5, *size);
    fastgate_gate_save(gate, buffer);
    return buffer;
}

static inline void *saved_lstm(const fastgate_lstm *lstm, size_t *size)
{
    void *buffer = block(*size = fastgate_lstm_saved_size(lstm));
    memset(buffer, 0xa5, *size);
    fastgate_lstm_save(lstm, buffer);
    return buffer;
}

static inline void gate_saves_as(const fastgate_gate *gate, const void *expected, size_t size, const char *what)
{
    size_t size_again;
    void *again = saved_gate(gate, &size_again);
    CHECK(size_again == size && !memcmp(again, expected, size), "%s", what);
    free(again);
}

static inline void lstm_saves_as(const fastgate_lstm *lstm, const void *expected, size_t size, const char *what)
{
    size_t size_again;
    void *again = saved_lstm(lstm, &size_again);
    CHECK(size_again == size && !memcmp(again, expected, size), "%s", what);
    free(again);
}

/* The gate was loaded from `saved`: saving it, or another gate made of its weights, gives the same bytes. */
static inline void same_gate_again(const fastgate_gate *gate, const void *saved, size_t size)
{
    const size_t m = fastgate_gate_output_size(gate), n = fastgate_gate_input_size(gate);
    storage = fastgate_gate_storage(gate);
    gate_saves_as(gate, saved, size, "saved again");
    void *weight = numbers(m * n), *bias = numbers(m);
    fastgate_gate *made;
    fastgate_gate_unpack(gate, weight, bias);
    CHECK(!fastgate_gate_create(&made, storage, m, n, weight, (ptrdiff_t)n, 1, bias, fastgate_gate_threads(gate)),
          "made of its weights");
    gate_saves_as(made, saved, size, "made of its weights");
    fastgate_gate_free(made), free(weight), free(bias);
}

static inline void same_lstm_again(const fastgate_lstm *lstm, const void *saved, size_t size)
{
    const fastgate_lstm_options *o = fastgate_lstm_get_options(lstm);
    const size_t cells = o->layers * o->directions, hidden = o->hidden_size, output = fastgate_lstm_output_size(lstm);
    storage = o->storage;
    lstm_saves_as(lstm, saved, size, "saved again");
    fastgate_lstm_weights *weights = malloc(cells * sizeof *weights);
    CHECK(weights, "%zu cells", cells);
    for (size_t i = 0; i < cells; i++) {
        const size_t inputs = i < o->directions ? o->input_size : o->directions * output;
        void *ih = numbers(4 * hidden * inputs), *hh = numbers(4 * hidden * output), *bias = numbers(4 * hidden);
        void *peephole = fastgate_lstm_has_peephole(lstm, i) ? numbers(3 * hidden) : NULL;
        void *projection = numbers(o->projection_size * hidden);
        fastgate_lstm_unpack(lstm, i, ih, hh, bias, peephole, projection);
        weights[i] = (fastgate_lstm_weights){ih, hh, bias, peephole, projection};
    }
    fastgate_lstm *made;
    CHECK(!fastgate_lstm_create(&made, o, weights), "made of its weights");
    lstm_saves_as(made, saved, size, "made of its weights");
    fastgate_lstm_free(made);
    for (size_t i = 0; i < cells; i++) {
        free((void *)weights[i].weight_ih), free((void *)weights[i].weight_hh), free((void *)weights[i].bias);
        free((void *)weights[i].peephole), free((void *)weights[i].projection);
    }
    free(weights);
}

#endif
