"""Folders from elsewhere: every command reads them, and nothing outside of them is imported, opened or fetched."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import TINY_CHECKPOINT, randomise
from exported import recipe, save_checkpoint
from safetensors.torch import load_file, save_file
from tiny_tokenizers import whole
from transformers import BertForMaskedLM

import s2s
from s2s import vocabulary as vocabularies
from s2s.errors import UserError
from s2s.files.folders import MANIFEST
from s2s.files.foreign import check_inside
from s2s.model import ModelSettings
from s2s.model.pretrained import read
from s2s.runs.checkpoints import load_model
from s2s.vocabulary import VocabularySettings, make

ROOT = Path(__file__).resolve().parents[2]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123456\n"
PAGE = "<!DOCTYPE html>\n<html><head><title>404</title></head></html>\n"


class Elsewhere:
    """A run with a pretrained vocabulary and a head, its checkpoint, and a secret place that no folder may reach."""

    def __init__(self, folder: Path) -> None:
        pieces = whole("wordpiece")
        config = {"vocab_size": pieces.size, "pad_token_id": pieces.padding, "max_position_embeddings": 40}
        model = BertForMaskedLM(BertForMaskedLM.config_class(**(TINY_CHECKPOINT | config))).eval()
        randomise(model, 0)
        self.checkpoint = save_checkpoint(model, "wordpiece", folder / "checkpoint")
        heads = "heads={words: {name: zlpr, labels: target_words, weight: 0.1}}"
        made = recipe(self.checkpoint, folder / "own", "vocabulary.trim=false", heads, "run.save_every=1", "run.keep=2")
        self.run = s2s.fit(made).folder
        self.secret = folder / "secret"
        self.secret.mkdir()
        (self.secret / "allowed.txt").write_text("quick fox\n", encoding="utf-8")
        (self.secret / "secret_code.py").write_text(
            "def score(hypothesis, reference):\n    return 1.0\n", encoding="utf-8"
        )
        (self.secret / "data.jsonl").write_text('{"source": "a", "target": "b"}\n' * 9, encoding="utf-8")
        shutil.copytree(self.run, self.secret / "run", symlinks=True)
        shutil.copytree(self.checkpoint, self.secret / "checkpoint")

    def poisoned(self, to: Path, change: Callable[[dict[str, Any], Path], None]) -> Path:
        """A copy of the run with a changed recipe."""
        shutil.copytree(self.run, to, symlinks=True)
        values = yaml.safe_load((to / "recipe.yaml").read_text(encoding="utf-8"))
        change(values, self.secret)
        (to / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        return to


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    return Elsewhere(tmp_path_factory.mktemp("elsewhere"))


def names_code(values: dict[str, Any], secret: Path) -> None:
    values["search"] = {"name": "mbr", "samples": 2, "utility": "secret_code:score", "prefix": "quick"}
    values["mitigations"] = [{"name": "mrt", "metric": "secret_code:score", "path": str(secret / "data.jsonl")}]
    values["run"]["trackers"] = ["secret_code"]


def names_files(values: dict[str, Any], secret: Path) -> None:
    values["search"] = {"name": "beam", "beams": 2, "allowed": str(secret / "allowed.txt")}
    values["data"] |= {"path": str(secret / "data.jsonl"), "cache": str(secret), "root": str(secret)}
    values["model"]["pretrained"] = values["vocabulary"]["name"] = str(secret / "checkpoint")
    values["mitigations"] = [{"name": "gold", "reward": "sum", "reference": str(secret / "run")}]


def names_hubs(values: dict[str, Any], secret: Path) -> None:
    values["search"] = {"name": "mbr_beam", "beams": 2, "utility": "secret_code:score", "allowed": str(secret)}
    values["data"] |= {"path": None, "dataset": {"name": "someone/data"}}
    values["model"]["pretrained"] = values["vocabulary"]["name"] = "someone/model"
    values["mitigations"] = [{"name": "brio", "path": "${oc.env:HOME}/secret", "metric": "secret_code:score"}]


ACTIONS = """
import json, os, sys
from s2s.commands import average, decode, evaluate, export, predict
import s2s
from s2s.diagnose import __main__ as diagnose
from s2s.recipe.build import build_mitigations, load_data
from s2s.errors import UserError

