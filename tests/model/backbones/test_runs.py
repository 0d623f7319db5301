"""Runs of models of ``transformers``: trained, resumed, decoded, served, diagnosed and rehearsed as any other run."""

import json
import math
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import foreign_worker
import httpx
import pytest
import torch
import uvicorn
from foreign_models import keys
from mitigations_worker import EXTRA, TINY
from tiny_runs import assert_same_end, log, saved_by_two

import s2s
from s2s.commands.decode import main as decode
from s2s.decoding.ensemble import ensemble
from s2s.diagnose.__main__ import main as diagnose
from s2s.errors import UserError
from s2s.mitigations import MITIGATIONS
from s2s.model.backbones import untrained
from s2s.model.backbones.configuration import ForeignArchitecture
from s2s.runs.metadata import read_metadata
from s2s.search.methods import SEARCHES
from s2s.search.methods.beam import SearchSettings
from s2s.serve.application import application
from s2s.serve.costs import check_cost
from s2s.serve.worker import Worker
from s2s.train import main as train

pytestmark = pytest.mark.slow
FAMILIES = ["t5", "llama"]
"""One of each kind; what differs within a kind is the matter of the other files."""
METHODS = "mitigations=[{name: random_replacement, rate: 0.3}, {name: r_drop, scope: target}]"
HEADS = "heads={words: {name: zlpr, labels: target_words}}"
RUN = [METHODS, HEADS, "run.ema=0.9", "run.accumulate=2", "run.checkpointing=block", "run.tokens=512", "run.steps=4"]
SAVED = ["run.save_every=2", "run.keep=4", "run.evaluate_every=4", "run.evaluate_examples=2", "schedule.warmup=2"]
TEXTS = ["a b c d", "e", "f g h a b c d e"]


def arguments(family: str, folder: Path, *overrides: str) -> list[str]:
    return [*keys(family, dropout=0.1), *RUN, *SAVED, f"run.folder={folder}", *overrides]


@pytest.fixture(scope="module", params=FAMILIES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> s2s.Run:
    folder = tmp_path_factory.mktemp(request.param) / "run"
    return s2s.fit(s2s.Recipe.load("toy_copy", arguments(request.param, folder)))


def family_of(run: s2s.Run) -> str:
    return str(run.recipe.model.config["model_type"])


def test_a_resumed_run_is_the_same_run_to_the_bit(run: s2s.Run, tmp_path: Path) -> None:
    folder = tmp_path / "resumed"
    shutil.copytree(run.folder, folder)
    shutil.rmtree(folder / "checkpoints" / "step-00000004")
    s2s.fit(s2s.Recipe.load("toy_copy", arguments(family_of(run), folder)))
    assert_same_end(folder, run.folder, 4)
    losses = [record["loss"] for record in log(folder) if "loss" in record]
    assert len(losses) == 4
    assert all(map(math.isfinite, losses))


def test_a_folder_needs_no_network_and_says_what_the_model_is(run: s2s.Run, tmp_path: Path) -> None:
    shape = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))["architecture"]
    assert (shape["backbone"], shape["config"]["model_type"]) == (vars(run.model.shape)["backbone"], family_of(run))
    assert read_metadata(run.folder).architecture == run.model.shape
    run.save_pretrained(tmp_path / "small")
    again = s2s.load(tmp_path / "small")
    for ours, theirs in zip(again.score(TEXTS, TEXTS), run.score(TEXTS, TEXTS), strict=True):
        assert torch.equal(ours, theirs)
    shape["config"]["auto_map"] = {"AutoConfig": "theirs.Config"}
    with pytest.raises(UserError, match="auto_map', code of the checkpoint's own, which is not run"):
        untrained(ForeignArchitecture(**shape))


@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_finds_the_same_in_any_batch(run: s2s.Run, name: str) -> None:
    search = {"name": name, "max_length": 5, "batch": 1}
    alone = run.generate(TEXTS, **search)
    together = run.generate(TEXTS, **search | {"batch": 8})
    assert all(alone)
    for ours, theirs in zip(alone, together, strict=True):
        assert [row.tokens for row in ours] == [row.tokens for row in theirs]
        assert [row.score for row in ours] == pytest.approx([row.score for row in theirs], abs=1e-4)


def test_scores_are_those_of_the_search(run: s2s.Run) -> None:
    rows = run.generate(TEXTS, beams=3, n_best=3, max_length=6)
    for text, hypotheses in zip(TEXTS, rows, strict=True):
        scores = run.score([text] * 3, [hypothesis.tokens for hypothesis in hypotheses])
        for hypothesis, score in zip(hypotheses, scores, strict=True):
            whole = score if len(hypothesis.tokens) < 6 else score[:-1]
            assert hypothesis.score == pytest.approx(float(whole.sum()), abs=1e-4)
    both = ensemble([run, run], weights=[1, 3])
    assert [row[0].tokens for row in both.generate(TEXTS)] == [row[0].tokens for row in run.generate(TEXTS)]
    half = run.generate(TEXTS, precision="bf16", max_length=4)
    assert all(len(row[0].tokens) <= 4 for row in half)


