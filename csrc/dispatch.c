/* Which kernels this build has, which this CPU can run, and which are in use. */
#include "os.h"

#include "internal.h"

#include <string.h>

/* FG_BASE_ONLY: for builds of several architectures at once, whose flags cannot differ by file. */
#if defined(__x86_64__) && !defined(FG_BASE_ONLY)
#include <cpuid.h>

/* XCR0: the register files that the operating system saves (Intel SDM vol. 1, 13.3) */
static unsigned os_saves(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
        return 0;
    __asm__("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return a;
}

static int has_avx2(void)
{
    unsigned a, b, c, d;
    return (os_saves() & 0x06) == 0x06 && __get_cpuid(1, &a, &b, &c, &d) && (c & bit_FMA) &&
           (c & bit_F16C) &&
           __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX2);
}

static int has_avx512(void)
{
    const unsigned needed = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
    unsigned a, b, c, d;
    return has_avx2() && (os_saves() & 0xe6) == 0xe6 &&
           __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & needed) == needed;
}

static int has_avx512vnni(void)
{
    unsigned a, b, c, d;
    return has_avx512() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & bit_AVX512VNNI);
}

/* AMD's family 19h, Zen 3 and 4: vectors of 64 bytes are executed in halves, and float16 is converted at less than the
 * speed of AVX2's. */
static int converts_slowly(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(0, &a, &b, &c, &d) && b == signature_AMD_ebx && __get_cpuid(1, &a, &b, &c, &d) &&
           (a >> 8 & 15) + (a >> 20 & 255) == 0x19;
}
#define FG_NATIVE(X)                                                                                               \
    X(avx512vnni, has_avx512vnni, avx512, avx512vnni, avx2)                                                        \
    X(avx512, has_avx512, avx512, avx512, avx2) X(avx2, has_avx2, avx2, avx2, avx2)
#elif defined(__aarch64__) && !defined(FG_BASE_ONLY)
#define converts_slowly() 0
#define FG_NATIVE(X) X(neondot, os_has_dot_product, neon, neondot, neon) X(neon, always, neon, neon, neon)
#else
#define converts_slowly() 0
#define FG_NATIVE(X)
#endif

static int always(void)
{
    return 1;
}

/* Best first: the name, the test, and the shims whose kernels it takes for floats, for int8, and where wide vectors
 * gain nothing, as in fastgate_gate_once.  CONTRIBUTING.md says how to add an instruction set. */
#define FG_ALL(X) FG_NATIVE(X) X(base, always, base, base, base)

#define FG_DECLARE(isa, usable, real, int8, narrow)                                                                \
    extern const fg_kernels fg_kernels_##real, fg_kernels_##int8, fg_kernels_##narrow;                             \
    extern const fg_kernels fg_kernels_##real##_f64, fg_kernels_##narrow##_f64;
FG_ALL(FG_DECLARE)

#define FG_ENTRY(isa, usable, real, int8, narrow)                                                                  \
    {#isa, usable, &fg_kernels_##real, &fg_kernels_##int8, &fg_kernels_##real##_f64,                               \
     {&fg_kernels_##narrow, &fg_kernels_##narrow##_f64}},
static const struct {
    const char *name;
    int (*usable)(void);
    const fg_kernels *float32, *int8, *float64, *narrow[2];
} table[] = {FG_ALL(FG_ENTRY)};
#define FG_COUNT (sizeof table / sizeof *table)

static atomic_size_t active; /* 1 + index in the table; 0 before the choice */

static size_t chosen(void)
{
    size_t number = atomic_load_explicit(&active, memory_order_relaxed);
    if (!number) { /* "base" is always usable, so this cannot fail */
        fastgate_select_isa(NULL);
        number = atomic_load_explicit(&active, memory_order_relaxed);
    }
    return number - 1;
}

const char *fastgate_isa_name(size_t index)
{
    return index < FG_COUNT ? table[index].name : NULL;
}

int fastgate_isa_usable(size_t index)
{
    return index < FG_COUNT && table[index].usable();
}

int fastgate_select_isa(const char *name)
{
    for (size_t i = 0; i < FG_COUNT; i++)
        if ((!name || !*name || !strcmp(name, table[i].name)) && table[i].usable()) {
            atomic_store_explicit(&active, i + 1, memory_order_relaxed);
            return FASTGATE_OK;
        }
    return FASTGATE_ERROR_ISA;
}

fg_packed_kernel *fg_active_kernel(fastgate_storage storage)
{
    const size_t isa = chosen();
    const fg_kernels *kernels = storage == FASTGATE_FLOAT64 ? table[isa].float64
                                : storage == FASTGATE_INT8  ? table[isa].int8
                                                            : table[isa].float32;
    if (storage == FASTGATE_FLOAT16 && converts_slowly())
        kernels = table[isa].narrow[0];
    return kernels->packed[storage];
}

void fg_run_once(fastgate_storage storage, const fg_matrix *m, const void *x, void *y)
{
    table[chosen()].narrow[storage == FASTGATE_FLOAT64]->once(m, x, y);
}

const char *fastgate_isa(void)
{
    return table[chosen()].name;
}
