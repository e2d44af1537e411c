/* Packed gates: create, run, save, load, free.  And fastgate_gate_once, which packs nothing. */
#include "os.h"

#include "internal.h"

#include <stdlib.h>
#include <string.h>

struct fastgate_gate {
    fg_packed_kernel *kernel;
    fastgate_storage storage;
    unsigned threads;
    fg_shape shape;
    size_t output_size; /* those of an LSTM's gates are padded to whole panels */
    size_t nbytes;
    const char *packed; /* aligned; within `memory`, or in a buffer that was loaded */
    void *memory;       /* allocated; NULL if the gate was loaded */
    fg_file file;       /* the file that was loaded, if any */
};

const char *fastgate_version(void)
{
    return FASTGATE_VERSION;
}

const char *fastgate_strerror(int code)
{
    static const char *const texts[] = {
        [FASTGATE_OK] = "success",
        [FASTGATE_ERROR_MEMORY] = "out of memory",
        [FASTGATE_ERROR_SHAPE] = "sizes that do not fit together",
        [FASTGATE_ERROR_ISA] = "instruction set unknown, not built or not usable on this CPU",
        [FASTGATE_ERROR_VALUE] = "a weight does not fit the storage, or an option cannot have this value",
        [FASTGATE_ERROR_FORMAT] =
            "not a saved gate or LSTM of this kind and byte order, or truncated, damaged or misaligned",
        [FASTGATE_ERROR_FILE] = "a file cannot be opened, read or written; errno tells why",
        [FASTGATE_ERROR_VERSION] = "saved by another version of fastgate, in another format",
        [FASTGATE_ERROR_INTERRUPTED] = "the call was interrupted",
    };
    return (size_t)code < sizeof texts / sizeof *texts ? texts[code] : "unknown fastgate error";
}

/* Weights of fewer bytes stay in the first cache of any CPU. */
#define FIRST_CACHE (24 * 1024)

/* Packed weights of this size or more begin at a multiple of it, and ask for huge pages. */
#define HUGE_PAGE ((size_t)2 << 20)

size_t fg_packed_bytes(fastgate_storage storage, const fg_shape *shape)
{
    const size_t limit = PTRDIFF_MAX - HUGE_PAGE, panels = fg_panels_of(shape, storage);
    const size_t longest = limit / FG_LINE / 2 - 4; /* two segments of this length do not overflow size_t */
    if (panels && (shape->segments[0] > longest || shape->segments[1] > longest ||
                   panels > limit / fg_panel_bytes(storage, shape->segments)))
        return SIZE_MAX;
    return panels ? panels * fg_panel_bytes(storage, shape->segments) : 0;
}

/* Where packed weights of this size begin in allocated memory that has room to align them. */
static char *aligned_in(void *memory, size_t nbytes)
{
    const size_t alignment = nbytes < HUGE_PAGE ? FG_LINE : HUGE_PAGE;
    char *packed = (char *)memory + (alignment - (uintptr_t)memory % alignment) % alignment;
    if (alignment == HUGE_PAGE)
        os_use_huge_pages(packed, nbytes);
    return packed;
}

int fg_create_in_place(fastgate_gate **gate, fastgate_storage storage, const fg_shape *shape, unsigned threads,
                       const char *packed)
{
    fastgate_gate *made = malloc(sizeof *made);
    if (!made)
        return FASTGATE_ERROR_MEMORY;
    *made = (fastgate_gate){.kernel = fg_active_kernel(storage),
                            .storage = storage,
                            .threads = threads ? threads : 1,
                            .shape = *shape,
                            .output_size = shape->gates == 1
                                               ? shape->rows
                                               : fg_panels_of(shape, storage) * fg_panel_rows(storage),
                            .nbytes = fg_packed_bytes(storage, shape),
                            .packed = packed};
    *gate = made;
    return FASTGATE_OK;
}

