/*
 * Calls can be interrupted by the function of fastgate_set_interrupt.  The caller's clock advances by 20 ms whenever it
 * is read, so that a call asks each time that it reads the clock.  Link with -Wl,--wrap=clock_gettime.
 *
 *     interrupt [few]      with `few`, which is for sanitizers, in two of the five storages
 */
#define _GNU_SOURCE
#include "../../csrc/internal.h"
#include "test.h"

#include <pthread.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

static _Thread_local struct timespec *fast_clock; /* of this thread, or NULL if it reads the true clock */
static long reads;                                /* of the fast clock */

int __real_clock_gettime(clockid_t, struct timespec *);
int __wrap_clock_gettime(clockid_t clock, struct timespec *t)
{
    if (!fast_clock)
        return __real_clock_gettime(clock, t);
    reads++;
    fast_clock->tv_nsec += 20000000;
    fast_clock->tv_sec += fast_clock->tv_nsec / 1000000000;
    fast_clock->tv_nsec %= 1000000000;
    *t = *fast_clock;
    return 0;
}

static pthread_t caller;
static long asks;
static long yes_at; /* the number of the question that is answered with yes, or 0 */

static int ask(void)
{
    CHECK(pthread_equal(pthread_self(), caller), "asked on another thread");
    CHECK(!yes_at || asks < yes_at, "asked again after a yes");
    return ++asks == yes_at;
}

/* ---- every kind of call ------------------------------------------------------------------------ */

enum way { GATE, ONCE, ONCE_COLUMNS, RUN, LENGTHS, STEP, STREAM };

