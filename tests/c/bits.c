/*
 * A row's output has the same bits by every path through the API, for every storage and kind of number, and on every
 * instruction set.  Prints a line `isa digest` for each usable one; run.sh compares the digests of builds and machines.
 * With an argument it also prints the digest of every shape.
 */
#include "test.h"

enum { PAD = 3, LARGEST = 1 << 17, USUAL = 1 << 13, FEW = 3 };
static const size_t sizes[] = {0,   1,   2,   3,   15,  16,  17,  31,  33,  63,   64,   65,   127, 128,
                               129, 255, 257, 300, 511, 512, 640, 1000, 1023, 1024, 1025, 2049, 4100, 8192};
static const size_t batches[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12,
                                 13, 14, 15, 16, 17, 18, 19, 20, 31, 32, 33, 64};
enum { SIZES = sizeof sizes / sizeof *sizes, BATCHES = sizeof batches / sizeof *batches };

static unsigned threads = 1; /* of gates that are created */
static const char *first_isa; /* once all was tried with it */

/* A layer, inputs x (batch, n) and the outputs want (batch, m) that it must give; all rows are contiguous. */
typedef struct {
    size_t m, n, batch;
    void *weight, *bias, *x, *want;
    uint64_t seed;
} layer;

static fastgate_gate *create(size_t m, size_t n, const void *weight, ptrdiff_t row_stride,
                             ptrdiff_t column_stride, const void *bias)
{
    fastgate_gate *gate;
    CHECK(!fastgate_gate_create(&gate, storage, m, n, weight, row_stride, column_stride, bias, threads),
          "%zu x %zu", m, n);
    CHECK(fastgate_gate_output_size(gate) == m && fastgate_gate_input_size(gate) == n &&
              fastgate_gate_storage(gate) == storage && fastgate_gate_threads(gate) == threads,
          "what was given");
    return gate;
}

/* A y whose rows are m + PAD apart, in either direction; the numbers between them must stay 7. */
typedef struct {
    void *field, *y;
    size_t size;
    ptrdiff_t stride;
} output;

static output blank(layer *l)
{
    const size_t shift = below(&l->seed, 16), row = l->m + PAD;
    output o = {NULL, NULL, shift + l->batch * row, (ptrdiff_t)row};
    o.field = numbers(o.size);
    fill_with(o.field, o.size, 7);
    o.y = at(o.field, (ptrdiff_t)shift);
    if (next(&l->seed) & 1)
        o.y = at(o.y, (ptrdiff_t)((l->batch - 1) * row)), o.stride = -o.stride;
    return o;
}

static void same(const layer *l, output o, const char *path)
{
    for (size_t b = 0; b < l->batch; b++)
        for (size_t i = 0; i < l->m; i++) {
            const ptrdiff_t k = (ptrdiff_t)b * o.stride + (ptrdiff_t)i;
            const ptrdiff_t w = (ptrdiff_t)(b * l->m + i);
            CHECK(bits_at(o.y, k) == bits_at(l->want, w),
                  "%s, %s: %s, %u threads: %zu x %zu, row %zu of batch row %zu of %zu: %a, not %a",
                  fastgate_isa(), storage_names[storage], path, threads, l->m, l->n, i, b, l->batch,
                  get(o.y, k), get(l->want, w));
            put(o.y, k, 7);
        }
    for (size_t i = 0; i < o.size; i++)
        CHECK(get(o.field, (ptrdiff_t)i) == 7, "%s, %s: %s: written beside y", fastgate_isa(),
              storage_names[storage], path);
    free(o.field);
}

static void run(const fastgate_gate *gate, layer *l, const fastgate_part *parts, size_t count,
                const char *path)
{
    const output o = blank(l);
    CHECK(!fastgate_gate_run(gate, l->batch, parts, count, o.y, o.stride), "%s", path);
    same(l, o, path);
}

static void run_whole(const fastgate_gate *gate, layer *l, const char *path)
{
    const fastgate_part x = {l->x, l->n, (ptrdiff_t)l->n};
    run(gate, l, &x, 1, path);
}

