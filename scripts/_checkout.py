"""Let every script find the ``s2s`` of its own checkout, installed or not: ``import _checkout`` comes before it."""

import sys
from pathlib import Path

# Before all that is installed, whose s2s may be another checkout's, or a stranger's package of that name.
sys.path.insert(1, str(Path(__file__).resolve().parent.parent))