/* Each is so long that a call asks several times; threads share each in another way. */
static const struct shape {
    enum way way;
    size_t n, m, projection, layers, directions, steps, batch;
} shapes[] = {
    {GATE, 300, 300, 0, 0, 0, 0, 600},      /* rows of x are shared, each with one piece of blocks */
    {GATE, 2000, 3000, 0, 0, 0, 0, 60},     /* blocks are shared, in several pieces */
    {GATE, 0, 20, 0, 0, 0, 0, 500000},      /* it takes more time than its count of operations says */
    {ONCE, 300, 300, 0, 0, 0, 0, 100},
    {ONCE, 5000, 900, 0, 0, 0, 0, 3},       /* two pieces of rows */
    {ONCE_COLUMNS, 5000, 1100, 0, 0, 0, 0, 2},
    {RUN, 64, 64, 0, 1, 1, 200, 1},         /* products with x are computed ahead */
    {RUN, 20, 40, 12, 1, 1, 60, 40},        /* threads take parts of the batch */
    {RUN, 20, 40, 0, 2, 2, 100, 3},         /* threads take directions */
    {RUN, 60, 64, 0, 3, 1, 100, 1},         /* threads form a pipeline of layers */
    {RUN, 30, 200, 90, 1, 1, 20, 5},        /* each step is shared */
    {RUN, 3, 300, 90, 1, 1, 3, 200},        /* each step is long */
    {LENGTHS, 20, 30, 0, 2, 1, 50, 30},
    {LENGTHS, 3, 4, 0, 1, 2, 3, 9000},      /* threads take parts of some thousand rows */
    {STEP, 40, 50, 20, 2, 1, 1, 2500},
    {STREAM, 40, 50, 20, 2, 1, 1, 1000},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static const struct shape *now;
static fastgate_gate *gate;
static fastgate_lstm *lstm;
static void *weight, *x, *bias;
static size_t *lengths, states, outputs; /* lengths of the batch; elements of h or c, at most; elements of y */

enum { MOST = 3000 * 2000 };

static void make(void)
{
    const size_t output = now->projection ? now->projection : now->m, rows = now->steps ? now->steps : 1;
    states = now->layers * now->directions * now->batch * now->m;
    outputs = rows * now->batch * (now->steps ? now->directions * output : now->m);
    uint64_t seed = (uint64_t)(now - shapes);
    x = numbers(rows * now->batch * now->n);
    fill(x, rows * now->batch * now->n, ORDINARY, &seed);
    lengths = calloc(now->batch, sizeof *lengths);
    for (size_t b = 0; b < now->batch; b++)
        lengths[b] = below(&seed, rows + 1);
    if (now->way == GATE)
        CHECK(!fastgate_gate_create(&gate, storage, now->m, now->n, weight, (ptrdiff_t)now->n, 1, bias, 1), "gate");
    const fastgate_lstm_options o = {storage, now->n, now->m, now->projection, now->layers,
                                     (unsigned)now->directions, .threads = 1};
    const fastgate_lstm_weights w = {weight, weight, bias, NULL, weight}, all[] = {w, w, w, w};
    if (now->way >= RUN)
        CHECK(!fastgate_lstm_create(&lstm, &o, all), "lstm");
}

static void dispose(void)
{
    fastgate_gate_free(gate), gate = NULL;
    fastgate_lstm_free(lstm), lstm = NULL;
    free(x), free(lengths);
}

/* Makes the call; results (outputs + 3 states,) are y, h, c and scratch. */
static int call(void *results)
{
    const size_t output = now->projection ? now->projection : now->m, wide = now->directions * output;
    const ptrdiff_t n = (ptrdiff_t)now->n, m = (ptrdiff_t)now->m, batch = (ptrdiff_t)now->batch;
    void *h = at(results, (ptrdiff_t)outputs), *c = at(h, (ptrdiff_t)states), *scratch = at(c, (ptrdiff_t)states);
    const fastgate_part part = {x, now->n, n};
    fastgate_stream *stream;
    memset(results, 0, (outputs + 3 * states) * width());
    switch (now->way) {
    case GATE:
        return fastgate_gate_run(gate, now->batch, &part, 1, results, m);
    case ONCE:
        return fastgate_gate_once(storage, now->m, now->n, weight, n, 1, bias, now->batch, x, n, results, m);
    case ONCE_COLUMNS:
        return fastgate_gate_once(storage, now->m, now->n, weight, 1, m, bias, now->batch, x, n, results, m);
    case RUN:
    case LENGTHS:
        return fastgate_lstm_run(lstm, now->steps, now->batch, x, batch * n, n, now->way == LENGTHS ? lengths : NULL,
                                 h, c, results, batch * (ptrdiff_t)wide, (ptrdiff_t)wide);
    case STEP: { /* from zeros; what it leaves in scratch is no result */
        void *zeros = calloc(states, width());
        const int rc = fastgate_lstm_step(lstm, now->batch, x, n, zeros, zeros, h, c, scratch);
        free(zeros);
        memset(scratch, 0, states * width());
        return rc;
    }
    default:
        CHECK(!fastgate_stream_create(&stream, lstm, now->batch), "stream");
        fastgate_stream_step(stream, x, n, results, (ptrdiff_t)output);
        fastgate_stream_free(stream);
        return FASTGATE_OK;
    }
}

/* Makes a call that is answered with yes at this question, and returns how often it asked. */
static long asked(void *results, long at_question, int *rc)
{
    asks = 0, yes_at = at_question;
    *rc = call(results);
    CHECK(*rc == (yes_at && asks == yes_at ? FASTGATE_ERROR_INTERRUPTED : FASTGATE_OK), "%ld questions, yes at %ld: %s",
          asks, yes_at, fastgate_strerror(*rc));
    return asks;
}

static void try_shape(void)
{
    const size_t size = (outputs + 3 * states) * width();
    void *want = malloc(size), *got = malloc(size);
    int rc;
    fastgate_set_interrupt(NULL);
    CHECK(want && got && !asked(want, 0, &rc), "asked, without a function");
    fastgate_set_interrupt(ask);
    for (unsigned threads = 1; threads <= 4; threads += 1 + (threads == 2)) {
        fastgate_override_threads(threads);
        const long most = asked(got, 0, &rc);
        CHECK(!memcmp(got, want, size), "%u threads: other bits", threads);
        CHECK((most > 0) == (now->way != STREAM) || (threads > 1 && !most), "shape %zu, %s, %u threads: %ld questions",
              (size_t)(now - shapes), storage_names[storage], threads, most);
        const long some[] = {most, most / 2, 1};
        for (int i = 0; i < 3 && some[i]; i++) {
            asked(got, some[i], &rc);
            CHECK(rc || threads > 1, "not interrupted at question %ld of %ld", some[i], most);
        }
        asked(got, 0, &rc);
        CHECK(!memcmp(got, want, size), "%u threads: other bits after an interruption", threads);
    }
    fastgate_override_threads(0);
    free(want), free(got);
}

/* ---- how often --------------------------------------------------------------------------------- */

/* How often a call of this shape asks if it is never interrupted. */
static long questions_of(const struct shape *shape)
{
    int rc;
    storage = FASTGATE_FLOAT32;
    now = shape;
    make();
    void *results = malloc((outputs + 3 * states) * width());
    const long count = asked(results, 0, &rc);
    free(results);
    dispose();
    return count;
}

/* A gate asks between two pieces, of 96 rows of x or of 64 MiB of work; a sequence for some 4 MiB of work. */
static void try_counts(void)
{
    static const struct {
        struct shape shape;
        long least;
    } counts[] = {{{GATE, 256, 256, 0, 0, 0, 0, 24 * 400}, 99}, {{GATE, 1024, 3000, 0, 0, 0, 0, 72}, 3},
                  {{GATE, 2000, 3000, 0, 0, 0, 0, 48}, 4},       {{ONCE, 256, 256, 0, 0, 0, 0, 1600}, 90},
                  {{ONCE, 2000, 3000, 0, 0, 0, 0, 1}, 2},
                  {{STEP, 512, 512, 0, 4, 1, 1, 1}, 4},          {{RUN, 48, 700, 0, 1, 1, 60, 1}, 60},
                  {{RUN, 64, 64, 0, 1, 1, 3000, 1}, 60},         {{RUN, 16, 64, 0, 1, 1, 3000, 4}, 60}};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        const long got = questions_of(&counts[i].shape);
        CHECK(got >= counts[i].least, "call %zu asked %ld times, not %ld", i, got, counts[i].least);
    }
}

