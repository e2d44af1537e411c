/*
 * Eight threads run gates whose calls are shared by two or four threads, and gates that they create; then they run one
 * LSTM, in whole sequences and in streams of their own.  Run it with -fsanitize=thread.
 */
#include "test.h"

#include <pthread.h>

enum { CALLERS = 8, TURNS = 12 };

/* so large that calls are shared: by few or many blocks of outputs, or by rows of x */
static const struct {
    size_t m, n, batch;
} shapes[] = {{260, 1700, 1}, {1100, 400, 1}, {200, 800, 12}, {60, 800, 40}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static struct {
    void *weight, *bias, *x, *want;
    fastgate_gate *gate[2]; /* of two and of four threads */
} layers[STORAGES][SHAPES];

static size_t width_of(size_t s) /* width() of a storage, where all threads share `storage` */
{
    return storages[s] == FASTGATE_FLOAT64 ? sizeof(double) : sizeof(float);
}

static void *call(void *arg)
{
    uint64_t seed = (uint64_t)(uintptr_t)arg;
    for (int turn = 0; turn < TURNS * STORAGES * SHAPES; turn++) {
        const size_t s = below(&seed, STORAGES), k = below(&seed, SHAPES);
        const size_t m = shapes[k].m, n = shapes[k].n, batch = shapes[k].batch;
        const size_t size = batch * m * width_of(s);
        const fastgate_part x = {layers[s][k].x, n, (ptrdiff_t)n};
        fastgate_gate *gate = layers[s][k].gate[turn % 2], *own = NULL;
        if (turn % 20 == 0) {
            CHECK(!fastgate_gate_create(&own, storages[s], m, n, layers[s][k].weight, (ptrdiff_t)n, 1,
                                        layers[s][k].bias, 3), "create");
            gate = own;
        }
        void *y = malloc(size);
        CHECK(y && !fastgate_gate_run(gate, batch, &x, 1, y, (ptrdiff_t)m), "run");
        CHECK(!memcmp(y, layers[s][k].want, size), "%s: %zu x %zu: other bits", storage_names[s], m, n);
        free(y);
        fastgate_gate_free(own);
    }
    return NULL;
}

/* ---- an LSTM ----------------------------------------------------------------------------------- */

/* its steps are just large enough to be shared, and enough for a pipeline */
enum { INPUTS = 60, HIDDEN = 150, PROJECTED = 70, LAYERS = 2, STEPS = 20, BATCH = 3 };
static const size_t lengths[BATCH] = {2, STEPS, 0};

static struct {
    fastgate_lstm *shared; /* by two threads */
    void *x, *want, *want_ragged;
} lstms[STORAGES];

/* Runs a sequence from h and c of zeros. */
static void whole_sequence(const fastgate_lstm *lstm, const void *x, const size_t *of_rows, void *y)
{
    void *h = calloc(LAYERS * BATCH * PROJECTED, sizeof(double)), *c = calloc(LAYERS * BATCH * HIDDEN, sizeof(double));
    CHECK(h && c && !fastgate_lstm_run(lstm, STEPS, BATCH, x, BATCH * INPUTS, INPUTS, of_rows, h, c, y,
                                       BATCH * PROJECTED, PROJECTED), "run");
    free(h), free(c);
}

static void *call_lstm(void *arg)
{
    uint64_t seed = (uint64_t)(uintptr_t)arg;
    for (int turn = 0; turn < TURNS * STORAGES; turn++) {
        const size_t s = below(&seed, STORAGES), size = width_of(s);
        char *y = malloc(STEPS * BATCH * PROJECTED * size);
        CHECK(y, "memory");
        if (turn % 3 == 0) {
            fastgate_stream *stream;
            CHECK(!fastgate_stream_create(&stream, lstms[s].shared, BATCH), "stream");
            for (size_t t = 0; t < STEPS; t++)
                fastgate_stream_step(stream, (char *)lstms[s].x + t * BATCH * INPUTS * size, INPUTS,
                                     y + t * BATCH * PROJECTED * size, PROJECTED);
            fastgate_stream_free(stream);
        } else {
            whole_sequence(lstms[s].shared, lstms[s].x, turn % 3 == 1 ? lengths : NULL, y);
        }
        CHECK(!memcmp(y, turn % 3 == 1 ? lstms[s].want_ragged : lstms[s].want, STEPS * BATCH * PROJECTED * size),
              "%s: other bits of an LSTM", storage_names[s]);
        free(y);
    }
    return NULL;
}

static void create_lstms(void)
{
    uint64_t seed = 1;
    for (size_t s = 0; s < STORAGES; s++) {
        storage = storages[s];
        fastgate_lstm_options o = {storage, INPUTS, HIDDEN, PROJECTED, LAYERS, 1, .threads = 1};
        fastgate_lstm_weights w[LAYERS];
        void *weight = numbers(4 * HIDDEN * (INPUTS + PROJECTED));
        fill(weight, 4 * HIDDEN * (INPUTS + PROJECTED), ORDINARY, &seed);
        for (int k = 0; k < LAYERS; k++)
            w[k] = (fastgate_lstm_weights){weight, weight, weight, k ? weight : NULL, weight};
        lstms[s].x = numbers(STEPS * BATCH * INPUTS), lstms[s].want = numbers(STEPS * BATCH * PROJECTED);
        lstms[s].want_ragged = numbers(STEPS * BATCH * PROJECTED);
        fill(lstms[s].x, STEPS * BATCH * INPUTS, ORDINARY, &seed);
        fastgate_lstm *alone;
        CHECK(!fastgate_lstm_create(&alone, &o, w), "create");
        o.threads = 2;
        CHECK(!fastgate_lstm_create(&lstms[s].shared, &o, w), "create");
        whole_sequence(alone, lstms[s].x, NULL, lstms[s].want);
        whole_sequence(alone, lstms[s].x, lengths, lstms[s].want_ragged);
        fastgate_lstm_free(alone);
        free(weight);
    }
}

/* ------------------------------------------------------------------------------------------------ */

static void run_callers(void *(*caller)(void *))
{
    pthread_t thread[CALLERS];
    for (int t = 0; t < CALLERS; t++)
        CHECK(!pthread_create(&thread[t], NULL, caller, (void *)(uintptr_t)(t + 2)), "thread");
    for (int t = 0; t < CALLERS; t++)
        pthread_join(thread[t], NULL);
}

int main(void)
{
    uint64_t seed = 1;
    for (size_t s = 0; s < STORAGES; s++)
        for (size_t k = 0; k < SHAPES; k++) {
            const size_t m = shapes[k].m, n = shapes[k].n, batch = shapes[k].batch;
            storage = storages[s];
            layers[s][k].weight = numbers(m * n), layers[s][k].bias = numbers(m);
            layers[s][k].x = numbers(batch * n), layers[s][k].want = numbers(batch * m);
            fill(layers[s][k].weight, m * n, ORDINARY, &seed), fill(layers[s][k].bias, m, ORDINARY, &seed);
            fill(layers[s][k].x, batch * n, ORDINARY, &seed);
            fastgate_gate *alone;
            for (unsigned threads = 1; threads <= 4; threads *= 2)
                CHECK(!fastgate_gate_create(threads == 1 ? &alone : &layers[s][k].gate[threads / 4], storage, m, n,
                                            layers[s][k].weight, (ptrdiff_t)n, 1, layers[s][k].bias, threads),
                      "create");
            const fastgate_part x = {layers[s][k].x, n, (ptrdiff_t)n};
            CHECK(!fastgate_gate_run(alone, batch, &x, 1, layers[s][k].want, (ptrdiff_t)m), "run");
            fastgate_gate_free(alone);
        }
    create_lstms();
    run_callers(call);
    run_callers(call_lstm);
    for (size_t s = 0; s < STORAGES; s++) {
        fastgate_lstm_free(lstms[s].shared), free(lstms[s].x), free(lstms[s].want), free(lstms[s].want_ragged);
        for (size_t k = 0; k < SHAPES; k++) {
            fastgate_gate_free(layers[s][k].gate[0]), fastgate_gate_free(layers[s][k].gate[1]);
            free(layers[s][k].weight), free(layers[s][k].bias), free(layers[s][k].x), free(layers[s][k].want);
        }
    }
    return 0;
}
