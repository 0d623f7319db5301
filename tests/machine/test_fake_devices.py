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

ENDING = """
import sys, threading, time
import torch

class Twice(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x * 2
    @staticmethod
    def backward(context, gradient):
        return gradient * 2

def work():
    while True:
        Twice.apply(torch.ones(3, device="cuda", requires_grad=True)).sum().backward()

threading.Thread(target=work, daemon=True).start()
time.sleep(0.5)
sys.exit(3)
"""


@needs_fake_cuda
@pytest.mark.parametrize("devices", [0, 1, 3])
def test_the_devices_are_there(devices: int) -> None:
    done = run(["-c", PROGRAM], on_devices(devices, "7.5", memory=2**20))
    expected = [f"{devices > 0} {devices}"] + ["36.0 False", "RuntimeError", "OutOfMemoryError"] * (devices > 0)
    assert done.stdout.splitlines() == expected, done.stderr


@needs_fake_cuda
def test_a_process_ends_with_its_own_code_while_a_device_is_at_work() -> None:
    done = run(["-c", ENDING], on_devices(1))
    assert done.returncode == 3, done.stderr
