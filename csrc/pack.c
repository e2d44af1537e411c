/* Weights into panels and back; internal.h describes the packed form. */
#include "half.h"
#include "internal.h"

#include <float.h>
#include <math.h>

/* Copies a number of the type in which weights are given, bit by bit: an assignment may change a signaling NaN. */
static void copy_number(void *to, const void *from, fastgate_storage storage)
{
    if (storage == FASTGATE_FLOAT64)
        memcpy(to, from, sizeof(double));
    else
        memcpy(to, from, sizeof(float));
}

/* Element (i, k) of segment s of m */
static void *weight_at(const fg_matrix *m, fastgate_storage storage, size_t s, size_t i, size_t k)
{
    const ptrdiff_t index = (ptrdiff_t)i * m->row_stride[s] + (ptrdiff_t)k * m->column_stride;
    return fg_at(m->weight[s], index, fg_real_bytes(storage));
}

/* The weights of segment s of a panel */
static char *segment_of(const char *panel, fastgate_storage storage, const size_t segments[2], size_t s)
{
    return (char *)panel + fg_head_bytes(storage) + (s ? fg_segment_bytes(storage, segments[0]) : 0);
}

/* Where the weight of row r and column k of a segment is, for every storage except int8 */
static char *weight_of(char *segment, fastgate_storage storage, size_t r, size_t k)
{
    const size_t line = fg_input_bytes(storage), width = line / fg_panel_rows(storage);
    if (storage == FASTGATE_BFLOAT16)
        return segment + k / 2 * FG_LINE + 2 * r * width + k % 2 * width;
    return segment + k * line + r * width;
}

/* Whether the weight fits. */
static int store_weight(char *to, fastgate_storage storage, const void *weight)
{
    if (storage == FASTGATE_FLOAT32 || storage == FASTGATE_FLOAT64) {
        copy_number(to, weight, storage);
        return 1;
    }
    const float w = *(const float *)weight;
    const int is_float16 = storage == FASTGATE_FLOAT16;
    const uint16_t half = is_float16 ? fg_to_float16(w) : fg_to_bfloat16(w);
    memcpy(to, &half, sizeof half);
    return !isfinite(w) || isfinite(is_float16 ? fg_from_float16(half) : fg_from_bfloat16(half));
}

static void load_weight(void *weight, const char *from, fastgate_storage storage)
{
    if (storage == FASTGATE_FLOAT16)
        *(float *)weight = fg_from_float16(*(const uint16_t *)from);
    else if (storage == FASTGATE_BFLOAT16)
        *(float *)weight = fg_from_bfloat16(*(const uint16_t *)from);
    else
        copy_number(weight, from, storage);
}

/* ---- int8 -------------------------------------------------------------------------------------- */

/* The span of column k of a segment: a line of the sums of its weights, and the weights */
static char *int8_span_of(char *segment, size_t k)
{
    return segment + fg_segment_bytes(FASTGATE_INT8, k / FG_INT8_SPAN * FG_INT8_SPAN);
}

static int8_t *int8_weight(char *segment, size_t r, size_t k)
{
    char *line = int8_span_of(segment, k) + (1 + k % FG_INT8_SPAN / FG_QUAD) * FG_LINE;
    return (int8_t *)line + r * FG_QUAD + k % FG_QUAD;
}

/* The scale of a row of int8 weights.  17 bits, so that its multiples by up to 127 are exact. */
static float scale_of(float largest)
{
    return fg_of_bits(fg_bits_of(largest / 127) & ~(uint32_t)0x7f);
}

/* Row i of m as row r of a panel, whose weights are zeros before */
static int pack_int8_row(char *panel, const fg_matrix *m, size_t i, size_t r)
{
    float largest = 0;
    for (size_t s = 0; s < 2; s++)
        for (size_t k = 0; k < m->shape.segments[s]; k++) {
            const float w = fabsf(*(const float *)weight_at(m, FASTGATE_INT8, s, i, k));
            if (!isfinite(w))
                return 0;
            largest = w > largest ? w : largest;
        }
    const float scale = scale_of(largest);
    memcpy(panel + FG_LINE + r * sizeof scale, &scale, sizeof scale);
    for (size_t s = 0; s < 2 && scale > 0; s++) {
        char *segment = segment_of(panel, FASTGATE_INT8, m->shape.segments, s);
        for (size_t k = 0; k < m->shape.segments[s]; k++) {
            const float q = rintf(*(const float *)weight_at(m, FASTGATE_INT8, s, i, k) / scale);
            const int8_t w = (int8_t)(q > 127 ? 127 : q < -127 ? -127 : q);
            *int8_weight(segment, r, k) = w;
            ((int32_t *)int8_span_of(segment, k))[r] += w;
        }
    }
    return 1;
}

