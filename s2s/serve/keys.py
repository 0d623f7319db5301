"""A request's search keys: typed by what each key holds, over a run's own settings.

Nothing here goes through YAML: a text of a request stays the text that it is, and names nothing outside.
"""

import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import fields, replace
from types import NoneType
from typing import Any, get_args, get_type_hints

from s2s.config.merge import name_of
from s2s.config.values import MisreadError, read, shown
from s2s.errors import UserError, nearest
from s2s.search.methods import SEARCHES
from s2s.search.methods.base import SearchMethod

TEXTS = {"prefix", "required", "forbidden"}
"""The keys that hold a writer's words. Text of any other key is a name, so that a plain word is all it can be."""
MOST_TEXTS = 64
"""The most texts in a list."""
MOST_DIGITS = 15
"""The most digits of a whole number: it stays exact in a float, and within 64 bits."""


def settings_of(own: SearchMethod, keys: Mapping[str, Any]) -> SearchMethod:
    """Return the run's own settings with a request's keys over them; with another row's ``name``, that row's.

    Each value is read as its key's type, be it JSON's or text: ``4`` and ``"4"`` are one whole number, ``"1.0"`` is a
    text for ``prefix``. Raises ``UserError`` for what a key cannot hold, for settings that cannot be, and for those
    that name code or a file, whoever named it.
    """
    name = keys.get("name", name_of(SEARCHES, own))
    if not isinstance(name, str) or name not in SEARCHES:
        raise UserError(f"search.name: no {shown(name)}{nearest(str(name), SEARCHES)}")
    kind = SEARCHES[name]
    hints, known = get_type_hints(kind), {item.name for item in fields(kind)}
    values = {}
    for key, value in keys.items():
        if key not in known | {"name"}:
            raise UserError(_unknown(key, name, known))
        if key != "name":
            values[key] = _typed(key, hints[key], value)
    found = replace(own if type(own) is kind else kind(), **values)
    for key, value in found.names_outside().items():
        if key in values:
            raise UserError(f"search.{key}: {shown(value)} names code or a file, and a request names neither")
        raise UserError(
            f"search.{key}: the run's own settings name {shown(value)}, code or a file that a server does not follow; "
            f"give search.{key} another value, or take it out of the run's recipe"
        )
    return found


def _unknown(key: str, name: str, known: set[str]) -> str:
    rows = [row for row, kind in SEARCHES.items() if key in {item.name for item in fields(kind)}]
    if rows:
        return f"unknown key 'search.{key}' of '{name}'; it is one of {', '.join(rows)}"
    return f"unknown key 'search.{key}'{nearest(f'search.{key}', {f'search.{each}' for each in known})}"


def _typed(key: str, hint: Any, value: Any) -> Any:
    """Return a value as its key's type, once it is known to be small and, unless the key holds words, a name."""
    place = f"search.{key}"
    if isinstance(value, str) and key not in TEXTS:
        value = value.strip()
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{place} is not a finite number")
    if value == "null" and NoneType in get_args(hint) and str not in get_args(hint):
        return None  # as it is typed
    if isinstance(value, list) and len(value) > MOST_TEXTS:
        raise UserError(f"{place}: {len(value)} are more than {MOST_TEXTS}")
    try:
        found = read(hint, value, place)
    except MisreadError as error:
        raise UserError(str(error)) from error
    if isinstance(found, int) and abs(found) >= 10**MOST_DIGITS:
        raise UserError(f"{place}: {shown(found)} has more than {MOST_DIGITS} digits")
    for text in found if isinstance(found, list) else [found]:
        if isinstance(text, str) and key in TEXTS:
            check_text(place, text)
        elif isinstance(text, str) and not re.fullmatch(r"[\w.+-]*", text):
            raise UserError(f"{place}: {shown(text)} is no plain word")
    return found


def check_text(key: str, text: str) -> str:
    """Return the text; raises ``UserError`` for what no tokenizer should see: halves of pairs, control characters."""
    for index, character in enumerate(text):
        kind = unicodedata.category(character)
        if kind == "Cs" or (kind == "Cc" and not character.isspace()):
            name = "half of a surrogate pair" if kind == "Cs" else "control character"
            raise UserError(f"{key}: {name} U+{ord(character):04X} at character {index + 1}")
    return text
