/* What the tests share: a check, and arrays of random numbers for every storage. */
#ifndef TEST_H
#define TEST_H

#include "../../csrc/fastgate.h"

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32 /* the folder for the files that tests write: on Windows the current one */
#define TMP ""
#else
#define TMP "/tmp/"
#endif

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

static const fastgate_storage storages[] = {FASTGATE_FLOAT32, FASTGATE_FLOAT16, FASTGATE_BFLOAT16,
                                            FASTGATE_INT8, FASTGATE_FLOAT64};
static const char *const storage_names[] = {"float32", "float16", "bfloat16", "int8", "float64"};
enum { STORAGES = sizeof storages / sizeof *storages };

/* The storage of the gates under test.  Weights, x and so on are arrays of double for FLOAT64, otherwise of float. */
static fastgate_storage storage;

static inline int is_double(void)
{
    return storage == FASTGATE_FLOAT64;
}

static inline size_t width(void)
{
    return is_double() ? sizeof(double) : sizeof(float);
}

static inline void *at(const void *a, ptrdiff_t i)
{
    return (char *)a + i * (ptrdiff_t)width();
}

static inline double get(const void *a, ptrdiff_t i)
{
    return is_double() ? ((const double *)a)[i] : ((const float *)a)[i];
}

static inline void put(void *a, ptrdiff_t i, double value)
{
    if (is_double())
        ((double *)a)[i] = value;
    else
        ((float *)a)[i] = (float)value;
}

static inline float float_of(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline double double_of(uint64_t bits)
{
    double d;
    memcpy(&d, &bits, sizeof d);
    return d;
}

/* The bits of element i; those of all NaNs are the same. */
static inline uint64_t bits_at(const void *a, ptrdiff_t i)
{
    uint64_t bits = 0;
    memcpy(&bits, at(a, i), width());
    return isnan(get(a, i)) ? 0x7ff8000000000000 : bits;
}

enum kind { ORDINARY, TINY, ANY_FINITE, HUGE_VALUES, WITH_INF, WITH_NAN, KINDS };

static inline double number(enum kind kind, uint64_t *seed)
{
    const uint64_t r = next(seed);
    const uint32_t high = (uint32_t)(r >> 32);
    if (kind == TINY)
        return is_double() ? double_of(r & 0x800fffffffffffff) : float_of(high & 0x807fffff);
    if (kind == ANY_FINITE) {
        const double any = is_double() ? double_of(r) : float_of(high);
        return isfinite(any) ? any : 0;
    }
    const double ordinary = (double)((int64_t)r >> 11) * 0x1p-52; /* [-1, 1) */
    if (kind == HUGE_VALUES)
        return ordinary * (is_double() ? 0x1p1023 : 0x1p127);
    return is_double() ? ordinary : (double)((int32_t)high >> 8) * 0x1p-23;
}

/* Random numbers of this kind.  They are the same on every machine, as only exact operations make them. */
static inline void fill(void *to, size_t size, enum kind kind, uint64_t *seed)
{
    for (size_t i = 0; i < size; i++)
        put(to, (ptrdiff_t)i, number(kind, seed));
    if (!size || kind < WITH_INF)
        return;
    const size_t one = below(seed, size);
    put(to, (ptrdiff_t)one, kind == WITH_NAN ? NAN : next(seed) & 1 ? INFINITY : -INFINITY);
}

/* total + w x for w and x (n,), with the bits of the order of summation that csrc/internal.h defines for a segment. */
static inline double in_order(double total, const void *w, const void *x, size_t n)
{
    for (size_t k = 0; k < n;) {
        double sum = 0;
        for (const size_t end = n - k < 256 ? n : k + 256; k < end; k++) {
            const double wk = get(w, (ptrdiff_t)k), xk = get(x, (ptrdiff_t)k);
            sum = is_double() ? fma(wk, xk, sum) : fmaf((float)wk, (float)xk, (float)sum);
        }
        total = is_double() ? total + sum : (float)total + (float)sum;
    }
    return total;
}

/* An array of `count` numbers, to be freed. */
static inline void *numbers(size_t count)
{
    void *p = malloc(count * width() + 1);
    CHECK(p, "%zu numbers", count);
    return p;
}

static inline void fill_with(void *to, size_t count, double value)
{
    for (size_t i = 0; i < count; i++)
        put(to, (ptrdiff_t)i, value);
}

static inline uint64_t digest(uint64_t hash, const void *y, size_t count)
{
    for (size_t i = 0; i < count; i++)
        hash = (hash ^ bits_at(y, (ptrdiff_t)i)) * 0x100000001b3; /* FNV-1a, word by word */
    return hash;
}

static inline long double sigma(long double z)
{
    return 1 / (1 + expl(-z));
}

#endif
