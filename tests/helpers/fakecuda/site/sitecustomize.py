"""Give every process that is started with FAKE_CUDA=1 the fake devices before it can import torch."""

import os
import sys
from pathlib import Path

if os.environ.get("FAKE_CUDA") == "1" and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import fakecuda  # noqa: F401
