/* Whole sequences: fastgate_lstm_run. */
#include "lstm.h"

/*
 * The products with x of several steps are computed ahead, as one batch of AHEAD_ROWS rows.  These are enough rows for
 * several tiles to share the weights that are read, and few enough for their totals to stay in the second cache.
 * Batches of AHEAD_BATCH rows or more fill tiles by themselves, so they gain from it only where reading the weights
 * takes longer than computing with them: up to AHEAD_MOST_BATCH rows, if a step has more than AHEAD_BYTES of weights,
 * which it reads from beyond the second cache.  Layers of fewer than AHEAD_INPUTS inputs gain nothing.
 */
#define AHEAD_ROWS 48
#define AHEAD_BATCH 4
#define AHEAD_MOST_BATCH 12
#define AHEAD_INPUTS 48
#define AHEAD_BYTES (2 * 1024 * 1024)

/* A piece of a pipeline is an eighth of the steps, so that no core is idle for long at its beginning and end.  It has
 * between LEAST_PIECE_STEPS and PIECE_STEPS steps, and more if a step is little work. */
#define LEAST_PIECE_STEPS 8
#define PIECE_STEPS 48

/* The most rows in a slice of a batch with lengths, which copies all of its rows for each step; and the rows, or steps
 * of a row, that are cleared between two looks at the interrupt. */
#define SLICE_ROWS 4096
#define CLEARED_ROWS 64
#define CLEARED_STEPS 4096

/* (steps, batch, size), with `step` elements from one step to the next and `row` elements from one row to the next */
typedef struct {
    void *data;
    ptrdiff_t step, row;
} sequence;

/* Some steps of one layer in one direction.  For the backward direction the sequences begin at the last step, with a
 * negative `step`. */
typedef struct {
    size_t steps, batch;
    sequence x, y;
    fg_rows h, c; /* the state before the first step, and then the state after the last one */
} layer_run;

/* The scratch memory of a layer_run. */
typedef struct {
    void *unprojected; /* (batch, hidden_size), for a projection */
    void *totals; /* (AHEAD_ROWS, 4 padded units) */
    void *x, *y, *h, *c; /* with lengths, copies of the rows: of x and y for a few steps, and of their state */
} scratch;

/*
 * A call of fastgate_lstm_run.  Its work is divided among threads in one of three ways: into slices of the batch, each
 * in both directions of a layer; in a pipeline, into pieces of the steps of every layer; or not at all, and then
 * threads share each step.
 */
typedef struct {
    const fastgate_lstm *lstm;
    size_t steps, batch;
    sequence x, y;
    void *h, *c;
    unsigned threads;
    size_t slices;
    size_t piece_steps, pieces; /* without a pipeline, one piece of all steps */
    sequence inner[2];      /* (steps, batch, directions * output_size), for the outputs of inner layers, in turn */
    const size_t *given;    /* lengths (batch,), or NULL */
    size_t *lengths;        /* (batch,): a copy, which no other thread can change during the call */
    size_t *order, *longer; /* (batch,): the rows, longest first; (steps + 1,): scratch */
    scratch own[2], *scratches; /* one for each slice and direction, or for each layer of a pipeline */
    fg_progress *progress;  /* (layers,), for a pipeline */
    size_t layer;           /* the layer that runs now, without a pipeline */
} lstm_run;

static fg_rows step_of(const fastgate_lstm *lstm, sequence s, size_t t)
{
    return (fg_rows){fg_at(s.data, (ptrdiff_t)t * s.step, lstm->width), s.row};
}

static fg_rows row_of(const fastgate_lstm *lstm, fg_rows r, size_t b)
{
    return (fg_rows){fg_at(r.data, (ptrdiff_t)b * r.stride, lstm->width), r.stride};
}

/* The sequence that begins at step t and row b */
static sequence sequence_at(const fastgate_lstm *lstm, sequence s, size_t t, size_t b)
{
    return (sequence){row_of(lstm, step_of(lstm, s, t), b).data, s.step, s.row};
}

