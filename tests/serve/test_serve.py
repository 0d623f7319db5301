"""The server over real HTTP: what it answers, what it refuses, and the page in a browser."""

import asyncio
import json
import math
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest
import uvicorn

import s2s
from s2s.serve.__main__ import Settings, main, names
from s2s.serve.application import application
from s2s.serve.hosts import is_loopback
from s2s.serve.worker import BusyError, Worker

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SOURCE = "a b <i>c</i> & d e f g h i j"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> s2s.Run:
    folder = tmp_path_factory.mktemp("run") / "toy"
    overrides = [f"run.folder={folder}", "run.steps=2", "run.evaluate_examples=1", "search.beams=3"]
    return s2s.fit(s2s.Recipe.load("toy_copy", overrides))


@pytest.fixture(scope="module")
def address(run: s2s.Run) -> Iterator[str]:
    """A server of two names for the run, on a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = application({"first": run, "second": run}, Worker(most_waiting=64))
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=120, trust_env=False) as client:
        yield client


def test_it_generates_as_the_library_does_with_the_probability_of_each_token(
    run: s2s.Run, client: httpx.Client
) -> None:
    search = {"beams": 4, "n_best": 3, "max_length": 6}
    reply = client.post("/generate", json={"source": SOURCE, "run": "second", "search": search})
    assert reply.status_code == 200
    found = reply.json()
    assert (found["run"], found["step"], found["source"], found["source_was_cut"]) == ("second", 2, SOURCE, True)
    assert found["settings"] | search == found["settings"]
    expected = run.generate([SOURCE], **search)[0]
    rows = run.score([SOURCE] * 3, [hypothesis.tokens for hypothesis in expected])
    assert len(found["hypotheses"]) == 3
    for ours, theirs, row in zip(expected, found["hypotheses"], rows, strict=True):
        assert (theirs["text"], theirs["tokens"]) == (ours.text, ours.tokens)
        assert theirs["score"] == pytest.approx(ours.score)
        assert [*theirs["log_probs"], theirs["end_log_prob"]] == pytest.approx(row.tolist(), abs=1e-5)
        assert len(theirs["pieces"]) == len(theirs["tokens"])


def test_the_run_s_own_settings_hold_where_none_are_given(run: s2s.Run, client: httpx.Client) -> None:
    found = client.post("/generate", json={"source": "a b c"}).json()
    assert (found["run"], found["settings"]["beams"], found["settings"]["n_best"]) == ("first", 3, 1)
    assert found["hypotheses"][0]["tokens"] == run.generate(["a b c"], beams=3)[0][0].tokens
    sampled = {"name": "sample", "samples": 2, "seed": 5}
    found = client.post("/generate", json={"source": "a b c", "search": sampled}).json()
    assert found["settings"]["name"] == "sample"
    assert [row["text"] for row in found["hypotheses"]] == [row.text for row in run.generate(["a b c"], **sampled)[0]]


def test_health_and_runs_say_what_is_there(client: httpx.Client) -> None:
    assert client.get("/health").json() == {"status": "ok", "runs": ["first", "second"], "waiting": 0}
    first, second = client.get("/runs").json()
    assert (first["name"], second["name"], first["step"], first["method"]) == ("first", "second", 2, "beam")
    beams = next(key for key in first["methods"]["beam"] if key["name"] == "beams")
    assert (beams["type"], beams["value"]) == ("whole number", 3)
    assert beams["meaning"]


def test_a_stream_gives_the_greedy_tokens_as_lines(run: s2s.Run, client: httpx.Client) -> None:
    search = {"max_length": 6, "min_length": 2, "repetition_penalty": 1.5}
    with client.stream("POST", "/stream", json={"source": "a b c", "search": search}) as reply:
        *tokens, last = [json.loads(line) for line in reply.iter_lines()]
    expected = run.generate(["a b c"], beams=1, **search)[0][0]
    assert last == {"text": expected.text, "tokens": expected.tokens}
    assert [line["token"] for line in tokens] == expected.tokens
    assert "".join(line["piece"] for line in tokens) == expected.text
    reply = client.post("/stream", json={"source": "a", "search": {"beams": 2}})
    assert (reply.status_code, reply.json()["error"][:40]) == (422, "search.beams: a stream is greedy; leave ")


def body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


MISTAKES = [
    (b"", 422, "Field required"),
    (b"{", 422, "not JSON"),
    (b"[1]", 422, "valid dictionary"),
    (b"\xff", 400, "parsing the body"),
    (b"[" * 100_000, 400, "parsing the body"),
    (body(), 422, "source: Field required"),
    (body(source=""), 422, "source: String should have at least 1 character"),
    (body(source=" \n"), 422, "source: blank"),
    (body(source=3), 422, "source: Input should be a valid string"),
    (body(source=None), 422, "source: Input should be a valid string"),
    (body(source=["a"]), 422, "source: Input should be a valid string"),
    (body(source="a\0b"), 422, "source: control character U+0000 at character 2"),
    (body(source="ab\x1b[0m"), 422, "source: control character U+001B at character 3"),
    (body(source="a\ud800"), 422, "source: "),
    (body(source="a" * 20_001), 422, "source: String should have at most 20000 characters"),
    (body(source="a" * 1_000_000), 413, "more than 262144 bytes"),
    (body(source="a", beams=3), 422, "unknown key 'beams'"),
    (body(sauce="a"), 422, "unknown key 'sauce'; did you mean 'source'?"),
    (body(source="a", run="frist"), 422, "run: no 'frist'; did you mean 'first'?"),
    (body(source="a", search=[1]), 422, "search: Input should be a valid dictionary"),
    (body(source="a", search={"beam": 2}), 422, "did you mean 'search.beams'?"),
    (body(source="a", search={"beams": "many"}), 422, "search.beams: 'many' is not a whole number"),
    (body(source="a", search={"beams": 0}), 422, "search.beams: 0 is not at least 1"),
    (body(source="a", search={"beams": 65}), 422, "beams: 65 is more than 64"),
    (body(source="a", search={"n_best": 9}), 422, "search.n_best: 9 is more than search.beams"),
    (body(source="a", search={"max_length": 999}), 422, "search.max_length: 999 tokens"),
    (body(source="a", search={"beams": [2]}), 422, "search.beams"),
    (body(source="a", search={"name": "bean"}), 422, "no 'bean'; did you mean 'beam'?"),
    (body(source="a", search={"name": "mbr", "utility": "os:getcwd"}), 422, "utility: 'os:getcwd' is no plain word"),
    (body(source="a", search={"stop": "${oc.env:HOME}"}), 422, "is no plain word"),
    (b'{"source": "a", "search": {"length_penalty": NaN}}', 422, "length_penalty is not a finite number"),
]


@pytest.mark.parametrize(("content", "status", "message"), MISTAKES)
def test_mistakes_are_one_line_of_json(client: httpx.Client, content: bytes, status: int, message: str) -> None:
    reply = client.post("/generate", content=content, headers={"Content-Type": "application/json"})
    assert reply.status_code == status
    error = reply.json()["error"]
    assert list(reply.json()) == ["error"]
    assert message in error
    assert "\n" not in error
    assert client.get("/health").json()["status"] == "ok"


def test_a_long_body_is_refused_however_it_comes(client: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(64):
            yield b"a" * 16_384

    reply = client.post("/generate", content=chunks(), headers={"Content-Type": "application/json"})
    assert (reply.status_code, list(reply.json())) == (413, ["error"])


def test_a_client_that_sends_all_before_it_reads_gets_its_answer(client: httpx.Client) -> None:
    connection = HTTPConnection(client.base_url.host, client.base_url.port)
    connection.request("POST", "/generate", body(source="a" * 10_000_000), {"Content-Type": "application/json"})
    reply = connection.getresponse()
    assert (reply.status, list(json.loads(reply.read()))) == (413, ["error"])
    connection.close()


def test_other_addresses_and_methods_are_errors_too(client: httpx.Client) -> None:
    assert (client.get("/nothing").status_code, client.get("/nothing").json()) == (404, {"error": "Not Found"})
    assert client.get("/generate").status_code == 405
    assert client.get("/generate").headers["allow"] == "POST"
    assert client.get("/health", headers={"Host": "elsewhere.example"}).status_code == 400


@pytest.mark.parametrize(("path", "methods"), [("/generate", "POST"), ("/stream", "POST"), ("/runs", "GET")])
def test_a_browser_that_asks_first_is_told_the_methods(client: httpx.Client, path: str, methods: str) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    own = {"Origin": str(client.base_url).rstrip("/")}
    for headers in ({}, asked, asked | own):
        reply = client.options(path, headers=headers)
        assert (reply.status_code, reply.headers["allow"], reply.content) == (204, f"{methods}, OPTIONS", b"")
        assert reply.headers.get("access-control-allow-origin") == headers.get("Origin")
    for strange in ("http://evil.example", "http://localhost:1", "null"):
        reply = client.options(path, headers=asked | {"Origin": strange})
        assert reply.status_code == 403
        assert not [name for name in reply.headers if name.startswith("access-control")]
    assert client.options("/nothing", headers=asked).status_code == 404


def test_fifty_requests_at_once_are_all_answered(run: s2s.Run, address: str) -> None:
    texts = [" ".join("abcdefghij"[: count % 9 + 1]) for count in range(50)]

    async def ask() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=address, timeout=300, limits=limits, trust_env=False) as client:
            return await asyncio.gather(*(client.post("/generate", json={"source": text}) for text in texts))

    replies = asyncio.run(ask())
    assert Counter(reply.status_code for reply in replies) == {200: 50}
    assert [reply.json()["source"] for reply in replies] == texts
    expected = run.generate(texts[:9], beams=3)
    assert [reply.json()["hypotheses"][0]["text"] for reply in replies[:9]] == [row[0].text for row in expected]


def test_a_full_line_is_told_at_once_and_errors_leave_the_worker_free() -> None:
    async def ask() -> list[object]:
        worker, gate = Worker(most_waiting=2), threading.Event()
        tasks = [asyncio.create_task(worker.do(gate.wait)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="2 requests are waiting"):
            await worker.do(gate.wait)
        gate.set()
        found = [*await asyncio.gather(*tasks)]
        with pytest.raises(ZeroDivisionError):
            await worker.do(lambda: 1 / 0)
        found += [await worker.do(lambda: 7), worker.waiting]
        worker.close()
        return found

    assert asyncio.run(ask()) == [True, True, 7, 0]


def test_pieces_make_up_the_text(run: s2s.Run) -> None:
    for text in ("a b c", "", "j i h"):
        ids = run.vocabulary.encode(text)
        assert "".join(run.vocabulary.shares(ids)) == text
        assert len(run.vocabulary.shares(ids)) == len(ids)


def test_the_page_needs_no_network(client: httpx.Client) -> None:
    reply = client.get("/")
    assert reply.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
    assert not re.search(r"""(src|href)=(?!["']?data:)|url\(|@import|https?://|innerHTML|eval\(""", reply.text)


def browse(*arguments: str) -> subprocess.CompletedProcess[str]:
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --virtual-time-budget=60000"
    )
    assert BROWSER is not None
    return subprocess.run(
        [BROWSER, *flags.split(), *arguments], capture_output=True, text=True, timeout=300, encoding="utf-8"
    )


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_the_page_shows_what_each_run_found(run: s2s.Run, address: str, tmp_path: Path) -> None:
    asked = "source=a+b+%3Ci%3Ec%3C%2Fi%3E+%26+d+e+f+g+h+i+j&beams=4&n_best=3&max_length=6"
    page = browse(f"--user-data-dir={tmp_path}", "--dump-dom", f"{address}/#{asked}").stdout
    assert ">done<" in page
    cards = page.split("<article>")[1:]
    assert [re.match(r"<h2>(.*?)</h2>", card)[1] for card in cards] == ["first", "second"]
    expected = run.generate([SOURCE], beams=4, n_best=3, max_length=6)[0]
    for card in cards:
        assert card.count(">score ") == 3
        assert all(f"score {hypothesis.score:.4f}" in card for hypothesis in expected)
        assert "The source was cut" in card
        assert "Where they part" in card
        assert {f"hypothesis {rank}" for rank in (1, 2, 3)} <= set(re.findall(r"hypothesis \d", card))
        likeliest = run.score([SOURCE], [expected[0].tokens])[0]
        if expected[0].tokens:
            assert f"probability {math.exp(float(likeliest[0])):.4f}" in card
    assert "<i>c" not in page.partition("<main")[2]


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_the_page_shows_errors(address: str, tmp_path: Path) -> None:
    page = browse(f"--user-data-dir={tmp_path}", "--dump-dom", f"{address}/#source=a&beams=0&run=second").stdout
    assert page.count('class="error"') == 1
    assert "search.beams: 0 is not at least 1" in page


