"""Run folders: those of earlier code, copies on other disks, and damage, which is one line that names the file."""

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import s2s
from s2s import train
from s2s.errors import UserError
from s2s.files import pointers
from s2s.files.folders import MANIFEST, entry
from s2s.optim.adafactor.optimizer import Adafactor
from s2s.optim.saved_state import check_saved
from s2s.recipe.recipe import Recipe
from s2s.runs import checkpoints
from s2s.runs.checkpoints import WEIGHTS
from s2s.runs.metadata import read_metadata
from s2s.runs.run_folder import read_vocabulary

OLD = Path(__file__).with_name("old_run.tar.xz")  # of the code that had links: steps 3 and 6, and their average
KEYS = (
    *("run.evaluate_every=3", "run.save_every=3", "run.evaluate_examples=5", "run.tokens=256", "model.layers=1"),
    *("model.width=8", "model.heads=2", "data.size=201", "run.select=loss", "run.average=2", "run.precision=fp32"),
)
LOSSES = {7: 6.577775478363037, 8: 6.55503511428833}  # of that code, had it gone on
NAMES = ("best", "last", "average")


def linked(folder: Path) -> None:
    """The run as it was."""


def dereferenced(folder: Path) -> None:
    """``cp -rL``, ``zip -r``."""
    copy = shutil.copytree(folder, folder.with_name("copy"))
    shutil.rmtree(folder)
    copy.rename(folder)
    assert all((folder / "checkpoints" / name).is_dir() for name in NAMES)


def only_copies(folder: Path) -> None:
    """Somebody took the folders in the links' places, and not the links' own ones."""
    dereferenced(folder)
    for path in (folder / "checkpoints").glob("*-0*"):
        shutil.rmtree(path)


def without_links(folder: Path) -> None:
    """An upload to a hub leaves links out."""
    for name in NAMES:
        (folder / "checkpoints" / name).unlink()


def links_as_texts(folder: Path) -> None:
    """A git checkout without links."""
    for name in NAMES:
        link = folder / "checkpoints" / name
        target = link.readlink()
        link.unlink()
        link.write_text(str(target), encoding="utf-8")


def links_made_absolute(folder: Path) -> None:
    """Links into the place from which the run was moved."""
    for name in NAMES:
        link = folder / "checkpoints" / name
        target = link.readlink()
        link.unlink()
        link.symlink_to(Path("/elsewhere/checkpoints") / target)


COPIES = (linked, dereferenced, only_copies, without_links, links_as_texts, links_made_absolute)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with tarfile.open(OLD) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "old_run"


def made(folder: Path, steps: int = 8) -> s2s.Recipe:
    return s2s.Recipe.load("toy_copy", [*KEYS, f"run.folder={folder}", f"run.steps={steps}"])