static sequence reversed(const fastgate_lstm *lstm, sequence s, size_t steps)
{
    return (sequence){step_of(lstm, s, steps - 1).data, -s.step, s.row};
}

/* ---- one layer ---------------------------------------------------------------------------------- */

/* How many steps of a layer are computed ahead */
static size_t steps_ahead(const fastgate_lstm *lstm, size_t inputs, size_t batch)
{
    const int pays = batch < AHEAD_BATCH || (batch <= AHEAD_MOST_BATCH &&
                                             lstm->nbytes / fg_count_of(&lstm->options) > AHEAD_BYTES);
    return pays && inputs >= AHEAD_INPUTS ? AHEAD_ROWS / batch : 0;
}

/* Computes the totals (count, batch, 4 padded units) of the biases and products with x, for `count` steps from t on */
static sequence run_ahead(const fastgate_lstm *lstm, size_t index, const layer_run *r, size_t t, size_t count,
                          void *totals)
{
    const size_t inputs = fg_inputs_of(lstm, index), size = 4 * fg_padded_units(lstm);
    const sequence x = sequence_at(lstm, r->x, t, 0);
    /* one batch of all rows and steps if they are equally far apart, else a batch of steps for each row */
    const int together = r->batch == 1 || x.step == (ptrdiff_t)r->batch * x.row;
    const size_t calls = together ? 1 : r->batch, rows = together ? count * r->batch : count;
    for (size_t b = 0; b < calls; b++) {
        const fastgate_part part = {sequence_at(lstm, x, 0, b).data, inputs, together && r->batch > 1 ? x.row : x.step};
        fg_run(lstm->layers[index].gates, rows,
               &(fg_call){.last_segment = 1, .parts = &part, .y = fg_at(totals, b * count * size, lstm->width),
                          .y_stride = (ptrdiff_t)size, .ending = FG_LINEAR});
    }
    return together ? (sequence){totals, (ptrdiff_t)(r->batch * size), (ptrdiff_t)size}
                    : (sequence){totals, (ptrdiff_t)size, (ptrdiff_t)(count * size)};
}

/* The cost of a step of one layer in one direction */
static size_t step_cost(const fastgate_lstm *lstm, size_t batch)
{
    return fg_cost(lstm->nbytes / fg_count_of(&lstm->options), batch);
}

/* Runs a layer.  Each step writes h into y, where the next step reads it. */
static void run_layer(const fastgate_lstm *lstm, size_t index, const layer_run *r, const scratch *space)
{
    const size_t ahead = steps_ahead(lstm, fg_inputs_of(lstm, index), r->batch);
    /* the steps between two looks at the interrupt */
    const size_t most = ahead ? ahead : FG_WATCH_COST / larger(step_cost(lstm, r->batch), 1) + 1;
    fg_step step = {.h = r->h, .c = r->c, .c_out = r->c, .unprojected = space->unprojected};
    for (size_t t = 0, count; t < r->steps; t += count) {
        count = smaller(most, r->steps - t);
        sequence totals = {NULL, 0, 0};
        if (ahead)
            totals = run_ahead(lstm, index, r, t, count, space->totals);
        if (fg_interrupted())
            return;
        for (size_t i = 0; i < count; i++) {
            step.x = step_of(lstm, r->x, t + i);
            step.h_out = step_of(lstm, r->y, t + i);
            if (ahead)
                step.totals = step_of(lstm, totals, i);
            if (fg_step_layer(lstm, index, r->batch, &step))
                return;
            step.h = step.h_out;
        }
    }
    if (r->steps)
        fg_copy_rows(lstm, r->batch, r->h, step.h, lstm->output_size);
}

static void copy_row(const fastgate_lstm *lstm, fg_rows to, size_t i, fg_rows from, size_t b, size_t size)
{
    fg_copy_rows(lstm, 1, row_of(lstm, to, i), row_of(lstm, from, b), size);
}

/*
 * Runs a layer with lengths, for the r->batch rows order[0], order[stride], order[2 * stride] and so on.  The longest
 * rows come first, so the rows that still run are always the first ones.  They are copied in that order, a few
 * steps at a time, chosen so that no row ends within them.
 */
