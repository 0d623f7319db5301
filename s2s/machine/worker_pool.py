"""Work of one function on many things, in several processes; results in order, few things in flight."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from typing import TypeVar

import torch

from s2s.errors import UserError
from s2s.machine.allocator import keep_freed_memory

Thing = TypeVar("Thing")
Result = TypeVar("Result")


def in_order(work: Callable[[Thing], Result], things: Iterable[Thing], processes: int) -> Iterator[Result]:
    """``work`` (thing) of each thing; one process is this one, several are new ones that share its threads.

    ``work`` and the things are pickled. Raises what ``work`` raises, and a ``UserError`` where a process dies.
    """
    if processes == 1:
        yield from map(work, things)
        return
    threads = max(1, torch.get_num_threads() // processes)
    with ProcessPoolExecutor(processes, get_context("spawn"), _begin, (threads,)) as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for thing in things:
                pending.append(pool.submit(work, thing))
                if len(pending) > 2 * processes:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise UserError("a worker process was killed; was there too little memory?") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def cores() -> int:
    """Return how many processor cores this process may use, where the system tells; else those of the machine."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _begin(threads: int) -> None:
    """Set up a worker: its share of the threads, and an end with its parent's, even where that is killed."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    parent = parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def number() -> int:
    """The number of this worker process among its siblings, from 0; 0 in a process that is none."""
    identity: tuple[int, ...] = get_context("spawn").current_process()._identity
    return identity[0] - 1 if identity else 0
