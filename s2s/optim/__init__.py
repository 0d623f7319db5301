"""Optimizers and learning-rate curves. A new one is a dataclass and a row in ``OPTIMIZERS`` or ``SCHEDULES``."""

from s2s.optim.adafactor.optimizer import Adafactor
from s2s.optim.schedules import SCHEDULES, Constant
from s2s.optim.settings import OPTIMIZERS, AdafactorSettings, AdamW

__all__ = ["OPTIMIZERS", "SCHEDULES", "Adafactor", "AdafactorSettings", "AdamW", "Constant"]
