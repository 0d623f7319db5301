"""The numbers that a run computes with, and the loss scale that keeps float16 gradients from vanishing."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from s2s.errors import UserError

Name = Literal["fp32", "bf16", "fp16"]
HALVES: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
DECODING = ("auto", "fp32", "bf16", "fp16", "int8")
"""The names that ``search.precision`` accepts; ``s2s.inference.precisions.PRECISIONS`` has a function for each."""


class Choice(NamedTuple):
    """A precision, and the reason for it in a line."""

    name: Name
    reason: str


def choose_precision(setting: str, device: str | None = None, launcher: str | None = None) -> Choice:
    """Return the precision that a recipe's ``run.precision`` means on a kind of device, by default this machine's.

    ``auto`` is what the launcher asks for (``ACCELERATE_MIXED_PRECISION``), or else what is fast on the device:
    bfloat16 on a GPU that computes with it, float16 on one where torch emulates it, and float32 elsewhere.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if setting != "auto":
        choice = _named(setting, "as run.precision says")
        if launcher not in (None, setting):
            choice = choice._replace(reason=f"{choice.reason}; ACCELERATE_MIXED_PRECISION={launcher} is not used")
    elif launcher is not None:
        choice = _named(launcher, "as the launcher asks, for run.precision auto")
    else:
        choice = _fast(device)
    if choice.name == "fp16" and device == "cpu" and not _half_on_cpu():
        raise UserError("run.precision: this processor's torch has no float16 products; bf16 or fp32 work here")
    if choice.name == "bf16" and device == "cuda" and not has_bfloat16():
        choice = choice._replace(reason=f"{choice.reason}; this GPU only emulates bfloat16, and fp16 is faster there")
    return choice._replace(reason=f"precision: {choice.name}, {choice.reason}")


def has_bfloat16() -> bool:
    """Return whether the GPU computes with bfloat16 itself; on every other one torch emulates it, slowly."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def decoding_precision(setting: str, trained: str, device: torch.device) -> str:
    """Return the row of ``s2s.inference.precisions.PRECISIONS`` that a ``search.precision`` means.

    ``auto`` is float32 on a processor. On a GPU it is the precision of training; where that is bfloat16 and this GPU
    has none, it is what ``run.precision: auto`` would be there.
    """
    if setting != "auto":
        return setting
    if device.type != "cuda" or trained not in HALVES:
        return "fp32"
    return _fast("cuda").name if trained == "bf16" and not has_bfloat16() else trained


def _named(name: str, reason: str) -> Choice:
    assert name in ("fp32", *HALVES)
    return Choice(name, reason)  # type: ignore[arg-type]


def _fast(device: str) -> Choice:
    if device != "cuda":
        return Choice("fp32", "as on every processor unless run.precision says otherwise")
    name, (major, minor) = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    if has_bfloat16():
        return Choice("bf16", f"which this GPU has ({name})")
    # Cards from 7.0 on have fast float16 products; on most older ones float16 is slower than float32.
    if (major, minor) >= (7, 0):
        return Choice("fp16", f"since this GPU has no bfloat16 of its own ({name}, compute capability {major}.{minor})")
    return Choice("fp32", f"since this GPU has no fast half precision ({name}, compute capability {major}.{minor})")


def _half_on_cpu() -> bool:
    half = torch.ones(2, 2, dtype=torch.float16)
    try:
        return bool((half @ half).isfinite().all())
    except RuntimeError:
        return False


class Precision:
    """The forward context of a run and its loss scale, which is 1 except in fp16.

    Float32 needs neither, and accelerate, which wraps the objective, gives bfloat16 its context. In fp16 the loss is
    multiplied by the scale and the gradients are divided by it; an update that overflows is skipped and halves the
    scale, 2000 good ones in a row double it (Micikevicius et al. 2018, section 3.2; torch's ``GradScaler``).
    """

    def __init__(self, name: Name = "fp32", device: str = "cpu") -> None:
        self.name, self.half, self.device = name, name == "fp16", device
        self.scaler = torch.amp.GradScaler(device, enabled=self.half)

    def context(self) -> AbstractContextManager[object]:
        """Return the context for the forward of an objective that accelerate has wrapped."""
        return torch.autocast(self.device, torch.float16) if self.half else nullcontext()

    def evaluation(self) -> AbstractContextManager[object]:
        """Return the context for passes outside of accelerate's wrapper, in the precision of training."""
        return torch.autocast(self.device, HALVES[self.name]) if self.name in HALVES else nullcontext()

    @property
    def scale(self) -> float:
        """The factor of the losses; a GPU is waited for."""
        return float(self.scaler.get_scale())

    def scale_on(self, device: torch.device) -> Tensor:
        """Return the factor of the losses as a scalar on a device, which is not waited for."""
        return self.scaler.scale(torch.ones((), device=device))

    def can_shrink(self, used: float) -> bool:
        """Return whether the scale ``used`` may have caused an overflow, so that skipping the update may help."""
        return self.half and used >= 1

    def settle(self, used: float, skipped: bool) -> dict[str, float]:
        """Adapt the scale after an update that has ``used`` it; return the log's entries on it."""
        if not self.half:
            return {}
        self.scaler.update()
        return {"scale": used, "skipped": float(skipped)}
