#define FG_LANES 4
#define FG_ISA neon
#include "../kernels.inc"
