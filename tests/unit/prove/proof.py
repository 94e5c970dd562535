"""A proof that holds or not, as it is told."""

import sys

sys.stdout.write(f"first line\n{sys.argv[1]}\n")
sys.exit(int(sys.argv[2]))
