/* __aarch64__: -march=armv8.2-a+dotprod */
#define FG_BYTES 16
#define FG_ISA neondot
#include "../kernels.inc"
