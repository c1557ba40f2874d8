"""What joins data and models: options, runs, training, segmentation, results, prediction."""

import sys
import warnings

# Sacred imports pkg_resources. requirements.txt pins setuptools for it, so the warning at every start is of no use.
warnings.filterwarnings("ignore", message="pkg_resources is deprecated")

# A terminal that is not UTF-8 shows "?" in place of "±". Without this line the program would stop.
if hasattr(sys.stdout, "reconfigure"):
    sys.stdout.reconfigure(errors="replace")
