"""What the passes of a run compute with, and the factor that keeps float16's gradients from vanishing."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from s2s.errors import UserError

Name = Literal["fp32", "bf16", "fp16"]


def chosen(setting: str) -> Name:
    """The precision of a recipe's ``run.precision`` on this machine."""
    if setting == "auto":
        return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp32"
    if setting == "fp16" and not torch.cuda.is_available() and not _half_on_cpu():
        raise UserError("run.precision: this processor's torch has no float16 products; bf16 or fp32 work here")
    assert setting in ("fp32", "bf16", "fp16")
    return setting  # type: ignore[return-value]


def _half_on_cpu() -> bool:
    half = torch.ones(2, 2, dtype=torch.float16)
    try:
        return bool((half @ half).isfinite().all())
    except RuntimeError:
        return False


class Precision:
    """The forward context of a run and its loss scale, which is 1 but for fp16.

    Float32 needs neither; bfloat16's context is accelerate's, which wraps the objective. In fp16 losses are multiplied
    by the scale before they are differentiated and gradients divided by it; an update that overflows is skipped and
    halves it, 2000 good ones in a row double it (Micikevicius et al. 2018, section 3.2; torch's ``GradScaler``).
    """

    def __init__(self, name: Name = "fp32", device: str = "cpu") -> None:
        self.half, self.device = name == "fp16", device
        self.scaler = torch.amp.GradScaler(device, enabled=self.half)

    def context(self) -> AbstractContextManager[object]:
        """Where an objective's forward runs."""
        return torch.autocast(self.device, torch.float16) if self.half else nullcontext()

    @property
    def scale(self) -> float:
        """What losses are multiplied by."""
        return float(self.scaler.get_scale())

    @property
    def can_shrink(self) -> bool:
        """Whether an overflow may be the scale's doing, so that the update can be skipped."""
        return self.half and self.scale >= 1

    def settle(self, skipped: bool) -> dict[str, float]:
        """Let the scale follow an update; returns what the log says of it."""
        if not self.half:
            return {}
        used = self.scale
        self.scaler.update()
        return {"scale": used, "skipped": float(skipped)}
