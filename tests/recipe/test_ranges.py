"""Every number of every settings class has a range, stated beside it, checked everywhere and shown by ``--help``."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from math import inf, nan
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
import torch

from s2s.config.help import describe, keys
from s2s.config.ranges import Range, marks
from s2s.diagnose.settings import DiagnosisSettings
from s2s.errors import UserError
from s2s.heads.base import HeadSettings
from s2s.mitigations.ranking import Ranking
from s2s.recipe.recipe import LISTS, NAMES, TABLES, Recipe
from s2s.search import (
    RepetitionPenalty,
    TranslationPenalty,
    WordReward,
    beam_search,
    diverse_beam_search,
    sample_search,
)
from s2s.search.length_scores import relative_lengths
from s2s.search.mbr import minimum_bayes_risk
from s2s.search.scorer import Ensemble
from s2s.search.truncation import TopK, TopP
from s2s.serve.__main__ import Settings as ServeSettings

TOO_LARGE = [10**30, 10**5000, 1e308, inf]


def classes() -> Iterator[type]:
    yield from (DiagnosisSettings, ServeSettings)
    for kind in get_type_hints(Recipe).values():
        if is_dataclass(kind):
            assert isinstance(kind, type)
            yield kind
    for table in (*TABLES.values(), *LISTS.values(), *NAMES.values()):
        yield from table.values()


def numbers(hint: Any) -> Iterator[Any]:
    """The numeric types within a type, with their ranges."""
    if get_origin(hint) is Annotated:
        yield from [hint] if get_args(hint)[0] in (int, float) else numbers(get_args(hint)[0])
    elif hint in (int, float):
        yield hint
    else:
        for inner in get_args(hint):
            yield from numbers(inner)


def numeric() -> Iterator[tuple[type, str, Range]]:
    for kind in classes():
        for name, hint in get_type_hints(kind, include_extras=True).items():
            for found in numbers(hint) if name in {item.name for item in fields(kind)} else ():  # type: ignore[arg-type]
                ranges = [mark for mark in marks(found) if isinstance(mark, Range)]
                assert len(ranges) == 1, f"{kind.__name__}.{name} has no range"
                yield kind, name, ranges[0]


CASES = list(dict.fromkeys(numeric()))


def made(kind: type, **values: Any) -> Any:
    """The settings with what the class needs besides."""
    names = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    needed = {"run": "x"} if "run" in names else {"path": "x"} if issubclass(kind, Ranking) else {}
    return kind(**(needed | ({"field": "x"} if issubclass(kind, HeadSettings) else {}) | values))


def listed(kind: type, name: str, value: Any) -> Any:
    """The value as the key wants it: in a list where it holds one."""
    hint = get_type_hints(kind)[name]
    return [value] if get_origin(hint) is list else value


def refusal(kind: type, name: str, value: Any) -> str:
    with pytest.raises(UserError) as caught:
        made(kind, **{name: listed(kind, name, value)})
    found = str(caught.value)
    assert f"{name}: " in found.replace("[0]", "")
    assert "\n" not in found
    return found


@pytest.mark.parametrize(("kind", "name", "range_"), CASES, ids=lambda part: getattr(part, "__name__", str(part)))
def test_a_number_outside_of_its_range_is_refused(kind: type, name: str, range_: Range) -> None:
    refusal(kind, name, nan)
    refusal(kind, name, -1 if range_.low >= 0 else range_.low - 1)
    refusal(kind, name, "a")
    refusal(kind, name, True)
    for value in TOO_LARGE if range_.high < inf else ():
        refusal(kind, name, value)
    if range_.open_low:
        refusal(kind, name, range_.low)
    if range_.open_high:
        refusal(kind, name, range_.high)
    assert f"; {range_}" in " ".join(" ".join(describe(keys(kind))).split()).replace("( ", "(")


def test_what_the_command_line_gives_is_in_range_or_one_line() -> None:
    for argument in (
        *("search.length_penalty=.nan", "search.length_penalty=.inf", "search.length_penalty=1000"),
        *("search.length_penalty=-1000", "search.max_length_ratio=1e308", "search.min_length_ratio=1e308"),
        *("search={name: sample, top_k: 1000000000000000000000000000000}", "search={name: sample, seed: -1}"),
        *("run.seed=-1", "run.seed=18446744073709551616", "search={name: sample, temperature: 0}"),
        *("search={name: sample, temperature: nan}", "run.steps=1e30", "run.clip=nan", "model.dropout=1.5"),
        *("objective.label_smoothing=1", "optimizer.beta2=1", "optimizer.epsilon=-1e-8", "run.ema=1"),
        *("search.word_reward=-.inf", "search.translation_alpha=1e3", "optimizer.rate=1e400", "model.width=1e12"),
    ):
        with pytest.raises(UserError, match=r"^command line: ") as caught:
            Recipe.load("toy_copy", [argument])
        assert "\n" not in str(caught.value)


def test_infinity_is_no_limit_where_there_is_none(tmp_path: Path) -> None:
    recipe = Recipe.load("toy_copy", ["run.clip=.inf"])
    assert recipe.run.clip == inf
    (tmp_path / "again.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    assert Recipe.load(tmp_path / "again.yaml") == recipe


class Table:
    """A scorer of one source, whose tokens are as likely at every step."""

    sources, begin, end = 1, 0, 1

    def start(self) -> int:
        return 0

    def step(self, tokens: torch.Tensor, state: int) -> tuple[torch.Tensor, int]:
        return torch.tensor([[-inf, 0.2, 0.5, 0.3]]).clamp(min=1e-9).log().expand(len(tokens), 4), state

    def reorder(self, state: int, index: torch.Tensor) -> int:  # noqa: ARG002
        return state


WRONG = {
    "length_penalty": lambda value: beam_search(Table(), 2, 3, length_penalty=value),
    "translation_alpha": TranslationPenalty,
    "word_reward": WordReward,
    "strength": lambda value: diverse_beam_search(Table(), 2, 1, 3, value),
    "temperature": lambda value: sample_search(Table(), 1, 3, [0], temperature=value),
    "top_p": TopP,
    "ratio": lambda value: relative_lengths([3], value),
    "penalty": RepetitionPenalty,
    "ensemble": lambda value: Ensemble([Table(), Table()], [value, 1.0]),
    "weights": lambda value: minimum_bayes_risk(["a", "b"], lambda *_: 1.0, [value, 1.0]),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("value", [nan, inf, -inf, -1000.0 * 1000 * 1000])
def test_the_library_takes_no_number_that_orders_nothing(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        WRONG[name](value)


def test_numbers_at_the_ends_of_their_ranges_search() -> None:
    assert sample_search(Table(), 2, 3, [0], temperature=1e-300, filters=[TopK(10**30)])[0][0].tokens == [2, 2, 2]
    for power in (-10.0, 10.0):
        assert all(abs(score) < inf for _, score in beam_search(Table(), 2, 50, 2, length_penalty=power)[0])
