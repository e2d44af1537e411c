/*
 * An LSTM has the same bits by every path through the API: batches, sequences, lengths, streams and threads, with every
 * instruction set, give what a row alone gives, step by step, with each layer and direction as an LSTM of its own.
 * With the first instruction set the textbook's equations check these steps.  Prints a line `isa digest` for each
 * usable one; run.sh compares the digests of builds and machines.  With an argument it prints that of every shape too.
 */
#include "model.h"

enum { PAD = 3 };

/* ---- a sequence and the results it must give ---------------------------------------------------------- */

typedef struct {
    size_t steps, batch, *lengths;
    void *x, *h, *c;                  /* (batch, steps, input_size); (cells, batch, ..) */
    void *want_y, *want_h, *want_c; /* (batch, steps, wide) */
} sequence;

static void row_alone(const model *m, sequence *s, size_t b)
{
    const size_t length = s->lengths ? s->lengths[b] : s->steps, hidden = m->o.hidden_size;
    const size_t output = m->output, before = takes;
    void *scratch = take(hidden);
    const void *x = row_of(s->x, b, s->steps * m->o.input_size);
    for (size_t k = 0; k < m->cells;) {
        void *y = take(s->steps * m->wide);
        const size_t n = inputs_of(m, k);
        fill_with(y, s->steps * m->wide, 0);
        for (unsigned d = 0; d < m->o.directions; d++, k++) {
            void *h = row_of(s->want_h, k * s->batch + b, output), *c = row_of(s->want_c, k * s->batch + b, hidden);
            copy(h, row_of(s->h, k * s->batch + b, output), output);
            copy(c, row_of(s->c, k * s->batch + b, hidden), hidden);
            for (size_t i = 0; i < length; i++) {
                const size_t t = d || m->o.backwards ? length - 1 - i : i, arrays = takes;
                const void *xt = row_of(x, t, n);
                void *h_out = take(output), *c_out = take(hidden);
                CHECK(!fastgate_lstm_step(m->alone[k], 1, xt, 0, h, c, h_out, c_out, scratch), "step");
                if (!first_isa && i == 0 && b < 3)
                    check_step(m, k, xt, h, c, h_out, c_out);
                copy(h, h_out, output), copy(c, c_out, hidden);
                copy(at(y, (ptrdiff_t)(t * m->wide + d * output)), h, output);
                free_from(arrays);
            }
        }
        x = y;
    }
    copy(row_of(s->want_y, b, s->steps * m->wide), x, s->steps * m->wide);
    free_from(before);
}

static void want_all(const model *m, sequence *s)
{
    path = "alone";
    for (size_t b = 0; b < s->batch; b++)
        row_alone(m, s, b);
}

static sequence sequence_for(model *m, size_t steps, size_t batch)
{
    const size_t n = m->o.input_size, hs = batch * m->cells * m->output, cs = batch * m->cells * m->o.hidden_size;
    sequence s = {steps, batch, NULL, take(batch * steps * n), take(hs), take(cs),
                  take(batch * steps * m->wide), take(hs), take(cs)};
    for (size_t i = 0; i < batch * steps; i++)
        fill(row_of(s.x, i, n), n, i % 11 == 5 ? (enum kind)below(&m->seed, KINDS) : ORDINARY, &m->seed);
    for (size_t i = 0; i < m->cells * batch; i++) {
        void *c = row_of(s.c, i, m->o.hidden_size);
        fill(row_of(s.h, i, m->output), m->output, i % 7 == 5 ? (enum kind)below(&m->seed, KINDS) : ORDINARY,
             &m->seed);
        fill(c, m->o.hidden_size, i % 7 == 4 ? (enum kind)below(&m->seed, KINDS) : ORDINARY, &m->seed);
        /* half of c is large, half is near the limit below which c becomes 0 */
        for (size_t u = 0; u < m->o.hidden_size && i % 7 != 4; u++)
            put(c, (ptrdiff_t)u, ldexp(get(c, (ptrdiff_t)u), u % 2 ? 3 : is_double() ? -959 : -99));
    }
    want_all(m, &s);
    return s;
}

/* Rows at strides of some kind, in a field of 7s or NaNs. */
typedef struct {
    void *field, *start;
    size_t size;
    ptrdiff_t step, row;
} layout;

enum { TIME_MAJOR, BATCH_MAJOR, NEGATIVE_STEP, NEGATIVE_ROW, ALL_NEGATIVE, LAYOUTS };

