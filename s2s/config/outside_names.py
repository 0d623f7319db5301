"""Settings that name something outside a run's folder: code to import, files to open, names to fetch.

The caller may give such names. A run's folder from somebody else may not, or loading it could run code or open files:
its names are marked ``Foreign`` when its recipe is read, and ``refuse_foreign`` raises where one would be used.
"""

from collections.abc import Callable, Container
from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any, NamedTuple

from s2s.errors import UserError

OWN_WORDS = "s2s.Recipe.load of its recipe.yaml reads it as your own words, if you trust it"
_KEY = "outside"


class Foreign(str):
    """A name given by a folder. It may be shown and compared, but not imported, opened or fetched."""

    __slots__ = ()


class _Outside(NamedTuple):
    """The form in which a key's values are written, and the values that name nothing outside."""

    form: str
    inside: Container[str]


def outside(form: str, inside: Container[str] = ()) -> dict[str, Any]:
    """Return the metadata of a field whose value names something outside, unless it is one of ``inside``.

    ``form`` is for messages: module:function, FILE.
    """
    return {_KEY: _Outside(form, inside)}


def form_of(item: Any) -> str | None:
    """Return the form of a field declared by ``outside``; None for any other field."""
    declared: _Outside | None = item.metadata.get(_KEY)
    return None if declared is None else declared.form


def names_outside(settings: Any) -> dict[str, str]:
    """Return key and value of each setting that names something outside; the names of a list joined by blanks."""
    keys = [item.name for item in fields(settings) if _is_outside(settings, item)]
    return {key: " ".join(names_in(getattr(settings, key))) for key in keys}


def foreign(settings: Any) -> Any:
    """Return the settings with every outside name marked, also those in nested settings, lists and dictionaries."""
    if is_dataclass(settings):
        values = {item.name: getattr(settings, item.name) for item in fields(settings)}
        named = names_outside(settings)
        return _replaced(settings, {key: _mark(old) if key in named else foreign(old) for key, old in values.items()})
    return _mapped(settings, foreign)


def unmarked(settings: Any) -> Any:
    """Return the settings without marks, as if the caller had written them."""
    if is_dataclass(settings):
        return _replaced(settings, {item.name: unmarked(getattr(settings, item.name)) for item in fields(settings)})
    return str(settings) if isinstance(settings, Foreign) else _mapped(settings, unmarked)


def foreign_keys(settings: Any) -> set[str]:
    """Return the keys that hold a marked name."""
    named = {item.name: names_in(getattr(settings, item.name)) for item in fields(settings)}
    return {key for key, names in named.items() if any(isinstance(name, Foreign) for name in names)}


def with_foreign(settings: Any, keys: set[str]) -> Any:
    """Return the settings with the outside names of some keys marked."""
    return _replaced(settings, {key: _mark(getattr(settings, key)) for key in names_outside(settings).keys() & keys})


def refuse_foreign(settings: Any, section: str, how: str) -> None:
    """Raise a UserError if a folder gave one of the names in a section.

    ``how`` tells the user how to give that name; {key} and {form} in it become the key and the form of its value.
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
    return asdict(settings, dict_factory=lambda pairs: {key: unmarked(value) for key, value in pairs})


def _is_outside(settings: Any, item: Any) -> bool:
    declared: _Outside | None = item.metadata.get(_KEY)
    names = names_in(getattr(settings, item.name))
    return declared is not None and any(name and name not in declared.inside for name in names)


def names_in(value: Any) -> list[str]:
    """Return the names in the value of a setting, which holds one or a list."""
    return [name for name in (value if isinstance(value, list) else [value]) if isinstance(name, str)]


def _mark(value: Any) -> Any:
    return list(map(Foreign, value)) if isinstance(value, list) else Foreign(value)


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, list):
        return [change(item) for item in value]
    return {key: change(item) for key, item in value.items()} if isinstance(value, dict) else value


def _replaced(settings: Any, values: dict[str, Any]) -> Any:
    return replace(settings, **{key: value for key, value in values.items() if value is not getattr(settings, key)})


def _shown(name: str) -> str:
    # repr, because the name comes from a stranger's file and could hold escape codes for the terminal.
    text = repr(str(name))
    return text if len(text) <= 100 else f"{text[:97]}...'"
