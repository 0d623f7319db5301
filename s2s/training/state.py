"""All that changes while a run trains; every bit of it is saved in each checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from math import isnan

from torch.optim import Optimizer

from s2s.errors import UserError, first_line
from s2s.files.folders import AGAIN
from s2s.machine.agreement import failing_together
from s2s.machine.precision import Precision
from s2s.metrics.table import better
from s2s.objective import Objective
from s2s.optim.saved_state import check_saved
from s2s.recipe.run_settings import RunSettings
from s2s.runs import shard_files
from s2s.runs.checkpoints import TRAINER, Best, Checkpoint
from s2s.training import sharding
from s2s.training.ema import MovingAverage


class State:
    """The step that a run has reached, its weights and their average, optimizer, loss scale and best evaluation."""

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
        self.average = None if run.ema is None else MovingAverage(objective, run.ema)
        if self.average is not None and saved.ema is not None:
            if saved.parts is None:
                sharding.fill(self.average.tensors, saved.ema)
            else:
                names = {shard_files.AVERAGE + name: target for name, target in self.average.tensors.items()}
                shard_files.read(saved.parts, names)
        with failing_together(), _checked(saved):
            # The main process alone has read it; it would be no use to send a damaged one.
            if saved.optimizer and saved.parts is None:
                check_saved(optimizer, saved.optimizer)
        state = sharding.sent(optimizer, saved.optimizer)
        with failing_together(), _checked(saved):
            if state and saved.parts is not None:
                state = sharding.read_state(optimizer, saved.parts, state)
                check_saved(optimizer, state)
            if state:
                optimizer.load_state_dict(state)
        if saved.scaler:
            try:
                precision.scaler.load_state_dict(saved.scaler)
            except (KeyError, RuntimeError, TypeError) as error:
                raise _damaged(saved, f"no state of a loss scale: {first_line(error)}") from error

    @property
    def stopped_early(self) -> bool:
        """Whether the last ``run.patience`` evaluations were no better than the best."""
        return self.run.patience is not None and self.waited >= self.run.patience

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.step >= self.run.steps or self.stopped_early

    def advance(self) -> None:
        """Count a step, and mix its weights into the average."""
        self.step += 1
        if self.average is not None:
            self.average.update(self.step)

    def judge(self, value: float) -> None:
        """Record an evaluation's score.

        Of equal scores the later step counts as the best, as it is trained longer; patience counts it as no better.
        Errors: a UserError where the first score is no number, since no later one will be.
        """
        if self.best is None and isnan(value):
            raise UserError(
                f"run.select: the dev split gives no {self.run.select} (step {self.step}): there is nothing to take it "
                f"of; select another score, or give the dev split what it needs"
            )
        sign = 1 if better(self.run.select) == "higher" else -1
        is_better = self.best is None or sign * value > sign * self.best.value
        self.waited = 0 if is_better else self.waited + 1
        if self.best is None or is_better or value == self.best.value:
            self.best = Best(self.step, value)

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """Give the objective, inside the context, the weights to evaluate: the averaged ones, if there are any."""
        with nullcontext() if self.average is None else self.average.in_place():
            yield

    def check(self) -> None:
        """Refuse to evaluate or save weights that are not finite."""
        names, parameters = zip(*self.objective.named_parameters(), strict=True)
        for name, finite in zip(names, sharding.all_finite(parameters).tolist(), strict=True):
            if not finite:
                raise UserError(f"step {self.step}: '{name}' is not finite any more; the last checkpoint is whole")

    def checkpoint(self, keep: bool = True) -> Checkpoint:
        """Return the state as it is saved whole; all processes have to call it.

        Without ``keep``, tensors that were divided among them are None.
        """
        parts = self.parts()
        return parts._replace(
            weights=sharding.whole(parts.weights, keep),
            optimizer=sharding.whole(parts.optimizer, keep),
            ema=sharding.whole(parts.ema, keep),
        )

    def parts(self) -> Checkpoint:
        """Return the state as it is, with this process's parts of tensors that are divided."""
        return Checkpoint(
            self.step,
            self.objective.state_dict(),
            self.optimizer.state_dict(),
            self.best,
            ema=None if self.average is None else self.average.state(),
            scaler=self.precision.scaler.state_dict() or None,
            waited=self.waited,
        )


@contextmanager
def _checked(saved: Checkpoint) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise _damaged(saved, first_line(error)) from error


def _damaged(saved: Checkpoint, reason: str) -> UserError:
    path = TRAINER if saved.file is None else saved.file.with_name(TRAINER)
    return UserError(f"{path}: damaged, or of another recipe ({reason}); {AGAIN}")
