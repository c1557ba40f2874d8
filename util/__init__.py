import sys
import warnings

# Sacred imports pkg_resources, for which requirements.txt pins setuptools; its warning on every start would help nobody.
warnings.filterwarnings("ignore", message="pkg_resources is deprecated")

# A terminal of another encoding than UTF-8 shows "?" in place of "±", and no program ends because of it.
if hasattr(sys.stdout, "reconfigure"):
    sys.stdout.reconfigure(errors="replace")
