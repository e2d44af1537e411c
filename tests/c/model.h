/*
 * LSTMs under test: what each was made of, what it holds, and what its steps give by the textbook's equations.
 */
#include "test.h"

enum { LAYERS = 3, CELLS = 2 * LAYERS };

static const char *path = "", *first_isa; /* through the API, which is being tried; the first ISA, once it was tried */

/* ---- numbers ----------------------------------------------------------------------------------- */

/* the arrays of one LSTM, which are freed with it */
static void *taken[1024];
static size_t takes;

static void *take(size_t count)
{
    CHECK(takes < sizeof taken / sizeof *taken, "too many arrays");
    return taken[takes++] = numbers(count);
}

static void free_from(size_t first)
{
    while (takes > first)
        free(taken[--takes]);
}

/* A row of array a, whose rows have `size` numbers. */
static void *row_of(const void *a, size_t row, size_t size)
{
    return at(a, (ptrdiff_t)(row * size));
}

static void copy(void *to, const void *from, size_t count)
{
    memcpy(to, from, count * width());
}

static void *copied(const void *from, size_t count)
{
    void *to = take(count);
    copy(to, from, count);
    return to;
}

/* ---- LSTMs ------------------------------------------------------------------------------------- */

/* An LSTM, what it was made of, and each of its layers and directions alone. */
typedef struct {
    fastgate_lstm_options o;
    size_t output, wide; /* numbers in h, and in a row of y */
    size_t cells;
    int wild; /* some rows have other numbers than ordinary ones */
    fastgate_lstm_weights w[CELLS], unpacked[CELLS];
    fastgate_lstm *lstm, *alone[CELLS];
    uint64_t seed;
} model;

static const model *now;

#define SAME(condition, ...)                                                                       \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            const fastgate_lstm_options *o_ = &now->o;                                             \
            printf("%s, %s, %zu -> %zu -> %zu, %zu layers, %u directions%s%s, clips %g and %g, "   \
                   "peepholes %d, %u threads: %s: ", fastgate_isa(), storage_names[storage],       \
                   o_->input_size, o_->hidden_size, o_->projection_size, o_->layers, o_->directions, \
                   o_->backwards ? ", backwards" : "", o_->input_forget ? ", f = 1 - i" : "",      \
                   o_->clip, o_->gate_clip, now->w[0].peephole != NULL, o_->threads, path);        \
            CHECK(condition, __VA_ARGS__);                                                         \
        }                                                                                          \
    } while (0)

static void same_bits(const void *got, const void *want, size_t count, const char *what)
{
    for (ptrdiff_t i = 0; i < (ptrdiff_t)count; i++)
        SAME(bits_at(got, i) == bits_at(want, i), "%s[%td] of %zu: %a, not %a", what, i, count,
             get(got, i), get(want, i));
}

static fastgate_lstm *create(const fastgate_lstm_options *o, const fastgate_lstm_weights *w)
{
    fastgate_lstm *lstm;
    CHECK(!fastgate_lstm_create(&lstm, o, w), "%s: %zu, %zu", storage_names[storage], o->input_size,
          o->hidden_size);
    return lstm;
}

static size_t inputs_of(const model *m, size_t k)
{
    return k < m->o.directions ? m->o.input_size : m->wide;
}

/* Weights (rows, columns), so small that sums over `summands` inputs are within a few units. */
static void *weights(model *m, size_t rows, size_t columns, size_t summands)
{
    int root = 0;
    while ((size_t)1 << (2 * root) < summands)
        root++;
    void *w = take(rows * columns);
    /* a storage of 16 bits may not be able to hold other numbers than ordinary ones */
    const int wild = m->wild && (storage == FASTGATE_FLOAT32 || is_double());
    for (size_t r = 0; r < rows; r++) {
        const enum kind kind = wild && !below(&m->seed, 9) ? (enum kind)below(&m->seed, KINDS) : ORDINARY;
        fill(row_of(w, r, columns), columns, kind, &m->seed);
        for (size_t i = r * columns; i < (r + 1) * columns && kind == ORDINARY; i++)
            put(w, (ptrdiff_t)i, i % 11 ? ldexp(get(w, (ptrdiff_t)i), 2 - root) : i % 2 ? 0.0 : -0.0);
    }
    return w;
}

