/*
 * No call needs more than 32 KB of stack.  Each runs on a thread whose stack was filled with a pattern: the bytes that
 * it changes are those that it used, in all functions, also of the C library, as this compiler made them.
 * -fstack-usage tells only of single functions, and most kernels and tasks are called through pointers.  Link with
 * -Wl,-z,now, or else the dynamic linker looks up functions on this stack.
 */
#define _GNU_SOURCE
#include "test.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

enum { BYTES = 256 * 1024, MOST = 32 * 1024, PATTERN = 0xa5 };

static unsigned char *stack, *top; /* of the thread; and where the frames of a call begin */
static size_t most;
static const char *most_of = "";

/* Records that the frames of its caller's calls begin here. */
static __attribute__((noinline)) void mark(void)
{
    top = __builtin_frame_address(0);
}

static void *begin(void *task)
{
    ((void (*)(void))task)();
    return NULL;
}

static void measure(const char *name, void (*task)(void))
{
    pthread_attr_t attributes;
    pthread_t thread;
    memset(stack, PATTERN, BYTES);
    CHECK(!pthread_attr_init(&attributes) && !pthread_attr_setstack(&attributes, stack, BYTES) &&
          !pthread_create(&thread, &attributes, begin, (void *)task) && !pthread_join(thread, NULL), "thread");
    pthread_attr_destroy(&attributes);
    const unsigned char *lowest = stack;
    while (*lowest == PATTERN)
        lowest++;
    const size_t used = (size_t)(top - lowest);
    CHECK(used <= MOST, "%s, %s, %s: %zu bytes of stack", name, fastgate_isa(), storage_names[storage], used);
    if (used > most)
        most = used, most_of = name;
}

/* ---- calls with arrays of zeros ----------------------------------------------------------------- */

enum { M = 130, N = 600, BATCH = 30, LAYERS = 2, STEPS = 4 };

static double zeros[LAYERS * 2 * 4 * M * N], y[BATCH * STEPS * 2 * M], scratch[BATCH * M];
static double h[LAYERS * 2 * BATCH * M], c[LAYERS * 2 * BATCH * M], h_out[LAYERS * 2 * BATCH * M];
static const size_t lengths[BATCH] = {2, STEPS, 0, 2};
static char path[64];
static void *buffer;

static fastgate_gate *gate;
static fastgate_lstm *lstm;
static fastgate_stream *stream;
static fastgate_lstm_options options;
static size_t rows; /* of x */

static void create_gate(void)
{
    mark();
    CHECK(!fastgate_gate_create(&gate, storage, M, N, zeros, N, 1, zeros, 2), "gate");
}

static void run_gate(void)
{
    mark();
    const fastgate_part parts[] = {{zeros, 300, 300}, {zeros, N - 300, N}};
    CHECK(!fastgate_gate_run(gate, rows, parts, 2, y, M), "run");
}

static void run_once(void)
{
    mark();
    if (storage != FASTGATE_FLOAT32 && storage != FASTGATE_FLOAT64)
        return;
    CHECK(!fastgate_gate_once(storage, M, N, zeros, N, 1, zeros, 2, zeros, N, y, M), "by rows");
    CHECK(!fastgate_gate_once(storage, M, 1500, zeros, 2048, 1, zeros, 1, zeros, 0, y, M), "by rows at 2048");
    CHECK(!fastgate_gate_once(storage, M, N, zeros, 1, M, zeros, 2, zeros, N, y, M), "by columns");
    CHECK(!fastgate_gate_once(storage, M, N, zeros, 2 * N, 2, zeros, 2, zeros, N, y, M), "neither");
}

static void save_and_load_gate(void)
{
    mark();
    fastgate_gate *loaded;
    fastgate_gate_unpack(gate, zeros, c);
    fastgate_gate_save(gate, buffer);
    CHECK(!fastgate_gate_load(&loaded, buffer, fastgate_gate_saved_size(gate)), "load");
    fastgate_gate_free(loaded);
    CHECK(!fastgate_gate_save_file(gate, path) && !fastgate_gate_load_file(&loaded, path), "file");
    fastgate_gate_free(loaded);
}

static void create_lstm(void)
{
    mark();
    const fastgate_lstm_weights w = {zeros, zeros, zeros, zeros, zeros}, weights[] = {w, w, w, w};
    CHECK(!fastgate_lstm_create(&lstm, &options, weights), "lstm");
}

static void run_lstm(void)
{
    mark();
    const ptrdiff_t wide = (ptrdiff_t)(options.directions * fastgate_lstm_output_size(lstm));
    for (int given = 0; given < 2; given++)
        CHECK(!fastgate_lstm_run(lstm, STEPS, rows, zeros, (ptrdiff_t)rows * N, N, given ? lengths : NULL, h, c, y,
                                 (ptrdiff_t)rows * wide, wide), "run");
}

static void step(void)
{
    mark();
    CHECK(!fastgate_lstm_step(lstm, rows, zeros, N, h, c, h_out, c, scratch), "step");
    CHECK(!fastgate_stream_create(&stream, lstm, rows), "stream");
    fastgate_stream_step(stream, zeros, N, y, M);
    fastgate_stream_free(stream);
}

static void save_and_load_lstm(void)
{
    mark();
    fastgate_lstm *loaded;
    fastgate_lstm_unpack(lstm, 0, zeros, zeros, zeros, zeros, zeros);
    fastgate_lstm_save(lstm, buffer);
    CHECK(!fastgate_lstm_load(&loaded, buffer, fastgate_lstm_saved_size(lstm)), "load");
    fastgate_lstm_free(loaded);
    CHECK(!fastgate_lstm_save_file(lstm, path) && !fastgate_lstm_load_file(&loaded, path), "file");
    fastgate_lstm_free(loaded);
}

static void try_all(void)
{
    static const size_t batches[] = {1, 3, BATCH};
    measure("fastgate_gate_create", create_gate);
    measure("fastgate_gate_once", run_once);
    measure("fastgate_gate_save, load", save_and_load_gate);
    for (size_t i = 0; i < 3; i++) {
        rows = batches[i];
        measure("fastgate_gate_run", run_gate);
    }
    fastgate_gate_free(gate);
    for (int i = 0; i < 4; i++) { /* two of them have steps so large that threads share them */
        options = (fastgate_lstm_options){storage, i % 2 ? N : 50, i % 2 ? M : 20, i % 2 ? 90 : 0, LAYERS,
                                          1 + (unsigned)i / 2, .threads = 2};
        measure("fastgate_lstm_create", create_lstm);
        for (size_t k = 0; k < 3; k++) {
            rows = batches[k];
            measure("fastgate_lstm_run", run_lstm);
            if (options.directions == 1)
                measure("fastgate_lstm_step", step);
        }
        measure("fastgate_lstm_save, load", save_and_load_lstm);
        fastgate_lstm_free(lstm);
    }
}

int main(void)
{
    snprintf(path, sizeof path, TMP "fastgate-stack-%ld", (long)getpid());
    stack = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(stack != MAP_FAILED && !posix_memalign(&buffer, 64, sizeof zeros), "memory");
    for (size_t isa = 0; fastgate_isa_name(isa); isa++)
        for (size_t s = 0; s < STORAGES && !fastgate_select_isa(fastgate_isa_name(isa)); s++) {
            storage = storages[s];
            try_all();
        }
    unlink(path);
    free(buffer);
    printf("%.1f KB at most, in %s\n", (double)most / 1024, most_of);
    return 0;
}
