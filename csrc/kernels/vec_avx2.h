/* Vectors of 32 bytes: AVX2, FMA and F16C. */
#define FG_BYTES 32
#define FG_ACCUMULATORS 12
#include "vec.h"

#include <immintrin.h>

#ifdef FG_FLOAT64
#define FG_FMA "vfmadd231pd %2, %1, %0"
FG_INLINE vr vr_fma(vr a, vr b, vr c) { return (vr)_mm256_fmadd_pd(a, b, c); }
FG_INLINE vr vr_min(vr a, vr b) { return (vr)_mm256_min_pd(a, b); }
FG_INLINE vr vr_select_negative(vr z, vr a, vr b) { return (vr)_mm256_blendv_pd(b, a, z); }
#define FG_TRANSPOSED 2
FG_INLINE void vr_transpose(vr *t, const real *from, ptrdiff_t stride)
{
    __m256d v[2];
    for (int j = 0; j < 2; j++)
        v[j] = _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(from + j * stride)),
                                    _mm_loadu_pd(from + (j + 2) * stride), 1);
    t[0] = (vr)_mm256_unpacklo_pd(v[0], v[1]);
    t[1] = (vr)_mm256_unpackhi_pd(v[0], v[1]);
}
#else
#define FG_FMA "vfmadd231ps %2, %1, %0"
FG_INLINE vr vr_fma(vr a, vr b, vr c) { return (vr)_mm256_fmadd_ps(a, b, c); }
FG_INLINE vr vr_min(vr a, vr b) { return (vr)_mm256_min_ps(a, b); }
FG_INLINE vr vr_select_negative(vr z, vr a, vr b) { return (vr)_mm256_blendv_ps(b, a, z); }
FG_INLINE vr vr_load_float16(const void *p) { return (vr)_mm256_cvtph_ps(_mm_loadu_si128(p)); }

/* Loads of 128 bits put each row where the shuffles within 128 bits need it: a load costs less than another shuffle. */
#define FG_TRANSPOSED 4
FG_INLINE void vr_transpose(vr *t, const real *from, ptrdiff_t stride)
{
    __m256 v[4];
    const real *high = from + 4 * stride;
    __asm__("" : "+r"(from), "+r"(high)); /* keeps gcc from holding an address in a register for each row */
    for (int j = 0; j < 4; j++)
        v[j] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(from + j * stride)),
                                    _mm_loadu_ps(high + j * stride), 1);
    const __m256d a = (__m256d)_mm256_unpacklo_ps(v[0], v[1]), b = (__m256d)_mm256_unpacklo_ps(v[2], v[3]);
    const __m256d c = (__m256d)_mm256_unpackhi_ps(v[0], v[1]), d = (__m256d)_mm256_unpackhi_ps(v[2], v[3]);
    t[0] = (vr)_mm256_unpacklo_pd(a, b);
    t[1] = (vr)_mm256_unpackhi_pd(a, b);
    t[2] = (vr)_mm256_unpacklo_pd(c, d);
    t[3] = (vr)_mm256_unpackhi_pd(c, d);
}

#define FG_DOT_SUMS 1
FG_INLINE vi vi_dot(vi sum, vi weights, vi x)
{
    vi products; /* inline assembly, because gcc adds two products first and then has too few registers for sums */
    __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(products) : "x"(weights), "x"(x));
    return sum;
}
#endif

/* Inline assembly keeps the sum in its register and the fmas in the order of the source.  Without it, compilers do
 * neither, and reach 0.92 of the FMA peak instead of 0.99. */
FG_INLINE vr vr_accumulate(vr sum, vr w, vr x)
{
    __asm__(FG_FMA : "+x"(sum) : "x"(x), "x"(w)); /* if w could be in memory, clang would store every w */
    return sum;
}
