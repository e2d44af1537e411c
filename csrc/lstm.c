/* LSTMs: create, unpack, save, load, free, and one step. */
#include "lstm.h"

#include <math.h>

/* ---- weights ----------------------------------------------------------------------------------- */

static fg_shape shape_of_gates(const fastgate_lstm *lstm, size_t index)
{
    return (fg_shape){lstm->options.hidden_size, 4, {fg_inputs_of(lstm, index), lstm->output_size}};
}

static fg_shape shape_of_projection(const fastgate_lstm *lstm)
{
    return (fg_shape){lstm->options.projection_size, 1, {lstm->options.hidden_size, 0}};
}

/* The gates of a layer as the caller has them; fg_unpack writes to the same arrays. */
static fg_matrix gates_of(const fastgate_lstm *lstm, size_t index, const fastgate_lstm_weights *given)
{
    const fg_shape shape = shape_of_gates(lstm, index);
    return (fg_matrix){shape, {given->weight_ih, given->weight_hh},
                       {(ptrdiff_t)shape.segments[0], (ptrdiff_t)shape.segments[1]}, 1, given->bias};
}

static fg_matrix projection_of(const fastgate_lstm *lstm, const void *weight)
{
    return (fg_matrix){shape_of_projection(lstm), {weight}, {(ptrdiff_t)lstm->options.hidden_size}, 1, NULL};
}

/* Copies peepholes (3, from_size) to (3, to_size), as far as both have them. */
static void copy_peephole(const fastgate_lstm *lstm, void *to, size_t to_size, const void *from, size_t from_size)
{
    const ptrdiff_t output = (ptrdiff_t)to_size, input = (ptrdiff_t)from_size;
    fg_copy_rows(lstm, 3, (fg_rows){to, output}, (fg_rows){(void *)from, input}, smaller(to_size, from_size));
}

static int create_layer(fastgate_lstm *lstm, size_t index, const fastgate_lstm_weights *given)
{
    const fastgate_lstm_options *o = &lstm->options;
    const size_t units = fg_padded_units(lstm);
    const fg_matrix gates = gates_of(lstm, index, given), projection = projection_of(lstm, given->projection);
    fg_layer *made = &lstm->layers[index];
    int rc = fg_create(&made->gates, o->storage, &gates, o->threads);
    if (!rc && o->projection_size)
        rc = fg_create(&made->projection, o->storage, &projection, o->threads);
    if (rc)
        return rc;
    lstm->nbytes += fastgate_gate_nbytes(made->gates);
    if (made->projection)
        lstm->nbytes += fastgate_gate_nbytes(made->projection);
    if (given->peephole && o->hidden_size) {
        void *peephole = calloc(3 * units, lstm->width);
        made->peephole = peephole;
        if (!peephole)
            return FASTGATE_ERROR_MEMORY;
        copy_peephole(lstm, peephole, units, given->peephole, o->hidden_size);
        lstm->nbytes += 3 * units * lstm->width;
    }
    return FASTGATE_OK;
}

/* Checks the options and allocates an LSTM whose layers are still empty. */
static int create_empty(fastgate_lstm **lstm, const fastgate_lstm_options *o)
{
    if ((unsigned)o->storage > FASTGATE_FLOAT64 || !(o->clip >= 0) || !(o->gate_clip >= 0))
        return FASTGATE_ERROR_VALUE;
    if (!o->layers || (o->directions != 1 && o->directions != 2) || (o->backwards && o->directions == 2))
        return FASTGATE_ERROR_SHAPE;
    if (o->hidden_size > PTRDIFF_MAX / 64 || o->projection_size > PTRDIFF_MAX / 64 ||
        o->layers > PTRDIFF_MAX / 64 / sizeof(fg_layer))
        return FASTGATE_ERROR_MEMORY;
    fastgate_lstm *made = calloc(1, sizeof *made + fg_count_of(o) * sizeof(fg_layer));
    if (!made)
        return FASTGATE_ERROR_MEMORY;
    made->options = *o;
    made->options.clip = fabs(o->clip); /* makes 0 of -0, so that saved files do not differ by its sign */
    made->options.gate_clip = fabs(o->gate_clip);
    made->output_size = o->projection_size ? o->projection_size : o->hidden_size;
    made->width = fg_real_bytes(o->storage);
    made->panel_rows = fg_panel_rows(o->storage);
    *lstm = made;
    return FASTGATE_OK;
}