int fg_create(fastgate_gate **gate, fastgate_storage storage, const fg_matrix *m, unsigned threads)
{
    const size_t nbytes = fg_packed_bytes(storage, &m->shape);
    if (nbytes == SIZE_MAX)
        return FASTGATE_ERROR_MEMORY;
    void *memory = malloc(nbytes + (nbytes < HUGE_PAGE ? FG_LINE : HUGE_PAGE));
    if (!memory)
        return FASTGATE_ERROR_MEMORY;
    char *packed = aligned_in(memory, nbytes);
    fastgate_gate *made;
    int rc = fg_pack(packed, storage, m);
    if (!rc)
        rc = fg_create_in_place(&made, storage, &m->shape, threads, packed);
    if (rc) {
        free(memory);
        return rc;
    }
    made->memory = memory;
    *gate = made;
    return FASTGATE_OK;
}

int fastgate_gate_create(fastgate_gate **gate, fastgate_storage storage, size_t output_size,
                         size_t input_size, const void *weight, ptrdiff_t row_stride,
                         ptrdiff_t column_stride, const void *bias, unsigned threads)
{
    if ((unsigned)storage > FASTGATE_FLOAT64)
        return FASTGATE_ERROR_VALUE;
    const fg_matrix m = {{output_size, 1, {input_size, 0}}, {weight}, {row_stride}, column_stride, bias};
    return fg_create(gate, storage, &m, threads);
}

void fastgate_gate_free(fastgate_gate *gate)
{
    if (gate) {
        free(gate->memory);
        fg_close_file(&gate->file);
    }
    free(gate);
}

size_t fastgate_gate_output_size(const fastgate_gate *gate)
{
    return gate->output_size;
}

size_t fastgate_gate_input_size(const fastgate_gate *gate)
{
    return gate->shape.segments[0] + gate->shape.segments[1];
}

fastgate_storage fastgate_gate_storage(const fastgate_gate *gate)
{
    return gate->storage;
}

unsigned fastgate_gate_threads(const fastgate_gate *gate)
{
    return gate->threads;
}

size_t fastgate_gate_nbytes(const fastgate_gate *gate)
{
    return gate->nbytes;
}

void fastgate_gate_unpack(const fastgate_gate *gate, void *weight, void *bias)
{
    const ptrdiff_t columns = (ptrdiff_t)gate->shape.segments[0];
    fg_unpack(gate->packed, gate->storage, &(fg_matrix){gate->shape, {weight}, {columns}, 1, bias});
}

/* ---- saved ------------------------------------------------------------------------------------- */

static fg_saved header_of(const fastgate_gate *gate)
{
    return (fg_saved){.size = fastgate_gate_saved_size(gate),
                      .kind = FG_SAVED_GATE,
                      .storage = gate->storage,
                      .threads = gate->threads,
                      .input_size = gate->shape.segments[0],
                      .output_size = gate->output_size};
}

const char *fg_packed_of(const fastgate_gate *gate)
{
    return gate->packed;
}

size_t fastgate_gate_saved_size(const fastgate_gate *gate)
{
    return sizeof(fg_saved) + gate->nbytes;
}

void fastgate_gate_save(const fastgate_gate *gate, void *buffer)
{
    const fg_saved header = header_of(gate);
    memcpy((char *)buffer + sizeof header, gate->packed, gate->nbytes);
    fg_seal(buffer, &header);
}

int fastgate_gate_load(fastgate_gate **gate, const void *buffer, size_t size)
{
    fg_saved header;
    fastgate_gate *made;
    int rc = fg_open_saved(&header, FG_SAVED_GATE, buffer, size);
    if (rc)
        return rc;
    if (header.storage > FASTGATE_FLOAT64 || header.input_size > SIZE_MAX || header.output_size > SIZE_MAX)
        return FASTGATE_ERROR_FORMAT;
    const fg_shape shape = {(size_t)header.output_size, 1, {(size_t)header.input_size, 0}};
    rc = fg_create_in_place(&made, (fastgate_storage)header.storage, &shape, header.threads,
                            (const char *)buffer + sizeof header);
    if (rc)
        return rc;
    const fg_saved expected = header_of(made);
    if (made->nbytes == SIZE_MAX || !fg_same_header(&header, &expected) ||
        !fg_is_packed(made->packed, made->storage, &shape, 1)) {
        fastgate_gate_free(made);
        return FASTGATE_ERROR_FORMAT;
    }
    *gate = made;
    return FASTGATE_OK;
}

int fastgate_gate_save_file(const fastgate_gate *gate, const char *path)
{
    const size_t size = fastgate_gate_saved_size(gate);
    void *buffer = malloc(size);
    if (buffer)
        fastgate_gate_save(gate, buffer);
    return fg_write_file(path, buffer, size);
}

