/* Weights into blocks of panels and back; kernels.h describes the packed form. */
#include "half.h"
#include "kernels.h"

#define MOST_ROWS (FG_PANELS * FG_LINE / sizeof(float)) /* in a block */
#define LONGEST_SPAN (FG_SPAN_BYTES / sizeof(float))

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* order[i] = the input, of a span, that stands i-th in the order of summation */
static void order_of_summation(size_t *order, size_t span, size_t chains)
{
    for (size_t j = 0; j < 4; j++)
        for (size_t c = j; c < chains && c < span; c += 4)
            for (size_t input = c; input < span; input += chains)
                *order++ = input;
}

/* a[index] of an array of the type in which the gate is given; no float changes as a double */
static double element(const void *a, fastgate_storage storage, ptrdiff_t index)
{
    return storage == FASTGATE_FLOAT64 ? ((const double *)a)[index] : ((const float *)a)[index];
}

static void set_element(void *a, fastgate_storage storage, size_t index, double value)
{
    if (storage == FASTGATE_FLOAT64)
        ((double *)a)[index] = value;
    else
        ((float *)a)[index] = (float)value;
}

/* Where row r of a block stands in a line of 16-bit weights. */
static size_t place(fastgate_storage storage, size_t r)
{
    if (storage != FASTGATE_BFLOAT16)
        return r;
    return r / 16 * 16 + r % 8 * 2 + r % 16 / 8;
}

/* One input's weights, of `rows` rows; whether they all fit. */
static int store_line(char *line, fastgate_storage storage, const double *weights, size_t rows)
{
    int fits = 1;
    for (size_t r = 0; r < rows; r++) {
        if (storage == FASTGATE_FLOAT32 || storage == FASTGATE_FLOAT64) {
            set_element(line, storage, r, weights[r]);
            continue;
        }
        const float w = (float)weights[r];
        const int wide = storage == FASTGATE_FLOAT16;
        const uint16_t half = wide ? fg_to_float16(w) : fg_to_bfloat16(w);
        fits &= !isfinite(w) || isfinite(wide ? fg_from_float16(half) : fg_from_bfloat16(half));
        memcpy(line + 2 * place(storage, r), &half, sizeof half);
    }
    return fits;
}

static void load_line(double *weights, fastgate_storage storage, const char *line, size_t rows)
{
    for (size_t r = 0; r < rows; r++) {
        uint16_t half;
        if (storage == FASTGATE_FLOAT32 || storage == FASTGATE_FLOAT64) {
            weights[r] = element(line, storage, (ptrdiff_t)r);
            continue;
        }
        memcpy(&half, line + 2 * place(storage, r), sizeof half);
        weights[r] = storage == FASTGATE_FLOAT16 ? fg_from_float16(half) : fg_from_bfloat16(half);
    }
}

/* The scale of a row of int8 weights.  17 bits, so that its multiples by up to 127 are exact. */
static float scale_of(float largest)
{
    return fg_of_bits(fg_bits_of(largest / 127) & ~(uint32_t)0x7f);
}

/* Where things lie in a block of int8 weights. */
typedef struct {
    char *scales, *sums, *weights;
    size_t line; /* bytes of one of them, or of four inputs' weights */
} int8_block;

static int8_block int8_parts(const char *block, size_t panels, size_t columns)
{
    const size_t line = panels * FG_LINE;
    char *scales = (char *)block + line, *sums = scales + line;
    return (int8_block){scales, sums, sums + fg_int8_spans(columns) * line, line};
}

static char *int8_weight(const int8_block *b, size_t row, size_t k)
{
    return b->weights + k / FG_QUAD * b->line + row * FG_QUAD + k % FG_QUAD;
}

static int pack_int8(char *block, const fg_matrix *m, size_t first, size_t rows, size_t panels)
{
    const int8_block to = int8_parts(block, panels, m->columns);
    memset(to.scales, 0, panels * (fg_panel_bytes(FASTGATE_INT8, m->columns) - FG_LINE));
    for (size_t r = 0; r < rows; r++) {
        const float *row = m->weight; /* without inputs it may be NULL, to which nothing is added */
        if (m->columns)
            row += (ptrdiff_t)(first + r) * m->row_stride;
        float largest = 0;
        for (size_t k = 0; k < m->columns; k++) {
            const float w = fabsf(row[(ptrdiff_t)k * m->column_stride]);
            if (!isfinite(w))
                return FASTGATE_ERROR_VALUE;
            largest = w > largest ? w : largest;
        }
        const float scale = scale_of(largest);
        memcpy(to.scales + r * sizeof scale, &scale, sizeof scale);
        for (size_t k = 0; k < m->columns && scale > 0;) {
            int32_t sum = 0;
            char *at = to.sums + k / FG_INT8_SPAN * to.line + r * sizeof sum;
            for (size_t end = smaller(m->columns, k + FG_INT8_SPAN); k < end; k++) {
                const float q = rintf(row[(ptrdiff_t)k * m->column_stride] / scale);
                const int8_t w = (int8_t)(q > 127 ? 127 : q < -127 ? -127 : q);
                memcpy(int8_weight(&to, r, k), &w, sizeof w);
                sum += w;
            }
            memcpy(at, &sum, sizeof sum);
        }
    }
    return FASTGATE_OK;
}

