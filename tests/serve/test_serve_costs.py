"""What a request may cost: checked on merged and typed settings, by number and by arithmetic on memory."""

import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from served import Serving, serving
from starlette.testclient import TestClient

import s2s
from s2s.errors import UserError
from s2s.search.methods import SEARCHES
from s2s.search.methods.beam import DiverseSettings, SearchSettings
from s2s.serve.application import application
from s2s.serve.costs import MIB, bytes_of, check_cost
from s2s.serve.worker import Worker


@pytest.fixture(scope="module")
def run(roomy_folder: Path) -> s2s.Run:
    return s2s.load(roomy_folder)


@pytest.fixture(scope="module")
def client(run: s2s.Run) -> Iterator[TestClient]:
    with TestClient(application({"toy": run}, Worker(8)), base_url="http://localhost") as found:
        yield found


TOO_MUCH: list[dict[str, Any]] = [
    {"name": "sample", "samples": "200"},
    {"name": "sample", "samples": "100000"},
    {"name": "sample", "samples": 100_000},
    {"name": "sample", "samples": "1e5"},
    {"name": "sample", "samples": "1e300"},
    {"name": "sample", "samples": 10**100},
    {"name": "sample", "samples": 65.0},
    {"name": "sample", "samples": " 65 "},
    {"name": "sample", "samples": "+65"},
    {"name": "sample", "samples": "0065"},
    {"name": "mbr", "samples": "65"},
    {"name": "mbr_beam", "beams": "65"},
    {"name": "shrinking", "beams": "65"},
    {"beams": "65"},
    {"beams": "1000", "n_best": "1000"},
    {"name": "diverse", "groups": "65"},
    {"name": "diverse", "groups": 9, "beams": 8},
    {"name": "diverse", "groups": "2", "beams": "33"},
    {"name": "diverse", "groups": 10**9, "beams": 10**9},
]


@pytest.mark.parametrize("search", TOO_MUCH, ids=json.dumps)
def test_too_many_hypotheses_are_refused_however_they_are_written(client: TestClient, search: dict[str, Any]) -> None:
    reply = client.post("/generate", json={"source": "a", "search": search})
    assert (reply.status_code, list(reply.json())) == (422, ["error"])
    # A key's own range may be narrower than the digits, and wider than what a request may ask for.
    assert re.search(r" is more than \d+$| digits$", reply.json()["error"])


@pytest.mark.parametrize("search", [{"beams": 64, "n_best": 64}, {"name": "diverse", "groups": 8, "beams": "8"}])
def test_as_many_as_may_be_are_answered(client: TestClient, search: dict[str, Any]) -> None:
    reply = client.post("/generate", json={"source": "a", "search": {**search, "max_length": 2}})
    assert reply.status_code == 200


def test_a_run_s_own_settings_are_checked_like_a_request_s(run: s2s.Run, caplog: pytest.LogCaptureFixture) -> None:
    greedy = replace(run, recipe=replace(run.recipe, search=SEARCHES["sample"](samples=1000)))  # type: ignore[call-arg]
    with TestClient(application({"toy": greedy}, Worker(8)), base_url="http://localhost") as client:
        assert "search.samples: 1000 is more than 64" in caplog.text
        for search in ({}, {"temperature": 0.5}):
            reply = client.post("/generate", json={"source": "a", "search": search})
            assert (reply.status_code, "1000 is more than 64" in reply.json()["error"]) == (422, True)
        assert client.post("/generate", json={"source": "a", "search": {"samples": 2}}).status_code == 200


def test_lengths_and_texts_are_refused_by_what_they_cost(run: s2s.Run, client: TestClient) -> None:
    cases = [
        ({"beams": 64, "max_length": 2984}, "MiB, more than memory=1024"),
        ({"name": "sample", "samples": 64, "max_length": "2984"}, "MiB, more than memory=1024"),
        ({"required": ["abcdefg" * 3 + str(number) for number in range(10)]}, "too many to follow"),
        ({"forbidden": ["ab " * 6000]}, "1 texts of 18001 bytes together are too many to follow"),
        ({"forbidden": ["a" * 30] * 65}, "65 are more than 64"),
        ({"forbidden": ["a" * 40] * 64}, "64 texts of 2624 bytes together are too many to follow"),
        ({"max_length": 3000}, "search.max_length: 3000 tokens"),
        ({"prefix": "a " * 3000}, "search.prefix: it has"),
    ]
    for search, message in cases:
        reply = client.post("/generate", json={"source": "a", "search": search})
        assert reply.status_code == 422, search
        assert message in reply.json()["error"]
        if "prefix" not in search:
            assert client.post("/stream", json={"source": "a", "search": {"beams": 1, **search}}).status_code == 422
    check_cost(run, SearchSettings(beams=64, max_length=2984), memory=100_000)


def test_memory_grows_with_everything_that_takes_some(run: s2s.Run) -> None:
    plain = bytes_of(run, SearchSettings(beams=4, max_length=100))
    more = [
        SearchSettings(beams=8, max_length=100),
        SearchSettings(beams=4, max_length=200),
        SearchSettings(beams=4, max_length=100, no_repeat_ngram=2),
        SearchSettings(beams=4, max_length=100, coverage_penalty=1.0),
        SearchSettings(beams=4, max_length=100, forbidden=["abc"]),
        SearchSettings(beams=4, max_length=100, precision="bf16"),
        DiverseSettings(groups=2, beams=4, max_length=100),
        SEARCHES["mbr"](samples=4, max_length=100, aggregate=True),  # type: ignore[call-arg]
    ]
    for settings in more:
        assert bytes_of(run, settings) > plain, settings


def grown(server: Serving, search: dict[str, Any]) -> tuple[int, int]:
    """The status of a request, and by how many MiB the server was larger than before at its largest."""
    process, done = psutil.Process(server.process.pid), threading.Event()
    before = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.002)

    watching = threading.Thread(target=watch)
    watching.start()
    with server.client() as client:
        status = client.post("/generate", json={"source": "a b c", "search": search}).status_code
    done.set()
    watching.join()
    return status, (peak - before) // MIB


@pytest.mark.slow
def test_the_server_takes_no_more_than_the_arithmetic_says(run: s2s.Run) -> None:
    """The greatest lengths that a small limit allows: what is taken stays within it."""
    limit = 110
    with serving(f"run={run.folder}", f"memory={limit}") as server:
        assert grown(server, {"max_length": 2})[0] == 200
        for search in (
            {"beams": 64, "n_best": 64},
            {"name": "sample", "samples": 64},
            {"name": "sample", "samples": 64, "top_p": 0.9, "repetition_penalty": 1.1},
            {"name": "diverse", "groups": 8, "beams": 8},
            {"name": "mbr", "samples": 64, "aggregate": True},
            {"beams": 32, "coverage_penalty": 0.5},
        ):
            length = longest(run, search, limit)
            settings = {**search, "max_length": length, "min_length": length}
            status, mib = grown(server, settings)
            assert status == 200, settings
            assert mib <= limit, settings
            assert grown(server, {**settings, "max_length": length + 1})[0] == 422


def longest(run: s2s.Run, search: dict[str, Any], limit: int) -> int:
    """The greatest length that costs no more than the limit, but no more than a test has time for."""
    keys = {key: value for key, value in search.items() if key != "name"}
    kind = SEARCHES[search.get("name", "beam")]
    for length in range(2984, 0, -1):
        try:
            check_cost(run, kind(max_length=length, **keys), limit)
        except UserError:
            continue
        return length
    raise AssertionError(f"nothing costs less than {limit} MiB")