/* Tries a gate with the weights at `weight`, and fastgate_gate_once. */
static void both(layer *l, const void *weight, ptrdiff_t row_stride, ptrdiff_t column_stride,
                 const void *bias, const char *path)
{
    fastgate_gate *gate = create(l->m, l->n, weight, row_stride, column_stride, bias);
    run_whole(gate, l, path);
    fastgate_gate_free(gate);
    const output o = blank(l);
    const int rc = fastgate_gate_once(storage, l->m, l->n, weight, row_stride, column_stride, bias, l->batch,
                                      l->x, (ptrdiff_t)l->n, o.y, o.stride);
    if (storage == FASTGATE_FLOAT32 || storage == FASTGATE_FLOAT64) {
        CHECK(!rc, "once");
        same(l, o, path);
    } else {
        CHECK(rc == FASTGATE_ERROR_VALUE, "once");
        free(o.field);
    }
}

/* Tries `count` layouts of W, from number `first` on, and random alignments of all arrays. */
static void try_layouts(layer *l, size_t first, size_t count)
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
    while (count--) {
        const size_t i = first++ % (sizeof layouts / sizeof *layouts);
        const ptrdiff_t row = layouts[i].row, column = layouts[i].column;
        const ptrdiff_t rows = m ? (m - 1) * row : 0, columns = n ? (n - 1) * column : 0;
        const ptrdiff_t before = (rows < 0 ? -rows : 0) + (columns < 0 ? -columns : 0);
        const ptrdiff_t shift = 1 + (ptrdiff_t)below(&l->seed, 16);
        void *field = numbers((size_t)(shift + llabs(rows) + llabs(columns) + 1));
        void *weight = at(field, shift + before);
        for (ptrdiff_t r = 0; r < m; r++)
            for (ptrdiff_t c = 0; c < n; c++)
                put(weight, r * row + c * column, get(l->weight, r * n + c));
        layer moved = *l;
        moved.batch = l->batch < FEW ? l->batch : FEW;
        void *bias = numbers(l->m + (size_t)shift), *x = numbers(moved.batch * l->n + (size_t)shift);
        memcpy(at(bias, shift), l->bias, l->m * width());
        moved.x = memcpy(at(x, shift), l->x, moved.batch * l->n * width());
        both(&moved, weight, row, column, at(bias, shift), layouts[i].name);
        free(field), free(bias), free(x);
    }
}

/* Tries strides of 0, by which one row or column of weights, and one row of x, stand for all. */
static void try_stride_0(const layer *l)
{
    layer one = *l;
    one.x = numbers(l->batch * l->n);
    one.weight = numbers(l->m * l->n);
    one.want = numbers(l->batch * l->m);
    for (int by_row = 0; by_row < 2; by_row++) {
        const ptrdiff_t n = (ptrdiff_t)l->n;
        for (ptrdiff_t i = 0; i < (ptrdiff_t)(l->m * l->n); i++)
            put(one.weight, i, get(l->weight, by_row ? i % n : i / n * n));
        for (ptrdiff_t i = 0; i < (ptrdiff_t)(l->batch * l->n); i++)
            put(one.x, i, get(l->x, i % n));
        const fastgate_part x = {l->x, l->n, 0};
        fastgate_gate *gate = create(l->m, l->n, one.weight, n, 1, l->bias);
        CHECK(!fastgate_gate_run(gate, l->batch, &x, 1, one.want, (ptrdiff_t)l->m), "run");
        fastgate_gate_free(gate);
        both(&one, l->weight, by_row ? 0 : n, by_row ? 1 : 0, l->bias, "stride 0");
    }
    free(one.x), free(one.weight), free(one.want);
}

/* Tries x in parts, each in an array of its own alignment and stride; some are empty. */
static void try_split(const fastgate_gate *gate, layer *l, size_t longest)
{
    const size_t limit = 2 * l->n + 2;
    fastgate_part *parts = malloc(limit * sizeof *parts);
    void **field = malloc(limit * sizeof *field);
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
        const size_t shift = below(&l->seed, 16);
        ptrdiff_t stride = (ptrdiff_t)(size + below(&l->seed, 3));
        field[count] = numbers(shift + l->batch * (size_t)stride);
        void *x = at(field[count], (ptrdiff_t)shift);
        if (next(&l->seed) & 1)
            x = at(x, (ptrdiff_t)(l->batch - 1) * stride), stride = -stride;
        for (size_t b = 0; b < l->batch; b++)
            memcpy(at(x, (ptrdiff_t)b * stride), at(l->x, (ptrdiff_t)(b * l->n + k)), size * width());
        parts[count] = (fastgate_part){size || l->seed % 2 ? x : NULL, size, stride};
        k += size;
    }
    run(gate, l, parts, count, longest == 1 ? "parts of one" : "parts");
    while (count--)
        free(field[count]);
    free(parts), free(field);
}

