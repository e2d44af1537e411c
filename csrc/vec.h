/*
 * The vector types and the operations that the kernels use: FG_LANES lanes of `real`, float or, with
 * FG_FLOAT64, double, in vectors of FG_BYTES, which the shims in isa/ set.  + - * / & | ~ << and
 * comparisons are the compiler's own, lane by lane.
 * Compile with -ffp-contract=off: where a product and a sum are to be fused, the source says fma.
 */
#ifndef FASTGATE_VEC_H
#define FASTGATE_VEC_H

#include <float.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__FAST_MATH__) || FLT_EVAL_METHOD != 0
#error "needs IEEE arithmetic: no -ffast-math, and on i386 -msse2 -mfpmath=sse"
#endif

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifdef FG_FLOAT64
#define FG_REAL_BYTES 8
#define FG_REAL_DIGITS DBL_MANT_DIG
#define FG_REAL_OP(op) op##_pd
typedef double real;
typedef int64_t integer;
typedef uint64_t natural;
#else
#define FG_REAL_BYTES 4
#define FG_REAL_DIGITS FLT_MANT_DIG
#define FG_REAL_OP(op) op##_ps
typedef float real;
typedef int32_t integer;
typedef uint32_t natural;
#endif
#define FG_LANES (FG_BYTES / FG_REAL_BYTES)

typedef real vr __attribute__((vector_size(FG_BYTES)));
typedef integer vi __attribute__((vector_size(FG_BYTES)));
typedef natural vu __attribute__((vector_size(FG_BYTES)));

/*
 * FG_X86(op), say, is _mm512_op_ps, as the vectors are; FG_NEON(op), vopq_f32.  Where neither is defined,
 * there are no intrinsics.
 */
#if FG_BYTES == 64 && defined(__AVX512DQ__)
#define FG_MM(op) _mm512_##op
#define FG_X86(op) FG_REAL_OP(_mm512_##op)
#elif FG_BYTES == 32 && defined(__AVX2__)
#define FG_MM(op) _mm256_##op
#define FG_X86(op) FG_REAL_OP(_mm256_##op)
#elif FG_BYTES == 16 && defined(__aarch64__) && defined(FG_FLOAT64)
#define FG_NEON(op) v##op##_f64
typedef float64x2_t neon;
#elif FG_BYTES == 16 && defined(__aarch64__)
#define FG_NEON(op) v##op##_f32
typedef float32x4_t neon;
#endif

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
#if defined(FG_X86)
    return (vr)FG_X86(set1)(s);
#elif defined(FG_NEON)
    return (vr)FG_NEON(dupq_n)(s);
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

/* z's sign bit ? a : b;  compilers do not find these instructions */
FG_INLINE vr vr_select_negative(vr z, vr a, vr b)
{
#if defined(FG_X86) && FG_BYTES == 64
#ifdef FG_FLOAT64
    const __mmask8 negative = _mm512_movepi64_mask((__m512i)z);
#else
    const __mmask16 negative = _mm512_movepi32_mask((__m512i)z);
#endif
    return (vr)FG_X86(mask_blend)(negative, b, a);
#elif defined(FG_X86)
    return (vr)FG_X86(blendv)(b, a, z);
#else
    return vr_select((vi)z < 0, a, b);
#endif
}

/* 1 / v.  The division of 64 bytes takes as long as three of 32, where these are there. */
FG_INLINE vr vr_inverse(vr v)
{
#if defined(FG_X86) && FG_BYTES == 64 && !defined(FG_FLOAT64)
    const __m256 one = _mm256_set1_ps(1);
    const __m256 low = _mm256_div_ps(one, _mm512_castps512_ps256((__m512)v));
    const __m256 high = _mm256_div_ps(one, _mm512_extractf32x8_ps((__m512)v, 1));
    return (vr)_mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
#else
    return 1 / v;
#endif
}

/* a < b ? a : b, so b where either is NaN */
FG_INLINE vr vr_min(vr a, vr b)
{
#if defined(FG_X86)
    return (vr)FG_X86(min)(a, b);
#else
    return vr_select(a < b, a, b);
#endif
}

#if defined(__FMA__) || defined(__aarch64__) || defined(__FP_FAST_FMAF)
#define FG_FMA_INLINE FG_INLINE
#else
#define FG_NO_FMA
#define FG_FMA_INLINE static __attribute__((noinline)) /* 200 times the code otherwise */
#endif

#if defined(FG_FLOAT64)
#define fg_fma1 __builtin_fma /* without FMA a call of libm's, which is correctly rounded too */
#elif !defined(FG_NO_FMA)
#define fg_fma1 __builtin_fmaf
#else
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
#endif

/* a * b + c, rounded once */
FG_FMA_INLINE vr vr_fma(vr a, vr b, vr c)
{
#if defined(FG_X86) && (FG_BYTES == 64 || !defined(FG_NO_FMA))
    return (vr)FG_X86(fmadd)(a, b, c);
#elif defined(FG_NEON)
    return (vr)FG_NEON(fmaq)((neon)c, (neon)a, (neon)b);
#else
    vr r = {0};
    for (int i = 0; i < FG_LANES; i++)
        r[i] = fg_fma1(a[i], b[i], c[i]);
    return r;
#endif
}

/* The columns that vr_transpose takes at once, as registers allow: a multiple of 4, divisor of 16. */
#if defined(FG_X86) && FG_BYTES == 64
#define FG_TILE FG_LANES
#else
#define FG_TILE 4
#endif

