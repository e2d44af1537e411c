"""The command line, python -m fastgate."""

import shlex
import sys

import fastgate


USAGE = "usage: python -m fastgate [demo | --cflags | --libs | --version | --help]"
HELP = f"""{USAGE}

Without an argument, print the configuration: versions, CPU, instruction sets and threads.

  demo        run a small trained LSTM on handwritten digits; demo --help lists its options
  --cflags    print the flags for compiling a C program with fastgate.h, quoted for a shell
  --libs      print the flags for linking it with libfastgate.a; both options may be given together
  --version   print the version
  --help      print this help

FASTGATE_ISA in the environment chooses an instruction set, FASTGATE_THREADS the number of threads."""


def flags(asked: list[str]) -> str:
    """The flags for --cflags and --libs, in the order of pkg-config."""
    words = []
    if "--cflags" in asked:
        words.append(f"-I{fastgate.get_include()}")
    if "--libs" in asked:
        words += [f"-L{fastgate.get_library_dir()}", "-lfastgate", "-lm", "-pthread"]
    return shlex.join(words)


def main(argv: list[str]) -> int:
    if argv[:1] == ["demo"]:
        from fastgate import demo

        return demo.main(argv[1:])
    if argv and set(argv) <= {"--cflags", "--libs"}:
        try:
            print(flags(argv))
        except RuntimeError as error:
            print(f"fastgate: {error}", file=sys.stderr)
            return 1
        return 0
    if argv in (["--help"], ["-h"]):
        print(HELP)
        return 0
    if argv == ["--version"]:
        print(f"fastgate {fastgate.__version__}")
        return 0
    if argv:
        print(f"{USAGE}\nfastgate: unknown arguments: {' '.join(argv)}", file=sys.stderr)
        return 2
    fastgate.show_config()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
