"""`python -m deploy.docs` writes every generated document; `--check` writes nothing and names those out of date."""

import sys

from deploy.docs.pages import ROOT, outdated, write

USAGE_ERROR = 2


def main(arguments: list[str]) -> int:
    """0 when every document is what the code says, 1 when `--check` found one that is not."""
    if arguments not in ([], ["--check"]):
        print("usage: python -m deploy.docs [--check]", file=sys.stderr)
        return USAGE_ERROR
    stale = outdated(ROOT) if arguments else write(ROOT)
    for path in stale:
        print(f"{'out of date' if arguments else 'written'}: {path}")
    return 1 if arguments and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
