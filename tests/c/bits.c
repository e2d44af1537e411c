/*
 * One result per row, always the same bits: by every road through the API, for every kind of number,
 * on every instruction set.  Prints one line `isa digest` for each usable one; run.sh compares the
 * digests of builds and machines.  With an argument, the digest of every shape as well.
 */
#include "test.h"

enum { BATCH = 3, PAD = 3, LARGEST = 1 << 17, USUAL = 1 << 14 };
static const size_t sizes[] = {0,   1,   2,   3,   15,  16,  17,  31,  33,  63,   64,   65,   127, 128,
                               129, 255, 257, 300, 511, 512, 640, 1000, 1023, 1025, 2049, 4100, 8192};
enum { SIZES = sizeof sizes / sizeof *sizes };

/* A layer and what it must give: x is (BATCH, n) and want (BATCH, m), rows contiguous. */
typedef struct {
    size_t m, n;
    float *weight, *bias, *x, *want;
    uint64_t seed;
} layer;

static fastgate_gate *create(size_t m, size_t n, const float *weight, ptrdiff_t row_stride,
                             ptrdiff_t column_stride, const float *bias)
{
    fastgate_gate *gate;
    CHECK(!fastgate_gate_create(&gate, FASTGATE_FLOAT32, m, n, weight, row_stride, column_stride, bias, 1),
          "%zu x %zu", m, n);
    CHECK(fastgate_gate_output_size(gate) == m && fastgate_gate_input_size(gate) == n, "sizes");
    return gate;
}

/* got has rows m + PAD apart, of which the last PAD must still be as blank() left them */
static float *blank(const layer *l)
{
    float *got = floats(BATCH * (l->m + PAD));
    for (size_t i = 0; i < BATCH * (l->m + PAD); i++)
        got[i] = 7;
    return got;
}

static void same(const layer *l, float *got, const char *road)
{
    for (size_t b = 0; b < BATCH; b++) {
        const float *g = got + b * (l->m + PAD), *want = l->want + b * l->m;
        for (size_t i = 0; i < l->m; i++)
            CHECK(bits_of(g[i]) == bits_of(want[i]), "%s: %s: %zu x %zu, row %zu of batch row %zu: %a, not %a",
                  fastgate_isa(), road, l->m, l->n, i, b, (double)g[i], (double)want[i]);
        for (size_t i = 0; i < PAD; i++)
            CHECK(g[l->m + i] == 7, "%s: written past y", road);
    }
    free(got);
}

static void run(const fastgate_gate *gate, const layer *l, const fastgate_part *parts, size_t count,
                const char *road)
{
    float *got = blank(l);
    CHECK(!fastgate_gate_run(gate, BATCH, parts, count, got, (ptrdiff_t)l->m + PAD), "%s", road);
    same(l, got, road);
}

static void once(const layer *l, const float *weight, ptrdiff_t row_stride, ptrdiff_t column_stride,
                 const float *bias, const char *road)
{
    float *got = blank(l);
    fastgate_gate_once(FASTGATE_FLOAT32, l->m, l->n, weight, row_stride, column_stride, bias, BATCH, l->x,
                       (ptrdiff_t)l->n, got, (ptrdiff_t)l->m + PAD);
    same(l, got, road);
}

/* both roads for the weights at `weight` */
static void both(const layer *l, const float *weight, ptrdiff_t row_stride, ptrdiff_t column_stride,
                 const float *bias, const char *road)
{
    const fastgate_part x = {l->x, l->n, (ptrdiff_t)l->n};
    fastgate_gate *gate = create(l->m, l->n, weight, row_stride, column_stride, bias);
    run(gate, l, &x, 1, road);
    fastgate_gate_free(gate);
    once(l, weight, row_stride, column_stride, bias, road);
}

