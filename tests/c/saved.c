/*
 * Saved gates and LSTMs come back bit by bit, and all other contents of buffers and files are refused.  Damaged ones
 * are in blocks of exactly their size, so that sanitizers and valgrind see what is read beyond them.
 */
#include "../../csrc/os.h"

#include "again.h"

#include <limits.h>
#ifdef _WIN32
#define DEVICE "NUL"
#else
#include <sys/resource.h>
#define DEVICE "/dev/zero"
#endif

static char path[64];

static fastgate_gate *random_gate(size_t m, size_t n, uint64_t *seed)
{
    void *weight = numbers(m * n), *bias = numbers(m);
    fastgate_gate *gate;
    fill(weight, m * n, ORDINARY, seed), fill(bias, m, ORDINARY, seed);
    CHECK(!fastgate_gate_create(&gate, storage, m, n, weight, (ptrdiff_t)n, 1, bias, 1 + below(seed, 3)), "create");
    free(weight), free(bias);
    return gate;
}

static fastgate_lstm *random_lstm(const fastgate_lstm_options *o, unsigned peepholes, uint64_t *seed)
{
    const size_t output = o->projection_size ? o->projection_size : o->hidden_size;
    const size_t cells = o->layers * o->directions, hidden = o->hidden_size;
    fastgate_lstm_weights weights[8] = {{0}};
    void *arrays[8][5];
    CHECK(cells <= 8, "cells");
    for (size_t i = 0; i < cells; i++) {
        const size_t inputs = i < o->directions ? o->input_size : o->directions * output;
        const size_t sizes[5] = {4 * hidden * inputs, 4 * hidden * output, 4 * hidden, 3 * hidden,
                                 o->projection_size * hidden};
        for (int k = 0; k < 5; k++)
            fill(arrays[i][k] = numbers(sizes[k]), sizes[k], ORDINARY, seed);
        weights[i] = (fastgate_lstm_weights){arrays[i][0], arrays[i][1], arrays[i][2],
                                             peepholes >> i & 1 ? arrays[i][3] : NULL, arrays[i][4]};
    }
    fastgate_lstm *lstm;
    CHECK(!fastgate_lstm_create(&lstm, o, weights), "create");
    for (size_t i = 0; i < cells; i++)
        for (int k = 0; k < 5; k++)
            free(arrays[i][k]);
    return lstm;
}

static void same_gates(const fastgate_gate *a, const fastgate_gate *b, uint64_t *seed)
{
    const size_t m = fastgate_gate_output_size(a), n = fastgate_gate_input_size(a);
    CHECK(m == fastgate_gate_output_size(b) && n == fastgate_gate_input_size(b) &&
              fastgate_gate_storage(a) == fastgate_gate_storage(b) &&
              fastgate_gate_threads(a) == fastgate_gate_threads(b) &&
              fastgate_gate_nbytes(a) == fastgate_gate_nbytes(b), "%zu x %zu", m, n);
    void *x = numbers(2 * n), *y = numbers(2 * m), *z = numbers(2 * m);
    const fastgate_part part = {x, n, (ptrdiff_t)n};
    fill(x, 2 * n, ORDINARY, seed);
    CHECK(!fastgate_gate_run(a, 2, &part, 1, y, (ptrdiff_t)m) && !fastgate_gate_run(b, 2, &part, 1, z, (ptrdiff_t)m),
          "run");
    CHECK(!memcmp(y, z, 2 * m * width()), "%zu x %zu: other bits", m, n);
    free(x), free(y), free(z);
}

