/*
 * The vector types and the operations that the kernels use: FG_LANES lanes of `real`, float or, with
 * FG_FLOAT64, double, in vectors of FG_BYTES, which the shims in isa/ set.  + - * / & | ~ << and
 * comparisons are the compiler's own, lane by lane.
 * Compile with -ffp-contract=off: where a product and a sum are to be fused, the source says fma.
 */
#ifndef FASTGATE_VEC_H
#define FASTGATE_VEC_H

#include <float.h>
#include <stdint.h>
#include <string.h>

#if defined(__FAST_MATH__) || FLT_EVAL_METHOD != 0
#error "needs IEEE float32 arithmetic: no -ffast-math, and on i386 -msse2 -mfpmath=sse"
#endif

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifdef FG_FLOAT64
#define FG_REAL_BYTES 8
typedef double real;
typedef int64_t integer;
typedef uint64_t natural;
#else
#define FG_REAL_BYTES 4
typedef float real;
typedef int32_t integer;
typedef uint32_t natural;
#endif
#define FG_LANES (FG_BYTES / FG_REAL_BYTES)

typedef real vr __attribute__((vector_size(FG_BYTES)));
typedef integer vi __attribute__((vector_size(FG_BYTES)));
typedef natural vu __attribute__((vector_size(FG_BYTES)));

#define FG_INLINE static inline __attribute__((always_inline))

FG_INLINE vr vr_load(const real *p)
{
    vr v;
    memcpy(&v, p, sizeof v);
    return v;
}

FG_INLINE void vr_store(real *p, vr v)
{
    memcpy(p, &v, sizeof v);
}

/* Compilers turn a loop over the lanes into a broadcast or an fma on some widths only. */
FG_INLINE vr vr_set1(real s)
{
#if FG_BYTES == 64 && defined(__AVX512F__)
    return (vr)_mm512_set1_ps(s);
#elif FG_BYTES == 32 && defined(__AVX2__)
    return (vr)_mm256_set1_ps(s);
#elif FG_BYTES == 16 && defined(__aarch64__)
    return (vr)vdupq_n_f32(s);
#else
    vr v = {0};
    for (int i = 0; i < FG_LANES; i++)
        v[i] = s;
    return v;
#endif
}

/* mask ? a : b, the lanes of mask being 0 or -1 */
FG_INLINE vr vr_select(vi mask, vr a, vr b)
{
    return (vr)((mask & (vi)a) | (~mask & (vi)b));
}

/* a < b ? a : b, so b where either is NaN */
FG_INLINE vr vr_min(vr a, vr b)
{
#if FG_BYTES == 64 && defined(__AVX512F__)
    return (vr)_mm512_min_ps((__m512)a, (__m512)b);
#elif FG_BYTES == 32 && defined(__AVX2__)
    return (vr)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return vr_select(a < b, a, b);
#endif
}

#if !defined(__FMA__) && !defined(__aarch64__) && !defined(__FP_FAST_FMAF)
/*
 * Correctly rounded fma where the CPU has none.  The product of two float32 is exact in float64;
 * its sum with c is rounded to odd there, after which rounding to float32 is the only rounding
 * (Boldo and Melquiond, Emulation of FMA and correctly rounded sums, IEEE ToC 57(4), 2008).
 */
FG_INLINE float fg_fma1(float a, float b, float c)
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
#define FG_FMA_INLINE static __attribute__((noinline)) /* 200 times the code otherwise */
#else
#define fg_fma1 __builtin_fmaf
#define FG_FMA_INLINE FG_INLINE
#endif

/* a * b + c, rounded once */
FG_FMA_INLINE vr vr_fma(vr a, vr b, vr c)
{
#if FG_BYTES == 64 && defined(__AVX512F__)
    return (vr)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif FG_BYTES == 32 && defined(__FMA__)
    return (vr)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif FG_BYTES == 16 && defined(__aarch64__)
    return (vr)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    vr r = {0};
    for (int i = 0; i < FG_LANES; i++)
        r[i] = fg_fma1(a[i], b[i], c[i]);
    return r;
#endif
}

/* The columns that vr_transpose takes at once, as registers allow. */
#if FG_BYTES == 64 && defined(__AVX512F__)
#define FG_TILE 16
#else
#define FG_TILE 4
#endif

