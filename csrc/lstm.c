/* Layers of LSTM cells on packed gates: create, save, load; step, sequence, stream. */
#include "internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One layer in one direction. */
typedef struct {
    fastgate_gate *gates;      /* (4 units, inputs + output_size), in the order of fg_cell */
    fastgate_gate *projection; /* (projection_size, hidden_size), or NULL */
    const void *peephole;      /* as in fg_cell */
} layer;

struct fastgate_lstm {
    fastgate_lstm_options options;
    size_t output_size;
    size_t width;  /* bytes of an element */
    size_t panel;  /* units in one */
    size_t nbytes; /* of the layers */
    int in_place;  /* peepholes are in a buffer that was loaded */
    fg_file file;  /* which was loaded, or none */
    layer layers[];
};

static size_t count_of(const fastgate_lstm_options *o)
{
    return o->layers * o->directions;
}

/* of a layer, beside its own h */
static size_t inputs_of(const fastgate_lstm *lstm, size_t index)
{
    const fastgate_lstm_options *o = &lstm->options;
    return index < o->directions ? o->input_size : o->directions * lstm->output_size;
}

static size_t padded_units(const fastgate_lstm *lstm)
{
    return (lstm->options.hidden_size + lstm->panel - 1) / lstm->panel * lstm->panel;
}

/* a * b, or SIZE_MAX, which no allocation grants, if that is more than ptrdiff_t holds */
static size_t product(size_t a, size_t b)
{
    return b && a > PTRDIFF_MAX / b ? SIZE_MAX : a * b;
}

static void *at(const void *array, size_t index, size_t width)
{
    return (char *)array + index * width;
}

/* ---- weights ----------------------------------------------------------------------------------- */

/* Where gate g (of i, f, g, o) of a unit stands among the rows of the packed gates. */
static size_t packed_row(const fastgate_lstm *lstm, size_t g, size_t unit)
{
    const size_t panel = lstm->panel;
    return unit / panel * FG_PANELS * panel + g * panel + unit % panel;
}

/* Between [W_ih | W_hh] and bias as they are given and as they are packed: (4 hidden_size, ..) and rows in
 * the order of packed_row, others untouched. */
static void exchange(const fastgate_lstm *lstm, size_t inputs, char *packed, char *bias,
                     const fastgate_lstm_weights *given, int to_packed)
{
    const size_t hidden = lstm->options.hidden_size, width = lstm->width;
    const size_t x_bytes = inputs * width, h_bytes = lstm->output_size * width;
    for (size_t g = 0; g < 4; g++)
        for (size_t unit = 0; unit < hidden; unit++) {
            const size_t from = g * hidden + unit, row = packed_row(lstm, g, unit);
            char *to = packed + row * (x_bytes + h_bytes);
            const struct {
                char *packed, *given;
                size_t bytes;
            } pieces[] = {{to, x_bytes ? (char *)given->weight_ih + from * x_bytes : NULL, x_bytes},
                          {to + x_bytes, h_bytes ? (char *)given->weight_hh + from * h_bytes : NULL,
                           h_bytes},
                          {bias + row * width,
                           given->bias ? (char *)given->bias + from * width : NULL, width}};
            for (size_t i = 0; i < 3; i++)
                if (pieces[i].given && to_packed)
                    memcpy(pieces[i].packed, pieces[i].given, pieces[i].bytes);
                else if (pieces[i].given)
                    memcpy(pieces[i].given, pieces[i].packed, pieces[i].bytes);
        }
}

/* Room for the gates of a layer in the order of packed_row, zeros, with the bias at its end. */
static char *room_for_gates(const fastgate_lstm *lstm, size_t inputs, char **bias)
{
    const size_t rows = product(4, padded_units(lstm)), output = lstm->output_size;
    if (rows == SIZE_MAX || inputs > PTRDIFF_MAX - 1 - output)
        return NULL;
    const size_t bytes = product(product(rows, inputs + output + 1), lstm->width);
    char *room = bytes == SIZE_MAX ? NULL : calloc(bytes ? bytes : 1, 1);
    if (room)
        *bias = room + rows * (inputs + output) * lstm->width;
    return room;
}

