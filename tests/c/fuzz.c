/*
 * A target for libFuzzer and AFL++, which makes calls of the C API and saved gates and LSTMs of bytes.
 *
 *     clang -g -O1 -fsanitize=fuzzer,address,undefined -std=c11 tests/c/fuzz.c libfastgate.a -lm -pthread -o fuzz
 *     ./fuzz -max_len=4096 -len_control=0 -max_total_time=600
 *
 * An input is a saved buffer, or it says how to make a small gate or LSTM, which is run in two ways that must give the
 * same bits, is saved, changed, perhaps sealed again, and loaded.  What can be loaded must be saved as the same bytes.
 */
#define _POSIX_C_SOURCE 200112L
#include "again.h"

typedef struct {
    const uint8_t *data;
    size_t size;
} bytes;

static unsigned take(bytes *in)
{
    return in->size ? in->size--, *in->data++ : 0;
}

static void same(const void *a, const void *b, size_t count)
{
    for (size_t i = 0; i < count; i++)
        CHECK(bits_at(a, (ptrdiff_t)i) == bits_at(b, (ptrdiff_t)i), "element %zu of %zu", i, count);
}

/* Runs a batch; its rows must give the same, one by one and in two parts. */
static void use_gate(const fastgate_gate *gate, uint64_t *seed)
{
    const size_t m = fastgate_gate_output_size(gate), n = fastgate_gate_input_size(gate);
    const size_t batch = 1 + below(seed, 4), cut = below(seed, n + 1);
    storage = fastgate_gate_storage(gate);
    void *x = numbers(batch * n), *y = numbers(batch * m), *z = numbers(m);
    void *weight = numbers(m * n), *bias = numbers(m);
    fill(x, batch * n, (enum kind)below(seed, KINDS), seed);
    const fastgate_part whole = {x, n, (ptrdiff_t)n};
    CHECK(!fastgate_gate_run(gate, batch, &whole, 1, y, (ptrdiff_t)m), "run");
    for (size_t b = 0; b < batch; b++) {
        void *row = at(x, (ptrdiff_t)(b * n));
        const fastgate_part parts[2] = {{row, cut, 0}, {at(row, (ptrdiff_t)cut), n - cut, 0}};
        CHECK(!fastgate_gate_run(gate, 1, parts, 2, z, 0), "run");
        same(at(y, (ptrdiff_t)(b * m)), z, m);
    }
    fastgate_gate_unpack(gate, weight, bias);
    free(x), free(y), free(z), free(weight), free(bias);
}

/* Runs a sequence; the steps of a stream must give the same, if there can be one. */
static void use_lstm(const fastgate_lstm *lstm, uint64_t *seed)
{
    const fastgate_lstm_options *o = fastgate_lstm_get_options(lstm);
    const size_t steps = 1 + below(seed, 3), batch = 1 + below(seed, 3), n = o->input_size;
    const size_t cells = o->layers * o->directions, output = fastgate_lstm_output_size(lstm);
    const size_t wide = o->directions * output;
    storage = o->storage;
    void *x = numbers(steps * batch * n), *y = numbers(steps * batch * wide), *z = numbers(batch * output);
    void *h = numbers(cells * batch * output), *c = numbers(cells * batch * o->hidden_size);
    memset(h, 0, cells * batch * output * width()), memset(c, 0, cells * batch * o->hidden_size * width());
    fill(x, steps * batch * n, (enum kind)below(seed, KINDS), seed);
    CHECK(!fastgate_lstm_run(lstm, steps, batch, x, (ptrdiff_t)(batch * n), (ptrdiff_t)n, NULL, h, c, y,
                             (ptrdiff_t)(batch * wide), (ptrdiff_t)wide), "run");
    fastgate_stream *stream;
    const int rc = fastgate_stream_create(&stream, lstm, batch);
    CHECK(rc == (o->directions == 1 && !o->backwards ? FASTGATE_OK : FASTGATE_ERROR_SHAPE), "stream");
    for (size_t t = 0; t < steps && !rc; t++) {
        fastgate_stream_step(stream, at(x, (ptrdiff_t)(t * batch * n)), (ptrdiff_t)n, z, (ptrdiff_t)output);
        same(at(y, (ptrdiff_t)(t * batch * wide)), z, batch * output);
    }
    if (!rc)
        fastgate_stream_free(stream);
    free(x), free(y), free(z), free(h), free(c);
}

