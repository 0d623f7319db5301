"""All that changes while a run trains; every bit of it goes into each checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import isnan

from torch.optim import Optimizer

from s2s.averaging import MovingAverage
from s2s.checkpoints import Best, Checkpoint
from s2s.errors import UserError
from s2s.objective import Objective
from s2s.precision import Precision
from s2s.settings import RunSettings


class State:
    """Where a run stands: its step, weights and their average, optimizer, loss scale and evaluations so far."""

    def __init__(
        self,
        run: RunSettings,
        objective: Objective,
        optimizer: Optimizer,
        precision: Precision,
        checkpoint: Checkpoint | None,
    ) -> None:
        saved = checkpoint or Checkpoint(0, {}, {}, None)
        self.run, self.objective, self.optimizer, self.precision = run, objective, optimizer, precision
        self.step, self.best, self.waited = saved.step, saved.best, saved.waited
        self.average = None if run.ema is None else MovingAverage(objective, run.ema, saved.ema)
        if saved.optimizer:
            optimizer.load_state_dict(saved.optimizer)
        if saved.scaler:
            precision.scaler.load_state_dict(saved.scaler)

    @property
    def stopped_early(self) -> bool:
        """Whether as many evaluations as the run's patience were no better than the best."""
        return self.run.patience is not None and self.waited >= self.run.patience

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.step >= self.run.steps or self.stopped_early

    def advance(self) -> None:
        """Count a step; its weights go into the average."""
        self.step += 1
        if self.average is not None:
            self.average.update(self.step)

    def judge(self, value: float) -> None:
        """Take note of an evaluation's score.

        Of equal scores the later step is the best one: it is trained further. For the patience it is no better.
        Errors: a UserError where the first score is no number, as none will be.
        """
        if self.best is None and isnan(value):
            raise UserError(
                f"run.select: the dev split gives no {self.run.select} (step {self.step}): there is nothing to take it "
                f"of; select another score, or give the dev split what it needs"
            )
        sign = -1 if self.run.select.rpartition(".")[2] == "loss" else 1
        is_better = self.best is None or sign * value > sign * self.best.value
        self.waited = 0 if is_better else self.waited + 1
        if self.best is None or is_better or value == self.best.value:
            self.best = Best(self.step, value)

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """Let the objective have the weights that are evaluated: the averaged ones, where there are any."""
        if self.average is None:
            yield
            return
        with self.average.in_place():
            yield

    def check(self) -> None:
        """Refuse to evaluate or save weights that are not finite."""
        for name, parameter in self.objective.named_parameters():
            if not parameter.isfinite().all():
                raise UserError(f"step {self.step}: '{name}' is not finite any more; the last checkpoint is whole")

    def checkpoint(self) -> Checkpoint:
        """What is saved."""
        return Checkpoint(
            self.step,
            self.objective.state_dict(),
            self.optimizer.state_dict(),
            self.best,
            ema=None if self.average is None else self.average.state(),
            scaler=self.precision.scaler.state_dict() or None,
            waited=self.waited,
        )