def logged(folder: Path) -> dict[int, float]:
    lines = map(json.loads, (folder / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


@pytest.mark.parametrize("copied", COPIES)
def test_runs_of_earlier_code_load_decode_and_resume(old: Path, copied: Callable[[Path], None]) -> None:
    copied(old)
    runs = {name: s2s.load(old, name) for name in (None, *NAMES)}
    assert {name: run.step for name, run in runs.items()} == {None: 6, "best": 6, "last": 6, "average": 6}
    assert not torch.equal(runs["average"].model.embedding.tokens.weight, runs["last"].model.embedding.tokens.weight)
    (found,) = runs[None].generate(["a b c d"], beams=2)
    run = s2s.fit(made(old))
    assert run.step == 8
    assert logged(old) == pytest.approx(logged(old) | LOSSES, rel=1e-3)
    names = {name: (old / "checkpoints" / name).read_text(encoding="utf-8") for name in NAMES}
    assert names == {"best": "step-00000008\n", "last": "step-00000008\n", "average": "average-00000008\n"}
    folders = {path.name for path in (old / "checkpoints").iterdir() if path.is_dir()}
    assert folders == {"step-00000006", "step-00000008", "average-00000008"}
    assert found[0].text == s2s.load(old).generate(["a b c d"], beams=2)[0][0].text


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    s2s.fit(made(folder, 3))
    return folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "copy")


def at(folder: Path) -> Path:
    return folder / "checkpoints" / "step-00000003"


def lines_of_windows(folder: Path) -> None:
    """A git checkout with ``core.autocrlf``."""
    for path in folder.rglob("*"):
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            path.write_bytes(content.replace(b"\n", b"\r\n"))


def test_a_copy_with_other_line_ends_loads_and_resumes(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines_of_windows(copy)
    assert b"\r\n" in (copy / "run.json").read_bytes()
    assert s2s.load(copy, "best").step == 3
    assert s2s.fit(made(copy, 4)).step in (3, 4)
    assert capsys.readouterr().err == ""


def refused(folder: Path) -> str:
    """What loading says of a folder, in one line; training says as much, where it is not the recipe's own matter."""
    with pytest.raises(UserError) as error:
        s2s.load(folder)
    said = str(error.value)
    assert "\n" not in said
    assert "copy it again" in said or "remove" in said
    return said


DAMAGES = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
    "foreign": lambda content: b"x" + content[1:-1] + b"y",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "name", ["run.json", "vocabulary/kind", "vocabulary/sentencepiece.model", f"checkpoints/step-00000003/{WEIGHTS}"]
)
@pytest.mark.parametrize("is_old", [False, True])
def test_a_damaged_file_is_one_line(copy: Path, old: Path, name: str, damage: str, is_old: bool) -> None:
    folder = old if is_old else copy
    path = folder / (name.replace("00003", "00006") if is_old else name)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    if is_old and damage == "foreign" and name.endswith("model"):
        return  # runs of old have no list, and sentencepiece reads on
    assert path.name in refused(folder)
    if not path.name.startswith("weights"):
        with pytest.raises(UserError, match=path.name):
            s2s.fit(made(folder, 9))


@pytest.mark.parametrize("name", ["vocabulary/kind", "vocabulary/sentencepiece.model"])
def test_a_missing_file_is_one_line(copy: Path, name: str) -> None:
    (copy / name).unlink()
    assert f"{copy / name}: is missing" in refused(copy)


def test_an_edited_recipe_is_told_and_a_cut_one_refused(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = copy / "recipe.yaml"
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace("beams: 1", "beams: 2"), encoding="utf-8")
    assert s2s.load(copy).recipe.search.beams == 2  # type: ignore[attr-defined]
    assert "recipe.yaml" in caplog.text
    path.write_text(whole[: whole.index("beams") + 2], encoding="utf-8")  # within a line, wherever that is
    assert "recipe.yaml" in refused(copy)
    path.write_text("", encoding="utf-8")
    assert "recipe.yaml" in refused(copy)


def test_run_json_of_another_run_is_not_taken(copy: Path, tmp_path: Path) -> None:
    path = copy / "run.json"
    metadata = json.loads(path.read_text(encoding="utf-8"))
    others = {"heads": 4, "norm": "post", "activation": "relu"}  # no shape of a tensor tells them
    for key, value in others.items():
        path.write_text(
            json.dumps(metadata | {"architecture": metadata["architecture"] | {key: value}}), encoding="utf-8"
        )
        assert "run.json: of another run than" in refused(copy)
        with pytest.raises(UserError, match=r"run\.json: of another run than"):
            s2s.fit(made(copy, 9))
    for values in (
        {},
        [],
        metadata | {"architecture": {"width": "8"}},
        metadata | {"threads": None},
        metadata | {"new": 1},
    ):
        path.write_text(json.dumps(values), encoding="utf-8")
        assert "run.json: cut, empty or not the file of a run" in refused(copy)
    secret = tmp_path / "secret"
    secret.write_text("x", encoding="utf-8")
    for name in ("../secret", str(secret), "vocabulary/../../secret", "vocabulary\\..\\secret"):
        path.write_text(json.dumps(metadata | {"files": {name: entry(secret)}}), encoding="utf-8")
        assert "files lists" in refused(copy)


def seal(folder: Path) -> None:
    """Write the manifest again, as somebody would who has changed a checkpoint's files."""
    names = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)
    (folder / MANIFEST).write_text(json.dumps({name: entry(folder / name) for name in names}), encoding="utf-8")