/* Loads bytes of any kind, and uses the gate or LSTM that they give. */
static void load(const void *data, size_t size)
{
    enum { MOST = 1 << 16 }; /* without outputs there are no weights, and inputs may be too many to try */
    uint64_t seed = 1;
    void *buffer = block(size);
    fastgate_gate *gate;
    fastgate_lstm *lstm;
    memcpy(buffer, data, size);
    const int rc = fastgate_gate_load(&gate, buffer, size);
    if (!rc) {
        gate_saves_as(gate, buffer, size, "saved again");
        if (fastgate_gate_input_size(gate) < MOST)
            use_gate(gate, &seed), same_gate_again(gate, buffer, size);
        fastgate_gate_free(gate);
    }
    if (!fastgate_lstm_load(&lstm, buffer, size)) {
        CHECK(rc, "a gate and an LSTM");
        lstm_saves_as(lstm, buffer, size, "saved again");
        if (fastgate_lstm_get_options(lstm)->input_size < MOST && fastgate_lstm_get_options(lstm)->layers < 64)
            use_lstm(lstm, &seed), same_lstm_again(lstm, buffer, size);
        fastgate_lstm_free(lstm);
    }
    free(buffer);
}

/* Changes some bytes of a saved buffer, then loads it. */
static void change_and_load(bytes *in, unsigned char *buffer, size_t size)
{
    const unsigned sealed = take(in) & 1;
    while (in->size > 2) {
        const unsigned low = take(in), high = take(in);
        buffer[(high << 8 | low) % size] = (unsigned char)take(in);
    }
    fg_saved header;
    memcpy(&header, buffer, sizeof header);
    if (sealed && header.size == size) /* this keeps the rest of the header as it was changed */
        fg_seal(buffer, &header);
    load(buffer, size);
    free(buffer);
}

static const size_t sizes[] = {0, 1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 64, 65, 70};
#define SIZE(in) sizes[take(in) % (sizeof sizes / sizeof *sizes)]

static void *some_numbers(bytes *in, size_t count)
{
    uint64_t seed = take(in);
    void *p = numbers(count);
    fill(p, count, (enum kind)(take(in) % KINDS), &seed);
    return p;
}

static void make_gate(bytes *in)
{
    uint64_t seed = take(in);
    storage = storages[take(in) % STORAGES];
    const size_t m = SIZE(in), n = take(in) & 1 ? 1000 + SIZE(in) : SIZE(in);
    void *weight = some_numbers(in, m * n), *bias = some_numbers(in, m);
    fastgate_gate *gate;
    const int rc = fastgate_gate_create(&gate, storage, m, n, weight, (ptrdiff_t)n, 1, bias, 1 + take(in) % 2);
    CHECK(!rc || rc == FASTGATE_ERROR_VALUE, "create: %d", rc);
    free(weight), free(bias);
    if (rc)
        return;
    use_gate(gate, &seed);
    size_t size;
    void *buffer = saved_gate(gate, &size);
    fastgate_gate_free(gate);
    change_and_load(in, buffer, size);
}

static void make_lstm(bytes *in)
{
    enum { MOST_CELLS = 6 };
    uint64_t seed = take(in);
    storage = storages[take(in) % STORAGES];
    const fastgate_lstm_options o = {.storage = storage,
                                     .input_size = SIZE(in),
                                     .hidden_size = SIZE(in),
                                     .projection_size = SIZE(in),
                                     .layers = take(in) % 4,
                                     .directions = take(in) % 4,
                                     .backwards = take(in) % 4 == 0,
                                     .input_forget = take(in) % 2,
                                     .clip = take(in) % 4 / 2.0,
                                     .gate_clip = take(in) % 4 / 2.0,
                                     .threads = take(in) % 3,
                                     .batch_first = take(in) % 2};
    const size_t output = o.projection_size ? o.projection_size : o.hidden_size, hidden = o.hidden_size;
    const size_t inputs = o.layers > 1 && 2 * output > o.input_size ? 2 * output : o.input_size;
    fastgate_lstm_weights weights[MOST_CELLS];
    void *arrays[] = {some_numbers(in, 4 * hidden * inputs), some_numbers(in, 4 * hidden * output),
                      some_numbers(in, 4 * hidden), some_numbers(in, 3 * hidden),
                      some_numbers(in, o.projection_size * hidden)};
    unsigned peepholes = take(in);
    for (int i = 0; i < MOST_CELLS; i++, peepholes >>= 1)
        weights[i] = (fastgate_lstm_weights){arrays[0], arrays[1], arrays[2], peepholes & 1 ? arrays[3] : NULL,
                                             arrays[4]};
    fastgate_lstm *lstm;
    const int rc = fastgate_lstm_create(&lstm, &o, weights);
    CHECK(!rc || rc == FASTGATE_ERROR_VALUE || rc == FASTGATE_ERROR_SHAPE, "create: %d", rc);
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
    if (rc)
        return;
    use_lstm(lstm, &seed);
    size_t size;
    void *buffer = saved_lstm(lstm, &size);
    fastgate_lstm_free(lstm);
    change_and_load(in, buffer, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bytes in = {data, size};
    switch (take(&in) % 3) {
    case 0: load(in.data, in.size); break;
    case 1: make_gate(&in); break;
    default: make_lstm(&in);
    }
    return 0;
}
