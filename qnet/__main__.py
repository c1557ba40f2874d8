"""``python -m qnet``: the command `qnet`."""

import sys

from qnet.command import main

sys.exit(main())
