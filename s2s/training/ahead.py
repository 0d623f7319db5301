"""Items that a thread makes ahead of their use, so that a GPU has its next batch when it asks for it."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


@contextmanager
def ahead(items: Iterator[Item], in_thread: bool) -> Iterator[Iterator[Item]]:
    """Give the same items, each made by a thread while the one before it is in use; ``items`` has no end.

    An error in making an item is raised, as it is, where that item is asked for. At the end of the context the thread
    is gone. Without ``in_thread`` each item is made where it is asked for.
    """
    if not in_thread:
        yield items
        return
    # One thread, so that the items are made in their order; leaving the block waits for the one that is being made.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead") as pool:
        yield _one_ahead(pool, items)


def _one_ahead(pool: ThreadPoolExecutor, items: Iterator[Item]) -> Iterator[Item]:
    upcoming: Future[Item] = pool.submit(next, items)
    while True:
        item = upcoming.result()
        upcoming = pool.submit(next, items)
        yield item
