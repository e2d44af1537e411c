/*
 * Allocations are counted, and fail when a test says so.  Link with -Wl,--wrap=malloc,--wrap=calloc,
 * --wrap=realloc,--wrap=aligned_alloc,--wrap=posix_memalign,--wrap=free.
 */
#define _GNU_SOURCE
#include "test.h"

#include <errno.h>
#include <signal.h>
#include <unistd.h>

#ifdef _WIN32 /* Linkers for Windows wrap nothing, so these replace malloc and the others. */
#define NOGDI /* else windows.h defines PATTERN */
#include <windows.h>
#define __wrap_malloc malloc
#define __wrap_calloc calloc
#define __wrap_realloc realloc
#define __wrap_free free
#define __real_malloc(size) HeapAlloc(GetProcessHeap(), 0, size)
#define __real_calloc(count, size) HeapAlloc(GetProcessHeap(), HEAP_ZERO_MEMORY, (count) * (size))
#define __real_realloc(p, size) ((p) ? HeapReAlloc(GetProcessHeap(), 0, p, size) : __real_malloc(size))
#define __real_free(p) HeapFree(GetProcessHeap(), 0, p)
#else
#include <sys/mman.h>
void *__real_malloc(size_t), *__real_calloc(size_t, size_t), *__real_realloc(void *, size_t);
void *__real_aligned_alloc(size_t, size_t);
int __real_posix_memalign(void **, size_t, size_t);
void __real_free(void *);
#endif

static long live, until_failure = -1; /* blocks in use; allocations before one fails, or -1 if none shall fail */

static int fails(void)
{
    if (until_failure < 0 || until_failure--)
        return 0;
    errno = ENOMEM;
    return 1;
}

static void *counted(void *p)
{
    live += p != NULL;
    return p;
}

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : counted(__real_malloc(size));
}

void *__wrap_calloc(size_t count, size_t size)
{
    return fails() ? NULL : counted(__real_calloc(count, size));
}

void *__wrap_realloc(void *p, size_t size)
{
    if (fails())
        return NULL;
    void *q = __real_realloc(p, size);
    live += !p && q;
    return q;
}

#ifndef _WIN32
void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
    return fails() ? NULL : counted(__real_aligned_alloc(alignment, size));
}

int __wrap_posix_memalign(void **p, size_t alignment, size_t size)
{
    int error = fails() ? ENOMEM : __real_posix_memalign(p, alignment, size);
    if (!error)
        counted(*p);
    return error;
}
#endif

void __wrap_free(void *p)
{
    live -= p != NULL;
    __real_free(p);
}

/* Makes the call again and again, while one of its allocations after the other fails, until all succeed. */
#define FAIL_EACH(call, unchanged)                                                                 \
    for (int tries = 0;; tries++) {                                                                \
        const long held = live;                                                                    \
        until_failure = tries;                                                                     \
        const int rc = call, unused = until_failure >= 0;                                          \
        until_failure = -1;                                                                        \
        if (unused) {                                                                              \
            CHECK(!rc && tries, "%d allocations, %s", tries, fastgate_strerror(rc));               \
            break;                                                                                 \
        }                                                                                          \
        CHECK(rc == FASTGATE_ERROR_MEMORY && (unchanged), "allocation %d", tries);                 \
        CHECK(live == held, "allocation %d fails: %ld blocks leaked", tries, live - held);         \
    }
