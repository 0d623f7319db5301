"""The writing of checkpoints: at once, or by a thread, since a GPU would wait for the disk over several updates."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from s2s.errors import UserError
from s2s.machine.memory import enough_memory
from s2s.runs import checkpoints
from s2s.runs.checkpoints import Checkpoint


class Saver:
    """Writes the checkpoints of a run, one at a time and in their order.

    With ``in_thread`` a copy in main memory is written while training continues. Whatever happens before the copy is
    whole on the disk, the checkpoints from before remain.
    """

    def __init__(self, folder: Path, in_thread: bool) -> None:
        self.folder = folder
        self.pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="saver") if in_thread else None
        self.writing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.pool is not None:
            self.pool.shutdown(wait=True)

    def save(self, checkpoint: Checkpoint, keep: int) -> None:
        """Write a checkpoint, or begin to. Errors: those of writing it or, in a thread, the one before it."""
        self.finish()
        if self.pool is None:
            checkpoints.save(self.folder, checkpoint, keep)
            return
        with enough_memory(lambda: "the copy of a checkpoint in main memory", "train a smaller model"):
            copy = on_host(checkpoint)
        self.writing = self.pool.submit(checkpoints.save, self.folder, copy, keep)

    def finish(self) -> None:
        """Wait until the last checkpoint is on the disk. Errors: those of writing it."""
        # Forgotten first: an error is raised once.
        writing, self.writing = self.writing, None
        if writing is not None:
            writing.result()

    @property
    def failure(self) -> str | None:
        """The reason why the last checkpoint could not be written, once that is known."""
        if self.writing is None or not self.writing.done():
            return None
        error = self.writing.exception()
        return str(error) if isinstance(error, UserError | OSError) else None


def on_host(checkpoint: Checkpoint) -> Checkpoint:
    """Return a copy of a checkpoint in main memory, which later updates do not change."""
    copy = Checkpoint(*map(_copied, checkpoint))
    if any(weight.device.type == "cuda" for weight in checkpoint.weights.values()):
        # The copies from a GPU were only queued: one wait for all of them.
        torch.cuda.synchronize()
    return copy


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True, non_blocking=True)
    if isinstance(value, dict):
        return {key: _copied(entry) for key, entry in value.items()}
    return [_copied(entry) for entry in value] if isinstance(value, list) else value
