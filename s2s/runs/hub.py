"""Runs on a hub: where a name's files lie, and their upload."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HTTPError

from s2s.errors import UserError, first_line
from s2s.files.paths import at_home
from s2s.runs.export import Trained, save_pretrained
from s2s.runs.metadata import FILE, RECIPE, VOCABULARY, WEIGHTS

NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
FILES = [FILE, RECIPE, WEIGHTS, f"{VOCABULARY}/*", "README.md"]


def folder_of(name: str | Path) -> Path:
    """A run's folder: the path itself, or the files of a hub name such as ``someone/titles``, downloaded once.

    What has an existing folder before its slash is a path. Raises a ``UserError`` where the hub has no such run.
    """
    path = at_home(name)
    if path.exists() or (path.parent.is_dir() and path.parent != Path()) or not NAME.fullmatch(str(name)):
        return path
    try:
        return Path(snapshot_download(str(name), allow_patterns=FILES))
    except (OSError, ValueError, HTTPError, HfHubHTTPError) as error:
        raise UserError(f"run '{name}': no folder of that name, and from the hub: {first_line(error)}") from error


def push(run: Trained, name: str, private: bool | None) -> str:
    """Upload what ``save_pretrained`` writes to the hub, under a name such as ``someone/titles``; returns its address.

    Raises a ``UserError`` for a name that is none, and where the hub refuses or cannot be reached.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"hub: '{name}' is no name of a repository; such as someone/titles")
    hub = HfApi()
    with TemporaryDirectory() as place:
        save_pretrained(run, Path(place) / "run", name)
        try:
            address = hub.create_repo(name, private=private, exist_ok=True)
            hub.upload_folder(
                repo_id=name, folder_path=Path(place) / "run", commit_message=f"A run after {run.step} updates"
            )
        except (OSError, ValueError, HTTPError, HfHubHTTPError) as error:
            raise UserError(f"hub: '{name}' was not uploaded: {first_line(error)}") from error
    return str(address)
