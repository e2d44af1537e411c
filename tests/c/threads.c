/* Eight threads run one gate, and create gates of their own; meant for -fsanitize=thread. */
#include "test.h"

#include <pthread.h>

enum { THREADS = 8, TURNS = 200, M = 130, N = 150, BATCH = 3 };
static float weight[M * N], bias[M], x[BATCH * N], want[BATCH * M];
static fastgate_gate *shared;

static void *work(void *arg)
{
    (void)arg;
    const fastgate_part parts[] = {{x, N, N}};
    float y[BATCH * M];
    for (int turn = 0; turn < TURNS; turn++) {
        CHECK(!fastgate_gate_run(shared, BATCH, parts, 1, y, M), "run");
        CHECK(!memcmp(y, want, sizeof y), "a shared gate: other bits");
        if (turn % 20)
            continue;
        fastgate_gate *own;
        CHECK(!fastgate_gate_create(&own, FASTGATE_FLOAT32, M, N, weight, N, 1, bias, 1), "create");
        CHECK(!fastgate_gate_run(own, BATCH, parts, 1, y, M), "run");
        fastgate_gate_free(own);
        CHECK(!memcmp(y, want, sizeof y), "a gate of one's own: other bits");
    }
    return NULL;
}

int main(void)
{
    uint64_t seed = 1;
    fill(weight, M * N, 1, ORDINARY, &seed);
    fill(bias, M, 1, ORDINARY, &seed);
    fill(x, BATCH * N, 1, ORDINARY, &seed);
    pthread_t thread[THREADS];
    CHECK(!fastgate_gate_create(&shared, FASTGATE_FLOAT32, M, N, weight, N, 1, bias, 1), "create");
    const fastgate_part parts[] = {{x, N, N}};
    CHECK(!fastgate_gate_run(shared, BATCH, parts, 1, want, M), "run");
    for (int t = 0; t < THREADS; t++)
        CHECK(!pthread_create(&thread[t], NULL, work, NULL), "thread");
    for (int t = 0; t < THREADS; t++)
        pthread_join(thread[t], NULL);
    fastgate_gate_free(shared);
    return 0;
}
