/* __aarch64__: */
#define FG_FLOAT64
#define FG_KERNELS fg_kernels_neon_f64
#include "vec_neon.h"
#include "kernels.inc"
