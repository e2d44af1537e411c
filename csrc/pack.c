/* Weights into panels and back; internal.h describes the packed form. */
#include "half.h"
#include "internal.h"

#include <math.h>

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

/* Element (i, k) of m. */
static double weight_at(const fg_matrix *m, fastgate_storage storage, size_t i, size_t k)
{
    return element(m->weight, storage, (ptrdiff_t)i * m->row_stride + (ptrdiff_t)k * m->column_stride);
}

/* Where the weight of row r and column k of a panel is, for every storage except int8. */
static char *weight_of(const char *panel, fastgate_storage storage, const size_t segments[2], size_t r, size_t k)
{
    const size_t line = fg_input_bytes(storage), width = line / fg_panel_rows(storage);
    const char *segment = panel + FG_LINE;
    if (k >= segments[0]) {
        segment += fg_segment_bytes(storage, segments[0]);
        k -= segments[0];
    }
    if (storage == FASTGATE_BFLOAT16)
        return (char *)segment + k / 2 * FG_LINE + 2 * r * width + k % 2 * width;
    return (char *)segment + k * line + r * width;
}

/* Whether the weight fits. */
static int store_weight(char *to, fastgate_storage storage, double weight)
{
    if (storage == FASTGATE_FLOAT32 || storage == FASTGATE_FLOAT64) {
        set_element(to, storage, 0, weight);
        return 1;
    }
    const float w = (float)weight;
    const int is_float16 = storage == FASTGATE_FLOAT16;
    const uint16_t half = is_float16 ? fg_to_float16(w) : fg_to_bfloat16(w);
    memcpy(to, &half, sizeof half);
    return !isfinite(w) || isfinite(is_float16 ? fg_from_float16(half) : fg_from_bfloat16(half));
}

static double load_weight(const char *from, fastgate_storage storage)
{
    uint16_t half;
    if (storage == FASTGATE_FLOAT32 || storage == FASTGATE_FLOAT64)
        return element(from, storage, 0);
    memcpy(&half, from, sizeof half);
    return storage == FASTGATE_FLOAT16 ? fg_from_float16(half) : fg_from_bfloat16(half);
}

/* ---- int8 -------------------------------------------------------------------------------------- */

/* The line of sums of the span of column k, of a panel; the weights of the span follow. */
static char *int8_span_of(const char *panel, const size_t segments[2], size_t k)
{
    const char *segment = panel + fg_head_bytes(FASTGATE_INT8);
    if (k >= segments[0]) {
        segment += fg_segment_bytes(FASTGATE_INT8, segments[0]);
        k -= segments[0];
    }
    return (char *)segment + fg_segment_bytes(FASTGATE_INT8, k / FG_INT8_SPAN * FG_INT8_SPAN);
}

static int8_t *int8_weight(const char *panel, const size_t segments[2], size_t r, size_t k)
{
    const size_t place = (k < segments[0] ? k : k - segments[0]) % FG_INT8_SPAN;
    char *line = int8_span_of(panel, segments, k) + (1 + place / FG_QUAD) * FG_LINE;
    return (int8_t *)line + r * FG_QUAD + place % FG_QUAD;
}

/* The scale of a row of int8 weights.  17 bits, so that its multiples by up to 127 are exact. */
static float scale_of(float largest)
{
    return fg_of_bits(fg_bits_of(largest / 127) & ~(uint32_t)0x7f);
}

/* Row i of m as row r of a panel, whose weights are zeros before. */
static int pack_int8_row(char *panel, const fg_matrix *m, size_t i, size_t r)
{
    const size_t columns = m->segments[0] + m->segments[1];
    float largest = 0;
    for (size_t k = 0; k < columns; k++) {
        const float w = fabsf((float)weight_at(m, FASTGATE_INT8, i, k));
        if (!isfinite(w))
            return FASTGATE_ERROR_VALUE;
        largest = w > largest ? w : largest;
    }
    const float scale = scale_of(largest);
    memcpy(panel + FG_LINE + r * sizeof scale, &scale, sizeof scale);
    for (size_t k = 0; k < columns && scale > 0; k++) {
        const float q = rintf((float)weight_at(m, FASTGATE_INT8, i, k) / scale);
        const int8_t w = (int8_t)(q > 127 ? 127 : q < -127 ? -127 : q);
        *int8_weight(panel, m->segments, r, k) = w;
        ((int32_t *)int8_span_of(panel, m->segments, k))[r] += w;
    }
    return FASTGATE_OK;
}

static void unpack_int8_row(const char *panel, const size_t segments[2], size_t r, float *weight)
{
    float scale;
    memcpy(&scale, panel + FG_LINE + r * sizeof scale, sizeof scale);
    for (size_t k = 0; k < segments[0] + segments[1]; k++)
        weight[k] = *int8_weight(panel, segments, r, k) * scale;
}

/* ---- panels ------------------------------------------------------------------------------------ */

int fg_pack(char *packed, fastgate_storage storage, const fg_matrix *m)
{
    const size_t panel = fg_panel_rows(storage), bytes = fg_panel_bytes(storage, m->segments);
    const size_t columns = m->segments[0] + m->segments[1];
    for (size_t first = 0; first < m->rows; first += panel, packed += bytes) {
        const size_t rows = smaller(m->rows - first, panel);
        memset(packed, 0, bytes);
        for (size_t r = 0; r < rows && m->bias; r++)
            set_element(packed, storage, r, element(m->bias, storage, (ptrdiff_t)(first + r)));
        for (size_t r = 0; r < rows && storage == FASTGATE_INT8; r++)
            if (pack_int8_row(packed, m, first + r, r))
                return FASTGATE_ERROR_VALUE;
        for (size_t k = 0; k < columns && storage != FASTGATE_INT8; k++)
            for (size_t r = 0; r < rows; r++)
                if (!store_weight(weight_of(packed, storage, m->segments, r, k), storage,
                                  weight_at(m, storage, first + r, k)))
                    return FASTGATE_ERROR_VALUE;
    }
    return FASTGATE_OK;
}

void fg_unpack(const char *packed, fastgate_storage storage, size_t rows, const size_t segments[2], void *weight,
               void *bias)
{
    const size_t panel = fg_panel_rows(storage), bytes = fg_panel_bytes(storage, segments);
    const size_t columns = segments[0] + segments[1];
    for (size_t i = 0; i < rows; i++) {
        const char *from = packed + i / panel * bytes;
        set_element(bias, storage, i, element(from, storage, (ptrdiff_t)(i % panel)));
        if (storage == FASTGATE_INT8 && columns)
            unpack_int8_row(from, segments, i % panel, (float *)weight + i * columns);
        for (size_t k = 0; k < columns && storage != FASTGATE_INT8; k++)
            set_element(weight, storage, i * columns + k,
                        load_weight(weight_of(from, storage, segments, i % panel, k), storage));
    }
}
