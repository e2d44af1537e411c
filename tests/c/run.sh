#!/bin/sh
# Builds csrc and its C tests, and runs them.
#
#     tests/c/run.sh [NAME...]
#
#     header           fastgate.h is C99 and C++11
#     gcc, clang       every test, optimized by this compiler
#     wide             the kernels with vectors of 16 lanes, compiled for AVX2
#     sanitizers       AddressSanitizer and UndefinedBehaviorSanitizer in one build
#     sanitizers-long  bits and lstm in that build, which takes minutes
#     tsan             the threaded tests under ThreadSanitizer
#     valgrind         the tests of memory under valgrind
#     aarch64          compiled for AArch64, emulated by qemu
#     musl             linked with musl, statically
#     musl-aarch64     the same for AArch64, emulated by qemu
#     windows          for Windows on x86-64, run by wine
#     linked           compiled and linked, but not run: for macOS on both architectures, and Windows on AArch64
#     musl-bits, windows-bits      the same with bits and threads only, for Windows also saved
#     fuzz             the C API and saved buffers under libFuzzer, for FUZZ_SECONDS, 60 if that is not set
#     activations      all 2^32 inputs of the sigmoid
#     library          every test with the archive LIBRARY, which exists already; the compiler gets FLAGS
#
# Zig's Clang, which has the C libraries of all platforms, cross-compiles those from musl to windows-bits.  ZIG is the
# path of Zig; if it is not set, `python-zig` is used, which PyPI's ziglang installs.
#
# Without a name it runs those that every change must pass; `all` is everything except `library`.
#
# It prints one line a step and a summary; the exit status is 0 if nothing failed.  The output of a step that
# failed is shown.  Runs that have the same folder in DIGESTS compare their results with each other's.

quick="header gcc wide sanitizers tsan aarch64"
all="header gcc clang wide sanitizers sanitizers-long tsan valgrind aarch64"
all="$all musl musl-aarch64 windows linked fuzz activations"
here=$(cd "$(dirname "$0")" && pwd)
csrc=$here/../../csrc
jobs=$(getconf _NPROCESSORS_ONLN)
out=$(mktemp -d) || exit 1
trap 'rm -rf "$out"' EXIT
passed=0 failed=0

say() # say RESULT NAME DETAIL
{
    printf '%-6s %-42s %s\n' "$1" "$2" "$3"
}

step() # step NAME COMMAND...: its last line of output is the detail
{
    name=$1
    shift
    start=$(date +%s%N)
    if "$@" >"$out/log" 2>&1; then
        passed=$((passed + 1)) result=ok
    else
        failed=$((failed + 1)) result=FAILED
    fi
    ms=$((($(date +%s%N) - start) / 1000000))
    seconds=$(printf '%d.%d s  ' $((ms / 1000)) $((ms % 1000 / 100)))
    say $result "$name" "$seconds$(tail -n 1 "$out/log" | cut -c 1-120)"
    [ $result = ok ] || sed 's/^/       | /' "$out/log" | tail -n 25
    [ $result = ok ]
}

# ---- building ----------------------------------------------------------------------------------

all_tests="bits lstm cell memory saved threads pool interrupt stack"
tests=$all_tests
strict="-std=c11 -ffp-contract=off -Wall -Wextra -Werror"
wrap=-Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc,--wrap=posix_memalign,--wrap=free

build_library() # build_library FOLDER COMPILER FLAGS CSRC
{
    cmake -S "$4" -B "$1" -DCMAKE_C_COMPILER="$2" -DCMAKE_BUILD_TYPE=None -DCMAKE_C_FLAGS="$3 -Werror" $cmake_options &&
        cmake --build "$1" --target fastgate_static -j "$jobs"
}

link_tests() # link_tests FOLDER COMPILER FLAGS ARCHIVE
{
    for test in $tests; do
        case $test in
        memory) extra=$wrap ;;
        pool) extra=-Wl,--wrap=pthread_create ;;
        interrupt) extra=-Wl,--wrap=clock_gettime ;;
        stack) extra=-Wl,-z,now ;;
        *) extra= ;;
        esac
        # gcc 12 for AArch64 fails to vectorize bits.c
        $2 $3 $strict -fno-tree-vectorize $extra "$here/$test.c" "$4" -o "$1/$test" -lm -lpthread || return
    done
}

# build FOLDER COMPILER FLAGS [CSRC]: csrc and all tests into FOLDER
build()
{
    build_library "$1" "$2" "$3" "${4:-$csrc}" && link_tests "$1" "$2" "$3" "$1/libfastgate.a"
}

# built TITLE FOLDER COMPILER FLAGS [CSRC]: runs `build` as a step, once for each folder
built()
{
    [ -e "$2.built" ] && return
    [ ! -e "$2" ] || return # an earlier build failed
    title=$1
    shift
    step "$title: build" build "$@" && : >"$1.built"
}