static void same_lstms(const fastgate_lstm *a, const fastgate_lstm *b, uint64_t *seed)
{
    enum { STEPS = 3, BATCH = 2 };
    const fastgate_lstm_options *o = fastgate_lstm_get_options(a), *p = fastgate_lstm_get_options(b);
    CHECK(o->storage == p->storage && o->input_size == p->input_size && o->hidden_size == p->hidden_size &&
              o->projection_size == p->projection_size && o->layers == p->layers && o->directions == p->directions &&
              o->backwards == p->backwards && o->input_forget == p->input_forget && o->clip == p->clip &&
              o->gate_clip == p->gate_clip && o->threads == p->threads && o->batch_first == p->batch_first &&
              fastgate_lstm_nbytes(a) == fastgate_lstm_nbytes(b), "options");
    const size_t cells = o->layers * o->directions, output = fastgate_lstm_output_size(a);
    const size_t hs = cells * BATCH * output, cs = cells * BATCH * o->hidden_size;
    const size_t xs = STEPS * BATCH * o->input_size, wide = o->directions * output, ys = STEPS * BATCH * wide;
    void *x = numbers(xs), *h[2], *c[2], *y[2];
    fill(x, xs, ORDINARY, seed);
    for (int i = 0; i < 2; i++) {
        memset(h[i] = numbers(hs), 0, hs * width()), memset(c[i] = numbers(cs), 0, cs * width());
        y[i] = numbers(ys);
        CHECK(!fastgate_lstm_run(i ? b : a, STEPS, BATCH, x, (ptrdiff_t)(BATCH * o->input_size),
                                 (ptrdiff_t)o->input_size, NULL, h[i], c[i], y[i], (ptrdiff_t)(BATCH * wide),
                                 (ptrdiff_t)wide), "run");
    }
    CHECK(!memcmp(h[0], h[1], hs * width()) && !memcmp(c[0], c[1], cs * width()) && !memcmp(y[0], y[1], ys * width()),
          "other bits");
    free(x);
    for (int i = 0; i < 2; i++)
        free(h[i]), free(c[i]), free(y[i]);
}

/* ---- there and back ------------------------------------------------------------------------- */

static void try_gates(void)
{
    static const size_t sizes[] = {0, 1, 3, 15, 16, 17, 63, 64, 65, 130};
    enum { SIZES = sizeof sizes / sizeof *sizes };
    uint64_t seed = 1;
    for (size_t i = 0; i < SIZES * SIZES; i++) {
        fastgate_gate *gate = random_gate(sizes[i / SIZES], sizes[i % SIZES], &seed), *loaded;
        size_t size;
        void *buffer = saved_gate(gate, &size);
        CHECK(!fastgate_gate_load(&loaded, buffer, size), "load");
        same_gates(gate, loaded, &seed);
        same_gate_again(loaded, buffer, size);
        fastgate_gate_free(loaded);
        CHECK(!fastgate_gate_save_file(gate, path) && !fastgate_gate_load_file(&loaded, path), "file");
        same_gates(gate, loaded, &seed);
        fastgate_gate_free(loaded), fastgate_gate_free(gate);
        free(buffer);
    }
}

static fastgate_lstm_options random_options(uint64_t *seed)
{
    static const size_t sizes[] = {0, 1, 3, 15, 16, 17, 33, 65};
    enum { SIZES = sizeof sizes / sizeof *sizes };
    const unsigned directions = 1 + (unsigned)below(seed, 2);
    return (fastgate_lstm_options){.storage = storage,
                                   .input_size = sizes[below(seed, SIZES)],
                                   .hidden_size = sizes[below(seed, SIZES)],
                                   .projection_size = below(seed, 2) ? sizes[below(seed, SIZES)] : 0,
                                   .layers = 1 + below(seed, 3),
                                   .directions = directions,
                                   .backwards = directions == 1 && below(seed, 3) == 0,
                                   .input_forget = (int)below(seed, 2),
                                   .clip = below(seed, 2) ? 0.75 : 0,
                                   .gate_clip = below(seed, 2) ? 1.5 : 0,
                                   .threads = (unsigned)below(seed, 3),
                                   .batch_first = (int)below(seed, 2)};
}

static void try_lstms(int count)
{
    uint64_t seed = 2;
    while (count--) {
        const fastgate_lstm_options o = random_options(&seed);
        fastgate_lstm *lstm = random_lstm(&o, (unsigned)below(&seed, 256), &seed), *loaded;
        size_t size;
        void *buffer = saved_lstm(lstm, &size);
        CHECK(!fastgate_lstm_load(&loaded, buffer, size), "load");
        same_lstms(lstm, loaded, &seed);
        same_lstm_again(loaded, buffer, size);
        fastgate_lstm_free(loaded);
        CHECK(!fastgate_lstm_save_file(lstm, path) && !fastgate_lstm_load_file(&loaded, path), "file");
        same_lstms(lstm, loaded, &seed);
        fastgate_lstm_free(loaded), fastgate_lstm_free(lstm);
        free(buffer);
    }
}

/* ---- damage --------------------------------------------------------------------------------- */

static fastgate_gate *const no_gate = (fastgate_gate *)path; /* a load that fails must leave these */
static fastgate_lstm *const no_lstm = (fastgate_lstm *)path;

