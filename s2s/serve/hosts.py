"""Where the server listens, and under which names it may be asked.

A page elsewhere can make its own name point to this machine (DNS rebinding), or make a browser post to it. Both are
told by the headers Host and Origin, which a page cannot choose. An address made of numbers cannot be rebound.
"""

import ipaddress
import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from s2s.errors import UserError
from s2s.serve.refusals import refuse


def listening(host: str, port: int) -> list[socket.socket]:
    """Return sockets bound to all addresses of a host, on one port; port 0 is any that is free.

    Raises ``UserError`` for a host that has no address here, and for a port that is taken.
    """
    try:
        # The final dot of a whole name is no part of what the machine's own list of names has.
        found = socket.getaddrinfo(
            host.removesuffix(".") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise UserError(f"host: '{host}' is no address of this machine: {error}") from error
    sockets: list[socket.socket] = []
    for family, address in dict.fromkeys((row[0], row[4]) for row in found):
        try:
            sockets.append(_bound(family, (address[0], port, *address[2:])))
        except OSError as error:
            for each in sockets:
                each.close()
            raise UserError(f"host, port: {address[0]} port {port}: {error.strerror or error}") from error
        port = sockets[0].getsockname()[1]
    return sockets


def _bound(family: int, address: tuple[str | int, ...]) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would let two servers share a port
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


@dataclass(frozen=True)
class Hosts:
    """The names under which a server may be asked; a ``*`` among the names stands for every one.

    The names of this machine alone are always among them: ``localhost`` and the loopback addresses. A server that
    others reach also answers to every address of numbers. The names ``found`` are those that nobody gave.
    """

    names: frozenset[str]
    local: bool
    found: frozenset[str] = frozenset()

    def allows(self, host: str) -> bool:
        """Return whether a request's Host header, with or without a port, is one of the names."""
        name = name_in(host)
        if name is None:
            return False
        return "*" in self.names or name in self.names or is_loopback(name) or (not self.local and _is_address(name))

    def said(self) -> str:
        """Return a line on who reaches the server, and under which names it answers."""
        who = "Only this machine reaches it" if self.local else "Other machines reach it, and it has no passwords"
        if "*" in self.names:
            return f"{who}; it answers under every name, so that pages whose names are made to point to it can read it"
        addresses = "localhost and loopback addresses" if self.local else "localhost and every address of numbers"
        return f"{who}; it answers under {', '.join(sorted(self.names))}, {addresses}; names=NAME adds names"

    def trusts(self, origin: str, host: str) -> bool:
        """Return whether a page from an Origin may post to the Host: its own pages, and those of given names.

        Another port of a name is another server, whose pages are trusted only where names=NAME gives the name. So is
        https, which only a proxy before this server speaks.
        """
        page, given = _origin(origin), self.names - self.found
        if page is None:
            return False
        own = ["http", "https"] if "*" in given else ["http"]
        return page[1] in given or page in [_origin(f"{scheme}://{host}") for scheme in own]


def hosts_of(host: str, given: Iterable[str], sockets: Sequence[socket.socket]) -> Hosts:
    """Return the names of a server that listens at sockets: its host, what the caller has given, and its machine's.

    What the sockets are bound to decides whether only this machine reaches them, however ``host`` is written.
    """
    local = all(is_loopback(str(each.getsockname()[0])) for each in sockets)
    machine = () if local else (socket.gethostname(), f"{socket.gethostname()}.local")
    asked, found = _names(given), _names((host, *machine))
    return Hosts(asked | found, local, found - asked)


def _names(hosts: Iterable[str]) -> frozenset[str]:
    names = (host if host == "*" else name_in(host) for host in hosts if host)
    return frozenset(name for name in names if name is not None)


PORTS = {"http": 80, "https": 443}
"""The ports that an Origin leaves out."""


def _origin(text: str) -> tuple[str, str, int] | None:
    """Return scheme, name and port of an Origin header; None where it is none of a web page."""
    scheme, _, place = text.partition("://")
    found = _place(place)
    if found is None or scheme.lower() not in PORTS:
        return None
    name, port = found
    return scheme.lower(), name, PORTS[scheme.lower()] if port is None else port


def name_in(host: str) -> str | None:
    """Return the name in a Host header, in lower case, without port, brackets and final dot; None where it is none."""
    found = _place(host)
    return None if found is None else found[0]


def _place(host: str) -> tuple[str, int | None] | None:
    text = f"[{host}]" if _is_address(host) and ":" in host else host
    try:
        parts = urlsplit(f"//{text}")
        name, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not name or parts.path or parts.query or parts.fragment or parts.username is not None or name.isspace():
        return None
    return name.removesuffix("."), port


def is_loopback(host: str) -> bool:
    """Return whether a name or an address means this machine alone, whoever asks."""
    name = host.lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    if not _is_address(name):
        return False
    address = ipaddress.ip_address(name.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


class HostGuard:
    """Answers 400 to requests under other names than the server's, and 403 to what a page elsewhere posts."""

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = [(name, value.decode("latin-1")) for name, value in scope["headers"]]
        host = next((value for name, value in given if name == b"host"), "")
        origins = [value for name, value in given if name == b"origin"]
        if not self.hosts.allows(host):
            await refuse(send, 400, f"Host: '{host}' is not a name of this server; names=NAME at its start adds one")
        elif scope["method"] not in ("GET", "HEAD") and not all(self.hosts.trusts(each, host) for each in origins):
            await refuse(send, 403, f"Origin: a page of '{origins[0]}' may not post here; names=NAME allows its name")
        elif len(origins) == 1 and self.hosts.trusts(origins[0], host):
            await self.app(scope, receive, _readable(origins[0], send))
        else:
            await self.app(scope, receive, send)


def _readable(origin: str, send: Send) -> Send:
    """Return a ``send`` whose answers tell browsers that a trusted page may post JSON and read what comes."""
    told = {
        "access-control-allow-origin": origin,
        "access-control-allow-methods": "GET, POST",
        "access-control-allow-headers": "content-type",
        "vary": "Origin",
    }
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in told.items()]

    async def told_first(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *pairs]}
        await send(message)

    return told_first