static void run_lengths(const lstm_run *run, size_t index, const layer_run *r, int backwards, const size_t *order,
                        size_t stride, const scratch *space)
{
    const fastgate_lstm *lstm = run->lstm;
    const size_t inputs = fg_inputs_of(lstm, index), output = lstm->output_size, hidden = lstm->options.hidden_size;
    const size_t *lengths = run->lengths;
    const fg_rows h = {space->h, (ptrdiff_t)output}, c = {space->c, (ptrdiff_t)hidden};
    for (size_t i = 0; i < r->batch; i++) {
        const size_t b = order[i * stride];
        if (i % CLEARED_ROWS == 0 && fg_interrupted())
            return;
        copy_row(lstm, h, i, r->h, b, output);
        copy_row(lstm, c, i, r->c, b, hidden);
        for (size_t t = lengths[b]; t < run->steps && output; t++) {
            memset(row_of(lstm, step_of(lstm, r->y, t), b).data, 0, output * lstm->width);
            if (t % CLEARED_STEPS == CLEARED_STEPS - 1 && fg_interrupted())
                return;
        }
    }
    for (size_t t = 0, steps, running = r->batch;; t += steps) {
        for (size_t b; running && lengths[b = order[(running - 1) * stride]] == t; running--) {
            copy_row(lstm, r->h, b, h, running - 1, output);
            copy_row(lstm, r->c, b, c, running - 1, hidden);
        }
        if (!running || fg_interrupted())
            return;
        steps = smaller(larger(AHEAD_ROWS / running, 1), lengths[order[(running - 1) * stride]] - t);
        const layer_run few = {steps, running, {space->x, (ptrdiff_t)(running * inputs), (ptrdiff_t)inputs},
                               {space->y, (ptrdiff_t)(running * output), (ptrdiff_t)output}, h, c};
        for (size_t k = 0; k < steps; k++)
            for (size_t i = 0; i < running; i++) {
                const size_t b = order[i * stride], at = backwards ? lengths[b] - 1 - (t + k) : t + k;
                copy_row(lstm, step_of(lstm, few.x, k), i, step_of(lstm, r->x, at), b, inputs);
            }
        run_layer(lstm, index, &few, space);
        if (fg_stopped()) /* then there are steps that space->y does not have */
            return;
        for (size_t k = 0; k < steps; k++)
            for (size_t i = 0; i < running; i++) {
                const size_t b = order[i * stride], at = backwards ? lengths[b] - 1 - (t + k) : t + k;
                copy_row(lstm, step_of(lstm, r->y, at), b, step_of(lstm, few.y, k), i, output);
            }
    }
}

/* ---- pieces ------------------------------------------------------------------------------------- */

/* Runs one piece of layer k in one direction, for one slice of the batch.  The piece begins at step `first`, counted in
 * the direction in which the layer runs. */
static void run_piece(const lstm_run *run, size_t k, size_t direction, size_t slice, size_t first,
                      const scratch *space)
{
    const fastgate_lstm *lstm = run->lstm;
    const fastgate_lstm_options *o = &lstm->options;
    const size_t index = k * o->directions + direction, width = lstm->width;
    const size_t output = lstm->output_size, hidden = o->hidden_size;
    const int backwards = direction || o->backwards;
    layer_run r = {smaller(run->piece_steps, run->steps - first), run->batch, k ? run->inner[(k - 1) % 2] : run->x,
                   k + 1 < o->layers ? run->inner[k % 2] : run->y,
                   {fg_at(run->h, index * run->batch * output, width), (ptrdiff_t)output},
                   {fg_at(run->c, index * run->batch * hidden, width), (ptrdiff_t)hidden}};
    r.y.data = fg_at(r.y.data, direction * output, width);
    if (run->given) {
        /* every slices-th row, so that each slice has long rows and short ones */
        r.batch = (run->batch - slice + run->slices - 1) / run->slices;
        run_lengths(run, index, &r, backwards, run->order + slice, run->slices, space);
        return;
    }
    if (backwards) {
        r.x = reversed(lstm, r.x, run->steps);
        r.y = reversed(lstm, r.y, run->steps);
    }
    const uint64_t batch = run->batch;
    const size_t b = (size_t)(batch * slice / run->slices);
    r.batch = (size_t)(batch * (slice + 1) / run->slices) - b;
    r.x = sequence_at(lstm, r.x, first, b);
    r.y = sequence_at(lstm, r.y, first, b);
    r.h = row_of(lstm, r.h, b);
    r.c = row_of(lstm, r.c, b);
    run_layer(lstm, index, &r, space);
}