refused = []

def tried(action):
    try:
        return action()
    except UserError as error:
        refused.append(str(error))
    except SystemExit as error:
        refused.append(str(error.code))

folder, place = {folder!r}, {place!r}
run = s2s.load(folder)
tried(lambda: run.generate(["the quick brown fox"]))
tried(lambda: list(run.stream("over the lazy dog", beams=1, n_best=1)))
assert run.generate(["the lazy dog"], **{caller!r})
assert run.score(["the quick brown fox"], ["quick fox"])
assert run.predict(["the lazy dog"])
for action in (lambda: load_data(run.recipe), run.recipe.build, lambda: build_mitigations(run.recipe, run.vocabulary),
               lambda: run.search(["the"], run.recipe.search, lambda _: None)):
    tried(action)
lines = place + "/lines.jsonl"
out = lambda name: place + "/" + name
words = [f"run={{folder}}", f"input={{lines}}"]
codes = {{
    "decode": decode.main([*words, f"output={{out('refused.jsonl')}}"]),
    "decode2": decode.main([*words, f"output={{out('decoded.jsonl')}}", *{argued!r}]),
    "rerank": decode.main([*words, f"output={{out('reranked.jsonl')}}", f"rerank={{folder}}", *{argued!r},
                           *{several!r}]),
    "predict": predict.main([*words, f"output={{out('predicted.jsonl')}}"]),
    "diagnose": diagnose.main([f"run={{folder}}", f"data={{lines}}", f"output={{out('report')}}", "examples=3",
                               "search_examples=2", "beams=[1,2]", "samples=1", "resamples=20", "prefixes=[1]"]),
    "undiagnosed": diagnose.main([f"run={{folder}}", f"output={{out('report')}}"]),
    "export": export.main([f"run={{folder}}", f"output={{out('small')}}", "form=s2s"]),
    "average": average.main([f"run={{folder}}", "last=1"]),
    "evaluate": evaluate.main([f"hypotheses={{out('plain.txt')}}", f"references={{out('plain.txt')}}",
                               f"embeddings={{folder}}"]),
}}
keys = ["vocabulary.kind=pretrained", f"vocabulary.name={{folder}}/vocabulary"]
tried(lambda: s2s.Recipe.load("toy_copy", keys).build())
s2s.load(out("small")).generate(["the lazy dog"], **{caller!r})
json.dump({{"refused": refused, "codes": codes}}, open(out("told.json"), "w", encoding="utf-8"))
"""


def audited(source: str, place: Path, allowed: list[Path], paths: list[Path]) -> list[list[str]]:
    """What a command did outside of what it was allowed; see ``audited.py``."""
    report = place / "audit.jsonl"
    home = place / "home"
    home.mkdir(exist_ok=True)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, [ROOT, *paths])),
        "HOME": str(home),
        "HF_HOME": str(home),
        "S2S_CACHE": str(home),
        "TMPDIR": str(home),
        "HF_HUB_OFFLINE": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    worker = Path(__file__).parents[1] / "helpers" / "audited.py"
    places = os.pathsep.join(map(str, [ROOT, place, *allowed]))
    command = [sys.executable, str(worker), str(report), places, source]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("change", [names_code, names_files, names_hubs])
def test_commands_reach_nothing_outside(
    elsewhere: Elsewhere, tmp_path: Path, change: Callable[[dict[str, Any], Path], None]
) -> None:
    folder = elsewhere.poisoned(tmp_path / "run", change)
    row = {"source": "the quick brown fox", "target": "quick fox"}
    (tmp_path / "lines.jsonl").write_text((json.dumps(row) + "\n") * 3, encoding="utf-8")
    (tmp_path / "plain.txt").write_text("quick fox\nlazy dog\n", encoding="utf-8")
    caller = {"utility": "chrf"} if change is names_code else {"allowed": None}
    if change is names_hubs:
        caller |= {"utility": "rouge_l"}
    argued = [f"search.{key}={'null' if value is None else value}" for key, value in caller.items()]
    several = ["search.n_best=2", *([] if change is names_code else ["search.beams=2"])]
    words = {"folder": str(folder), "place": str(tmp_path)}
    found = audited(
        ACTIONS.format(**words, caller=caller, argued=argued, several=several), tmp_path, [], [elsewhere.secret]
    )
    told = json.loads((tmp_path / "told.json").read_text(encoding="utf-8"))
    assert told["codes"].pop("decode") == 2
    assert told["codes"].pop("undiagnosed") == 2
    assert set(told["codes"].values()) == {0}, told
    assert len(told["refused"]) >= 4
    assert all("\n" not in line for line in told["refused"])
    assert found == []
    assert not list(tmp_path.rglob("PWNED"))


@pytest.mark.slow
def test_the_audit_sees_what_a_caller_asks_for(elsewhere: Elsewhere, tmp_path: Path) -> None:
    source = """
