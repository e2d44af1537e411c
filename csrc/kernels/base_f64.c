/* __STDC__: -Os */
#define FG_FLOAT64
#define FG_KERNELS fg_kernels_base_f64
#include "vec_generic.h"
#include "kernels.inc"
