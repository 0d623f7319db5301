"""Items that a thread makes ahead of their use: the same ones, meanwhile, with their errors, and no thread is left."""

import json
import threading
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import pytest
from fake_devices import needs_fake_cuda, on_devices, run
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.errors import UserError
from s2s.training.ahead import ahead

LONG = 60
"""Seconds after which something that has not happened never will."""


@given(used=st.integers(0, 9), in_thread=st.booleans())
@settings(deadline=None, max_examples=20)
def test_the_items_are_the_same_and_no_thread_is_left(used: int, in_thread: bool) -> None:
    before = threading.active_count()
    with ahead(count(), in_thread) as items:
        assert list(islice(items, used)) == list(range(used))
    assert threading.active_count() == before


def test_an_item_is_made_while_the_one_before_it_is_in_use() -> None:
    """The user of an item waits until the next one is there: without a thread that would be for ever."""
    made = [threading.Event() for _ in range(5)]

    def making() -> Iterator[int]:
        for number in count():
            if number < len(made):
                made[number].set()
            yield number

    with ahead(making(), True) as items:
        for number in range(4):
            assert next(items) == number
            assert made[number + 1].wait(LONG)


def test_an_error_comes_with_its_item_and_its_own_message() -> None:
    def failing() -> Iterator[int]:
        yield 0
        yield 1
        raise UserError("line 3 is no example")

    before = threading.active_count()
    with ahead(failing(), True) as items:
        assert [next(items), next(items)] == [0, 1]
        with pytest.raises(UserError, match=r"^line 3 is no example$"):
            next(items)
    assert threading.active_count() == before


def test_an_error_of_an_item_that_nobody_asks_for_is_none() -> None:
    with ahead(iter([0]), True) as items:
        assert next(items) == 0


PROGRAM = """
import json, sys, threading, time
import s2s
from s2s import train
from s2s.training import step

events, real_make, real_update = [], step.make, step.update

def make(*arguments):
    made = real_make(*arguments)
    events.append("made")
    return made

def update(*arguments):
    events.append("begins")
    record = real_update(*arguments)
    until = time.monotonic() + 60
    while events.count("made") <= events.count("begins"):
        assert time.monotonic() < until, "the next batch is not made before this update ends"
        time.sleep(0.01)
    events.append("ends")
    return record

step.make, train.update = make, update
s2s.fit(s2s.Recipe.load("toy_copy", sys.argv[2:]))
threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead")]
with open(sys.argv[1], "w", encoding="utf-8") as file:
    json.dump([events, threads], file)
"""


@pytest.mark.slow
@needs_fake_cuda
def test_training_on_a_gpu_makes_the_next_batch_while_an_update_runs(tmp_path: Path) -> None:
    keys = ["data.size=220", "model.layers=1", "model.width=8", "model.heads=2", "run.steps=3", "run.tokens=512"]
    log = tmp_path / "events.json"
    done = run(["-c", PROGRAM, str(log), *keys, f"run.folder={tmp_path / 'run'}"], on_devices(1))
    assert done.returncode == 0, done.stderr
    events, threads = json.loads(log.read_text(encoding="utf-8"))
    made, ends = ([index for index, event in enumerate(events) if event == kind] for kind in ("made", "ends"))
    # The batch of update n + 1 is made between the end of update n - 1, where that of n is taken, and the end of n.
    assert len(ends) == 3
    for before, there, after in zip([-1, *ends], made[1:], ends, strict=False):
        assert before < there < after
    assert threads == []