static layout lay_out(const sequence *s, size_t size, int kind, double rest)
{
    const ptrdiff_t padded = (ptrdiff_t)size + PAD, steps = (ptrdiff_t)s->steps, batch = (ptrdiff_t)s->batch;
    const int by_row = kind == BATCH_MAJOR || kind == ALL_NEGATIVE;
    layout l = {NULL, NULL, s->steps * s->batch * (size_t)padded + PAD, by_row ? padded : batch * padded,
                by_row ? steps * padded : padded};
    l.field = take(l.size);
    fill_with(l.field, l.size, rest);
    l.start = at(l.field, PAD);
    if (kind == NEGATIVE_STEP || kind == ALL_NEGATIVE)
        l.start = at(l.start, (steps - 1) * l.step), l.step = -l.step;
    if (kind == NEGATIVE_ROW || kind == ALL_NEGATIVE)
        l.start = at(l.start, (batch - 1) * l.row), l.row = -l.row;
    return l;
}

static void *place(const layout *l, size_t t, size_t b)
{
    return at(l->start, (ptrdiff_t)t * l->step + (ptrdiff_t)b * l->row);
}

static void try_run(const fastgate_lstm *lstm, const model *m, const sequence *s, int x_kind, int y_kind)
{
    const size_t n = m->o.input_size, wide = m->wide, before = takes;
    const size_t hs = m->cells * s->batch * m->output, cs = m->cells * s->batch * m->o.hidden_size;
    const layout x = lay_out(s, n, x_kind, NAN), y = lay_out(s, wide, y_kind, 7);
    for (size_t t = 0; t < s->steps; t++)
        for (size_t b = 0; b < s->batch; b++)
            copy(place(&x, t, b), row_of(s->x, b * s->steps + t, n), n);
    void *h = copied(s->h, hs), *c = copied(s->c, cs);
    CHECK(!fastgate_lstm_run(lstm, s->steps, s->batch, x.start, x.step, x.row, s->lengths, h, c, y.start, y.step,
                             y.row), "run");
    for (size_t t = 0; t < s->steps; t++)
        for (size_t b = 0; b < s->batch; b++) {
            same_bits(place(&y, t, b), row_of(s->want_y, b * s->steps + t, wide), wide, "y");
            fill_with(place(&y, t, b), wide, 7);
        }
    for (size_t i = 0; i < y.size; i++)
        SAME(get(y.field, (ptrdiff_t)i) == 7, "written beside y");
    same_bits(h, s->want_h, hs, "h_n"), same_bits(c, s->want_c, cs, "c_n");
    free_from(before);
}

/* Makes a stream's step in two: of the odd rows, from last to first, and of the even rows. */
static void step_rows(fastgate_stream *stream, const model *m, size_t batch, const void *x, void *y, size_t stride)
{
    size_t rows[64];
    CHECK(batch <= 64, "batch");
    void *some_x = take(batch * stride), *some_y = take(batch * stride);
    for (size_t odd = 2; odd-- > 0;) {
        size_t count = 0;
        for (size_t b = batch; b-- > 0;)
            if (b % 2 == odd) {
                copy(row_of(some_x, count, stride), row_of(x, b, stride), m->o.input_size);
                rows[count++] = b;
            }
        fastgate_stream_step_rows(stream, rows, count, some_x, (ptrdiff_t)stride, some_y, (ptrdiff_t)stride);
        for (size_t i = 0; i < count; i++)
            copy(row_of(y, rows[i], stride), row_of(some_y, i, stride), m->output);
    }
}

