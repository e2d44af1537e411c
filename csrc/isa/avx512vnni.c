#define FG_BYTES 64
#define FG_ISA avx512vnni
#include "../kernels.inc"