int fastgate_gate_load_file(fastgate_gate **gate, const char *path)
{
    fg_file file;
    fastgate_gate *made;
    int rc = fg_open_file(&file, path);
    if (!rc)
        rc = fastgate_gate_load(&made, file.data, file.size);
    if (rc) {
        fg_close_file(&file);
        return rc;
    }
    made->file = file;
    *gate = made;
    return FASTGATE_OK;
}

/* ---- calls ------------------------------------------------------------------------------------- */

static int parts_add_up(const fastgate_part *parts, size_t part_count, size_t input_size)
{
    for (size_t i = 0; i < part_count; i++) {
        if (parts[i].size > input_size)
            return 0;
        input_size -= parts[i].size;
    }
    return !input_size;
}

/* A call that is divided into tasks, of the blocks or of the batch. */
typedef struct {
    const fg_call *call;
    fg_packed_kernel *kernel;
    size_t blocks, batch;
    size_t tasks, tasks_each; /* in all, and of each thread, unless others take them over */
    int of_batch, is_long; /* whether the rows of x are shared; whether the call can be interrupted */
    size_t block_bytes;
} shared_call;

#define PIECE_COST (16 * FG_WATCH_COST) /* about a millisecond */

/* Runs these blocks for these rows of x, or until the call is interrupted.  Between two looks at the interrupt it runs
 * whole groups of rows and about a millisecond's blocks: int8 rounds x again for every kernel call, so each piece is
 * large. */
static void run_blocks(const shared_call *s, size_t first_block, size_t blocks, size_t first, size_t count)
{
    const size_t most_rows = (4 * FG_WATCH_COST / (s->block_bytes * blocks) / FG_GROUP_ROWS + 1) * FG_GROUP_ROWS;
    size_t pieces = 0;
    for (size_t rows; count; first += rows, count -= rows) {
        rows = count < 2 * most_rows ? count : most_rows;
        for (size_t done = 0, some; done < blocks; done += some) {
            some = smaller(PIECE_COST / fg_cost(s->block_bytes, rows) + 1, blocks - done);
            if (pieces++ && fg_interrupted()) /* the caller looks before the first piece */
                return;
            const size_t block = s->call->backwards ? blocks - done - some : done;
            s->kernel(s->call, first_block + block, some, first, rows);
        }
    }
}

static void run_task(void *context, size_t i)
{
    const shared_call *s = context;
    const uint64_t size = s->of_batch ? s->batch : s->blocks;
    if (s->is_long ? fg_interrupted() : fg_stopped())
        return;
    if (s->call->backwards) /* each thread begins with the last of its own tasks */
        i += s->tasks_each - 1 - 2 * (i % s->tasks_each);
    const size_t first = (size_t)(size * i / s->tasks), count = (size_t)(size * (i + 1) / s->tasks) - first;
    if (s->of_batch)
        run_blocks(s, 0, s->blocks, first, count);
    else
        run_blocks(s, first, count, 0, s->batch);
}

/* Threads share a batch by its rows if the cache of each thread can hold the whole gate.  With a larger gate they share
 * the blocks, so that the cache of each thread holds some of them. */
static void share(unsigned threads, size_t cost, size_t nbytes, shared_call *s)
{
    const size_t batch_tasks = (s->batch + FG_CACHED_GROUP_ROWS - 1) / FG_CACHED_GROUP_ROWS;
    s->of_batch = (s->blocks < threads && batch_tasks > s->blocks) ||
                  (nbytes <= FG_CACHED_BYTES && s->batch >= threads * FG_CACHED_GROUP_ROWS);
    const size_t size = s->of_batch ? batch_tasks : s->blocks;
    if (threads > size)
        threads = (unsigned)size;
    /* more tasks than threads, so that a thread that ends early takes over some */
    s->tasks_each = smaller(size / threads, 4);
    s->tasks = threads * s->tasks_each;
    fg_share(threads, s->tasks, cost >= FG_WAKE_COST, run_task, s);
}

/*
 * Whether a call begins with the last block.  It does if the last call of this thread was one of the same gate that
 * began with the first block.  It then begins with the weights that were read last, which the caches still hold; in the
 * same direction it would find that each of them was evicted shortly before, if the weights are larger than a cache.
 */
