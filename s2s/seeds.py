"""Randomness as a function of its place: a seed is a hash of where it is used, never of what was drawn before."""

from contextlib import AbstractContextManager
from hashlib import sha256

import torch


def seed_of(*place: int | str) -> int:
    """A seed in [0, 2^63) for a place such as ``(seed, "dropout", step, process, micro_batch)``."""
    digest = sha256("\0".join(f"{type(part).__name__}:{part}" for part in place).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_device(seed: int, device: torch.device | None = None) -> None:
    """Seed torch's generator of the CPU and that of one GPU; unlike ``torch.manual_seed``, those of no other one."""
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def forked_generators(device: torch.device) -> AbstractContextManager[None]:
    """Return a context after which torch's generators of the CPU and of one device stand where they stood."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
