"""Bodies of a bounded size, whatever the client says of them."""

import json

from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATIENCE = 64
"""So many times the limit is still read, and forgotten: many clients look for an answer only when all is sent."""


class BodyLimit:
    """Reads a request's body before the application does, and answers 413 where it is too long."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI interface."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = await self._read(scope, receive)
        if body is None:
            await _refuse(send, f"the body has more than {self.most} bytes")
            return
        told = False

        async def replay() -> Message:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body, or None where it is too long."""
        said = dict(scope["headers"]).get(b"content-length", b"")
        if said.isdigit() and int(said) > PATIENCE * self.most:
            return None
        body, length = b"", 0
        while length <= PATIENCE * self.most:
            message = await receive()
            piece = message.get("body", b"")
            length += len(piece)
            body += piece if length <= self.most else b""
            if not message.get("more_body"):
                return body if length <= self.most else None
        return None


async def _refuse(send: Send, reason: str) -> None:
    content = json.dumps({"error": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 413, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": content})
