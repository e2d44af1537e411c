/*
 * Times a step of a stream beside the kernel that it calls, which shows what the public API costs.
 *
 *     stream stream INPUTSxHIDDEN...
 *
 * It prints a line for each round: the size, then the seconds of a step by fastgate_stream_step, and by a direct call
 * of the kernel on weights packed in the same order.  They take turns of a millisecond, after an eighth of that
 * to warm up, and must give the same bits.
 */
#define _POSIX_C_SOURCE 200112L
#include "../csrc/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PANEL (FG_LINE / sizeof(float))
#define BLOCK (FG_BLOCK_PANELS * PANEL)

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct {
    size_t inputs, hidden;
    const float *x;
    fastgate_stream *stream;
    float *y; /* (hidden,) of the stream */
    fg_packed_kernel *kernel;
    const char *packed;
    float *h[2], *c; /* (hidden,) of the kernel */
    int step;
} sides;

static void run_stream(sides *s)
{
    fastgate_stream_step(s->stream, s->x, (ptrdiff_t)s->inputs, s->y, (ptrdiff_t)s->hidden);
}

static void run_kernel(sides *s)
{
    const fastgate_part parts[] = {{s->x, s->inputs, 0}, {s->h[s->step % 2], s->hidden, 0}};
    const fg_cell cell = {.units = s->hidden, .c = s->c, .c_out = s->c, .clip = INFINITY, .gate_clip = INFINITY};
    const fg_call call = {.packed = s->packed,
                          .rows = 4 * s->hidden,
                          .segments = {s->inputs, s->hidden},
                          .last_segment = 2,
                          .parts = parts,
                          .y = s->h[1 - s->step % 2],
                          .ending = FG_CELL,
                          .cell = &cell,
                          .backwards = s->step % 2}; /* as fg_run alternates */
    s->kernel(&call, 0, 4 * s->hidden / BLOCK, 0, 1);
    s->step++;
}

static double turn(sides *s, void (*run)(sides *), size_t calls)
{
    for (size_t i = 0; i <= calls / 8; i++)
        run(s);
    const double start = now();
    for (size_t i = 0; i < calls; i++)
        run(s);
    return (now() - start) / (double)calls;
}

static float *numbers(size_t count)
{
    float *made = malloc(count * sizeof *made);
    for (size_t i = 0; made && i < count; i++)
        made[i] = ((float)rand() / (float)RAND_MAX - 0.5f) / 8;
    return made;
}

static int measure(const char *size)
{
    sides s = {0};
    if (sscanf(size, "%zux%zu", &s.inputs, &s.hidden) != 2 || !s.hidden || s.hidden % PANEL)
        return fprintf(stderr, "%s: INPUTSxHIDDEN, HIDDEN a multiple of %zu\n", size, PANEL), 1;
    const size_t n = s.inputs, H = s.hidden;
    const fg_shape shape = {H, 4, {n, H}};
    float *weight_ih = numbers(4 * H * n), *weight_hh = numbers(4 * H * H), *bias = numbers(4 * H);
    void *packed = NULL;
    s.x = numbers(n);
    s.y = malloc(H * sizeof *s.y);
    for (int i = 0; i < 2; i++)
        s.h[i] = calloc(H, sizeof(float));
    s.c = calloc(H, sizeof(float));
    if (!weight_ih || !weight_hh || !bias || !s.x || !s.y || !s.h[0] || !s.h[1] || !s.c ||
        posix_memalign(&packed, FG_LINE, fg_packed_bytes(FASTGATE_FLOAT32, &shape)))
        return 1;
    const fg_matrix matrix = {shape, {weight_ih, weight_hh}, {(ptrdiff_t)n, (ptrdiff_t)H}, 1, bias};
    if (fg_pack(packed, FASTGATE_FLOAT32, &matrix))
        return 1;
    s.packed = packed;
    s.kernel = fg_active_kernel(FASTGATE_FLOAT32);
    const fastgate_lstm_options options = {.input_size = n, .hidden_size = H, .layers = 1, .directions = 1};
    const fastgate_lstm_weights weights = {.weight_ih = weight_ih, .weight_hh = weight_hh, .bias = bias};
    fastgate_lstm *lstm;
    if (fastgate_lstm_create(&lstm, &options, &weights) || fastgate_stream_create(&s.stream, lstm, 1))
        return 1;
    for (int i = 0; i < 10; i++) {
        run_stream(&s);
        run_kernel(&s);
        if (memcmp(s.y, s.h[s.step % 2], H * sizeof(float)))
            return fprintf(stderr, "%s: the stream and the kernel differ\n", size), 1;
    }
    const size_t calls = 1 + (size_t)(1e-3 / turn(&s, run_stream, 1000));
    for (int round = 0; round < 101; round++) {
        double seconds[2];
        for (int i = 0; i < 2; i++) { /* each is the first in every other round */
            const int side = (i + round) % 2;
            seconds[side] = turn(&s, side ? run_kernel : run_stream, calls);
        }
        printf("%s %.6g %.6g\n", size, seconds[0], seconds[1]);
    }
    fflush(stdout);
    fastgate_stream_free(s.stream);
    fastgate_lstm_free(lstm);
    void *const all[] = {weight_ih, weight_hh, bias, packed, (void *)s.x, s.y, s.h[0], s.h[1], s.c};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    return 0;
}

int main(int argc, char **argv)
{
    for (int i = 2; i < argc; i++)
        if (measure(argv[i]))
            return 1;
    return 0;
}
