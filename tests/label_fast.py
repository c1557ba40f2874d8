"""scripts/label.py with a registration that takes a moment, for toy scans."""

import os
import sys
from functools import partial

from qnet.scripts import label
from tests.labelling import FAST

if __name__ == "__main__":
    sys.executable = os.environ.get("WARM_PYTHON", sys.executable)
    label.serve = partial(label.serve, registration=FAST)
    sys.exit(label.main())
