/*
 * Two builds of csrc beside each other: prints, for each storage, size and batch, the time of the second shared
 * library over that of the first.  Each round times both in turn, for a fraction of a millisecond; what is printed is
 * the median of the rounds' ratios, with their quartiles, on the instruction set that FASTGATE_ISA names.
 *
 *     cc -O2 .ci/compilers.c -o compilers -ldl && ./compilers FIRST.so SECOND.so [ROUNDS]
 */
#define _GNU_SOURCE
#include "../csrc/fastgate.h"

#include <dlfcn.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST = 2000 };

typedef struct {
    int (*select)(const char *);
    int (*create)(fastgate_gate **, fastgate_storage, size_t, size_t, const void *, ptrdiff_t, ptrdiff_t, const void *,
                  unsigned);
    int (*run)(const fastgate_gate *, size_t, const fastgate_part *, size_t, void *, ptrdiff_t);
    int (*create_lstm)(fastgate_lstm **, const fastgate_lstm_options *, const fastgate_lstm_weights *);
    int (*run_lstm)(const fastgate_lstm *, size_t, size_t, const void *, ptrdiff_t, ptrdiff_t, const size_t *, void *,
                    void *, void *, ptrdiff_t, ptrdiff_t);
    fastgate_gate *gate;
    fastgate_lstm *lstm;
} library;

static double weights[4 * 512 * 2048], x[2048 * 64], y[2048 * 64], h[2048 * 64], c[2048 * 64];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void call(const library *l, size_t m, size_t n, size_t batch)
{
    if (l->gate) {
        const fastgate_part part = {x, n, (ptrdiff_t)n};
        l->run(l->gate, batch, &part, 1, y, (ptrdiff_t)m);
    } else {
        memset(h, 0, batch * m * sizeof *h), memset(c, 0, batch * m * sizeof *c);
        l->run_lstm(l->lstm, 4, batch, x, (ptrdiff_t)(batch * n), (ptrdiff_t)n, NULL, h, c, y, (ptrdiff_t)(batch * m),
                    (ptrdiff_t)m);
    }
}

static int order(const void *a, const void *b)
{
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

int main(int argc, char **argv)
{
    static const char *const names[] = {"float32", "float16", "bfloat16", "int8", "float64"};
    static const size_t shapes[][4] = {{0, 32, 32, 1},   {0, 128, 128, 1}, {0, 512, 512, 1}, {0, 128, 128, 16},
                                       {0, 512, 512, 16}, {1, 32, 32, 1},   {1, 128, 128, 1}, {1, 128, 128, 16}};
    const int rounds = argc > 3 ? atoi(argv[3]) : 201;
    library two[2] = {0};
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    sched_setaffinity(0, sizeof one, &one);
    for (size_t i = 0; i < sizeof x / sizeof *x; i++)
        ((float *)x)[i] = (float)(i % 97) / 97;
    for (int k = 0; k < 2; k++) {
        void *opened = argc > 2 && rounds <= MOST ? dlopen(argv[1 + k], RTLD_NOW | RTLD_LOCAL) : NULL;
        if (!opened)
            return puts("compilers FIRST.so SECOND.so [ROUNDS]"), 1;
        *(void **)&two[k].select = dlsym(opened, "fastgate_select_isa");
        *(void **)&two[k].create = dlsym(opened, "fastgate_gate_create");
        *(void **)&two[k].run = dlsym(opened, "fastgate_gate_run");
        *(void **)&two[k].create_lstm = dlsym(opened, "fastgate_lstm_create");
        *(void **)&two[k].run_lstm = dlsym(opened, "fastgate_lstm_run");
        if (two[k].select(getenv("FASTGATE_ISA")))
            return puts("no such FASTGATE_ISA"), 1;
    }
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        const size_t m = shapes[s][1], n = shapes[s][2], batch = shapes[s][3];
        printf("%s %zux%zu, batch %zu:", shapes[s][0] ? "LSTM" : "gate", m, n, batch);
        for (int storage = FASTGATE_FLOAT32; storage <= FASTGATE_FLOAT64; storage++) {
            static double ratios[MOST];
            const fastgate_lstm_options o = {storage, n, m, 0, 1, 1, .threads = 1};
            const fastgate_lstm_weights w = {weights, weights, NULL, NULL, NULL};
            for (size_t i = 0; i < sizeof weights / sizeof *weights; i++)
                if (storage == FASTGATE_FLOAT64)
                    weights[i] = (double)(i % 89) / 890 - 0.05, x[i % (2048 * 64)] = (double)(i % 97) / 97;
                else
                    ((float *)weights)[i] = (float)(i % 89) / 890 - 0.05f,
                    ((float *)x)[i % (2048 * 64)] = (float)(i % 97) / 97;
            for (int k = 0; k < 2; k++) {
                two[k].gate = NULL, two[k].lstm = NULL;
                if (shapes[s][0] ? two[k].create_lstm(&two[k].lstm, &o, &w)
                                 : two[k].create(&two[k].gate, storage, m, n, weights, (ptrdiff_t)n, 1, NULL, 1))
                    return puts("create"), 1;
            }
            double start = now();
            for (int i = 0; i < 20; i++)
                call(&two[0], m, n, batch);
            const int calls = 1 + (int)(20 * 2e5 / (now() - start)); /* 0.2 ms */
            for (int round = 0; round < rounds; round++) {
                double took[2];
                for (int turn = 0; turn < 2; turn++) {
                    const int k = (turn + round) % 2;
                    call(&two[k], m, n, batch);
                    start = now();
                    for (int i = 0; i < calls; i++)
                        call(&two[k], m, n, batch);
                    took[k] = now() - start;
                }
                ratios[round] = took[1] / took[0];
            }
            qsort(ratios, (size_t)rounds, sizeof *ratios, order);
            printf(" %s %.3f (%.3f to %.3f)", names[storage], ratios[rounds / 2], ratios[rounds / 4],
                   ratios[rounds * 3 / 4]);
            fflush(stdout);
        }
        puts("");
    }
    return 0;
}