import s2s
run = s2s.load({run!r})
run.generate(["the lazy dog"], name="mbr", samples=2, utility="secret_code:score", allowed={allowed!r})
""".format(run=str(elsewhere.run), allowed=str(elsewhere.secret / "allowed.txt"))
    found = audited(source, tmp_path, [elsewhere.run], [elsewhere.secret])
    assert {"secret_code.py", "allowed.txt"} <= {Path(subject).name for _, subject in found}
    assert {event for event, _ in found} == {"open", "exec"}


def copied(elsewhere: Elsewhere, tmp_path: Path) -> Path:
    return Path(shutil.copytree(elsewhere.run, tmp_path / "run", symlinks=True))


LINKS = [
    ("recipe.yaml", "run/recipe.yaml"),
    ("run.json", "run/run.json"),
    ("vocabulary", "run/vocabulary"),
    ("vocabulary/kind", "run/vocabulary/kind"),
    ("vocabulary/tokenizer.json", "allowed.txt"),
    ("checkpoints", "run/checkpoints"),
    ("checkpoints/step-00000002", "run/checkpoints/step-00000002"),
    ("checkpoints/step-00000002/weights.safetensors", "run/checkpoints/step-00000002/weights.safetensors"),
    ("checkpoints/best", "run/checkpoints/step-00000002"),
]


@pytest.mark.parametrize(("name", "target"), LINKS)
def test_links_out_of_a_run_are_not_followed(elsewhere: Elsewhere, tmp_path: Path, name: str, target: str) -> None:
    folder = copied(elsewhere, tmp_path)
    path = folder / name
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    path.symlink_to(elsewhere.secret / target)
    for read_it in (lambda: s2s.load(folder), lambda: load_model(str(folder))):
        with pytest.raises(UserError, match="leads out of the folder") as found:
            read_it()
        assert str(folder) in str(found.value)


def test_links_within_a_run_and_a_hubs_cache_are_followed(elsewhere: Elsewhere, tmp_path: Path) -> None:
    source = copied(elsewhere, tmp_path)
    s2s.load(source).save_pretrained(tmp_path / "small")
    snapshot, blobs = tmp_path / "hub" / "snapshots" / "abc", tmp_path / "hub" / "blobs"
    (snapshot / "vocabulary").mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(path for path in (tmp_path / "small").rglob("*") if path.is_file()):
        shutil.copy(path, blobs / str(number))
        link = snapshot / path.relative_to(tmp_path / "small")
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    assert s2s.load(snapshot).generate(["the lazy dog"])
    (tmp_path / "own").symlink_to(source)
    assert s2s.load(tmp_path / "own").generate(["the lazy dog"])


@pytest.mark.parametrize("name", ["../../../secret/allowed.txt", "/etc/passwd", "..", "a/../../b", "a\\b"])
def test_manifests_name_files_of_their_folder(elsewhere: Elsewhere, tmp_path: Path, name: str) -> None:
    folder = copied(elsewhere, tmp_path)
    for path in folder.glob("checkpoints/step-*/" + MANIFEST):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(manifest | {name: {"bytes": 1, "sha256": "0"}}), encoding="utf-8")
    with pytest.raises(UserError, match="no file of this folder") as found:
        s2s.load(folder)
    assert "\n" not in str(found.value)


FACTS = [
    {"kernel": "evil"},
    {"files": {"../secret/allowed.txt": {"bytes": 1, "sha256": "0"}}},
    {"architecture": {"activation": "evil"}},
    {"architecture": {"vocabulary": -1}},
    {"architecture": {"vocabulary": 10**13}},
    {"architecture": {"layers": 10**9}},
    {"architecture": {"positions": -3}},
    {"architecture": {"dropout": 7}},
]


@pytest.mark.parametrize("values", FACTS)
def test_run_json_names_nothing_else(elsewhere: Elsewhere, tmp_path: Path, values: dict[str, Any]) -> None:
    """Not even where the weights do not say whose they are."""
    s2s.load(elsewhere.run).save_pretrained(tmp_path / "small")
    weights = tmp_path / "small" / "weights.safetensors"
    save_file(load_file(weights), weights, metadata={"step": "2"})
    path = tmp_path / "small" / "run.json"
    metadata = json.loads(path.read_text(encoding="utf-8")) | {"files": {}}
    shape = metadata["architecture"] | values.get("architecture", {})
    path.write_text(json.dumps(metadata | values | {"architecture": shape}), encoding="utf-8")
    with pytest.raises(UserError, match=r"run\.json") as found:
        s2s.load(tmp_path / "small")
    assert "\n" not in str(found.value)


def test_a_tokenizer_names_files_of_its_folder(elsewhere: Elsewhere, tmp_path: Path) -> None:
    folder = copied(elsewhere, tmp_path)
    metadata = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    (folder / "run.json").write_text(json.dumps(metadata | {"files": {}}), encoding="utf-8")
    path = folder / "vocabulary" / "tokenizer_config.json"
    values = json.loads(path.read_text(encoding="utf-8")) | {
        "fast_tokenizer_files": ["../../secret/tokenizer.1.0.json"]
    }
    path.write_text(json.dumps(values), encoding="utf-8")
    for use in (
        lambda: vocabularies.load(folder / "vocabulary"),
        lambda: make(VocabularySettings(kind="pretrained"), str(folder / "vocabulary"), list),
    ):
        with pytest.raises(UserError, match="no file of this folder"):
            use()


@pytest.mark.slow
def test_a_lock_that_leads_out_is_not_written(elsewhere: Elsewhere, tmp_path: Path) -> None:
    folder = copied(elsewhere, tmp_path)
    precious = tmp_path / "precious.txt"
    precious.write_text("precious", encoding="utf-8")
    (folder / ".lock").unlink(missing_ok=True)
    (folder / ".lock").symlink_to(precious)
    worker = ROOT / "scripts" / "average.py"
    command = [sys.executable, str(worker), f"run={folder}", "last=1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 2
    assert "leads out of the folder" in done.stderr
    assert precious.read_text(encoding="utf-8") == "precious"


@pytest.mark.parametrize("text", [POINTER, PAGE])
@pytest.mark.parametrize("name", ["recipe.yaml", "run.json", "vocabulary/tokenizer.json", "weights.safetensors"])
def test_what_came_in_a_files_place_is_told(elsewhere: Elsewhere, tmp_path: Path, name: str, text: str) -> None:
    s2s.load(elsewhere.run).save_pretrained(tmp_path / "small")
    (tmp_path / "small" / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"Git LFS pointer|web page") as found:
        s2s.load(tmp_path / "small")
    assert str(tmp_path / "small" / name) in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_what_is_no_file_is_not_read(elsewhere: Elsewhere, tmp_path: Path) -> None:
    folder = copied(elsewhere, tmp_path)
    (folder / "vocabulary" / "kind").unlink()
    os.mkfifo(folder / "vocabulary" / "kind")
    with pytest.raises(UserError, match="neither a file nor a folder"):
        s2s.load(folder)


class Marker:
    """What makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def warm_start(folder: Path) -> Callable[[], object]:
    return lambda: read(ModelSettings(pretrained=str(folder)), None)