static void *vector(model *m, size_t count)
{
    void *v = take(count);
    fill(v, count, ORDINARY, &m->seed);
    for (size_t i = 0; i < count; i++)
        if (i % 13 == 0 || (m->wild && !below(&m->seed, 9)))
            put(v, (ptrdiff_t)i, i % 13 ? number((enum kind)below(&m->seed, WITH_INF), &m->seed) : -0.0);
    return v;
}

static model make(fastgate_lstm_options o, int wild, uint64_t seed)
{
    model m = {.o = o, .wild = wild, .seed = seed, .cells = o.layers * o.directions};
    const size_t hidden = o.hidden_size, output = o.projection_size ? o.projection_size : hidden;
    m.output = output, m.wide = o.directions * output;
    for (size_t k = 0; k < m.cells; k++) {
        const size_t n = inputs_of(&m, k);
        void *ih = weights(&m, 4 * hidden, n, n + output), *hh = weights(&m, 4 * hidden, output, n + output);
        void *bias = below(&m.seed, 8) ? vector(&m, 4 * hidden) : NULL;
        void *peephole = below(&m.seed, 3) ? NULL : vector(&m, 3 * hidden);
        /* some units add nothing to c */
        for (size_t unit = 3; unit < hidden; unit += 5) {
            fill_with(row_of(ih, 2 * hidden + unit, n), n, 0);
            fill_with(row_of(hh, 2 * hidden + unit, output), output, 0);
            if (bias)
                put(bias, (ptrdiff_t)(2 * hidden + unit), 0);
        }
        void *projection = o.projection_size ? weights(&m, o.projection_size, hidden, hidden) : NULL;
        m.w[k] = (fastgate_lstm_weights){ih, hh, bias, peephole, projection};
    }
    m.lstm = create(&o, m.w);
    const fastgate_lstm_options *got = fastgate_lstm_get_options(m.lstm);
    CHECK(got->storage == storage && got->input_size == o.input_size && got->hidden_size == hidden &&
              got->projection_size == o.projection_size && got->layers == o.layers &&
              got->directions == o.directions && got->backwards == o.backwards &&
              got->input_forget == o.input_forget && got->clip == o.clip &&
              got->gate_clip == o.gate_clip && got->threads == o.threads &&
              fastgate_lstm_output_size(m.lstm) == output, "what was given");
    for (size_t k = 0; k < m.cells; k++) {
        o.input_size = inputs_of(&m, k), o.layers = o.directions = o.threads = 1, o.backwards = 0;
        m.alone[k] = create(&o, &m.w[k]);
        CHECK(!hidden || fastgate_lstm_has_peephole(m.lstm, k) == (m.w[k].peephole != NULL), "peephole");
    }
    return m;
}

static void dispose(model *m)
{
    for (size_t k = 0; k < m->cells; k++)
        fastgate_lstm_free(m->alone[k]);
    fastgate_lstm_free(m->lstm);
    free_from(0);
}

