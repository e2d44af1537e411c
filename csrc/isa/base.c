/* __STDC__: -Os */
/* for every machine; without fma it is slow whatever is done, and large */
#define FG_BYTES 16
#define FG_ISA base
#include "../kernels.inc"
