/* Vectors for every machine, of 16 bytes unless FG_BYTES is defined: every operation is written lane by lane. */
#ifndef FG_BYTES
#define FG_BYTES 16
#endif
#include "vec.h"

/* Without an instruction for fma, each one is a call: tiles gain nothing then, and large ones would be much code. */
#if defined(__FMA__) || defined(__aarch64__) || defined(__FP_FAST_FMAF)
#define FG_ACCUMULATORS 24
#else
#define FG_ACCUMULATORS 4
#endif
#define FG_CALL static __attribute__((noinline)) /* inlined, code and stack frames of single lanes are large */

#if defined(FG_FLOAT64)
#define fma1 __builtin_fma /* without an instruction, a call of libm's fma, which is correctly rounded too */
#elif FG_ACCUMULATORS > 4
#define fma1 __builtin_fmaf
#else
/*
 * A correctly rounded fma for CPUs that have none.  The product of two floats is exact in double.  Its sum with c is
 * rounded to odd there, so that the rounding to float is the only one that counts (Boldo and Melquiond, Emulation of
 * FMA and correctly rounded sums, IEEE ToC 57(4), 2008).
 */
FG_INLINE float fma1(float a, float b, float c)
{
    double p = (double)a * b, s = p + c;
    double t = s - p, error = (p - (s - t)) + (c - t);
    if (error < 0 || error > 0) { /* neither exact nor NaN */
        uint64_t bits;
        memcpy(&bits, &s, sizeof bits);
        if (!(bits & 1)) {
            bits += (error > 0) == (s > 0) ? 1 : (uint64_t)-1;
            memcpy(&s, &bits, sizeof s);
        }
    }
    return (float)s;
}
#endif

FG_CALL vr vr_fma(vr a, vr b, vr c)
{
    vr r = {0};
    for (size_t i = 0; i < FG_LANES; i++)
        r[i] = fma1(a[i], b[i], c[i]);
    return r;
}

FG_INLINE vr vr_accumulate(vr sum, vr w, vr x) { return vr_fma(w, x, sum); }
FG_INLINE vr vr_min(vr a, vr b) { return vr_select(a < b, a, b); }
FG_INLINE vr vr_select_negative(vr z, vr a, vr b) { return vr_select((vi)z < 0, a, b); }
#define FG_TRANSPOSED 4
FG_INLINE void vr_transpose(vr *t, const real *from, ptrdiff_t stride) { transpose_lanes(t, from, stride, 4); }

#ifndef FG_FLOAT64
FG_CALL vr vr_load_float16(const void *p)
{
    uint16_t half[FG_LANES];
    vr v = {0};
    memcpy(half, p, sizeof half);
    for (size_t i = 0; i < FG_LANES; i++)
        v[i] = fg_from_float16(half[i]);
    return v;
}

#define FG_DOT_SUMS 1
FG_INLINE vi vi_dot(vi sum, vi weights, vi x)
{
    return sum + ((weights << 16) >> 16) * ((x << 16) >> 16) + (weights >> 16) * (x >> 16);
}
#endif
