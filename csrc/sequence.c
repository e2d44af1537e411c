/* Whole sequences: one layer after the other, over all steps. */
#include "lstm.h"

/*
 * The products with x of some steps are computed ahead, as one batch of AHEAD_ROWS rows: enough for the weights to be
 * read once for several tiles, and few enough for the totals to stay in the second cache.  Batches of AHEAD_BATCH rows
 * fill tiles by themselves, and gain from it only where a step's weights, of more than AHEAD_BYTES, are read from beyond
 * the second cache.  Layers of few inputs gain nothing.
 */
#define AHEAD_ROWS 48
#define AHEAD_BATCH 4
#define AHEAD_INPUTS 48
#define AHEAD_BYTES (2 * 1024 * 1024)

/* A pipeline takes an eighth of the steps at once, so that no core is idle for long at either end, but at least and at
 * most so many, and more where a step is little work. */
#define LEAST_PIECE_STEPS 8
#define PIECE_STEPS 48

/* The most rows of several lengths in a part, which copies all of them for each step; and what a copy costs, with its
 * misses of caches and of pages */
#define PART_ROWS 4096
#define COPY_COST 4096

/* A sequence of batches: elements from one step, or row, to the next. */
typedef struct {
    void *data;
    ptrdiff_t step, row;
} sequence;

/* What a layer runs, forwards: where it goes backwards, the sequences begin at their last step. */
typedef struct {
    size_t steps, batch;
    sequence x, y;
    fg_rows h, c; /* the state before, and then that after the last step */
} layer_run;

/* What one layer_run at a time needs beside its arrays. */
typedef struct {
    void *m;      /* (batch, hidden_size), of a projection */
    void *totals; /* (AHEAD_ROWS, 4 padded units) */
    void *x, *y, *h, *c; /* copies of rows of several lengths: of a few steps, and their state */
} scratch;

/* A call of fastgate_lstm_run. */
typedef struct {
    const fastgate_lstm *lstm;
    size_t steps, batch;
    sequence x, y;
    void *h, *c;
    unsigned threads;
    size_t parts;           /* of the batch, for threads; each with every direction of a layer */
    size_t piece_steps, pieces; /* of a layer, in a pipeline; else one of all steps */
    sequence inner[2];      /* (steps, batch, directions * output_size): outputs of layers but the last, in turn */
    const size_t *given;    /* lengths (batch,), or NULL */
    size_t *lengths;        /* (batch,): a copy, which nobody else changes meanwhile */
    size_t *order, *longer; /* (batch,): which row is the i-th longest; (steps + 1,): scratch */
    scratch own[2], *scratches; /* for each part and direction, or each layer of a pipeline */
    fg_progress *progress;  /* (layers,), of a pipeline */
    size_t layer;           /* that runs now, where there is no pipeline */
} lstm_run;

static fg_rows step_of(const fastgate_lstm *lstm, sequence s, size_t t)
{
    return (fg_rows){(char *)s.data + (ptrdiff_t)t * s.step * (ptrdiff_t)lstm->width, s.row};
}

static fg_rows row_of(const fastgate_lstm *lstm, fg_rows r, size_t b)
{
    return (fg_rows){(char *)r.data + (ptrdiff_t)b * r.stride * (ptrdiff_t)lstm->width, r.stride};
}

/* The sequence from step t and row b on */
static sequence part_of(const fastgate_lstm *lstm, sequence s, size_t t, size_t b)
{
    return (sequence){row_of(lstm, step_of(lstm, s, t), b).data, s.step, s.row};
}

static sequence turned(const fastgate_lstm *lstm, sequence s, size_t steps)
{
    return (sequence){step_of(lstm, s, steps - 1).data, -s.step, s.row};
}

/* ---- one layer ---------------------------------------------------------------------------------- */

