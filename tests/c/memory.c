/*
 * Gates and LSTMs refuse sizes that overflow or do not fit, survive allocations that fail, and touch nothing beyond
 * their arrays, which end or begin at a page without access.  failing.h says how to link it.
 */
#include "failing.h"

static char path[64]; /* of a file that tests create and remove */

static const void *const numbers_of_0 = (const double[3 * 1000]){0};

/* Starts threads ahead: a static C library keeps what it allocates for them, which is no leak of a later call. */
static void start_threads(void)
{
    enum { M = 2200, N = 1000 };
    const fastgate_part x = {numbers_of_0, N, 0};
    static float y[M];
    fastgate_gate *gate;
    CHECK(!fastgate_gate_create(&gate, FASTGATE_FLOAT32, M, N, numbers_of_0, 0, 1, NULL, 2), "create");
    CHECK(!fastgate_gate_run(gate, 1, &x, 1, y, 0), "run");
    fastgate_gate_free(gate);
    usleep(100000);
}

static void try_failing_allocations(size_t m, size_t n, unsigned threads)
{
    const void *const zeros = numbers_of_0;
    const ptrdiff_t stride = (ptrdiff_t)m;
    fastgate_gate *const untouched = (fastgate_gate *)&live, *gate = untouched;
    const long before = live;
    FAIL_EACH(fastgate_gate_create(&gate, storage, m, n, zeros, 0, 1, NULL, threads), gate == untouched)

    const fastgate_part x = {zeros, n, 0};
    void *y = numbers(3 * m);
    CHECK(!fastgate_gate_run(gate, 1, &x, 1, y, 0), "run");
    const long held = live;
    until_failure = 0; /* calls must allocate nothing */
    for (size_t batch = 1; batch <= 3; batch++)
        CHECK(!fastgate_gate_run(gate, batch, &x, 1, y, stride), "run");
    fastgate_gate_once(storage, m, n, zeros, 0, 1, NULL, 3, zeros, 0, y, stride);
    fastgate_gate_once(storage, m, n, zeros, 1, 0, NULL, 3, zeros, 0, y, stride);
    fastgate_gate_once(storage, m, n / 2, zeros, 0, 2, NULL, 3, zeros, 0, y, stride);
    CHECK(until_failure == 0 && live == held, "a call allocated");
    until_failure = -1;
    CHECK(get(y, 0) == 0.5 && get(y, 3 * stride - 1) == 0.5, "sigma(0)");
    free(y);
    char *block = malloc(fastgate_gate_saved_size(gate) + 64), *buffer = block + 64 - (uintptr_t)block % 64;
    CHECK(block, "a buffer");
    fastgate_gate_save(gate, buffer);
    fastgate_gate *loaded = untouched;
    FAIL_EACH(fastgate_gate_load(&loaded, buffer, fastgate_gate_saved_size(gate)), loaded == untouched)
    fastgate_gate_free(loaded), loaded = untouched;
    free(block);
    FAIL_EACH(fastgate_gate_save_file(gate, path), access(path, F_OK))
    FAIL_EACH(fastgate_gate_load_file(&loaded, path), loaded == untouched)
    fastgate_gate_free(loaded);
    unlink(path);
    fastgate_gate_free(gate);
    fastgate_gate_free(NULL);
    CHECK(live == before, "%ld blocks leaked", live - before);
}

static void try_sizes_that_overflow(void)
{
    static const size_t sizes[][2] = {
        {SIZE_MAX, SIZE_MAX},      {SIZE_MAX, 0},           {SIZE_MAX, 1},     {1, SIZE_MAX},
        {SIZE_MAX - 15, 1},        {1, SIZE_MAX - 1},       {SIZE_MAX / 4, 4}, {SIZE_MAX / 2, 2},
        {SIZE_MAX / 64, 16},       {16, SIZE_MAX / 64},     {3, SIZE_MAX / 4}, {SIZE_MAX / 4 + 1, 0},
        {(size_t)1 << 32, (size_t)1 << 32}, {(size_t)1 << 31, (size_t)1 << 31},
        {PTRDIFF_MAX, 0},          {PTRDIFF_MAX / 4, 0},    {1, PTRDIFF_MAX / 64},
        {(size_t)1 << 40, (size_t)1 << 18}}; /* the last fit, but there is no such memory */
    fastgate_gate *const untouched = (fastgate_gate *)&live, *gate = untouched;
    const long before = live;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const int rc = fastgate_gate_create(&gate, storage, sizes[i][0], sizes[i][1], NULL, 0, 0, NULL, 1);
        CHECK(rc == FASTGATE_ERROR_MEMORY && gate == untouched && live == before, "%zu x %zu: %d",
              sizes[i][0], sizes[i][1], rc);
    }
}