FIRST = "model.embedding.tokens.weight"
TENSORS = {
    "missing": (lambda found: found.pop(FIRST), rf"the tensor '{FIRST}' is missing"),
    "extra": (lambda found: found.update(other=torch.ones(2)), "the tensor 'other' is none of this run's model"),
    "shape": (lambda found: found.update({FIRST: found[FIRST][1:].clone()}), rf"'{FIRST}' has the shape \[\d+, 8\]"),
    "type": (lambda found: found.update({FIRST: found[FIRST].half()}), rf"'{FIRST}' is of torch.float16"),
    "nan": (lambda found: found[FIRST].fill_(torch.nan), rf"'{FIRST}' has values that are no numbers"),
    "inf": (lambda found: found[FIRST][0, 0].fill_(torch.inf), rf"'{FIRST}' has values that are no numbers"),
}


@pytest.mark.parametrize("change", TENSORS)
@pytest.mark.parametrize("is_exported", [False, True])
def test_tensors_that_are_not_the_models_own_are_refused(copy: Path, change: str, is_exported: bool) -> None:
    folder = copy
    if is_exported:
        s2s.load(copy).save_pretrained(folder := copy.with_name("exported"))
        metadata = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        del metadata["files"][WEIGHTS]
        (folder / "run.json").write_text(json.dumps(metadata), encoding="utf-8")
    file = folder / WEIGHTS if is_exported else at(folder) / WEIGHTS
    found = load_file(file)
    edit, message = TENSORS[change]
    edit(found)
    save_file(found, file, metadata={"step": "3"})
    if not is_exported:
        seal(at(folder))
        with pytest.raises(UserError, match=message):
            s2s.fit(made(folder, 9))
    with pytest.raises(UserError, match=rf"{WEIGHTS}: {message}"):
        s2s.load(folder)


def test_an_exported_folder_lists_its_files(copy: Path) -> None:
    folder = copy.with_name("exported")
    s2s.load(copy).save_pretrained(folder)
    file = folder / WEIGHTS
    save_file({name: tensor + 1 for name, tensor in load_file(file).items()}, file, metadata={"step": "3"})
    assert f"{file}: has " in refused(folder)


@pytest.mark.parametrize("content", [b"", b"step-00000099\n", b"../../secret", b"\xff\x00", b"step-00000003/../x"])
def test_a_name_of_no_checkpoint_is_one_line_and_training_writes_it_again(copy: Path, content: bytes) -> None:
    for name in ("best", "last"):
        (copy / "checkpoints" / name).write_bytes(content)
    assert "checkpoints/best: names" in refused(copy).replace("\\", "/")
    s2s.fit(made(copy, 4))
    assert s2s.load(copy, "last").step == 4


def moments(trainer: dict[str, Any], name: str, value: Any) -> None:
    for state in trainer["optimizer"]["state"].values():
        state[name] = value


