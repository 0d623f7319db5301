"""The form of every error: a JSON object with one line under ``error``."""

import json
from collections.abc import Mapping

from starlette.types import Send

LONGEST = 1000
"""Characters of a line; what was sent may be quoted in it."""


def line(reason: str) -> str:
    """Return a reason as one line that can be sent: control characters and halves of surrogate pairs are escaped."""
    shown = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in reason)
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]} ..."


def content(reason: str) -> bytes:
    """Return the body of an error."""
    return json.dumps({"error": line(reason)}, ensure_ascii=False).encode()


async def refuse(send: Send, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
    """Answer with an error, and let the connection be closed: what else the client sends is not read."""
    body = content(reason)
    told = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    pairs = [(name.encode(), value.encode()) for name, value in (told | dict(headers or {})).items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
