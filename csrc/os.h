/* What the operating system gives, by the same names on POSIX systems and on Windows.  To be included first. */
#ifndef FASTGATE_OS_H
#define FASTGATE_OS_H

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#define _GNU_SOURCE /* sched_getaffinity, pthread_setname_np, madvise */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#endif

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

/*
 * os_nanoseconds    since some moment
 * os_cpus           the CPUs that this process may use
 * os_yield          lets another thread have the CPU
 * os_start_thread   starts `static OS_THREAD work(void *number)`, which never returns; 0 if it runs
 * os_name_thread    names the calling thread for debuggers, where that is portable
 * os_at_fork        has a function called in every child of a fork; 0 if it will be
 * os_sleeper        what a thread sleeps on that holds its lock: os_sleep, until another calls os_wake
 * os_use_huge_pages for this memory, if that gains and is allowed
 * os_map            maps a regular file to be read, however short; 0, or -1 with errno
 * os_check_target   0 if a new file may be put there, where none or a regular one is; or -1 with errno
 * os_create         a new file, to be written; NULL with errno, EEXIST if there is something of this name
 * os_rename         at once and in place of a file that is there; 0, or -1 with errno.  Windows refuses (EACCES) while
 *                   a file is open or mapped.
 *
 * Paths are UTF-8 on Windows.
 */
#define OS_STACK_BYTES (512 * 1024)

#ifdef _WIN32
#include <io.h>

#define OS_SEPARATORS "/\\:" /* before the name of a file */
#define OS_THREAD DWORD WINAPI

typedef struct {
    SRWLOCK lock;
    CONDITION_VARIABLE woken;
} os_sleeper;

static inline void os_init_sleeper(os_sleeper *s)
{
    InitializeSRWLock(&s->lock);
    InitializeConditionVariable(&s->woken);
}

static inline void os_lock(os_sleeper *s) { AcquireSRWLockExclusive(&s->lock); }
static inline void os_unlock(os_sleeper *s) { ReleaseSRWLockExclusive(&s->lock); }
static inline void os_sleep(os_sleeper *s) { SleepConditionVariableSRW(&s->woken, &s->lock, INFINITE, 0); }
static inline void os_wake(os_sleeper *s) { WakeConditionVariable(&s->woken); }
static inline void os_yield(void) { SwitchToThread(); }
static inline void os_name_thread(void) {} /* has no name before Windows 10 */
static inline int os_at_fork(void (*in_child)(void)) { return (void)in_child, 0; }
static inline void os_use_huge_pages(void *p, size_t size) { (void)p, (void)size; } /* only administrators may */
static inline long os_process(void) { return (long)GetCurrentProcessId(); }

static inline uint64_t os_nanoseconds(void)
{
    LARGE_INTEGER count, per_second;
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&per_second);
    const uint64_t n = (uint64_t)count.QuadPart, hz = (uint64_t)per_second.QuadPart;
    return n / hz * 1000000000 + n % hz * 1000000000 / hz;
}

static inline unsigned os_cpus(void)
{
    DWORD_PTR mine = 0, all = 0; /* 0 in a process that runs in several groups of 64 CPUs: it may use all */
    if (GetProcessAffinityMask(GetCurrentProcess(), &mine, &all) && mine)
        return (unsigned)__builtin_popcountll(mine);
    return GetActiveProcessorCount(ALL_PROCESSOR_GROUPS);
}

static inline int os_start_thread(OS_THREAD work(void *), uintptr_t number)
{
    HANDLE thread =
        CreateThread(NULL, OS_STACK_BYTES, work, (void *)number, STACK_SIZE_PARAM_IS_A_RESERVATION, NULL);
    return thread ? !CloseHandle(thread) : -1;
}

/* A path in UTF-16, to be freed; NULL with errno. */
static inline wchar_t *os_wide(const char *path)
{
    const int size = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, NULL, 0);
    wchar_t *wide = size ? malloc((size_t)size * sizeof *wide) : NULL;
    if (wide)
        MultiByteToWideChar(CP_UTF8, 0, path, -1, wide, size);
    else
        errno = size ? ENOMEM : EILSEQ;
    return wide;
}

static inline int os_open(const char *path, int flags)
{
    wchar_t *wide = os_wide(path);
    const int fd = wide ? _wopen(wide, flags | _O_BINARY | _O_NOINHERIT, _S_IREAD | _S_IWRITE) : -1;
    free(wide);
    return fd;
}

static inline int os_map(const char *path, void **data, size_t *size)
{
    const int fd = os_open(path, _O_RDONLY);
    struct _stat64 status;
    if (fd < 0)
        return -1;
    int rc = _fstat64(fd, &status);
    if (!rc && !S_ISREG(status.st_mode))
        rc = -1, errno = ENODEV;
    *size = rc ? 0 : (size_t)status.st_size;
    if (*size) { /* the view keeps the mapping, and that the file */
        HANDLE mapping = CreateFileMappingW((HANDLE)_get_osfhandle(fd), NULL, PAGE_READONLY, 0, 0, NULL);
        *data = mapping ? MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0) : NULL;
        if (!*data)
            rc = -1, *size = 0, errno = GetLastError() == ERROR_NOT_ENOUGH_MEMORY ? ENOMEM : EIO;
        if (mapping)
            CloseHandle(mapping);
    }
    _close(fd);
    return rc;
}

