/* __x86_64__: -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mprefer-vector-width=512 */
#define FG_KERNELS fg_kernels_avx512vnni
#include "vec_avx512.h"
#define FG_INT8_ONLY
#include "kernels.inc"
