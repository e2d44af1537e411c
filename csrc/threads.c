/*
 * The threads that share one call: a pool of workers, started by the calls that need them.
 *
 * The pool runs one job at a time; a caller that finds it taken runs its job alone.  The tasks of
 * a job are split into one range for each participant: the caller is participant 0, worker p always
 * participant p, so that equal calls lead it through the same memory.  A participant takes the
 * tasks of its own range front to back, then single tasks from the ends of the others' ranges.
 *
 * A range is one atomic word, and taking a task one compare-exchange on it, so nobody waits for a
 * worker that has not begun: its tasks are taken by others.  Until a worker has counted the tasks
 * that it ran, their job cannot end.  So a worker reads the job only after it took a task of its
 * own range; one that wakes too late finds that range empty, or filled by a later job, which is then
 * its job.
 */
#include "os.h"

#include "internal.h"

#include <fenv.h>

static atomic_uint threads_for_all; /* 0: as each gate was created */

void fastgate_override_threads(unsigned threads)
{
    atomic_store_explicit(&threads_for_all, threads, memory_order_relaxed);
}

unsigned fg_threads_of(unsigned created_with)
{
    const unsigned for_all = atomic_load_explicit(&threads_for_all, memory_order_relaxed);
    const unsigned threads = for_all ? for_all : created_with;
    return threads < 1 ? 1 : threads < FG_THREAD_LIMIT ? threads : FG_THREAD_LIMIT;
}

static _Thread_local fg_watch *watched; /* the call that this thread works on, if it may be interrupted */
static _Thread_local int is_worker;

/* A waiting thread offers its CPU to others after this many looks, a microsecond or two: with more threads than CPUs,
 * it may wait for those others. */
#define LOOKS 32

/* How long an idle worker looks for its next job before it sleeps: longer than a busy caller pauses
 * between calls, and little enough to waste. */
#define IDLE_NS 100000

/*
 * The tasks of a range that nobody took yet: from `first` on, `left` many, as first << 32 | left; 0
 * where none are left.  ASLEEP is set while its worker sleeps, whatever the tasks.
 */
typedef _Atomic uint64_t range;
#define ASLEEP ((uint64_t)1 << 63)
#define ONE_LATER ((uint64_t)1 << 32)
#define MOST_TASKS INT32_MAX

/* Apart from what other threads write: two lines, which some CPUs fetch together. */
#define APART _Alignas(128)

static struct {
    APART range tasks;
    APART os_sleeper sleeper; /* whose lock the worker holds where it falls asleep */
} participants[FG_THREAD_LIMIT];

static struct { /* written by its caller while no range has tasks */
    APART void (*task)(void *context, size_t i);
    void *context;
    fg_watch *watched; /* of the caller */
    unsigned threads;
} job;

static struct {
    APART atomic_size_t count;
} unfinished; /* tasks of the job, except those that workers ran and counted */

static struct {
    APART atomic_bool taken;
    /* for the caller that has taken it */
    unsigned workers, most_workers; /* that run; that may run, below FG_THREAD_LIMIT */
    uint64_t asleep_until;          /* the end of the last job that found a worker asleep */
} pool;

