"""Every command on a GPU writes the files that it writes on a processor, but for times and the names of devices."""

import json
import lzma
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from alike import assert_alike
from commands_worker import ARGUMENTS
from fake_devices import needs_fake_cuda, on_devices, run
from safetensors.numpy import load_file
from served import serving

from s2s.__main__ import COMMANDS

PATIENCE = 1800
"""Seconds in which a worker ends, on a busy machine too."""
pytestmark = [pytest.mark.slow, needs_fake_cuda]

WORKER = Path(__file__).resolve().parents[1] / "helpers" / "commands_worker.py"
DEVICES = {"cpu": 0, "cuda": 1}
SERVERS = {"serve"}
"""Commands that do not end, and have a test of their own."""
ELSEWHERE = {
    *("device", "hardware", "kernel", "processor", "paths", "report"),
    *("seconds", "cost", "sha256", "checkpoint", "weights"),
}
"""Keys whose values are devices and ways to compute, times, and hashes of weights, which rounding moves."""
NUMBER = re.compile(r"[-−+]?\d+(\.\d+)?(e[-+]?\d+)?")
DRAWN = re.compile(r"-p[0-9a-f]{10}")
"""The names that a picture gives its frames, which are hashes of their numbers."""
UNREAD = (".log", ".lock", ".time.json")
"""Ends of names of files that hold texts for people or times, or nothing."""


def without_numbers(path: Path) -> object:
    """A text, with 0 for each of its numbers: those that matter are in other files too."""
    return NUMBER.sub("0", DRAWN.sub("", path.read_text(encoding="utf-8")))


def lines(path: Path) -> object:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


READERS: dict[str, Callable[[Path], Any]] = {
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".jsonl": lines,
    ".xz": lambda path: json.loads(lzma.decompress(path.read_bytes())),
    ".safetensors": load_file,
    ".npz": lambda path: dict(np.load(path)),
    ".parquet": lambda path: pyarrow.parquet.read_table(path).to_pydict(),
    ".pt": torch.load,
    ".model": Path.read_bytes,
    ".html": without_numbers,
    ".svg": without_numbers,
    ".md": without_numbers,
    ".yaml": without_numbers,
    ".recipe": Path.read_bytes,
    ".hypotheses": Path.read_bytes,
    ".trained": Path.read_bytes,
    "": Path.read_bytes,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders, each with what all commands have written on one device."""
    folder = tmp_path_factory.mktemp("commands")
    for name, devices in DEVICES.items():
        (folder / name).mkdir()
        environment = on_devices(devices)
        environment["PYTHONPATH"] = f"{environment.get('PYTHONPATH', '')}:{WORKER.parents[2]}"
        done = run([str(WORKER)], environment, folder / name, PATIENCE)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def written(folder: Path) -> dict[str, Path]:
    """The files of a folder by their names in it. Names of caches hold hashes of weights, which rounding moves."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(UNREAD))
    return {re.sub(r"-[0-9a-f]{16}\.", ".", str(path.relative_to(folder))): path for path in files}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_ends_well_on_both_devices(command: str, folder: Path) -> None:
    for device in DEVICES:
        codes = json.loads((folder / device / "codes.json").read_text(encoding="utf-8"))
        assert command in SERVERS or codes[command] == 0


def test_they_write_the_same_files(folder: Path) -> None:
    ours, theirs = (written(folder / device) for device in DEVICES)
    assert ours.keys() == theirs.keys()
    assert {"run/log.jsonl", "out.jsonl", "scores.json", "tags.jsonl", "report/tokens.parquet"} <= ours.keys()
    for name, path in ours.items():
        read = READERS[path.suffix]
        assert_alike(read(path), read(theirs[name]), name, ELSEWHERE)
    for name in ("run/run.json", "weights/noise-1/run.json"):
        devices = [json.loads(files[name].read_text(encoding="utf-8"))["device"] for files in (ours, theirs)]
        assert devices == ["cpu", "fake cuda"]


def test_the_server_answers_the_same(folder: Path) -> None:
    answers = []
    for name, devices in DEVICES.items():
        environment = on_devices(devices)
        with serving(f"run={folder / name / 'run'}", environment=environment) as server, server.client() as client:
            search = {"beams": 3, "n_best": 2, "max_length": 6}
            generated = client.post("/generate", json={"source": "a b c", "search": search}).json()
            streamed = client.post("/stream", json={"source": "d e f"}).text
            answers.append([generated, [json.loads(line) for line in streamed.splitlines()]])
    assert answers[0][0]["hypotheses"]
    assert_alike(*answers, "answers")


def test_each_command_but_servers_has_arguments() -> None:
    assert set(COMMANDS) - SERVERS == set(ARGUMENTS)