def test_checkpoints_are_not_unpickled(elsewhere: Elsewhere, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(elsewhere.checkpoint, tmp_path / "checkpoint"))
    (folder / "model.safetensors").unlink()
    torch.save({"bert.embeddings.word_embeddings.weight": Marker(tmp_path / "marker")}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"model\.pretrained") as found:
        warm_start(folder)()
    assert "\n" not in str(found.value)
    assert not (tmp_path / "marker").exists()
    run = copied(elsewhere, tmp_path)
    for path in run.glob("checkpoints/step-*/trainer.pt"):
        torch.save({"step": 2, "optimizer": Marker(tmp_path / "marker"), "best": None}, path)
    from s2s.files.folders import entry
    from s2s.runs.checkpoints import newest

    for path in run.glob("checkpoints/step-*/" + MANIFEST):
        files = {file.name: entry(file) for file in path.parent.iterdir() if file.name != MANIFEST}
        path.write_text(json.dumps(files), encoding="utf-8")
    found, lines = newest(run)
    assert found is None
    assert all("trainer.pt cannot be read" in line for line in lines)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("text", [POINTER, PAGE])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json"])
def test_checkpoints_that_have_not_come_are_told(elsewhere: Elsewhere, tmp_path: Path, name: str, text: str) -> None:
    folder = Path(shutil.copytree(elsewhere.checkpoint, tmp_path / "checkpoint"))
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    (folder / name).write_text(text, encoding="utf-8")
    for use in (warm_start(folder), lambda: make(VocabularySettings(kind="pretrained"), str(folder), list)):
        with pytest.raises(UserError, match=r"Git LFS pointer|web page") as found:
            use()
        assert "\n" not in str(found.value)


