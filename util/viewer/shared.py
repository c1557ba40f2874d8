"""What the labelling page and reports have in common: the colours of their surface, and their keys.

The colours of classes are those of `qnet.util.base.classes`, in both.
"""

from __future__ import annotations

from pathlib import Path

THEME, KEYS = (Path(__file__).with_name(name) for name in ("theme.css", "keys.js"))
