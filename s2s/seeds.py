"""Randomness as a function of its place: a seed is a hash of where it is used, never of what was drawn before."""

from hashlib import sha256


def seed_of(*place: int | str) -> int:
    """A seed in [0, 2^63) for a place such as ``(seed, "dropout", step, process, micro_batch)``."""
    digest = sha256("\0".join(f"{type(part).__name__}:{part}" for part in place).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
