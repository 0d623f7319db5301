"""What may be asked: the bodies of requests, checked before anything is computed."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.exceptions import HTTPException

from s2s.errors import UserError
from s2s.serve.keys import check_text

MOST_BYTES = 1 << 18
MOST_CHARACTERS = 20_000


class Question(BaseModel):
    """A source to generate from, the run's name, and search settings: keys of a recipe's ``search:``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    source: str = Field(min_length=1, max_length=MOST_CHARACTERS)
    run: str | None = Field(default=None, description="a name that GET /health lists; null: the first")
    # Values are typed with their keys' own types, by ``s2s.serve.keys``.
    search: dict[str, Any] = Field(default_factory=dict, description="keys of a recipe's search:, over the run's own")

    @field_validator("source")
    @classmethod
    def is_text(cls, source: str) -> str:
        """Refuse what no tokenizer should see: blanks alone, halves of surrogate pairs, control characters."""
        if not source.strip():
            raise ValueError("blank")
        try:
            return check_text("source", source)
        except UserError as error:
            raise ValueError(str(error).removeprefix("source: ")) from error


class JsonRequest(Request):
    """A request whose body says that it is JSON, and has no key twice."""

    async def json(self) -> Any:
        """Return the body's value; raises ``JSONDecodeError`` where it is none."""
        return json.loads(await self.body(), object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise json.JSONDecodeError(f"key '{key}' comes twice", "", 0)
        found[key] = value
    return found


class JsonRoute(APIRoute):
    """A route whose bodies are JSON by their own word.

    A page elsewhere can make a browser send other types without asking this server first.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the route's handler."""
        handle = super().get_route_handler()

        async def checked(request: Request) -> Response:
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if request.method == "POST" and kind != "application/json":
                raise HTTPException(415, f"Content-Type: '{kind}' is not application/json")
            return await handle(JsonRequest(request.scope, request.receive))

        return checked