#ifdef FG_X86
#define FG_PART (16 / FG_REAL_BYTES) /* reals in 128 bits */
#ifdef FG_FLOAT64
#define FG_WIDEN(bits) _mm##bits##_castpd128_pd##bits
#define FG_INSERT _mm512_insertf64x2
#else
#define FG_WIDEN(bits) _mm##bits##_castps128_ps##bits
#define FG_INSERT _mm512_insertf32x4
#endif

/* Within each 128 bits, t[i][j] = v[j][i] for i, j < FG_PART. */
FG_INLINE void transpose_parts(vr *t, const vr *v)
{
#ifdef FG_FLOAT64
    t[0] = FG_X86(unpacklo)(v[0], v[1]);
    t[1] = FG_X86(unpackhi)(v[0], v[1]);
#else
    typedef double pairs __attribute__((vector_size(FG_BYTES)));
    const pairs a = (pairs)FG_X86(unpacklo)(v[0], v[1]), b = (pairs)FG_X86(unpacklo)(v[2], v[3]);
    const pairs c = (pairs)FG_X86(unpackhi)(v[0], v[1]), d = (pairs)FG_X86(unpackhi)(v[2], v[3]);
    t[0] = (vr)FG_MM(unpacklo_pd)(a, b);
    t[1] = (vr)FG_MM(unpackhi_pd)(a, b);
    t[2] = (vr)FG_MM(unpacklo_pd)(c, d);
    t[3] = (vr)FG_MM(unpackhi_pd)(c, d);
#endif
}
#endif

/*
 * t[k][r] = from[r * row_stride + k] for r < FG_LANES, k < FG_TILE.  128-bit loads feed transposes within
 * 128 bits; unlike a shuffle across them, such a load costs no shuffle.
 */
FG_INLINE void vr_transpose(vr *t, const real *from, ptrdiff_t row_stride)
{
#if defined(FG_X86) && FG_BYTES == 64
    vr v[FG_TILE / FG_PART][FG_PART];
    const real *r0 = from, *r1 = r0 + FG_PART * row_stride, *r2 = r1 + FG_PART * row_stride,
               *r3 = r2 + FG_PART * row_stride;
#pragma GCC unroll 4
    for (int j = 0; j < FG_PART; j++) {
#pragma GCC unroll 4
        for (int q = 0; q < FG_TILE / FG_PART; q++)
            v[q][j] = FG_WIDEN(512)(FG_REAL_OP(_mm_loadu)(r0 + FG_PART * q));
#pragma GCC unroll 4
        for (int q = 0; q < FG_TILE / FG_PART; q++)
            v[q][j] = FG_INSERT(v[q][j], FG_REAL_OP(_mm_loadu)(r1 + FG_PART * q), 1);
#pragma GCC unroll 4
        for (int q = 0; q < FG_TILE / FG_PART; q++)
            v[q][j] = FG_INSERT(v[q][j], FG_REAL_OP(_mm_loadu)(r2 + FG_PART * q), 2);
#pragma GCC unroll 4
        for (int q = 0; q < FG_TILE / FG_PART; q++)
            v[q][j] = FG_INSERT(v[q][j], FG_REAL_OP(_mm_loadu)(r3 + FG_PART * q), 3);
        r0 += row_stride, r1 += row_stride, r2 += row_stride, r3 += row_stride;
        __asm__("" : "+r"(r0), "+r"(r1), "+r"(r2), "+r"(r3)); /* or gcc spills 64 addresses */
    }
#pragma GCC unroll 4
    for (int q = 0; q < FG_TILE / FG_PART; q++)
        transpose_parts(t + FG_PART * q, v[q]);
#elif defined(FG_X86)
    vr v[FG_PART];
#pragma GCC unroll 2
    for (int q = 0; q < FG_TILE; q += FG_PART) {
#pragma GCC unroll 4
        for (int j = 0; j < FG_PART; j++)
            v[j] = FG_X86(insertf128)(
                FG_WIDEN(256)(FG_REAL_OP(_mm_loadu)(from + q + j * row_stride)),
                FG_REAL_OP(_mm_loadu)(from + q + (j + FG_PART) * row_stride), 1);
        transpose_parts(t + q, v);
    }
#elif defined(FG_NEON) && defined(FG_FLOAT64)
    for (int q = 0; q < FG_TILE; q += 2) {
        const float64x2_t a = vld1q_f64(from + q), b = vld1q_f64(from + q + row_stride);
        t[q] = (vr)vtrn1q_f64(a, b);
        t[q + 1] = (vr)vtrn2q_f64(a, b);
    }
#elif defined(FG_NEON)
    const float32x4x2_t ab = vtrnq_f32(vld1q_f32(from), vld1q_f32(from + row_stride));
    const float32x4x2_t cd =
        vtrnq_f32(vld1q_f32(from + 2 * row_stride), vld1q_f32(from + 3 * row_stride));
    t[0] = (vr)vcombine_f32(vget_low_f32(ab.val[0]), vget_low_f32(cd.val[0]));
    t[1] = (vr)vcombine_f32(vget_low_f32(ab.val[1]), vget_low_f32(cd.val[1]));
    t[2] = (vr)vcombine_f32(vget_high_f32(ab.val[0]), vget_high_f32(cd.val[0]));
    t[3] = (vr)vcombine_f32(vget_high_f32(ab.val[1]), vget_high_f32(cd.val[1]));
#else
    real lines[FG_TILE][FG_LANES];
    for (size_t r = 0; r < FG_LANES; r++)
        for (size_t k = 0; k < FG_TILE; k++)
            lines[k][r] = from[(ptrdiff_t)r * row_stride + (ptrdiff_t)k];
    memcpy(t, lines, sizeof lines);
#endif
}

#endif
