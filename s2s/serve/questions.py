"""The bodies of requests, checked before anything is computed, and their search keys over a run's own settings.

Nothing here goes through YAML: a text in a request stays that text, and names no file, code or alias.
"""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import fields, replace
from types import NoneType
from typing import Any, get_args, get_type_hints

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.exceptions import HTTPException

from s2s.config.merge import name_of
from s2s.config.values import MisreadError, read, shown
from s2s.errors import UserError, nearest
from s2s.search.methods import SEARCHES
from s2s.search.methods.base import SearchMethod

MOST_BYTES = 1 << 18
MOST_CHARACTERS = 20_000
MOST_TEXTS = 64
"""The most texts in a list."""
MOST_DIGITS = 15
"""The most digits of a whole number, which is then exact as a float and fits in 64 bits."""
TEXT_KEYS = {"prefix", "required", "forbidden"}
"""The search keys that hold words of a writer. The text of any other key is a name, and must be a plain word."""


class Question(BaseModel):
    """A source to generate from, the run's name, and search settings: keys of a recipe's ``search:``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    source: str = Field(min_length=1, max_length=MOST_CHARACTERS)
    run: str | None = Field(default=None, description="a name that GET /health lists; null: the first")
    # ``settings_of`` reads the values: their types depend on the keys.
    search: dict[str, Any] = Field(default_factory=dict, description="keys of a recipe's search:, over the run's own")

    @field_validator("source")
    @classmethod
    def is_text(cls, source: str) -> str:
        """Refuse blank texts and what ``check_text`` refuses."""
        if not source.strip():
            raise ValueError("blank")
        try:
            return check_text("source", source)
        except UserError as error:
            raise ValueError(str(error).removeprefix("source: ")) from error


class JsonRequest(Request):
    """A request whose JSON body may have no key twice."""

    async def json(self) -> Any:
        """Return the body's value; raises ``JSONDecodeError`` where it is no JSON."""
        return json.loads(await self.body(), object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise json.JSONDecodeError(f"key '{key}' comes twice", "", 0)
        values[key] = value
    return values


class JsonRoute(APIRoute):
    """A route that refuses bodies of another Content-Type than JSON.

    A foreign page can make a browser post the other types without asking this server first (CORS).
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the route's handler, with the check before it."""
        handle = super().get_route_handler()

        async def checked(request: Request) -> Response:
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if request.method == "POST" and kind != "application/json":
                raise HTTPException(415, f"Content-Type: '{kind}' is not application/json")
            return await handle(JsonRequest(request.scope, request.receive))

        return checked


def settings_of(defaults: SearchMethod, keys: Mapping[str, Any]) -> SearchMethod:
    """Return a request's search settings: its keys over the run's ``defaults``, or over those of the method it names.

    Each value is read as its key's type, from JSON's type or from text: ``4`` and ``"4"`` are one whole number,
    ``"1.0"`` is a text for ``prefix``. Raises ``UserError`` for what a key cannot hold, for keys that contradict each
    other, and for settings that name code or a file, the run's own included.
    """
    name = keys.get("name", name_of(SEARCHES, defaults))
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
    settings = replace(defaults if type(defaults) is kind else kind(), **values)
    for key, value in settings.names_outside().items():
        if key in values:
            raise UserError(f"search.{key}: {shown(value)} names code or a file, and a request names neither")
        raise UserError(
            f"search.{key}: the run's own settings name {shown(value)}, code or a file that a server does not follow; "
            f"give search.{key} another value, or take it out of the run's recipe"
        )
    return settings


def _unknown(key: str, name: str, known: set[str]) -> str:
    rows = [row for row, kind in SEARCHES.items() if key in {item.name for item in fields(kind)}]
    if rows:
        return f"unknown key 'search.{key}' of '{name}'; it is one of {', '.join(rows)}"
    return f"unknown key 'search.{key}'{nearest(f'search.{key}', {f'search.{name}' for name in known})}"


def _typed(key: str, hint: Any, value: Any) -> Any:
    """Return a value as its key's type, if it is small and, unless the key is one of ``TEXT_KEYS``, no phrase."""
    full_key = f"search.{key}"
    if isinstance(value, str) and key not in TEXT_KEYS:
        value = value.strip()
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{full_key} is not a finite number")
    if value == "null" and NoneType in get_args(hint) and str not in get_args(hint):
        return None  # as people type it into a field of the page
    if isinstance(value, list) and len(value) > MOST_TEXTS:
        raise UserError(f"{full_key}: {len(value)} are more than {MOST_TEXTS}")
    try:
        typed = read(hint, value, full_key)
    except MisreadError as error:
        raise UserError(str(error)) from error
    if isinstance(typed, int) and abs(typed) >= 10**MOST_DIGITS:
        raise UserError(f"{full_key}: {shown(typed)} has more than {MOST_DIGITS} digits")
    for text in typed if isinstance(typed, list) else [typed]:
        if isinstance(text, str) and key in TEXT_KEYS:
            check_text(full_key, text)
        elif isinstance(text, str) and not re.fullmatch(r"[\w.+-]*", text):
            raise UserError(f"{full_key}: {shown(text)} is no plain word")
    return typed


def check_text(key: str, text: str) -> str:
    """Return the text; raises ``UserError`` for halves of surrogate pairs and for control characters."""
    for index, character in enumerate(text):
        kind = unicodedata.category(character)
        if kind == "Cs" or (kind == "Cc" and not character.isspace()):
            name = "half of a surrogate pair" if kind == "Cs" else "control character"
            raise UserError(f"{key}: {name} U+{ord(character):04X} at character {index + 1}")
    return text