/* An LSTM holds its weights as gates do; another one that is made of them replaces it. */
static void try_unpacked(model *m)
{
    const size_t hidden = m->o.hidden_size, output = m->output, projected = m->o.projection_size;
    path = "unpacked";
    for (size_t k = 0; k < m->cells; k++) {
        const size_t n = inputs_of(m, k), columns = n + output;
        void *ih = take(4 * hidden * n), *hh = take(4 * hidden * output), *bias = take(4 * hidden);
        void *peephole = take(3 * hidden), *projection = take(projected * hidden);
        fill_with(peephole, 3 * hidden, 7);
        fastgate_lstm_unpack(m->lstm, k, ih, hh, bias, peephole, projection);

        const size_t before = takes;
        void *joined = take(4 * hidden * columns), *no_bias = take(projected);
        for (size_t r = 0; r < 4 * hidden; r++) {
            copy(row_of(joined, r, columns), row_of(m->w[k].weight_ih, r, n), n);
            copy(at(row_of(joined, r, columns), (ptrdiff_t)n), row_of(m->w[k].weight_hh, r, output), output);
        }
        fastgate_gate *gate;
        CHECK(!fastgate_gate_create(&gate, storage, 4 * hidden, columns, joined, (ptrdiff_t)columns, 1, NULL,
                                    1), "create");
        void *zeros = take(4 * hidden);
        fastgate_gate_unpack(gate, joined, zeros);
        fastgate_gate_free(gate);
        for (size_t r = 0; r < 4 * hidden; r++) {
            same_bits(row_of(ih, r, n), row_of(joined, r, columns), n, "weight_ih");
            same_bits(row_of(hh, r, output), at(row_of(joined, r, columns), (ptrdiff_t)n), output, "weight_hh");
        }
        same_bits(bias, m->w[k].bias ? m->w[k].bias : zeros, 4 * hidden, "bias");
        if (m->w[k].peephole)
            same_bits(peephole, m->w[k].peephole, 3 * hidden, "peephole");
        for (size_t i = 0; i < 3 * hidden && !m->w[k].peephole; i++)
            SAME(get(peephole, (ptrdiff_t)i) == 7, "peepholes that are not there");
        if (projected) {
            CHECK(!fastgate_gate_create(&gate, storage, projected, hidden, m->w[k].projection,
                                        (ptrdiff_t)hidden, 1, NULL, 1), "create");
            void *want = take(projected * hidden);
            fastgate_gate_unpack(gate, want, no_bias);
            fastgate_gate_free(gate);
            same_bits(projection, want, projected * hidden, "projection");
        }
        free_from(before);
        m->unpacked[k] = (fastgate_lstm_weights){ih, hh, bias, m->w[k].peephole ? peephole : NULL, projection};
    }
    fastgate_lstm *again = create(&m->o, m->unpacked);
    SAME(fastgate_lstm_nbytes(again) == fastgate_lstm_nbytes(m->lstm), "nbytes");
    fastgate_lstm_free(m->lstm); /* the tests go on with the one made of unpacked weights */
    m->lstm = again;
}

/* ---- the textbook ------------------------------------------------------------------------------ */

/* The ends of an interval in which a result must lie, since operations before it were rounded; or NaN twice. */
typedef struct {
    long double low, high;
} range;

static int anything; /* not 0 if something may have overflowed: then any result is right */

static long double unit(void)
{
    return is_double() ? 0x1p-53L : 0x1p-24L;
}

static long double cell_least(void)
{
    return is_double() ? 0x1p-960L : 0x1p-100L;
}

static range exactly(long double v)
{
    return (range){v, v};
}

static range widened(range r, long double by)
{
    return (range){r.low - by, r.high + by};
}

static long double largest_of(range r)
{
    const long double size = fmaxl(fabsl(r.low), fabsl(r.high));
    anything |= size >= (is_double() ? DBL_MAX : FLT_MAX) / 4;
    return size;
}

/* The result of an operation whose error is at most 4 units. */
static range rounded(range r)
{
    return widened(r, 4 * unit() * largest_of(r) + (is_double() ? 0x1p-1074L : 0x1p-149L));
}

static range sum(range a, range b)
{
    return rounded((range){a.low + b.low, a.high + b.high});
}

static range product(range a, range b)
{
    const long double p[] = {a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high};
    if (isnan(p[0] + p[1] + p[2] + p[3]))
        return exactly(NAN);
    return rounded((range){fminl(fminl(p[0], p[1]), fminl(p[2], p[3])),
                           fmaxl(fmaxl(p[0], p[1]), fmaxl(p[2], p[3]))});
}

static range of(long double (*function)(long double), range r)
{
    return rounded((range){function(r.low), function(r.high)});
}

static range clipped(range r, double clip)
{
    const long double limit = is_double() ? clip : (float)clip;
    return isnan(r.low) || clip == 0 ? r : (range){fmaxl(-limit, fminl(limit, r.low)),
                                                  fmaxl(-limit, fminl(limit, r.high))};
}

