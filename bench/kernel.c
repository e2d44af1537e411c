/*
 * Times the packed gate, sigmoid included, beside plain reads of the same bytes, beside the FMA peak, and beside
 * itself.  The sides take turns, and it prints a line for each round: the cell, then the seconds a call of each side.
 *
 *     kernel read MxN...       bytes, then the gate and the faster of two plain reads, in one stream and in four
 *     kernel batch MxNxB...    FMA in registers (for 10^9 operations), a batch, a single call
 *     kernel storage MxNxB...  float32, float16, bfloat16, int8, float64
 *     kernel threads MxNxB...  one thread, two
 *
 * Turns of the last three take a millisecond, after an eighth of that to warm up.  FASTGATE_ISA in the environment
 * chooses the instruction set of the gates.
 */
#define _POSIX_C_SOURCE 200112L
#include "../csrc/gate.c" /* for the address of the packed weights */

#include <stdio.h>
#include <string.h>
#include <time.h>

#ifdef __AVX512F__
#define WIDTH 64
#elif defined(__aarch64__)
#define WIDTH 16
#else
#define WIDTH 32
#endif
typedef float vector __attribute__((vector_size(WIDTH)));
#define ROUNDS 101

static volatile float sink;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static float total(const vector *sum)
{
    vector all = sum[0];
    for (int i = 1; i < 8; i++)
        all += sum[i];
    float s = 0;
    for (size_t i = 0; i < WIDTH / sizeof(float); i++)
        s += all[i];
    return s;
}

static void read_stream(const vector *p, size_t count)
{
    vector sum[8] = {{0}};
    for (; count >= 8; count -= 8, p += 8)
        for (int i = 0; i < 8; i++)
            sum[i] += p[i];
    for (; count; count--)
        sum[0] += *p++;
    sink = total(sum);
}

static void read_four_streams(const vector *p, size_t count)
{
    vector sum[8] = {{0}};
    const size_t quarter = count / 4;
    for (size_t k = 0; k + 2 <= quarter; k += 2)
        for (size_t i = 0; i < 4; i++) {
            sum[i] += p[i * quarter + k];
            sum[i + 4] += p[i * quarter + k + 1];
        }
    sink = total(sum);
}

/* Reads eighths of what does not fit in the first cache, and begins with the one with which the call before ended, as
 * calls of a gate do. */
static void read_in_turns(void (*read)(const vector *, size_t), const vector *p, size_t count, int backwards)
{
    const size_t parts = count * WIDTH < FIRST_CACHE ? 1 : 8;
    for (size_t i = 0; i < parts; i++) {
        const size_t k = backwards ? parts - 1 - i : i;
        read(p + count * k / parts, count * (k + 1) / parts - count * k / parts);
    }
}