static void try_parts_that_do_not_fit(void)
{
    static const double zeros[20 * 10];
    const void *const weight = zeros;
    static const struct {
        size_t count, size[4];
    } wrong[] = {{0, {0}},          {1, {0}},           {1, {9}},          {1, {11}},
                 {2, {4, 5}},       {2, {4, 7}},        {2, {10, 10}},     {3, {10, 0, 1}},
                 {1, {SIZE_MAX}},   {2, {SIZE_MAX, 11}}, {2, {11, SIZE_MAX}},
                 {3, {SIZE_MAX / 2 + 1, SIZE_MAX / 2 + 1, 10}}};
    fastgate_gate *gate, *without_inputs;
    CHECK(!fastgate_gate_create(&gate, storage, 20, 10, weight, 10, 1, NULL, 1), "create");
    CHECK(!fastgate_gate_create(&without_inputs, storage, 20, 0, NULL, 1, 1, NULL, 1), "create");
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        fastgate_part parts[4];
        double y[20];
        for (size_t k = 0; k < 4; k++)
            parts[k] = (fastgate_part){weight, wrong[i].size[k], 0};
        for (size_t k = 0; k < 20; k++)
            y[k] = 7;
        CHECK(fastgate_gate_run(gate, 1, parts, wrong[i].count, y, 20) == FASTGATE_ERROR_SHAPE, "%zu", i);
        CHECK(fastgate_gate_run(gate, 0, parts, wrong[i].count, y, 20) == FASTGATE_ERROR_SHAPE, "%zu", i);
        for (size_t k = 0; k < 20; k++)
            CHECK(y[k] == 7, "case %zu wrote y", i);
    }
    const fastgate_part one = {weight, 1, 0};
    double y[20];
    CHECK(fastgate_gate_run(without_inputs, 1, &one, 1, y, 0) == FASTGATE_ERROR_SHAPE, "no inputs");
    CHECK(!fastgate_gate_run(without_inputs, 2, NULL, 0, y, 0) && get(y, 19) == 0.5, "no inputs");
    CHECK(!fastgate_gate_run(without_inputs, 0, NULL, 0, NULL, 0), "no inputs, no batch");
    fastgate_gate_unpack(without_inputs, NULL, y);
    CHECK(get(y, 19) == 0, "unpacked");
    fastgate_gate_free(gate), fastgate_gate_free(without_inputs);
}

static void try_names(void)
{
    const char *before = fastgate_isa();
    static const char *const unknown[] = {"avx", "AVX2", "avx5122", "base ", " ", "sse9"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++)
        CHECK(fastgate_select_isa(unknown[i]) == FASTGATE_ERROR_ISA && fastgate_isa() == before, "%s",
              unknown[i]);
    size_t count = 0;
    while (fastgate_isa_name(count)) {
        const int rc = fastgate_select_isa(fastgate_isa_name(count));
        CHECK(rc == (fastgate_isa_usable(count) ? FASTGATE_OK : FASTGATE_ERROR_ISA), "usable");
        count++;
    }
    CHECK(count && !strcmp(fastgate_isa_name(count - 1), "base"), "base is last");
    CHECK(!fastgate_isa_name(count + 1) && !fastgate_isa_name(SIZE_MAX), "past the end");
    CHECK(!fastgate_isa_usable(count) && !fastgate_isa_usable(SIZE_MAX), "past the end");
    CHECK(!fastgate_select_isa("") && !strcmp(fastgate_isa(), before), "the best again");
    for (int code = -2; code < 10; code++)
        CHECK(fastgate_strerror(code) && *fastgate_strerror(code), "%d", code);
}

/* ---- LSTMs ---------------------------------------------------------------------------------- */

static fastgate_lstm *const no_lstm = (fastgate_lstm *)&live; /* a call that fails must leave it */

static int all_are(const void *a, size_t count, double value)
{
    for (size_t i = 0; i < count; i++)
        if (get(a, (ptrdiff_t)i) != value)
            return 0;
    return 1;
}

static void *all_of(double value, size_t count)
{
    void *a = numbers(count);
    fill_with(a, count, value);
    return a;
}