static void refused(const void *buffer, size_t size, const char *what, size_t where)
{
    fastgate_gate *gate = no_gate;
    fastgate_lstm *lstm = no_lstm;
    CHECK(fastgate_gate_load(&gate, buffer, size) == FASTGATE_ERROR_FORMAT && gate == no_gate, "%s %zu", what, where);
    CHECK(fastgate_lstm_load(&lstm, buffer, size) == FASTGATE_ERROR_FORMAT && lstm == no_lstm, "%s %zu", what, where);
}

/* Refused are every other value of a byte, or one of them if `few`, every other length, every misalignment. */
static void try_damage(const void *saved, size_t size, int few)
{
    unsigned char *copy = block(size);
    memcpy(copy, saved, size);
    for (size_t i = 0; i < size; i++) {
        const unsigned char before = copy[i];
        for (unsigned change = few ? 1 << i % 8 : 1; change < 256; change += few ? 256 : 1) {
            copy[i] = before ^ (unsigned char)change;
            refused(copy, size, "byte", i);
        }
        copy[i] = before;
    }
    free(copy);
    for (size_t cut = 0; cut < size; cut++) {
        memcpy(copy = block(cut), saved, cut);
        refused(copy, cut, "cut to", cut);
        free(copy);
    }
    memset(copy = block(size + FG_LINE), 0, size + FG_LINE);
    memcpy(copy, saved, size);
    for (size_t more = 1; more <= FG_LINE; more++)
        refused(copy, size + more, "longer by", more);
    for (size_t off = 1; off < FG_LINE; off++) {
        memmove(copy + off, copy + off - 1, size);
        refused(copy + off, size, "off by", off);
    }
    free(copy);
}

/* Headers are changed and sealed again: a buffer that is loaded all the same must be safe to use. */
static void try_hostile_headers(const void *saved, size_t size, int few)
{
    static const uint64_t values[] = {0,          1,          2,         3,          4,          5,
                                      7,          8,          15,        16,         17,         63,
                                      64,         65,         255,       1024,       4096,       65535,
                                      INT32_MAX,  UINT32_MAX, INT64_MAX, UINT64_MAX, INT64_MIN,  (uint64_t)1 << 32,
                                      (uint64_t)1 << 40, (uint64_t)1 << 57, UINT64_MAX / 64, UINT64_MAX / 64 + 1,
                                      UINT64_MAX / 256 + 1, 0x7ff0000000000000, 0x7ff8000000000000, 0xbff0000000000000};
    enum { VALUES = sizeof values / sizeof *values };
    unsigned char *copy = block(size);
    uint64_t seed = 3;
    for (size_t round = 0; round < (few ? 1000 : 20000); round++) {
        memcpy(copy, saved, size);
        for (size_t changes = 1 + below(&seed, 3); changes--;) {
            const size_t wide = below(&seed, 2) ? 8 : 4;
            const size_t kind = offsetof(fg_saved, kind), count = (sizeof(fg_saved) - kind) / wide;
            memcpy(copy + kind + below(&seed, count) * wide, &values[below(&seed, VALUES)], wide);
        }
        if (below(&seed, 2) && size > sizeof(fg_saved))
            copy[sizeof(fg_saved) + below(&seed, 2)] = (unsigned char)below(&seed, 3);
        fg_saved header;
        memcpy(&header, copy, sizeof header);
        fg_seal(copy, &header);
        fastgate_gate *gate;
        fastgate_lstm *lstm;
        int rc = fastgate_gate_load(&gate, copy, size);
        CHECK(!rc || rc == FASTGATE_ERROR_FORMAT, "%d", rc);
        if (!rc) {
            storage = fastgate_gate_storage(gate);
            if (fastgate_gate_input_size(gate) < size) /* else it has no outputs, and x would be too large */
                same_gates(gate, gate, &seed), same_gate_again(gate, copy, size);
            fastgate_gate_free(gate);
        }
        rc = fastgate_lstm_load(&lstm, copy, size);
        CHECK(!rc || rc == FASTGATE_ERROR_FORMAT, "%d", rc);
        if (!rc) {
            storage = fastgate_lstm_get_options(lstm)->storage;
            if (fastgate_lstm_get_options(lstm)->input_size < size)
                same_lstms(lstm, lstm, &seed), same_lstm_again(lstm, copy, size);
            fastgate_lstm_free(lstm);
        }
    }
    free(copy);
}

