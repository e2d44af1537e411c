#define FG_LANES 16
#define FG_ISA avx512
#include "../kernels.inc"