int fastgate_lstm_create(fastgate_lstm **lstm, const fastgate_lstm_options *options,
                         const fastgate_lstm_weights *weights)
{
    fastgate_lstm *made;
    int rc = create_empty(&made, options);
    if (rc)
        return rc;
    for (size_t i = 0; i < fg_count_of(options) && !rc; i++)
        rc = create_layer(made, i, &weights[i]);
    if (rc) {
        fastgate_lstm_free(made);
        return rc;
    }
    *lstm = made;
    return FASTGATE_OK;
}

void fastgate_lstm_free(fastgate_lstm *lstm)
{
    for (size_t i = 0; lstm && i < fg_count_of(&lstm->options); i++) {
        fastgate_gate_free(lstm->layers[i].gates);
        fastgate_gate_free(lstm->layers[i].projection);
        if (!lstm->in_place)
            free((void *)lstm->layers[i].peephole);
    }
    if (lstm)
        fg_close_file(&lstm->file);
    free(lstm);
}

const fastgate_lstm_options *fastgate_lstm_get_options(const fastgate_lstm *lstm)
{
    return &lstm->options;
}

size_t fastgate_lstm_output_size(const fastgate_lstm *lstm)
{
    return lstm->output_size;
}

size_t fastgate_lstm_nbytes(const fastgate_lstm *lstm)
{
    return lstm->nbytes;
}

int fastgate_lstm_has_peephole(const fastgate_lstm *lstm, size_t index)
{
    return lstm->layers[index].peephole != NULL;
}

void fastgate_lstm_unpack(const fastgate_lstm *lstm, size_t index, void *weight_ih, void *weight_hh,
                          void *bias, void *peephole, void *projection)
{
    const fastgate_lstm_options *o = &lstm->options;
    const fg_layer *from = &lstm->layers[index];
    const fastgate_lstm_weights to = {weight_ih, weight_hh, bias, NULL, NULL};
    const fg_matrix gates = gates_of(lstm, index, &to), projected = projection_of(lstm, projection);
    fg_unpack(fg_packed_of(from->gates), o->storage, &gates);
    if (from->peephole)
        copy_peephole(lstm, peephole, o->hidden_size, from->peephole, fg_padded_units(lstm));
    if (from->projection)
        fg_unpack(fg_packed_of(from->projection), o->storage, &projected);
}

/* ---- saved ------------------------------------------------------------------------------------- */

/* The sections of a layer in a saved buffer.  A section that the layer does not have is empty. */
typedef struct {
    size_t gates, projection, peephole; /* offsets */
    size_t gates_bytes, projection_bytes, peephole_bytes;
} sections;

/* The sections of the layer that begins at *end, which moves behind them.  Sizes overflow as in fg_section. */
static sections place_layer(const fastgate_lstm *lstm, size_t index, int has_peephole, size_t *end)
{
    const fg_shape gates = shape_of_gates(lstm, index), projection = shape_of_projection(lstm);
    sections p = {0};
    p.gates_bytes = fg_packed_bytes(lstm->options.storage, &gates);
    p.projection_bytes = fg_packed_bytes(lstm->options.storage, &projection);
    p.peephole_bytes = has_peephole ? 3 * fg_padded_units(lstm) * lstm->width : 0;
    p.gates = fg_section(end, p.gates_bytes);
    p.projection = fg_section(end, p.projection_bytes);
    p.peephole = fg_section(end, p.peephole_bytes);
    return p;
}

static fg_saved header_of(const fastgate_lstm *lstm)
{
    const fastgate_lstm_options *o = &lstm->options;
    return (fg_saved){.size = fastgate_lstm_saved_size(lstm),
                      .kind = FG_SAVED_LSTM,
                      .storage = o->storage,
                      .threads = o->threads,
                      .directions = o->directions,
                      .flags = (o->backwards ? FG_SAVED_BACKWARDS : 0) |
                               (o->input_forget ? FG_SAVED_INPUT_FORGET : 0) |
                               (o->batch_first ? FG_SAVED_BATCH_FIRST : 0),
                      .input_size = o->input_size,
                      .output_size = o->hidden_size,
                      .projection_size = o->projection_size,
                      .layers = o->layers,
                      .clip = o->clip,
                      .gate_clip = o->gate_clip};
}

size_t fastgate_lstm_saved_size(const fastgate_lstm *lstm)
{
    size_t end = sizeof(fg_saved) + fg_count_of(&lstm->options);
    for (size_t i = 0; i < fg_count_of(&lstm->options); i++)
        place_layer(lstm, i, lstm->layers[i].peephole != NULL, &end);
    return end;
}

