#define FG_BYTES 16
#define FG_ISA neondot
#include "../kernels.inc"
