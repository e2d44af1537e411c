/* What lstm.c, sequence.c and stream.c share.  Private to csrc. */
#ifndef FASTGATE_LSTM_H
#define FASTGATE_LSTM_H

#include "internal.h"

#include <stdlib.h>
#include <string.h>

#pragma GCC visibility push(hidden)

/* One layer in one direction. */
typedef struct {
    fastgate_gate *gates;      /* (4 padded units, inputs + output_size), in the order of fg_cell */
    fastgate_gate *projection; /* (projection_size, hidden_size), or NULL */
    const void *peephole;      /* as in fg_cell */
} fg_layer;

struct fastgate_lstm {
    fastgate_lstm_options options;
    size_t output_size;
    size_t width;  /* bytes of an element */
    size_t panel;  /* units in one */
    size_t nbytes; /* of the layers */
    int in_place;  /* peepholes are in a buffer that was loaded */
    fg_file file;  /* which was loaded, or none */
    fg_layer layers[]; /* (layers, directions) */
};

static inline size_t fg_count_of(const fastgate_lstm_options *o)
{
    return o->layers * o->directions;
}

/* Inputs of a layer, beside its own h */
static inline size_t fg_inputs_of(const fastgate_lstm *lstm, size_t index)
{
    const fastgate_lstm_options *o = &lstm->options;
    return index < o->directions ? o->input_size : o->directions * lstm->output_size;
}

/* hidden_size, rounded up to whole panels */
static inline size_t fg_padded_units(const fastgate_lstm *lstm)
{
    return (lstm->options.hidden_size + lstm->panel - 1) / lstm->panel * lstm->panel;
}

static inline void *fg_at(const void *array, size_t index, size_t width)
{
    return (char *)array + index * width;
}

/* Rows of a batch: `stride` elements from one to the next. */
typedef struct {
    void *data;
    ptrdiff_t stride;
} fg_rows;

/* One step of a layer. */
typedef struct {
    fg_rows x, h, c;      /* not written */
    fg_rows h_out, c_out; /* c_out may be c */
    fg_rows totals;       /* NULL, or what the products with x add up to, (batch, 4 padded units): x is not read then */
    void *m;              /* (batch, hidden_size), scratch of a projection */
} fg_step;

/* 1 if it was interrupted */
int fg_step_layer(const fastgate_lstm *lstm, size_t index, size_t batch, const fg_step *step);

/* A step of all layers of one direction; h and so on are those of all layers, contiguous. */
void fg_step_layers(const fastgate_lstm *lstm, size_t batch, const fg_step *all);

/* to[b] = from[b] for b < batch, of `size` elements */
static inline void fg_copy_rows(const fastgate_lstm *lstm, size_t batch, fg_rows to, fg_rows from, size_t size)
{
    const ptrdiff_t width = (ptrdiff_t)lstm->width;
    for (ptrdiff_t b = 0; b < (ptrdiff_t)batch && size; b++)
        memcpy((char *)to.data + b * to.stride * width, (char *)from.data + b * from.stride * width,
               size * lstm->width);
}

/* a * b, or SIZE_MAX, which no allocation grants, if that is more than ptrdiff_t holds */
static inline size_t fg_product(size_t a, size_t b)
{
    size_t product;
    return __builtin_mul_overflow(a, b, &product) || product > PTRDIFF_MAX ? SIZE_MAX : product;
}

/* Parts of one block of memory.  Laid out twice: without a block their sizes add up, and then they are handed out. */
typedef struct {
    char *block;
    size_t used; /* bytes; SIZE_MAX if they do not fit ptrdiff_t */
} fg_workspace;

/* count * size elements */
static inline void *fg_part_of(fg_workspace *w, size_t count, size_t size, size_t width)
{
    const size_t bytes = fg_product(fg_product(count, size), width), used = w->used;
    if (used == SIZE_MAX || bytes > PTRDIFF_MAX / FG_LINE * FG_LINE - used)
        return w->used = SIZE_MAX, NULL;
    w->used = used + (bytes + FG_LINE - 1) / FG_LINE * FG_LINE;
    return w->block ? w->block + used : NULL;
}

#pragma GCC visibility pop

#endif