/* Every layout of W and every alignment of all arrays. */
static void try_layouts(layer *l)
{
    const ptrdiff_t m = (ptrdiff_t)l->m, n = (ptrdiff_t)l->n;
    const struct {
        const char *name;
        ptrdiff_t row, column;
    } layouts[] = {{"row-major", n, 1},          {"column-major", 1, m},
                   {"padded rows", n + 3, 1},    {"padded columns", 1, m + 5},
                   {"every second", 2 * n, 2},   {"every third, by columns", 3, 3 * m + 1},
                   {"rows upside down", -n, 1},  {"columns backwards", n + 1, -1},
                   {"all backwards", -1, -m - 2}};
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        const ptrdiff_t row = layouts[i].row, column = layouts[i].column;
        const ptrdiff_t rows = m ? (m - 1) * row : 0, columns = n ? (n - 1) * column : 0;
        const ptrdiff_t before = (rows < 0 ? -rows : 0) + (columns < 0 ? -columns : 0);
        const size_t shift = 1 + below(&l->seed, 16);
        float *field = floats(shift + (size_t)(labs(rows) + labs(columns) + 1));
        float *weight = field + shift + before;
        for (ptrdiff_t r = 0; r < m; r++)
            for (ptrdiff_t c = 0; c < n; c++)
                weight[r * row + c * column] = l->weight[r * n + c];
        float *bias = floats(l->m + shift), *x = floats(BATCH * l->n + shift);
        memcpy(bias + shift, l->bias, l->m * sizeof *bias);
        memcpy(x + shift, l->x, BATCH * l->n * sizeof *x);
        layer moved = *l;
        moved.x = x + shift;
        both(&moved, weight, row, column, bias + shift, layouts[i].name);
        free(field), free(bias), free(x);
    }
}

/* One row or column of weights, and one x, serving for all: stride 0. */
static void try_stride_0(layer *l)
{
    layer same_x = *l;
    same_x.x = floats(BATCH * l->n);
    same_x.weight = floats(l->m * l->n);
    for (int by_row = 0; by_row < 2; by_row++) {
        for (size_t i = 0; i < l->m * l->n; i++)
            same_x.weight[i] = l->weight[by_row ? i % l->n : i / l->n * l->n];
        for (size_t i = 0; i < BATCH * l->n; i++)
            same_x.x[i] = l->x[i % l->n];
        same_x.want = floats(BATCH * l->m);
        fastgate_gate_once(FASTGATE_FLOAT32, l->m, l->n, same_x.weight, (ptrdiff_t)l->n, 1, l->bias, BATCH, l->x, 0,
                           same_x.want, (ptrdiff_t)l->m);
        both(&same_x, l->weight, by_row ? 0 : (ptrdiff_t)l->n, by_row ? 1 : 0, l->bias, "stride 0");
        free(same_x.want);
    }
    free(same_x.x), free(same_x.weight);
}

/* x cut into parts that lie apart, each at an alignment and a stride of its own; some are empty */
static void try_split(const fastgate_gate *gate, layer *l, size_t longest)
{
    const size_t limit = 2 * l->n + 2;
    fastgate_part *parts = malloc(limit * sizeof *parts);
    float **field = malloc(limit * sizeof *field);
    CHECK(parts && field, "memory");
    size_t count = 0;
    for (size_t k = 0; k < l->n || count == 0; count++) {
        size_t size = longest == 1 ? 1 : below(&l->seed, longest + 1);
        if (count % 2)
            size = 0;
        if (size > l->n - k)
            size = l->n - k;
        if (count + 2 >= limit)
            size = l->n - k;
        const size_t shift = below(&l->seed, 16), stride = size + below(&l->seed, 3);
        field[count] = floats(shift + BATCH * stride);
        for (size_t b = 0; b < BATCH; b++)
            memcpy(field[count] + shift + b * stride, l->x + b * l->n + k, size * sizeof(float));
        parts[count] = (fastgate_part){field[count] + shift, size, (ptrdiff_t)stride};
        if (!size && l->seed % 2)
            parts[count].data = NULL;
        k += size;
    }
    run(gate, l, parts, count, longest == 1 ? "parts of one" : "parts");
    while (count--)
        free(field[count]);
    free(parts), free(field);
}

