/* __x86_64__: -mavx2 -mfma -mf16c */
#define FG_FLOAT64
#define FG_KERNELS fg_kernels_avx2_f64
#include "vec_avx2.h"
#include "kernels.inc"
