"""The oracle of a run's task: exact where the task is a synthetic one, else the mean of other runs."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from s2s.data.synthetic import Transduction
from s2s.diagnose.oracle import Oracle, model_oracle, task_oracle
from s2s.errors import UserError
from s2s.metrics.bootstrap import Numbers
from s2s.recipe.recipe import Recipe
from s2s.runs.run import Run
from s2s.runs.run import load as load_run


class Truth(NamedTuple):
    """An oracle, what it is in words, whether it is the true distribution, and what identifies it."""

    oracle: Oracle
    name: str
    exact: bool
    identity: str


def known(recipe: Recipe) -> bool:
    """Whether the true distribution of a recipe's data is known."""
    return recipe.data.source == "synthetic"


def truth_of(run: Run, folders: Sequence[Path]) -> Truth | None:
    """The oracle for a run: the runs of these folders if there are any, else the task itself, else None.

    Raises ``UserError`` where an oracle has another vocabulary than the run.
    """
    if folders:
        return _ensemble(run, folders)
    if known(run.recipe):
        return Truth(_checked(task_oracle(Transduction(), run.vocabulary)), "the task itself", True, "task")
    return None


def _ensemble(run: Run, folders: Sequence[Path]) -> Truth:
    runs = [load_run(folder) for folder in folders]
    words = [run.vocabulary.decode([token]) for token in range(run.vocabulary.size)]
    for folder, other in zip(folders, runs, strict=True):
        ids = range(other.vocabulary.size)
        if other.vocabulary.size != len(words) or [other.vocabulary.decode([token]) for token in ids] != words:
            raise UserError(f"oracle: {folder} has another vocabulary than {run.folder}")
    identity = ",".join(weights_hash(other) for other in runs)
    name = f"the mean of {', '.join(map(str, folders))}"
    return Truth(model_oracle([other.model for other in runs], run.vocabulary), name, False, identity)


def _checked(oracle: Oracle) -> Oracle:
    """The same oracle; what it cannot read is the user's error."""

    def log_probs(source: Sequence[int], target: Sequence[int]) -> Numbers:
        try:
            return oracle(source, target)
        except ValueError as error:
            raise UserError(f"data: an example is not of the run's task: {error}") from error

    return log_probs


def weights_hash(run: Run) -> str:
    """The SHA-256 of a run's architecture and weights."""
    digest = sha256(repr(run.model.shape).encode())
    for name, tensor in sorted(run.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().data)
    return digest.hexdigest()