/*
 * t[k][r] = from[r * row_stride + k] for r < FG_LANES, k < FG_TILE.  128-bit loads feed 4 x 4
 * transposes within 128 bits; unlike a shuffle across them, such a load costs no shuffle.
 */
FG_INLINE void vr_transpose(vr *t, const float *from, ptrdiff_t row_stride)
{
#if FG_BYTES == 64 && defined(__AVX512F__)
    __m512 v[4][4];
    const float *r0 = from, *r4 = r0 + 4 * row_stride, *r8 = r4 + 4 * row_stride,
                *r12 = r8 + 4 * row_stride;
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
#pragma GCC unroll 4
        for (int q = 0; q < 4; q++)
            v[q][j] = _mm512_castps128_ps512(_mm_loadu_ps(r0 + 4 * q));
#pragma GCC unroll 4
        for (int q = 0; q < 4; q++)
            v[q][j] = _mm512_insertf32x4(v[q][j], _mm_loadu_ps(r4 + 4 * q), 1);
#pragma GCC unroll 4
        for (int q = 0; q < 4; q++)
            v[q][j] = _mm512_insertf32x4(v[q][j], _mm_loadu_ps(r8 + 4 * q), 2);
#pragma GCC unroll 4
        for (int q = 0; q < 4; q++)
            v[q][j] = _mm512_insertf32x4(v[q][j], _mm_loadu_ps(r12 + 4 * q), 3);
        r0 += row_stride, r4 += row_stride, r8 += row_stride, r12 += row_stride;
        __asm__("" : "+r"(r0), "+r"(r4), "+r"(r8), "+r"(r12)); /* or gcc spills 64 addresses */
    }
#pragma GCC unroll 4
    for (int q = 0; q < 4; q++) {
        __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(v[q][0], v[q][1]));
        __m512d b = _mm512_castps_pd(_mm512_unpacklo_ps(v[q][2], v[q][3]));
        __m512d c = _mm512_castps_pd(_mm512_unpackhi_ps(v[q][0], v[q][1]));
        __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(v[q][2], v[q][3]));
        t[4 * q] = (vr)_mm512_unpacklo_pd(a, b);
        t[4 * q + 1] = (vr)_mm512_unpackhi_pd(a, b);
        t[4 * q + 2] = (vr)_mm512_unpacklo_pd(c, d);
        t[4 * q + 3] = (vr)_mm512_unpackhi_pd(c, d);
    }
#elif FG_BYTES == 32 && defined(__AVX2__)
    __m256 v[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++)
        v[j] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(from + j * row_stride)),
                                    _mm_loadu_ps(from + (j + 4) * row_stride), 1);
    __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(v[0], v[1]));
    __m256d b = _mm256_castps_pd(_mm256_unpacklo_ps(v[2], v[3]));
    __m256d c = _mm256_castps_pd(_mm256_unpackhi_ps(v[0], v[1]));
    __m256d d = _mm256_castps_pd(_mm256_unpackhi_ps(v[2], v[3]));
    t[0] = (vr)_mm256_unpacklo_pd(a, b);
    t[1] = (vr)_mm256_unpackhi_pd(a, b);
    t[2] = (vr)_mm256_unpacklo_pd(c, d);
    t[3] = (vr)_mm256_unpackhi_pd(c, d);
#elif FG_BYTES == 16 && defined(__aarch64__)
    const float32x4x2_t ab = vtrnq_f32(vld1q_f32(from), vld1q_f32(from + row_stride));
    const float32x4x2_t cd =
        vtrnq_f32(vld1q_f32(from + 2 * row_stride), vld1q_f32(from + 3 * row_stride));
    t[0] = (vr)vcombine_f32(vget_low_f32(ab.val[0]), vget_low_f32(cd.val[0]));
    t[1] = (vr)vcombine_f32(vget_low_f32(ab.val[1]), vget_low_f32(cd.val[1]));
    t[2] = (vr)vcombine_f32(vget_high_f32(ab.val[0]), vget_high_f32(cd.val[0]));
    t[3] = (vr)vcombine_f32(vget_high_f32(ab.val[1]), vget_high_f32(cd.val[1]));
#else
    float lines[FG_TILE][FG_LANES];
    for (size_t r = 0; r < FG_LANES; r++)
        for (size_t k = 0; k < FG_TILE; k++)
            lines[k][r] = from[(ptrdiff_t)r * row_stride + (ptrdiff_t)k];
    memcpy(t, lines, sizeof lines);
#endif
}

#endif
