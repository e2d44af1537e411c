#define FG_BYTES 32
#define FG_ISA avx2
#include "../kernels.inc"