# digests COMMAND...: every digest of a test, of any build, ISA and machine, must be that of the first line of
# its first build, which is kept in $DIGESTS.
digests()
{
    for program; do :; done
    expected=${DIGESTS:-$out}/expected-${program##*/}
    "$@" >"$out/lines" || { cat "$out/lines"; return 1; }
    tr -d '\r' <"$out/lines" | tee "$out/digests" # Windows ends lines with both
    awk 'NR == 1 { print $2 }' "$out/digests" >"$expected.$$"
    ln "$expected.$$" "$expected" 2>/dev/null # only the first of several runs succeeds
    awk -v expected="$(cat "$expected")" '
        $2 != expected { print $1 ": digest " $2 ", not " expected; wrong = 1 }
        { names = names " " $1 }
        END { print wrong ? "bits differ" : expected names; exit wrong || !NR }' "$out/digests"
}

have() # have NAME TOOL...
{
    name=$1
    shift
    for tool; do
        command -v "$tool" >/dev/null && continue
        say skip "$name" "no $tool"
        return 1
    done
}

# ---- what can be run by name -------------------------------------------------------------------

header()
{
    printf '#include "%s"\nint main(void) { return fastgate_isa() == 0; }\n' "$csrc/fastgate.h" >"$out/h.c" &&
        ${CC:-cc} -std=c99 -pedantic -Wall -Wextra -Werror -fsyntax-only "$out/h.c" || return
    ! command -v g++ || g++ -x c++ -std=c++11 -pedantic -Wall -Wextra -Werror -fsyntax-only "$out/h.c"
}

optimized()
{
    have "$1" "$1" && built "$1" "$out/$1" "$1" -O3 || return
    step "$1: bits" digests "$out/$1/bits"
    step "$1: lstm" digests "$out/$1/lstm"
    for test in cell memory saved threads pool interrupt stack; do
        step "$1: $test" "$out/$1/$test"
    done
}

# The kernels for AVX2 become those of vec_generic.h, with vectors of 64 bytes.
wide()
{
    [ "$(uname -m)" = x86_64 ] || return
    cp -R "$csrc" "$out/csrc-wide"
    for shim in avx2 avx2_f64; do
        sed 's/#include "vec_avx2.h"/#define FG_BYTES 64\n#include "vec_generic.h"/' "$csrc/kernels/$shim.c" \
            >"$out/csrc-wide/kernels/$shim.c"
        ! cmp -s "$csrc/kernels/$shim.c" "$out/csrc-wide/kernels/$shim.c" ||
            { echo "$shim.c includes no vec_avx2.h"; exit 1; }
    done
    built "16 lanes on AVX2" "$out/wide" $cc "-O1 -Wno-psabi" "$out/csrc-wide" &&
        step "16 lanes on AVX2: bits" digests "$out/wide/bits" &&
        step "16 lanes on AVX2: lstm" digests "$out/wide/lstm" &&
        step "16 lanes on AVX2: cell" "$out/wide/cell" 6
}

export ASAN_OPTIONS=allocator_may_return_null=1:allow_user_segv_handler=1
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1

build_sanitizers()
{
    built "ASan, UBSan" "$out/sanitizers" $strictest \
        "-O1 -g -fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=all"
}

sanitizers()
{
    build_sanitizers || return
    step "ASan, UBSan: memory" "$out/sanitizers/memory" few
    step "ASan, UBSan: saved" "$out/sanitizers/saved" few
    step "ASan, UBSan: threads" "$out/sanitizers/threads"
    step "ASan, UBSan: pool" "$out/sanitizers/pool"
    step "ASan, UBSan: interrupt" "$out/sanitizers/interrupt" few
}

sanitizers_long()
{
    build_sanitizers || return
    step "ASan, UBSan: bits" digests "$out/sanitizers/bits"
    step "ASan, UBSan: lstm" digests "$out/sanitizers/lstm"
}

tsan()
{
    built TSan "$out/tsan" $strictest "-O1 -g -fsanitize=thread" || return
    step "TSan: threads" "$out/tsan/threads"
    step "TSan: pool" "$out/tsan/pool" no-forks
    step "TSan: interrupt" "$out/tsan/interrupt" few
}

run_valgrind() # valgrind hides AVX-512 from programs
{
    have valgrind valgrind && built $cc "$out/$cc" $cc -O3 || return
    # the pool's threads live to the end, so blocks to which their stacks refer are no leaks
    for test in memory saved; do
        step "valgrind: $test" valgrind -q --error-exitcode=9 --leak-check=full --show-leak-kinds=definite \
            --errors-for-leak-kinds=definite "$out/$cc/$test" few
    done
}

# emulated TITLE EMULATOR TEST...: runs tests in $folder, with fewer values if they offer that
emulated()
{
    title=$1 emulator=$2
    shift 2
    for test; do
        case $test in
        bits | lstm) step "$title: $test" digests $emulator "$folder/$test" ;;
        cell) step "$title: $test" $emulator "$folder/$test" 6 ;;
        activations) step "$title: $test" $emulator "$folder/$test" 25 1 512 ;;
        pool | stack | threads) step "$title: $test" $emulator "$folder/$test" ;;
        *) step "$title: $test" $emulator "$folder/$test" few ;;
        esac
    done
}

