"""Optimizers and learning-rate curves; a new one is a dataclass and a line in its table."""

from s2s.optim.adafactor.optimizer import Adafactor
from s2s.optim.adafactor.settings import AdafactorSettings
from s2s.optim.adamw import AdamW
from s2s.optim.schedules import SCHEDULES, Constant

__all__ = ["OPTIMIZERS", "SCHEDULES", "Adafactor", "AdafactorSettings", "AdamW", "Constant"]

OPTIMIZERS = {"adamw": AdamW, "adafactor": AdafactorSettings}
