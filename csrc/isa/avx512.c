/* __x86_64__: -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512 */
#define FG_BYTES 64
#define FG_ISA avx512
#include "../kernels.inc"
