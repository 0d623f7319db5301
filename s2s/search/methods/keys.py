"""Search settings from keys of a caller or a command line, merged over those of a recipe."""

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
    """Return a caller's settings merged over a recipe's: one beam and one hypothesis unless the caller gives more.

    A ``name`` among the keys chooses another method; without it, the method is ``beam`` if ``beams`` is given, and else
    the recipe's.
    """
    name = keys.get("name", name_of(SEARCHES, recipe) if beams is None else "beam")
    given = {key: value for key, value in (("beams", beams), ("n_best", n_best)) if value is not None}
    least = {"beams": 1, "n_best": 1} if name == "beam" else {}
    values = {**least, **given, **keys, "name": name}
    check_names(name, values)
    return with_keys(recipe, values, "search")


def with_keys(settings: SearchMethod, keys: dict[str, Any], origin: str) -> SearchMethod:
    """Return the settings with other values for some keys; a ``name`` among them chooses another method."""
    layers = [layer_of(settings), Layer(origin, {"search": keys}, {"search": 0})]
    return still_foreign(merge(Schema(_Section, {"search": SEARCHES}), layers).search, settings, keys)


def layer_of(settings: SearchMethod, origin: str = "recipe") -> Layer:
    """Return settings as a layer for ``merge``, with every text in it taken literally."""
    return Layer(origin, {"search": plain(settings)}, {})


def still_foreign(merged: SearchMethod, settings: SearchMethod, keys: Collection[str]) -> SearchMethod:
    """Mark in ``merged`` the names of code or files that a run's folder gave in its ``settings``, except for ``keys``.

    The values of those are the caller's; see ``s2s.config.outside_names``.
    """
    marked: SearchMethod = outside_names.with_foreign(merged, outside_names.foreign_keys(settings) - set(keys))
    return marked


def plain(settings: SearchMethod) -> dict[str, Any]:
    """Return the settings in a recipe's form, the name of the method first."""
    return {"name": name_of(SEARCHES, settings), **outside_names.plain(settings)}


def check_names(name: object, keys: Mapping[str, Any]) -> None:
    """Raise a UserError for an unknown method, or for a key that the method does not have."""
    if not isinstance(name, str) or name not in SEARCHES:
        raise UserError(f"search key 'name': no '{name}'{nearest(str(name), SEARCHES)}")
    known = {item.name for item in fields(SEARCHES[name])} | {"name"}
    for key in keys.keys() - known:
        rows = [row for row, kind in SEARCHES.items() if key in {item.name for item in fields(kind)}]
        hint = f" of '{name}'; it is one of {', '.join(rows)}" if rows else nearest(key, known)
        raise UserError(f"unknown search key '{key}'{hint}")
