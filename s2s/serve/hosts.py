"""The addresses at which the server listens, and the names under which it answers.

A foreign page can make its own name point to this machine (DNS rebinding), or make a browser post to it. The headers
Host and Origin, which a page cannot choose, reveal both. A numeric address cannot be rebound.
"""

import ipaddress
import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from s2s.errors import UserError


def listening(host: str, port: int) -> list[socket.socket]:
    """Return sockets bound to all addresses of a host, on one port; port 0 is any that is free.

    Raises ``UserError`` for a host that has no address here, and for a port that is taken.
    """
    try:
        # The list of names in /etc/hosts has them without the final dot of an absolute name.
        rows = socket.getaddrinfo(
            host.removesuffix(".") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise UserError(f"host: '{host}' is no address of this machine: {error}") from error
    sockets: list[socket.socket] = []
    for family, address in dict.fromkeys((row[0], row[4]) for row in rows):
        try:
            sockets.append(_bound(family, (address[0], port, *address[2:])))
        except OSError as error:
            for bound in sockets:
                bound.close()
            raise UserError(f"host, port: {address[0]} port {port}: {error.strerror or error}") from error
        port = sockets[0].getsockname()[1]
    return sockets


def _bound(family: int, address: tuple[str | int, ...]) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # on Windows the option would let two servers share a port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # IPv4 has sockets of its own, which would clash with one for both
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


@dataclass(frozen=True)
class Hosts:
    """The names under which a server answers; ``*`` among them allows every name.

    ``localhost`` and the loopback addresses are always allowed. If other machines reach the server, so is every numeric
    address.
    """

    names: frozenset[str]
    local: bool  # only this machine reaches the server
    guessed: frozenset[str] = frozenset()  # those of the names that the user did not give: the machine's own

    def allows(self, host: str) -> bool:
        """Return whether a request's Host header, with or without a port, is one of the names."""
        name = name_in(host)
        if name is None:
            return False
        return "*" in self.names or name in self.names or is_loopback(name) or (not self.local and _is_address(name))

    def summary(self) -> str:
        """Return a line on who can reach the server, and under which names it answers."""
        who = "Only this machine reaches it" if self.local else "Other machines reach it, and it has no passwords"
        if "*" in self.names:
            return f"{who}; it answers under every name, so that pages whose names are made to point to it can read it"
        addresses = "localhost and loopback addresses" if self.local else "localhost and every address of numbers"
        return f"{who}; it answers under {', '.join(sorted(self.names))}, {addresses}; names=NAME adds names"

    def trusts(self, origin: str, host: str) -> bool:
        """Return whether a page from an Origin may post to a Host: the server's own page, or one of a given name.

        Another port is another server, whose pages are trusted only where the user gives its name (names=NAME). The
        same holds for https, which only a proxy in front of this server speaks.
        """
        page, given = _origin(origin), self.names - self.guessed
        if page is None:
            return False
        schemes = ["http", "https"] if "*" in given else ["http"]
        return page[1] in given or page in [_origin(f"{scheme}://{host}") for scheme in schemes]


def hosts_of(host: str, given: Iterable[str], sockets: Sequence[socket.socket]) -> Hosts:
    """Return the names of a server at some sockets: its host, those that the user has given, and the machine's."""
    # The bound addresses decide whether other machines reach them: ``host`` has many spellings.
    local = all(is_loopback(str(bound.getsockname()[0])) for bound in sockets)
    machine = () if local else (socket.gethostname(), f"{socket.gethostname()}.local")
    asked, guessed = _names(given), _names((host, *machine))
    return Hosts(asked | guessed, local, guessed - asked)


def _names(hosts: Iterable[str]) -> frozenset[str]:
    names = (host if host == "*" else name_in(host) for host in hosts if host)
    return frozenset(name for name in names if name is not None)


PORTS = {"http": 80, "https": 443}
"""The default ports, which an Origin leaves out."""


def _origin(text: str) -> tuple[str, str, int] | None:
    """Return scheme, name and port of an Origin header; None for one that is not a web page's."""
    scheme, _, host = text.partition("://")
    address = _name_and_port(host)
    if address is None or scheme.lower() not in PORTS:
        return None
    name, port = address
    return scheme.lower(), name, PORTS[scheme.lower()] if port is None else port


def name_in(host: str) -> str | None:
    """Return the name in a Host header, in lower case, without port, brackets and final dot; None if it is invalid."""
    address = _name_and_port(host)
    return None if address is None else address[0]


def _name_and_port(host: str) -> tuple[str, int | None] | None:
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