static const fastgate_lstm_weights zero_weights = {numbers_of_0, numbers_of_0, numbers_of_0, numbers_of_0,
                                                   numbers_of_0};

static void try_failing_allocations_of_lstm(void)
{
    enum { N = 10, H = 17, P = 5, LAYERS = 2, DIRECTIONS = 2, CELLS = 4, STEPS = 3, BATCH = 2 };
    fastgate_lstm_options o = {storage, N, H, P, LAYERS, DIRECTIONS, .threads = 1};
    const fastgate_lstm_weights w[CELLS] = {zero_weights, zero_weights, zero_weights, zero_weights};
    const size_t lengths[BATCH] = {1, STEPS}, hs = CELLS * BATCH * P, cs = CELLS * BATCH * H;
    const void *const x = numbers_of_0;
    const long before = live;
    fastgate_lstm *lstm = no_lstm;
    FAIL_EACH(fastgate_lstm_create(&lstm, &o, w), lstm == no_lstm)

    const size_t ys = STEPS * BATCH * DIRECTIONS * P;
    void *h = all_of(7, hs), *c = all_of(7, cs), *y = all_of(7, ys);
    const ptrdiff_t row = DIRECTIONS * P;
#define RUN(lengths) fastgate_lstm_run(lstm, STEPS, BATCH, x, BATCH *N, N, lengths, h, c, y, BATCH *row, row)
#define UNCHANGED (all_are(h, hs, 7) && all_are(c, cs, 7) && all_are(y, ys, 7))
    FAIL_EACH(RUN(lengths), UNCHANGED)
    fill_with(h, hs, 7), fill_with(c, cs, 7), fill_with(y, ys, 7);
    FAIL_EACH(RUN(NULL), UNCHANGED)
#undef RUN
#undef UNCHANGED
    void *ih = all_of(7, 4 * H * N), *hh = all_of(7, 4 * H * P), *bias = all_of(7, 4 * H);
    void *peephole = all_of(7, 3 * H), *projection = all_of(7, P * H);
    fastgate_lstm_unpack(lstm, CELLS - 1, ih, hh, bias, peephole, projection);
    CHECK(all_are(ih, 4 * H * N, 0) && all_are(hh, 4 * H * P, 0) && all_are(bias, 4 * H, 0) &&
              all_are(peephole, 3 * H, 0) && all_are(projection, P * H, 0), "unpacked");
    FAIL_EACH(fastgate_lstm_save_file(lstm, path), access(path, F_OK))
    fastgate_lstm_free(lstm), lstm = no_lstm;
    FAIL_EACH(fastgate_lstm_load_file(&lstm, path), lstm == no_lstm)
    fastgate_lstm_free(lstm);
    unlink(path);

    o.directions = 1;
    CHECK(!fastgate_lstm_create(&lstm, &o, w), "create");
    fastgate_stream *const no_stream = (fastgate_stream *)&live, *stream = no_stream;
    FAIL_EACH(fastgate_stream_create(&stream, lstm, BATCH), stream == no_stream)
    void *h_out = numbers(hs), *c_out = numbers(cs), *scratch = numbers(BATCH * H);
    until_failure = 0; /* steps must allocate nothing */
    for (int turn = 0; turn < 3; turn++) {
        CHECK(!fastgate_lstm_step(lstm, BATCH, x, N, h, c, h_out, c_out, scratch), "step");
        fastgate_stream_step(stream, x, N, y, P);
        fastgate_stream_reset(stream, BATCH - 1);
        fastgate_stream_get_state(stream, h, c), fastgate_stream_set_state(stream, h, c);
    }
    CHECK(until_failure == 0, "a step allocated");
    until_failure = -1;
    fastgate_stream_free(stream), fastgate_stream_free(NULL);
    fastgate_lstm_free(lstm), fastgate_lstm_free(NULL);

    o.projection_size = 0, o.layers = 1; /* then a sequence must allocate nothing either */
    CHECK(!fastgate_lstm_create(&lstm, &o, w), "create");
    void *const wide = numbers(STEPS * BATCH * H);
    until_failure = 0;
    CHECK(!fastgate_lstm_run(lstm, STEPS, BATCH, x, BATCH * N, N, NULL, c, c_out, wide, BATCH * H, H) &&
              until_failure == 0, "a run allocated");
    until_failure = -1;
    fastgate_lstm_free(lstm);
    void *const arrays[] = {h, c, y, ih, hh, bias, peephole, projection, h_out, c_out, scratch, wide};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
    CHECK(live == before, "%ld blocks leaked", live - before);
}

