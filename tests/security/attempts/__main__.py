"""`python -m attempts NAME TARGETS` makes one attempt, and says what came of it."""

import json
import sys

from . import outcome

sys.stdout.write(json.dumps(outcome(sys.argv[1], json.loads(sys.argv[2]))))
