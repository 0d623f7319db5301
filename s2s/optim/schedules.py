"""Learning-rate curves: a factor of the optimizer's rate as a function of the step alone, so that runs can resume."""

import math
from dataclasses import dataclass

from s2s.config.ranges import Count, CountOrZero, Share, settle


@dataclass
class Constant:
    """Rises from 0 over ``warmup`` steps, then stays at 1."""

    warmup: CountOrZero = 0  # steps in which the factor rises from 0 to 1

    def __post_init__(self) -> None:
        settle(self, "schedule.")

    def factor(self, step: int, steps: int) -> float:
        """Return the factor at a step, counted from 0, of a run of ``steps``."""
        if step < self.warmup:
            # Plus 1, as steps count from 0 and an update at a factor of 0 would be lost.
            return (step + 1) / self.warmup
        return self.after(step, steps)

    def after(self, step: int, steps: int) -> float:  # noqa: ARG002
        """Return the factor after the warm-up."""
        return 1.0

    def _progress(self, step: int, steps: int) -> float:
        """Return the share of the way from the end of the warm-up to the end of the run."""
        return min(1.0, (step - self.warmup) / max(1, steps - self.warmup))


@dataclass
class Falling(Constant):
    """A curve that ends at ``floor``."""

    floor: Share = 0.0  # the factor at the end of the run


@dataclass
class Linear(Falling):
    """Falls on a line from 1 to ``floor`` at the end of the run."""

    def after(self, step: int, steps: int) -> float:
        """Return 1 - (1 - floor) progress."""
        return 1 - (1 - self.floor) * self._progress(step, steps)


@dataclass
class Cosine(Falling):
    """Falls on half a cosine wave from 1 to ``floor`` at the end of the run (Loshchilov and Hutter 2017)."""

    def after(self, step: int, steps: int) -> float:
        """Return floor + (1 - floor) (1 + cos(pi progress)) / 2."""
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * self._progress(step, steps))) / 2


@dataclass
class InverseSquareRoot(Constant):
    """Falls as 1 / sqrt(step) from 1 at the end of the warm-up (Vaswani et al. 2017, section 5.3)."""

    def after(self, step: int, steps: int) -> float:  # noqa: ARG002
        """Return sqrt(warmup / (step + 1)); a warm-up of 0 counts as 1."""
        return math.sqrt(max(1, self.warmup) / (step + 1))


@dataclass
class RelativeStep(Constant):
    """Stays at 1 for ``flat`` steps, then falls as 1 / sqrt(step): AdaFactor's relative step (Shazeer and Stern 2018).

    Their min(1e-2, 1 / sqrt(t)) at step t = 1, 2, ... is a rate of 0.01 with ``flat`` 10000.
    """

    flat: Count = 10_000  # steps before it falls

    def after(self, step: int, steps: int) -> float:  # noqa: ARG002
        """Return min(1, sqrt(flat / (step + 1)))."""
        return min(1.0, math.sqrt(self.flat / (step + 1)))


SCHEDULES = {
    "constant": Constant,
    "linear": Linear,
    "cosine": Cosine,
    "inverse_square_root": InverseSquareRoot,
    "relative_step": RelativeStep,
}
