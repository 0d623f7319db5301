"""Commands on 0, 1, 2 ... CUDA devices in host memory: see ``tests/helpers/fakecuda``.

A test that needs the devices carries ``needs_fake_cuda``; the first one builds them, in half a minute. The whole suite
runs on so many devices with ``S2S_TEST_DEVICES=1 scripts/test`` (1, 2 ...; paths of tests may follow); without the
variable it runs on the machine's own devices, and these tests start processes that have the fake ones.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

HELPERS = Path(__file__).resolve().parent
SITE = HELPERS / "fakecuda" / "site"
MISSING = [tool for tool in ("g++", "ninja") if shutil.which(tool) is None]
needs_fake_cuda = pytest.mark.skipif(
    bool(MISSING) or torch.version.cuda is not None,
    reason=f"the fake CUDA needs a CPU build of torch, g++ and ninja (missing: {', '.join(MISSING) or 'nothing'})",
)

needs_torch_compile = pytest.mark.skipif(
    os.environ.get("FAKE_CUDA") == "1", reason="the fake CUDA has no kernels that torch.compile could write"
)


def on_devices(devices: int, capability: str = "8.0", memory: int | None = None) -> dict[str, str]:
    """Return the environment of a process that sees so many devices, of one capability; 0: a machine without any.

    ``memory`` is what the devices have together, in bytes.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FAKE_CUDA", "CUDA_VISIBLE"))}
    environment = kept | {"OMP_NUM_THREADS": "1"}
    if not devices:
        return environment | {"FAKE_CUDA": "0"}
    subprocess.run([sys.executable, str(SITE.with_name("building.py"))], check=True, capture_output=True, env=kept)
    asked = {"FAKE_CUDA": "1", "FAKE_CUDA_DEVICES": str(devices), "FAKE_CUDA_CAPABILITY": capability}
    limit = {} if memory is None else {"FAKE_CUDA_MEMORY": str(memory)}
    paths = os.pathsep.join(filter(None, [str(SITE), os.environ.get("PYTHONPATH")]))
    # At its end torch would wait for the devices' threads of autograd, one of which may have been stopped. A process
    # that crashes says where each of its threads was.
    always = {"TORCH_AUTOGRAD_SHUTDOWN_WAIT_LIMIT": "0", "PYTHONFAULTHANDLER": "1"}
    return environment | asked | limit | always | {"PYTHONPATH": paths}


def run(
    arguments: Sequence[str], environment: Mapping[str, str], folder: Path | None = None, timeout: float = 500
) -> "subprocess.CompletedProcess[str]":
    """Run this Python with arguments to its end and return what it said; ``folder`` is where it starts."""
    command = [sys.executable, *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=dict(environment),
        cwd=folder,
        timeout=timeout,
        encoding="utf-8",
    )


def found_by(worker: str, writes: str, folder: Path, *arguments: str, devices: int = 1, timeout: float = 500) -> Any:
    """Run a worker of this folder on devices to its end, and return the JSON that it ``writes`` into the ``folder``."""
    environment = on_devices(devices)
    paths = environment.get("PYTHONPATH"), str(HELPERS), str(HELPERS.parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    done = run([str(HELPERS / worker), str(folder), *arguments], environment, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / writes).read_text(encoding="utf-8"))