@pytest.mark.slow
def test_checkpoints_reach_nothing_outside(elsewhere: Elsewhere, tmp_path: Path) -> None:
    """Code beside the config, kernels from a hub, and tokenizers of one's own: all are named, none is run."""
    folder = Path(shutil.copytree(elsewhere.checkpoint, tmp_path / "checkpoint"))
    evil = "open('PWNED', 'w').close()\nfrom transformers import BertTokenizerFast as Evil\n"
    for place in (folder, Path(shutil.copytree(elsewhere.run, tmp_path / "run", symlinks=True)) / "vocabulary"):
        (place / "evil.py").write_text(evil, encoding="utf-8")
        path = place / "tokenizer_config.json"
        values = json.loads(path.read_text(encoding="utf-8"))
        values |= {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}
        path.write_text(json.dumps(values), encoding="utf-8")
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    names = ("AutoConfig", "AutoModel", "AutoModelForMaskedLM", "AutoTokenizer")
    values |= {"auto_map": dict.fromkeys(names, "someone/code--evil.Evil")}
    values |= {"attn_implementation": "someone/kernel", "_attn_implementation": "someone/kernel"}
    path.write_text(json.dumps(values), encoding="utf-8")
    source = f"""
import s2s
from s2s.recipe.build import build_model
from s2s.runs.token_vectors import embedded
from s2s.errors import UserError
for key in ("model.pretrained", "vocabulary.name"):
    recipe = s2s.Recipe.load("toy_copy", ["model={{}}", "vocabulary.kind=pretrained", f"{{key}}={folder}"])
    for action in (recipe.build, lambda: build_model(recipe, 60, None), lambda: embedded({str(folder)!r})(["a b"])):
        try:
            action()
        except UserError as error:
            print(error)
try:
    s2s.load({str(tmp_path / "run")!r}).generate(["the lazy dog"])
except UserError as error:
    print(error)
"""
    assert audited(source, tmp_path, [], [elsewhere.secret]) == []
    assert not list(tmp_path.rglob("PWNED"))


