"""Runs for others: a small folder that ``s2s.load`` reads, also on a hub.

The small folder holds recipe.yaml, run.json, vocabulary/, weights.safetensors and a README.md, and no optimizer state.
"""

import copy
import re
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from s2s import vocabulary as vocabularies
from s2s.errors import UserError, first_line
from s2s.files.atomic import new_folder
from s2s.files.folders import entries
from s2s.files.paths import at_home
from s2s.model.backbones.foreign import ForeignBackbone
from s2s.objective import Objective
from s2s.runs.metadata import FILE, LISTED, RECIPE, VOCABULARY, WEIGHTS, read_metadata, write_metadata
from s2s.runs.model_card import Introduction, Trained, write_card
from s2s.runs.weight_files import save_tensors

USAGE = """\
import s2s

run = s2s.load("{name}")
run.generate(["a source"], beams=4)[0][0].text"""
"""How to load a folder, for its README."""


def save_pretrained(run: Trained, folder: Path, name: str | None = None, scores: Path | None = None) -> None:
    """Write the run's weights, recipe and vocabulary into a new folder; ``name`` is what its README calls it.

    ``scores`` is a file of ``s2s evaluate json=FILE`` for the README.
    """
    title = name or folder.name
    with new_folder(folder) as partial:
        objective = _without_lora(run.objective)
        tensors = objective.state_dict()
        (partial / RECIPE).write_text(run.recipe.to_yaml(), encoding="utf-8", newline="\n")
        (partial / VOCABULARY).mkdir()
        vocabularies.save(run.vocabulary, partial / VOCABULARY)
        metadata = replace(
            read_metadata(run.folder), architecture=objective.model.shape, files=entries(partial, LISTED)
        )
        save_tensors(partial / WEIGHTS, tensors, run.step, metadata.identity)
        write_metadata(partial, metadata)
        kind = "A sequence-to-sequence model of s2s; `recipe.yaml` has all settings."
        write_card(partial, run, Introduction("s2s", title, kind, USAGE.format(name=title)), scores)


def _without_lora(objective: Objective) -> Objective:
    """Return an objective whose model's matrices have what LoRA has learnt, or itself where it has none."""
    if not isinstance(model := objective.model, ForeignBackbone) or not model.shape.lora:
        return objective
    whole = copy.copy(objective)
    whole._modules = {**objective._modules, "model": model.merged()}
    return whole


NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
HUB_FILES = [FILE, RECIPE, WEIGHTS, f"{VOCABULARY}/*", "README.md"]


def folder_of(name: str | Path) -> Path:
    """Return a run's folder: the path itself, or the files of a hub name such as ``someone/titles``, downloaded once.

    A name whose part before the slash is an existing folder is a path. Errors: a UserError where the hub has no such
    run.
    """
    path = at_home(name)
    if path.exists() or (path.parent.is_dir() and path.parent != Path()) or not NAME.fullmatch(str(name)):
        return path
    try:
        return Path(snapshot_download(str(name), allow_patterns=HUB_FILES))
    except (OSError, ValueError, HTTPError, HfHubHTTPError) as error:
        raise UserError(f"run '{name}': no folder of that name, and from the hub: {first_line(error)}") from error


def push(run: Trained, name: str, private: bool | None) -> str:
    """Upload what ``save_pretrained`` writes to the hub, under a name such as ``someone/titles``; returns its address.

    Errors: a UserError for what is no name, and where the hub refuses or cannot be reached.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"hub: '{name}' is no name of a repository; such as someone/titles")
    hub = HfApi()
    with TemporaryDirectory() as temporary:
        save_pretrained(run, Path(temporary) / "run", name)
        try:
            address = hub.create_repo(name, private=private, exist_ok=True)
            hub.upload_folder(
                repo_id=name, folder_path=Path(temporary) / "run", commit_message=f"A run after {run.step} updates"
            )
        except (OSError, ValueError, HTTPError, HfHubHTTPError) as error:
            raise UserError(f"hub: '{name}' was not uploaded: {first_line(error)}") from error
    return str(address)
