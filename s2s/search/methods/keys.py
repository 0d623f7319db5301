"""Search settings from keys that a caller or a command line gives, over those of a recipe."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from s2s.config import Layer, Schema, merge, outside_names
from s2s.config.merge import name_of
from s2s.errors import UserError, nearest
from s2s.search.methods import SEARCHES
from s2s.search.methods.base import SearchMethod
from s2s.search.methods.beam import SearchSettings


@dataclass
class _Section:
    search: SearchMethod = field(default_factory=SearchSettings)


def asked(recipe: SearchMethod, beams: int | None, n_best: int | None, keys: Mapping[str, Any]) -> SearchMethod:
    """A caller's settings over a recipe's: beam search, one beam and one hypothesis unless more are given.

    A ``name`` among the keys picks another row; without one and without ``beams`` it is the recipe's.
    """
    name = keys.get("name", name_of(SEARCHES, recipe) if beams is None else "beam")
    given = {key: value for key, value in (("beams", beams), ("n_best", n_best)) if value is not None}
    least = {"beams": 1, "n_best": 1} if name == "beam" else {}
    values = {**least, **given, **keys, "name": name}
    check_names(name, values)
    return with_keys(recipe, values, "search")


def with_keys(settings: SearchMethod, keys: dict[str, Any], origin: str) -> SearchMethod:
    """The settings with other values for some keys; with the ``name`` of another row, that row with these values."""
    layers = [layer_of(settings), Layer(origin, {"search": keys}, {"search": 0})]
    return still_foreign(merge(Schema(_Section, {"search": SEARCHES}), layers).search, settings, keys)


def layer_of(settings: SearchMethod, origin: str = "recipe") -> Layer:
    """Return settings as a layer under others, every text in it as it stands."""
    return Layer(origin, {"search": plain(settings)}, {})


def still_foreign(found: SearchMethod, settings: SearchMethod, keys: Collection[str]) -> SearchMethod:
    """Return what was found over a run's ``settings``: names that its folder gave are still marked, but for ``keys``.

    Under those a caller has given a name; see ``s2s.config.outside_names``.
    """
    marked: SearchMethod = outside_names.with_foreign(found, outside_names.foreign_keys(settings) - set(keys))
    return marked


def plain(settings: SearchMethod) -> dict[str, Any]:
    """The settings as a recipe holds them, the name of their row first."""
    return {"name": name_of(SEARCHES, settings), **outside_names.plain(settings)}


def check_names(name: object, keys: Mapping[str, Any]) -> None:
    """A ``UserError`` for an unknown row, and for a key that the row does not have."""
    if not isinstance(name, str) or name not in SEARCHES:
        raise UserError(f"search key 'name': no '{name}'{nearest(str(name), SEARCHES)}")
    known = {item.name for item in fields(SEARCHES[name])} | {"name"}
    for key in keys.keys() - known:
        rows = [row for row, kind in SEARCHES.items() if key in {item.name for item in fields(kind)}]
        hint = f" of '{name}'; it is one of {', '.join(rows)}" if rows else nearest(key, known)
        raise UserError(f"unknown search key '{key}'{hint}")
