"""What joins data and models: options, runs, training, segmentation, results, prediction."""

import sys

# A terminal that is not UTF-8 shows "?" in place of "±". Without this line the program would stop.
if hasattr(sys.stdout, "reconfigure"):
    sys.stdout.reconfigure(errors="replace")