static void run_slice(void *context, size_t i)
{
    const lstm_run *run = context;
    const size_t directions = run->lstm->options.directions;
    run_piece(run, run->layer, i % directions, i / directions, 0, &run->scratches[i]);
}

static void run_pipelined(void *context, size_t k, size_t piece)
{
    const lstm_run *run = context;
    run_piece(run, k, 0, 0, piece * run->piece_steps, &run->scratches[k]);
}

/*
 * Chooses how threads share the work: slices of the batch and both directions at the same time; or layers as a pipeline
 * over the steps; or, if that keeps more threads busy, each step by itself, as fg_run does.  Slices of fewer rows than
 * AHEAD_BATCH leave tiles half empty, so they are made only if a step is too little work to be shared.
 */
static void plan(lstm_run *run)
{
    const fastgate_lstm_options *o = &run->lstm->options;
    const size_t cost = step_cost(run->lstm, run->batch);
    const size_t rows = cost < FG_SHARE_COST ? run->batch : run->batch / AHEAD_BATCH;
    run->threads = fg_product(cost, run->steps) < FG_SHARE_COST ? 1 : fg_threads_of(o->threads);
    run->slices = larger(smaller((run->threads + o->directions - 1) / o->directions, rows), 1);
    if (run->given)
        run->slices = larger(run->slices, run->batch / SLICE_ROWS);
    run->piece_steps = run->steps;
    const size_t most = smaller(larger(run->steps / 8, LEAST_PIECE_STEPS), PIECE_STEPS);
    if (run->threads > 1 && run->slices * o->directions == 1 && o->layers > 1 && !run->given)
        run->piece_steps = smaller(larger(most, FG_SHARE_COST / larger(cost, 1)), run->steps);
    const size_t at_once = run->piece_steps < run->steps ? o->layers : run->slices * o->directions;
    if (cost >= FG_SHARE_COST && at_once < run->threads) { /* fg_run shares each step */
        run->piece_steps = run->steps;
        run->slices = 1;
        run->threads = 1;
    }
    run->pieces = (run->steps - 1) / run->piece_steps + 1;
}

static void lay_out(fg_workspace *w, lstm_run *run)
{
    const fastgate_lstm *lstm = run->lstm;
    const fastgate_lstm_options *o = &lstm->options;
    const size_t output = lstm->output_size, wide = o->directions * output, width = lstm->width;
    const size_t rows = (run->batch - 1) / run->slices + 1; /* of a slice, at most */
    const size_t copies = run->given ? larger(rows, AHEAD_ROWS) : 0, states = run->given ? rows : 0;
    const size_t inputs = o->layers > 1 ? larger(wide, o->input_size) : o->input_size;
    const size_t count = run->pieces > 1 ? o->layers : run->slices * o->directions;
    for (size_t i = 0; i < 2; i++)
        run->inner[i] = (sequence){fg_array_in(w, i + 1 < o->layers ? fg_product(run->steps, run->batch) : 0, wide,
                                              width),
                                   (ptrdiff_t)(run->batch * wide), (ptrdiff_t)wide};
    run->scratches = count > 2 ? fg_array_in(w, count, 1, sizeof(scratch)) : run->own;
    for (size_t i = 0; i < count && w->used < SIZE_MAX; i++) {
        /* the smallest batch that runs: that of the smallest slice or, with lengths, one row */
        const size_t ahead = steps_ahead(lstm, inputs, run->given ? 1 : run->batch / run->slices);
        const scratch s = {.unprojected = fg_array_in(w, o->projection_size ? rows : 0, o->hidden_size, width),
                           .totals = fg_array_in(w, ahead ? AHEAD_ROWS : 0, 4 * fg_padded_units(lstm), width),
                           .x = fg_array_in(w, copies, inputs, width),
                           .y = fg_array_in(w, copies, output, width),
                           .h = fg_array_in(w, states, output, width),
                           .c = fg_array_in(w, states, o->hidden_size, width)};
        if (run->scratches)
            run->scratches[i] = s;
    }
    run->progress = fg_array_in(w, run->pieces > 1 ? o->layers : 0, 1, sizeof *run->progress);
    if (run->given) {
        run->lengths = fg_array_in(w, run->batch, 1, sizeof(size_t));
        run->order = fg_array_in(w, run->batch, 1, sizeof(size_t));
        run->longer = fg_array_in(w, run->steps < SIZE_MAX ? run->steps + 1 : run->steps, 1, sizeof(size_t));
    }
}

