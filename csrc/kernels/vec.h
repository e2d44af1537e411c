/*
 * What the vec headers share: the types of vectors of FG_BYTES bytes, and the operations for which every compiler finds
 * the instruction.  `real` is float or, with FG_FLOAT64, double.  + - * / & | ~ << >> and comparisons are the
 * compiler's own, lane by lane.  Compile with -ffp-contract=off: the source says fma where products and sums are fused.
 *
 * The vec header of an instruction set adds:
 *
 *     FG_ACCUMULATORS     the number of registers for the accumulators of a tile; the others hold weights and x
 *     vr_fma              a * b + c, rounded once
 *     vr_accumulate       sum + w * x, rounded once, for a sum that stays in its register
 *     vr_min              a < b ? a : b, which is b if either is NaN
 *     vr_select_negative  a where the sign bit of z is set, else b
 *     vr_transpose        t[k][r] = from[r * stride + k] for r < FG_LANES and k < FG_TRANSPOSED.  A header without it
 *                         has no kernel for fastgate_gate_once.
 *     vr_load_float16     FG_LANES numbers of 16 bits, converted to float
 *     vi_dot              sum + the products of weights and x, whose lanes hold pairs of 16-bit integers or, if
 *                         FG_DOT_SUMS is 2, four bytes: see int8.inc
 */
#include "../half.h"

#include <float.h>
#include <stddef.h>

#if defined(__FAST_MATH__) || FLT_EVAL_METHOD != 0
#error "needs IEEE arithmetic: no -ffast-math, and on i386 -msse2 -mfpmath=sse"
#endif

#ifdef FG_FLOAT64
typedef double real;
typedef int64_t integer;
typedef uint64_t natural;
#define FG_REAL_DIGITS DBL_MANT_DIG
#else
typedef float real;
typedef int32_t integer;
typedef uint32_t natural;
#define FG_REAL_DIGITS FLT_MANT_DIG
#endif
#define FG_LANES (FG_BYTES / sizeof(real))

typedef real vr __attribute__((vector_size(FG_BYTES)));
typedef integer vi __attribute__((vector_size(FG_BYTES)));
typedef natural vu __attribute__((vector_size(FG_BYTES)));

#define FG_INLINE static inline __attribute__((always_inline))

FG_INLINE vr vr_load(const void *p)
{
    vr v;
    memcpy(&v, p, sizeof v);
    return v;
}

FG_INLINE void vr_store(void *p, vr v) { memcpy(p, &v, sizeof v); }

FG_INLINE vr vr_set1(real s) { return s - (vr){0}; } /* s - 0 is s, also for -0 and NaN */

/* a where mask is -1, b where it is 0 */
FG_INLINE vr vr_select(vi mask, vr a, vr b) { return (vr)((mask & (vi)a) | (~mask & (vi)b)); }

/* vr_transpose lane by lane, for headers that have no faster one */
FG_INLINE void transpose_lanes(vr *t, const real *from, ptrdiff_t stride, size_t columns)
{
    for (size_t k = 0; k < columns; k++) {
        vr column = {0};
        for (size_t r = 0; r < FG_LANES; r++)
            column[r] = from[(ptrdiff_t)r * stride + (ptrdiff_t)k];
        t[k] = column;
    }
}