/* Tries steps of the whole batch, half of them with c_out in place of c, and a stream, whose y may be x. */
static void try_steps(const fastgate_lstm *lstm, const model *m, const sequence *s)
{
    const size_t n = m->o.input_size, output = m->output, before = takes;
    const size_t hs = m->cells * s->batch * output, cs = m->cells * s->batch * m->o.hidden_size;
    const size_t stride = (n > output ? n : output) + PAD;
    void *h = copied(s->h, hs), *c = copied(s->c, cs), *scratch = take(s->batch * m->o.hidden_size);
    void *x = take(s->batch * stride), *y = take(s->batch * stride), *h_got = take(hs), *c_got = take(cs);
    fastgate_stream *stream;
    CHECK(!fastgate_stream_create(&stream, lstm, s->batch), "stream");
    fastgate_stream_get_state(stream, h_got, c_got);
    for (size_t i = 0; i < hs + cs; i++)
        SAME(!bits_at(i < hs ? h_got : c_got, (ptrdiff_t)(i < hs ? i : i - hs)), "a stream begins with zeros");
    fastgate_stream_set_state(stream, h, c);
    for (size_t t = 0; t < s->steps; t++) {
        fill_with(x, s->batch * stride, NAN), fill_with(y, s->batch * stride, 7);
        for (size_t b = 0; b < s->batch; b++)
            copy(row_of(x, b, stride), row_of(s->x, b * s->steps + t, n), n);
        void *h_out = take(hs), *c_out = t % 2 ? c : take(cs), *const h_given = copied(h, hs);
        void *const c_given = copied(c, cs);
        path = "steps";
        CHECK(!fastgate_lstm_step(lstm, s->batch, x, (ptrdiff_t)stride, h, c, h_out, c_out, scratch), "step");
        same_bits(h, h_given, hs, "h was changed");
        if (c_out != c)
            same_bits(c, c_given, cs, "c was changed");
        void *const last = row_of(h_out, m->cells - 1, s->batch * output);
        for (size_t b = 0; b < s->batch; b++)
            same_bits(row_of(last, b, output), row_of(s->want_y, b * s->steps + t, output), output, "h");
        h = h_out, c = c_out;

        path = "stream";
        void *const to = t % 3 == 1 ? x : y;
        if (t % 3 == 2)
            step_rows(stream, m, s->batch, x, to, stride);
        else
            fastgate_stream_step(stream, x, (ptrdiff_t)stride, to, (ptrdiff_t)stride);
        for (size_t b = 0; b < s->batch; b++) {
            same_bits(row_of(to, b, stride), row_of(last, b, output), output, "y");
            for (size_t i = output; i < stride && to == y; i++)
                SAME(get(y, (ptrdiff_t)(b * stride + i)) == 7, "written beside y");
        }
        if (t % 2 == 0) {
            for (size_t b = 0; b < s->batch; b++)
                fastgate_stream_reset(stream, b);
            fastgate_stream_set_state(stream, h, c);
        }
        fastgate_stream_get_state(stream, h_got, c_got);
        same_bits(h_got, h, hs, "h of a stream"), same_bits(c_got, c, cs, "c of a stream");
    }
    path = "steps";
    same_bits(h, s->want_h, hs, "h_n"), same_bits(c, s->want_c, cs, "c_n");
    if (s->batch) {
        const size_t one = s->batch / 2;
        fastgate_stream_reset(stream, one);
        for (size_t k = 0; k < m->cells; k++) {
            fill_with(row_of(h, k * s->batch + one, output), output, 0);
            fill_with(row_of(c, k * s->batch + one, m->o.hidden_size), m->o.hidden_size, 0);
        }
        path = "reset";
        fastgate_stream_get_state(stream, h_got, c_got);
        same_bits(h_got, h, hs, "h"), same_bits(c_got, c, cs, "c");
    }
    fastgate_stream_free(stream);
    free_from(before);
}

static void try_lengths(const model *m, sequence s)
{
    static const char *const paths[] = {"lengths", "lengths that rise", "lengths that fall"};
    size_t lengths[64];
    uint64_t seed = m->seed;
    CHECK(s.batch <= 64, "batch");
    for (int kind = 0; kind < 3; kind++) {
        for (size_t b = 0; b < s.batch; b++)
            lengths[b] = kind == 0 ? below(&seed, s.steps + 1) : b * (s.steps + 1) / s.batch;
        for (size_t b = 0; b < s.batch / 2 && kind == 2; b++) {
            const size_t swapped = lengths[b];
            lengths[b] = lengths[s.batch - 1 - b], lengths[s.batch - 1 - b] = swapped;
        }
        s.lengths = lengths;
        want_all(m, &s);
        path = paths[kind];
        try_run(m->lstm, m, &s, kind, kind + 1);
    }
}

static uint64_t try_all(model *m, size_t steps, size_t batch, size_t turn)
{
    now = m;
    try_unpacked(m);
    sequence s = sequence_for(m, steps, batch);
    uint64_t hash = digest(0xcbf29ce484222325, s.want_y, batch * steps * m->wide);
    hash = digest(hash, s.want_h, m->cells * batch * m->output);
    hash = digest(hash, s.want_c, m->cells * batch * m->o.hidden_size);
    path = "sequence";
    try_run(m->lstm, m, &s, (int)(turn % LAYOUTS), (int)(turn / 2 % LAYOUTS));
    if (m->o.directions == 1 && !m->o.backwards)
        try_steps(m->lstm, m, &s);
    if (turn % 2)
        try_lengths(m, s);
    return hash;
}

/* The gates' sums are those of x and then of h, in the order of summation: a step has the bits of a step without inputs
 * whose biases are these sums.  Not for int8, which rounds x. */
