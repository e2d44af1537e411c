"""python -m fastgate: the configuration; python -m fastgate demo: a trained model on real data."""

import sys

import fastgate


def main(argv: list[str]) -> int:
    if argv[:1] == ["demo"]:
        from fastgate import demo

        return demo.main(argv[1:])
    if argv:
        print("usage: python -m fastgate [demo [--help]]", file=sys.stderr)
        return 2
    fastgate.show_config()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