/* Whether a buffer is loaded after it is sealed again; if so, saving must give the same bytes. */
static int is_taken(unsigned char *buffer, size_t size)
{
    fastgate_gate *gate;
    fastgate_lstm *lstm;
    fg_saved header;
    memcpy(&header, buffer, sizeof header);
    fg_seal(buffer, &header);
    const int of_gate = fastgate_gate_load(&gate, buffer, size), of_lstm = fastgate_lstm_load(&lstm, buffer, size);
    CHECK((!of_gate || of_gate == FASTGATE_ERROR_FORMAT) && (!of_lstm || of_lstm == FASTGATE_ERROR_FORMAT), "code");
    if (!of_gate)
        same_gate_again(gate, buffer, size), fastgate_gate_free(gate);
    if (!of_lstm)
        same_lstm_again(lstm, buffer, size), fastgate_lstm_free(lstm);
    return !of_gate || !of_lstm;
}

/* Changes each byte of the sections, and of the header from `kind` on. */
static void try_contents(unsigned char *buffer, size_t size, int few)
{
    static const unsigned char flips[] = {1, 2, 4, 8, 16, 32, 64, 128, 255}, values[] = {0, 1, 0x7c, 0x7e, 0x7f, 0x80};
    enum { FLIPS = sizeof flips, CHANGES = FLIPS + sizeof values };
    size_t taken = 0, refused_ones = 0;
    for (size_t i = offsetof(fg_saved, kind); i < size; i++) {
        const unsigned char before = buffer[i];
        for (size_t k = few ? i % CHANGES : 0; k < CHANGES; k += few ? CHANGES : 1) {
            buffer[i] = k < FLIPS ? before ^ flips[k] : values[k - FLIPS];
            *(is_taken(buffer, size) ? &taken : &refused_ones) += 1;
        }
        buffer[i] = before;
    }
    CHECK(is_taken(buffer, size) && taken && refused_ones, "%zu taken, %zu refused", taken, refused_ones);
}

/* Refused are options that no LSTM has or that saving writes in another way; each is tried in place of a good one. */
static void try_options(void)
{
    static const struct {
        size_t at, size;
        uint64_t good, bad[4];
    } members[] = {{offsetof(fg_saved, directions), 4, 2, {0, 3, 1 << 30, 1}},
                   {offsetof(fg_saved, flags), 4, 0, {FG_SAVED_BACKWARDS, 8, 1u << 31, 3}},
                   {offsetof(fg_saved, zero), 4, 0, {1, 256, 1u << 31, 2}},
                   {offsetof(fg_saved, zeros), 8, 0, {1, 256, UINT64_MAX, 2}},
                   {offsetof(fg_saved, zeros) + 24, 8, 0, {1, 256, UINT64_MAX, 2}},
                   {offsetof(fg_saved, clip), 8, 0, {(uint64_t)1 << 63, 0xbff0000000000000, 0x7ff8000000000000,
                                                     0xfff0000000000000}},
                   {offsetof(fg_saved, gate_clip), 8, 0, {(uint64_t)1 << 63, 0xbff0000000000000, 0x7ff8000000000000,
                                                          0xfff0000000000000}},
                   {sizeof(fg_saved), 1, 0, {1, 2, 3, 255}}, /* has_peephole */
                   {sizeof(fg_saved) + 1, 1, 1, {0, 2, 3, 255}}};
    uint64_t seed = 8;
    const fastgate_lstm_options o = {storage, 1, 2, 1, 1, 2, .clip = -0.0, .gate_clip = -0.0};
    fastgate_lstm *lstm = random_lstm(&o, 2, &seed);
    size_t size;
    unsigned char *buffer = saved_lstm(lstm, &size);
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        CHECK(!memcmp(buffer + members[i].at, &members[i].good, members[i].size), "member %zu", i);
        for (size_t k = 0; k < 4; k++) {
            memcpy(buffer + members[i].at, &members[i].bad[k], members[i].size);
            CHECK(!is_taken(buffer, size), "member %zu, value %zu", i, k);
        }
        memcpy(buffer + members[i].at, &members[i].good, members[i].size);
    }
    CHECK(is_taken(buffer, size), "as saved");
    fastgate_lstm_free(lstm), free(buffer);
}

