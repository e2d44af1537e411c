/* __x86_64__: -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512 */
#define FG_FLOAT64
#define FG_KERNELS fg_kernels_avx512_f64
#include "vec_avx512.h"
#include "kernels.inc"
