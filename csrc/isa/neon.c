/* __aarch64__: */
#define FG_BYTES 16
#define FG_ISA neon
#include "../kernels.inc"