static inline void os_unmap(void *data, size_t size) { (void)size, UnmapViewOfFile(data); }

static inline int os_check_target(const char *path)
{
    wchar_t *wide = os_wide(path);
    struct _stat64 status;
    const int is_new = wide && _wstat64(wide, &status);
    free(wide);
    if (!wide || is_new || S_ISREG(status.st_mode))
        return wide ? 0 : -1;
    errno = S_ISDIR(status.st_mode) ? EISDIR : ENODEV;
    return -1;
}

static inline void os_remove(const char *path)
{
    wchar_t *wide = os_wide(path);
    if (wide)
        DeleteFileW(wide);
    free(wide);
}

static inline FILE *os_create(const char *path)
{
    const int fd = os_open(path, _O_WRONLY | _O_CREAT | _O_EXCL);
    FILE *file = fd < 0 ? NULL : _fdopen(fd, "wb");
    if (!file && fd >= 0)
        _close(fd), os_remove(path), errno = ENOMEM;
    return file;
}

static inline int os_rename(const char *from, const char *to)
{
    wchar_t *old = os_wide(from), *new = os_wide(to);
    const int failed = !old || !new || !MoveFileExW(old, new, MOVEFILE_REPLACE_EXISTING);
    if (failed && old && new)
        errno = GetLastError() == ERROR_DISK_FULL ? ENOSPC : EACCES;
    free(old), free(new);
    return -failed;
}

#ifdef __aarch64__
static inline int os_has_dot_product(void) { return IsProcessorFeaturePresent(43); } /* PF_ARM_V82_DP_… */
#endif

#else /* POSIX */

#define OS_SEPARATORS "/"
#define OS_THREAD void *

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t woken;
} os_sleeper;

static inline void os_init_sleeper(os_sleeper *s)
{
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->woken, NULL);
}

static inline void os_lock(os_sleeper *s) { pthread_mutex_lock(&s->lock); }
static inline void os_unlock(os_sleeper *s) { pthread_mutex_unlock(&s->lock); }
static inline void os_sleep(os_sleeper *s) { pthread_cond_wait(&s->woken, &s->lock); }
static inline void os_wake(os_sleeper *s) { pthread_cond_signal(&s->woken); }
static inline void os_yield(void) { sched_yield(); }
static inline int os_at_fork(void (*in_child)(void)) { return pthread_atfork(NULL, NULL, in_child); }
static inline long os_process(void) { return (long)getpid(); }

static inline void os_use_huge_pages(void *p, size_t size)
{
#ifdef MADV_HUGEPAGE /* before the first touch; if it is refused, small ones do */
    madvise(p, size, MADV_HUGEPAGE);
#else
    (void)p, (void)size;
#endif
}

static inline uint64_t os_nanoseconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static inline unsigned os_cpus(void)
{
#ifdef __linux__
    cpu_set_t set;
    if (!sched_getaffinity(0, sizeof set, &set))
        return (unsigned)CPU_COUNT(&set);
#endif
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online < 1 ? 1 : (unsigned)online;
}

static inline int os_start_thread(OS_THREAD work(void *), uintptr_t number)
{
    sigset_t all, before;
    pthread_attr_t attributes;
    pthread_t thread;
    int failed = pthread_attr_init(&attributes);
    if (failed)
        return failed;
    pthread_attr_setstacksize(&attributes, OS_STACK_BYTES);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&all); /* signals are for the program's own threads; a worker inherits the mask */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    failed = pthread_create(&thread, &attributes, work, (void *)number);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return failed;
}

static inline void os_name_thread(void)
{
#ifdef __linux__
    pthread_setname_np(pthread_self(), "fastgate");
#endif
}

static inline int os_map(const char *path, void **data, size_t *size)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe may have no writer */
    struct stat status;
    if (fd < 0)
        return -1;
    int rc = fstat(fd, &status);
    if (!rc && (!S_ISREG(status.st_mode) || (uintmax_t)status.st_size > PTRDIFF_MAX))
        rc = -1, errno = S_ISREG(status.st_mode) ? EFBIG : ENODEV;
    *size = rc ? 0 : (size_t)status.st_size;
    if (*size && (*data = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, fd, 0)) == MAP_FAILED)
        rc = -1, *size = 0;
    const int error = errno;
    close(fd);
    errno = error;
    return rc;
}

static inline void os_unmap(void *data, size_t size) { munmap(data, size); }

static inline int os_check_target(const char *path)
{
    struct stat status;
    if (stat(path, &status) || S_ISREG(status.st_mode))
        return 0;
    errno = S_ISDIR(status.st_mode) ? EISDIR : ENODEV;
    return -1;
}

static inline FILE *os_create(const char *path) { return fopen(path, "wbx"); }
static inline int os_rename(const char *from, const char *to) { return rename(from, to); }
static inline void os_remove(const char *path) { remove(path); }

#if defined(__aarch64__) && defined(__linux__)
static inline int os_has_dot_product(void) { return getauxval(AT_HWCAP) >> 20 & 1; } /* HWCAP_ASIMDDP */
#elif defined(__aarch64__) && defined(__APPLE__)
static inline int os_has_dot_product(void)
{
    int has = 0;
    size_t size = sizeof has;
    return !sysctlbyname("hw.optional.arm.FEAT_DotProd", &has, &size, NULL, 0) && has;
}
#elif defined(__aarch64__)
static inline int os_has_dot_product(void) { return 0; }
#endif
#endif
#endif
