#define FG_LANES 8
#define FG_ISA avx2
#include "../kernels.inc"
