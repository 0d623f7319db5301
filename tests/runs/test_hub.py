"""Runs as small folders and on a hub: written, uploaded, downloaded and read back."""

from pathlib import Path

import pytest
import torch
from hub_server import serving
from huggingface_hub import constants

import s2s
from s2s.commands import export
from s2s.errors import UserError

FILES = {"recipe.yaml", "run.json", "weights.safetensors", "README.md", "vocabulary"}
TEXTS = ["a b c", "j i h g", ""]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> s2s.Run:
    folder = tmp_path_factory.mktemp("run") / "toy_copy"
    return s2s.fit(s2s.Recipe.load("toy_copy", [f"run.folder={folder}", "run.steps=2", "run.evaluate_examples=1"]))


@pytest.fixture
def saved(run: s2s.Run, tmp_path: Path) -> Path:
    run.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def assert_same(first: s2s.Run, second: s2s.Run) -> None:
    assert (first.step, first.paths, first.recipe) == (second.step, second.paths, second.recipe)
    states = first.objective.state_dict(), second.objective.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert first.generate(TEXTS, beams=2, n_best=2) == second.generate(TEXTS, beams=2, n_best=2)


def test_a_saved_run_is_the_run_without_what_only_training_needs(run: s2s.Run, saved: Path) -> None:
    assert {path.name for path in saved.iterdir()} == FILES
    assert_same(s2s.load(saved), run)
    weights = sum(tensor.numel() * 4 for tensor in run.objective.state_dict().values())
    assert sum(path.stat().st_size for path in saved.rglob("*") if path.is_file()) < weights + 200_000
    assert 's2s.load("saved")' in (saved / "README.md").read_text(encoding="utf-8")


def test_a_saved_run_can_be_saved_again(saved: Path, tmp_path: Path) -> None:
    s2s.load(saved).save_pretrained(tmp_path / "again")
    assert_same(s2s.load(tmp_path / "again"), s2s.load(saved))


def test_a_saved_run_has_one_set_of_weights(saved: Path) -> None:
    with pytest.raises(UserError, match="no last checkpoint; leave it out"):
        s2s.load(saved, "last")
    content = (saved / "weights.safetensors").read_bytes()
    (saved / "weights.safetensors").write_bytes(content[:-9])
    with pytest.raises(UserError, match=r"weights\.safetensors: damaged \(.*\)$"):
        s2s.load(saved)


def test_nothing_that_is_there_is_overwritten(run: s2s.Run, saved: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in saved.rglob("*")}
    with pytest.raises(UserError, match="exists already"):
        run.save_pretrained(saved)
    assert {path: path.stat().st_mtime_ns for path in saved.rglob("*")} == before
    with pytest.raises(UserError, match=r"README\.md/below: cannot be written \(.*README\.md is not a folder"):
        run.save_pretrained(saved / "README.md" / "below")


@pytest.mark.slow
def test_a_run_goes_to_the_hub_and_comes_back(
    run: s2s.Run, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "none")
    with serving() as hub:
        address = f"http://127.0.0.1:{hub.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        )
        assert run.push_to_hub("someone/titles", private=True).endswith("someone/titles")
        files = hub.repositories["someone/titles"]
        assert {path.partition("/")[0] for path in files} == FILES
        assert hub.private["someone/titles"]
        assert 's2s.load("someone/titles")' in files["README.md"].decode()
        assert_same(s2s.load("someone/titles"), run)
        assert "weights.safetensors" in {path.name for path in cache.rglob("*")}
        with pytest.raises(UserError, match=r"^run 'someone/others': no folder of that name, and from the hub: .*$"):
            s2s.load("someone/others")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_same(s2s.load("someone/titles"), run)  # from the cache alone
    with pytest.raises(UserError, match=r"^hub: 'someone/titles' was not uploaded: .*$"):
        run.push_to_hub("someone/titles")


@pytest.mark.usefixtures("cache")
def test_names_that_are_nowhere_are_one_line(run: s2s.Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^run 'someone/titles': no folder of that name, and from the hub: .*$"):
        s2s.load("someone/titles")
    (tmp_path / "runs").mkdir()
    for name in ("runs/titles", "titles", tmp_path / "titles"):  # a folder's path, or no name of a repository
        with pytest.raises(UserError, match="no run there"):
            s2s.load(name)
    with pytest.raises(UserError, match="'titles' is no name of a repository"):
        run.push_to_hub("titles")


def test_the_command_writes_either_form_or_says_why_not(
    run: s2s.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = tmp_path / "small"
    assert export.main([f"run={run.folder}", f"output={small}", "form=s2s", "checkpoint=last"]) == 0
    assert capsys.readouterr().out == f"{small}: step 2 of {run.folder}, form s2s\n"
    assert_same(s2s.load(small), run)
    assert export.main([f"run={run.folder}", f"output={tmp_path / 'bert'}"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: export: BERT normalises after")
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "bert").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["output=x"], "run=FOLDER is missing"),
        (["run=x"], "output=FOLDER is missing"),
        (["run=x", "output=y", "form=onnx"], "form: no 'onnx'; valid: s2s, transformers"),
        (["run=x", "output=y", "outptu=z"], "unknown key 'outptu'; did you mean 'output'?"),
        (["run=/nowhere", "output=y"], "no run there"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
