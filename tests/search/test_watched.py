"""Searches that are ended from outside: at any step, and while hypotheses are compared."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

import s2s
from s2s.inference.generate import ModelEnsemble, answer
from s2s.search.methods import SEARCHES
from s2s.search.methods.base import SearchMethod


@pytest.fixture(scope="module")
def run(tiny_folder: Path) -> s2s.Run:
    return s2s.load(tiny_folder)


class EndError(Exception):
    pass


def ending(calls: Iterator[int], last: int) -> Callable[[], None]:
    """A check that raises at its call number ``last``."""

    def check() -> None:
        if next(calls) == last:
            raise EndError

    return check


def settings_of(name: str) -> SearchMethod:
    return SEARCHES[name](max_length=5, min_length=0 if name == "shrinking" else 3)


def search(run: s2s.Run, name: str, check: Callable[[], None]) -> list[list[tuple[list[int], float]]]:
    settings = settings_of(name)
    models = replace(run.models(settings), check=check)
    return [found.hypotheses for found in answer(models, run.source_ids(["a b", "c"])[0], settings, 5, lambda _: None)]


@pytest.mark.parametrize("name", sorted(SEARCHES))
def test_every_search_asks_at_each_step_and_ends_where_it_shall(run: s2s.Run, name: str) -> None:
    calls = count()
    found = search(run, name, ending(calls, -1))
    asked = next(calls)
    assert asked >= 4  # the sources' start, and the steps
    models = ModelEnsemble(run.vocabulary, [run.model])
    plain = answer(models, run.source_ids(["a b", "c"])[0], settings_of(name), 5, lambda _: None)
    assert [each.hypotheses for each in plain] == found
    for last in {0, 1, asked // 2, asked - 1}:
        with pytest.raises(EndError):
            search(run, name, ending(count(), last))


@pytest.mark.parametrize("name", ["mbr", "mbr_beam"])
def test_comparing_hypotheses_can_be_ended_too(run: s2s.Run, name: str) -> None:
    """The steps are few; the rest of the calls are pairs of different hypotheses."""
    calls = count()
    search(run, name, ending(calls, -1))
    assert next(calls) > 20


@pytest.mark.parametrize("name", sorted(SEARCHES))
def test_every_search_says_how_many_hypotheses_it_keeps(name: str) -> None:
    given = {"samples": 6, "groups": 3, "beams": 2}
    kind = SEARCHES[name]
    own = {key: value for key, value in given.items() if hasattr(kind, key)}
    product = 1
    for value in own.values():
        product *= value
    assert kind(**own).width() == product