/* A call of microseconds neither asks nor reads the clock. */
static void try_short(void)
{
    static const struct shape some[] = {{GATE, 64, 64, 0, 0, 0, 0, 10},   {ONCE, 64, 64, 0, 0, 0, 0, 10},
                                        {RUN, 32, 32, 0, 2, 1, 10, 2},    {LENGTHS, 32, 32, 0, 1, 2, 10, 5},
                                        {STEP, 32, 32, 0, 1, 1, 1, 1}};
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        const long before = reads;
        CHECK(!questions_of(&some[i]) && reads == before, "a short call of way %d", some[i].way);
    }
}

/* ---- threads ----------------------------------------------------------------------------------- */

static atomic_int begun;

/* A worker's task ends only after a yes, so the caller must ask while it waits for the worker. */
static void wait_for_yes(void *context, size_t i)
{
    (void)context, (void)i;
    for (atomic_fetch_add(&begun, 1); atomic_load(&begun) < 2;)
        sched_yield();
    while (!pthread_equal(pthread_self(), caller) && !fg_interrupted())
        sched_yield();
}

static void try_waiting(void)
{
    fg_watch watch;
    asks = 0, yes_at = 3;
    fg_begin(&watch, FG_WATCH_COST);
    fg_share(2, 2, 1, wait_for_yes, NULL);
    CHECK(fg_end(&watch) == FASTGATE_ERROR_INTERRUPTED && asks == 3, "%ld questions", asks);
    CHECK(!fg_interrupted() && asks == 3, "asked without a call");
}

