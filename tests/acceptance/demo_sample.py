"""Writes the demonstration sample of `make demo`: `python -m tests.acceptance.demo_sample PATH`."""

import sys
from pathlib import Path

from tests.acceptance.samples import DEMO, write

if __name__ == "__main__":
    write(Path(sys.argv[1]), DEMO)