static void unpack_int8(const char *block, size_t rows, size_t panels, size_t columns, float *weight)
{
    const int8_block from = int8_parts(block, panels, columns);
    for (size_t r = 0; r < rows; r++) {
        float scale;
        memcpy(&scale, from.scales + r * sizeof scale, sizeof scale);
        for (size_t k = 0; k < columns; k++) {
            int8_t w;
            memcpy(&w, int8_weight(&from, r, k), sizeof w);
            weight[r * columns + k] = w * scale;
        }
    }
}

int fg_pack(char *packed, fastgate_storage storage, const fg_matrix *m)
{
    const size_t panel = fg_panel_rows(storage);
    const size_t longest = FG_SPAN_BYTES / fg_real_bytes(storage);
    size_t order[LONGEST_SPAN];
    double line[MOST_ROWS] = {0};
    for (size_t first = 0; first < m->rows; first += FG_PANELS * panel) {
        const size_t rows = smaller(m->rows - first, FG_PANELS * panel);
        const size_t panels = (rows + panel - 1) / panel;
        char *at = packed;
        for (size_t r = 0; r < panels * panel; r++)
            set_element(at, storage, r,
                        m->bias && r < rows ? element(m->bias, storage, (ptrdiff_t)(first + r)) : 0);
        at += panels * FG_LINE;
        packed += panels * fg_panel_bytes(storage, m->columns);
        if (storage == FASTGATE_INT8) {
            if (pack_int8(at - panels * FG_LINE, m, first, rows, panels))
                return FASTGATE_ERROR_VALUE;
            continue;
        }
        memset(line + rows, 0, (MOST_ROWS - rows) * sizeof *line);
        for (size_t k = 0; k < m->columns; k += longest) {
            const size_t span = smaller(m->columns - k, longest);
            order_of_summation(order, span, panel);
            for (size_t i = 0; i < span; i++, at += panels * fg_line_bytes(storage)) {
                for (size_t r = 0; r < rows; r++)
                    line[r] = element(m->weight, storage,
                                      (ptrdiff_t)(first + r) * m->row_stride +
                                          (ptrdiff_t)(k + order[i]) * m->column_stride);
                if (!store_line(at, storage, line, panels * panel))
                    return FASTGATE_ERROR_VALUE;
            }
        }
    }
    return FASTGATE_OK;
}

void fg_unpack(const char *packed, fastgate_storage storage, size_t rows, size_t columns,
               void *weight, void *bias)
{
    const size_t panel = fg_panel_rows(storage);
    const size_t longest = FG_SPAN_BYTES / fg_real_bytes(storage);
    size_t order[LONGEST_SPAN];
    double line[MOST_ROWS];
    for (size_t first = 0; first < rows; first += FG_PANELS * panel) {
        const size_t here = smaller(rows - first, FG_PANELS * panel);
        const size_t panels = (here + panel - 1) / panel;
        const char *at = packed + panels * FG_LINE;
        for (size_t r = 0; r < here; r++)
            set_element(bias, storage, first + r, element(packed, storage, (ptrdiff_t)r));
        if (storage == FASTGATE_INT8 && columns)
            unpack_int8(packed, here, panels, columns, (float *)weight + first * columns);
        packed += panels * fg_panel_bytes(storage, columns);
        for (size_t k = 0; k < columns && storage != FASTGATE_INT8; k += longest) {
            const size_t span = smaller(columns - k, longest);
            order_of_summation(order, span, panel);
            for (size_t i = 0; i < span; i++, at += panels * fg_line_bytes(storage)) {
                load_line(line, storage, at, here);
                for (size_t r = 0; r < here; r++)
                    set_element(weight, storage, (first + r) * columns + k + order[i], line[r]);
            }
        }
    }
}
