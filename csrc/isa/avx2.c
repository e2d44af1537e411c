/* __x86_64__: -mavx2 -mfma -mf16c */
#define FG_BYTES 32
#define FG_ISA avx2
#include "../kernels.inc"