static int create_layer(fastgate_lstm *lstm, size_t index, const fastgate_lstm_weights *given)
{
    const fastgate_lstm_options *o = &lstm->options;
    const size_t inputs = inputs_of(lstm, index), units = padded_units(lstm);
    layer *made = &lstm->layers[index];
    char *bias, *weight = room_for_gates(lstm, inputs, &bias);
    if (!weight)
        return FASTGATE_ERROR_MEMORY;
    const fg_matrix gates = {weight, (ptrdiff_t)(inputs + lstm->output_size), 1, bias, 4 * units,
                             {inputs, lstm->output_size}};
    exchange(lstm, inputs, weight, bias, given, 1);
    int rc = fg_create(&made->gates, o->storage, &gates, o->threads);
    free(weight);
    if (!rc && o->projection_size)
        rc = fastgate_gate_create(&made->projection, o->storage, o->projection_size, o->hidden_size,
                                  given->projection, (ptrdiff_t)o->hidden_size, 1, NULL, o->threads);
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
        for (size_t p = 0; p < 3; p++)
            memcpy(at(peephole, p * units, lstm->width),
                   at(given->peephole, p * o->hidden_size, lstm->width),
                   o->hidden_size * lstm->width);
        lstm->nbytes += 3 * units * lstm->width;
    }
    return FASTGATE_OK;
}

/* An LSTM without layers yet. */
static int begin(fastgate_lstm **lstm, const fastgate_lstm_options *o)
{
    if ((unsigned)o->storage > FASTGATE_FLOAT64 || !(o->clip >= 0) || !(o->gate_clip >= 0))
        return FASTGATE_ERROR_VALUE;
    if (!o->layers || (o->directions != 1 && o->directions != 2) || (o->backwards && o->directions == 2))
        return FASTGATE_ERROR_SHAPE;
    if (o->hidden_size > PTRDIFF_MAX / 64 || o->projection_size > PTRDIFF_MAX / 64 ||
        o->layers > PTRDIFF_MAX / 64 / sizeof(layer))
        return FASTGATE_ERROR_MEMORY;
    fastgate_lstm *made = calloc(1, sizeof *made + count_of(o) * sizeof(layer));
    if (!made)
        return FASTGATE_ERROR_MEMORY;
    made->options = *o;
    made->output_size = o->projection_size ? o->projection_size : o->hidden_size;
    made->width = fg_real_bytes(o->storage);
    made->panel = fg_panel_rows(o->storage);
    *lstm = made;
    return FASTGATE_OK;
}

