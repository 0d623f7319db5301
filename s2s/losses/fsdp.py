"""Sharded parameters (FSDP2) in steps that pass through the model more than once."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributed.fsdp import FSDPModule
from torch.nn import Module


def is_sharded(module: Module) -> bool:
    """Return whether any part of the module has sharded parameters."""
    return any(isinstance(part, FSDPModule) for part in module.modules())


@contextmanager
def kept_gathered(module: Module) -> Iterator[None]:
    """Keep parameters gathered after a backward inside the step, since later passes of the step use them again."""
    sharded = [part for part in module.modules() if isinstance(part, FSDPModule)]
    # ``modules`` has the nested parts too, so nothing recurses.
    for part in sharded:
        part.set_reshard_after_backward(False, recurse=False)
    yield
    for part in sharded:
        # FSDP2's own default; torch has no public way to read the value that was set.
        part.set_reshard_after_backward(True, recurse=False)


@contextmanager
def gathered(module: Module) -> Iterator[None]:
    """Gather all parameters for code that bypasses the hooks of ``forward``, such as decoding.

    The module itself is skipped: its ``forward`` is running, so it is gathered already and must stay so.
    """
    sharded = [part for part in module.modules() if isinstance(part, FSDPModule) and part is not module]
    for part in sharded:
        part.unshard()
    yield
    for part in sharded:
        part.reshard()