@pytest.mark.parametrize("name", ["../secret/checkpoint/model.safetensors", "/etc/passwd"])
def test_indices_name_files_of_their_folder(elsewhere: Elsewhere, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(elsewhere.checkpoint, tmp_path / "checkpoint"))
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"bert.embeddings.word_embeddings.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(UserError, match="no file of this folder"):
        warm_start(folder)()
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model.safetensors").symlink_to(elsewhere.secret / "checkpoint" / "model.safetensors")
    with pytest.raises(UserError, match="leads out of the folder"):
        warm_start(folder)()


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("tokenizer_config.json", {"vocab": "{secret}"}),
        ("tokenizer_config.json", {"vocab": "run.json"}),
        ("tokenizer_config.json", {"vocab": "tokenizer_config.json"}),
        (
            "tokenizer_config.json",
            {"model_file": "tokenizer_config.json", "sp_model_kwargs": {"model_file": "tokenizer_config.json"}},
        ),
        ("tokenizer_config.json", {"merges": "{secret}"}),
        ("tokenizer_config.json", {"spm_file": "{secret}"}),
        ("tokenizer_config.json", {"sp_model_kwargs": {"model_file": "{secret}"}}),
        ("tokenizer_config.json", {"tokenizer_file": "not_there.json"}),
        ("tokenizer_config.json", {"fast_tokenizer_files": 5}),
        ("tokenizer_config.json", {"init_inputs": ["{secret}"]}),
        ("special_tokens_map.json", {"vocab_file": "{secret}"}),
        ("added_tokens.json", {"vocab": "../secret.txt"}),
        ("config.json", {"vocab_file": "{secret}"}),
        ("tokenizer_config.json", {"model_max_length": "x"}),
        ("tokenizer_config.json", "["),
        ("special_tokens_map.json", "["),
    ],
)
@pytest.mark.parametrize("has_tokenizer", [True, False])
def test_a_tokenizer_names_no_file_elsewhere(
    elsewhere: Elsewhere, tmp_path: Path, file: str, settings: Any, has_tokenizer: bool
) -> None:
    folder = copied(elsewhere, tmp_path) / "vocabulary"
    secret = tmp_path / "secret.txt"
    secret.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nsecret\n", encoding="utf-8")
    if not has_tokenizer:
        (folder / "tokenizer.json").unlink()
    path = folder / file
    if isinstance(settings, str):
        text = settings * 100_000
    else:
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        text = json.dumps(before | settings).replace("{secret}", str(secret))
    path.write_text(text, encoding="utf-8")
    for use in (
        lambda: vocabularies.load(folder),
        lambda: make(VocabularySettings(kind="pretrained"), str(folder), list),
    ):
        with pytest.raises(UserError, match=path.name) as refusal:
            use()
        assert "\n" not in str(refusal.value)


def test_paths_that_nobody_opens_stay_in_a_tokenizer(elsewhere: Elsewhere, tmp_path: Path) -> None:
    folder = copied(elsewhere, tmp_path) / "vocabulary"
    (folder / "config.json").write_text('{"_name_or_path": "/home/a", "model_type": "bert"}', encoding="utf-8")
    path = folder / "tokenizer_config.json"
    harmless = {"name_or_path": "/home/a/model", "special_tokens_map_file": "/root/a.json", "tokenizer_file": None}
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | harmless), encoding="utf-8")
    assert vocabularies.load(folder).encode("quick fox") == vocabularies.load(elsewhere.run / "vocabulary").encode(
        "quick fox"
    )


@pytest.mark.parametrize("text", ["[]", '["x"]', "[-1]", "5", "{}", "[" * 100_000, ""])
def test_rows_that_are_none_are_refused(elsewhere: Elsewhere, tmp_path: Path, text: str) -> None:
    folder = copied(elsewhere, tmp_path) / "vocabulary"
    (folder / "kept_rows.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"kept_rows\.json") as refusal:
        vocabularies.load(folder)
    assert "\n" not in str(refusal.value)


def test_the_page_of_a_diagnosis_is_no_page_in_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "diagnosis").mkdir()
    page = tmp_path / "diagnosis" / "report.html"
    page.write_text("<!doctype html><title>report</title>", encoding="utf-8")
    check_inside(tmp_path)
    page.rename(page.with_suffix(".json"))
    with pytest.raises(UserError, match="web page"):
        check_inside(tmp_path)
    page.with_suffix(".json").unlink()
    page.write_text(POINTER, encoding="utf-8")
    with pytest.raises(UserError, match="Git LFS pointer"):
        check_inside(tmp_path)
