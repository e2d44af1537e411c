/*
 * The sigmoid of all 2^32 float32 numbers, computed as biases of a gate without inputs, is at most 1 ULP from the true
 * value and inside [0, 1], exact for infinities, and NaN for NaN; other usable instruction sets give the same bits.
 *
 *     activations [stride [threads [blocks]]]
 *
 * base, which is slow without FMA, takes every stride-th number, by default every 5th.  The numbers are divided into
 * 2^16 blocks, of which `blocks` are taken, by default all.
 *
 * A ULP is the spacing of float32 at the true value, 2^-149 among the subnormals.  The true value is computed as
 * 1 / (1 + exp(-z)) in float64.  It is wrong by at most three roundings of float64, 3 2^-53 of the value (exp of libm
 * is within 1 ULP), which is 6e-9 ULP here.
 */
#define _GNU_SOURCE
#include "test.h"

#include <pthread.h>

enum { BLOCK = 1 << 16, MAX_THREADS = 64, MAX_ISA = 8 };
#define BLOCKS (1 << 16)

typedef struct {
    double worst;
    uint32_t worst_at;
    uint64_t wrong, different[MAX_ISA];
    uint32_t wrong_at, different_at[MAX_ISA];
} findings;

static int threads, blocks, stride[MAX_ISA], failed;
static findings found[MAX_THREADS];
static pthread_barrier_t barrier;

static uint32_t to_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* 1 / (the spacing of float32 at v), for |v| <= 1 and in [1, 2) that below 1 */
static double per_ulp(double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    int exponent = (int)(bits >> 52 & 0x7ff) - 1023;
    exponent = exponent < -126 ? -126 : exponent > -1 ? -1 : exponent;
    bits = (uint64_t)(1023 + 23 - exponent) << 52;
    memcpy(&v, &bits, sizeof v);
    return v;
}

/* The sigmoid of z (count,) by the selected instruction set. */
static void sigmoid(const float *z, float *y, int count)
{
    fastgate_gate_once(FASTGATE_FLOAT32, (size_t)count, 0, NULL, 0, 1, z, 1, z, 0, y, 0);
}

static void check(const float *z, const float *y, findings *f)
{
    for (int i = 0; i < BLOCK; i++) {
        int right;
        if (isnan(z[i]))
            right = isnan(y[i]);
        else if (isinf(z[i]))
            right = to_bits(y[i]) == to_bits(z[i] > 0 ? 1.0f : 0.0f);
        else {
            double truth = 1 / (1 + exp(-(double)z[i]));
            double ulps = fabs(y[i] - truth) * per_ulp(truth);
            right = ulps <= 1 && !signbit(y[i]) && y[i] <= 1;
            if (ulps > f->worst)
                f->worst = ulps, f->worst_at = to_bits(z[i]);
        }
        if (!right && !f->wrong++)
            f->wrong_at = to_bits(z[i]);
    }
}

/* Each thread takes every threads-th block; the instruction set is switched between two barriers. */
static void *work(void *arg)
{
    static float buffers[MAX_THREADS][3][BLOCK];
    const int me = (int)(intptr_t)arg;
    float *z = buffers[me][0], *best = buffers[me][1], *y = buffers[me][2];
    findings *f = &found[me];
    for (int turn = me; turn < blocks; turn += threads)
        for (int isa = 0; fastgate_isa_name((size_t)isa); isa++) {
            if (!fastgate_isa_usable((size_t)isa))
                continue;
            pthread_barrier_wait(&barrier);
            if (!me)
                fastgate_select_isa(fastgate_isa_name((size_t)isa));
            pthread_barrier_wait(&barrier);
            const int first = !stride[isa], step = first ? 1 : stride[isa];
            int count = 0;
            /* which numbers a stride takes depends on their bits, not on the block */
            for (uint64_t i = (uint64_t)turn * (unsigned)(BLOCKS / blocks) * BLOCK, end = i + BLOCK; i < end; i++)
                if (i % (unsigned)step == 0)
                    z[count++] = float_of((uint32_t)i);
            sigmoid(z, first ? best : y, count);
            if (first) {
                check(z, best, f);
                continue;
            }
            for (int i = 0; i < count; i++) {
                const float want = best[to_bits(z[i]) % BLOCK];
                if (to_bits(y[i]) != to_bits(want) && !(isnan(y[i]) && isnan(want)))
                    if (!f->different[isa]++)
                        f->different_at[isa] = to_bits(z[i]);
            }
        }
    return NULL;
}

static void report(int isa)
{
    findings sum = {0};
    for (int t = 0; t < threads; t++) {
        const findings *f = &found[t];
        if (f->worst > sum.worst)
            sum.worst = f->worst, sum.worst_at = f->worst_at;
        if (f->wrong)
            sum.wrong += f->wrong, sum.wrong_at = f->wrong_at;
        if (f->different[isa])
            sum.different[0] += f->different[isa], sum.different_at[0] = f->different_at[isa];
    }
    printf("%s: ", fastgate_isa_name((size_t)isa));
    if (!stride[isa]) {
        printf("%d blocks of 2^16 values, worst %.4f ULP at %a (0x%08x)", blocks, sum.worst,
               (double)float_of(sum.worst_at), sum.worst_at);
        if (sum.wrong)
            printf(", %llu WRONG, as at 0x%08x", (unsigned long long)sum.wrong, sum.wrong_at);
    } else {
        printf("same bits, 1 of %d values", stride[isa]);
        if (sum.different[0])
            printf(": WRONG, %llu differ, as at 0x%08x", (unsigned long long)sum.different[0],
                   sum.different_at[0]);
    }
    puts("");
    failed |= sum.wrong || sum.different[0];
}

int main(int argc, char **argv)
{
    pthread_t thread[MAX_THREADS];
    threads = argc > 2 ? atoi(argv[2]) : (int)fastgate_cpu_count();
    blocks = argc > 3 ? atoi(argv[3]) : BLOCKS;
    for (threads = threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
         blocks % threads;) /* so that all threads reach the same barriers */
        threads--;
    int first = 1;
    for (int isa = 0; isa < MAX_ISA && fastgate_isa_name((size_t)isa); isa++)
        if (fastgate_isa_usable((size_t)isa)) {
            const int base = !strcmp(fastgate_isa_name((size_t)isa), "base");
            stride[isa] = first ? 0 : !base ? 1 : argc > 1 ? atoi(argv[1]) : 5;
            first = 0;
        }
    pthread_barrier_init(&barrier, NULL, (unsigned)threads);
    for (int t = 0; t < threads; t++)
        if (pthread_create(&thread[t], NULL, work, (void *)(intptr_t)t))
            return puts("no thread"), 1;
    for (int t = 0; t < threads; t++)
        pthread_join(thread[t], NULL);
    for (int isa = 0; isa < MAX_ISA && fastgate_isa_name((size_t)isa); isa++)
        if (fastgate_isa_usable((size_t)isa))
            report(isa);
    return failed;
}
