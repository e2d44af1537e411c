/* __aarch64__: */
#define FG_KERNELS fg_kernels_neon
#include "vec_neon.h"
#include "kernels.inc"