/* Tries a row of W in a gate of its own. */
static void try_row(layer *l)
{
    const size_t r = below(&l->seed, l->m);
    layer row = *l;
    row.m = 1;
    row.want = numbers(l->batch);
    for (size_t b = 0; b < l->batch; b++)
        put(row.want, (ptrdiff_t)b, get(l->want, (ptrdiff_t)(b * l->m + r)));
    fastgate_gate *gate =
        create(1, l->n, at(l->weight, (ptrdiff_t)(r * l->n)), 0, 1, at(l->bias, (ptrdiff_t)r));
    run_whole(gate, &row, "a row alone");
    fastgate_gate_free(gate);
    free(row.want);
}

/* ---- values ------------------------------------------------------------------------------------ */

/* w rounded to so many binary digits, or fewer if the last one would count less than 2^least. */
static double rounded(double w, int digits, int least)
{
    if (!isfinite(w) || w == 0)
        return w;
    const int last = ilogb(w) + 1 - digits;
    const double unit = ldexp(1, last > least ? last : least);
    return copysign(rint(w / unit) * unit, w);
}

/* w as the storage holds it, if the result is at most `largest`.  Not for int8. */
static double as_stored(double w, double *largest)
{
    if (storage == FASTGATE_FLOAT16)
        return *largest = 65504, rounded(w, 11, -24);
    if (storage == FASTGATE_BFLOAT16)
        return *largest = 0x1.fep127, rounded(w, 8, -133);
    return *largest = DBL_MAX, w;
}

/* Unpacked weights are the given ones, rounded; a gate that is made of them holds them too. */
static void try_unpacked(const fastgate_gate *gate, layer *l, void *weight)
{
    void *bias = numbers(l->m), *again = numbers(l->m * l->n);
    fastgate_gate_unpack(gate, weight, bias);
    CHECK(!memcmp(bias, l->bias, l->m * width()), "unpacked bias");
    for (size_t i = 0; i < l->m; i++) {
        const ptrdiff_t from = (ptrdiff_t)(i * l->n), to = (ptrdiff_t)((i + 1) * l->n);
        double largest = 0;
        for (ptrdiff_t k = from; k < to; k++)
            largest = fmax(largest, fabs(get(l->weight, k)));
        for (ptrdiff_t k = from; k < to; k++) {
            double limit;
            const double given = get(l->weight, k), got = get(weight, k);
            put(again, k, as_stored(given, &limit));
            if (storage == FASTGATE_INT8 ? !(fabs(given - got) <= largest * (0.501 / 127) + 0x1p-134)
                                         : bits_at(again, k) != bits_at(weight, k))
                CHECK(0, "%s: %a unpacked as %a", storage_names[storage], given, got);
        }
    }
    fastgate_gate *second = create(l->m, l->n, weight, (ptrdiff_t)l->n, 1, bias);
    fastgate_gate_unpack(second, again, bias);
    CHECK(!memcmp(again, weight, l->m * l->n * width()) && !memcmp(bias, l->bias, l->m * width()),
          "%s: unpacked, packed, unpacked", storage_names[storage]);
    run_whole(second, l, "unpacked and packed");
    fastgate_gate_free(second);
    if (storage == FASTGATE_FLOAT16 || storage == FASTGATE_BFLOAT16) {
        const fastgate_storage narrow = storage;
        storage = FASTGATE_FLOAT32;
        both(l, weight, (ptrdiff_t)l->n, 1, bias, "float32 with weights of 16 bits");
        storage = narrow;
    }
    free(bias), free(again);
}

