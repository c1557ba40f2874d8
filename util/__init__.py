import warnings

# Sacred imports pkg_resources, for which requirements.txt pins setuptools; its warning on every start would help nobody.
warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