/* A row alone, in a gate of its own. */
static void try_rows(layer *l)
{
    for (int i = 0; i < 3 && l->m; i++) {
        const size_t r = below(&l->seed, l->m);
        const fastgate_part x = {l->x, l->n, (ptrdiff_t)l->n};
        fastgate_gate *gate = create(1, l->n, l->weight + r * l->n, (ptrdiff_t)l->n, 1, l->bias + r);
        float got[BATCH];
        CHECK(!fastgate_gate_run(gate, BATCH, &x, 1, got, 1), "one row");
        for (size_t b = 0; b < BATCH; b++)
            CHECK(bits_of(got[b]) == bits_of(l->want[b * l->m + r]), "%s: row %zu of %zu x %zu alone: %a, not %a",
                  fastgate_isa(), r, l->m, l->n, (double)got[b], (double)l->want[b * l->m + r]);
        fastgate_gate_free(gate);
    }
}

/* Not a matter of bits: is it the result at all?  64 units of rounding would be much. */
static void check_value(const layer *l)
{
    for (size_t b = 0; b < BATCH; b++)
        for (size_t i = 0; i < l->m; i++) {
            double z = l->bias[i], size = fabs(z);
            const float *w = l->weight + i * l->n, *x = l->x + b * l->n, g = l->want[b * l->m + i];
            for (size_t k = 0; k < l->n; k++)
                z += (double)w[k] * x[k], size += fabs((double)w[k] * x[k]);
            if (isnan(z) || size < FLT_MAX / 4) {
                const double slack = 64 * 0x1p-24 * size + (double)l->n * 0x1p-149;
                const double low = 1 / (1 + exp(slack - z)), high = 1 / (1 + exp(-slack - z));
                CHECK(isnan(z) ? isnan(g) : g >= low * (1 - 0x1p-22) - 0x1p-149 &&
                                                g <= high * (1 + 0x1p-22) + 0x1p-149,
                      "%s: %zu x %zu, row %zu of batch row %zu: %g, not %g to %g", fastgate_isa(),
                      l->m, l->n, i, b, (double)g, low, high);
            }
            CHECK(isnan(g) || (g >= 0 && g <= 1 && !signbit(g)), "%g", (double)g);
        }
}

static uint64_t digest(uint64_t hash, const float *y, size_t count)
{
    for (size_t i = 0; i < count; i++)
        hash = (hash ^ bits_of(y[i])) * 0x100000001b3; /* FNV-1a, word by word */
    return hash;
}

static uint64_t try_shape(size_t m, size_t n)
{
    layer l = {m, n, floats(m * n), floats(m), floats(BATCH * n), floats(BATCH * m), m * 65536 + n};
    int root = 0; /* keeps the sums of ordinary rows within a few units */
    while ((size_t)1 << (2 * root) < n)
        root++;
    for (size_t i = 0; i < m; i++) {
        const size_t kind = below(&l.seed, 2 * KINDS);
        fill(l.weight + i * n, n, 1, kind < KINDS ? (enum kind)kind : ORDINARY, &l.seed);
        if (kind == ORDINARY || kind >= KINDS)
            for (size_t k = 0; k < n; k++)
                l.weight[i * n + k] = ldexpf(l.weight[i * n + k], 2 - root);
        fill(l.bias + i, 1, 1, kind % 7 ? ORDINARY : (enum kind)(kind % KINDS), &l.seed);
    }
    for (size_t b = 0; b < BATCH; b++)
        fill(l.x + b * n, n, 1, b < 2 ? ORDINARY : (enum kind)below(&l.seed, KINDS), &l.seed);
    for (size_t i = 0; i < BATCH * n; i += 7)
        l.x[i] = i % 2 ? 0.0f : -0.0f;
    for (size_t i = 0; i < m * n; i += 11)
        l.weight[i] = i % 2 ? 0.0f : -0.0f;
    for (size_t i = 0; i < m; i += 13)
        l.bias[i] = -0.0f;

    fastgate_gate *gate = create(m, n, l.weight, (ptrdiff_t)n, 1, l.bias);
    for (size_t b = 0; b < BATCH; b++) {
        const fastgate_part x = {l.x + b * n, n, 0};
        CHECK(!fastgate_gate_run(gate, 1, &x, 1, l.want + b * m, 0), "run");
    }
    const uint64_t result = digest(0xcbf29ce484222325, l.want, BATCH * m);
    check_value(&l);
    for (size_t longest = 1; longest < n; longest = longest * 7 + 1)
        try_split(gate, &l, longest);
    try_split(gate, &l, n);

    float *weight = floats(m * n), *bias = floats(m);
    fastgate_gate_unpack(gate, weight, bias);
    CHECK(!memcmp(weight, l.weight, m * n * sizeof *weight) && !memcmp(bias, l.bias, m * sizeof *bias),
          "unpacked %zu x %zu", m, n);
    free(weight), free(bias);
    fastgate_gate_free(gate);

    try_layouts(&l);
    try_rows(&l);
    if (m && n && m * n <= 300 * 300) {
        try_stride_0(&l);
        memset(l.bias, 0, m * sizeof *l.bias);
        fastgate_gate_once(FASTGATE_FLOAT32, m, n, l.weight, (ptrdiff_t)n, 1, l.bias, BATCH, l.x, (ptrdiff_t)n,
                           l.want, (ptrdiff_t)m);
        both(&l, l.weight, (ptrdiff_t)n, 1, NULL, "no bias");
    }
    free(l.weight), free(l.bias), free(l.x), free(l.want);
    return result;
}

