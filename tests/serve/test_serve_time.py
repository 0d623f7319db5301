"""The server's time: limits of work and of bodies, clients that leave, and its end."""

import asyncio
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from served import GENEROUS, LONG, Serving, answer_of, question, serving

from s2s.serve.middleware import BodyLimit
from s2s.serve.worker import BusyError, LeftError, TimeLimitError, Worker

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(roomy_folder: Path) -> Iterator[Serving]:
    with serving(f"run={roomy_folder}", "time_limit=2") as found:
        yield found


@pytest.mark.parametrize(
    "search",
    [
        LONG,
        {"name": "sample", "samples": 16, "min_length": 2900, "max_length": 2900},
        {"name": "diverse", "groups": 4, "beams": 4, "min_length": 2900, "max_length": 2900},
        {"name": "shrinking", "beams": 16, "max_length": 2900},
        {"name": "mbr", "samples": 64, "min_length": 400, "max_length": 400, "utility": "rouge_l_char"},
        {"name": "mbr_beam", "beams": 64, "min_length": 400, "max_length": 400},
    ],
    ids=lambda search: search.get("name", "beam"),
)
def test_work_ends_at_the_time_limit_and_the_worker_is_free(server: Serving, search: dict[str, object]) -> None:
    with server.client() as client:
        reply = client.post("/generate", json={"source": "a b", "search": search})
        assert (reply.status_code, list(reply.json())) == (504, ["error"])
        assert "time_limit: the work took more than 2 s" in reply.json()["error"]
        assert client.post("/generate", json={"source": "a b"}).status_code == 200
        assert client.get("/health").json()["waiting"] == 0


def test_a_stream_that_takes_too_long_ends_with_an_error(server: Serving) -> None:
    search = {"min_length": 2900, "max_length": 2900}
    with server.client() as client, client.stream("POST", "/stream", json={"source": "a", "search": search}) as reply:
        *tokens, last = [json.loads(line) for line in reply.iter_lines()]
    assert tokens
    assert "time_limit" in last["error"]


@pytest.mark.parametrize("path", ["/generate", "/stream"])
def test_work_whose_client_has_left_keeps_nobody_waiting(roomy_folder: Path, path: str) -> None:
    """With a time limit of an hour each, twelve of them would take half a day."""
    search = LONG if path == "/generate" else {"min_length": 2900, "max_length": 2900}
    with serving(f"run={roomy_folder}", "time_limit=3600") as server, server.client() as client:
        for _ in range(12):
            server.ask(path, source="a b", search=search).close()
        assert client.post("/generate", json={"source": "a b"}).status_code == 200
        deadline = time.monotonic() + GENEROUS
        while client.get("/health").json()["waiting"] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert client.get("/health").json()["waiting"] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_with_work_running_and_clients_connected(roomy_folder: Path, number: int) -> None:
    with serving(f"run={roomy_folder}", "time_limit=3600") as server:
        asked = [server.ask("/generate", source="a", search=LONG) for _ in range(3)]
        asked.append(server.ask("/stream", source="a", search={"min_length": 2900, "max_length": 2900}))
        half = server.connect()
        half.sendall(question("/generate", source="a")[:-5])
        idle = server.connect()
        with server.client() as client:
            deadline = time.monotonic() + GENEROUS
            while client.get("/health").json()["waiting"] < 4 and time.monotonic() < deadline:
                time.sleep(0.05)
            server.process.send_signal(number)
            assert server.process.wait(GENEROUS) == (-number if number == signal.SIGTERM else 0)
        for connection in asked:
            assert b"the server is ending" in answer_of(connection)
        for connection in [*asked, half, idle]:
            connection.close()


