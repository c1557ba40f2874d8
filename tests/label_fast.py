"""scripts/label.py with a registration that takes a moment, for toy scans, which are not compared: nobody asks for advice."""

import os
import sys
from functools import partial

from qnet.scripts import label
from qnet.util.label.advice import Advisor
from tests.labelling import FAST

if __name__ == "__main__":
    sys.executable = os.environ.get("WARM_PYTHON", sys.executable)
    Advisor.compare = lambda *_: None
    label.serve = partial(label.serve, registration=FAST)
    sys.exit(label.main())