/* sigma of a million values of every size: sigmoid.c, which tries them all, is slow when emulated */
static uint64_t try_sigmoid(void)
{
    enum { COUNT = 1 << 20 };
    layer l = {COUNT, 0, NULL, floats(COUNT), NULL, floats(COUNT), 0};
    for (uint32_t i = 0; i < COUNT; i++)
        l.bias[i] = float_of(i << 12 | (i * 0x9e3779b9 & 0xfff));
    float x;
    fastgate_gate_once(FASTGATE_FLOAT32, COUNT, 0, NULL, 0, 1, l.bias, 1, &x, 0, l.want, 0);
    fastgate_gate *gate = create(COUNT, 0, NULL, 0, 1, l.bias);
    float *got = floats(COUNT);
    CHECK(!fastgate_gate_run(gate, 1, NULL, 0, got, 0), "run");
    for (size_t i = 0; i < COUNT; i++)
        CHECK(bits_of(got[i]) == bits_of(l.want[i]), "sigma(%a)", (double)l.bias[i]);
    const uint64_t result = digest(0, l.want, COUNT);
    free(l.bias), free(l.want), free(got);
    fastgate_gate_free(gate);
    return result;
}

int main(int argc, char **argv)
{
    (void)argv;
    static uint64_t first[SIZES][SIZES];
    const char *best = NULL;
    for (size_t isa = 0; fastgate_isa_name(isa); isa++) {
        const char *name = fastgate_isa_name(isa);
        if (!fastgate_isa_usable(isa))
            continue;
        CHECK(!fastgate_select_isa(name) && !strcmp(fastgate_isa(), name), "%s", name);
        uint64_t all = try_sigmoid();
        for (size_t i = 0; i < SIZES; i++)
            for (size_t k = 0; k < SIZES; k++) {
                if (sizes[i] * sizes[k] > ((i + k) % 8 ? USUAL : LARGEST)) /* emulation is slow */
                    continue;
                const uint64_t d = try_shape(sizes[i], sizes[k]);
                all = (all ^ d) * 0x100000001b3;
                if (argc > 1)
                    printf("%s %zu x %zu %016llx\n", name, sizes[i], sizes[k], (unsigned long long)d);
                if (!best)
                    first[i][k] = d;
                CHECK(first[i][k] == d, "%zu x %zu: %s and %s differ", sizes[i], sizes[k], best, name);
            }
        if (!best)
            best = name;
        printf("%s %016llx\n", name, (unsigned long long)all);
    }
    return 0;
}
