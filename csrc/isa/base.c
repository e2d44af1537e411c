#define FG_BYTES 16
#define FG_ISA base
#include "../kernels.inc"
