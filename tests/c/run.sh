#!/bin/sh
# Builds csrc and its C tests with every compiler found, and runs them.
#
#     tests/c/run.sh [fast|full]      full also tries all 2^32 inputs of the sigmoid and of tanh, and
#                                     fuzzes for FUZZ_SECONDS, 60 if that is not set
#
# One line a step; the last line is a summary, the exit status 0 if nothing failed.  What a step
# printed is shown where it failed.

mode=${1:-fast}
here=$(cd "$(dirname "$0")" && pwd)
csrc=$here/../../csrc
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
    say $result "$name" "$(printf '%d.%d s  ' $((ms / 1000)) $((ms % 1000 / 100)))$(tail -n 1 "$out/log" | cut -c 1-120)"
    [ $result = ok ] || sed 's/^/       | /' "$out/log" | head -n 25
    [ $result = ok ]
}

strict="-std=c11 -ffp-contract=off -Wall -Wextra -Werror"
wrap=-Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=aligned_alloc,--wrap=posix_memalign,--wrap=free

# build FOLDER COMPILER FLAGS [CSRC]: csrc and all tests into FOLDER
build()
{
    folder=$1 compiler=$2 flags=$3
    cmake -S "${4:-$csrc}" -B "$folder" -DCMAKE_C_COMPILER="$compiler" -DCMAKE_BUILD_TYPE=None \
        -DCMAKE_C_FLAGS="$flags -Werror" &&
        cmake --build "$folder" --target fastgate_static -j "$(getconf _NPROCESSORS_ONLN)" || return
    for test in bits lstm memory saved threads pool; do
        case $test in
        memory) extra=$wrap ;;
        pool) extra=-Wl,--wrap=pthread_create ;;
        *) extra= ;;
        esac
        # gcc 12 for AArch64 fails to vectorize bits.c
        $compiler $flags $strict -fno-tree-vectorize $extra "$here/$test.c" "$folder/libfastgate.a" -o "$folder/$test" \
            -lm -lpthread || return
    done
}

# variant NAME ISA SCRIPT: a copy of csrc where sed has changed the shim of an ISA
variant()
{
    cp -R "$csrc" "$out/csrc-$1" && sed "$3" "$csrc/isa/$2.c" >"$out/csrc-$1/isa/$2.c"
}

# activations.c, with tanh of every ISA, beside the library in FOLDER
build_activations()
{
    folder=$1 isas= objects=
    for isa in $(ar t "$folder/libfastgate.a" | sed 's/\..*//' | sort -u); do
        [ -e "$csrc/isa/$isa.c" ] || continue
        flags=$(sed -n '1s,/\* .*:\(.*\) \*/,\1,p' "$csrc/isa/$isa.c") &&
            sed -n '/#define FG_ISA /s/FG_ISA /&tanh_/; /#define/p' "$csrc/isa/$isa.c" >"$folder/$isa.h" &&
            $cc -O1 $strict $flags -include "$folder/$isa.h" -c "$here/activations_isa.c" \
                -o "$folder/tanh_$isa.o" || return
        isas="$isas X($isa)" objects="$objects $folder/tanh_$isa.o"
    done
    $cc -O3 $strict "-DISAS=$isas" "$here/activations.c" $objects "$folder/libfastgate.a" -o "$folder/activations" \
        -lm -lpthread
}

# fuzz.c under libFuzzer, with the library in FOLDER
build_fuzz()
{
    folder=$1 flags="-O1 -g -fno-omit-frame-pointer -fno-sanitize-recover=all"
    cmake -S "$out/csrc-checked" -B "$folder" -DCMAKE_C_COMPILER=clang -DCMAKE_BUILD_TYPE=None \
        -DCMAKE_C_FLAGS="$flags -fsanitize=fuzzer-no-link,address" &&
        cmake --build "$folder" --target fastgate_static -j "$(getconf _NPROCESSORS_ONLN)" &&
        clang $flags $strict -fsanitize=fuzzer,address "$here/fuzz.c" "$folder/libfastgate.a" -o "$folder/fuzz" \
            -lm -lpthread
}

header()
{
    printf '#include "%s"\nint main(void) { return fastgate_isa() == 0; }\n' "$csrc/fastgate.h" >"$out/h.c" &&
        ${CC:-cc} -std=c99 -pedantic -Wall -Wextra -Werror -fsyntax-only "$out/h.c" || return
    ! command -v g++ || g++ -x c++ -std=c++11 -pedantic -Wall -Wextra -Werror -fsyntax-only "$out/h.c"
}

