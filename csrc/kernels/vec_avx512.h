/* Vectors of 64 bytes: AVX-512 F, BW, DQ and VL; and VNNI's dot products of bytes if it is compiled for VNNI. */
#define FG_BYTES 64
#define FG_ACCUMULATORS 24
#include "vec.h"

#include <immintrin.h>

#ifdef FG_FLOAT64
#define FG_FMA "vfmadd231pd %2, %1, %0"
#define FG_SIGNS(z) _mm512_movepi64_mask((__m512i)(z))
FG_INLINE vr vr_fma(vr a, vr b, vr c) { return (vr)_mm512_fmadd_pd(a, b, c); }
FG_INLINE vr vr_min(vr a, vr b) { return (vr)_mm512_min_pd(a, b); }
FG_INLINE vr vr_select_negative(vr z, vr a, vr b) { return (vr)_mm512_mask_blend_pd(FG_SIGNS(z), b, a); }
#else
#define FG_FMA "vfmadd231ps %2, %1, %0"
#define FG_SIGNS(z) _mm512_movepi32_mask((__m512i)(z))
FG_INLINE vr vr_fma(vr a, vr b, vr c) { return (vr)_mm512_fmadd_ps(a, b, c); }
FG_INLINE vr vr_min(vr a, vr b) { return (vr)_mm512_min_ps(a, b); }
FG_INLINE vr vr_select_negative(vr z, vr a, vr b) { return (vr)_mm512_mask_blend_ps(FG_SIGNS(z), b, a); }

/* In two halves, because CPUs that execute vectors of 64 bytes as two halves take longer to convert a whole one. */
FG_INLINE vr vr_load_float16(const void *p)
{
    const __m256 low = _mm256_cvtph_ps(_mm_loadu_si128(p));
    const __m256 high = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p + 1));
    return (vr)_mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}

#ifdef __AVX512VNNI__
#define FG_DOT_SUMS 2
#define FG_DOT_OFFSET 0 /* the instruction multiplies unsigned bytes of x and signed weights */
FG_INLINE vi vi_dot(vi sum, vi weights, vi x)
{
    return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)weights);
}
#else
#define FG_DOT_SUMS 1
FG_INLINE vi vi_dot(vi sum, vi weights, vi x) /* see vec_avx2.h */
{
    vi products;
    __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+v"(sum), "=&v"(products) : "v"(weights), "v"(x));
    return sum;
}
#endif
#endif

FG_INLINE vr vr_accumulate(vr sum, vr w, vr x) /* see vec_avx2.h */
{
    __asm__(FG_FMA : "+v"(sum) : "v"(x), "v"(w));
    return sum;
}