/* ---- panels ------------------------------------------------------------------------------------ */

/* The rows of a matrix that a panel holds, counted through all gates */
typedef struct {
    size_t first, count;
} row_range;

static row_range rows_of(const fg_shape *shape, fastgate_storage storage, size_t panel)
{
    const size_t first = panel / shape->gates * fg_panel_rows(storage);
    return (row_range){panel % shape->gates * shape->rows + first,
                        smaller(shape->rows - first, fg_panel_rows(storage))};
}

/* The rows of m in a panel, in a storage other than int8 */
static int pack_rows(char *panel, fastgate_storage storage, const fg_matrix *m, row_range rows)
{
    for (size_t s = 0; s < 2; s++) {
        char *segment = segment_of(panel, storage, m->shape.segments, s);
        for (size_t k = 0; k < m->shape.segments[s]; k++)
            for (size_t r = 0; r < rows.count; r++)
                if (!store_weight(weight_of(segment, storage, r, k), storage,
                                  weight_at(m, storage, s, rows.first + r, k)))
                    return 0;
    }
    return 1;
}

int fg_pack(char *packed, fastgate_storage storage, const fg_matrix *m)
{
    const size_t bytes = fg_panel_bytes(storage, m->shape.segments), width = fg_real_bytes(storage);
    for (size_t panel = 0; panel < fg_panels_of(&m->shape, storage); panel++, packed += bytes) {
        const row_range rows = rows_of(&m->shape, storage, panel);
        memset(packed, 0, bytes);
        if (m->bias)
            memcpy(packed, fg_at(m->bias, (ptrdiff_t)rows.first, width), rows.count * width);
        for (size_t r = 0; r < rows.count && storage == FASTGATE_INT8; r++)
            if (!pack_int8_row(packed, m, rows.first + r, r))
                return FASTGATE_ERROR_VALUE;
        if (storage != FASTGATE_INT8 && !pack_rows(packed, storage, m, rows))
            return FASTGATE_ERROR_VALUE;
    }
    return FASTGATE_OK;
}

/* Writes row r of a panel as row i of m. */
static void unpack_row(const char *panel, fastgate_storage storage, size_t r, const fg_matrix *m, size_t i)
{
    float scale = 0;
    if (storage == FASTGATE_INT8)
        memcpy(&scale, panel + FG_LINE + r * sizeof scale, sizeof scale);
    for (size_t s = 0; s < 2; s++) {
        char *segment = segment_of(panel, storage, m->shape.segments, s);
        for (size_t k = 0; k < m->shape.segments[s]; k++) {
            void *weight = weight_at(m, storage, s, i, k);
            if (storage == FASTGATE_INT8)
                *(float *)weight = *int8_weight(segment, r, k) * scale;
            else
                load_weight(weight, weight_of(segment, storage, r, k), storage);
        }
    }
}

void fg_unpack(const char *packed, fastgate_storage storage, const fg_matrix *m)
{
    const size_t bytes = fg_panel_bytes(storage, m->shape.segments), width = fg_real_bytes(storage);
    for (size_t panel = 0; panel < fg_panels_of(&m->shape, storage); panel++, packed += bytes) {
        const row_range rows = rows_of(&m->shape, storage, panel);
        for (size_t r = 0; r < rows.count; r++) {
            const size_t i = rows.first + r;
            if (m->bias)
                copy_number(fg_at(m->bias, (ptrdiff_t)i, width), packed + r * width, storage);
            unpack_row(packed, storage, r, m, i);
        }
    }
}

/* ---- checks ------------------------------------------------------------------------------------ */

int fg_is_zero_past(const void *lines, size_t bytes, size_t line, size_t used)
{
    const char *from = lines;
    int any = 0;
    for (size_t at = 0; at < bytes && used < line; at += line)
        for (size_t i = used; i < line; i++)
            any |= from[at + i];
    return !any;
}