def test_runs_have_short_names_where_these_differ() -> None:
    assert names(["runs/a", "runs/b"]) == ["a", "b"]
    assert names(["one/a", "other/a"]) == ["one/a", "other/a"]
    with pytest.raises(s2s.UserError, match="'runs/a' is named twice"):
        names(["runs/a", "runs/a"])
    assert Settings(run="a,b").folders() == Settings(run=["a", "b"]).folders() == ["a", "b"]
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "example.org")] == [
        True,
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["port=1"], "run: missing; run=FOLDER names the run"),
        (["run=/nowhere"], "no run there"),
        (["run=a", "port=99999"], "port: 99999 is not in [0, 65535]"),
        (["run=a", "hots=x"], "unknown key 'hots'; did you mean 'host'?"),
        (["run=a", "waiting=0"], "waiting: 0 is not at least 1"),
    ],
)
def test_mistakes_of_the_command_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_the_command_serves_until_it_is_ended(run: s2s.Run) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "s2s.serve", f"run={run.folder}", f"port={port}"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, encoding="utf-8")
    try:
        assert server.stderr is not None
        for line in server.stderr:
            if "running on" in line:
                break
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as client:
            assert client.get("/health").json()["runs"] == ["toy"]
            assert client.post("/generate", json={"source": "a b"}).status_code == 200
    finally:
        server.terminate()
        server.communicate(timeout=120)
