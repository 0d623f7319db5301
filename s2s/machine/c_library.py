"""C files of this project, compiled at first use where there is a compiler.

A library is kept in ``$S2S_CACHE``, else ``~/.cache/s2s``, under the digest of all that it was made of, the processor
included. It is built for the processor at hand, or for the one that ``$S2S_CPU_TARGET`` names in the compiler's words
(``haswell``, ``x86-64-v3``): a processor can stand in for an older one.
"""

import ctypes
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from s2s.files.atomic import cache_folder

FLAGS = ("-O3", "-funroll-loops", "-fopenmp-simd", "-shared", "-fPIC")
LINKED = ("-lm",)
TARGET = "S2S_CPU_TARGET"
"""The environment variable that names the processor to build for."""
POINTER, LENGTH, NUMBER = ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_float


class Built(NamedTuple):
    """The library, or None, and why."""

    library: ctypes.CDLL | None
    reason: str

    @property
    def loaded(self) -> ctypes.CDLL:
        """The library, which must be there."""
        assert self.library is not None, self.reason
        return self.library


def build(source: Path, functions: dict[str, list[Any]]) -> Built:
    """The library of a C file, compiled at the first call on this machine: within a second.

    ``functions`` are its functions' names and the types of their arguments; they return nothing.
    """
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    if compiler is None:
        return Built(None, "no C compiler was found")
    try:
        library = ctypes.CDLL(str(_compiled(source, compiler)))
    except (OSError, subprocess.CalledProcessError) as error:
        said = error.stderr.strip().splitlines()[:1] if isinstance(error, subprocess.CalledProcessError) else [error]
        return Built(None, f"{compiler} failed: {said[0] if said else error}")
    for name, types in functions.items():
        function = getattr(library, name)
        function.argtypes, function.restype = types, None
    return Built(library, f"compiled by {compiler}")


def spread(work: Callable[..., object], parts: Sequence[tuple[int, ...]]) -> None:
    """Do the work on all parts, with as many threads as torch has; C runs without Python's lock."""
    threads = torch.get_num_threads()
    if threads == 1 or len(parts) == 1:
        for part in parts:
            work(*part)
    else:
        for _ in _pool(threads).map(lambda part: work(*part), parts):
            pass


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def _compiled(source: Path, compiler: str) -> Path:
    """The library's file, made if it is not there, and whole if it is."""
    flags = (*FLAGS, _target())
    fingerprint_inputs = (source.read_bytes(), compiler, flags, LINKED, platform.machine(), _abilities())
    file = cache_folder() / f"{source.stem}-{sha256(repr(fingerprint_inputs).encode()).hexdigest()[:16]}.so"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=file.parent) as folder:
            made = Path(folder) / file.name
            command = [compiler, *flags, str(source), "-o", str(made), *LINKED]
            subprocess.run(command, check=True, capture_output=True, encoding="utf-8", errors="replace")
            made.replace(file)
    return file


def _abilities() -> list[str]:
    """Return text that tells the processors apart that share a cache folder; Linux lists what each can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # another system
        return [platform.platform(), platform.processor()]
    return [line for line in lines if line.startswith(("flags", "Features"))][:1]


def _target() -> str:
    """Return the compiler's flag for the processor to build for; Arm's compilers spell it in their own way."""
    flag = "-march" if platform.machine().lower() in ("x86_64", "amd64", "i686") else "-mcpu"
    return f"{flag}={os.environ.get(TARGET) or 'native'}"
