"""A request's search keys: each value is what its key holds, and names neither code nor files."""

import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import s2s
from s2s.config.outside_names import foreign, outside
from s2s.errors import UserError
from s2s.search.methods import SEARCHES
from s2s.search.methods.beam import SearchSettings
from s2s.serve.application import application
from s2s.serve.questions import settings_of
from s2s.serve.worker import Worker

NODE = shutil.which("node")
PAGE = Path(s2s.__file__).parent / "serve" / "page.html"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> s2s.Run:
    overrides = ["run.steps=2", "run.evaluate_examples=1", "run.tokens=256"]
    folder = tmp_path_factory.mktemp("run") / "toy"
    return s2s.fit(s2s.Recipe.load("toy_copy", [*overrides, f"run.folder={folder}"]))


@pytest.fixture(scope="module")
def client(run: s2s.Run) -> Iterator[TestClient]:
    with TestClient(application({"toy": run}, Worker(8)), base_url="http://localhost") as found:
        yield found


def ask(client: TestClient, search: object, path: str = "/generate") -> Any:
    headers = {"Content-Type": "application/json"}
    return client.post(path, content=json.dumps({"source": "a b", "search": search}), headers=headers)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"beams": "3"}, {"beams": 3}),
        ({"beams": " 03 "}, {"beams": 3}),
        ({"beams": "1e1"}, {"beams": 10}),
        ({"beams": "2.0"}, {"beams": 2}),
        ({"max_length": "null"}, {"max_length": None}),
        ({"max_length": None}, {"max_length": None}),
        ({"length_penalty": "1e0"}, {"length_penalty": 1.0}),
        ({"length_penalty": "1.0"}, {"length_penalty": 1.0}),
        ({"length_penalty": 1}, {"length_penalty": 1.0}),
        ({"token_scores": "true"}, {"token_scores": True}),
        ({"prefix": "1.0"}, {"prefix": "1.0"}),
        ({"prefix": "1e3"}, {"prefix": "1e3"}),
        ({"prefix": "true"}, {"prefix": "true"}),
        ({"prefix": "null"}, {"prefix": "null"}),
        ({"prefix": "${oc.env:HOME}"}, {"prefix": "${oc.env:HOME}"}),
        ({"prefix": "a: [b"}, {"prefix": "a: [b"}),
        ({"required": ["1.0", "[Title: x]"]}, {"required": ["1.0", "[Title: x]"]}),
        ({"forbidden": []}, {"forbidden": []}),
        ({"name": "sample", "samples": "2", "top_p": ".5"}, {"samples": 2, "top_p": 0.5}),
    ],
)
def test_a_value_is_what_its_key_holds(keys: dict[str, Any], expected: dict[str, Any]) -> None:
    found = settings_of(SearchSettings(max_length=9), keys)
    values = {key: getattr(found, key) for key in expected}
    assert values == expected
    assert [type(value) for value in values.values()] == [type(value) for value in expected.values()]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"beams": 2.5}, "search.beams: 2.5 is not a whole number"),
        ({"beams": "2.5"}, "search.beams: 2.5 is not a whole number"),
        ({"beams": "٣"}, "search.beams: '٣' is not a whole number"),
        ({"beams": True}, "search.beams: True is not a whole number"),
        ({"beams": None}, "search.beams: null is not a whole number"),
        ({"beams": "0x10"}, "is not a whole number; numbers are decimal, write 16"),
        ({"beams": "1e30"}, "more than 15 digits"),
        ({"beams": 10**30}, "more than 15 digits"),
        ({"beams": "1" * 5000}, "is not a whole number"),
        ({"length_penalty": "nan"}, "search.length_penalty: 'nan' is no"),
        ({"length_penalty": "1e999"}, "search.length_penalty: inf is not"),
        ({"length_penalty": 10**400}, "search.length_penalty: the number is too large"),
        ({"length_penalty": math.inf}, "search.length_penalty is not a finite number"),
        ({"length_penalty": False}, "search.length_penalty: False is not a number"),
        ({"token_scores": 1}, "search.token_scores: 1 is neither true nor false"),
        ({"token_scores": "yes"}, "is neither true nor false"),
        ({"prefix": 1.0}, "search.prefix: 1.0 is not a text"),
        ({"prefix": "a\ud800"}, "half of a surrogate pair U+D800 at character 2"),
        ({"prefix": "a\0"}, "control character U+0000 at character 2"),
        ({"required": "a"}, "search.required: 'a' is not a list"),
        ({"required": [1]}, "search.required[0]: 1 is not a text"),
        ({"forbidden": ["a", "\x1b"]}, "search.forbidden: control character U+001B"),
        ({"forbidden": ["a"] * 65}, "search.forbidden: 65 are more than 64"),
        ({"forbidden": [["a"]]}, "search.forbidden[0]"),
        ({"stop": {"a": 1}}, "search.stop: {'a': 1} is not a text"),
        ({"name": ["beam"]}, "search.name: no ['beam']"),
        ({"samples": 2}, "unknown key 'search.samples' of 'beam'; it is one of sample, mbr"),
        ({"__class__": "x"}, "unknown key 'search.__class__'"),
        ({"width": 2}, "unknown key 'search.width'"),
    ],
)
def test_what_a_key_cannot_hold_is_refused_in_a_line(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        settings_of(SearchSettings(), keys)


def outside_keys() -> list[tuple[str, str]]:
    """Every key of every row that may name code or a file, as the rows themselves declare it."""
    found = [(row, item.name) for row, kind in SEARCHES.items() for item in fields(kind) if "outside" in item.metadata]
    assert {key for _, key in found} >= {"allowed", "utility"}
    return found


@pytest.mark.parametrize(("row", "key"), outside_keys())
@pytest.mark.parametrize(
    "value", ["secrets.txt", "/etc/passwd", "os:getcwd", "cProfile:run", "builtins:eval", "a/b", "..", "passwd", "C:x"]
)
def test_a_request_names_neither_code_nor_files(client: TestClient, row: str, key: str, value: str) -> None:
    reply = ask(client, {"name": row, key: value})
    assert (reply.status_code, list(reply.json())) == (422, ["error"])
    assert f"search.{key}" in reply.json()["error"]


def test_a_file_is_not_read_and_its_lines_are_not_answered(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secrets").write_text("a b\nc d\n", encoding="utf-8")
    for path in ("/generate", "/stream"):
        reply = ask(client, {"allowed": "secrets"}, path)
        assert reply.status_code == 422
        assert "a request names neither" in reply.json()["error"]


@dataclass
class Later(SearchSettings):
    """A way of searching of another day, with a key that names a file, and one that names an address."""

    words: str | None = field(default=None, metadata=outside("FILE"))
    place: str = field(default="here")


def test_a_key_of_another_day_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SEARCHES, "later", Later)
    with pytest.raises(UserError, match=r"search\.words: 'secrets' names code or a file"):
        settings_of(SearchSettings(), {"name": "later", "words": "secrets"})
    with pytest.raises(UserError, match=r"search\.place: '/etc' is no plain word"):
        settings_of(SearchSettings(), {"name": "later", "place": "/etc"})


@pytest.mark.parametrize("mark", [foreign, lambda settings: settings], ids=["foreign", "own"])
@pytest.mark.parametrize(
    "named",
    [SearchSettings(allowed="secrets"), SEARCHES["mbr"](samples=2, utility="cProfile:run")],  # type: ignore[call-arg]
    ids=["allowed", "utility"],
)
def test_what_a_run_s_own_recipe_names_is_not_followed(
    run: s2s.Run, named: Any, mark: Any, caplog: pytest.LogCaptureFixture
) -> None:
    key = next(iter(named.names_outside()))
    theirs = replace(run, recipe=replace(run.recipe, search=mark(named)))
    worker = Worker(8)
    with TestClient(application({"toy": theirs}, worker), base_url="http://localhost") as client:
        assert "answers only requests that ask for other settings" in caplog.text
        for path in ("/generate", "/stream"):
            if path == "/stream" and key == "utility":
                continue  # a stream is plain beam search, which has no utility
            reply = ask(client, {}, path)
            assert reply.status_code == 422
            assert f"search.{key}: the run's own settings name" in reply.json()["error"]
        assert ask(client, {key: None if key == "allowed" else "chrf"}).status_code == 200


def test_lists_of_texts_come_and_go(client: TestClient, run: s2s.Run) -> None:
    search = {"required": ["a"], "forbidden": ["b", "c d"], "beams": 4, "max_length": 6}
    reply = ask(client, search)
    assert reply.status_code == 200
    text = reply.json()["hypotheses"][0]["text"]
    assert text == run.generate(["a b"], **search)[0][0].text
    assert "a" in text
    assert "b" not in text
    assert {key: reply.json()["settings"][key] for key in search} == search


def test_one_key_twice_is_refused(client: TestClient) -> None:
    headers = {"Content-Type": "application/json"}
    for content in (b'{"source": "a", "source": "b"}', b'{"source": "a", "search": {"beams": 1, "beams": 100000}}'):
        reply = client.post("/generate", content=content, headers=headers)
        assert reply.status_code == 422
        assert "comes twice" in reply.json()["error"]


def test_a_long_or_odd_name_makes_one_short_line(client: TestClient) -> None:
    for search in (
        {"x" * 100_000: 1},
        {"a\nb\x1b[31m": 1},
        {"\ud800": 1},
        {"beams": "\n" * 1000},
        {"name": "y" * 90_000},
    ):
        reply = ask(client, search)
        assert reply.status_code == 422
        error = reply.json()["error"]
        assert error.isprintable()
        assert len(error) < 1100


@pytest.mark.slow
@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_the_page_sends_what_was_typed() -> None:
    """The page's own functions, with the few things of a document that they use."""
    script = re.search(r"<script>(.*)start\(\);\s*</script>", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert script is not None
    typed = {"prefix": "1.0", "length_penalty": "1e0", "beams": "2", "token_scores": "true", "max_length": "9"}
    lists = {"required": "a\n\n b c \n1e3", "forbidden": " \n"}
    inputs = [{"name": key, "value": value, "tagName": "INPUT"} for key, value in typed.items()]
    inputs += [{"name": key, "value": value, "tagName": "TEXTAREA"} for key, value in lists.items()]
    program = (
        f"const document = {{ querySelectorAll: () => {json.dumps(inputs)} }};\n{script[1]}\n"
        "console.log(JSON.stringify(settings()));"
    )
    assert NODE is not None
    done = subprocess.run([NODE, "-e", program], capture_output=True, text=True, encoding="utf-8", timeout=60)
    assert done.returncode == 0, done.stderr
    sent = json.loads(done.stdout)
    assert sent == typed | {"required": ["a", "b c", "1e3"]}
    found = settings_of(SearchSettings(), sent)
    assert (found.prefix, found.length_penalty, found.beams, found.token_scores) == ("1.0", 1.0, 2, True)  # type: ignore[attr-defined]
    assert found.required == ["a", "b c", "1e3"]


def test_the_page_asks_for_lists_where_the_server_has_them(client: TestClient) -> None:
    """The page tells a list by its type's first words."""
    (described,) = client.get("/runs").json()
    for row, kind in SEARCHES.items():
        types = {key["name"]: key["type"] for key in described["methods"][row]}
        listed = {item.name for item in fields(kind) if str(item.type).startswith("list")}
        assert {name for name, text in types.items() if text.startswith("list of")} == listed


@pytest.mark.parametrize("path", ["/generate", "/stream"])
def test_an_empty_name_of_a_file_is_refused(client: TestClient, path: str) -> None:
    for empty in ("", "  "):
        reply = ask(client, {"allowed": empty}, path)
        assert reply.status_code == 422
        assert reply.json()["error"].startswith("search.allowed: an empty name")
    reply = ask(client, {"name": "mbr", "utility": ""})
    assert reply.status_code == 422
    assert reply.json()["error"].startswith("search.utility: an empty name")


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ("search.allowed=''", "search.allowed"),
        ("search={name: mbr_beam, utility: ''}", "search.utility"),
        ("mitigations=[{name: mrt, path: ''}]", "path"),
        ("mitigations=[{name: mrt, metric: ''}]", "metric"),
        ("mitigations=[{name: gold, reference: ' '}]", "reference"),
        ("data.train_files=['']", "data.train_files"),
        ("data.dataset.name=''", "data.dataset.name"),
        ("model.pretrained=' '", "model.pretrained"),
        ("vocabulary.name=''", "vocabulary.name"),
        ("run.folder=''", "run.folder"),
    ],
)
def test_an_empty_name_is_refused_where_settings_are_made(given: str, key: str) -> None:
    with pytest.raises(UserError, match=rf"{key}: an empty name") as caught:
        s2s.Recipe.load("toy_copy", [given])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["/generate", "/stream"])
def test_a_least_length_beyond_the_greatest_is_refused(run: s2s.Run, client: TestClient, path: str) -> None:
    own = run.max_length(run.recipe.search)
    for keys in ({"min_length": own + 1}, {"min_length": 17, "max_length": 16}):
        reply = ask(client, keys, path)
        assert (reply.status_code, "search.min_length: " in reply.json()["error"]) == (422, True)
        with pytest.raises(UserError, match=r"search\.min_length: "):
            run.generate(["a b"], **keys)
    assert ask(client, {"min_length": 2, "max_length": 2}, path).status_code == 200
    with pytest.raises(UserError, match=r"search\.min_length: "):
        run.stream("a b", beams=1, min_length=own + 1)
