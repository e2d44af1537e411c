/*
 * The pool of workers runs every piece once, on at most as many threads as asked for, all at once; with many callers,
 * forks, threads that cannot be started, and workers that sleep.  Link with -Wl,--wrap=pthread_create.
 *
 *     pool [no-forks]      for -fsanitize=thread, which does not follow threads into a child
 */
#define _GNU_SOURCE
#include "../../csrc/internal.h"
#include "test.h"

#include <dirent.h>
#include <errno.h>
#include <fenv.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 1000 };

static int until_failure = -1, failures; /* threads that can still be started, or -1 if all can; how many could not */

int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                          void *(*start)(void *), void *arg)
{
    if (until_failure == 0) {
        failures++;
        return EAGAIN;
    }
    until_failure -= until_failure > 0;
    return __real_pthread_create(thread, attributes, start, arg);
}

static int threads_alive(void)
{
    int count = 0;
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks, "/proc");
    for (struct dirent *entry; (entry = readdir(tasks));)
        count += entry->d_name[0] != '.';
    closedir(tasks);
    return count;
}

static void nap(long ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

/* How often and where pieces ran.  One thread writes each element, and fg_share makes it visible to the caller. */
typedef struct {
    unsigned char ran[MOST];
    pthread_t by[MOST];
} record;

static void note(void *context, size_t i)
{
    record *r = context;
    r->ran[i]++;
    r->by[i] = pthread_self();
}

static void each_once(const record *r, unsigned threads, size_t count)
{
    pthread_t seen[MOST];
    size_t distinct = 0;
    for (size_t i = 0; i < MOST; i++) {
        CHECK(r->ran[i] == (i < count), "%u threads, %zu pieces: piece %zu ran %d times", threads,
              count, i, r->ran[i]);
        size_t known = 0;
        while (i < count && known < distinct && !pthread_equal(seen[known], r->by[i]))
            known++;
        if (i < count && known == distinct)
            seen[distinct++] = r->by[i];
    }
    CHECK(distinct <= (threads ? threads : 1), "%zu threads, not %u", distinct, threads);
}

static void share(unsigned threads, size_t count)
{
    record r = {0};
    fg_share(threads, count, count & 1, note, &r);
    each_once(&r, threads, count);
}

/* ---- pieces that run at once: each waits until all have begun ---- */

typedef struct {
    record r;
    atomic_size_t begun;
    size_t count;
} meeting;

static void meet(void *context, size_t i)
{
    meeting *m = context;
    note(&m->r, i);
    sigset_t blocked;
    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    CHECK(sigismember(&blocked, SIGINT) == (i > 0), "piece %zu: SIGINT", i);
    CHECK(!i || fegetround() == FE_TONEAREST, "a worker has the rounding mode of the thread that started it");
    for (atomic_fetch_add(&m->begun, 1); atomic_load(&m->begun) < m->count;)
        sched_yield();
}

/* Runs `count` pieces at once on as many threads; piece i must run on worker[i] always. */
static pthread_t worker[8];
static void meet_on(unsigned count)
{
    meeting m = {.count = count};
    fg_share(count, count, 1, meet, &m);
    each_once(&m.r, count, count);
    CHECK(pthread_equal(m.r.by[0], pthread_self()), "the caller does not begin with piece 0");
    for (unsigned i = 1; i < count; i++) {
        CHECK(!worker[i] || pthread_equal(m.r.by[i], worker[i]), "piece %u on another worker", i);
        worker[i] = m.r.by[i];
    }
}

/* ---- order: a thread takes its own pieces from first to last, then those of others from last to first ---- */

typedef struct {
    record r;
    pthread_t caller;
    size_t order[MOST], taken; /* by the caller */
} diary;

static void write_down(void *context, size_t i)
{
    diary *d = context;
    note(&d->r, i);
    if (pthread_equal(pthread_self(), d->caller))
        d->order[d->taken++] = i;
}

static void order(void)
{
    diary d = {.caller = pthread_self()};
    fg_share(2, MOST, 0, write_down, &d);
    each_once(&d.r, 2, MOST);
    for (size_t n = 0; n < d.taken; n++) {
        const size_t i = d.order[n], last = n ? d.order[n - 1] : 0;
        CHECK(i < MOST / 2 ? i == n : n == 0 || last < MOST / 2 || i < last,
              "the caller took %zu after %zu", i, last);
    }
}

/* ---- */

static void nested(void *context, size_t i)
{
    note(context, i);
    share(3, 7);
}

static void *call_often(void *arg)
{
    uint64_t *seed = arg;
    for (int turn = 0; turn < 2000; turn++)
        share((unsigned)below(seed, 6), below(seed, 40));
    return NULL;
}

static atomic_bool stop;
static void *call_until_stopped(void *arg)
{
    while (!atomic_load(&stop))
        share(4, 50);
    return arg;
}

/* Runs `body` in a child process, where it must return. */
static void in_child(void (*body)(void))
{
    const pid_t child = fork();
    CHECK(child >= 0, "fork");
    if (!child) {
        alarm(60); /* a child does not inherit the parent's alarm */
        memset(worker, 0, sizeof worker);
        body();
        fflush(stdout);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child, "waitpid");
    CHECK(WIFEXITED(status) && !WEXITSTATUS(status), "a child ended with status %#x", status);
}

static void child_work(void)
{
    CHECK(threads_alive() == 1, "%d threads after a fork", threads_alive());
    share(1, 10);
    CHECK(threads_alive() == 1, "%d threads in a child that shared nothing", threads_alive());
    for (int turn = 0; turn < 3; turn++) {
        share(4, 100);
        meet_on(3);
    }
    CHECK(threads_alive() == 4, "%d threads in a child", threads_alive());
}

static void no_threads(void)
{
    until_failure = 0;
    share(4, 100);
    share(4, 100);
    CHECK(threads_alive() == 1, "%d threads", threads_alive());
    CHECK(failures == 1, "tried %d times", failures);
}

static void one_worker_at_most(void)
{
    until_failure = 1;
    for (int turn = 0; turn < 20; turn++) {
        record r = {0};
        fg_share(4, 100, 1, note, &r);
        each_once(&r, 2, 100);
    }
    meet_on(2);
    CHECK(threads_alive() == 2, "%d threads", threads_alive());
}

static void forks(void)
{
    pthread_t other;
    for (int i = 0; i < 50; i++)
        in_child(child_work);
    CHECK(!pthread_create(&other, NULL, call_until_stopped, NULL), "thread");
    for (int i = 0; i < 100; i++) {
        in_child(child_work);
        share(4, 50);
    }
    atomic_store(&stop, 1);
    pthread_join(other, NULL);
    in_child(no_threads);
    in_child(one_worker_at_most);
    meet_on(4); /* the parent has the same workers as before */
}

static double ms_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

int main(int argc, char **argv)
{
    const int with_forks = argc < 2 || strcmp(argv[1], "no-forks");
    alarm(300); /* ends the test if the pool hangs */

    const int alive = threads_alive();
    CHECK(fastgate_cpu_count() >= 1, "CPUs");
    share(1, MOST);
    share(0, 10);
    share(8, 1);
    share(8, 0);
    CHECK(threads_alive() == alive, "a thread was started for nothing");

    CHECK(fg_threads_of(0) == 1 && fg_threads_of(3) == 3, "threads of a gate");
    CHECK(fg_threads_of(1000000) == FG_THREAD_LIMIT, "threads of a gate");
    fastgate_override_threads(5);
    CHECK(fg_threads_of(1) == 5 && fg_threads_of(9) == 5, "override");
    fastgate_override_threads(0);
    CHECK(fg_threads_of(9) == 9, "override taken back");

    fesetround(FE_UPWARD);
    meet_on(4);
    CHECK(fegetround() == FE_UPWARD, "the caller's rounding mode");
    fesetround(FE_TONEAREST);
    sigset_t blocked;
    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    CHECK(!sigismember(&blocked, SIGINT), "the caller's signals");

    for (unsigned threads = 0; threads < 7; threads++)
        for (size_t count = 0; count < 20; count++)
            for (int turn = 0; turn < 30; turn++)
                share(threads, count);
    for (size_t count = 20; count <= MOST; count += 7)
        share(4, count);
    for (int turn = 0; turn < 20; turn++) {
        order();
        meet_on(2 + (unsigned)turn % 3);
        record outer = {0};
        fg_share(3, 9, 0, nested, &outer);
        each_once(&outer, 3, 9);
    }

    for (int turn = 0; turn < 5; turn++) { /* calls wake workers that sleep */
        nap(10);
        share(4, 99);
        nap(10);
        share(4, 100);
        nap(10);
        meet_on(4);
    }
    nap(10);
    const double cpu = ms_of(CLOCK_PROCESS_CPUTIME_ID);
    nap(200);
    const double used = ms_of(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    CHECK(used < 20, "%.1f ms of CPU time while idle", used);
    for (int turn = 0; turn < 4000; turn++) { /* a call comes just when the worker falls asleep, after IDLE_NS */
        for (double end = ms_of(CLOCK_MONOTONIC) + 0.095 + turn % 100 * 1e-4;
             ms_of(CLOCK_MONOTONIC) < end;)
            ;
        meet_on(2);
    }
    record r;
    do { /* at some time a worker takes part again */
        memset(&r, 0, sizeof r);
        fg_share(2, MOST, 0, note, &r);
    } while (pthread_equal(r.by[MOST / 2], pthread_self()));

    pthread_t caller[8];
    uint64_t seeds[8];
    for (int t = 0; t < 8; t++) {
        seeds[t] = (uint64_t)t;
        CHECK(!pthread_create(&caller[t], NULL, call_often, &seeds[t]), "thread");
    }
    for (int t = 0; t < 8; t++)
        pthread_join(caller[t], NULL);

    if (with_forks)
        forks();
    share(100000, MOST);
    if (with_forks) /* a sanitizer has threads of its own */
        CHECK(threads_alive() <= FG_THREAD_LIMIT, "%d threads", threads_alive());
    return 0;
}
