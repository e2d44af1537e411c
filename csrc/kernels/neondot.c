/* __aarch64__: -march=armv8.2-a+dotprod */
#define FG_KERNELS fg_kernels_neondot
#include "vec_neon.h"
#define FG_INT8_ONLY
#include "kernels.inc"