static int lengths_fit(const size_t *lengths, size_t batch, size_t steps)
{
    for (size_t b = 0; b < batch; b++)
        if (lengths[b] > steps)
            return 0;
    return 1;
}

/* Fills run->order by counting. */
static void sort_by_length(const lstm_run *run)
{
    size_t *longer = run->longer;
    memset(longer, 0, (run->steps + 1) * sizeof *longer);
    for (size_t b = 0; b < run->batch; b++)
        longer[run->lengths[b]]++;
    for (size_t length = run->steps + 1, sum = 0; length-- > 0;) {
        const size_t count = longer[length];
        longer[length] = sum;
        sum += count;
    }
    for (size_t b = 0; b < run->batch; b++)
        run->order[longer[run->lengths[b]]++] = b;
}

static void run_all(lstm_run *run)
{
    const fastgate_lstm_options *o = &run->lstm->options;
    const int wake = fg_product(step_cost(run->lstm, run->batch), run->steps) >= FG_WAKE_COST;
    if (run->pieces > 1) {
        fg_pipeline(run->threads, wake, run->progress, o->layers, run->pieces, run_pipelined, run);
        return;
    }
    for (run->layer = 0; run->layer < o->layers && !fg_stopped(); run->layer++)
        fg_share(run->threads, run->slices * o->directions, wake, run_slice, run);
}

int fastgate_lstm_run(const fastgate_lstm *lstm, size_t steps, size_t batch, const void *x,
                      ptrdiff_t x_step, ptrdiff_t x_row, const size_t *lengths, void *h, void *c,
                      void *y, ptrdiff_t y_step, ptrdiff_t y_row)
{
    lstm_run run = {.lstm = lstm, .steps = steps, .batch = batch, .x = {(void *)x, x_step, x_row},
                    .y = {y, y_step, y_row}, .h = h, .c = c, .given = lengths};
    if (lengths && !lengths_fit(lengths, batch, steps))
        return FASTGATE_ERROR_SHAPE;
    if (!batch || !steps || !lstm->output_size)
        return FASTGATE_OK;
    if (!lstm->options.input_size) /* x may be NULL, and arithmetic on NULL is undefined */
        run.x = (sequence){h, 0, 0};
    fg_workspace w = {NULL, 0};
    plan(&run);
    lay_out(&w, &run);
    if (w.used == SIZE_MAX || (w.used && !(w.memory = malloc(w.used))))
        return FASTGATE_ERROR_MEMORY;
    w.used = 0;
    lay_out(&w, &run);
    int rc = FASTGATE_OK;
    if (lengths) {
        memcpy(run.lengths, lengths, batch * sizeof *lengths);
        rc = lengths_fit(run.lengths, batch, steps) ? FASTGATE_OK : FASTGATE_ERROR_SHAPE;
        if (!rc)
            sort_by_length(&run);
    }
    if (!rc) {
        fg_watch watch;
        fg_begin(&watch, fg_product(fg_product(step_cost(lstm, batch), steps), fg_count_of(&lstm->options)));
        run_all(&run);
        rc = fg_end(&watch);
    }
    free(w.memory);
    return rc;
}