/* How many steps of a layer with so many inputs are computed ahead, or 0 */
static size_t steps_ahead(const fastgate_lstm *lstm, size_t inputs, size_t batch)
{
    const int pays = batch < AHEAD_BATCH || (batch <= AHEAD_ROWS / 2 &&
                                             lstm->nbytes / fg_count_of(&lstm->options) > AHEAD_BYTES);
    return pays && inputs >= AHEAD_INPUTS ? AHEAD_ROWS / batch : 0;
}

/* The totals (count, batch, 4 padded units) of the products with x of `count` steps from t on */
static sequence run_ahead(const fastgate_lstm *lstm, size_t index, const layer_run *r, size_t t, size_t count,
                          void *totals)
{
    const size_t inputs = fg_inputs_of(lstm, index), size = 4 * fg_padded_units(lstm);
    const sequence x = part_of(lstm, r->x, t, 0);
    /* one batch of all, or where rows and steps do not lie at one distance, one for each row */
    const int together = r->batch == 1 || x.step == (ptrdiff_t)r->batch * x.row;
    const size_t calls = together ? 1 : r->batch, rows = together ? count * r->batch : count;
    for (size_t b = 0; b < calls; b++) {
        const fastgate_part part = {part_of(lstm, x, 0, b).data, inputs, together && r->batch > 1 ? x.row : x.step};
        fg_run(lstm->layers[index].gates, rows,
               &(fg_call){.last_segment = 1, .parts = &part, .y = fg_at(totals, b * count * size, lstm->width),
                          .y_stride = (ptrdiff_t)size, .ending = FG_LINEAR});
    }
    return together ? (sequence){totals, (ptrdiff_t)(r->batch * size), (ptrdiff_t)size}
                    : (sequence){totals, (ptrdiff_t)size, (ptrdiff_t)(count * size)};
}

/* What a step of one layer costs, as fg_run counts it */
static size_t step_cost(const fastgate_lstm *lstm, size_t batch)
{
    return fg_product(lstm->nbytes / fg_count_of(&lstm->options), larger(smaller(batch, 3), batch / 4));
}

