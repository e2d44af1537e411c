/* Weights into blocks of panels and back; kernels.h describes the packed form. */
#include "kernels.h"

/* order[i] = the input, of a span, that stands i-th in the order of summation */
static void order_of_summation(size_t *order, size_t span)
{
    for (size_t j = 0; j < 4; j++)
        for (size_t c = j; c < FG_CHAINS && c < span; c += 4)
            for (size_t input = c; input < span; input += FG_CHAINS)
                *order++ = input;
}

void fg_pack(float *packed, const fg_matrix *m)
{
    size_t order[FG_SPAN];
    for (size_t first = 0; first < m->rows; first += FG_BLOCK) {
        const size_t rows = m->rows - first < FG_BLOCK ? m->rows - first : FG_BLOCK;
        const size_t line = (rows + FG_PANEL - 1) / FG_PANEL * FG_PANEL;
        for (size_t r = 0; r < line; r++)
            *packed++ = m->bias && r < rows ? m->bias[first + r] : 0.0f;
        for (size_t k = 0; k < m->columns; k += FG_SPAN) {
            const size_t span = m->columns - k < FG_SPAN ? m->columns - k : FG_SPAN;
            order_of_summation(order, span);
            for (size_t i = 0; i < span; i++) {
                const float *column = m->weight + (ptrdiff_t)first * m->row_stride +
                                      (ptrdiff_t)(k + order[i]) * m->column_stride;
                for (size_t r = 0; r < line; r++)
                    *packed++ = r < rows ? column[(ptrdiff_t)r * m->row_stride] : 0.0f;
            }
        }
    }
}

void fg_unpack(const float *packed, size_t rows, size_t columns, float *weight, float *bias)
{
    size_t order[FG_SPAN];
    for (size_t first = 0; first < rows; first += FG_BLOCK) {
        const size_t here = rows - first < FG_BLOCK ? rows - first : FG_BLOCK;
        const size_t line = (here + FG_PANEL - 1) / FG_PANEL * FG_PANEL;
        for (size_t r = 0; r < here; r++)
            bias[first + r] = packed[r];
        packed += line;
        for (size_t k = 0; k < columns; k += FG_SPAN) {
            const size_t span = columns - k < FG_SPAN ? columns - k : FG_SPAN;
            order_of_summation(order, span);
            for (size_t i = 0; i < span; i++, packed += line)
                for (size_t r = 0; r < here; r++)
                    weight[(first + r) * columns + k + order[i]] = packed[r];
        }
    }
}