/* Changes weights of an int8 gate of one panel and span, with their sums, and then its scales. */
static void try_int8(void)
{
    enum { M = 13, N = 6, SCALES = sizeof(fg_saved) + FG_LINE, SUMS = SCALES + FG_LINE, WEIGHTS = SUMS + FG_LINE };
    static const float scales[] = {0, -0.0f, -1, 1, 0x1p-149f, 0x1p-142f, 0x1p100f, 0x1.02p121f, 0x1.03p121f, FLT_MAX,
                                   INFINITY, NAN};
    uint64_t seed = 7;
    fastgate_gate *gate = random_gate(M, N, &seed);
    size_t size, taken = 0;
    unsigned char *saved = saved_gate(gate, &size), *buffer = block(size);
    for (size_t r = 0; r < M; r++) {
        for (size_t k = 0; k < N * 256; k++) {
            memcpy(buffer, saved, size);
            int8_t *w = (int8_t *)buffer + WEIGHTS + k / 256 / FG_QUAD * FG_LINE + r * FG_QUAD + k / 256 % FG_QUAD;
            int32_t *sum = (int32_t *)(buffer + SUMS) + r;
            const int8_t before = *w;
            *w = (int8_t)(k % 256 - 128);
            *sum += *w - before;
            const int is_good = is_taken(buffer, size);
            CHECK(!is_good || *w != -128, "-128");
            taken += (size_t)is_good;
            *sum ^= 1;
            CHECK(!is_taken(buffer, size), "a wrong sum");
        }
        memcpy(buffer, saved, size);
        for (size_t s = 0; s < sizeof scales / sizeof *scales; s++) {
            memcpy(buffer + SCALES + r * sizeof(float), &scales[s], sizeof(float));
            CHECK(is_taken(buffer, size) == (s == 3 || s == 5 || s == 6 || s == 7), "scale %a", (double)scales[s]);
        }
    }
    CHECK(taken > M * (N - 1) * 254 && taken < M * N * 255, "%zu", taken); /* the largest weight must be 127 or -127 */
    fastgate_gate_free(gate), free(buffer), free(saved);
}

static void try_bad_buffers(int few)
{
    uint64_t seed = 4;
    const fastgate_storage before = storage;
    fastgate_gate *gate = random_gate(3, 2, &seed);
    size_t size;
    void *buffer = saved_gate(gate, &size);
    fastgate_lstm *lstm = no_lstm;
    CHECK(fastgate_lstm_load(&lstm, buffer, size) == FASTGATE_ERROR_FORMAT && lstm == no_lstm, "a gate is no LSTM");
    try_damage(buffer, size, few);
    try_hostile_headers(buffer, size, few);
    fastgate_gate_free(gate), free(buffer);

    storage = before;
    const fastgate_lstm_options o = {storage, 1, 2, 1, 1, 1, .threads = 1};
    lstm = random_lstm(&o, 1, &seed);
    buffer = saved_lstm(lstm, &size);
    gate = no_gate;
    CHECK(fastgate_gate_load(&gate, buffer, size) == FASTGATE_ERROR_FORMAT && gate == no_gate, "an LSTM is no gate");
    try_damage(buffer, size, few);
    try_hostile_headers(buffer, size, few);
    fastgate_lstm_free(lstm), free(buffer);
    storage = before;

    gate = random_gate(17, storage == FASTGATE_INT8 ? 517 : 7, &seed);
    buffer = saved_gate(gate, &size);
    try_contents(buffer, size, few || storage == FASTGATE_INT8);
    fastgate_gate_free(gate), free(buffer);
    const fastgate_lstm_options all = {storage, 3, 5, 3, 1, 2, .input_forget = 1, .clip = 2, .gate_clip = 3,
                                       .threads = 1, .batch_first = 1};
    lstm = random_lstm(&all, 2, &seed); /* one direction has peepholes */
    buffer = saved_lstm(lstm, &size);
    try_contents(buffer, size, few);
    fastgate_lstm_free(lstm), free(buffer);
    try_options();
    if (storage == FASTGATE_INT8)
        try_int8();
}

/* ---- files ---------------------------------------------------------------------------------- */

static void file_refused(const char *name, int code, int error)
{
    fastgate_gate *gate = no_gate;
    fastgate_lstm *lstm = no_lstm;
    errno = 0;
    CHECK(fastgate_gate_load_file(&gate, name) == code && gate == no_gate && (!error || errno == error), "%s: %s", name,
          strerror(errno));
    CHECK(fastgate_lstm_load_file(&lstm, name) == code && lstm == no_lstm, "%s", name);
}