TRAINERS = {  # what no trainer writes
    "almost nothing": lambda found: found.pop("optimizer"),
    "step of another type": lambda found: found.update(step="3"),
    "step of another folder": lambda found: found.update(step=100),
    "no step": lambda found: found.update(step=None),
    "best a number": lambda found: found.update(best=5),
    "best too short": lambda found: found.update(best=(1,)),
    "best of texts": lambda found: found.update(best=("../../x", "y")),
    "best to come": lambda found: found.update(best=(999, 1.0)),
    "best NaN": lambda found: found.update(best=(3, float("nan"))),
    "waited": lambda found: found.update(waited="x"),
    "scaler": lambda found: found.update(scaler="x"),
    "optimizer": lambda found: found.update(optimizer=5),
    "NaN": lambda found: moments(found, "exp_avg", torch.tensor([float("nan")])),
    "infinity": lambda found: moments(found, "exp_avg_sq", torch.tensor([float("inf")])),
}
OTHERS = {  # what the trainer of another recipe may have written
    "no groups": lambda found: found["optimizer"].pop("param_groups"),
    "rate": lambda found: found["optimizer"]["param_groups"][0].update(lr="x"),
    "parameters": lambda found: found["optimizer"]["param_groups"][0].update(params=[0]),
    "shape": lambda found: moments(found, "exp_avg", torch.zeros(3)),
    "scalar": lambda found: moments(found, "exp_avg_sq", torch.zeros(())),
    "text": lambda found: moments(found, "exp_avg", "x"),
    "another moment": lambda found: moments(found, "other", torch.zeros(1)),
    "state": lambda found: found["optimizer"]["state"].update({0: 5}),
    "lacking": lambda found: found["optimizer"]["state"][0].pop("exp_avg"),
}


