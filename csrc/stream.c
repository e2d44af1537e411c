/* Streams: sequences that are run step by step. */
#include "lstm.h"

struct fastgate_stream {
    const fastgate_lstm *lstm;
    size_t batch;
    void *h[2], *c; /* (layers, batch, size): h[now] and c are the state, and the next step writes the other h */
    void *h_rows, *c_rows; /* the states of the rows that fastgate_stream_step_rows advances, in their order */
    void *unprojected; /* scratch of a projection */
    int now;
    fg_workspace workspace;
};

static void lay_out_stream(fastgate_stream *s)
{
    const fastgate_lstm_options *o = &s->lstm->options;
    const size_t count = fg_product(o->layers, s->batch), width = s->lstm->width;
    s->h[0] = fg_array_in(&s->workspace, count, s->lstm->output_size, width);
    s->h[1] = fg_array_in(&s->workspace, count, s->lstm->output_size, width);
    s->c = fg_array_in(&s->workspace, count, o->hidden_size, width);
    s->h_rows = fg_array_in(&s->workspace, count, s->lstm->output_size, width);
    s->c_rows = fg_array_in(&s->workspace, count, o->hidden_size, width);
    s->unprojected = fg_array_in(&s->workspace, o->projection_size ? s->batch : 0, o->hidden_size, width);
}

int fastgate_stream_create(fastgate_stream **stream, const fastgate_lstm *lstm, size_t batch)
{
    if (lstm->options.directions != 1 || lstm->options.backwards)
        return FASTGATE_ERROR_SHAPE;
    fastgate_stream made = {.lstm = lstm, .batch = batch};
    lay_out_stream(&made);
    if (made.workspace.used == SIZE_MAX)
        return FASTGATE_ERROR_MEMORY;
    fastgate_stream *result = malloc(sizeof *result);
    made.workspace.memory = calloc(made.workspace.used + 1, 1);
    if (!result || !made.workspace.memory) {
        free(result), free(made.workspace.memory);
        return FASTGATE_ERROR_MEMORY;
    }
    made.workspace.used = 0;
    lay_out_stream(&made);
    *result = made;
    *stream = result;
    return FASTGATE_OK;
}

void fastgate_stream_free(fastgate_stream *stream)
{
    if (stream)
        free(stream->workspace.memory);
    free(stream);
}

/* y = the output of a step of `count` rows, the last of its h (layers, count, output_size) */
static void copy_output(const fastgate_lstm *lstm, size_t count, const void *h, void *y, ptrdiff_t y_stride)
{
    const size_t output = lstm->output_size;
    const fg_rows last = {fg_at(h, (lstm->options.layers - 1) * count * output, lstm->width), (ptrdiff_t)output};
    fg_copy_rows(lstm, count, (fg_rows){y, y_stride}, last, output);
}

void fastgate_stream_step(fastgate_stream *s, const void *x, ptrdiff_t x_stride, void *y, ptrdiff_t y_stride)
{
    void *const next = s->h[1 - s->now];
    const fg_step all = {.x = {(void *)x, x_stride}, .h = {s->h[s->now], 0}, .c = {s->c, 0}, .h_out = {next, 0},
                         .c_out = {s->c, 0}, .unprojected = s->unprojected};
    fg_step_layers(s->lstm, s->batch, &all);
    s->now = 1 - s->now;
    copy_output(s->lstm, s->batch, next, y, y_stride);
}

/* Copies elements of state (layers, batch, size), those in `rows`, to or from packed (layers, count, size). */
static void copy_chosen(const fastgate_stream *s, const size_t *rows, size_t count, void *state, void *packed,
                        size_t size, int back)
{
    const size_t width = s->lstm->width;
    for (size_t k = 0; k < s->lstm->options.layers && size; k++)
        for (size_t i = 0; i < count; i++) {
            void *const chosen = fg_at(state, (k * s->batch + rows[i]) * size, width);
            void *const other = fg_at(packed, (k * count + i) * size, width);
            memcpy(back ? chosen : other, back ? other : chosen, size * width);
        }
}

void fastgate_stream_step_rows(fastgate_stream *s, const size_t *rows, size_t count, const void *x,
                               ptrdiff_t x_stride, void *y, ptrdiff_t y_stride)
{
    const fastgate_lstm *lstm = s->lstm;
    const size_t output = lstm->output_size, hidden = lstm->options.hidden_size;
    void *const h = s->h[s->now], *const next = s->h[1 - s->now];
    copy_chosen(s, rows, count, h, s->h_rows, output, 0);
    copy_chosen(s, rows, count, s->c, s->c_rows, hidden, 0);
    const fg_step all = {.x = {(void *)x, x_stride}, .h = {s->h_rows, 0}, .c = {s->c_rows, 0}, .h_out = {next, 0},
                         .c_out = {s->c_rows, 0}, .unprojected = s->unprojected};
    fg_step_layers(lstm, count, &all);
    copy_chosen(s, rows, count, h, next, output, 1);
    copy_chosen(s, rows, count, s->c, s->c_rows, hidden, 1);
    copy_output(lstm, count, next, y, y_stride);
}

void fastgate_stream_reset(fastgate_stream *s, size_t b)
{
    const size_t width = s->lstm->width, output = s->lstm->output_size;
    const size_t hidden = s->lstm->options.hidden_size;
    for (size_t k = 0; k < s->lstm->options.layers; k++) {
        memset(fg_at(s->h[s->now], (k * s->batch + b) * output, width), 0, output * width);
        memset(fg_at(s->c, (k * s->batch + b) * hidden, width), 0, hidden * width);
    }
}

/* Copies h and c of all layers and rows from the stream or, with `back`, to it. */
static void copy_state(const fastgate_stream *s, void *h, void *c, int back)
{
    void *const own[2] = {s->h[s->now], s->c}, *const other[2] = {h, c};
    const size_t sizes[2] = {s->lstm->output_size, s->lstm->options.hidden_size};
    for (size_t i = 0; i < 2; i++) {
        const size_t bytes = s->lstm->options.layers * s->batch * sizes[i] * s->lstm->width;
        if (bytes) /* else the arrays may be NULL */
            memcpy(back ? own[i] : other[i], back ? other[i] : own[i], bytes);
    }
}

void fastgate_stream_get_state(const fastgate_stream *s, void *h, void *c)
{
    copy_state(s, h, c, 0);
}

void fastgate_stream_set_state(fastgate_stream *s, const void *h, const void *c)
{
    copy_state(s, (void *)h, (void *)c, 1);
}