/* Every h is in y, where the next step reads it. */
static void run_layer(const fastgate_lstm *lstm, size_t index, const layer_run *r, const scratch *space)
{
    const size_t ahead = steps_ahead(lstm, fg_inputs_of(lstm, index), r->batch), cost = step_cost(lstm, r->batch);
    const size_t most = ahead ? ahead : FG_WATCH_COST / larger(cost, 1) + 1;
    fg_step step = {.h = r->h, .c = r->c, .c_out = r->c, .m = space->m};
    for (size_t t = 0, count; t < r->steps; t += count) {
        count = smaller(most, r->steps - t);
        sequence totals = {NULL, 0, 0};
        if (ahead)
            totals = run_ahead(lstm, index, r, t, count, space->totals);
        if ((t || cost * count >= FG_WATCH_COST / 64) && fg_interrupted(cost * count)) /* short calls do not pay */
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

/*
 * The same for rows of several lengths, those at order[0], order[stride] and so on, `count` of them: the longest come
 * first, so that the rows which still run are the first ones.  They are copied in that order, a few steps at a time,
 * within which no row ends.
 */
static void run_lengths(const lstm_run *run, size_t index, const layer_run *r, int backwards, const size_t *order,
                        size_t stride, const scratch *space)
{
    const fastgate_lstm *lstm = run->lstm;
    const size_t inputs = fg_inputs_of(lstm, index), output = lstm->output_size, hidden = lstm->options.hidden_size;
    const size_t count = r->batch, *lengths = run->lengths;
    const fg_rows h = {space->h, (ptrdiff_t)output}, c = {space->c, (ptrdiff_t)hidden};
#define COPY(to, i, from, k, size) fg_copy_rows(lstm, 1, row_of(lstm, to, i), row_of(lstm, from, k), size)
#define STEP(s, t, b) step_of(lstm, s, backwards ? lengths[b] - 1 - (t) : (t))
    for (size_t i = 0; i < count; i++) {
        const size_t b = order[i * stride];
        if (fg_interrupted(COPY_COST * (run->steps - lengths[b] + 1)))
            return;
        COPY(h, i, r->h, b, output);
        COPY(c, i, r->c, b, hidden);
        for (size_t t = lengths[b]; t < run->steps && output; t++) {
            memset(row_of(lstm, step_of(lstm, r->y, t), b).data, 0, output * lstm->width);
            if (t % PART_ROWS == PART_ROWS - 1 && fg_interrupted(FG_WATCH_COST))
                return;
        }
    }
    for (size_t t = 0, steps, running = count;; t += steps) {
        for (; running && lengths[order[(running - 1) * stride]] == t; running--) {
            COPY(r->h, order[(running - 1) * stride], h, running - 1, output);
            COPY(r->c, order[(running - 1) * stride], c, running - 1, hidden);
        }
        if (!running || fg_interrupted(COPY_COST * running))
            return;
        steps = smaller(larger(AHEAD_ROWS / running, 1), lengths[order[(running - 1) * stride]] - t);
        const layer_run few = {steps, running, {space->x, (ptrdiff_t)(running * inputs), (ptrdiff_t)inputs},
                               {space->y, (ptrdiff_t)(running * output), (ptrdiff_t)output}, h, c};
        for (size_t k = 0; k < steps; k++)
            for (size_t i = 0; i < running; i++)
                COPY(step_of(lstm, few.x, k), i, STEP(r->x, t + k, order[i * stride]), order[i * stride], inputs);
        run_layer(lstm, index, &few, space);
        for (size_t k = 0; k < steps; k++)
            for (size_t i = 0; i < running; i++)
                COPY(STEP(r->y, t + k, order[i * stride]), order[i * stride], step_of(lstm, few.y, k), i, output);
    }
#undef COPY
#undef STEP
}

/* ---- pieces ------------------------------------------------------------------------------------- */

/* Runs steps from `first` on, in the order in which they run, of a layer in one direction and a part of the batch. */
static void run_piece(const lstm_run *run, size_t k, size_t direction, size_t part, size_t first,
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
        r.batch = (run->batch - part + run->parts - 1) / run->parts; /* dealt out: each has long ones and short ones */
        run_lengths(run, index, &r, backwards, run->order + part, run->parts, space);
        return;
    }
    if (backwards) {
        r.x = turned(lstm, r.x, run->steps);
        r.y = turned(lstm, r.y, run->steps);
    }
    const size_t b = run->batch * part / run->parts;
    r.batch = run->batch * (part + 1) / run->parts - b;
    r.x = part_of(lstm, r.x, first, b);
    r.y = part_of(lstm, r.y, first, b);
    r.h = row_of(lstm, r.h, b);
    r.c = row_of(lstm, r.c, b);
    run_layer(lstm, index, &r, space);
}

static void run_part(void *context, size_t i)
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
 * How the work is shared out: parts of the batch and both directions at once; or layers as a pipeline over the steps;
 * or every step by itself, as fg_run does, where that keeps more threads busy.  Parts of few rows leave tiles empty,
 * and are made only where a step is too little to be shared.
 */
static void plan(lstm_run *run)
{
    const fastgate_lstm_options *o = &run->lstm->options;
    const size_t cost = step_cost(run->lstm, run->batch);
    const size_t rows = cost < FG_SHARE_COST ? run->batch : run->batch / AHEAD_BATCH;
    run->threads = fg_product(cost, run->steps) < FG_SHARE_COST ? 1 : fg_threads_of(o->threads);
    run->parts = larger(smaller((run->threads + o->directions - 1) / o->directions, rows), 1);
    if (run->given)
        run->parts = larger(run->parts, run->batch / PART_ROWS);
    run->piece_steps = run->steps;
    const size_t most = smaller(larger(run->steps / 8, LEAST_PIECE_STEPS), PIECE_STEPS);
    if (run->threads > 1 && run->parts * o->directions == 1 && o->layers > 1 && !run->given)
        run->piece_steps = smaller(larger(most, FG_SHARE_COST / larger(cost, 1)), run->steps);
    const size_t at_once = run->piece_steps < run->steps ? o->layers : run->parts * o->directions;
    if (cost >= FG_SHARE_COST && at_once < run->threads) { /* one piece after the other, whose steps are shared */
        run->piece_steps = run->steps;
        run->parts = 1;
        run->threads = 1;
    }
    run->pieces = (run->steps - 1) / run->piece_steps + 1;
}

static void lay_out(fg_workspace *w, lstm_run *run)
{
    const fastgate_lstm *lstm = run->lstm;
    const fastgate_lstm_options *o = &lstm->options;
    const size_t output = lstm->output_size, wide = o->directions * output, width = lstm->width;
    const size_t rows = (run->batch - 1) / run->parts + 1; /* of a part, at most */
    const size_t copies = run->given ? larger(rows, AHEAD_ROWS) : 0, states = run->given ? rows : 0;
    const size_t inputs = o->layers > 1 ? larger(wide, o->input_size) : o->input_size;
    const size_t count = run->pieces > 1 ? o->layers : run->parts * o->directions;
    for (size_t i = 0; i < 2; i++)
        run->inner[i] = (sequence){fg_part_of(w, i + 1 < o->layers ? fg_product(run->steps, run->batch) : 0, wide,
                                              width),
                                   (ptrdiff_t)(run->batch * wide), (ptrdiff_t)wide};
    run->scratches = count > 2 ? fg_part_of(w, count, 1, sizeof(scratch)) : run->own;
    for (size_t i = 0; i < count && w->used < SIZE_MAX; i++) {
        /* the smallest part; of several lengths, one row at last */
        const size_t ahead = steps_ahead(lstm, inputs, run->given ? 1 : run->batch / run->parts);
        const scratch s = {.m = fg_part_of(w, o->projection_size ? rows : 0, o->hidden_size, width),
                           .totals = fg_part_of(w, ahead ? AHEAD_ROWS : 0, 4 * fg_padded_units(lstm), width),
                           .x = fg_part_of(w, copies, inputs, width),
                           .y = fg_part_of(w, copies, output, width),
                           .h = fg_part_of(w, states, output, width),
                           .c = fg_part_of(w, states, o->hidden_size, width)};
        if (run->scratches)
            run->scratches[i] = s;
    }
    run->progress = fg_part_of(w, run->pieces > 1 ? o->layers : 0, 1, sizeof *run->progress);
    if (run->given) {
        run->lengths = fg_part_of(w, run->batch, 1, sizeof(size_t));
        run->order = fg_part_of(w, run->batch, 1, sizeof(size_t));
        run->longer = fg_part_of(w, run->steps < SIZE_MAX ? run->steps + 1 : run->steps, 1, sizeof(size_t));
    }
}

static int lengths_fit(const size_t *lengths, size_t batch, size_t steps)
{
    for (size_t b = 0; b < batch; b++)
        if (lengths[b] > steps)
            return 0;
    return 1;
}

/* run->order = the rows, the longest first */
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
    for (run->layer = 0; run->layer < o->layers && !(run->layer && fg_interrupted(0)); run->layer++)
        fg_share(run->threads, run->parts * o->directions, wake, run_part, run);
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
    if (!lstm->options.input_size) /* x may be NULL then, of which no pointer can be made */
        run.x = (sequence){h, 0, 0};
    fg_workspace w = {NULL, 0};
    plan(&run);
    lay_out(&w, &run);
    if (w.used == SIZE_MAX || (w.used && !(w.block = malloc(w.used))))
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
    free(w.block);
    return rc;
}
