#define FG_BYTES 64
#define FG_ISA avx512
#include "../kernels.inc"
