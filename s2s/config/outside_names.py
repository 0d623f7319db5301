"""Settings that name what lies outside of a run's folder: code to import, files to open, names to fetch.

Whoever calls may give such names. A folder from elsewhere may not: its names are marked as ``Foreign`` when its recipe
is read, and ``refuse_foreign`` stops at them where one would be followed.
"""

from collections.abc import Callable, Container
from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any, NamedTuple

from s2s.errors import UserError

OWN_WORDS = "s2s.Recipe.load of its recipe.yaml reads it as your own words, if you trust it"
_KEY = "outside"


class Foreign(str):
    """A name that a folder from elsewhere gives. It may be shown and compared, but not imported, opened or fetched."""

    __slots__ = ()


class _Outside(NamedTuple):
    """The form of a key's values, and those that name nothing outside."""

    form: str
    own_names: Container[str]


def outside(form: str, own_names: Container[str] = ()) -> dict[str, Any]:
    """Return the metadata of a field that names something outside, or one of ``own_names``.

    ``form`` is how such a name is written: module:function, FILE.
    """
    return {_KEY: _Outside(form, own_names)}


def form_of(item: Any) -> str | None:
    """Return how the names of a field are written that names something outside; None for another field."""
    declared: _Outside | None = item.metadata.get(_KEY)
    return None if declared is None else declared.form


def names_outside(settings: Any) -> dict[str, str]:
    """Return key and value of each setting that names something outside; a list's names with blanks between."""
    keys = [item.name for item in fields(settings) if _is_outside(settings, item)]
    return {key: " ".join(names_in(getattr(settings, key))) for key in keys}


def foreign(settings: Any) -> Any:
    """Return the settings with every name outside marked, in sections, lists and dictionaries within them too."""
    if is_dataclass(settings):
        values = {item.name: getattr(settings, item.name) for item in fields(settings)}
        named = names_outside(settings)
        return _replaced(settings, {key: _mark(old) if key in named else foreign(old) for key, old in values.items()})
    return _each(settings, foreign)


def own(settings: Any) -> Any:
    """Return the settings as the words of whoever calls: nothing in them is marked."""
    if is_dataclass(settings):
        return _replaced(settings, {item.name: own(getattr(settings, item.name)) for item in fields(settings)})
    return str(settings) if isinstance(settings, Foreign) else _each(settings, own)


def foreign_keys(settings: Any) -> set[str]:
    """Return the keys whose names a folder gave."""
    named = {item.name: names_in(getattr(settings, item.name)) for item in fields(settings)}
    return {key for key, found in named.items() if any(isinstance(name, Foreign) for name in found)}


def with_foreign(settings: Any, keys: set[str]) -> Any:
    """Return the settings with the names under some keys marked."""
    return _replaced(settings, {key: _mark(getattr(settings, key)) for key in names_outside(settings).keys() & keys})


def refuse_foreign(settings: Any, section: str, how: str) -> None:
    """Refuse to follow a name that a folder gave.

    ``how`` tells the way to give one's own; {key} and {form} in it become the key and the form of its value.
    """
    for item in fields(settings):
        if item.name in foreign_keys(settings):
            name, form = names_outside(settings)[item.name], form_of(item)
            raise UserError(
                f"{section}.{item.name}: the run's folder names {_shown(name)}, and nothing outside of a folder is "
                f"imported or opened because the folder says so; {how.format(key=item.name, form=form)}"
            )


def plain(settings: Any) -> dict[str, Any]:
    """Return the settings as nested plain values, without marks."""
    return asdict(settings, dict_factory=lambda pairs: {key: own(value) for key, value in pairs})


def _is_outside(settings: Any, item: Any) -> bool:
    declared: _Outside | None = item.metadata.get(_KEY)
    names = names_in(getattr(settings, item.name))
    return declared is not None and any(name and name not in declared.own_names for name in names)


def names_in(value: Any) -> list[str]:
    """Return the names that a setting holds, one or a list."""
    return [name for name in (value if isinstance(value, list) else [value]) if isinstance(name, str)]


def _mark(value: Any) -> Any:
    return list(map(Foreign, value)) if isinstance(value, list) else Foreign(value)


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, list):
        return [change(item) for item in value]
    return {key: change(item) for key, item in value.items()} if isinstance(value, dict) else value


def _replaced(settings: Any, values: dict[str, Any]) -> Any:
    return replace(settings, **{key: value for key, value in values.items() if value is not getattr(settings, key)})


def _shown(name: str) -> str:
    """A stranger's text on one line, with nothing in it that commands a terminal."""
    text = repr(str(name))
    return text if len(text) <= 100 else f"{text[:97]}...'"