/* A small LSTM whose weights are zeros. */
static fastgate_lstm *small_lstm(size_t layers, size_t projection, unsigned directions, int backwards)
{
    const fastgate_lstm_options o = {storage, 3, 4, projection, layers, directions, backwards, .threads = 1};
    const fastgate_lstm_weights w[4] = {zero_weights, zero_weights, zero_weights, zero_weights};
    fastgate_lstm *lstm;
    CHECK(!fastgate_lstm_create(&lstm, &o, w), "create");
    return lstm;
}

static void try_sizes_of_lstm_that_overflow(void)
{
    static const struct {
        size_t input, hidden, projection, layers;
    } sizes[] = {{1, SIZE_MAX, 0, 1},  {1, PTRDIFF_MAX / 64, 0, 1}, {1, PTRDIFF_MAX / 64 + 1, 0, 1},
                 {0, PTRDIFF_MAX, 0, 1}, {1, (size_t)1 << 30, 0, 1},  {1, SIZE_MAX - 15, 0, 1},
                 {SIZE_MAX, 1, 0, 1},  {SIZE_MAX - 1, 1, 1, 1},
                 {PTRDIFF_MAX, 1, 0, 1}, {PTRDIFF_MAX / 64, 1, 0, 1}, {PTRDIFF_MAX / 256, 16, 0, 1},
                 {1, 1, SIZE_MAX, 1},  {1, 1, PTRDIFF_MAX / 64, 1}, {1, 0, PTRDIFF_MAX / 64 + 1, 1},
                 {1, (size_t)1 << 32, (size_t)1 << 32, 1},          {1, 1, 0, SIZE_MAX},
                 {1, 1, 0, PTRDIFF_MAX / 64},                       {1, 1, 0, PTRDIFF_MAX / 4096},
                 {1, (size_t)1 << 22, 0, 1}}; /* the last fit, but there is no such memory */
    static const fastgate_lstm_weights nothing = {NULL, NULL, NULL, NULL, NULL};
    const long before = live;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (unsigned directions = 1; directions <= 2; directions++) {
            const fastgate_lstm_options o = {storage, sizes[i].input, sizes[i].hidden, sizes[i].projection,
                                             sizes[i].layers, directions, .threads = 1};
            fastgate_lstm *lstm = no_lstm;
            const int rc = fastgate_lstm_create(&lstm, &o, &nothing);
            CHECK(rc == FASTGATE_ERROR_MEMORY && lstm == no_lstm && live == before, "%zu: %d", i, rc);
        }
    double state[64] = {0};
    fastgate_lstm *lstm = small_lstm(2, 2, 1, 0);
    static const size_t runs[][2] = {{SIZE_MAX, 1}, {1, SIZE_MAX}, {SIZE_MAX, SIZE_MAX},
                                     {(size_t)1 << 44, (size_t)1 << 44}, {SIZE_MAX / 16, 1},
                                     {2, PTRDIFF_MAX / 16}, {(size_t)1 << 40, 1 << 10}};
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        CHECK(fastgate_lstm_run(lstm, runs[i][0], runs[i][1], state, 0, 0, NULL, state, state, state, 0, 0) ==
                  FASTGATE_ERROR_MEMORY, "run %zu", i);
        fastgate_stream *const no_stream = (fastgate_stream *)&live, *stream = no_stream;
        if (runs[i][1] > 1 << 10)
            CHECK(fastgate_stream_create(&stream, lstm, runs[i][1]) == FASTGATE_ERROR_MEMORY &&
                      stream == no_stream, "stream %zu", i);
    }
    fastgate_lstm_free(lstm);
    lstm = small_lstm(1, 0, 1, 0);
    for (size_t less = 0; less < 3; less++)
        CHECK(fastgate_lstm_run(lstm, SIZE_MAX - less, 1, state, 0, 0, (size_t[]){0}, state, state, state, 0, 0) ==
                  FASTGATE_ERROR_MEMORY, "steps that overflow");
    fastgate_lstm_free(lstm);
    CHECK(all_are(state, 64, 0) && live == before, "%ld blocks leaked", live - before);
}

