/* Vectors of 64 bytes, by AVX-512 F, BW, DQ and VL; byte dot products where VNNI is compiled for. */
#define FG_BYTES 64
#define FG_SUMS 24 /* accumulators of a tile: of 32 registers, less those for weights and x */
#include "vec.h"

#include <immintrin.h>

#ifdef FG_FLOAT64
#define FG_FMA231 "vfmadd231pd"
#else
#define FG_FMA231 "vfmadd231ps"
#endif

/* sum + w * x, rounded once.  As vr_fma, for sums in registers: the statement keeps a sum in its register, and the
 * products in the order of the source, which compilers left to themselves do not; 0.99 of the FMA peak, not 0.92. */
FG_INLINE vr vr_accumulate(vr sum, vr w, vr x)
{
    __asm__ volatile(FG_FMA231 " %2, %1, %0" : "+v"(sum) : "v"(x), "vm"(w));
    return sum;
}

#ifdef FG_FLOAT64
FG_INLINE vr vr_fma(vr a, vr b, vr c)
{
    return (vr)_mm512_fmadd_pd(a, b, c);
}

FG_INLINE vr vr_min(vr a, vr b)
{
    return (vr)_mm512_min_pd(a, b);
}

FG_INLINE vr vr_select_negative(vr z, vr a, vr b)
{
    return (vr)_mm512_mask_blend_pd(_mm512_movepi64_mask((__m512i)z), b, a);
}

#define FG_TRANSPOSED 2

FG_INLINE void vr_transpose(vr *t, const real *from, ptrdiff_t stride)
{
    __m512d v[2];
    for (int j = 0; j < 2; j++) {
        v[j] = _mm512_castpd128_pd512(_mm_loadu_pd(from + j * stride));
        v[j] = _mm512_insertf64x2(v[j], _mm_loadu_pd(from + (j + 2) * stride), 1);
        v[j] = _mm512_insertf64x2(v[j], _mm_loadu_pd(from + (j + 4) * stride), 2);
        v[j] = _mm512_insertf64x2(v[j], _mm_loadu_pd(from + (j + 6) * stride), 3);
    }
    t[0] = (vr)_mm512_unpacklo_pd(v[0], v[1]);
    t[1] = (vr)_mm512_unpackhi_pd(v[0], v[1]);
}
#else
FG_INLINE vr vr_fma(vr a, vr b, vr c)
{
    return (vr)_mm512_fmadd_ps(a, b, c);
}

FG_INLINE vr vr_min(vr a, vr b)
{
    return (vr)_mm512_min_ps(a, b);
}

FG_INLINE vr vr_select_negative(vr z, vr a, vr b)
{
    return (vr)_mm512_mask_blend_ps(_mm512_movepi32_mask((__m512i)z), b, a);
}

FG_INLINE vr vr_load_float16(const void *p)
{
#ifdef F16A
    const __m256 low = _mm256_cvtph_ps(_mm_loadu_si128(p)), high = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p + 1));
    return (vr)_mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
#else
    return (vr)_mm512_cvtph_ps(_mm256_loadu_si256(p));
#endif
}

FG_INLINE vr vr_load_bfloat16(const void *p)
{
    return (vr)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16);
}

#define FG_TRANSPOSED 4

FG_INLINE void vr_transpose(vr *t, const real *from, ptrdiff_t stride)
{
    __m512 v[4];
    for (int j = 0; j < 4; j++) {
        v[j] = _mm512_castps128_ps512(_mm_loadu_ps(from + j * stride));
        v[j] = _mm512_insertf32x4(v[j], _mm_loadu_ps(from + (j + 4) * stride), 1);
        v[j] = _mm512_insertf32x4(v[j], _mm_loadu_ps(from + (j + 8) * stride), 2);
        v[j] = _mm512_insertf32x4(v[j], _mm_loadu_ps(from + (j + 12) * stride), 3);
    }
    const __m512d a = (__m512d)_mm512_unpacklo_ps(v[0], v[1]), b = (__m512d)_mm512_unpacklo_ps(v[2], v[3]);
    const __m512d c = (__m512d)_mm512_unpackhi_ps(v[0], v[1]), d = (__m512d)_mm512_unpackhi_ps(v[2], v[3]);
    t[0] = (vr)_mm512_unpacklo_pd(a, b);
    t[1] = (vr)_mm512_unpackhi_pd(a, b);
    t[2] = (vr)_mm512_unpacklo_pd(c, d);
    t[3] = (vr)_mm512_unpackhi_pd(c, d);
}

#ifdef __AVX512VNNI__
#define FG_DOT_SUMS 2
#define FG_DOT_OFFSET 0 /* of unsigned and signed bytes */

FG_INLINE vi vi_dot(vi sum, vi weights, vi x)
{
    return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)weights);
}
#else
#define FG_DOT_SUMS 1

FG_INLINE vi vi_dot(vi sum, vi weights, vi x)
{
    vi products; /* a statement, or gcc adds two of them first, and has no registers left for sums */
    __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+v"(sum), "=&v"(products) : "v"(weights), "v"(x));
    return sum;
}
#endif
#endif
