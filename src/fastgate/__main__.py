"""python -m fastgate: the configuration; python -m fastgate demo: a trained model on real data.

python -m fastgate --cflags --libs: what a C compiler needs, quoted for a shell.
"""

import shlex
import sys

import fastgate


def flags(asked: list[str]) -> str:
    """What compiling (--cflags) and linking (--libs) need, like pkg-config."""
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
    if argv:
        print("usage: python -m fastgate [demo [--help] | --cflags --libs]", file=sys.stderr)
        return 2
    fastgate.show_config()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