def test_a_body_that_never_ends_is_left() -> None:
    """The application alone, with a shorter limit than the server's."""

    async def never() -> dict[str, object]:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b" ", "more_body": True}

    async def ask() -> list[dict[str, object]]:
        sent: list[dict[str, object]] = []

        async def send(message: dict[str, object]) -> None:
            sent.append(message)

        async def reached(*_: object) -> None:
            raise AssertionError

        await BodyLimit(reached, 1000, seconds=0.3)({"type": "http", "headers": []}, never, send)  # type: ignore[arg-type]
        return sent

    start, body = asyncio.run(ask())
    assert start["status"] == 408
    assert "did not come within 0.3 s" in json.loads(body["body"])["error"]  # type: ignore[arg-type]


def test_a_client_that_leaves_within_its_body_has_asked_nothing(server: Serving) -> None:
    with server.client() as client:
        for cut in (1, 40, 100):
            connection = server.connect()
            connection.sendall(question("/generate", source="a b", search=LONG)[:-cut])
            connection.close()
        assert client.post("/generate", json={"source": "a b"}).status_code == 200


def test_headers_without_end_are_refused(server: Serving) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000)
        assert answer_of(connection)[:12] in (b"HTTP/1.1 400", b"")


def test_requests_in_one_go_are_answered_in_their_order(server: Serving) -> None:
    with server.connect() as connection:
        last = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        connection.sendall(question("/generate", source="a b") * 3 + last)
        answers = answer_of(connection).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200"] * 4
    assert b'"status":"ok"' in answers[-1]


def test_a_websocket_is_not_opened(server: Serving) -> None:
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "x", "Sec-WebSocket-Version": "13"}
    with server.client() as client:
        assert client.get("/stream", headers=headers).status_code == 405


def test_a_worker_drops_work_from_its_line_and_ends_what_runs() -> None:
    async def ask() -> list[str]:
        worker, begun, said = Worker(most_waiting=8, time_limit=3600), threading.Event(), list[str]()

        def endless() -> None:
            begun.set()
            try:
                while True:
                    worker.check()
            except LeftError:
                said.append("left")
                raise

        running = asyncio.create_task(worker.do(endless))
        await asyncio.to_thread(begun.wait)
        lined = asyncio.create_task(worker.do(lambda: said.append("the line's")))
        await asyncio.sleep(0)
        lined.cancel()
        running.cancel()
        await asyncio.gather(running, lined, return_exceptions=True)
        said.append(await worker.do(lambda: "free"))
        worker.close()
        return said

    assert asyncio.run(ask()) == ["left", "free"]


def test_a_worker_s_time_limit_and_end() -> None:
    async def ask() -> list[object]:
        worker = Worker(most_waiting=8, time_limit=0.05)

        def endless() -> None:
            while True:
                worker.check()

        found: list[object] = []
        with pytest.raises(TimeLimitError, match=r"more than 0\.05 s"):
            await worker.do(endless)
        worker.time_limit = 3600.0
        tasks = [asyncio.create_task(worker.do(endless)) for _ in range(2)]
        await asyncio.sleep(0)
        found.append(await asyncio.to_thread(worker.close))
        found += [str(error) for error in await asyncio.gather(*tasks, return_exceptions=True)]
        with pytest.raises(BusyError, match="the server is ending"):
            await worker.do(endless)
        return found

    assert asyncio.run(ask()) == [True, "the server is ending", "the server is ending"]


def test_the_command_refuses_limits_that_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    from s2s.serve.__main__ import main

    for given in ("time_limit=0", "time_limit=-1", "time_limit=.nan", "time_limit=.inf", "memory=0"):
        assert main(["run=a", given]) == 2
        assert given.partition("=")[0] in capsys.readouterr().err


def test_as_many_requests_as_may_wait_wait(roomy_folder: Path) -> None:
    with serving(f"run={roomy_folder}", "time_limit=3600", "waiting=2") as server, server.client() as client:
        asked = [server.ask("/generate", source="a", search=LONG) for _ in range(2)]
        deadline = time.monotonic() + GENEROUS
        while client.get("/health").json()["waiting"] < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        for path in ("/generate", "/stream"):
            reply: httpx.Response = client.post(path, json={"source": "a"})
            assert reply.status_code == 503
            assert "2 requests are waiting" in reply.json()["error"]
        for connection in asked:
            connection.close()