static int measure(size_t m, size_t n)
{
    float *weight = malloc(m * n * sizeof *weight), *x = malloc(n * sizeof *x);
    float *y = malloc(m * sizeof *y);
    fastgate_gate *gate;
    if (!weight || !x || !y)
        return 1;
    for (size_t i = 0; i < m * n; i++)
        weight[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    for (size_t k = 0; k < n; k++)
        x[k] = (float)rand() / (float)RAND_MAX - 0.5f;
    if (fastgate_gate_create(&gate, FASTGATE_FLOAT32, m, n, weight, (ptrdiff_t)n, 1, NULL, 1))
        return 1;
    free(weight);
    const size_t bytes = fastgate_gate_nbytes(gate);
    const vector *plain = (const vector *)gate->packed;
    const fastgate_part part = {x, n, 0};
    const size_t calls = 4 + 20000000 / (bytes + 2000), count = bytes / WIDTH;
    for (int round = 0; round < ROUNDS; round++) {
        double spent[3];
        for (int side = 0; side < 3; side++) {
            const double start = now();
            for (size_t i = 0; i < calls; i++) {
                if (side == 0)
                    fastgate_gate_run(gate, 1, &part, 1, y, 0);
                else
                    read_in_turns(side == 1 ? read_stream : read_four_streams, plain, count, i % 2);
            }
            spent[side] = (now() - start) / (double)calls;
        }
        const double read = spent[1] < spent[2] ? spent[1] : spent[2];
        printf("%zux%zu %zu %.6g %.6g\n", m, n, bytes, spent[0], read);
    }
    fflush(stdout);
    fastgate_gate_free(gate);
    free(x);
    free(y);
    return 0;
}

/* ---- sides in turns ------------------------------------------------------------------------- */

/* Twelve sums in registers, which do not depend on each other: c * a + d is one instruction. */
#define SUMS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define FMA_ROUNDS 400
#define FMA_OPERATIONS (2.0 * 12 * FMA_ROUNDS * (WIDTH / sizeof(float)))
#ifdef __aarch64__
#define REGISTER "w"
#else
#define REGISTER "x"
#endif

static void multiply_and_add(void)
{
    vector c = {0}, d = {0};
    c += 0.999f;
    d += 0.001f;
#define START(i) vector a##i = d;
/* the empty statement keeps the compiler from dropping sums that nothing reads */
#define STEP(i) a##i = c * a##i + d; __asm__ volatile("" : "+" REGISTER(a##i));
    SUMS(START)
    for (int i = 0; i < FMA_ROUNDS; i++) {
        SUMS(STEP)
    }
}

typedef struct {
    const fastgate_gate *gate; /* NULL for multiply_and_add */
    size_t batch;
    unsigned threads;
    const void *x;
    void *y;
    size_t calls; /* a turn */
} side;

static void call(const side *s, size_t calls)
{
    if (!s->gate) {
        while (calls--)
            multiply_and_add();
        return;
    }
    const size_t n = s->gate->shape.segments[0];
    const fastgate_part part = {s->x, n, (ptrdiff_t)n};
    fastgate_override_threads(s->threads);
    while (calls--)
        fastgate_gate_run(s->gate, s->batch, &part, 1, s->y, (ptrdiff_t)s->gate->output_size);
}

static double turn(const side *s)
{
    call(s, 1 + s->calls / 8);
    const double start = now();
    call(s, s->calls);
    return (now() - start) / (double)s->calls;
}

static void take_turns(const char *cell, side *sides, int count)
{
    for (side *s = sides; s < sides + count; s++)
        for (int i = 0; i < 4; i++) {
            const double calls = 1e-3 / turn(s);
            s->calls = calls < 1 ? 1 : (size_t)calls;
        }
    for (int round = 0; round < ROUNDS; round++) {
        printf("%s", cell);
        for (const side *s = sides; s < sides + count; s++)
            printf(" %.6g", turn(s) * (s->gate ? 1 : 1e9 / FMA_OPERATIONS));
        puts("");
    }
    fflush(stdout);
}

static int compare(const char *mode, const char *cell)
{
    size_t m, n, batch;
    if (sscanf(cell, "%zux%zux%zu", &m, &n, &batch) != 3)
        return 1;
    const size_t count = (m > batch ? m : batch) * n;
    double *exact = malloc(count * sizeof *exact), *y = malloc(batch * m * sizeof *y);
    float *rounded = malloc(count * sizeof *rounded);
    if (!exact || !y || !rounded)
        return 1;
    for (size_t i = 0; i < count; i++) {
        rounded[i] = ((float)rand() / (float)RAND_MAX - 0.5f) / 8;
        exact[i] = rounded[i];
    }
    fastgate_gate *gates[FASTGATE_FLOAT64 + 1] = {0};
    side sides[FASTGATE_FLOAT64 + 1];
    const int storages = strcmp(mode, "storage") ? 1 : FASTGATE_FLOAT64 + 1;
    for (int i = 0; i < storages; i++) {
        const void *values = i == FASTGATE_FLOAT64 ? (const void *)exact : rounded;
        const fastgate_storage storage = (fastgate_storage)i;
        if (fastgate_gate_create(&gates[i], storage, m, n, values, (ptrdiff_t)n, 1, NULL, 1))
            return 1;
        sides[i] = (side){gates[i], batch, 1, values, y, 1};
    }
    int sides_count = storages;
    if (!strcmp(mode, "batch")) {
        sides[1] = sides[2] = sides[0];
        sides[0].gate = NULL;
        sides[2].batch = 1;
        sides_count = 3;
    } else if (!strcmp(mode, "threads")) {
        sides[1] = sides[0];
        sides[1].threads = 2;
        sides_count = 2;
    }
    take_turns(cell, sides, sides_count);
    for (int i = 0; i < storages; i++)
        fastgate_gate_free(gates[i]);
    free(exact);
    free(rounded);
    free(y);
    return 0;
}

int main(int argc, char **argv)
{
    if (fastgate_select_isa(getenv("FASTGATE_ISA")))
        return 1;
    for (int i = 2; i < argc; i++) {
        size_t m, n;
        if (strcmp(argv[1], "read")) {
            if (compare(argv[1], argv[i]))
                return 1;
        } else if (sscanf(argv[i], "%zux%zu", &m, &n) != 2 || measure(m, n)) {
            return 1;
        }
    }
    return 0;
}