/* z + w x, with an error of at most 64 units: rounding makes far less. */
static range dot(range z, const void *w, const range *x, size_t count)
{
    long double size = largest_of(z), sizes = 0, largest = 0;
    for (size_t k = 0; k < count; k++) {
        const long double wk = get(w, (ptrdiff_t)k), xk = largest_of(x[k]);
        z.low += wk * (wk < 0 ? x[k].high : x[k].low), z.high += wk * (wk < 0 ? x[k].low : x[k].high);
        size += fabsl(wk) * xk, sizes += fabsl(wk), largest = fmaxl(largest, xk);
    }
    largest_of(exactly(size));
    long double slack = 64 * unit() * size + (long double)count * (is_double() ? 0x1p-1074L : 0x1p-149L);
    if (storage == FASTGATE_INT8) /* which rounds x */
        slack += sizes * (largest * 0x1p-15L + 0x1p-140L) + 0x1p-143L;
    return widened(z, slack);
}

static void check_number(double got, range want, const char *what, size_t i)
{
    if (!anything)
        SAME(isnan(want.low) ? isnan(got) : got >= want.low && got <= want.high, "%s[%zu]: %g, not %Lg to %Lg",
             what, i, got, want.low, want.high);
}

static void check_not_tiny(double got, const char *what, size_t i)
{
    SAME(isnan(got) || fabs(got) >= cell_least() || (got == 0 && !signbit(got)), "%s[%zu]: %a", what, i, got);
}

/* Checks a step of one row in one layer and direction. */
static void check_step(const model *m, size_t k, const void *x, const void *h, const void *c,
                       const void *h_out, const void *c_out)
{
    const size_t n = inputs_of(m, k), hidden = m->o.hidden_size, output = m->output, before = takes;
    const fastgate_lstm_weights *w = &m->unpacked[k];
    void *row = take(n + output);
    range *xs = malloc((n + output + 1) * sizeof *xs), *outs = malloc((hidden + 1) * sizeof *outs);
    CHECK(xs && outs, "memory");
    for (size_t i = 0; i < n + output; i++)
        xs[i] = exactly(i < n ? get(x, (ptrdiff_t)i) : get(h, (ptrdiff_t)(i - n)));
    int any_output = 0;
    for (size_t u = 0; u < hidden; u++) {
        const range state = exactly(get(c, (ptrdiff_t)u));
        range z[4], peephole[3] = {{0}};
        anything = 0;
        for (size_t g = 0; g < 4; g++) {
            const size_t r = g * hidden + u;
            copy(row, row_of(w->weight_ih, r, n), n);
            copy(at(row, (ptrdiff_t)n), row_of(w->weight_hh, r, output), output);
            z[g] = dot(exactly(get(w->bias, (ptrdiff_t)r)), row, xs, n + output);
        }
        for (size_t p = 0; p < 3 && w->peephole; p++)
            peephole[p] = exactly(get(w->peephole, (ptrdiff_t)(p * hidden + u)));
        if (w->peephole)
            for (size_t g = 0; g < 2; g++)
                z[g] = sum(z[g], product(peephole[g], state));
        const range i = of(sigma, clipped(z[0], m->o.gate_clip));
        const range f = m->o.input_forget ? sum(exactly(1), (range){-i.high, -i.low})
                                          : of(sigma, clipped(z[1], m->o.gate_clip));
        const range g = of(tanhl, clipped(z[2], m->o.gate_clip));
        const range new = widened(clipped(sum(product(f, state), product(i, g)), m->o.clip), cell_least());
        check_number(get(c_out, (ptrdiff_t)u), new, "c", u);
        check_not_tiny(get(c_out, (ptrdiff_t)u), "c", u);
        if (w->peephole)
            z[3] = sum(z[3], product(peephole[2], new));
        const range o = of(sigma, clipped(z[3], m->o.gate_clip));
        outs[u] = widened(product(o, of(tanhl, new)), cell_least());
        any_output |= anything;
        if (!m->o.projection_size) {
            check_number(get(h_out, (ptrdiff_t)u), outs[u], "h", u);
            check_not_tiny(get(h_out, (ptrdiff_t)u), "h", u);
        }
    }
    for (size_t p = 0; p < m->o.projection_size; p++) {
        anything = any_output;
        const range want = dot(exactly(0), row_of(w->projection, p, hidden), outs, hidden);
        check_number(get(h_out, (ptrdiff_t)p), want, "h", p);
    }
    free(xs), free(outs);
    free_from(before);
}
