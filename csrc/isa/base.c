#define FG_LANES 4
#define FG_ISA base
#include "../kernels.inc"