void fastgate_lstm_save(const fastgate_lstm *lstm, void *buffer)
{
    const fg_saved header = header_of(lstm);
    size_t end = sizeof header + fg_count_of(&lstm->options);
    char *has_peephole = (char *)buffer + sizeof header;
    memset(buffer, 0, (size_t)header.size);
    for (size_t i = 0; i < fg_count_of(&lstm->options); i++) {
        const fg_layer *from = &lstm->layers[i];
        const sections p = place_layer(lstm, i, from->peephole != NULL, &end);
        memcpy((char *)buffer + p.gates, fg_packed_of(from->gates), p.gates_bytes);
        if (from->projection)
            memcpy((char *)buffer + p.projection, fg_packed_of(from->projection), p.projection_bytes);
        if (from->peephole) {
            has_peephole[i] = 1;
            memcpy((char *)buffer + p.peephole, from->peephole, p.peephole_bytes);
        }
    }
    fg_seal(buffer, &header);
}

/* Makes the layers of a buffer whose header has been read into lstm->options. */
static int load_layers(fastgate_lstm *lstm, const char *buffer, size_t size)
{
    const fastgate_lstm_options *o = &lstm->options;
    const size_t units = fg_padded_units(lstm), count = fg_count_of(o);
    size_t end = sizeof(fg_saved) + count;
    const size_t gap = smaller((FG_LINE - end % FG_LINE) % FG_LINE, size - end);
    if (end > size || !fg_is_zero_past(buffer + end, gap, gap, 0))
        return FASTGATE_ERROR_FORMAT;
    for (size_t i = 0; i < count; i++) {
        fg_layer *made = &lstm->layers[i];
        const char has_peephole = buffer[sizeof(fg_saved) + i];
        const sections p = place_layer(lstm, i, has_peephole, &end);
        if (end > size || (has_peephole && (has_peephole != 1 || !units)))
            return FASTGATE_ERROR_FORMAT;
        const fg_shape gates = shape_of_gates(lstm, i), projection = shape_of_projection(lstm);
        if (!fg_is_packed(buffer + p.gates, o->storage, &gates, 1) ||
            !fg_is_packed(buffer + p.projection, o->storage, &projection, 0) ||
            !fg_is_zero_past(buffer + p.peephole, p.peephole_bytes, units * lstm->width, o->hidden_size * lstm->width))
            return FASTGATE_ERROR_FORMAT;
        int rc = fg_create_in_place(&made->gates, o->storage, &gates, o->threads, buffer + p.gates);
        if (!rc && o->projection_size)
            rc = fg_create_in_place(&made->projection, o->storage, &projection, o->threads, buffer + p.projection);
        if (rc)
            return rc;
        made->peephole = has_peephole ? buffer + p.peephole : NULL;
        lstm->nbytes += p.gates_bytes + p.projection_bytes + p.peephole_bytes;
    }
    return FASTGATE_OK;
}

int fastgate_lstm_load(fastgate_lstm **lstm, const void *buffer, size_t size)
{
    fg_saved header;
    fastgate_lstm *made;
    int rc = fg_open_saved(&header, FG_SAVED_LSTM, buffer, size);
    if (rc)
        return rc;
    /* each layer, each unit and each row of a projection takes at least a byte of the buffer */
    if (header.storage > FASTGATE_FLOAT64 || header.input_size > SIZE_MAX ||
        header.layers > size - sizeof header || header.output_size > size || header.projection_size > size)
        return FASTGATE_ERROR_FORMAT;
    const fastgate_lstm_options o = {.storage = (fastgate_storage)header.storage,
                                     .input_size = (size_t)header.input_size,
                                     .hidden_size = (size_t)header.output_size,
                                     .projection_size = (size_t)header.projection_size,
                                     .layers = (size_t)header.layers,
                                     .directions = header.directions,
                                     .backwards = (header.flags & FG_SAVED_BACKWARDS) != 0,
                                     .input_forget = (header.flags & FG_SAVED_INPUT_FORGET) != 0,
                                     .clip = header.clip,
                                     .gate_clip = header.gate_clip,
                                     .batch_first = (header.flags & FG_SAVED_BATCH_FIRST) != 0,
                                     .threads = header.threads};
    rc = create_empty(&made, &o);
    if (rc)
        return rc == FASTGATE_ERROR_MEMORY ? rc : FASTGATE_ERROR_FORMAT;
    made->in_place = 1;
    rc = load_layers(made, buffer, size);
    if (!rc) {
        const fg_saved expected = header_of(made);
        rc = fg_same_header(&header, &expected) ? FASTGATE_OK : FASTGATE_ERROR_FORMAT;
    }
    if (rc) {
        fastgate_lstm_free(made);
        return rc;
    }
    *lstm = made;
    return FASTGATE_OK;
}