/* Outputs are near the true ones: a sum is wrong by at most 64 units, while rounding makes far less. */
static void check_value(const layer *l, const void *weight)
{
    const long double unit = is_double() ? 0x1p-53 : 0x1p-24, least = is_double() ? 0x1p-1074 : 0x1p-149;
    for (size_t b = 0; b < l->batch && b < FEW; b++) {
        const void *x = at(l->x, (ptrdiff_t)(b * l->n));
        for (size_t i = 0; i < l->m; i++) {
            const void *w = at(weight, (ptrdiff_t)(i * l->n));
            const double g = get(l->want, (ptrdiff_t)(b * l->m + i));
            long double z = get(l->bias, (ptrdiff_t)i), size = fabsl(z), slack = 0;
            for (size_t k = 0; k < l->n;) {
                const size_t end = l->n - k < 512 ? l->n : k + 512;
                long double largest = 0, weights = 0;
                for (; k < end; k++) {
                    const long double wk = get(w, (ptrdiff_t)k), xk = get(x, (ptrdiff_t)k);
                    z += wk * xk, size += fabsl(wk * xk);
                    weights += fabsl(wk), largest = fmaxl(largest, fabsl(xk));
                }
                if (storage == FASTGATE_INT8) /* which rounds x */
                    slack += weights * (largest * 0x1p-15 + 0x1p-140) + 64 * least;
            }
            slack += 64 * unit * size + (long double)l->n * least;
            if (isnan(z) || size < (is_double() ? DBL_MAX : FLT_MAX) / 4) {
                const long double low = sigma(z - slack), high = sigma(z + slack);
                CHECK(isnan(z) ? isnan(g) : g >= low * (1 - 4 * unit) - least && g <= high * (1 + 4 * unit) + least,
                      "%s, %s: %zu x %zu, row %zu of batch row %zu: %g, not %Lg to %Lg", fastgate_isa(),
                      storage_names[storage], l->m, l->n, i, b, g, low, high);
            }
            CHECK(isnan(g) || (g >= 0 && g <= 1 && !signbit(g)), "%g", g);
        }
    }
}

/* Outputs have the bits of the order of summation and of the sigmoid, which a gate without inputs computes.  Not for
 * int8, which rounds x. */
static void check_order(const layer *l, const void *weight)
{
    layer sums = {l->batch * l->m, 0, 1, NULL, numbers(l->batch * l->m), NULL, l->want, 0};
    for (size_t b = 0; b < l->batch; b++)
        for (size_t i = 0; i < l->m; i++)
            put(sums.bias, (ptrdiff_t)(b * l->m + i),
                in_order(get(l->bias, (ptrdiff_t)i), at(weight, (ptrdiff_t)(i * l->n)), at(l->x, (ptrdiff_t)(b * l->n)),
                         l->n));
    fastgate_gate *gate = create(sums.m, 0, NULL, 0, 1, sums.bias);
    run_whole(gate, &sums, "the order of summation");
    fastgate_gate_free(gate);
    free(sums.bias);
}

/* ---- shapes ------------------------------------------------------------------------------------ */

/* w if the storage can hold it, or another weight. */
static double fitting(double w)
{
    double limit;
    if (storage == FASTGATE_INT8)
        return isfinite(w) ? w : 0;
    return isfinite(w) && fabs(as_stored(w, &limit)) > limit ? ldexp(w, -113) : w;
}