static void try_sums(size_t n, size_t hidden, size_t batch)
{
    if (storage == FASTGATE_INT8)
        return;
    const fastgate_lstm_options o = {storage, n, hidden, .layers = 1, .directions = 1};
    const fastgate_lstm_options without = {storage, 0, hidden, .layers = 1, .directions = 1};
    model m = {.o = o, .output = hidden, .wide = hidden, .cells = 1, .seed = n + hidden};
    void *ih = weights(&m, 4 * hidden, n, n + hidden), *hh = weights(&m, 4 * hidden, hidden, n + hidden);
    void *bias = vector(&m, 4 * hidden), *sums = take(4 * hidden), *zeros = take(4 * hidden * hidden);
    m.w[0] = (fastgate_lstm_weights){ih, hh, bias, NULL, NULL};
    m.lstm = create(&o, m.w), m.cells = 0;
    fastgate_lstm_unpack(m.lstm, 0, ih, hh, bias, NULL, NULL); /* so that they are rounded */
    void *x = take(batch * n), *h = take(batch * hidden), *c = take(batch * hidden);
    void *got_h = take(batch * hidden), *got_c = take(batch * hidden), *want_h = take(hidden), *want_c = take(hidden);
    fill(x, batch * n, ORDINARY, &m.seed), fill(h, batch * hidden, ORDINARY, &m.seed);
    fill(c, batch * hidden, ORDINARY, &m.seed), fill_with(zeros, 4 * hidden * hidden, 0);
    CHECK(!fastgate_lstm_step(m.lstm, batch, x, (ptrdiff_t)n, h, c, got_h, got_c, NULL), "step");
    now = &m, path = "the sums";
    for (size_t b = 0; b < batch; b++) {
        for (size_t r = 0; r < 4 * hidden; r++) {
            const double of_x = in_order(get(bias, (ptrdiff_t)r), row_of(ih, r, n), row_of(x, b, n), n);
            put(sums, (ptrdiff_t)r, in_order(of_x, row_of(hh, r, hidden), row_of(h, b, hidden), hidden));
        }
        fastgate_lstm *lstm = create(&without, &(fastgate_lstm_weights){NULL, zeros, sums, NULL, NULL});
        CHECK(!fastgate_lstm_step(lstm, 1, NULL, 0, zeros, row_of(c, b, hidden), want_h, want_c, NULL), "step");
        fastgate_lstm_free(lstm);
        same_bits(row_of(got_c, b, hidden), want_c, hidden, "c");
        same_bits(row_of(got_h, b, hidden), want_h, hidden, "h");
    }
    dispose(&m);
}

static uint64_t try_threads(size_t n, size_t hidden, size_t projection, size_t batch, unsigned directions)
{
    const fastgate_lstm_options o = {storage, n, hidden, projection, 1, directions, .threads = 1};
    model m = make(o, 0, n * 65536 + hidden);
    const uint64_t hash = try_all(&m, 2, batch, 0);
    sequence s = sequence_for(&m, 2, batch);
    for (unsigned threads = 2; threads <= 4; threads++) {
        m.o.threads = threads < 4 ? threads : 1;
        fastgate_override_threads(threads < 4 ? 0 : 3);
        fastgate_lstm *shared = create(&m.o, m.w);
        path = "threads";
        try_run(shared, &m, &s, TIME_MAJOR, BATCH_MAJOR);
        if (directions == 1)
            try_steps(shared, &m, &s);
        fastgate_lstm_free(shared);
    }
    fastgate_override_threads(0);
    dispose(&m);
    return hash;
}

/* Tries so many steps that the products with x are computed ahead, in several pieces, and that threads share layers,
 * directions and rows.  Of 7 rows two threads get 3 and 4; only the products of the 3 rows are computed ahead. */
static uint64_t try_long(size_t n, size_t hidden, size_t batch, unsigned directions, size_t turn)
{
    const fastgate_lstm_options o = {storage, n, hidden, 0, 2, directions, .threads = 1};
    model m = make(o, 0, n * 65536 + hidden + batch);
    const uint64_t hash = try_all(&m, 101, batch, turn);
    sequence s = sequence_for(&m, 101, batch);
    for (unsigned threads = 2; threads <= 3; threads++) {
        fastgate_override_threads(threads);
        path = "threads, of a long sequence";
        want_all(&m, &s); /* try_lengths changed the wanted results */
        try_run(m.lstm, &m, &s, TIME_MAJOR, BATCH_MAJOR);
        if (turn % 2)
            try_lengths(&m, s);
    }
    fastgate_override_threads(0);
    dispose(&m);
    return hash;
}

