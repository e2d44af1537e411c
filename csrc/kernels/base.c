/* __STDC__: -Os */
#define FG_KERNELS fg_kernels_base
#include "vec_generic.h"
#include "kernels.inc"