aarch64()
{
    have AArch64 aarch64-linux-gnu-gcc qemu-aarch64-static &&
        built AArch64 "$out/aarch64" aarch64-linux-gnu-gcc "-O3 -static" || return
    folder=$out/aarch64
    emulated "AArch64, emulated" "qemu-aarch64-static -cpu max" bits lstm cell memory saved threads interrupt stack
}

# built_for TARGET TESTS [OPTION...]: csrc and these tests for a target of Zig's, in $folder; OPTIONs are CMake's
built_for()
{
    zig=${ZIG:-$(command -v python-zig)} || { say skip "$1" "no python-zig"; return 1; }
    folder=$out/$1 target=$1 tests=$2
    shift 2
    for tool in ar ranlib; do
        printf '#!/bin/sh\nexec "%s" %s "$@"\n' "$zig" $tool >"$folder-$tool"
    done
    printf '#!/bin/sh\nZIG="%s" exec "%s/zig-cc" %s "$@"\n' "$zig" "$here" "$target" >"$folder-cc"
    chmod +x "$folder-ar" "$folder-ranlib" "$folder-cc"
    cmake_options="-DCMAKE_AR=$folder-ar -DCMAKE_RANLIB=$folder-ranlib $*"
    built "$target" "$folder" "$folder-cc" -O3
    result=$?
    tests_built=$tests tests=$all_tests cmake_options=
    return $result
}

musl()
{
    built_for x86_64-linux-musl "${*:-$all_tests activations}" && emulated musl "" $tests_built
}

musl_aarch64()
{
    have "musl on AArch64" qemu-aarch64-static &&
        built_for aarch64-linux-musl "bits lstm memory saved threads activations" &&
        emulated "musl on AArch64" "qemu-aarch64-static -cpu max" $tests_built
}

# Wine keeps its files in $out.
windows()
{
    have Windows wine && built_for x86_64-windows-gnu "${*:-bits lstm cell memory saved threads activations}" \
        -DCMAKE_SYSTEM_NAME=Windows || return
    cd "$out" && export WINEPREFIX="$out/wine" WINEDEBUG=-all && unset DISPLAY
    step "Windows: wine begins" wine wineboot -i
    emulated Windows wine $tests_built
    wineserver -k
    cd - >/dev/null
}

linked()
{
    for target in aarch64-macos x86_64-macos; do # their linker cannot wrap malloc
        built_for $target "bits lstm cell saved threads"
    done
    built_for aarch64-windows-gnu "bits lstm cell memory saved threads activations" -DCMAKE_SYSTEM_NAME=Windows
}

# fuzz.c under libFuzzer
build_fuzz()
{
    flags="-O1 -g -fno-omit-frame-pointer -fno-sanitize-recover=all"
    build_library "$out/fuzz" clang "$flags -fsanitize=fuzzer-no-link,address" "$csrc" &&
        clang $flags $strict -fsanitize=fuzzer,address "$here/fuzz.c" "$out/fuzz/libfastgate.a" -o "$out/fuzz/fuzz" \
            -lm -lpthread
}

fuzz()
{
    have fuzz clang && mkdir -p "$out/corpus" && step "fuzz: build" build_fuzz &&
        step "fuzz: the C API and saved buffers" "$out/fuzz/fuzz" -max_len=4096 -len_control=0 \
            -max_total_time="${FUZZ_SECONDS:-60}" -artifact_prefix="$out/" "$out/corpus"
}

activations()
{
    built $cc "$out/$cc" $cc -O3 &&
        step "activations: build" $cc -O3 $strict "$here/activations.c" "$out/$cc/libfastgate.a" \
            -o "$out/$cc/activations" -lm -lpthread &&
        step "sigmoid of all 2^32 float32" "$out/$cc/activations"
    sed 's/^/       | /' "$out/log"
}

library()
{
    mkdir "$out/library" && step "$LIBRARY: the tests" link_tests "$out/library" $cc "$FLAGS" "$LIBRARY" || return
    for test in $tests; do
        step "$LIBRARY: $test" "$out/library/$test" few
    done
}

cmake_options=
cc=gcc
command -v gcc >/dev/null || cc=clang
strictest=clang # its checks of undefined behaviour are stricter than gcc's
command -v clang >/dev/null || strictest=gcc

[ $# -gt 0 ] || set -- $quick
[ "$*" != all ] || set -- $all
for chosen; do
    case $chosen in
    header) step "fastgate.h is C99 and C++11" header ;;
    gcc | clang) optimized $chosen ;;
    sanitizers-long) sanitizers_long ;;
    valgrind) run_valgrind ;;
    musl-aarch64) musl_aarch64 ;;
    musl-bits) musl bits threads ;;
    windows-bits) windows bits saved threads ;;
    wide | sanitizers | tsan | aarch64 | musl | windows | linked | fuzz | activations | library) $chosen ;;
    *)
        echo "$chosen: not one of $all library" >&2
        exit 2
        ;;
    esac
done

echo "$passed passed, $failed failed"
[ $failed = 0 ]