static int next_direction(const fastgate_gate *gate)
{
    static _Thread_local struct {
        uintptr_t gate; /* its address; it may have been freed */
        int backwards;
    } last;
    if (gate->nbytes < FIRST_CACHE)
        return 0;
    last.backwards = last.gate == (uintptr_t)gate && !last.backwards;
    last.gate = (uintptr_t)gate;
    return last.backwards;
}

int fg_run(const fastgate_gate *gate, size_t batch, fg_call *call)
{
    if (!batch || !gate->output_size)
        return 0;
    call->backwards = call->ending != FG_LINEAR && next_direction(gate); /* a projection comes between two steps */
    call->packed = gate->packed;
    call->rows = gate->output_size;
    memcpy(call->segments, gate->shape.segments, sizeof call->segments);
    const size_t block = FG_BLOCK_PANELS * fg_panel_rows(gate->storage);
    const size_t blocks = gate->output_size / block + (gate->output_size % block != 0);
    const size_t cost = fg_cost(gate->nbytes, batch);
    if (cost < FG_SHARE_COST) {
        gate->kernel(call, 0, blocks, 0, batch);
        return 0;
    }
    const unsigned threads = fg_threads_of(gate->threads);
    shared_call s = {.call = call, .kernel = gate->kernel, .blocks = blocks, .batch = batch,
                     .is_long = cost >= FG_WATCH_COST, .block_bytes = gate->nbytes / blocks};
    if (threads > 1)
        share(threads, cost, gate->nbytes, &s);
    else
        run_blocks(&s, 0, blocks, 0, batch);
    return s.is_long ? fg_interrupted() : fg_stopped();
}

int fastgate_gate_run(const fastgate_gate *gate, size_t batch, const fastgate_part *parts,
                      size_t part_count, void *y, ptrdiff_t y_stride)
{
    if (!parts_add_up(parts, part_count, gate->shape.segments[0]))
        return FASTGATE_ERROR_SHAPE;
    fg_watch watch;
    fg_begin(&watch, fg_cost(gate->nbytes, batch));
    fg_run(gate, batch, &(fg_call){.last_segment = 1, .parts = parts, .y = y, .y_stride = y_stride,
                                   .ending = FG_SIGMOID});
    return fg_end(&watch);
}

int fastgate_gate_once(fastgate_storage storage, size_t output_size, size_t input_size,
                       const void *weight, ptrdiff_t row_stride, ptrdiff_t column_stride,
                       const void *bias, size_t batch, const void *x, ptrdiff_t x_stride, void *y,
                       ptrdiff_t y_stride)
{
    if (storage != FASTGATE_FLOAT32 && storage != FASTGATE_FLOAT64)
        return FASTGATE_ERROR_VALUE;
    const size_t width = fg_real_bytes(storage), cost = (input_size + 1) * width; /* of a row of W */
    /* rows of W between two looks at the interrupt are a multiple of this; column-major weights need long columns */
    const size_t unit = row_stride != 1 ? 64 : input_size < 65536 ? 1024 : 256;
    fg_watch watch;
    fg_begin(&watch, fg_product(fg_product(cost, output_size), batch));
    const size_t most = watch.callback ? (4 * FG_WATCH_COST / fg_product(cost, unit) + 1) * unit : output_size;
    /* the rows of x between two looks */
    const size_t few = watch.callback ? FG_WATCH_COST / 4 / (cost * smaller(most, output_size) + 1) + 1 : batch;
    for (size_t first = 0; first < output_size; first += most) {
        const ptrdiff_t i = (ptrdiff_t)first;
        const fg_matrix m = {{smaller(most, output_size - first), 1, {input_size, 0}},
                             {input_size ? fg_at(weight, i * row_stride, width) : weight}, {row_stride},
                             column_stride, bias ? fg_at(bias, i, width) : NULL};
        for (ptrdiff_t b = 0; (size_t)b < batch; b++) {
            if (watch.callback && (size_t)b % few == 0 && fg_interrupted())
                return fg_end(&watch);
            fg_run_once(storage, &m, input_size ? fg_at(x, b * x_stride, width) : x, fg_at(y, b * y_stride + i, width));
        }
    }
    return fg_end(&watch);
}