/* Tries so many bytes of weights that products are computed ahead for batches of several rows too. */
static void try_large(size_t n, size_t hidden, size_t batch)
{
    const fastgate_lstm_options o = {storage, n, hidden, 0, 1, 1, .threads = 1};
    model m = make(o, 0, n + batch);
    try_all(&m, 48 / batch + 2, batch, 0);
    dispose(&m);
}

/* ---- shapes ------------------------------------------------------------------------------------ */

static const size_t sizes[] = {0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65};
enum { SIZES = sizeof sizes / sizeof *sizes, SMALL = 2500 };

/* Chooses all options by chance, but the same on every machine. */
static uint64_t try_shape(size_t n, size_t hidden, size_t turn)
{
    static const size_t projections[] = {1, 5, 8, 16, 19, 40}, batches[] = {1, 2, 3, 5, 9, 17};
    uint64_t seed = turn * 65536 + n * 256 + hidden;
    fastgate_lstm_options o = {storage, n, hidden, .layers = 1, .directions = 1 + !below(&seed, 4)};
    const int small = hidden * (n + hidden) <= SMALL;
    if (small)
        o.layers += below(&seed, LAYERS);
    if (!below(&seed, 3))
        o.projection_size = projections[below(&seed, sizeof projections / sizeof *projections)];
    o.backwards = o.directions == 1 && !below(&seed, 3);
    o.input_forget = !below(&seed, 5);
    o.clip = below(&seed, 3) ? 0 : 0.75, o.gate_clip = below(&seed, 3) ? 0 : 1.25;
    const size_t batch = small ? batches[below(&seed, sizeof batches / sizeof *batches)] : 1 + turn % 3;
    const int wild = !below(&seed, 4);
    model m = make(o, wild, seed);
    const uint64_t result = try_all(&m, small ? below(&seed, 6) : 2, batch, turn);
    dispose(&m);
    return result;
}

int main(int argc, char **argv)
{
    (void)argv;
    static uint64_t first[STORAGES][SIZES * SIZES];
    /* several spans of x or h, with and without a short one, more inputs than int8 rounds at once; work for threads */
    static const size_t large[][5] = {{1100, 5, 0, 3, 1}, {256, 260, 0, 1, 1}, {4090, 9, 0, 2, 1}, {512, 513, 0, 2, 1},
                                      {10, 17, 1100, 2, 1}, {3, 9, 9300, 2, 1}, {100, 130, 0, 2, 2},
                                      {60, 200, 70, 1, 1}, {20, 40, 0, 64, 2},
                                      {250, 200, 0, 3, 1}};
    for (size_t isa = 0; fastgate_isa_name(isa); isa++) {
        const char *name = fastgate_isa_name(isa);
        if (fastgate_select_isa(name))
            continue;
        uint64_t all = 0;
        for (size_t s = 0; s < STORAGES; s++) {
            storage = storages[s];
            for (size_t i = 0; i < SIZES * SIZES; i++) {
                const size_t n = sizes[i / SIZES], hidden = sizes[i % SIZES];
                /* the other storages take a third of the shapes each, since emulation is slow */
                if (s && (i / SIZES + i + s) % 3)
                    continue;
                const uint64_t d = try_shape(n, hidden, i * 5 + s);
                all = (all ^ d) * 0x100000001b3;
                if (argc > 1)
                    printf("%s %s %zu -> %zu %016llx\n", name, storage_names[s], n, hidden,
                           (unsigned long long)d);
                if (!first_isa)
                    first[s][i] = d;
                CHECK(first[s][i] == d, "%s: %zu -> %zu: %s and %s differ", storage_names[s], n, hidden,
                      first_isa, name);
                try_sums(n, hidden, 1 + i % 4);
            }
            for (size_t i = 0; i < sizeof large / sizeof *large; i++) {
                const size_t *l = large[i];
                all = (all ^ try_threads(l[0], l[1], l[2], l[3], (unsigned)l[4])) * 0x100000001b3;
                try_sums(l[0], l[1], l[3]);
            }
        }
        for (size_t i = 0; i < 5 * STORAGES; i++) {
            storage = storages[i % STORAGES];
            const size_t batch = 1 + i / STORAGES;
            all = (all ^ try_long(batch % 2 ? 48 : 65, 17, batch, 1 + i % 2, i)) * 0x100000001b3;
            if (batch == 1)
                try_long(48, 33, 7, 1, 0);
            if (batch == 2 && (storage == FASTGATE_FLOAT32 || storage == FASTGATE_FLOAT64))
                try_large(4200, 17, 5);
        }
        if (!first_isa)
            first_isa = name;
        printf("%s %016llx\n", name, (unsigned long long)all);
    }
    return 0;
}
