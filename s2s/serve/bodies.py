"""What may be asked: the bodies of requests, checked before anything is computed."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from s2s.errors import UserError
from s2s.serve.keys import check_text
from s2s.serve.refusals import refuse
from s2s.serve.worker import LeftError

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


PATIENCE = 64
"""Up to this many times the limit is read and forgotten: many clients look for an answer only when all is sent."""
SECONDS = 20.0
"""A body that has not come by then does not come."""


class TooLongError(Exception):
    """The body has more bytes than it may."""


class BodyLimit:
    """Reads a request's body before the application does.

    It answers 413 where the body is too long and 408 where it takes more than ``seconds``; both close the connection.
    """

    def __init__(self, app: ASGIApp, most: int, seconds: float = SECONDS) -> None:
        self.app, self.most, self.seconds = app, most, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request and its whole body on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self.seconds):
                body = await self._read(scope, receive)
        except TooLongError:
            await refuse(send, 413, f"the body has more than {self.most} bytes")
            return
        except TimeoutError:
            await refuse(send, 408, f"the body did not come within {self.seconds:g} s")
            return
        except LeftError:
            return
        told = False

        async def replay() -> Message:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        """Return the body; raises ``TooLongError`` or ``LeftError`` where there is none to go on with."""
        said = dict(scope["headers"]).get(b"content-length", b"")
        if said.isdigit() and (len(said) > 18 or int(said) > PATIENCE * self.most):
            raise TooLongError
        body, length = bytearray(), 0
        while length <= PATIENCE * self.most:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise LeftError("the client has left")
            piece = message.get("body", b"")
            length += len(piece)
            if length <= self.most:
                body += piece
            if not message.get("more_body"):
                if length > self.most:
                    raise TooLongError
                return bytes(body)
        raise TooLongError