static void try_files(void)
{
    uint64_t seed = 5;
    storage = FASTGATE_FLOAT32;
    file_refused("/nonexistent/gate", FASTGATE_ERROR_FILE, ENOENT);
    file_refused("/", FASTGATE_ERROR_FILE, 0);
    file_refused(DEVICE, FASTGATE_ERROR_FILE, ENODEV);
    for (size_t size = 0; size <= 100000; size += 20000) {
        CHECK(!fg_write_file(path, calloc(size + 1, 1), size), "zeros");
        file_refused(path, FASTGATE_ERROR_FORMAT, 0);
    }

    fastgate_gate *old = random_gate(20, 10, &seed), *new = random_gate(200, 10, &seed), *mapped, *loaded;
    CHECK(fastgate_gate_save_file(old, "/nonexistent/gate") == FASTGATE_ERROR_FILE && errno == ENOENT, "no folder");
    CHECK(fastgate_gate_save_file(old, "/") == FASTGATE_ERROR_FILE, "a folder");
    CHECK(fastgate_gate_save_file(old, "") == FASTGATE_ERROR_FILE, "no name");
    /* a file is replaced while it is mapped */
    CHECK(!fastgate_gate_save_file(old, path) && !fastgate_gate_load_file(&mapped, path), "file");
    const int rc = fastgate_gate_save_file(new, path);
    same_gates(mapped, old, &seed);
    fastgate_gate_free(mapped);
#ifdef _WIN32 /* Windows may refuse it while the file is mapped */
    CHECK(!rc || (rc == FASTGATE_ERROR_FILE && errno == EACCES && !fastgate_gate_save_file(new, path)), "refused");
#else
    CHECK(!rc, "refused");
#endif
    CHECK(!fastgate_gate_load_file(&loaded, path), "file");
    same_gates(loaded, new, &seed);
    fastgate_gate_free(loaded), fastgate_gate_free(old), fastgate_gate_free(new);
}

#ifdef _WIN32
static void try_places(void)
{
    uint64_t seed = 6;
    storage = FASTGATE_FLOAT32;
    fastgate_gate *gate = random_gate(20, 10, &seed), *loaded;
    CHECK(fastgate_gate_save_file(gate, ".") == FASTGATE_ERROR_FILE && errno == EISDIR, "a folder");
    CHECK(fastgate_gate_save_file(gate, DEVICE) == FASTGATE_ERROR_FILE, "a device");
    CHECK(fastgate_gate_save_file(gate, "\xe9") == FASTGATE_ERROR_FILE && errno == EILSEQ, "not UTF-8");
    FILE *other[3];
    char beside[3][64];
    for (int i = 0; i < 3; i++) {
        snprintf(beside[i], sizeof beside[i], TMP ".fastgate-%ld-%d.tmp", os_process(), i);
        CHECK((other[i] = os_create(beside[i])) && !os_create(beside[i]) && errno == EEXIST, "a new file");
        fclose(other[i]);
    }
    CHECK(!fastgate_gate_save_file(gate, path) && !fastgate_gate_load_file(&loaded, path), "save");
    same_gates(loaded, gate, &seed);
    for (int i = 0; i < 3; i++)
        file_refused(beside[i], FASTGATE_ERROR_FORMAT, 0), os_remove(beside[i]);
    wchar_t name[64];
    swprintf(name, 64, L"fastgate-saved-\xe9-%ld", os_process());
    fastgate_gate_free(loaded), fastgate_gate_free(gate);
    CHECK(!_wremove(name), "the name in UTF-16");
}
#else
static void try_long_names(void)
{
    uint64_t seed = 7;
    fastgate_gate *loaded;
    char longest[sizeof "/tmp/" + NAME_MAX + 1] = "/tmp/"; /* the name of a file cannot be longer */
    const size_t length = strlen(path);
    memcpy(longest, path, length);
    memset(longest + length, 'x', strlen("/tmp/") + NAME_MAX - length);
    fastgate_gate *old = random_gate(20, 10, &seed);
    CHECK(!fastgate_gate_save_file(old, longest) && !fastgate_gate_load_file(&loaded, longest), "a long name");
    same_gates(loaded, old, &seed);
    CHECK(!unlink(longest), "unlink");
    longest[strlen(longest)] = 'x';
    CHECK(fastgate_gate_save_file(old, longest) == FASTGATE_ERROR_FILE && errno == ENAMETOOLONG, "too long a name");
    fastgate_gate_free(loaded), fastgate_gate_free(old);
}