static fastgate_gate *make(layer *l, size_t m, size_t n, size_t batch)
{
    *l = (layer){m, n, batch, numbers(m * n), numbers(m), numbers(batch * n), numbers(batch * m),
                 m * 65536 + n};
    int root = 0; /* it makes the sums of ordinary rows a few units */
    while ((size_t)1 << (2 * root) < n)
        root++;
    for (size_t i = 0; i < m; i++) {
        const size_t kind = below(&l->seed, 2 * KINDS);
        const int ordinary = kind == ORDINARY || kind >= KINDS;
        fill(at(l->weight, (ptrdiff_t)(i * n)), n, ordinary ? ORDINARY : (enum kind)kind, &l->seed);
        for (size_t k = i * n; k < (i + 1) * n; k++)
            put(l->weight, (ptrdiff_t)k,
                k % 11 ? fitting(ldexp(get(l->weight, (ptrdiff_t)k), ordinary ? 2 - root : 0))
                       : k % 2 ? 0.0 : -0.0);
        fill(at(l->bias, (ptrdiff_t)i), 1, kind % 7 ? ORDINARY : (enum kind)(kind % KINDS), &l->seed);
        if (i % 13 == 0)
            put(l->bias, (ptrdiff_t)i, -0.0);
    }
    for (size_t b = 0; b < batch; b++)
        fill(at(l->x, (ptrdiff_t)(b * n)), n, b % 4 != 2 ? ORDINARY : (enum kind)below(&l->seed, KINDS),
             &l->seed);
    for (size_t i = 0; i < batch * n; i += 7)
        put(l->x, (ptrdiff_t)i, i % 2 ? 0.0 : -0.0);

    fastgate_gate *gate = create(m, n, l->weight, (ptrdiff_t)n, 1, l->bias);
    for (size_t b = 0; b < batch; b++) {
        const fastgate_part x = {at(l->x, (ptrdiff_t)(b * n)), n, 0};
        CHECK(!fastgate_gate_run(gate, 1, &x, 1, at(l->want, (ptrdiff_t)(b * m)), 0), "run");
    }
    return gate;
}

static void dispose(layer *l)
{
    free(l->weight), free(l->bias), free(l->x), free(l->want);
}

static uint64_t try_shape(size_t m, size_t n, size_t batch, size_t turn)
{
    layer l;
    fastgate_gate *gate = make(&l, m, n, batch);
    const uint64_t result = digest(0xcbf29ce484222325, l.want, batch * m);
    run_whole(gate, &l, "batch");
    size_t longest = 1;
    for (size_t i = turn % 5; i && longest < n; i--)
        longest = longest * 7 + 1;
    try_split(gate, &l, longest);
    void *weight = numbers(m * n);
    try_unpacked(gate, &l, weight);
    if (!first_isa)
        check_value(&l, weight);
    if (!first_isa && storage != FASTGATE_INT8)
        check_order(&l, weight);
    free(weight);
    fastgate_gate_free(gate);
    try_layouts(&l, turn, m * n < 2500 ? 3 : 1);
    if (m)
        try_row(&l);
    if (m && n && m * n <= 100 * 100) {
        l.batch = batch < FEW ? batch : FEW;
        try_stride_0(&l);
        memset(l.bias, 0, m * width());
        gate = create(m, n, l.weight, (ptrdiff_t)n, 1, l.bias);
        const fastgate_part x = {l.x, n, (ptrdiff_t)n};
        CHECK(!fastgate_gate_run(gate, l.batch, &x, 1, l.want, (ptrdiff_t)m), "run");
        fastgate_gate_free(gate);
        both(&l, l.weight, (ptrdiff_t)n, 1, NULL, "no bias");
    }
    dispose(&l);
    return result;
}

/* Tries batches of `count` sizes, from random rows of x on, on 1 thread, or on 2 to `most_threads` if that is more. */
static void try_batches(size_t m, size_t n, const size_t *sizes_of_batch, size_t count, unsigned most_threads)
{
    layer l;
    const size_t most = sizes_of_batch[count - 1];
    fastgate_gate *gate = make(&l, m, n, most);
    for (threads = most_threads > 1 ? 2 : 1; threads <= most_threads; threads++) {
        fastgate_gate *shared = create(m, n, l.weight, (ptrdiff_t)n, 1, l.bias);
        for (size_t i = 0; i < count; i++) {
            layer some = l;
            some.batch = sizes_of_batch[i];
            const size_t from = below(&l.seed, most + 1 - some.batch);
            some.x = at(l.x, (ptrdiff_t)(from * n)), some.want = at(l.want, (ptrdiff_t)(from * m));
            run_whole(shared, &some, "batch");
            if (i % 3 == 0)
                try_split(shared, &some, n);
        }
        fastgate_gate_free(shared);
    }
    threads = 1;
    l.batch = sizes_of_batch[count / 2];
    fastgate_override_threads(3), run_whole(gate, &l, "overridden");
    fastgate_override_threads(0);
    fastgate_gate_free(gate);
    dispose(&l);
}