static void try_bad_options(void)
{
    const fastgate_lstm_options good = {storage, 3, 4, 2, 1, 1, .threads = 1};
    struct {
        fastgate_lstm_options o;
        int rc;
    } cases[16];
    size_t count = 0;
#define BAD(member, value, code) (cases[count].o = good, cases[count].rc = code, cases[count++].o.member = value)
    BAD(storage, (fastgate_storage)-1, FASTGATE_ERROR_VALUE), BAD(storage, (fastgate_storage)5, FASTGATE_ERROR_VALUE);
    BAD(clip, -1, FASTGATE_ERROR_VALUE), BAD(clip, NAN, FASTGATE_ERROR_VALUE);
    BAD(clip, -INFINITY, FASTGATE_ERROR_VALUE), BAD(gate_clip, -1e-300, FASTGATE_ERROR_VALUE);
    BAD(gate_clip, NAN, FASTGATE_ERROR_VALUE), BAD(layers, 0, FASTGATE_ERROR_SHAPE);
    BAD(directions, 0, FASTGATE_ERROR_SHAPE), BAD(directions, 3, FASTGATE_ERROR_SHAPE);
    BAD(directions, 2, FASTGATE_ERROR_SHAPE), cases[count - 1].o.backwards = 1;
    BAD(clip, INFINITY, FASTGATE_OK), BAD(gate_clip, INFINITY, FASTGATE_OK), BAD(threads, 0, FASTGATE_OK);
    BAD(backwards, 1, FASTGATE_OK);
#undef BAD
    const long before = live;
    const fastgate_lstm_weights w[2] = {zero_weights, zero_weights};
    for (size_t i = 0; i < count; i++) {
        fastgate_lstm *lstm = no_lstm;
        CHECK(fastgate_lstm_create(&lstm, &cases[i].o, w) == cases[i].rc && (lstm == no_lstm) == (cases[i].rc != 0),
              "case %zu", i);
        if (!cases[i].rc)
            fastgate_lstm_free(lstm);
    }
    /* each matrix in turn has a weight that the storage cannot hold */
    for (int matrix = 0; matrix < 3 && !is_double() && storage != FASTGATE_FLOAT32; matrix++) {
        void *weight = all_of(0, 48);
        put(weight, 5, storage == FASTGATE_INT8 ? INFINITY : FLT_MAX);
        fastgate_lstm_weights bad = zero_weights;
        *(matrix == 0 ? &bad.weight_ih : matrix == 1 ? &bad.weight_hh : &bad.projection) = weight;
        fastgate_lstm *lstm = no_lstm;
        CHECK(fastgate_lstm_create(&lstm, &good, &bad) == FASTGATE_ERROR_VALUE && lstm == no_lstm, "matrix %d",
              matrix);
        free(weight);
    }
    /* a backwards LSTM makes no single steps, and a length is at most the number of steps */
    void *const sevens = all_of(7, 64);
    for (int backwards = 0; backwards < 2; backwards++) {
        fastgate_lstm *lstm = small_lstm(1, 2, 2 - (unsigned)backwards, backwards);
        fastgate_stream *const no_stream = (fastgate_stream *)&live, *stream = no_stream;
        CHECK(fastgate_lstm_step(lstm, 2, sevens, 3, sevens, sevens, sevens, sevens, sevens) == FASTGATE_ERROR_SHAPE,
              "a step");
        CHECK(fastgate_stream_create(&stream, lstm, 2) == FASTGATE_ERROR_SHAPE && stream == no_stream, "a stream");
        CHECK(fastgate_lstm_run(lstm, 2, 2, sevens, 3, 6, (size_t[]){2, 3}, sevens, sevens, sevens, 8, 4) ==
                  FASTGATE_ERROR_SHAPE, "a length");
        CHECK(!fastgate_lstm_run(lstm, 0, 2, sevens, 3, 6, (size_t[]){0, 0}, sevens, sevens, sevens, 8, 4) &&
                  !fastgate_lstm_run(lstm, 2, 0, sevens, 3, 6, NULL, sevens, sevens, sevens, 8, 4), "nothing to do");
        CHECK(all_are(sevens, 64, 7), "written");
        fastgate_lstm_free(lstm);
    }
    free(sevens);
    CHECK(live == before, "%ld blocks leaked", live - before);
}

/* ---- arrays at the edge of a page ----------------------------------------------------------- */

enum { PATTERN = 0x5a };

typedef struct {
    char *pages; /* `size` bytes, between two pages without access */
    size_t size;
} fenced;

enum { PAGE = 1 << 16 }; /* a multiple of the size of pages */

