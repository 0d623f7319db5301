"""Freed memory that is kept, in processes of their own: pages are faulted in once, not each time."""

import os
import subprocess
import sys

import numpy
import pytest

from s2s.machine.memory import OPTIONS, glibc_option, peak_memory

pytestmark = pytest.mark.slow

ROUNDS, PAGES = 8, 1 << 14
PROGRAM = f"""
import resource, numpy
from s2s.machine.memory import keep_freed_memory
KEEP and keep_freed_memory()
for _ in range(3):
    numpy.ones({PAGES} * 512)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    numpy.ones({PAGES} * 512)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
needs_glibc = pytest.mark.skipif(glibc_option() is None, reason="this C library is not glibc")


def faults(keep: bool, **variables: str) -> int:
    """Page faults of taking and freeing arrays of ``PAGES`` pages, after a start that does not count."""
    plain = {name: value for name, value in os.environ.items() if name not in OPTIONS}
    command = [sys.executable, "-c", PROGRAM.replace("KEEP", str(keep))]
    return int(
        subprocess.run(
            command, env=plain | variables, check=True, capture_output=True, text=True, encoding="utf-8"
        ).stdout
    )


@needs_glibc
def test_pages_are_faulted_in_once() -> None:
    assert faults(keep=False) > ROUNDS  # of whatever size the system gives them
    assert faults(keep=True) < ROUNDS


@needs_glibc
def test_what_the_environment_sets_stays() -> None:
    kept = {"MALLOC_MMAP_MAX_": "65536", "MALLOC_MMAP_THRESHOLD_": "65536"}  # large arrays by themselves, as without us
    assert faults(keep=True, **kept) > ROUNDS


PEAK = """
import sys
import numpy
from s2s.machine.memory import peak_memory
before = peak_memory()
numpy.ones(int(sys.argv[1]), dtype=numpy.uint8)  # and free again
print(before, peak_memory())
"""


def test_the_peak_of_memory_is_of_this_process_alone_and_stays_after_memory_is_freed() -> None:
    large = numpy.ones(800_000_000, dtype=numpy.uint8)  # which the process that is started must not count
    command = [sys.executable, "-c", PEAK, "500000000"]
    output = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8").stdout
    before, after = map(int, output.split())
    assert peak_memory() > len(large)
    assert before < 800_000_000
    assert after - before == pytest.approx(500_000_000, rel=0.3)
