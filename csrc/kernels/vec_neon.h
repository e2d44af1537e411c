/* Vectors of 16 bytes: AArch64 NEON; and its dot products of bytes if it is compiled for them. */
#define FG_BYTES 16
#define FG_ACCUMULATORS 24
#include "vec.h"

#include <arm_neon.h>

FG_INLINE vr vr_select_negative(vr z, vr a, vr b) { return vr_select((vi)z < 0, a, b); }
FG_INLINE vr vr_min(vr a, vr b) { return vr_select(a < b, a, b); }

#ifdef FG_FLOAT64
FG_INLINE vr vr_fma(vr a, vr b, vr c)
{
    return (vr)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}
#define FG_TRANSPOSED 2
FG_INLINE void vr_transpose(vr *t, const real *from, ptrdiff_t stride) { transpose_lanes(t, from, stride, 2); }
#else
FG_INLINE vr vr_fma(vr a, vr b, vr c)
{
    return (vr)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
FG_INLINE vr vr_load_float16(const void *p) { return (vr)vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p))); }

#define FG_TRANSPOSED 4
FG_INLINE void vr_transpose(vr *t, const real *from, ptrdiff_t stride)
{
    const float32x4x2_t a = vtrnq_f32(vld1q_f32(from), vld1q_f32(from + stride));
    const float32x4x2_t b = vtrnq_f32(vld1q_f32(from + 2 * stride), vld1q_f32(from + 3 * stride));
    for (int i = 0; i < 2; i++) {
        t[i] = (vr)vcombine_f32(vget_low_f32(a.val[i]), vget_low_f32(b.val[i]));
        t[i + 2] = (vr)vcombine_f32(vget_high_f32(a.val[i]), vget_high_f32(b.val[i]));
    }
}

#ifdef __ARM_FEATURE_DOTPROD
#define FG_DOT_SUMS 2
#define FG_DOT_OFFSET 128 /* the instruction multiplies signed bytes */
FG_INLINE vi vi_dot(vi sum, vi weights, vi x)
{
    return (vi)vdotq_s32((int32x4_t)sum, (int8x16_t)weights, (int8x16_t)x);
}
#else
#define FG_DOT_SUMS 1
FG_INLINE vi vi_dot(vi sum, vi weights, vi x)
{
    const int32x4_t low = vmull_s16(vget_low_s16((int16x8_t)weights), vget_low_s16((int16x8_t)x));
    const int32x4_t high = vmull_high_s16((int16x8_t)weights, (int16x8_t)x);
    return (vi)vaddq_s32((int32x4_t)sum, vpaddq_s32(low, high));
}
#endif
#endif

FG_INLINE vr vr_accumulate(vr sum, vr w, vr x) { return vr_fma(w, x, sum); }
