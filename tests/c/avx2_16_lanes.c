/* The kernels at 16 lanes on AVX2: linked in place of isa/avx2.c, it tries the AVX-512 form of the
 * source on machines without AVX-512. */
#define FG_BYTES 64
#define FG_ISA avx2
#include "../../csrc/kernels.inc"
