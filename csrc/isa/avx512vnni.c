/* __x86_64__: -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512 -mavx512vnni */
#define FG_BYTES 64
#define FG_ISA avx512vnni
#include "../kernels.inc"
