/* FG_ISA(x, y, count): y = tanh(x), a multiple of 16 values, by the kernels' source and the flags of one ISA.  run.sh
 * takes FG_BYTES from csrc/isa, and calls FG_ISA tanh_avx2, say. */
#include "../../csrc/kernels.inc"

void FG_ISA(const float *x, float *y, int count)
{
    for (int i = 0; i < count; i += FG_LANES) {
        vr v = vr_load(x + i);
        activate(&v, 1, 1);
        vr_store(y + i, v);
    }
}