def alter(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / checkpoints.TRAINER
    trainer = torch.load(path, weights_only=True)
    change(trainer)
    torch.save(trainer, path)
    seal(folder)


@pytest.mark.parametrize("kind", TRAINERS)
def test_a_trainers_state_that_none_has_written_is_passed_over(copy: Path, kind: str) -> None:
    found, _ = checkpoints.newest(copy)
    assert found is not None
    checkpoints.save(copy, found._replace(step=4))
    alter(at(copy).with_name("step-00000004"), TRAINERS[kind])
    found, lines = checkpoints.newest(copy)
    assert found is not None
    assert found.step == 3
    (line,) = lines
    assert "damaged (trainer.pt cannot be read: " in line
    assert line.endswith("using the one before it")
    assert "\n" not in line


def test_a_trainers_state_that_is_a_list_is_passed_over(copy: Path) -> None:
    torch.save([1], at(copy) / checkpoints.TRAINER)
    seal(at(copy))
    found, (line,) = checkpoints.newest(copy)
    assert found is None
    assert "trainer.pt cannot be read: it has no step, optimizer and best); there is no whole one before it" in line


@pytest.mark.parametrize("kind", OTHERS)
def test_a_trainers_state_is_checked_before_it_is_used(copy: Path, kind: str) -> None:
    alter(at(copy), OTHERS[kind])
    with pytest.raises(UserError, match=r"trainer\.pt: .*damaged") as refusal:
        s2s.fit(made(copy, 4))
    assert "\n" not in str(refusal.value)


def test_a_best_checkpoint_that_is_gone_is_told_and_another_is_found(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, _ = checkpoints.newest(copy)
    assert found is not None
    checkpoints.save(copy, found._replace(step=4, best=checkpoints.Best(3, -1e9), waited=1))
    shutil.rmtree(at(copy))
    assert s2s.fit(made(copy, 6)).step == 6
    assert (
        "step-00000003: the best checkpoint is gone; the next evaluation counts as the best" in capsys.readouterr().out
    )
    assert s2s.load(copy, "best").step == 6


@pytest.mark.parametrize("options", [{}, {"beta1": 0.9}, {"min_dim_size_to_factor": 4, "largest_axes": True}])
def test_adafactors_own_state_is_taken_and_another_is_not(options: dict[str, Any]) -> None:
    module = torch.nn.ParameterList([torch.ones(3), torch.ones(5, 4), torch.ones(2, 6, 5), torch.ones(4, 2)])
    optimizer = Adafactor(module.parameters(), **options)
    sum(parameter.square().sum() for parameter in module).backward()
    optimizer.step()
    check_saved(optimizer, optimizer.state_dict())
    for number, state in optimizer.state_dict()["state"].items():
        for name in state:
            saved = optimizer.state_dict()
            saved["state"] = {number: state | {name: torch.zeros(7)}}
            with pytest.raises(ValueError, match=f"{name} of parameter {number}"):
                check_saved(optimizer, saved)


@pytest.mark.parametrize(
    "change",
    [
        {"report": [1, {}]},
        {"versions": {"torch": 1}},
        {"labels": {"t": 5}},
        {"labels": {"t": [1]}},
        {"files": {"vocabulary/\0": {"bytes": 1, "sha256": "5"}}},
        {"files": {"vocabulary/\ud800": {"bytes": 1, "sha256": "5"}}},
        {"files": {"vocabulary/kind": {"bytes": "x", "sha256": "5"}}},
        {"files": {"vocabulary/kind": {"bytes": True, "sha256": "5"}}},
        {"files": {"vocabulary/kind": {"bytes": 1, "sha256": 5}}},
        {"epsilon": float("nan")},
        {"epsilon": -1.0},
        None,
    ],
)
def test_metadata_of_other_types_are_one_line(copy: Path, change: dict[str, Any] | None) -> None:
    path = copy / "run.json"
    metadata = json.loads(path.read_text(encoding="utf-8"))
    if change is not None and "epsilon" in change:
        metadata["architecture"] |= change
    path.write_text("[" * 100_000 if change is None else json.dumps(metadata | change), encoding="utf-8")
    assert "run.json: cut, empty or not the file of a run" in refused(copy)


def test_a_head_without_labels_is_one_line(old: Path) -> None:
    values = yaml.safe_load((old / "recipe.yaml").read_text(encoding="utf-8"))
    values["heads"] = {"t": {"name": "softmax", "field": "x"}}
    (old / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(UserError, match=r"^heads\.t: .*take it out of the recipe"):
        s2s.load(old)


def test_empty_names_that_an_older_run_has_stored_are_none(copy: Path) -> None:
    values = yaml.safe_load((copy / "recipe.yaml").read_text(encoding="utf-8"))
    values["data"] |= {"path": "", "root": " ", "cache": "", "train_files": ["", " "], "dataset": {"name": ""}}
    values["model"]["pretrained"] = values["vocabulary"]["name"] = values["search"]["allowed"] = ""
    values["mitigations"] = [{"name": "mrt", "path": ""}]
    (copy / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    recipe = s2s.load(copy).recipe
    assert recipe == Recipe.load(str(copy / "recipe.yaml"))
    assert [recipe.data.path, recipe.data.root, recipe.data.cache, recipe.data.dataset.name] == [None] * 4
    assert recipe.data.train_files == []
    assert [recipe.model.pretrained, recipe.vocabulary.name, recipe.search.allowed] == [None] * 3
    assert recipe.mitigations[0].path is None
    with pytest.raises(UserError, match=r"data\.path: an empty name"):
        Recipe.load(str(copy / "recipe.yaml"), ["data.path=''"])


def test_pointing_takes_the_place_of_files_links_and_folders(tmp_path: Path) -> None:
    for step in (1, 2):
        (tmp_path / f"step-{step:08d}").mkdir()
    pointer = tmp_path / "best"
    assert pointers.named(pointer) is None
    pointer.mkdir()
    (pointer / "file").write_bytes(b"x")
    assert pointers.named(pointer) == pointer
    for step, before in ((1, None), (2, None), (1, "link")):
        if before is not None:
            pointer.unlink()
            pointer.symlink_to(tmp_path / "step-00000002")
        pointers.point(pointer, f"step-{step:08d}")
        assert pointers.named(pointer) == tmp_path / f"step-{step:08d}"
    assert {path.name for path in tmp_path.iterdir()} == {"best", "step-00000001", "step-00000002"}


def test_a_vocabulary_with_more_pieces_than_the_model_is_refused(old: Path) -> None:
    metadata = json.loads((old / "run.json").read_text(encoding="utf-8"))
    metadata["architecture"]["vocabulary"] = 100
    (old / "run.json").write_text(json.dumps(metadata), encoding="utf-8")
    with pytest.raises(UserError, match=r"vocabulary: 267 pieces, but run\.json has a model of 100"):
        read_vocabulary(old, read_metadata(old))


def test_the_command_says_it_in_one_line(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "run.json").write_bytes(b"")
    assert train.main(["recipe=toy_copy", *KEYS, f"run.folder={copy}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
