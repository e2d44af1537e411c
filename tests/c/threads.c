/*
 * Eight threads run gates that share their calls among two or four, and create gates of their own; meant
 * for -fsanitize=thread.
 */
#include "test.h"

#include <pthread.h>

enum { CALLERS = 8, TURNS = 12 };

/* above the size from which calls are shared: by blocks of outputs, few or many, or by rows of x */
static const struct {
    size_t m, n, batch;
} shapes[] = {{260, 1700, 1}, {1100, 400, 1}, {200, 800, 12}, {60, 800, 40}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static struct {
    void *weight, *bias, *x, *want;
    fastgate_gate *gate[2]; /* of two and of four threads */
} layers[STORAGES][SHAPES];

static void *call(void *arg)
{
    uint64_t seed = (uint64_t)(uintptr_t)arg;
    for (int turn = 0; turn < TURNS * STORAGES * SHAPES; turn++) {
        const size_t s = below(&seed, STORAGES), k = below(&seed, SHAPES);
        const size_t m = shapes[k].m, n = shapes[k].n, batch = shapes[k].batch;
        const size_t size = batch * m * (storages[s] == FASTGATE_FLOAT64 ? sizeof(double) : sizeof(float));
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
    pthread_t thread[CALLERS];
    for (int t = 0; t < CALLERS; t++)
        CHECK(!pthread_create(&thread[t], NULL, call, (void *)(uintptr_t)(t + 2)), "thread");
    for (int t = 0; t < CALLERS; t++)
        pthread_join(thread[t], NULL);
    for (size_t s = 0; s < STORAGES; s++)
        for (size_t k = 0; k < SHAPES; k++) {
            fastgate_gate_free(layers[s][k].gate[0]), fastgate_gate_free(layers[s][k].gate[1]);
            free(layers[s][k].weight), free(layers[s][k].bias), free(layers[s][k].x), free(layers[s][k].want);
        }
    return 0;
}
