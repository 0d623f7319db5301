"""Under which names a server may be asked: decided by the addresses that it is bound to, however they are written."""

import json
import socket
from pathlib import Path

import httpx
import pytest
from served import serving
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from s2s.errors import UserError
from s2s.serve.hosts import Hosts, hosts_of, is_loopback, listening, name_in
from s2s.serve.middleware import HostGuard

pytestmark = pytest.mark.slow


def resolved(name: str) -> set[str]:
    try:
        return {str(row[4][0]) for row in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)}
    except OSError:
        return set()


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as made:
            made.bind(("::1", 0))
    except OSError:
        return False
    return True


SIX = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


def names_at(host: str, *given: str) -> Hosts:
    sockets = listening(host, 0)
    try:
        return hosts_of(host, given, sockets)
    finally:
        for each in sockets:
            each.close()


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.0.0.2", "localhost", "LOCALHOST", "LocalHost", "localhost.", "127.1"),
        pytest.param("::1", marks=SIX),
        pytest.param("0:0:0:0:0:0:0:1", marks=SIX),
    ],
)
def test_a_server_for_this_machine_alone_is_guarded(host: str) -> None:
    hosts = names_at(host)
    assert hosts.local
    own = ["localhost", "LOCALHOST:80", "localhost.", "127.0.0.1", "127.0.0.2:8000", "[::1]", "[::1]:8000", "::1"]
    mapped = ["[::ffff:127.0.0.1]:80", "a.localhost"]
    assert [
        name for name in (*own, *mapped, host if ":" not in host else f"[{host}]:1") if not hosts.allows(name)
    ] == []
    foreign = [
        "elsewhere.example",
        "elsewhere.example:8000",
        "10.0.0.1",
        "0.0.0.0:8000",
        "[fe80::1]",
        "",
        " ",
        "localhost.evil.example",
    ]
    broken = [
        "[::1",
        "127.0.0.1:x",
        "127.0.0.1:80:80",
        "localhost@evil.example",
        "evil.example@localhost",
        "localhost/x",
        "a b",
    ]
    assert [name for name in (*foreign, *broken) if hosts.allows(name)] == []


def test_the_machine_s_own_name_is_guarded_by_what_it_is_bound_to() -> None:
    own = socket.gethostname()
    if not resolved(own):
        pytest.skip("this machine's name has no address")
    hosts = names_at(own)
    assert hosts.local == all(map(is_loopback, resolved(own)))
    assert hosts.allows(own.upper())
    assert hosts.allows(f"{own}.:8000")
    assert not hosts.allows("elsewhere.example")


@pytest.mark.parametrize("host", ["0.0.0.0", "", pytest.param("::", marks=SIX)])
def test_a_server_for_other_machines_answers_to_addresses_and_its_names(host: str) -> None:
    hosts = names_at(host, "Proxy.Example", "other.example.")
    assert not hosts.local
    allowed = ["127.0.0.1", "localhost", "10.0.0.1:80", "[2001:db8::1]:80", "[2001:db8::1]", socket.gethostname()]
    assert [name for name in (*allowed, "proxy.example:1", "OTHER.example") if not hosts.allows(name)] == []
    assert not hosts.allows("elsewhere.example")
    assert names_at(host, "*").allows("elsewhere.example")
    assert "no passwords" in hosts.summary()
    assert "names=NAME" in hosts.summary()


def test_names_are_read_as_browsers_send_them() -> None:
    assert [name_in(host) for host in ("A.B.:80", "[::1]:80", "::1", "[FE80::1%25lo]")] == [
        "a.b",
        "::1",
        "::1",
        "fe80::1%25lo",
    ]
    assert [name_in(host) for host in ("", ":80", "[", "a:b:c", "a:99999")] == [None] * 5


def test_hosts_that_are_no_addresses_here_and_ports_that_are_taken_are_one_line() -> None:
    for host in ("no.such.host.invalid", "300.1.1.1", "a b", "x" * 300, "192.0.2.1"):
        with pytest.raises(UserError, match=r"^host") as caught:
            listening(host, 0)
        assert "\n" not in str(caught.value)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="port"):
            listening("127.0.0.1", taken.getsockname()[1])


@pytest.fixture
def guarded() -> TestClient:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    return TestClient(HostGuard(app, Hosts(frozenset({"proxy.example"}), local=True)), base_url="http://localhost:8000")


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200),
        ("http://localhost:8000", 200),
        ("HTTP://LOCALHOST:8000", 200),
        ("https://proxy.example", 200),
        ("http://proxy.example:3000", 200),
        ("http://localhost:3000", 403),
        ("http://localhost", 403),
        ("https://localhost:8000", 403),
        ("ftp://localhost:8000", 403),
        ("http://127.0.0.1:8000", 403),
        ("http://evil.example", 403),
        ("http://evil.example:8000", 403),
        ("http://localhost.evil.example:8000", 403),
        ("null", 403),
        ("", 403),
        ("file://", 403),
        ("http://[", 403),
    ],
)
def test_pages_elsewhere_may_not_post(guarded: TestClient, origin: str | None, status: int) -> None:
    headers = {} if origin is None else {"Origin": origin}
    reply = guarded.post("/generate", headers=headers)
    assert reply.status_code == status
    assert guarded.get("/", headers=headers).status_code == 200
    for asked in (guarded.options("/generate", headers=headers), guarded.get("/", headers=headers)):
        trusted = origin if status == 200 else None
        assert asked.headers.get("access-control-allow-origin") == trusted
        assert asked.headers.get("access-control-allow-headers") == (trusted and "content-type")
    if status == 403:
        assert list(json.loads(reply.text)) == ["error"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", pytest.param("::1", marks=SIX)])
def test_another_port_of_the_server_s_own_host_is_another_server(host: str) -> None:
    own, name = names_at(host), f"[{host}]" if ":" in host else host
    assert own.trusts(f"http://{name}:8123", f"{name}:8123")
    assert own.trusts(f"http://{name}", f"{name}:80")
    strangers = [f"http://{name}:9999", f"http://{name}", f"https://{name}:8123", f"http://{name}:8123/x"]
    assert [origin for origin in strangers if own.trusts(origin, f"{name}:8123")] == []
    assert names_at(host, host).trusts(f"https://{name}", f"{name}:8123")  # by its own word, behind a proxy


def test_under_every_name_a_proxy_s_page_may_post_to_its_own_host_alone() -> None:
    hosts = names_at("127.0.0.1", "*")
    assert hosts.trusts("https://proxy.example", "proxy.example")
    assert not hosts.trusts("https://elsewhere.example", "proxy.example")
    assert not hosts.trusts("http://127.0.0.1:9999", "127.0.0.1:8123")


@pytest.mark.parametrize("host", ["LOCALHOST", "127.0.0.2"])
def test_the_command_answers_where_it_listens_and_to_its_own_names_alone(roomy_folder: Path, host: str) -> None:
    with serving(f"run={roomy_folder}", f"host={host}") as server, httpx.Client(trust_env=False, timeout=60) as client:
        address = "127.0.0.1" if host == "LOCALHOST" else host
        url = f"http://{address}:{server.port}"
        assert client.get(f"{url}/health").status_code == 200
        reply = client.get(f"{url}/health", headers={"Host": f"rebound.example:{server.port}"})
        assert (reply.status_code, list(reply.json())) == (400, ["error"])
        # What a page's form or a request without a type can send.
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
            headers = {"Content-Type": kind} if kind else {}
            reply = client.post(f"{url}/generate", content=b'{"source": "a b"}', headers=headers)
            assert (reply.status_code, list(reply.json())) == (415, ["error"])