static void pause_after(unsigned look)
{
    if (look % LOOKS == 0)
        os_yield();
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Takes a task from the front or the end of a range; 0 if there is none. */
static int take(range *from, int front, size_t *task)
{
    uint64_t now = atomic_load_explicit(from, memory_order_relaxed), rest;
    do {
        const uint32_t first = (uint32_t)((now & ~ASLEEP) >> 32), left = (uint32_t)now;
        if (!left)
            return 0;
        *task = front ? first : (size_t)first + left - 1;
        rest = left == 1 ? now & ASLEEP : now - 1 + (front ? ONE_LATER : 0);
    } while (!atomic_compare_exchange_weak_explicit(from, &now, rest, memory_order_acquire,
                                                    memory_order_relaxed));
    return 1;
}

/* Runs what participant `me` can take of the job, and returns how many tasks that was. */
static size_t take_part(unsigned me)
{
    size_t i, done = 0;
    for (; take(&participants[me].tasks, 1, &i); done++)
        watched = job.watched, job.task(job.context, i);
    if (me && !done)
        return 0; /* the job may be over */
    for (unsigned step = 1; step < job.threads; step++) {
        range *other = &participants[(me + step) % job.threads].tasks;
        for (; take(other, 0, &i); done++)
            watched = job.watched, job.task(job.context, i);
    }
    return done;
}

/* Sleeps, unless there are tasks. */
static void sleep_until_woken(unsigned me)
{
    range *own = &participants[me].tasks;
    uint64_t none = 0;
    os_lock(&participants[me].sleeper);
    if (atomic_compare_exchange_strong_explicit(own, &none, ASLEEP, memory_order_relaxed,
                                                memory_order_relaxed))
        while (atomic_load_explicit(own, memory_order_relaxed) & ASLEEP)
            os_sleep(&participants[me].sleeper);
    os_unlock(&participants[me].sleeper);
}

static void await_tasks(unsigned me)
{
    range *own = &participants[me].tasks;
    const uint64_t start = os_nanoseconds();
    for (unsigned look = 1; !atomic_load_explicit(own, memory_order_relaxed); look++) {
        pause_after(look);
        if (look % LOOKS == 0 && os_nanoseconds() - start > IDLE_NS) {
            sleep_until_woken(me);
            return;
        }
    }
}

/* Wakes a worker if it sleeps and has tasks.  It can take the caller longer than a small job. */
static void wake_worker(unsigned p)
{
    range *tasks = &participants[p].tasks;
    if (atomic_load_explicit(tasks, memory_order_relaxed) <= ASLEEP)
        return;
    atomic_fetch_and_explicit(tasks, ~ASLEEP, memory_order_relaxed);
    os_lock(&participants[p].sleeper); /* so the worker waits by now, or has looked again */
    os_unlock(&participants[p].sleeper);
    os_wake(&participants[p].sleeper);
}

static OS_THREAD work(void *number)
{
    const unsigned me = (unsigned)(uintptr_t)number;
    is_worker = 1;
    fesetenv(FE_DFL_ENV); /* not that of the thread which happened to start this one */
    os_name_thread();
    for (;;) {
        await_tasks(me);
        const size_t done = take_part(me);
        if (done)
            atomic_fetch_sub_explicit(&unfinished.count, done, memory_order_release);
    }
    return 0;
}

/* Starts workers until there are `wanted`, or until one cannot be started: none is tried again.  What it has on the
 * stack is not to lie below tasks. */
static __attribute__((noinline)) void start_workers(unsigned wanted)
{
    while (pool.workers < wanted && pool.workers < pool.most_workers) {
        const unsigned p = pool.workers + 1;
        atomic_store_explicit(&participants[p].tasks, 0, memory_order_relaxed);
        os_init_sleeper(&participants[p].sleeper);
        if (os_start_thread(work, p))
            pool.most_workers = pool.workers;
        else
            pool.workers = p;
    }
}

/* In the child of a fork, no worker lives, and whoever had taken the pool is gone. */
static void begin_again(void)
{
    pool.workers = 0;
    pool.most_workers = FG_THREAD_LIMIT - 1;
    atomic_store_explicit(&participants[0].tasks, 0, memory_order_relaxed);
    atomic_store_explicit(&pool.taken, 0, memory_order_relaxed);
}

/* When the library is loaded, before there can be a fork or a second thread in a call. */
__attribute__((constructor)) static void prepare_pool(void)
{
    pool.most_workers = os_at_fork(begin_again) ? 0 : FG_THREAD_LIMIT - 1; /* without it, no workers */
}

/* Runs the job, on the pool that the caller has taken. */
static void run_together(unsigned threads, size_t count, int wake)
{
    job.threads = threads;
    atomic_store_explicit(&unfinished.count, count, memory_order_relaxed);
    uint64_t asleep = 0;
    for (unsigned p = 0; p < threads; p++) {
        const uint64_t first = (uint64_t)count * p / threads;
        const uint64_t end = (uint64_t)count * (p + 1) / threads;
        asleep |= atomic_fetch_or_explicit(&participants[p].tasks, first << 32 | (end - first),
                                           memory_order_release);
    }
    if (asleep && (wake || os_nanoseconds() - pool.asleep_until < IDLE_NS))
        for (unsigned p = 1; p < threads; p++)
            wake_worker(p);
    const size_t done = take_part(0);
    for (unsigned look = 1;
         atomic_load_explicit(&unfinished.count, memory_order_acquire) != done; look++) {
        pause_after(look);
        fg_interrupted(); /* the others may need long */
    }
    if (asleep)
        pool.asleep_until = os_nanoseconds();
}

void fg_share(unsigned threads, size_t count, int wake, void (*task)(void *context, size_t i),
              void *context)
{
    if (threads > count)
        threads = (unsigned)count;
    if (threads < 2 || count > MOST_TASKS || atomic_load_explicit(&pool.taken, memory_order_relaxed) ||
        atomic_exchange_explicit(&pool.taken, 1, memory_order_acquire)) {
        for (size_t i = 0; i < count; i++)
            task(context, i);
        return;
    }
    if (pool.workers < threads - 1)
        start_workers(threads - 1);
    if (threads > pool.workers + 1) /* the limit, or what could be started */
        threads = pool.workers + 1;
    job.task = task;
    job.context = context;
    job.watched = watched;
    run_together(threads, count, wake);
    atomic_store_explicit(&pool.taken, 0, memory_order_release);
}

unsigned fastgate_cpu_count(void)
{
    return os_cpus();
}

/* ---- interruption ------------------------------------------------------------------------------ */

/* How often a call asks: often enough for an answer within 100 ms, tasks included; and seldom enough for a function
 * that takes a lock, such as Python's, for which it may wait some ms. */
#define ASK_NS 20000000

static int (*_Atomic callback)(void);

void fastgate_set_interrupt(int (*asked)(void))
{
    atomic_store_explicit(&callback, asked, memory_order_release);
}

void fg_watch_call(fg_watch *w)
{
    w->callback = atomic_load_explicit(&callback, memory_order_acquire);
    if (!w->callback)
        return;
    w->since = os_nanoseconds();
    atomic_init(&w->interrupted, 0);
    watched = w;
}

int fg_unwatch_call(fg_watch *w)
{
    watched = NULL;
    return atomic_load_explicit(&w->interrupted, memory_order_relaxed) ? FASTGATE_ERROR_INTERRUPTED : FASTGATE_OK;
}

int fg_stopped(void)
{
    return watched && atomic_load_explicit(&watched->interrupted, memory_order_relaxed);
}

int fg_interrupted(void)
{
    fg_watch *w = watched;
    if (!w || is_worker || fg_stopped() || os_nanoseconds() - w->since < ASK_NS)
        return fg_stopped();
    watched = NULL; /* for calls that the callback makes itself */
    const int interrupted = w->callback() != 0;
    watched = w;
    w->since = os_nanoseconds();
    atomic_store_explicit(&w->interrupted, interrupted, memory_order_relaxed);
    return interrupted;
}

/* ---- pipelines --------------------------------------------------------------------------------- */

/* The state of a row of a pipeline is twice the number of its tasks that have returned, plus 1 while one runs. */
typedef struct {
    fg_progress *progress;
    size_t rows, columns;
    void (*task)(void *context, size_t i, size_t k);
    void *context;
} pipeline;

/* Runs a task of row i if one can begin. */
static int run_next(const pipeline *p, size_t i)
{
    size_t now = atomic_load_explicit(&p->progress[i].state, memory_order_relaxed);
    if (now % 2 || now / 2 == p->columns ||
        (i && atomic_load_explicit(&p->progress[i - 1].state, memory_order_acquire) / 2 <= now / 2) ||
        !atomic_compare_exchange_strong_explicit(&p->progress[i].state, &now, now + 1, memory_order_acquire,
                                                 memory_order_relaxed))
        return 0;
    p->task(p->context, i, now / 2);
    atomic_store_explicit(&p->progress[i].state, now + 2, memory_order_release);
    return 1;
}

/* Runs tasks until all have returned, or the call is interrupted; those of later rows first: what they need was
 * computed a moment ago. */
static void run_rows(void *context, size_t unused)
{
    const pipeline *p = context;
    (void)unused;
    for (unsigned look = 1;
         atomic_load_explicit(&p->progress[p->rows - 1].state, memory_order_acquire) / 2 < p->columns &&
         !fg_interrupted(); look++) {
        size_t i = p->rows;
        while (i && !run_next(p, i - 1))
            i--;
        if (!i)
            pause_after(look);
    }
}

void fg_pipeline(unsigned threads, int wake, fg_progress *progress, size_t rows, size_t columns,
                 void (*task)(void *context, size_t i, size_t k), void *context)
{
    pipeline p = {progress, rows, columns, task, context};
    for (size_t i = 0; i < rows; i++)
        atomic_init(&progress[i].state, 0);
    fg_share(threads, rows, wake, run_rows, &p);
}
