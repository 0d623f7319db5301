"""The fake CUDA that other tests stand on: its devices are there, compute, and refuse what CUDA refuses."""

import pytest
from fake_devices import needs_fake_cuda, on_devices, run

pytestmark = pytest.mark.slow

PROGRAM = """
import torch
print(torch.cuda.is_available(), torch.cuda.device_count())
if torch.cuda.is_available():
    x = torch.ones(3, 4, device="cuda")
    print((x @ x.T).sum().item(), torch.cuda.is_bf16_supported(including_emulation=False))
    for refused in (lambda: x + torch.ones(3, 4), lambda: torch.ones(2**20, device="cuda")):
        try:
            refused()
        except RuntimeError as error:
            print(type(error).__name__)
"""


@needs_fake_cuda
@pytest.mark.parametrize("devices", [0, 1, 3])
def test_the_devices_are_there(devices: int) -> None:
    done = run(["-c", PROGRAM], on_devices(devices, "7.5", memory=2**20))
    expected = [f"{devices > 0} {devices}"] + ["36.0 False", "RuntimeError", "OutOfMemoryError"] * (devices > 0)
    assert done.stdout.splitlines() == expected, done.stderr