int fastgate_lstm_save_file(const fastgate_lstm *lstm, const char *path)
{
    const size_t size = fastgate_lstm_saved_size(lstm);
    void *buffer = malloc(size);
    if (buffer)
        fastgate_lstm_save(lstm, buffer);
    return fg_write_file(path, buffer, size);
}

int fastgate_lstm_load_file(fastgate_lstm **lstm, const char *path)
{
    fg_file file;
    fastgate_lstm *made;
    int rc = fg_open_file(&file, path);
    if (!rc)
        rc = fastgate_lstm_load(&made, file.data, file.size);
    if (rc) {
        fg_close_file(&file);
        return rc;
    }
    made->file = file;
    *lstm = made;
    return FASTGATE_OK;
}

/* ---- one step ---------------------------------------------------------------------------------- */

int fg_step_layer(const fastgate_lstm *lstm, size_t index, size_t batch, const fg_step *s)
{
    const fastgate_lstm_options *o = &lstm->options;
    const fg_layer *layer = &lstm->layers[index];
    const fastgate_part parts[2] = {{s->x.data, fg_inputs_of(lstm, index), s->x.stride},
                                    {s->h.data, lstm->output_size, s->h.stride}};
    const fg_cell cell = {.units = o->hidden_size,
                          .c = s->c.data,
                          .c_out = s->c_out.data,
                          .c_stride = s->c.stride,
                          .c_out_stride = s->c_out.stride,
                          .peephole = layer->peephole,
                          .clip = o->clip > 0 ? o->clip : INFINITY,
                          .gate_clip = o->gate_clip > 0 ? o->gate_clip : INFINITY,
                          .input_forget = o->input_forget};
    const fg_rows out = layer->projection ? (fg_rows){s->unprojected, (ptrdiff_t)o->hidden_size} : s->h_out;
    const int ahead = s->totals.data != NULL;
    if (fg_run(layer->gates, batch, &(fg_call){.first_segment = (size_t)ahead, .last_segment = 2,
                                               .parts = parts + ahead, .start = s->totals.data,
                                               .start_stride = s->totals.stride, .y = out.data,
                                               .y_stride = out.stride, .ending = FG_CELL, .cell = &cell}))
        return 1;
    if (!layer->projection)
        return 0;
    const fastgate_part part = {s->unprojected, o->hidden_size, (ptrdiff_t)o->hidden_size};
    return fg_run(layer->projection, batch, &(fg_call){.last_segment = 1, .parts = &part, .y = s->h_out.data,
                                                       .y_stride = s->h_out.stride, .ending = FG_LINEAR});
}

void fg_step_layers(const fastgate_lstm *lstm, size_t batch, const fg_step *all)
{
    const fastgate_lstm_options *o = &lstm->options;
    const ptrdiff_t output = (ptrdiff_t)lstm->output_size, hidden = (ptrdiff_t)o->hidden_size;
    fg_step s = {.x = all->x, .unprojected = all->unprojected};
    for (size_t i = 0; i < o->layers; i++) {
        const size_t h_at = i * batch * lstm->output_size, c_at = i * batch * o->hidden_size;
        s.h = (fg_rows){fg_at(all->h.data, h_at, lstm->width), output};
        s.h_out = (fg_rows){fg_at(all->h_out.data, h_at, lstm->width), output};
        s.c = (fg_rows){fg_at(all->c.data, c_at, lstm->width), hidden};
        s.c_out = (fg_rows){fg_at(all->c_out.data, c_at, lstm->width), hidden};
        if (fg_step_layer(lstm, i, batch, &s))
            return;
        s.x = s.h_out;
    }
}

int fastgate_lstm_step(const fastgate_lstm *lstm, size_t batch, const void *x, ptrdiff_t x_stride,
                       const void *h, const void *c, void *h_out, void *c_out, void *scratch)
{
    if (lstm->options.directions != 1 || lstm->options.backwards)
        return FASTGATE_ERROR_SHAPE;
    const fg_step all = {.x = {(void *)x, x_stride}, .h = {(void *)h, 0}, .c = {(void *)c, 0},
                         .h_out = {h_out, 0}, .c_out = {c_out, 0}, .unprojected = scratch};
    fg_watch watch;
    fg_begin(&watch, fg_cost(lstm->nbytes, batch));
    fg_step_layers(lstm, batch, &all);
    return fg_end(&watch);
}