static fenced fence(size_t count)
{
    const size_t size = (count * width() + PAGE - 1) / PAGE * PAGE;
#ifdef _WIN32
    char *all = VirtualAlloc(NULL, size + 2 * PAGE, MEM_RESERVE, PAGE_NOACCESS);
    CHECK(all && (!size || VirtualAlloc(all + PAGE, size, MEM_COMMIT, PAGE_READWRITE)), "pages");
#else
    char *all = mmap(NULL, size + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(all != MAP_FAILED && !mprotect(all + PAGE, size, PROT_READ | PROT_WRITE), "pages");
#endif
    return (fenced){all + PAGE, size};
}

static void remove_fence(const fenced *f)
{
#ifdef _WIN32
    VirtualFree(f->pages - PAGE, 0, MEM_RELEASE);
#else
    munmap(f->pages - PAGE, f->size + 2 * PAGE);
#endif
}

/* An array of `count` numbers that ends, or begins, where the pages do. */
static void *at_edge(const fenced *f, size_t count, int at_end)
{
    return f->pages + (at_end ? f->size - count * width() : 0);
}

/* The same for y: written() later sees whether anything beside it was written. */
static void *clean(const fenced *f, size_t count, int at_end)
{
    memset(f->pages, PATTERN, f->size);
    return at_edge(f, count, at_end);
}

static int is_clean(const char *from, const char *to)
{
    return from == to || (*from == PATTERN && !memcmp(from, from + 1, (size_t)(to - from) - 1));
}

static size_t case_m, case_n;
static const char *case_call = "";

/* Every number of y (count,) was written and lies between least and most; nothing beside y was written. */
static void written(const fenced *f, const void *y, size_t count, double least, double most)
{
    CHECK(is_clean(f->pages, y) && is_clean(at(y, (ptrdiff_t)count), f->pages + f->size),
          "%s, %s: %s, %zu x %zu: written beside y", fastgate_isa(), storage_names[storage], case_call, case_m,
          case_n);
    for (size_t i = 0; i < count; i++)
        CHECK(get(y, (ptrdiff_t)i) >= least && get(y, (ptrdiff_t)i) <= most,
              "%s, %s: %s, %zu x %zu: y[%zu] not written", fastgate_isa(), storage_names[storage], case_call, case_m,
              case_n, i);
}

static void on_fault(int signal)
{
    char text[200];
    int length = snprintf(text, sizeof text, "signal %d: %s, %s: %s, %zu x %zu: memory past an array\n",
                          signal, fastgate_isa(), storage_names[storage], case_call, case_m, case_n);
    if (write(1, text, (size_t)length))
        _exit(1);
    _exit(1);
}

static void try_edges(const size_t *rows, size_t row_count, const size_t *columns, size_t column_count)
{
    static const size_t batches[] = {1, 2, 5, 7, 16, 17};
    enum { BATCHES = sizeof batches / sizeof *batches, MOST = 17, M = 300, N = 1100, STRETCH = 3 };
    const fenced weights = fence(STRETCH * (M * 70 + 70 * N)), biases = fence(M);
    const fenced xs = fence(MOST * N), ys = fence(MOST * M);
    uint64_t seed = 1;
    fill(weights.pages, weights.size / width(), ORDINARY, &seed);
    for (size_t r = 0; r < row_count; r++)
        for (size_t c = 0; c < column_count; c++)
            for (int at_end = 0; at_end < 2; at_end++) {
                const size_t m = case_m = rows[r], n = case_n = columns[c];
                if (m * n > M * 70 + 70 * N)
                    continue;
                const struct {
                    const char *name;
                    ptrdiff_t row, column;
                } layouts[] = {{"row-major", (ptrdiff_t)n, 1}, {"column-major", 1, (ptrdiff_t)m},
                               {"spread", STRETCH, STRETCH * (ptrdiff_t)m},
                               {"backwards", -(ptrdiff_t)n, -1}};
                const int reads_layouts = storage == FASTGATE_FLOAT32 || storage == FASTGATE_FLOAT64;
                for (size_t l = 0; l < sizeof layouts / sizeof *layouts; l++) {
                    if (!reads_layouts && (r + c + l) % 4)
                        continue; /* packing reads one number at a time, whatever the layout */
                    const size_t batch = batches[(r + 2 * c + l) % BATCHES];
                    const ptrdiff_t row = layouts[l].row, column = layouts[l].column;
                    const size_t last = m && n ? (m - 1) * (size_t)llabs(row) + (n - 1) * (size_t)llabs(column) : 0;
                    void *bias = at_edge(&biases, m, at_end), *x = at_edge(&xs, batch * n, at_end);
                    void *const array = at_edge(&weights, m && n ? last + 1 : 0, at_end);
                    void *const weight = at(array, row < 0 ? (ptrdiff_t)last : 0);
                    fill(bias, m, ORDINARY, &seed), fill(x, batch * n, ORDINARY, &seed);
                    case_call = layouts[l].name;
                    void *y;
                    if (reads_layouts) {
                        const size_t few = batch < 2 ? batch : 2;
                        void *of_few = at(x, at_end ? (ptrdiff_t)((batch - few) * n) : 0);
                        y = clean(&ys, few * m, at_end);
                        CHECK(!fastgate_gate_once(storage, m, n, weight, row, column, bias, few, of_few,
                                                  (ptrdiff_t)n, y, (ptrdiff_t)m), "once");
                        written(&ys, y, few * m, 0, 1);
                    }
                    fastgate_gate *gate;
                    CHECK(!fastgate_gate_create(&gate, storage, m, n, weight, row, column, bias, 1), "create");
                    const ptrdiff_t half = (ptrdiff_t)n / 2;
                    const fastgate_part whole = {x, n, (ptrdiff_t)n};
                    const fastgate_part parts[3] = {{x, n / 2, (ptrdiff_t)n},
                                                    {at(x, (ptrdiff_t)(batch * n)), 0, 1},
                                                    {at(x, half), n - n / 2, (ptrdiff_t)n}};
                    for (int turn = 0; turn < 3; turn++) { /* twice the whole x, then parts */
                        if (turn == 1 && batch > 1)
                            continue;
                        y = clean(&ys, batch * m, at_end);
                        CHECK(!fastgate_gate_run(gate, batch, turn < 2 ? &whole : parts, turn < 2 ? 1 : 3, y,
                                                 (ptrdiff_t)m), "run");
                        written(&ys, y, batch * m, 0, 1);
                    }
                    void *out = clean(&ys, m, at_end);
                    fastgate_gate_unpack(gate, at_edge(&weights, m * n, at_end), out);
                    CHECK(!memcmp(out, bias, m * width()), "unpacked");
                    fastgate_gate_free(gate);
                }
            }
    remove_fence(&weights), remove_fence(&biases), remove_fence(&xs), remove_fence(&ys);
}

static void try_edges_of_lstm(const size_t *sizes, size_t count)
{
    enum { IH, HH, BIAS, PEEPHOLE, PROJECTION, XS, H, C, H_OUT, C_OUT, M, Y, ARRAYS };
    enum { BATCH = 5, STEPS = 3, MOST = 70 };
    fenced f[ARRAYS];
    for (int i = 0; i < ARRAYS; i++)
        f[i] = fence(i < BIAS ? 4 * MOST * MOST : i == PROJECTION ? MOST * MOST : STEPS * BATCH * MOST);
    uint64_t seed = 1;
    size_t turn = 0;
    for (size_t i = 0; i < count * count * 2; i++) {
        const int at_end = i % 2;
        const size_t n = case_n = sizes[i / 2 % count], hidden = case_m = sizes[i / 2 / count];
        const size_t projected = i / 2 % 3 ? 0 : sizes[(i / 2 + i / count) % count];
        const size_t output = projected ? projected : hidden, batch = 1 + turn++ % BATCH;
        const fastgate_lstm_options o = {storage, n, hidden, projected, 1, 1, .clip = turn % 4 ? 0 : 2, .threads = 1};
        void *a[ARRAYS];
        const size_t size[ARRAYS] = {4 * hidden * n, 4 * hidden * output, 4 * hidden, 3 * hidden, projected * hidden,
                                     STEPS * batch * n, batch * output, batch * hidden, batch * output, batch * hidden,
                                     projected ? batch * hidden : 0, STEPS * batch * output};
        for (int k = 0; k < ARRAYS; k++) {
            a[k] = clean(&f[k], size[k], at_end);
            if (k < H_OUT)
                fill(a[k], size[k], ORDINARY, &seed);
        }
        const fastgate_lstm_weights w = {a[IH], a[HH], a[BIAS], turn % 2 ? a[PEEPHOLE] : NULL, a[PROJECTION]};
#define WRITTEN(k) written(&f[k], a[k], size[k], -1000, 1000)
        fastgate_lstm *lstm;
        fastgate_stream *stream;
        case_call = "create";
        CHECK(!fastgate_lstm_create(&lstm, &o, &w), "create");
        case_call = "step";
        CHECK(!fastgate_lstm_step(lstm, batch, a[XS], (ptrdiff_t)n, a[H], a[C], a[H_OUT], a[C_OUT], a[M]), "step");
        WRITTEN(H_OUT), WRITTEN(C_OUT), WRITTEN(M), WRITTEN(H), WRITTEN(C);
        case_call = "stream";
        CHECK(!fastgate_stream_create(&stream, lstm, batch), "stream");
        fastgate_stream_set_state(stream, a[H], a[C]);
        a[H_OUT] = clean(&f[H_OUT], size[H_OUT], at_end);
        fastgate_stream_step(stream, a[XS], (ptrdiff_t)n, a[H_OUT], (ptrdiff_t)output);
        WRITTEN(H_OUT);
        clean(&f[H_OUT], size[H_OUT], at_end), clean(&f[C_OUT], size[C_OUT], at_end);
        fastgate_stream_get_state(stream, a[H_OUT], a[C_OUT]);
        WRITTEN(H_OUT), WRITTEN(C_OUT);
        fastgate_stream_free(stream);
        static const size_t lengths[BATCH] = {2, 0, STEPS, 1, STEPS};
        for (int ragged = 0; ragged < 2; ragged++) {
            case_call = ragged ? "lengths" : "run";
            clean(&f[Y], size[Y], at_end);
            CHECK(!fastgate_lstm_run(lstm, STEPS, batch, a[XS], (ptrdiff_t)(batch * n), (ptrdiff_t)n,
                                     ragged ? lengths : NULL, a[H], a[C], a[Y], (ptrdiff_t)(batch * output),
                                     (ptrdiff_t)output), "run");
            WRITTEN(Y), WRITTEN(H), WRITTEN(C);
        }
        case_call = "unpack";
        for (int k = 0; k < XS; k++)
            if (k != PEEPHOLE || w.peephole)
                clean(&f[k], size[k], at_end);
        fastgate_lstm_unpack(lstm, 0, a[IH], a[HH], a[BIAS], a[PEEPHOLE], a[PROJECTION]);
        for (int k = 0; k < XS; k++)
            WRITTEN(k);
#undef WRITTEN
        fastgate_lstm_free(lstm);
    }
    for (int i = 0; i < ARRAYS; i++)
        remove_fence(&f[i]);
}

int main(int argc, char **argv)
{
    (void)argv; /* with any argument it tries fewer sizes */
    signal(SIGSEGV, on_fault);
#ifndef _WIN32
    signal(SIGBUS, on_fault);
#endif
    start_threads();
    snprintf(path, sizeof path, TMP "fastgate-memory-%ld", (long)getpid());
    for (size_t s = 0; s < STORAGES; s++) {
        storage = storages[s];
        try_failing_allocations(40, 50, 1);
        try_failing_allocations(2200, 1000, 1); /* more than 2 MiB, which take huge pages */
        try_failing_allocations(2200, 1000, 2);
        try_sizes_that_overflow();
        try_parts_that_do_not_fit();
        try_failing_allocations_of_lstm();
        try_sizes_of_lstm_that_overflow();
        try_bad_options();
    }
    try_names();
    for (size_t isa = 0; fastgate_isa_name(isa); isa++) {
        if (fastgate_select_isa(fastgate_isa_name(isa)))
            continue;
        static const size_t small[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 20, 23, 24, 25, 28, 31,
                                       32, 33, 40, 47, 48, 49, 52, 56, 63, 64, 65, 70};
        static const size_t some[] = {1, 16, 17, 70}, rows[] = {113, 127, 128, 129, 255, 300};
        static const size_t columns[] = {127, 128, 129, 255, 257, 511, 513, 1023, 1024, 1025, 1031};
        static const size_t odd[] = {0, 1, 3, 15, 17, 5, 8, 33, 70};
        enum { SMALL = sizeof small / sizeof *small, SOME = sizeof some / sizeof *some };
        const long before = live;
        for (size_t s = 0; s < STORAGES; s++) {
            storage = storages[s];
            try_edges(small, argc > 1 ? SMALL / 4 : SMALL, small, SMALL);
            try_edges(rows, sizeof rows / sizeof *rows, some, SOME);
            try_edges(some, SOME, columns, sizeof columns / sizeof *columns);
            try_edges_of_lstm(odd, sizeof odd / sizeof *odd - (argc > 1 ? 4 : 0));
        }
        CHECK(live == before, "%ld blocks leaked", live - before);
        printf("%s ", fastgate_isa());
    }
    puts("");
    return 0;
}