int fastgate_lstm_create(fastgate_lstm **lstm, const fastgate_lstm_options *options,
                         const fastgate_lstm_weights *weights)
{
    fastgate_lstm *made;
    int rc = begin(&made, options);
    if (rc)
        return rc;
    for (size_t i = 0; i < count_of(options) && !rc; i++)
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
    for (size_t i = 0; lstm && i < count_of(&lstm->options); i++) {
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

int fastgate_lstm_unpack(const fastgate_lstm *lstm, size_t index, void *weight_ih, void *weight_hh,
                         void *bias, void *peephole, void *projection)
{
    const fastgate_lstm_options *o = &lstm->options;
    const layer *from = &lstm->layers[index];
    const size_t inputs = inputs_of(lstm, index), units = padded_units(lstm);
    char *packed_bias, *packed = room_for_gates(lstm, inputs, &packed_bias);
    void *no_bias = calloc(o->projection_size + 1, lstm->width);
    if (!packed || !no_bias) {
        free(packed), free(no_bias);
        return FASTGATE_ERROR_MEMORY;
    }
    fastgate_gate_unpack(from->gates, packed, packed_bias);
    const fastgate_lstm_weights to = {weight_ih, weight_hh, bias, NULL, NULL};
    exchange(lstm, inputs, packed, packed_bias, &to, 0);
    for (size_t p = 0; p < 3 && from->peephole; p++)
        memcpy(at(peephole, p * o->hidden_size, lstm->width), at(from->peephole, p * units, lstm->width),
               o->hidden_size * lstm->width);
    if (from->projection)
        fastgate_gate_unpack(from->projection, projection, no_bias);
    free(packed), free(no_bias);
    return FASTGATE_OK;
}

/* ---- saved ------------------------------------------------------------------------------------- */

/* Where the parts of a layer are; those that it has not have no bytes. */
typedef struct {
    size_t gates, projection, peephole; /* offsets */
    size_t gates_bytes, projection_bytes, peephole_bytes;
} places;

/* Of the layer that is next behind *end, which moves behind it; SIZE_MAX as of fg_section. */
static places place_layer(const fastgate_lstm *lstm, size_t index, int has_peephole, size_t *end)
{
    const fastgate_lstm_options *o = &lstm->options;
    const size_t inputs = inputs_of(lstm, index), units = padded_units(lstm);
    places p = {0};
    p.gates_bytes = fg_packed_bytes(o->storage, 4 * units, (size_t[]){inputs, lstm->output_size});
    p.projection_bytes = fg_packed_bytes(o->storage, o->projection_size, (size_t[]){o->hidden_size, 0});
    p.peephole_bytes = has_peephole ? 3 * units * lstm->width : 0;
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
                               (o->input_forget ? FG_SAVED_INPUT_FORGET : 0),
                      .input_size = o->input_size,
                      .output_size = o->hidden_size,
                      .projection_size = o->projection_size,
                      .layers = o->layers,
                      .clip = o->clip,
                      .gate_clip = o->gate_clip};
}

size_t fastgate_lstm_saved_size(const fastgate_lstm *lstm)
{
    size_t end = sizeof(fg_saved) + count_of(&lstm->options);
    for (size_t i = 0; i < count_of(&lstm->options); i++)
        place_layer(lstm, i, lstm->layers[i].peephole != NULL, &end);
    return end;
}

void fastgate_lstm_save(const fastgate_lstm *lstm, void *buffer)
{
    const fg_saved header = header_of(lstm);
    size_t end = sizeof header + count_of(&lstm->options);
    char *has_peephole = (char *)buffer + sizeof header;
    memset(buffer, 0, (size_t)header.size);
    for (size_t i = 0; i < count_of(&lstm->options); i++) {
        const layer *from = &lstm->layers[i];
        const places p = place_layer(lstm, i, from->peephole != NULL, &end);
        fg_copy_packed((char *)buffer + p.gates, from->gates);
        if (from->projection)
            fg_copy_packed((char *)buffer + p.projection, from->projection);
        if (from->peephole) {
            has_peephole[i] = 1;
            memcpy((char *)buffer + p.peephole, from->peephole, p.peephole_bytes);
        }
    }
    fg_seal(buffer, &header);
}

/* The layers, from a buffer of which the header and the bytes of has_peephole are there. */
static int load_layers(fastgate_lstm *lstm, const char *buffer, size_t size)
{
    const fastgate_lstm_options *o = &lstm->options;
    const size_t units = padded_units(lstm), count = count_of(o);
    size_t end = sizeof(fg_saved) + count;
    if (end > size)
        return FASTGATE_ERROR_FORMAT;
    for (size_t i = 0; i < count; i++) {
        layer *made = &lstm->layers[i];
        const char has_peephole = buffer[sizeof(fg_saved) + i];
        const places p = place_layer(lstm, i, has_peephole, &end);
        if (end > size || (has_peephole && (has_peephole != 1 || !units)))
            return FASTGATE_ERROR_FORMAT;
        int rc = fg_create_in_place(&made->gates, o->storage, 4 * units,
                                    (size_t[]){inputs_of(lstm, i), lstm->output_size}, o->threads, buffer + p.gates);
        if (!rc && o->projection_size)
            rc = fg_create_in_place(&made->projection, o->storage, o->projection_size,
                                    (size_t[]){o->hidden_size, 0}, o->threads, buffer + p.projection);
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
    /* each layer and unit, and row of a projection, has a byte at least */
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
                                     .threads = header.threads};
    rc = begin(&made, &o);
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
    if (!buffer)
        return FASTGATE_ERROR_MEMORY;
    fastgate_lstm_save(lstm, buffer);
    const int rc = fg_write_file(path, buffer, size);
    free(buffer);
    return rc;
}

int fastgate_lstm_load_file(fastgate_lstm **lstm, const char *path)
{
    fg_file file;
    fastgate_lstm *made;
    int rc = fg_open_file(&file, path);
    if (rc)
        return rc;
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

/* Rows of a batch: `stride` elements from one to the next. */
typedef struct {
    void *data;
    ptrdiff_t stride;
} rows;

/* One layer: x, h and c of a batch -> h_out and c_out; c_out may be c, m (batch, hidden_size) is scratch.  Where the
 * products with x were computed ahead, `ahead` has their totals (batch, 4 padded units), and x is not read. */
static void step_layer(const fastgate_lstm *lstm, size_t index, size_t batch, rows x, rows h, rows c,
                       rows h_out, rows c_out, void *m, const rows *ahead)
{
    const fastgate_lstm_options *o = &lstm->options;
    const layer *k = &lstm->layers[index];
    const fastgate_part parts[2] = {{x.data, inputs_of(lstm, index), x.stride},
                                    {h.data, lstm->output_size, h.stride}};
    const fg_cell cell = {.units = o->hidden_size,
                          .c = c.data,
                          .c_out = c_out.data,
                          .c_stride = c.stride,
                          .c_out_stride = c_out.stride,
                          .peephole = k->peephole,
                          .clip = o->clip > 0 ? o->clip : INFINITY,
                          .gate_clip = o->gate_clip > 0 ? o->gate_clip : INFINITY,
                          .input_forget = o->input_forget};
    const rows out = k->projection ? (rows){m, (ptrdiff_t)o->hidden_size} : h_out;
    fg_call call = {.last_segment = 2, .parts = parts, .y = out.data, .y_stride = out.stride, .ending = FG_CELL,
                    .cell = &cell};
    if (ahead) {
        call.first_segment = 1;
        call.parts = &parts[1];
        call.start = ahead->data;
        call.start_stride = ahead->stride;
    }
    fg_run(k->gates, batch, &call);
    if (k->projection) {
        const fastgate_part part = {m, o->hidden_size, (ptrdiff_t)o->hidden_size};
        fg_run(k->projection, batch, &(fg_call){.last_segment = 1, .parts = &part, .y = h_out.data,
                                               .y_stride = h_out.stride, .ending = FG_LINEAR});
    }
}

int fastgate_lstm_step(const fastgate_lstm *lstm, size_t batch, const void *x, ptrdiff_t x_stride,
                       const void *h, const void *c, void *h_out, void *c_out, void *scratch)
{
    const fastgate_lstm_options *o = &lstm->options;
    if (o->directions != 1 || o->backwards)
        return FASTGATE_ERROR_SHAPE;
    const size_t width = lstm->width, output = lstm->output_size, hidden = o->hidden_size;
    rows input = {(void *)x, x_stride};
    for (size_t i = 0; i < o->layers; i++) {
        const size_t h_at = i * batch * output, c_at = i * batch * hidden;
        const rows next = {at(h_out, h_at, width), (ptrdiff_t)output};
        step_layer(lstm, i, batch, input, (rows){at(h, h_at, width), (ptrdiff_t)output},
                   (rows){at(c, c_at, width), (ptrdiff_t)hidden}, next,
                   (rows){at(c_out, c_at, width), (ptrdiff_t)hidden}, scratch, NULL);
        input = next;
    }
    return FASTGATE_OK;
}

/* ---- sequences --------------------------------------------------------------------------------- */

/* A sequence of batches. */
typedef struct {
    void *data;
    ptrdiff_t step, row; /* elements from one to the next */
} sequence;

static rows step_of(const fastgate_lstm *lstm, sequence s, size_t t)
{
    return (rows){(char *)s.data + (ptrdiff_t)t * s.step * (ptrdiff_t)lstm->width, s.row};
}

static void copy_rows(const fastgate_lstm *lstm, size_t batch, rows to, rows from, size_t size)
{
    const ptrdiff_t width = (ptrdiff_t)lstm->width;
    for (ptrdiff_t b = 0; b < (ptrdiff_t)batch && size; b++)
        memcpy((char *)to.data + b * to.stride * width, (char *)from.data + b * from.stride * width,
               size * lstm->width);
}

static rows row_of(const fastgate_lstm *lstm, rows r, size_t b)
{
    return (rows){(char *)r.data + (ptrdiff_t)b * r.stride * (ptrdiff_t)lstm->width, r.stride};
}

/* What rows of different lengths need: the longest come first, so that those which still run are the
 * first ones, and what a step reads and writes stands aside in that order. */
typedef struct {
    const size_t *lengths;
    size_t *order; /* (batch,): which row is the i-th longest */
    void *x, *h[2], *c;
} ragged;

/* What a run needs beside its arrays. */
typedef struct {
    void *inner[2]; /* (steps, batch, directions * output_size): outputs of layers but the last */
    void *m;
    void *ahead; /* totals of steps, as of run_ahead, or NULL */
    ragged rows;
    size_t *lengths, *longer; /* (batch,) and (steps + 1,) */
} run_space;

/*
 * The products with x of some steps are computed ahead, as one batch of AHEAD_ROWS rows: enough for the weights to be
 * read once for several tiles, and few enough for the totals to stay in the second cache.  Batches of AHEAD_BATCH rows
 * fill tiles by themselves, and gain nothing from it, nor do layers of few inputs.
 */
#define AHEAD_ROWS 48
#define AHEAD_BATCH 4
#define AHEAD_INPUTS 48

/* How many steps are computed ahead, or 0 */
static size_t steps_ahead(const fastgate_lstm *lstm, size_t index, size_t steps, size_t batch)
{
    const size_t most = AHEAD_ROWS / batch;
    return batch >= AHEAD_BATCH || inputs_of(lstm, index) < AHEAD_INPUTS ? 0 : most < steps ? most : steps;
}

/* totals (batch, 4 padded units) of each of `count` steps from t on, and how they lie */
static sequence run_ahead(const fastgate_lstm *lstm, size_t index, size_t t, size_t count, size_t batch, sequence x,
                          void *totals)
{
    const size_t inputs = inputs_of(lstm, index), size = 4 * padded_units(lstm);
    const rows first = step_of(lstm, x, t);
    /* one batch of all, or where rows and steps do not lie at one distance, one for each row */
    const int together = batch == 1 || x.step == (ptrdiff_t)batch * x.row;
    const size_t calls = together ? 1 : batch, rows_of_call = together ? count * batch : count;
    for (size_t b = 0; b < calls; b++) {
        const fastgate_part part = {row_of(lstm, first, b).data, inputs, together && batch > 1 ? x.row : x.step};
        fg_run(lstm->layers[index].gates, rows_of_call,
               &(fg_call){.last_segment = 1, .parts = &part, .y = at(totals, b * count * size, lstm->width),
                          .y_stride = (ptrdiff_t)size, .ending = FG_LINEAR});
    }
    return together ? (sequence){totals, (ptrdiff_t)(batch * size), (ptrdiff_t)size}
                    : (sequence){totals, (ptrdiff_t)size, (ptrdiff_t)(count * size)};
}

/* A layer in one direction, over all steps of all rows.  h_t waits in y, where the next step reads it. */
static void run_layer(const fastgate_lstm *lstm, size_t index, int backwards, size_t steps,
                      size_t batch, sequence x, rows h, rows c, sequence y, const run_space *space)
{
    const size_t most = steps_ahead(lstm, index, steps, batch);
    rows before = h;
    for (size_t s = 0, count; s < steps; s += count) {
        count = most && most < steps - s ? most : steps - s;
        const size_t first = backwards ? steps - s - count : s;
        const sequence totals = most ? run_ahead(lstm, index, first, count, batch, x, space->ahead) : x;
        for (size_t i = 0; i < count; i++) {
            const size_t k = backwards ? count - 1 - i : i;
            const rows next = step_of(lstm, y, first + k), ahead = step_of(lstm, totals, k);
            step_layer(lstm, index, batch, step_of(lstm, x, first + k), before, c, next, c, space->m,
                       most ? &ahead : NULL);
            before = next;
        }
    }
    if (steps)
        copy_rows(lstm, batch, h, before, lstm->output_size);
}

static void run_ragged_layer(const fastgate_lstm *lstm, size_t index, int backwards, size_t steps,
                             size_t batch, sequence x, rows h, rows c, sequence y, void *m,
                             const ragged *r)
{
    const size_t inputs = inputs_of(lstm, index), output = lstm->output_size;
    const size_t hidden = lstm->options.hidden_size;
    const rows xs = {r->x, (ptrdiff_t)inputs}, cs = {r->c, (ptrdiff_t)hidden};
    const rows hs[2] = {{r->h[0], (ptrdiff_t)output}, {r->h[1], (ptrdiff_t)output}};
#define COPY(to, i, from, k, size) copy_rows(lstm, 1, row_of(lstm, to, i), row_of(lstm, from, k), size)
    for (size_t i = 0; i < batch; i++) {
        COPY(hs[0], i, h, r->order[i], output);
        COPY(cs, i, c, r->order[i], hidden);
    }
    size_t running = batch;
    for (size_t s = 0; s <= steps; s++) {
        const rows now = hs[s % 2], next = hs[1 - s % 2];
        for (; running && r->lengths[r->order[running - 1]] <= s; running--) {
            COPY(h, r->order[running - 1], now, running - 1, output);
            COPY(c, r->order[running - 1], cs, running - 1, hidden);
        }
        for (size_t i = running; i < batch && s < steps && output; i++)
            memset(row_of(lstm, step_of(lstm, y, s), r->order[i]).data, 0, output * lstm->width);
        if (!running)
            continue;
#define STEP_OF(z, b) step_of(lstm, z, backwards ? r->lengths[b] - 1 - s : s)
        for (size_t i = 0; i < running; i++)
            COPY(xs, i, STEP_OF(x, r->order[i]), r->order[i], inputs);
        step_layer(lstm, index, running, xs, now, cs, next, cs, m, NULL);
        for (size_t i = 0; i < running; i++)
            COPY(STEP_OF(y, r->order[i]), r->order[i], next, i, output);
#undef STEP_OF
    }
#undef COPY
}

/* Parts of one block of memory: their sizes are summed up first, then they are handed out. */
typedef struct {
    char *block;
    size_t used; /* bytes; SIZE_MAX if they do not fit */
} workspace;

static void *part_of(workspace *w, size_t count, size_t size, size_t width)
{
    const size_t bytes = product(product(count, size), width), used = w->used;
    if (used == SIZE_MAX || bytes > PTRDIFF_MAX - FG_LINE - used)
        return w->used = SIZE_MAX, NULL;
    w->used = used + (bytes + FG_LINE - 1) / FG_LINE * FG_LINE;
    return w->block ? w->block + used : NULL;
}

static int lengths_fit(const size_t *lengths, size_t batch, size_t steps)
{
    for (size_t b = 0; b < batch; b++)
        if (lengths[b] > steps)
            return 0;
    return 1;
}

static run_space lay_out(workspace *w, const fastgate_lstm *lstm, size_t steps, size_t batch, int is_ragged)
{
    const fastgate_lstm_options *o = &lstm->options;
    const size_t output = lstm->output_size, wide = o->directions * output, width = lstm->width;
    run_space space = {.m = NULL};
    for (size_t i = 0; i < 2 && i + 1 < o->layers; i++)
        space.inner[i] = part_of(w, product(steps, batch), wide, width);
    if (o->projection_size)
        space.m = part_of(w, batch, o->hidden_size, width);
    size_t ahead = 0; /* rows of totals */
    for (size_t k = 0; k < count_of(o) && !is_ragged; k++)
        ahead = steps_ahead(lstm, k, steps, batch) ? steps_ahead(lstm, k, steps, batch) * batch : ahead;
    space.ahead = part_of(w, ahead, 4 * padded_units(lstm), width);
    if (is_ragged) {
        space.rows.x = part_of(w, batch, o->layers > 1 && wide > o->input_size ? wide : o->input_size, width);
        space.rows.h[0] = part_of(w, batch, output, width);
        space.rows.h[1] = part_of(w, batch, output, width);
        space.rows.c = part_of(w, batch, o->hidden_size, width);
        space.rows.order = part_of(w, batch, 1, sizeof(size_t));
        space.lengths = part_of(w, batch, 1, sizeof(size_t));
        space.longer = part_of(w, steps < SIZE_MAX ? steps + 1 : steps, 1, sizeof(size_t));
    }
    return space;
}

/* order (batch,) = the rows, the longest first; `longer` (steps + 1,) is scratch */
static void sort_by_length(size_t *order, size_t *longer, const size_t *lengths, size_t steps, size_t batch)
{
    memset(longer, 0, (steps + 1) * sizeof *longer);
    for (size_t b = 0; b < batch; b++)
        longer[lengths[b]]++;
    for (size_t length = steps + 1, sum = 0; length-- > 0;) {
        const size_t count = longer[length];
        longer[length] = sum;
        sum += count;
    }
    for (size_t b = 0; b < batch; b++)
        order[longer[lengths[b]]++] = b;
}

int fastgate_lstm_run(const fastgate_lstm *lstm, size_t steps, size_t batch, const void *x,
                      ptrdiff_t x_step, ptrdiff_t x_row, const size_t *lengths, void *h, void *c,
                      void *y, ptrdiff_t y_step, ptrdiff_t y_row)
{
    const fastgate_lstm_options *o = &lstm->options;
    const size_t output = lstm->output_size, hidden = o->hidden_size, width = lstm->width;
    const size_t wide = o->directions * output;
    if (lengths && !lengths_fit(lengths, batch, steps))
        return FASTGATE_ERROR_SHAPE;
    if (!batch || !steps || !output)
        return FASTGATE_OK;
    workspace w = {NULL, 0};
    lay_out(&w, lstm, steps, batch, lengths != NULL);
    if (w.used == SIZE_MAX)
        return FASTGATE_ERROR_MEMORY;
    if (w.used) {
        w.block = malloc(w.used);
        if (!w.block)
            return FASTGATE_ERROR_MEMORY;
    }
    w.used = 0;
    run_space space = lay_out(&w, lstm, steps, batch, lengths != NULL);
    if (lengths) {
        /* a copy: what is written must be right even if the caller's changes meanwhile */
        memcpy(space.lengths, lengths, batch * sizeof *lengths);
        if (!lengths_fit(space.lengths, batch, steps)) {
            free(w.block);
            return FASTGATE_ERROR_SHAPE;
        }
        space.rows.lengths = space.lengths;
        sort_by_length(space.rows.order, space.longer, space.lengths, steps, batch);
    }
    sequence input = {(void *)x, x_step, x_row};
    for (size_t k = 0; k < o->layers; k++) {
        const sequence result =
            k + 1 == o->layers
                ? (sequence){y, y_step, y_row}
                : (sequence){space.inner[k % 2], (ptrdiff_t)(batch * wide), (ptrdiff_t)wide};
        for (size_t d = 0; d < o->directions; d++) {
            const size_t index = k * o->directions + d;
            const int backwards = d || o->backwards;
            const rows hs = {at(h, index * batch * output, width), (ptrdiff_t)output};
            const rows cs = {at(c, index * batch * hidden, width), (ptrdiff_t)hidden};
            const sequence side = {at(result.data, d * output, width), result.step, result.row};
            if (lengths)
                run_ragged_layer(lstm, index, backwards, steps, batch, input, hs, cs, side, space.m,
                                 &space.rows);
            else
                run_layer(lstm, index, backwards, steps, batch, input, hs, cs, side, &space);
        }
        input = result;
    }
    free(w.block);
    return FASTGATE_OK;
}

/* ---- streams ----------------------------------------------------------------------------------- */

struct fastgate_stream {
    const fastgate_lstm *lstm;
    size_t batch;
    void *h[2], *c; /* (layers, batch, ..); h[now] is the state, and the next step writes the other */
    void *m;
    int now;
    workspace memory;
};

static void lay_out_stream(fastgate_stream *s)
{
    const fastgate_lstm_options *o = &s->lstm->options;
    const size_t count = product(o->layers, s->batch), width = s->lstm->width;
    s->h[0] = part_of(&s->memory, count, s->lstm->output_size, width);
    s->h[1] = part_of(&s->memory, count, s->lstm->output_size, width);
    s->c = part_of(&s->memory, count, o->hidden_size, width);
    s->m = part_of(&s->memory, o->projection_size ? s->batch : 0, o->hidden_size, width);
}

int fastgate_stream_create(fastgate_stream **stream, const fastgate_lstm *lstm, size_t batch)
{
    if (lstm->options.directions != 1 || lstm->options.backwards)
        return FASTGATE_ERROR_SHAPE;
    fastgate_stream made = {.lstm = lstm, .batch = batch};
    lay_out_stream(&made);
    if (made.memory.used == SIZE_MAX)
        return FASTGATE_ERROR_MEMORY;
    fastgate_stream *result = malloc(sizeof *result);
    made.memory.block = calloc(made.memory.used + 1, 1);
    if (!result || !made.memory.block) {
        free(result), free(made.memory.block);
        return FASTGATE_ERROR_MEMORY;
    }
    made.memory.used = 0;
    lay_out_stream(&made);
    *result = made;
    *stream = result;
    return FASTGATE_OK;
}

void fastgate_stream_free(fastgate_stream *stream)
{
    if (stream)
        free(stream->memory.block);
    free(stream);
}

void fastgate_stream_step(fastgate_stream *s, const void *x, ptrdiff_t x_stride, void *y, ptrdiff_t y_stride)
{
    const fastgate_lstm *lstm = s->lstm;
    const size_t output = lstm->output_size;
    void *const next = s->h[1 - s->now];
    fastgate_lstm_step(lstm, s->batch, x, x_stride, s->h[s->now], s->c, next, s->c, s->m);
    s->now = 1 - s->now;
    const rows last = {at(next, (lstm->options.layers - 1) * s->batch * output, lstm->width),
                       (ptrdiff_t)output};
    copy_rows(lstm, s->batch, (rows){y, y_stride}, last, output);
}

void fastgate_stream_reset(fastgate_stream *s, size_t b)
{
    const size_t width = s->lstm->width, output = s->lstm->output_size;
    const size_t hidden = s->lstm->options.hidden_size;
    for (size_t k = 0; k < s->lstm->options.layers; k++) {
        memset(at(s->h[s->now], (k * s->batch + b) * output, width), 0, output * width);
        memset(at(s->c, (k * s->batch + b) * hidden, width), 0, hidden * width);
    }
}

/* Bytes of the h and of the c of all layers. */
static size_t h_bytes(const fastgate_stream *s)
{
    return s->lstm->options.layers * s->batch * s->lstm->output_size * s->lstm->width;
}

static size_t c_bytes(const fastgate_stream *s)
{
    return s->lstm->options.layers * s->batch * s->lstm->options.hidden_size * s->lstm->width;
}

static void copy(void *to, const void *from, size_t bytes)
{
    if (bytes)
        memcpy(to, from, bytes);
}

void fastgate_stream_get_state(const fastgate_stream *s, void *h, void *c)
{
    copy(h, s->h[s->now], h_bytes(s));
    copy(c, s->c, c_bytes(s));
}

void fastgate_stream_set_state(fastgate_stream *s, const void *h, const void *c)
{
    copy(s->h[s->now], h, h_bytes(s));
    copy(s->c, c, c_bytes(s));
}
