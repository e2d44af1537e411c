/* What lstm.c, sequence.c and stream.c share.  Private to csrc. */
#ifndef FASTGATE_LSTM_H
#define FASTGATE_LSTM_H

#include "internal.h"

#include <stdlib.h>
#include <string.h>

#pragma GCC visibility push(hidden)

/* One layer in one direction.  Its units are padded to whole panels; `inputs` is the number of elements of
 * x. */
typedef struct {
    fastgate_gate *gates;      /* (4 padded units, inputs + output_size), in the order of fg_cell */
    fastgate_gate *projection; /* (projection_size, hidden_size), or NULL */
    const void *peephole;      /* (3, padded units), or NULL */
} fg_layer;

struct fastgate_lstm {
    fastgate_lstm_options options;
    size_t output_size;
    size_t width;  /* bytes of an element of an array */
    size_t panel_rows; /* units in a panel */
    size_t nbytes; /* of all layers */
    int in_place;  /* whether peepholes are in a buffer that was loaded */
    fg_file file;  /* the file that was loaded, if any */
    fg_layer layers[]; /* (layers, directions) */
};

static inline size_t fg_count_of(const fastgate_lstm_options *o)
{
    return o->layers * o->directions;
}

/* The inputs of a layer from x, without its own h */
static inline size_t fg_inputs_of(const fastgate_lstm *lstm, size_t index)
{
    const fastgate_lstm_options *o = &lstm->options;
    return index < o->directions ? o->input_size : o->directions * lstm->output_size;
}

/* hidden_size, rounded up to whole panels */
static inline size_t fg_padded_units(const fastgate_lstm *lstm)
{
    return (lstm->options.hidden_size + lstm->panel_rows - 1) / lstm->panel_rows * lstm->panel_rows;
}

/* The rows of a batch, `stride` elements apart. */
typedef struct {
    void *data;
    ptrdiff_t stride;
} fg_rows;

/* The arrays of one step of a layer. */
typedef struct {
    fg_rows x, h, c;
    fg_rows h_out, c_out; /* c_out may be c */
    fg_rows totals;       /* (batch, 4 padded units), the biases and products with x; or NULL, and x is read */
    void *unprojected;    /* (batch, hidden_size): h before the projection; scratch */
} fg_step;

/* Runs one step of a layer.  Returns 1 if it was interrupted. */
int fg_step_layer(const fastgate_lstm *lstm, size_t index, size_t batch, const fg_step *step);

/* Runs one step of all layers of one direction.  h, c and their outputs are those of all layers, contiguous. */
void fg_step_layers(const fastgate_lstm *lstm, size_t batch, const fg_step *all);

/* Copies `size` elements of each row. */
static inline void fg_copy_rows(const fastgate_lstm *lstm, size_t batch, fg_rows to, fg_rows from, size_t size)
{
    const ptrdiff_t width = (ptrdiff_t)lstm->width;
    for (ptrdiff_t b = 0; b < (ptrdiff_t)batch && size; b++)
        memcpy((char *)to.data + b * to.stride * width, (char *)from.data + b * from.stride * width,
               size * lstm->width);
}

/* Several arrays in one allocation.  They are laid out twice: without memory, which adds up their sizes, and again
 * with `used` bytes of memory, which gives their addresses. */
typedef struct {
    char *memory;
    size_t used; /* bytes; SIZE_MAX if they do not fit ptrdiff_t */
} fg_workspace;

/* The next array, (count, size) elements */
static inline void *fg_array_in(fg_workspace *w, size_t count, size_t size, size_t width)
{
    const size_t bytes = fg_product(fg_product(count, size), width), used = w->used;
    if (used == SIZE_MAX || bytes > PTRDIFF_MAX / FG_LINE * FG_LINE - used)
        return w->used = SIZE_MAX, NULL;
    w->used = used + (bytes + FG_LINE - 1) / FG_LINE * FG_LINE;
    return w->memory ? w->memory + used : NULL;
}

#pragma GCC visibility pop

#endif
