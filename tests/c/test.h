/* What bits.c, memory.c and threads.c share: a check, random floats, the sizes that matter. */
#ifndef TEST_H
#define TEST_H

#include "../../csrc/fastgate.h"

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition, ...)                                                                     \
    do {                                                                                          \
        if (!(condition)) {                                                                       \
            printf("%s:%d: %s: ", __FILE__, __LINE__, #condition);                                \
            printf(__VA_ARGS__);                                                                  \
            puts("");                                                                             \
            exit(1);                                                                              \
        }                                                                                         \
    } while (0)

static inline uint64_t next(uint64_t *seed) /* SplitMix64, by Vigna */
{
    uint64_t z = (*seed += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

static inline size_t below(uint64_t *seed, size_t limit)
{
    return (size_t)(next(seed) >> 33) % limit;
}

static inline float float_of(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* all NaNs are the same */
static inline uint32_t bits_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return isnan(f) ? 0x7fc00000 : bits;
}

enum kind { ORDINARY, TINY, ANY_FINITE, HUGE_VALUES, WITH_INF, WITH_NAN, KINDS };

/* The same numbers on every machine: only exact operations. */
static inline void fill(float *to, size_t size, ptrdiff_t stride, enum kind kind, uint64_t *seed)
{
    for (size_t i = 0; i < size; i++) {
        const uint32_t r = (uint32_t)(next(seed) >> 32);
        float f = (float)((int32_t)r >> 8) * 0x1p-23f; /* [-1, 1) */
        if (kind == TINY)
            f = float_of(r & 0x807fffff);
        else if (kind == ANY_FINITE)
            f = (r & 0x7f800000) == 0x7f800000 ? 0.0f : float_of(r);
        else if (kind == HUGE_VALUES)
            f *= 0x1p127f;
        to[(ptrdiff_t)i * stride] = f;
    }
    if (size && kind == WITH_INF)
        to[(ptrdiff_t)below(seed, size) * stride] = next(seed) & 1 ? INFINITY : -INFINITY;
    if (size && kind == WITH_NAN)
        to[(ptrdiff_t)below(seed, size) * stride] = NAN;
}

static inline float *floats(size_t count)
{
    float *p = malloc(count * sizeof *p + 1);
    CHECK(p, "%zu floats", count);
    return p;
}

#endif
