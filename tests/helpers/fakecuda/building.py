"""Build the extension of the fake CUDA, once for each torch: ``python building.py``; needs g++ and ninja."""

import os
import sys
import tempfile
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

HERE = Path(__file__).resolve().parent
NAME = "fakecuda_c"


def library() -> Path:
    """Return the place of the built extension, which depends on all that it is made of. It imports no torch."""
    fingerprint_inputs = [(HERE / name).read_bytes() for name in ("fakecuda.cpp", "fakenccl.h")]
    words = repr((fingerprint_inputs, version("torch"), sys.version)).encode()
    kept = Path(os.environ.get("S2S_CACHE") or tempfile.gettempdir())
    return kept / f"s2s-fakecuda-{os.getuid()}-{sha256(words).hexdigest()[:16]}" / f"{NAME}.so"


def build() -> Path:
    """Build the extension if it is not there, in half a minute, and return its place: whole, and by one process."""
    place = library()
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_suffix(".lock")):
        if not place.exists():
            from torch.utils.cpp_extension import load

            with tempfile.TemporaryDirectory(dir=place.parent) as folder:
                flags = ["-O1", "-w", "-DUSE_C10D_GLOO"]
                load(NAME, [str(HERE / "fakecuda.cpp")], flags, build_directory=folder, is_python_module=False)
                (Path(folder) / place.name).replace(place)
    return place


if __name__ == "__main__":
    print(build())