static long long size_of(const char *name)
{
    struct stat status;
    CHECK(!lstat(name, &status), "%s", name);
    return S_ISREG(status.st_mode) ? (long long)status.st_size : -1;
}

/* Other things are in the place of the file, or there is no room.  Runs first, as it knows the temporary names. */
static void try_places(void)
{
    enum { NAMES = 9 };
    uint64_t seed = 6;
    char at_path[sizeof path + 8], beside[NAMES][64];
    storage = FASTGATE_FLOAT32;
    fastgate_gate *gate = random_gate(200, 10, &seed), *loaded;
    const long long size = (long long)fastgate_gate_saved_size(gate);
    snprintf(at_path, sizeof at_path, "%s.other", path);

    alarm(60); /* ends the test if loading waits for a writer of the pipe */
    CHECK(!mkfifo(at_path, 0600), "a pipe");
    file_refused(at_path, FASTGATE_ERROR_FILE, ENODEV);
    alarm(0);
    errno = 0;
    CHECK(fastgate_gate_save_file(gate, at_path) == FASTGATE_ERROR_FILE && errno == ENODEV, "into a pipe");
    CHECK(!unlink(at_path) && !symlink("/dev/null", at_path), "a link to a device");
    CHECK(fastgate_gate_save_file(gate, at_path) == FASTGATE_ERROR_FILE && size_of(at_path) == -1, "a device");
    CHECK(!unlink(at_path) && !symlink(path, at_path), "a link to a file");
    CHECK(!fastgate_gate_save_file(gate, at_path) && size_of(at_path) == size && !size_of(path), "is replaced");

    for (int i = 0; i < NAMES; i++) {
        snprintf(beside[i], sizeof beside[i], "/tmp/.fastgate-%ld-%d.tmp", (long)getpid(), i);
        CHECK(!symlink(path, beside[i]), "a link");
    }
    CHECK(!fastgate_gate_save_file(gate, at_path) && !size_of(path), "wrote where a link leads to");
    CHECK(!fastgate_gate_load_file(&loaded, at_path), "load");
    same_gates(loaded, gate, &seed);
    for (int i = 0; i < NAMES; i++)
        CHECK(size_of(beside[i]) == -1 && !unlink(beside[i]), "of another");

    struct rlimit before, small;
    CHECK(!getrlimit(RLIMIT_FSIZE, &before), "limit");
    small = before, small.rlim_cur = 1000;
    signal(SIGXFSZ, SIG_IGN);
    CHECK(!setrlimit(RLIMIT_FSIZE, &small), "limit");
    CHECK(fastgate_gate_save_file(gate, at_path) == FASTGATE_ERROR_FILE && errno == EFBIG, "no room");
    CHECK(!setrlimit(RLIMIT_FSIZE, &before) && size_of(at_path) == size, "the old one stays");
    snprintf(beside[0], sizeof beside[0], "/tmp/.fastgate-%ld-%d.tmp", (long)getpid(), NAMES + 1);
    CHECK(access(beside[0], F_OK) && errno == ENOENT, "left beside");
    unlink(at_path);
    fastgate_gate_free(loaded), fastgate_gate_free(gate);
    try_long_names();
}
#endif

int main(int argc, char **argv)
{
    (void)argv; /* with any argument it tries fewer values */
    snprintf(path, sizeof path, TMP "fastgate-saved-\xc3\xa9-%ld", os_process()); /* an e acute, in UTF-8 */
    FILE *file = os_create(path);
    CHECK(file && !fclose(file), "a file");
    CHECK(fg_crc32(0, "123456789", 9) == 0xcbf43926 && fg_crc32(fg_crc32(0, "12345678", 8), "9", 1) == 0xcbf43926 &&
              fg_crc32(fg_crc32(0, "123", 3), "456789", 6) == 0xcbf43926 && fg_crc32(0, NULL, 0) == 0, "CRC-32");
    CHECK(!strcmp(fastgate_version(), FASTGATE_VERSION), "version");
    try_places();
    for (size_t s = 0; s < STORAGES; s++) {
        storage = storages[s];
        try_gates();
        try_lstms(argc > 1 ? 10 : 100);
        try_bad_buffers(argc > 1);
        printf("%s ", storage_names[s]);
        fflush(stdout);
    }
    try_files();
    os_remove(path);
    puts("");
    return 0;
}