/* Whether halves are what a float can become.  Only NaN cannot be all that 16 bits can: see half.h. */
static int are_halves(const char *from, size_t bytes, fastgate_storage storage)
{
    const int is_float16 = storage == FASTGATE_FLOAT16;
    int other = 0;
    for (size_t i = 0; i < bytes / sizeof(uint16_t); i++) {
        const int half = ((const uint16_t *)from)[i] & 0x7fff;
        other |= is_float16 ? (half > 0x7c00) & (half != 0x7e00) : (half > 0x7f80) & !(half & 0x40);
    }
    return !other;
}

/* Whether sums, scales and weights fit together: the scale of a row is such that the largest weight becomes 127. */
static int are_int8(const char *panel, const size_t segments[2])
{
    enum { ROWS = FG_LINE / sizeof(float) };
    const char *line = panel + fg_head_bytes(FASTGATE_INT8);
    uint8_t largest[ROWS] = {0}; /* magnitudes */
    for (size_t s = 0; s < 2; s++)
        for (size_t k = 0; k < segments[s]; k += FG_INT8_SPAN) {
            const size_t inputs = smaller(segments[s] - k, FG_INT8_SPAN);
            const char *sums = line, *end = line + fg_segment_bytes(FASTGATE_INT8, inputs);
            int16_t partial[FG_LINE] = {0}; /* sums, by the place in a line, so that they are computed in vectors */
            uint8_t top[FG_LINE] = {0};
            int32_t sum[ROWS] = {0};
            for (line += FG_LINE; line < end; line += FG_LINE)
                for (size_t i = 0; i < FG_LINE; i++) {
                    const int8_t w = ((const int8_t *)line)[i];
                    const uint8_t magnitude = (uint8_t)(w < 0 ? -w : w);
                    partial[i] = (int16_t)(partial[i] + w);
                    top[i] = magnitude > top[i] ? magnitude : top[i];
                }
            for (size_t i = 0, r = 0; i < FG_LINE; r = ++i / FG_QUAD) {
                sum[r] += partial[i];
                largest[r] = top[i] > largest[r] ? top[i] : largest[r];
            }
            if (memcmp(sum, sums, sizeof sum))
                return 0;
        }
    for (size_t r = 0; r < ROWS; r++) {
        const uint32_t scale = fg_bits_of(((const float *)(panel + FG_LINE))[r]);
        if (scale & 0x7f || scale > fg_bits_of(scale_of(FLT_MAX)) || largest[r] != (scale ? 127 : 0))
            return 0;
    }
    return 1;
}

/* Whether a panel with so many rows is what fg_pack may have written. */
static int is_panel(const char *panel, fastgate_storage storage, size_t rows, const size_t segments[2], int has_bias)
{
    const size_t line = storage == FASTGATE_FLOAT16 ? FG_LINE / 2 : FG_LINE, word = line / fg_panel_rows(storage);
    const size_t inputs = storage == FASTGATE_INT8 ? FG_QUAD : storage == FASTGATE_BFLOAT16 ? 2 : 1; /* in a word */
    const size_t head = fg_head_bytes(storage);
    const char *at = panel + head, *end = panel + fg_panel_bytes(storage, segments);
    int good = fg_is_zero_past(panel, FG_LINE, FG_LINE, has_bias ? rows * fg_real_bytes(storage) : 0);
    for (int s = 0; s < 2 && good; s++) {
        const size_t bytes = fg_segment_bytes(storage, segments[s]), over = segments[s] % inputs;
        good = fg_is_zero_past(at, bytes, line, rows * word);
        at += bytes;
        if (over)
            good = good && fg_is_zero_past(at - line, line, word, over * word / inputs);
    }
    if (storage == FASTGATE_FLOAT16 || storage == FASTGATE_BFLOAT16)
        good = good && are_halves(panel + head, (size_t)(at - panel) - head, storage);
    else if (storage == FASTGATE_INT8)
        good = good && are_int8(panel, segments);
    return good && fg_is_zero_past(at, (size_t)(end - at), FG_LINE / 2, 0);
}

int fg_is_packed(const char *packed, fastgate_storage storage, const fg_shape *shape, int has_bias)
{
    const size_t bytes = fg_panel_bytes(storage, shape->segments);
    for (size_t panel = 0; panel < fg_panels_of(shape, storage); panel++, packed += bytes)
        if (!is_panel(packed, storage, rows_of(shape, storage, panel).count, shape->segments, has_bias))
            return 0;
    return 1;
}
