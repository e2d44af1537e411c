/*
 * The packed gate, sigmoid included, beside the fastest plain reads of the same bytes.
 *
 *     kernel MxN...  prints, for each: m n bytes gate read turning low median high
 *
 * gate is seconds a call.  read is seconds for the faster of two reads that always go forwards, one
 * stream or four; turning for one that, like the gate, goes backwards every other time, in blocks
 * of 64 rows.  All take turns in every round; gate, read and turning are medians over the rounds,
 * low, median and high the quartiles of read / gate in one round.
 */
#define _POSIX_C_SOURCE 200112L
#include "../csrc/gate.c" /* for the address of the packed weights */

#include <stdio.h>
#include <time.h>

#ifdef __AVX512F__
#define WIDTH 64
#else
#define WIDTH 32
#endif
typedef float vector __attribute__((vector_size(WIDTH)));
#define ROUNDS 41

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

static void read_forwards(const vector *p, size_t count)
{
    vector sum[8] = {{0}};
    for (; count >= 8; count -= 8, p += 8)
        for (int i = 0; i < 8; i++)
            sum[i] += p[i];
    for (; count; count--)
        sum[0] += *p++;
    sink = total(sum);
}

static void read_streams(const vector *p, size_t count)
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

static void read_turning(const vector *p, size_t count, size_t block, int backwards)
{
    const size_t blocks = (count + block - 1) / block;
    for (size_t i = 0; i < blocks; i++) {
        const size_t first = (backwards ? blocks - 1 - i : i) * block;
        read_forwards(p + first, count - first < block ? count - first : block);
    }
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
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
    if (fastgate_gate_create(&gate, m, n, weight, (ptrdiff_t)n, 1, NULL))
        return 1;
    free(weight);
    const size_t bytes = fastgate_gate_nbytes(gate);
    const vector *plain = (const vector *)gate->packed;
    const fastgate_part part = {x, n, 0};
    const size_t calls = 4 + 20000000 / (bytes + 2000), count = bytes / WIDTH;
    double gates[ROUNDS], reads[ROUNDS], turnings[ROUNDS], ratios[ROUNDS];
    for (int round = 0; round < ROUNDS; round++) {
        double spent[4];
        for (int side = 0; side < 4; side++) {
            const double start = now();
            for (size_t i = 0; i < calls; i++) {
                if (side == 0)
                    fastgate_gate_run(gate, 1, &part, 1, y, 0);
                else if (side == 1)
                    read_forwards(plain, count);
                else if (side == 2)
                    read_streams(plain, count);
                else
                    read_turning(plain, count, 64 * (n + 1) * sizeof(float) / WIDTH, i & 1);
            }
            spent[side] = (now() - start) / (double)calls;
        }
        gates[round] = spent[0];
        reads[round] = spent[1] < spent[2] ? spent[1] : spent[2];
        turnings[round] = spent[3];
        ratios[round] = reads[round] / gates[round];
    }
    double *all[] = {gates, reads, turnings, ratios};
    for (int i = 0; i < 4; i++)
        qsort(all[i], ROUNDS, sizeof(double), ascending);
    printf("%zu %zu %zu %.9f %.9f %.9f %.4f %.4f %.4f\n", m, n, bytes, gates[ROUNDS / 2],
           reads[ROUNDS / 2], turnings[ROUNDS / 2], ratios[ROUNDS / 4], ratios[ROUNDS / 2],
           ratios[3 * ROUNDS / 4]);
    fflush(stdout);
    fastgate_gate_free(gate);
    free(x);
    free(y);
    return 0;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        size_t m, n;
        if (sscanf(argv[i], "%zux%zu", &m, &n) != 2 || measure(m, n))
            return 1;
    }
    return 0;
}