/* The sigmoid of many numbers of every magnitude; activations.c tries all, but is slow when emulated. */
static uint64_t try_sigmoid(void)
{
    enum { COUNT = 1 << 20 };
    layer l = {COUNT, 0, 1, NULL, numbers(COUNT), NULL, numbers(COUNT), 0};
    for (uint32_t i = 0; i < COUNT; i++)
        put(l.bias, (ptrdiff_t)i,
            is_double() ? double_of((uint64_t)i << 44 | (i * 0x9e3779b97f4a7c15 & 0xfffffffffff))
                        : float_of(i << 12 | (i * 0x9e3779b9 & 0xfff)));
    CHECK(!fastgate_gate_once(storage, COUNT, 0, NULL, 0, 1, l.bias, 1, NULL, 0, l.want, 0), "once");
    const uint64_t result = digest(0, l.want, COUNT);
    both(&l, NULL, 0, 1, l.bias, "sigmoid");
    dispose(&l);
    return result;
}

/* Every number of 16 bits as a weight gives the same as in a float32 gate. */
static void try_halves(void)
{
    static const float x[] = {0x1p-120f, 1, 0x1p24f, 0x1p126f};
    enum { COUNT = 1 << 16, BATCH = sizeof x / sizeof *x };
    layer l = {COUNT, 1, BATCH, numbers(COUNT), numbers(COUNT), (void *)x, numbers(COUNT * BATCH), 0};
    for (uint32_t i = 0; i < COUNT; i++) {
        const uint32_t magnitude = i & 0x7fff;
        double w = float_of(i << 16);
        if (storage == FASTGATE_FLOAT16 && magnitude >= 0x7c00)
            w = magnitude == 0x7c00 ? INFINITY : NAN;
        else if (storage == FASTGATE_FLOAT16)
            w = magnitude < 0x400 ? ldexp(magnitude, -24)
                                  : ldexp(magnitude % 1024 + 1024, (int)(magnitude / 1024) - 25);
        put(l.weight, (ptrdiff_t)i, i >> 15 ? -fabs(w) : fabs(w));
        put(l.bias, (ptrdiff_t)i, 0);
    }
    fastgate_gate *gate = create(COUNT, 1, l.weight, 1, 1, l.bias);
    const fastgate_part part = {x, 1, 1};
    CHECK(!fastgate_gate_run(gate, BATCH, &part, 1, l.want, COUNT), "run");
    void *weight = numbers(COUNT);
    try_unpacked(gate, &l, weight);
    fastgate_gate_free(gate);
    free(weight), free(l.weight), free(l.bias), free(l.want);
}

/* The storage rounds floats at, beside and between its own numbers, and refuses those beyond them. */
static void try_rounding(void)
{
    const uint32_t step = storage == FASTGATE_FLOAT16 ? 1 << 13 : 1 << 16, tie = step / 2;
    const uint32_t offsets[] = {0, 1, tie - 1, tie, tie + 1, step - 1};
    enum { OFFSETS = sizeof offsets / sizeof *offsets };
    const size_t all = ((size_t)1 << 32) / step * OFFSETS;
    layer l = {1, 0, 0, numbers(all), numbers(1), NULL, NULL, 0};
    put(l.bias, 0, 0);
    for (size_t i = 0; i < all; i++) {
        const double w = float_of((uint32_t)(i / OFFSETS) * step + offsets[i % OFFSETS]);
        double limit;
        if (isnan(w))
            continue;
        if (isinf(w) || fabs(as_stored(w, &limit)) <= limit) {
            put(l.weight, (ptrdiff_t)l.n++, w);
            continue;
        }
        const float weight[2] = {1, (float)w};
        fastgate_gate *gate;
        CHECK(fastgate_gate_create(&gate, storage, 1, 2, weight, 2, 1, NULL, 1) == FASTGATE_ERROR_VALUE,
              "%s: %a fits", storage_names[storage], w);
    }
    fastgate_gate *gate = create(1, l.n, l.weight, (ptrdiff_t)l.n, 1, l.bias);
    void *weight = numbers(all);
    try_unpacked(gate, &l, weight);
    fastgate_gate_free(gate);
    free(weight), free(l.weight), free(l.bias);
}

