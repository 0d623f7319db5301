"""One function applied to many items in several processes, with results in order and few items in memory."""

import os
import platform
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TypeVar

import torch

from s2s.errors import UserError
from s2s.machine.memory import keep_freed_memory

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(work: Callable[[Item], Result], items: Iterable[Item], processes: int) -> Iterator[Result]:
    """Yield ``work(item)`` for each item: from this process if ``processes`` is 1, else from new ones.

    New processes share this one's threads, and ``work`` and the items are pickled for them. Raises what ``work``
    raises, and a ``UserError`` where a process dies.
    """
    if processes == 1:
        yield from map(work, items)
        return
    threads = max(1, torch.get_num_threads() // processes)
    with ProcessPoolExecutor(processes, get_context("spawn"), _begin, (threads,)) as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > 2 * processes:  # enough to keep all busy; the input may be endless
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise UserError("a worker process was killed; was there too little memory?") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def cores() -> int:
    """Return the number of cores that this process may use, or that the machine has where the system has no limits."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """Return the processor's name, as far as the system tells it."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text(encoding="utf-8", errors="replace").splitlines() if described.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def kind_of_processor() -> str:
    """Return the processor's name and the instructions that torch uses on it: a choice of ways holds for one kind."""
    return f"{processor()} ({torch.backends.cpu.get_cpu_capability()})"


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()
    parent = parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    # A parent that is killed cannot end its workers, which would wait for more work forever.
    threading.Thread(target=end_with_parent, daemon=True).start()


def number() -> int:
    """Return the number of this worker process among its siblings, from 0; 0 in the parent process."""
    identity: tuple[int, ...] = get_context("spawn").current_process()._identity
    return identity[0] - 1 if identity else 0