UNSERVED: dict[str, tuple[Any, str, str]] = {
    "coverage_penalty": (
        0.5,
        "coverage_penalty: 0.0",
        r"search\.coverage_penalty: it needs weights of attention, which models of transformers do not give here",
    ),
    "precision": ("int8", "precision: auto", r"search\.precision: int8 is for the prefix LM"),
}
"""Keys of a search that need the prefix LM: a value, the line of a recipe's default, and the reason."""


@pytest.mark.parametrize("key", UNSERVED)
def test_a_search_that_needs_the_prefix_lm_is_refused_before_anything_is_searched(
    run: s2s.Run, tmp_path: Path, key: str
) -> None:
    value, default, message = UNSERVED[key]
    with pytest.raises(UserError, match=message):
        s2s.fit(s2s.Recipe.load("toy_copy", arguments(family_of(run), tmp_path / "none", f"search.{key}={value}")))
    assert not (tmp_path / "none" / "run.json").exists()
    with pytest.raises(UserError, match=message):
        run.generate(["not read"], **{key: value})
    with pytest.raises(UserError, match=message):
        check_cost(run, SearchSettings(**{key: value}), 1 << 20)
    saved = shutil.copytree(run.folder, tmp_path / "saved")
    before, search, after = (saved / "recipe.yaml").read_text(encoding="utf-8").partition("search:")
    assert default in search + after
    changed = after.replace(default, f"{key}: {value}", 1)
    (saved / "recipe.yaml").write_text(before + search + changed, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        s2s.load(saved)


def test_heads_read_the_source(run: s2s.Run) -> None:
    predictions = run.predict(TEXTS)
    assert [len(row.tokens) for row in predictions] == list(map(len, run.vocabulary.encode_all(TEXTS)))


def test_the_commands_decode_rehearse_and_diagnose(
    run: s2s.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    command = [f"run={run.folder}", f"input={tmp_path / 'in.txt'}", f"output={tmp_path / 'out.txt'}", "search.beams=2"]
    assert decode(command) == 0
    lines = (tmp_path / "out.txt").read_text(encoding="utf-8").split("\n")[:-1]
    assert lines == [row[0].text for row in run.generate(TEXTS, beams=2)]
    asked = arguments(family_of(run), tmp_path / "none", "--dry-run")
    assert train(["recipe=toy_copy", *asked]) == 0
    assert not (tmp_path / "none").exists()
    shown = capsys.readouterr().out
    assert f"{vars(run.model.shape)['backbone']}: a {family_of(run)} of" in shown
    small = ["examples=6", "search_examples=3", "beams=[1,2]", "samples=2", "resamples=20", "prefixes=[2]"]
    assert diagnose([f"run={run.folder}", "data=recipe", f"output={tmp_path / 'report'}", *small]) == 0
    assert (tmp_path / "report" / "report.html").is_file()


@pytest.fixture
def client(run: s2s.Run) -> Iterator[httpx.Client]:
    app = application({"run": run}, Worker(most_waiting=4))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as client:
        yield client
    server.should_exit = True
    thread.join()


def test_a_server_answers(run: s2s.Run, client: httpx.Client) -> None:
    reply = client.post("/generate", json={"source": "a b c", "search": {"beams": 3, "max_length": 5}})
    assert reply.status_code == 200, reply.text
    expected = run.generate(["a b c"], beams=3, max_length=5)[0][0]
    assert reply.json()["hypotheses"][0]["tokens"] == expected.tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_trains(family: str, tmp_path: Path) -> None:
    for precision in ("fp32", "bf16"):
        folder = tmp_path / precision
        s2s.fit(s2s.Recipe.load("toy_copy", arguments(family, folder, f"run.precision={precision}", "run.steps=2")))
    losses = [[record["loss"] for record in log(tmp_path / name) if "loss" in record] for name in ("fp32", "bf16")]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.processes
def test_gradients_do_not_depend_on_processes_and_micro_batches(tmp_path: Path) -> None:
    s2s.fit(s2s.Recipe.load("toy_copy", [*TINY, "run.steps=2", f"run.folder={tmp_path / 'reference'}"]))
    found = saved_by_two("foreign_worker.py", tmp_path)
    whole = foreign_worker.of_update(tmp_path, None)
    assert {name for model, name in whole if model == "t5"} == {*MITIGATIONS, *EXTRA} - {"fgm_article"}
    for process in found:
        assert process.keys() == whole.keys()
        for row, grads in whole.items():
            largest = max(float(grad.norm()) for grad in grads.values())
            assert largest > 0
            for name, grad in process[row].items():
                assert float((grad - grads[name]).norm()) <= 1e-9 * largest, (row, name)
            # DDP leaves out parameters that no loss reaches.
            assert all(not grads[name].any() for name in grads.keys() - process[row].keys())