# digests COMMAND...: every digest of a test, of any build, ISA and machine, must be that of the first line of
# its first build.
digests()
{
    for program; do :; done
    expected=$out/expected-${program##*/}
    "$@" >"$out/digests" || { cat "$out/digests"; return 1; }
    cat "$out/digests"
    [ -s "$expected" ] || awk 'NR == 1 { print $2 }' "$out/digests" >"$expected"
    awk -v expected="$(cat "$expected")" '
        $2 != expected { print $1 ": digest " $2 ", not " expected; wrong = 1 }
        { names = names " " $1 }
        END { print wrong ? "bits differ" : expected names; exit wrong || !NR }' "$out/digests"
}

have()
{
    for tool; do
        command -v "$tool" >/dev/null && continue
        skipped="no $tool"
        return 1
    done
}

step "fastgate.h is C99 and C++11" header
for compiler in gcc clang; do
    have $compiler || { say skip $compiler "$skipped"; continue; }
    step "$compiler: build" build "$out/$compiler" $compiler -O3 || continue
    step "$compiler: bits" digests "$out/$compiler/bits"
    step "$compiler: lstm" digests "$out/$compiler/lstm"
    step "$compiler: memory" "$out/$compiler/memory"
    step "$compiler: saved" "$out/$compiler/saved"
    step "$compiler: threads" "$out/$compiler/threads"
    step "$compiler: pool" "$out/$compiler/pool"
done
cc=gcc
have gcc || cc=clang

if [ "$(uname -m)" = x86_64 ]; then
    # tries the AVX-512 form of the source on machines without AVX-512
    variant wide avx2 's/FG_BYTES 32/FG_BYTES 64/'
    step "16 lanes on AVX2: build" build "$out/wide" $cc "-O1 -Wno-psabi" "$out/csrc-wide" &&
        step "16 lanes on AVX2: bits" digests "$out/wide/bits" &&
        step "16 lanes on AVX2: lstm" digests "$out/wide/lstm"
fi

export ASAN_OPTIONS=allocator_may_return_null=1:allow_user_segv_handler=1
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
# apart, and the second not optimized: together they take compilers many minutes
sanitizer_compiler=clang # its undefined-behaviour checks are the stricter
have clang || sanitizer_compiler=gcc
variant checked base 's/-Os//'
for sanitizer in "-O1 -fsanitize=address" "-O0 -fsanitize=undefined"; do
    kind=${sanitizer#*=}
    step "$kind: build" build "$out/$kind" $sanitizer_compiler \
        "$sanitizer -g -fno-omit-frame-pointer -fno-sanitize-recover=all" "$out/csrc-checked" || continue
    for test in bits lstm; do
        [ "$mode" != full ] || [ "$test $kind" = "bits undefined" ] || step "$kind: $test" digests "$out/$kind/$test"
    done
    step "$kind: memory" "$out/$kind/memory" few
    step "$kind: saved" "$out/$kind/saved" few
    step "$kind: threads" "$out/$kind/threads"
    step "$kind: pool" "$out/$kind/pool"
done
if step "TSan: build" build "$out/tsan" $sanitizer_compiler "-O1 -g -fsanitize=thread" "$out/csrc-checked"; then
    step "TSan: threads" "$out/tsan/threads"
    step "TSan: pool" "$out/tsan/pool" no-forks
fi

if have valgrind; then # it hides AVX-512 from the program
    # the pool's threads live to the end, and with them what their stacks hold
    for test in memory saved; do
        step "valgrind: $test" valgrind -q --error-exitcode=9 --leak-check=full --show-leak-kinds=definite \
            --errors-for-leak-kinds=definite "$out/$cc/$test" few
    done
else
    say skip "valgrind" "$skipped"
fi

if have aarch64-linux-gnu-gcc qemu-aarch64-static; then
    step "AArch64: build" build "$out/aarch64" aarch64-linux-gnu-gcc "-O3 -static" &&
        step "AArch64, emulated: bits" digests qemu-aarch64-static -cpu max "$out/aarch64/bits" &&
        step "AArch64, emulated: lstm" digests qemu-aarch64-static -cpu max "$out/aarch64/lstm" &&
        step "AArch64, emulated: memory" qemu-aarch64-static -cpu max "$out/aarch64/memory" few &&
        step "AArch64, emulated: saved" qemu-aarch64-static -cpu max "$out/aarch64/saved" few &&
        step "AArch64, emulated: threads" qemu-aarch64-static -cpu max "$out/aarch64/threads"
else
    say skip "AArch64" "$skipped"
fi

if [ "$mode" = full ] && have clang; then
    mkdir -p "$out/corpus"
    step "fuzz: build" build_fuzz "$out/fuzz" &&
        step "fuzz: the C API and saved buffers" "$out/fuzz/fuzz" -max_len=4096 -len_control=0 \
            -max_total_time="${FUZZ_SECONDS:-60}" -artifact_prefix="$out/" "$out/corpus"
fi

if [ "$mode" = full ]; then
    step "activations: build" build_activations "$out/$cc" &&
        step "sigmoid, tanh of all 2^32 float32" "$out/$cc/activations"
    sed 's/^/       | /' "$out/log"
fi

echo "$passed passed, $failed failed"
[ $failed = 0 ]
