"""A run: the Sacred experiment, the run folder, provenance, and which earlier run is resumed."""

import warnings

# Sacred imports pkg_resources. requirements.txt pins setuptools for it, so the warning at every start is of no use. This stands
# here, where sacred is imported next, as packages that are imported before may put filters of their own in front.
warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