static void try_refusals(void)
{
    const double one[2] = {1};
    fastgate_gate *const untouched = (fastgate_gate *)&storage, *gate = untouched;
    double y = 7;
    for (int s = -3; s < 9; s++) {
        if (s >= 0 && s <= FASTGATE_FLOAT64)
            continue;
        CHECK(fastgate_gate_create(&gate, (fastgate_storage)s, 1, 1, one, 1, 1, one, 1) == FASTGATE_ERROR_VALUE,
              "storage %d", s);
        CHECK(fastgate_gate_once((fastgate_storage)s, 1, 1, one, 1, 1, one, 1, one, 1, &y, 1) ==
                  FASTGATE_ERROR_VALUE && y == 7, "storage %d", s);
    }
    static float weight[100 * 10];
    for (size_t i = 0; i < 1000; i += 37)
        for (int kind = 0; kind < 3; kind++) {
            weight[i] = kind == 0 ? NAN : kind == 1 ? INFINITY : -INFINITY;
            CHECK(fastgate_gate_create(&gate, FASTGATE_INT8, 100, 10, weight, 10, 1, NULL, 1) ==
                      FASTGATE_ERROR_VALUE, "int8 of %g", (double)weight[i]);
            weight[i] = 0;
        }
    CHECK(gate == untouched, "a gate that was not made");
}

int main(int argc, char **argv)
{
    (void)argv;
    static uint64_t first[STORAGES][SIZES][SIZES];
    try_refusals();
    for (size_t isa = 0; fastgate_isa_name(isa); isa++) {
        const char *name = fastgate_isa_name(isa);
        if (!fastgate_isa_usable(isa))
            continue;
        CHECK(!fastgate_select_isa(name) && !strcmp(fastgate_isa(), name), "%s", name);
        uint64_t all = 0;
        for (size_t s = 0; s < STORAGES; s++) {
            storage = storages[s];
            if (storage == FASTGATE_FLOAT32 || storage == FASTGATE_FLOAT64)
                all ^= try_sigmoid();
            if (storage == FASTGATE_FLOAT16 || storage == FASTGATE_BFLOAT16) {
                try_halves();
                if (!first_isa)
                    try_rounding();
            }
            for (size_t i = 0; i < SIZES; i++)
                for (size_t k = 0; k < SIZES; k++) {
                    const size_t m = sizes[i], n = sizes[k], turn = i * 5 + k * 7 + s;
                    /* the other storages take a third of the shapes each, since emulation is slow */
                    if (m * n > ((i + k) % 8 ? USUAL : LARGEST) || (s && (i + k + s) % 3))
                        continue;
                    const size_t batch = batches[turn % BATCHES];
                    const uint64_t d = try_shape(m, n, m * n * batch > LARGEST ? 1 + turn % FEW : batch, turn);
                    all = (all ^ d) * 0x100000001b3;
                    if (argc > 1)
                        printf("%s %s %zu x %zu %016llx\n", name, storage_names[s], m, n, (unsigned long long)d);
                    if (!first_isa)
                        first[s][i][k] = d;
                    CHECK(first[s][i][k] == d, "%s: %zu x %zu: %s and %s differ", storage_names[s], m, n,
                          first_isa, name);
                }
            static const size_t small[][2] = {{3, 20}, {83, 70}, {20, 1100}, {65, 290}};
            static const size_t large[][3] = {{130, 800, 3}, {50, 1500, 2}, {1100, 100, 2}};
            static const size_t some[] = {1, 1, 2, 5, 17, 33};
            for (size_t i = 0; i < sizeof small / sizeof *small; i++)
                try_batches(small[i][0], small[i][1], batches, BATCHES, 1);
            for (size_t i = 0; i < sizeof large / sizeof *large; i++)
                try_batches(large[i][0], large[i][1], some, sizeof some / sizeof *some, (unsigned)large[i][2]);
            /* more weights than the second cache holds, and batches of up to a group of rows, and of more */
            static const size_t groups[] = {8, 25, 96, 97};
            try_batches(3, 8300, groups, 4, 1);
            try_batches(50, 8300, groups, s ? 2 : 4, 1);
        }
        if (!first_isa)
            first_isa = name;
        printf("%s %016llx\n", name, (unsigned long long)all);
    }
    return 0;
}