/* The function itself makes calls, of which one is interrupted, while the call that asked goes on. */
static fastgate_gate *medium; /* of 1 MiB */
static float medium_y[3 * 512];
static void *nested_results;
static int depth;
static int ask_nested(void)
{
    if (depth)
        return 1;
    depth = 1;
    for (int i = 0; i < 3; i++) /* they are too short to ask */
        CHECK(!fastgate_gate_run(medium, 3, &(fastgate_part){weight, 512, 512}, 1, medium_y, 512), "a short call");
    CHECK(call(nested_results) == FASTGATE_ERROR_INTERRUPTED, "a call within");
    depth = 0;
    asks++;
    return 0;
}

static void try_nested(void)
{
    storage = FASTGATE_FLOAT32;
    CHECK(!fastgate_gate_create(&medium, storage, 512, 512, weight, 512, 1, bias, 1), "gate");
    for (unsigned threads = 1; threads <= 2; threads++)
        for (now = shapes; now < shapes + SHAPES; now++)
            if (now->way != STREAM) {
                fastgate_override_threads(1);
                make();
                const size_t size = (outputs + 3 * states) * width();
                void *want = malloc(size), *got = malloc(size);
                nested_results = malloc(size);
                fastgate_set_interrupt(NULL);
                CHECK(!call(want), "run");
                fastgate_set_interrupt(ask_nested);
                fastgate_override_threads(threads);
                asks = 0;
                CHECK(!call(got) && !memcmp(got, want, size), "shape %zu: with calls within", (size_t)(now - shapes));
                CHECK(asks || threads > 1, "shape %zu: did not ask", (size_t)(now - shapes));
                free(want), free(got), free(nested_results);
                dispose();
            }
    fastgate_override_threads(0);
    fastgate_gate_free(medium);
}

/* With the true clock, a call that would take seconds is interrupted. */
static void try_true_clock(void)
{
    enum { M = 16, ROWS = 1000000 };
    uint64_t seed = 1;
    storage = FASTGATE_FLOAT32;
    void *long_x = numbers(10000), *y = numbers((size_t)M * ROWS);
    fill(long_x, 10000, ORDINARY, &seed);
    const fastgate_part part = {long_x, 10000, 0};
    CHECK(!fastgate_gate_create(&gate, storage, M, 10000, weight, 10000, 1, bias, 1), "gate");
    fast_clock = NULL;
    asks = 0, yes_at = 2;
    fastgate_set_interrupt(ask);
    CHECK(fastgate_gate_run(gate, ROWS, &part, 1, y, M) == FASTGATE_ERROR_INTERRUPTED, "a call of seconds");
    fastgate_gate_free(gate), gate = NULL;
    free(long_x), free(y);
}

int main(int argc, char **argv)
{
    (void)argv;
    struct timespec clock = {1, 0};
    fast_clock = &clock;
    caller = pthread_self();
    alarm(900); /* ends the test if a caller hangs because it does not ask while it waits */
    for (size_t s = 0; s < STORAGES; s += argc > 1 ? 3 : 1) { /* float32 and int8 */
        uint64_t seed = s;
        storage = storages[s];
        weight = numbers(MOST), bias = numbers(MOST);
        fill(weight, MOST, ORDINARY, &seed), fill(bias, 4 * 3000, ORDINARY, &seed);
        for (now = shapes; now < shapes + SHAPES; now++)
            if ((now->way != ONCE && now->way != ONCE_COLUMNS) || storage == FASTGATE_FLOAT32 || is_double()) {
                make();
                try_shape();
                dispose();
            }
        if (storage == FASTGATE_FLOAT32) {
            try_counts();
            try_short();
            try_waiting();
            try_nested();
            try_true_clock();
            fast_clock = &clock;
        }
        free(weight), free(bias);
    }
    return 0;
}
